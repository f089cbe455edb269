"""The report of a run: one HTML file that needs nothing else, and a table for the terminal."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib import image
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from rich.table import Table
from rich.text import Text
from safetensors import SafetensorError, safe_open

from affuse.types import AffuseError

# Colours that the page replaces by its own, so that plots follow a dark page: matplotlib only sees the left side.
THEME = {
    "#010101": "var(--ink)",
    "#020202": "var(--quiet)",
    "#030303": "var(--line)",
    "#040404": "var(--blue)",
    "#050505": "var(--orange)",
    "#060606": "var(--green)",
    "#070707": "var(--violet)",
    "#080808": "var(--card)",
}
INK, QUIET, LINE, BLUE, ORANGE, GREEN, VIOLET, CARD = THEME
SERIES = (BLUE, ORANGE, GREEN, VIOLET)
FRAMES = 6  # of an example, at most


def write_report(run: Path) -> Path:
    """Write ``report.html`` into a run folder from what the folder holds; what is missing is left out.

    Args:
        run: the folder; it may hold ``run.json``, ``recipe.yaml``, ``metrics.json``, ``history.jsonl`` and
            ``examples.safetensors``.

    Returns:
        The path of the report: one file, without scripts, that fetches nothing.

    Raises:
        AffuseError: there is no such folder, or one of these files is broken.
    """
    if not run.is_dir():
        raise AffuseError(f"{run}: no such run folder; affuse fit writes one")
    info, metrics = _read_json(run / "run.json"), _read_json(run / "metrics.json")
    history = _read_history(run / "history.jsonl")
    facts = info.get("facts") or {}
    recipe = run / "recipe.yaml"
    classes = list((info.get("task") or {}).get("classes") or metrics.get("per_class") or [])
    page = {
        "title": f"{info.get('system', 'A run')} on {facts['name']}"
        if "name" in facts
        else str(info.get("system", run.name)),
        "subtitle": _subtitle(run, info, metrics),
        "synthetic": bool(info.get("synthetic") or metrics.get("synthetic")),
        "headline": _headline(metrics),
        "figures": _figures(metrics, history, classes),
        "examples": _examples(run / "examples.safetensors", classes),
        "tables": _tables(info, metrics),
        "command": str(
            info.get("command") or f"affuse fit {shlex.quote(str(recipe))}\naffuse evaluate {shlex.quote(str(run))}"
        ),
        "recipe": recipe.read_text(errors="replace") if recipe.is_file() else "",
        "clusters": "subjects" if metrics.get("clustered_by") == "subject" else "recordings",
        "crops": metrics.get("crops") or 1,
    }
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = resources.files("affuse").joinpath("report.html.jinja").read_text(encoding="utf-8")
    out = run / "report.html"
    temporary = run / "report.html.tmp"
    temporary.write_text(environment.from_string(template).render(page), encoding="utf-8")
    os.replace(temporary, out)
    return out


def report_table(metrics: dict[str, Any]) -> Table:
    """WAR and UAR with their 95 % intervals, overall and for each light, for the terminal."""
    title = "Test" + (" (synthetic world)" if metrics.get("synthetic") else "")
    table = Table(title=title, title_justify="left", caption=_caption(metrics), caption_justify="left")
    for column, justify in (
        ("", "left"),
        ("samples", "right"),
        ("WAR %", "right"),
        ("95 %", "left"),
        ("UAR %", "right"),
        ("95 %", "left"),
    ):
        table.add_column(column, justify=justify)  # type: ignore[arg-type]
    rows = [("all", metrics.get("samples"), metrics.get("war"), metrics.get("uar"))]
    lights = metrics.get("per_condition") or {}
    rows += [(name, entry.get("samples"), entry, entry.get("uar")) for name, entry in lights.items()]
    for number, (name, samples, war, uar) in enumerate(rows):
        cells = [_percent(war), _interval(war), _percent(uar), _interval(uar)]
        # Text, not markup: a class or a light may be called "[red]".
        table.add_row(Text(name), "" if samples is None else str(samples), *cells, end_section=number == 0)
    return table


def _caption(metrics: Mapping[str, Any]) -> str:
    parts = []
    if metrics.get("subjects"):
        parts.append(f"{metrics['subjects']} subjects")
    if (metrics.get("crops") or 1) > 1:
        parts.append(f"mean over {metrics['crops']} crops")
    if metrics.get("unanswered"):
        parts.append(f"{metrics['unanswered']} not answered")
    correlation = metrics.get("event_weight_vs_rgb_lost")
    if correlation is not None:
        parts.append(f"event weight against RGB signal lost: rank correlation {correlation:+.2f}")
    return "; ".join(parts)


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise AffuseError(
            f"{path}: broken JSON ({error}); write it again with affuse evaluate, or train again"
        ) from None
    if not isinstance(value, dict):
        raise AffuseError(f"{path}: must hold a JSON object; write it again with affuse evaluate, or train again")
    return value


def _read_history(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    try:
        return [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise AffuseError(f"{path}: broken JSON line ({error}); train again, or delete the file") from None


def _subtitle(run: Path, info: Mapping[str, Any], metrics: Mapping[str, Any]) -> str:
    parts = [f"run {run.resolve().name}"]
    if info.get("modalities"):
        parts.append(" + ".join(info["modalities"]))
    if metrics.get("samples"):
        subjects = f" of {metrics['subjects']} subjects" if metrics.get("subjects") else ""
        parts.append(f"{metrics['samples']} test samples{subjects}")
    if "seed" in info:
        parts.append(f"seed {info['seed']}")
    if info.get("status", "complete") != "complete":
        parts.append(f"status: {info['status']}")
    return " · ".join(str(part) for part in parts)


def _headline(metrics: Mapping[str, Any]) -> list[dict[str, str]]:
    cards = []
    for key, name in (("war", "WAR (accuracy)"), ("uar", "UAR (mean recall of the classes)")):
        if metrics.get(key):
            cards.append({"name": name, "value": _percent(metrics[key], " %"), "note": _note(metrics[key])})
    ece = (metrics.get("calibration") or {}).get("ece")
    if ece is not None:
        note = f"{metrics.get('unanswered', 0)} samples not answered"
        cards.append({"name": "Calibration error (ECE)", "value": f"{100 * ece:.1f} %", "note": note})
    correlation = metrics.get("event_weight_vs_rgb_lost")
    if correlation is not None:
        note = "+1: the more RGB loses, the more the events count"
        cards.append({"name": "Event weight against RGB signal lost", "value": f"{correlation:+.2f}", "note": note})
    return cards


def _percent(entry: Mapping[str, Any] | None, unit: str = "") -> str:
    value = (entry or {}).get("value")
    return "unknown" if value is None else f"{100 * value:.1f}{unit}"


def _interval(entry: Mapping[str, Any] | None) -> str:
    entry = entry or {}
    if entry.get("low") is None or entry.get("high") is None:
        return ""
    return f"{100 * entry['low']:.1f} to {100 * entry['high']:.1f}"


def _note(entry: Mapping[str, Any]) -> str:
    return (
        f"95 % interval {_interval(entry)}" if _interval(entry) else "interval unknown: too few subjects or recordings"
    )


def _tables(info: Mapping[str, Any], metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    facts = [(_title(name), _say(value)) for name, value in (info.get("facts") or {}).items()]
    counts = [
        (name, _say(metrics[key]))
        for key, name in (
            ("samples", "Test samples"),
            ("subjects", "Test subjects"),
            ("crops", "Crops a sample"),
            ("unanswered", "Not answered"),
        )
        if key in metrics
    ]
    environment = dict(info.get("environment") or {})
    packages = environment.pop("packages", None)
    run = [
        (_title(name), _say(info[name]))
        for name in ("status", "seed", "selected_on", "parameters", "seconds")
        if name in info
    ]
    run += [(_title(name), _say(value)) for name, value in environment.items()]
    run += [("Packages", _say(packages))] if packages else []
    run += [("Form of " + str(name), _say(value)) for name, value in (info.get("forms") or {}).items()]
    tables = [
        {"title": "The data", "rows": facts + counts, "wide": False},
        {"title": "The run", "rows": run, "wide": False},
    ]
    filled = [table for table in tables if table["rows"]]
    return [table | {"wide": len(filled) == 1} for table in filled]


def _title(name: object) -> str:
    text = str(name).replace("_", " ")
    return text[:1].upper() + text[1:]


def _say(value: object) -> str:
    """A JSON value as a person would write it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "unknown"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 100 else f"{value:,.0f}"
    if isinstance(value, int):
        return f"{value:,}" if abs(value) > 9999 else str(value)
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {_say(part)}" for name, part in value.items()) or "none"
    if isinstance(value, Sequence) and not isinstance(value, str):
        shown = ", ".join(_say(part) for part in value[:12])
        return (shown + (f" and {len(value) - 12} more" if len(value) > 12 else "")) or "none"
    return str(value)


