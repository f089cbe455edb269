"""A page on one recording of several cameras: what was said when, which camera was believed, where each looked."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from affuse.predict_cameras import ShownWindow
from affuse.report_cameras import ATTENTION, attention_heat, attention_over_frames, visible
from affuse.report_plots import CARD, INK, LINE, QUIET, SERIES, canvas, pictures, strip, svg
from affuse.types import System

WINDOWS = 400  # of a plot over time, at most
SHORTEST_NAMED = 0.06  # part of the recording that a segment must last to be named in the plot


def write_page(
    path: Path,
    system: System,
    answer: Mapping[str, Any],
    shown: Sequence[ShownWindow],
    files: Mapping[str, str | Path],
    command: str = "",
) -> Path:
    """Write one HTML file, without scripts, that fetches nothing.

    Args:
        path: the file to write.
        system: that answered; read are its cameras and classes.
        answer, shown: as of `affuse.predict_cameras.answer_windows`.
        files: by camera.
        command: how to do it again.
    """
    windows = answer["windows"]
    cameras, classes = system.modalities, system.task.classes
    label = answer.get("label", answer.get("value"))
    number = f"{label:.3g}" if isinstance(label, float) else str(label or "no answer")
    headline = [{"name": "Over the whole recording", "value": number, "note": _times(windows)}]
    for name, weight in ((answer.get("weights") or {}).get("modality") or {}).items():
        lost = _lost(windows, name)
        headline.append({"name": f"Weight of {name}", "value": f"{100 * weight:.0f} %", "note": lost})
    maps = [(f"{window.record['start_us'] / 1e6:.1f} s", window.attention) for window in shown]
    figures = [
        ("Answers over time", _ANSWERS, answers_over_time(answer, cameras, classes)),
        ("Weight of each camera over time", "Mean gate of the windows, each at its middle.", gate_over_time(answer)),
        (ATTENTION, _ATTENTION, attention_over_frames(maps, cameras)),
    ]
    page = {
        "title": f"What {type(system).__name__} says of a recording",
        "subtitle": " · ".join(f"{name}: {file}" for name, file in files.items()),
        "synthetic": False,
        "selected_on_test": False,  # nothing is measured
        "headline": headline,
        "figures": [{"title": t, "note": note, "svg": drawn, "wide": True} for t, note, drawn in figures if drawn],
        "examples": _examples(shown, cameras),
        "tables": [_alone(window) for window in shown],
        "command": command,
        "measures": None,
        "energy": None,
        "recipe": "",
    }
    report = resources.files("affuse").joinpath("report.html.jinja").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        loader=jinja2.DictLoader({"report": report, "recording": _TEMPLATE}),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    temporary = path.with_name(path.name + ".tmp")
    try:
        temporary.write_text(environment.get_template("recording").render(page), encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


_ANSWERS = (
    "Above: the segments. Below: what the windows say, together and each camera alone; the fainter, the less probable. "
    "White: no answer."
)
_ATTENTION = "Share of each frame in the attention of the class token, in percent; darker is more. A window a row."
_TEMPLATE = """{% extends "report" %}
{% block nothing %}Nothing was answered, so there is nothing to draw.{% endblock %}
{% block looked %}
Frames of some windows, evenly spaced over the recording; below them the attention of the class token over the tokens of each
camera: the warmer, the more it read there. It says where the camera's expert looked, not that this decided.
{% endblock %}
{% block reading %}
      <dt>Weight of a camera</dt><dd>How much the system believed it, window by window. It is part of each answer, not an
        explanation made up afterwards.</dd>
      <dt>A camera alone</dt><dd>What its own expert answers. It was trained beside the others.</dd>
      <dt>Segments</dt><dd>Overlapping windows are averaged moment by moment; neighbouring moments of one class are one
        segment. Where no window holds a frame there is no answer.</dd>
{% endblock %}
"""


def answers_over_time(answer: Mapping[str, Any], cameras: Sequence[str], classes: Sequence[str]) -> Markup | None:
    """The segments, and below them a row of the windows' labels, together and of each camera alone; None of a regression."""
    windows = answer["windows"]
    if not classes or not windows or answer.get("segments") is None:
        return None
    rows: list[tuple[str, list[tuple[float, float, str | None, float]]]] = []
    spans = [(part["start_us"] / 1e6, part["stop_us"] / 1e6, part["label"], 0.75) for part in answer["segments"]]
    rows.append(("segments", spans))
    alone = [name for name in cameras if any(name in window.get("unimodal", {}) for window in windows)]
    for name in ("windows", *alone):
        spans = []
        for window, (start, stop) in zip(windows, _middles(windows), strict=True):
            said = window if name == "windows" else window.get("unimodal", {}).get(name) or {}
            label = said.get("label")
            spans.append((start, stop, label, 0.15 + 0.7 * said["probabilities"][label] if label else 0.0))
        rows.append((name if name == "windows" else f"{name} alone", _joined(spans)))
    figure, (axis,) = canvas(0.8 + 0.42 * len(rows), width=10.0)
    begin, end = windows[0]["start_us"] / 1e6, windows[-1]["stop_us"] / 1e6
    used = list(dict.fromkeys(label for _, spans in rows for _, _, label, _ in spans if label))
    for row, (_, spans) in enumerate(rows):
        for start, stop, label, strength in spans:
            if label is None:
                continue
            colour = SERIES[used.index(label) % len(SERIES)]
            axis.add_patch(
                Rectangle((start, row - 0.4), stop - start, 0.8, facecolor=colour, alpha=strength, edgecolor=CARD)
            )
            if stop - start >= SHORTEST_NAMED * (end - begin):
                room = max(3, int(95 * (stop - start) / (end - begin)))
                text = label if len(label) <= room else label[: room - 1] + "…"
                axis.text(
                    (start + stop) / 2, row, text, ha="center", va="center", fontsize=8, color=INK, parse_math=False
                )
    _time_axis(axis, begin, end)
    axis.set_ylim(len(rows) - 0.5, -0.5)
    axis.set_yticks(range(len(rows)), [name for name, _ in rows], parse_math=False)
    axis.tick_params(axis="y", labelcolor=INK)
    return svg(figure, "Answers over time")