# Figures. Every text goes in with parse_math=False: a class may be called "$".


def _figures(metrics: Mapping[str, Any], history: list[dict[str, Any]], classes: list[str]) -> list[dict[str, Any]]:
    counts = "Line: 95 % interval. Grey number: test samples."
    drawn = [
        ("Recall of each class", counts, _bars(metrics.get("per_class"), "support")),
        ("Accuracy (WAR) in each light", counts, _bars(metrics.get("per_condition"), "samples")),
        (
            "Confusion",
            "Row: true class, in percent of its samples. Column: the answer.",
            _confusion(metrics.get("confusion"), classes),
        ),
        (
            "Reliability",
            "How often answers of each confidence were right; on the dashed line, confidence can be taken at its word.",
            _reliability(metrics.get("calibration")),
        ),
        ("Which sensor it believed", "Mean modality weight in each light.", _modality_weight(metrics)),
        (
            "Which experts worked",
            "Bar: mean weight. Ring: share of samples that chose the expert. Percent.",
            _expert_load(metrics.get("expert_load")),
        ),
        (
            "Training",
            "Left: loss, on training and validation data. Right: recalls on validation data, percent.",
            _history(history),
        ),
    ]
    figures = [{"title": title, "note": note, "svg": svg, "wide": False} for title, note, svg in drawn if svg]
    for figure in figures:
        figure["wide"] = figure["title"] == "Training"
    narrow = [figure for figure in figures if not figure["wide"]]
    if len(narrow) % 2:
        narrow[-1]["wide"] = True
    return figures


def _canvas(height: float, panels: int = 1, width: float = 5.0) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.patch.set_alpha(0)
    axes = [figure.add_subplot(1, panels, number + 1) for number in range(panels)]
    for axis in axes:
        axis.patch.set_alpha(0)
        axis.spines[:].set_visible(False)
        axis.tick_params(length=0, colors=QUIET, labelsize=9)
        axis.set_axisbelow(True)
    return figure, axes


def _svg(figure: Figure, label: str) -> Markup:
    """The figure as SVG to stand in the page: text stays text, colours follow the page."""
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": label}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    # Ids of groups repeat from figure to figure, and nothing refers to them.
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    for placeholder, colour in THEME.items():
        text = text.replace(placeholder, colour)
    return Markup(text.replace("<svg ", f'<svg role="img" aria-label="{Markup.escape(label)}" ', 1))


def _names(axis: Axes, names: Sequence[str], horizontal: bool = True) -> None:
    places = list(range(len(names)))
    texts = [name if len(name) < 19 else name[:17] + "…" for name in names]
    if horizontal:
        axis.set_yticks(places, texts, parse_math=False)
        axis.tick_params(axis="y", labelcolor=INK)
        axis.set_ylim(len(names) - 0.4, -0.6)
    else:
        axis.set_xticks(
            places,
            texts,
            parse_math=False,
            rotation=40 if max(map(len, texts)) > 5 else 0,
            ha="right" if max(map(len, texts)) > 5 else "center",
        )
        axis.tick_params(axis="x", labelcolor=INK)