def gate_over_time(answer: Mapping[str, Any]) -> Markup | None:
    """The modality weights of the windows, stacked; gaps where nothing was answered. None without weights."""
    windows = answer["windows"]
    rows = [(window.get("weights") or {}).get("modality") for window in windows]
    names = next((list(row) for row in rows if row), [])
    if len(names) < 2:
        return None
    figure, (axis,) = canvas(2.2, width=10.0)
    shares = np.array([[row[name] for name in names] if row else [0.0] * len(names) for row in rows])  # n m
    spans = np.array(_middles(windows))  # n 2
    if len(windows) > WINDOWS:  # as many bars as can be told apart
        chosen = np.linspace(0, len(windows) - 1, WINDOWS).round().astype(int)
        shares, spans = shares[chosen], spans[chosen]
        spans[:-1, 1] = spans[1:, 0]
    low = np.zeros(len(shares))
    for number, name in enumerate(names):
        colour = SERIES[number % len(SERIES)]
        width = spans[:, 1] - spans[:, 0]
        axis.bar(spans[:, 0], shares[:, number], width, low, align="edge", color=colour, alpha=0.75, linewidth=0)
        low = low + shares[:, number]
        where: dict[str, Any] = {"transform": axis.transAxes, "va": "bottom"}
        axis.text(0.14 * number, 1.02, "■", color=colour, fontsize=10, **where)
        axis.text(0.14 * number + 0.02, 1.02, name, color=INK, fontsize=9, parse_math=False, **where)
    axis.set_ylim(0, 1)
    axis.set_yticks([0, 0.5, 1], ["0", "50", "100"])
    axis.set_ylabel("%", color=QUIET, fontsize=9)
    _time_axis(axis, windows[0]["start_us"] / 1e6, windows[-1]["stop_us"] / 1e6)
    return svg(figure, "Modality weights over time")