def _percent_axis(axis: Axes, which: str = "x") -> None:
    """An axis from 0 to 1, written in percent, with quiet lines."""
    ticks = [0, 0.25, 0.5, 0.75, 1]
    if which == "x":
        axis.set_xlim(0, 1.0)
        axis.set_xticks(ticks, [f"{100 * t:.0f}" for t in ticks])
    else:
        axis.set_ylim(0, 1.0)
        axis.set_yticks(ticks, [f"{100 * t:.0f}" for t in ticks])
    axis.grid(axis=which, color=LINE, linewidth=0.8)  # type: ignore[arg-type]


def _bars(entries: Mapping[str, Any] | None, count: str) -> Markup | None:
    entries = {name: entry for name, entry in (entries or {}).items() if entry.get("value") is not None}
    if not entries:
        return None
    figure, (axis,) = _canvas(0.6 + 0.36 * max(len(entries), 3))
    values = [entry["value"] for entry in entries.values()]
    axis.barh(range(len(values)), values, height=0.56, color=BLUE, alpha=0.75)
    for row, entry in enumerate(entries.values()):
        if entry.get("low") is not None:
            axis.plot([entry["low"], entry["high"]], [row, row], color=INK, linewidth=1.4, solid_capstyle="butt")
        text = f"{100 * entry['value']:.0f} %"
        axis.text(
            1.03, row, text, va="center", fontsize=9, color=INK, transform=axis.get_yaxis_transform(), parse_math=False
        )
        where: dict[str, Any] = {"va": "center", "fontsize": 8, "color": QUIET, "transform": axis.get_yaxis_transform()}
        axis.text(1.2, row, str(entry.get(count, "")), **where)
    _names(axis, list(entries))
    _percent_axis(axis)
    return _svg(figure, f"Bars with intervals of {', '.join(entries)}")


def _confusion(counts: list[list[int]] | None, classes: list[str]) -> Markup | None:
    table = np.array(counts or [], dtype=np.float64)
    if not table.size or len(classes) != len(table):
        return None
    columns = list(classes)
    if table[:, -1].any():
        columns.append("no answer")
    else:
        table = table[:, :-1]
    share = table / np.maximum(table.sum(1, keepdims=True), 1)
    figure, (axis,) = _canvas(min(0.9 + 0.42 * len(classes), 7))
    for row, column in np.ndindex(*share.shape):
        value = share[row, column]
        square = {"facecolor": BLUE if row == column else ORANGE, "alpha": 0.06 + 0.84 * value, "edgecolor": "none"}
        axis.add_patch(Rectangle((column - 0.47, row - 0.45), 0.94, 0.9, **square))
        if value > 0 and len(classes) <= 16:
            axis.text(column, row, f"{100 * value:.0f}", ha="center", va="center", fontsize=9, color=INK)
    axis.set_xlim(-0.5, len(columns) - 0.5)
    _names(axis, classes)
    _names(axis, columns, horizontal=False)
    axis.set_ylim(len(classes) - 0.5, -0.5)
    return _svg(figure, "Confusion matrix")


def _reliability(calibration: Mapping[str, Any] | None) -> Markup | None:
    bins = (calibration or {}).get("bins") or {}
    if not any(bins.get("count") or []):
        return None
    figure, (axis,) = _canvas(3.3)
    total = sum(bins["count"])
    for low, high, accuracy, count in zip(bins["lower"], bins["upper"], bins["accuracy"], bins["count"], strict=True):
        if count:
            # Faint bars stand on few samples.
            axis.bar(
                (low + high) / 2, accuracy, 0.92 * (high - low), color=BLUE, alpha=0.25 + 0.6 * (count / total) ** 0.5
            )
            axis.text((low + high) / 2, accuracy + 0.02, str(count), ha="center", fontsize=8, color=QUIET)
    axis.plot([0, 1], [0, 1], color=QUIET, linewidth=1, linestyle=(0, (4, 3)))
    axis.set_xlim(0, 1)
    _percent_axis(axis, "y")
    _percent_axis(axis)
    axis.set_ylim(0, 1.08)
    axis.grid(visible=False, axis="x")
    axis.set_xlabel("confidence, %", color=QUIET, fontsize=9)
    axis.set_ylabel("right, %", color=QUIET, fontsize=9)
    return _svg(figure, "Reliability diagram")


def _modality_weight(metrics: Mapping[str, Any]) -> Markup | None:
    lights = {name: part for name, part in (metrics.get("modality_weight_by_condition") or {}).items() if part}
    if metrics.get("modality_weight"):
        lights = {**lights, "all": metrics["modality_weight"]} if len(lights) != 1 else lights
    modalities = list(dict.fromkeys(name for part in lights.values() for name in part))
    if len(modalities) < 2:
        return None
    figure, (axis,) = _canvas(0.95 + 0.36 * max(len(lights), 3))
    left = np.zeros(len(lights))
    for number, name in enumerate(modalities):
        values = np.array([part.get(name, 0.0) for part in lights.values()])
        colour = SERIES[number % len(SERIES)]
        axis.barh(range(len(lights)), values, left=left, height=0.56, color=colour, alpha=0.75, edgecolor=CARD)
        axis.text(0.24 * number, 1.02, "■", transform=axis.transAxes, color=colour, fontsize=10, va="bottom")
        axis.text(
            0.24 * number + 0.04,
            1.02,
            name,
            transform=axis.transAxes,
            color=INK,
            fontsize=9,
            va="bottom",
            parse_math=False,
        )
        for row, (start, value) in enumerate(zip(left, values, strict=True)):
            if value > 0.08:
                axis.text(
                    start + value / 2, row, f"{100 * value:.0f} %", ha="center", va="center", fontsize=9, color=INK
                )
        left = left + values
    _names(axis, list(lights))
    _percent_axis(axis)
    return _svg(figure, "Mean modality weight by light")


def _expert_load(load: Mapping[str, Any] | None) -> Markup | None:
    if not load or not load.get("mean_weight"):
        return None
    count = len(load["mean_weight"])
    figure, (axis,) = _canvas(0.6 + 0.36 * max(count, 3))
    axis.barh(range(count), load["mean_weight"], height=0.56, color=VIOLET, alpha=0.75)
    axis.scatter(
        load["chosen"], range(count), s=34, facecolors="none", edgecolors=INK, linewidths=1.3, clip_on=False, zorder=3
    )
    _names(axis, [f"expert {number + 1}" for number in range(count)])
    _percent_axis(axis)
    return _svg(figure, "Expert load")


def _history(history: list[dict[str, Any]]) -> Markup | None:
    panels = (("train/total", "validation/total"), ("validation/war", "validation/uar"))
    if not any(key in row for row in history for keys in panels for key in keys):
        return None
    figure, axes = _canvas(2.6, panels=2, width=10.0)
    for axis, keys in zip(axes, panels, strict=True):
        ends = []
        for number, key in enumerate(keys):
            points = [(row.get("epoch", i) + 1, row[key]) for i, row in enumerate(history) if row.get(key) is not None]
            if points:
                x, y = zip(*points, strict=True)
                axis.plot(x, y, color=SERIES[number], linewidth=1.8, marker="o" if len(x) < 3 else None, markersize=4)
                ends.append(
                    (
                        SERIES[number],
                        key.replace("/total", "").replace("validation/war", "WAR").replace("validation/uar", "UAR"),
                    )
                )
        for number, (colour, name) in enumerate(ends):
            axis.text(0.2 * number, 1.02, "■", transform=axis.transAxes, color=colour, fontsize=10, va="bottom")
            axis.text(0.2 * number + 0.03, 1.02, name, transform=axis.transAxes, color=INK, fontsize=9, va="bottom")
        if keys[0] == "validation/war":
            _percent_axis(axis, "y")
        else:
            axis.grid(axis="y", color=LINE, linewidth=0.8)
            axis.set_ylim(bottom=0)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.set_xlabel("epoch", color=QUIET, fontsize=9)
    return _svg(figure, "Training curves")


# Examples.