def _examples(shown: Sequence[ShownWindow], cameras: Sequence[str]) -> list[dict[str, Any]]:
    examples = []
    for window in shown:
        strips = []
        for name in cameras:
            if name not in window.sample.inputs:
                continue
            everyone = [visible(other.sample.inputs[name].numpy()) for other in shown if name in other.sample.inputs]
            images = visible(window.sample.inputs[name].numpy())
            heat = None
            if name in window.attention:
                heat = attention_heat(window.attention[name], len(images), *images.shape[-2:])
            weight = ((window.record.get("weights") or {}).get("modality") or {}).get(name)
            png = strip(pictures(images, everyone, signed=False), None if heat is None else heat.numpy())
            percent = "" if weight is None else f"{100 * weight:.0f} %"
            strips.append({"name": name, "weight": percent, "png": png, "map": "attention" if heat is not None else ""})
        if strips:
            name = f"{window.record['start_us'] / 1e6:.1f} to {window.record['stop_us'] / 1e6:.1f} s"
            answer = _said(window.record)
            examples.append({"name": name, "answer": answer, "truth": None, "tone": "right", "strips": strips})
    return examples


def _alone(window: ShownWindow) -> dict[str, Any]:
    """What was said in a window, together and by each camera alone, as a table."""
    record = window.record
    rows = [("Together", _said(record) or "no answer")]
    rows += [(f"{name} alone", _said(part) or "no answer") for name, part in (record.get("unimodal") or {}).items()]
    frames = ", ".join(f"{name} {count}" for name, count in record["frames"].items()) or "none"
    title = f"{record['start_us'] / 1e6:.1f} to {record['stop_us'] / 1e6:.1f} s"
    return {"title": title, "rows": [*rows, ("Frames", frames)], "wide": False}


def _said(record: Mapping[str, Any]) -> str | None:
    if record.get("value") is not None:
        return f"{record['value']:.3g} {record.get('units') or ''}".strip()
    if record.get("label") is None:
        return None
    return f"{record['label']} ({100 * record['probabilities'][record['label']]:.0f} %)"


def _times(windows: Sequence[Mapping[str, Any]]) -> str:
    if not windows:
        return "no windows"
    return f"{len(windows)} windows, {(windows[-1]['stop_us'] - windows[0]['start_us']) / 1e6:.1f} s"


def _lost(windows: Sequence[Mapping[str, Any]], name: str) -> str:
    there = sum(name in window["frames"] for window in windows)
    return f"has frames in {there} of {len(windows)} windows"


def _middles(windows: Sequence[Mapping[str, Any]]) -> list[tuple[float, float]]:
    """The stretch that each window stands for: halfway to its neighbours' middles, seconds."""
    middles = [(window["start_us"] + window["stop_us"]) / 2e6 for window in windows]
    edges = [(one + other) / 2 for one, other in pairwise(middles)]
    edges = [windows[0]["start_us"] / 1e6, *edges, windows[-1]["stop_us"] / 1e6]
    return list(pairwise(edges))


def _joined(spans: list[tuple[float, float, str | None, float]]) -> list[tuple[float, float, str | None, float]]:
    """Neighbours of one label as one span, of their mean strength, so that a long recording stays a small drawing."""
    found: list[tuple[float, float, str | None, float]] = []
    for start, stop, label, strength in spans:
        if found and found[-1][2] == label:
            begin, end, _, before = found[-1]
            mean = (before * (end - begin) + strength * (stop - start)) / (stop - begin)
            found[-1] = (begin, stop, label, mean)
        else:
            found.append((start, stop, label, strength))
    return found


def _time_axis(axis: Axes, begin: float, end: float) -> None:
    axis.set_xlim(begin, end)
    axis.set_xlabel("seconds", color=QUIET, fontsize=9)
    axis.grid(axis="x", color=LINE, linewidth=0.8)