def _examples(path: Path, classes: list[str]) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    try:
        with safe_open(path, "np") as file:
            examples = json.loads((file.metadata() or {}).get("examples", "[]"))
            tensors = {name: file.get_tensor(name).astype(np.float32) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError, json.JSONDecodeError) as error:
        raise AffuseError(f"{path}: cannot be read ({error}); write it again with affuse evaluate") from None
    modalities = list(dict.fromkeys(name.split("/")[1] for name in sorted(tensors, reverse=True)))
    shown = []
    for number, example in enumerate(examples):
        strips = []
        for modality in modalities:
            images = tensors.get(f"{number}/{modality}/input")
            if images is None:
                continue
            everyone = [tensor for name, tensor in tensors.items() if name.split("/")[1:] == [modality, "input"]]
            heat = tensors.get(f"{number}/{modality}/heat")
            weight = (example.get("weights") or {}).get(modality)
            strips.append(
                {
                    "name": "Events" if "event" in modality else modality.upper() if len(modality) < 4 else modality,
                    "weight": "" if weight is None else f"{100 * weight:.0f} %",
                    "png": _strip(pictures(images, everyone, signed="event" in modality), heat),
                    "heat": heat is not None,
                }
            )
        if strips:
            parts = [part for part in (example.get("condition"), example.get("id")) if part]
            answer, truth = (_class_name(example.get(key), classes) for key in ("prediction", "target"))
            correct = answer is not None and answer == truth
            shown.append(
                {
                    "name": ", ".join(parts) or f"example {number + 1}",
                    "answer": answer,
                    "truth": truth,
                    "correct": correct,
                    "strips": strips,
                }
            )
    return shown


def _class_name(index: object, classes: list[str]) -> str | None:
    if not isinstance(index, int):
        return None
    return classes[index] if 0 <= index < len(classes) else str(index)


def pictures(images: NDArray[np.float32], everyone: Sequence[NDArray[np.float32]], signed: bool) -> NDArray[np.float32]:
    """Inputs (t, c, h, w) as RGB pictures (t, h, w, 3) in [0, 1].

    All examples of a modality, `everyone`, share one scale: a dark clip must stay dark beside a bright one. Signed inputs
    (events) become red where the sum of the channels is positive and blue where negative, on a light ground.
    """
    if signed:
        total = images.sum(1)
        largest = max((float(np.percentile(np.abs(part.sum(1)), 99.5)) for part in everyone), default=0.0) or 1.0
        strength = np.clip(np.abs(total) / largest, 0, 1)[..., None] ** 0.7
        colour = np.where(total[..., None] > 0, np.array([0.80, 0.22, 0.16]), np.array([0.16, 0.36, 0.75]))
        return (0.96 * (1 - strength) + colour * strength).astype(np.float32)
    low = min(float(part.min()) for part in everyone)
    high = max(float(part.max()) for part in everyone)
    scaled = (images - low) / ((high - low) or 1.0)
    scaled = scaled if scaled.shape[1] == 3 else np.repeat(scaled.mean(1, keepdims=True), 3, 1)
    return np.moveaxis(scaled, 1, -1).astype(np.float32)


def _strip(frames: NDArray[np.float32], heat: NDArray[np.float32] | None) -> str:
    """Frames side by side, and below them the same under their heat maps, as a PNG data URI."""
    chosen = np.unique(np.linspace(0, len(frames) - 1, min(FRAMES, len(frames))).round().astype(int))
    rows = [frames[chosen]]
    if heat is not None:
        colour = matplotlib.colormaps["inferno"](heat[chosen])[..., :3]
        # The picture shows through where it is cold.
        cover = 0.25 + 0.6 * heat[chosen][..., None]
        rows.append((frames[chosen].mean(-1, keepdims=True) * (1 - cover) + colour * cover).astype(np.float32))
    t, h, w, _ = rows[0].shape
    gap = max(1, w // 40)
    sheet = np.zeros((len(rows) * (h + gap) - gap, t * (w + gap) - gap, 4), dtype=np.float32)
    for row, part in enumerate(rows):
        for column, frame in enumerate(part):
            top, left = row * (h + gap), column * (w + gap)
            sheet[top : top + h, left : left + w, :3] = np.clip(frame, 0, 1)
            sheet[top : top + h, left : left + w, 3] = 1
    buffer = io.BytesIO()
    image.imsave(buffer, (sheet * 255).round().astype(np.uint8), format="png")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
