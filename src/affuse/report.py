"""The report of a run: one HTML file that needs nothing else, and a table for the terminal."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import torch
from numpy.typing import NDArray
from rich.table import Table
from rich.text import Text
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file
from torch import Tensor

from affuse import report_balance, report_cameras, report_faces, report_plots, report_samples
from affuse.energy import tables as energy_tables
from affuse.types import AffuseError

NAMES = {
    "war": "WAR",
    "uar": "UAR",
    "macro_precision": "Macro precision",
    "macro_recall": "Macro recall",
    "macro_f1": "Macro F1",
    "mae": "MAE",
    "corr": "Correlation",
    "acc2_has0": "Acc-2, has0",
    "f1_has0": "F1, has0",
    "acc2_non0": "Acc-2, non0",
    "f1_non0": "F1, non0",
    "acc3": "Acc-3",
    "acc5": "Acc-5",
    "acc7": "Acc-7",
}
OTHER_DATA = "data not as in the run's recipe"
IN_UNITS = ("mae", "corr")  # the others are shares, written in percent


def write_report(run: Path) -> Path:
    """Write ``report.html`` into a run folder from what the folder holds; what is missing is left out.

    Args:
        run: the folder; it may hold ``run.json``, ``recipe.yaml``, ``metrics.json``, ``predictions.jsonl``,
            ``history.jsonl``, ``energy.json``, ``features.safetensors`` and ``examples.safetensors``.

    Returns:
        The path of the report: one file, without scripts, that fetches nothing.

    Raises:
        AffuseError: there is no such folder, or one of these files is broken.
    """
    if not run.is_dir():
        raise AffuseError(f"{run}: no such run folder; affuse fit writes one")
    info, metrics = _read_json(run / "run.json"), _read_json(run / "metrics.json")
    history, records = _read_lines(run / "history.jsonl"), _read_lines(run / "predictions.jsonl")
    facts = metrics.get("facts") or info.get("facts") or {}
    recipe = run / "recipe.yaml"
    classes = list((info.get("task") or {}).get("classes") or metrics.get("per_class") or [])
    modalities = list(info.get("modalities") or metrics.get("modality_weight") or [])
    examples, tensors = _read_examples(run / "examples.safetensors")
    features = _read_features(run / "features.safetensors")
    of_samples = [
        *report_samples.figures(records, features, metrics, modalities, classes),
        *report_cameras.figures(records, metrics, modalities, classes, _attention(examples, tensors, modalities)),
    ]
    of_balance = report_balance.figures(history, records)
    page = {
        "title": f"{info.get('system', 'A run')} on {facts['name']}"
        if "name" in facts
        else str(info.get("system", run.name)),
        "subtitle": _subtitle(run, info, metrics),
        "synthetic": bool(info.get("synthetic") or metrics.get("synthetic")),
        "selected_on_test": (metrics.get("selected_on") or info.get("selected_on")) == "test",
        "headline": _headline(metrics),
        "figures": report_plots.figures(metrics, history, classes, of_samples, of_balance),
        "measures": _measures(metrics),
        "per_class": report_faces.per_class_table(metrics, classes, info.get("class_counts")),
        "regression": metrics.get("kind") == "regression",
        "energy": _energy(run / "energy.json"),
        "examples": _examples(examples, tensors, classes),
        "tables": _tables({**info, "facts": facts}, metrics),
        "command": "\n".join(
            (
                str(info.get("command") or f"affuse fit {shlex.quote(str(recipe))}"),
                shlex.join(["affuse", "evaluate", str(run), *_overrides(metrics)]),
            )
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
    """The main metrics with their 95 % intervals, overall, for each condition and for each modality alone, for the terminal.

    They are WAR and UAR of a classification; mean absolute error, correlation and non0 accuracy of a regression. The title
    says what marks the numbers: a synthetic world, selection on test data, an evaluation on other data than the run's own.
    """
    marks = ["synthetic world"] if metrics.get("synthetic") else []
    marks += ["selected on test data"] if metrics.get("selected_on") == "test" else []
    marks += [OTHER_DATA] if metrics.get("other_data") else []
    title = "Test" + (f" ({', '.join(marks)})" if marks else "")
    table = Table(title=title, title_justify="left", caption=_caption(metrics), caption_justify="left")
    regression = metrics.get("kind") == "regression"
    shown = [name for name in ("mae", "corr", "acc2_non0") if name in metrics] if regression else ["war", "uar"]
    table.add_column("")
    table.add_column("samples", justify="right")
    for name in shown:
        table.add_column(NAMES[name] + ("" if name in IN_UNITS else " %"), justify="right")
        table.add_column("95 %")
    rows = [("all", metrics)]
    # The WAR of a condition stands in the entry itself.
    rows += [(name, {"war": entry, **entry}) for name, entry in (metrics.get("per_condition") or {}).items()]
    conditions = len(rows)
    rows += [(f"{name} alone", entry) for name, entry in (metrics.get("unimodal") or {}).items()]
    for number, (name, entry) in enumerate(rows, 1):
        cells = [write(measure, entry.get(measure)) for measure in shown for write in (_number, _interval)]
        # Text, not markup: a class or a condition may be called "[red]".
        samples = "" if entry.get("samples") is None else str(entry["samples"])
        table.add_row(Text(name), samples, *cells, end_section=number in (1, conditions))
    return table


def _caption(metrics: Mapping[str, Any]) -> str:
    parts = []
    macro = [metrics.get(f"macro_{name}") for name in ("precision", "recall", "f1")]
    if all(macro):
        parts.append(f"macro precision, recall, F1: {', '.join(_number('macro_f1', entry) for entry in macro)} %")
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


def _read_lines(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    try:
        return [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise AffuseError(f"{path}: broken JSON line ({error}); train again, or delete the file") from None


def _read_features(path: Path) -> tuple[NDArray[np.float32], NDArray[np.int64]] | None:
    if not path.is_file():
        return None
    try:
        tensors = load_file(path)
        features, rows = tensors["features"].astype(np.float32), tensors["row"].astype(np.int64)
    except (SafetensorError, OSError, KeyError) as error:
        raise AffuseError(f"{path}: cannot be read ({error}); write it again with affuse evaluate") from None
    return (features, rows) if features.ndim == 2 and rows.shape == features.shape[:1] else None


def _subtitle(run: Path, info: Mapping[str, Any], metrics: Mapping[str, Any]) -> str:
    parts = [f"run {run.resolve().name}"]
    if info.get("modalities"):
        parts.append(" + ".join(info["modalities"]))
    if metrics.get("samples"):
        subjects = f" of {metrics['subjects']} subjects" if metrics.get("subjects") else ""
        parts.append(f"{metrics['samples']} test samples{subjects}")
    if "seed" in info:
        parts.append(f"seed {info['seed']}")
    if metrics.get("other_data"):
        parts.append(f"{OTHER_DATA}: {shlex.join(_overrides(metrics))}")
    if info.get("status", "complete") != "complete":
        parts.append(f"status: {info['status']}")
    return " · ".join(str(part) for part in parts)


def _overrides(metrics: Mapping[str, Any]) -> list[str]:
    """The settings by which a run was evaluated other than by its own."""
    return [str(word) for word in metrics.get("overrides") or ()]


def _headline(metrics: Mapping[str, Any]) -> list[dict[str, str]]:
    cards = []
    long = {"war": "WAR (accuracy)", "uar": "UAR (mean recall of the classes)", "mae": "Mean absolute error"}
    for key in ("war", "uar", "mae", "corr", "acc2_non0", "acc7"):
        if metrics.get(key):
            name, value = long.get(key, NAMES[key]), _number(key, metrics[key], " %")
            cards.append({"name": name, "value": value, "note": _note(key, metrics[key])})
    ece = (metrics.get("calibration") or {}).get("ece")
    if ece is not None:
        note = f"{metrics.get('unanswered', 0)} samples not answered"
        cards.append({"name": "Calibration error (ECE)", "value": f"{100 * ece:.1f} %", "note": note})
    correlation = metrics.get("event_weight_vs_rgb_lost")
    if correlation is not None:
        note = "+1: the more RGB loses, the more the events count"
        cards.append({"name": "Event weight against RGB signal lost", "value": f"{correlation:+.2f}", "note": note})
    hits = metrics.get("router_on_informative")
    if hits:
        note = f"largest weight on the sensor that carries the answer, {hits['samples']} samples"
        cards.append({"name": "Believed the informative sensor", "value": f"{100 * hits['value']:.1f} %", "note": note})
    return cards


def _measures(metrics: Mapping[str, Any]) -> dict[str, Any] | None:
    """Every metric with its rule, of the whole system and of each modality alone, as the cells of a table."""
    rules = metrics.get("rules") or {}
    if not rules:
        return None
    alone = metrics.get("unimodal") or {}
    whole = {"samples": metrics.get("samples"), **metrics}
    columns = ["", "value", "95 %", *[f"{name} alone" for name in alone], "rule"]
    rows = [
        [
            NAMES[name],
            _number(name, whole.get(name), " %"),
            _interval(name, whole.get(name)),
            *[_number(name, part.get(name), " %") for part in alone.values()],
            rule,
        ]
        for name, rule in rules.items()
    ]
    if alone:
        rows.append(["Samples", _say(whole["samples"]), "", *[_say(part["samples"]) for part in alone.values()], ""])
    return {"columns": columns, "rows": rows}


def _energy(path: Path) -> dict[str, Any] | None:
    """What ``affuse energy`` found, as the cells of a table."""
    if not path.is_file():
        return None
    try:
        return energy_tables.section(_read_json(path))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise AffuseError(f"{path}: not as affuse energy writes it ({error!r}); run affuse energy again") from None


def _number(name: str, entry: Mapping[str, Any] | None, unit: str = "") -> str:
    """The value of a metric: in its own units, or in percent."""
    value = (entry or {}).get("value")
    if value is None:
        return "unknown"
    return f"{value:.3f}" if name in IN_UNITS else f"{100 * value:.1f}{unit}"


def _interval(name: str, entry: Mapping[str, Any] | None) -> str:
    entry = entry or {}
    if entry.get("low") is None or entry.get("high") is None:
        return ""
    return " to ".join(
        f"{entry[end]:.3f}" if name in IN_UNITS else f"{100 * entry[end]:.1f}" for end in ("low", "high")
    )


def _note(name: str, entry: Mapping[str, Any]) -> str:
    interval = _interval(name, entry)
    return f"95 % interval {interval}" if interval else "interval unknown: too few subjects or recordings"


def _tables(info: Mapping[str, Any], metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    facts = [(_title(name), _say(value)) for name, value in (info.get("facts") or {}).items()]
    counts = [
        (name, _say(metrics[key]))
        for key, name in (
            ("samples", "Test samples"),
            ("subjects", "Test subjects"),
            ("crops", "Crops a sample"),
            ("unanswered", "Not answered"),
            ("without_target", "Without a truth, not measured"),
            ("value_range", "Scale"),
            ("units", "Units"),
        )
        if key in metrics and metrics[key] not in (None, "")
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


# Examples.


def _read_examples(path: Path) -> tuple[list[dict[str, Any]], dict[str, NDArray[np.float32]]]:
    if not path.is_file():
        return [], {}
    try:
        with safe_open(path, "np") as file:
            examples = json.loads((file.metadata() or {}).get("examples", "[]"))
            return examples, {name: file.get_tensor(name).astype(np.float32) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError, json.JSONDecodeError) as error:
        raise AffuseError(f"{path}: cannot be read ({error}); write it again with affuse evaluate") from None


def _attention(
    examples: list[dict[str, Any]], tensors: Mapping[str, NDArray[np.float32]], modalities: Sequence[str]
) -> list[tuple[str, dict[str, Tensor]]]:
    """Of the examples that have it, their names and their attention by modality."""
    found = []
    for number, example in enumerate(examples):
        maps = {name: tensors.get(f"{number}/{name}/attention") for name in modalities}
        known = {name: torch.from_numpy(tensor) for name, tensor in maps.items() if tensor is not None}
        if known:
            found.append((str(example.get("condition") or example.get("id") or f"example {number + 1}"), known))
    return found


def _examples(
    examples: list[dict[str, Any]], tensors: Mapping[str, NDArray[np.float32]], classes: list[str]
) -> list[dict[str, Any]]:
    modalities = list(dict.fromkeys(name.split("/")[1] for name in sorted(tensors, reverse=True)))
    shown = []
    for number, example in enumerate(examples):
        strips = []
        for modality in modalities:
            images = tensors.get(f"{number}/{modality}/input")
            if images is None:
                continue
            signed = "event" in modality
            everyone = [tensor for name, tensor in tensors.items() if name.split("/")[1:] == [modality, "input"]]
            if not signed:
                images, everyone = report_cameras.visible(images), [report_cameras.visible(other) for other in everyone]
            frames = report_plots.pictures(images, everyone, signed)
            weight = (example.get("weights") or {}).get(modality)
            for kind, heat in _maps(tensors, f"{number}/{modality}", frames.shape[:3]):
                strips.append(
                    {
                        "name": "Events" if signed else modality.upper() if len(modality) < 4 else modality,
                        "weight": "" if weight is None else f"{100 * weight:.0f} %",
                        "png": report_plots.strip(frames, heat),
                        "map": kind,
                    }
                )
        if strips:
            parts = [part for part in (example.get("condition"), example.get("id")) if part]
            if "value" in example:
                answer, truth = (_value(example.get(key)) for key in ("value", "target"))
                tone = ""
            else:
                answer, truth = (_class_name(example.get(key), classes) for key in ("prediction", "target"))
                tone = "right" if answer is not None and answer == truth else "wrong"
            shown.append(
                {
                    "name": ", ".join(parts) or f"example {number + 1}",
                    "answer": answer,
                    "truth": truth,
                    "tone": tone,
                    "strips": strips,
                }
            )
    return shown


def _maps(
    tensors: Mapping[str, NDArray[np.float32]], key: str, shape: tuple[int, ...]
) -> list[tuple[str, NDArray[np.float32] | None]]:
    """What is laid over the frames (t, h, w) of an example: Grad-CAM, the attention, both one after the other, or nothing."""
    found: list[tuple[str, NDArray[np.float32] | None]] = []
    if f"{key}/heat" in tensors:
        found.append(("Grad-CAM", tensors[f"{key}/heat"]))
    if f"{key}/attention" in tensors:
        heat = report_cameras.attention_heat(torch.from_numpy(tensors[f"{key}/attention"]), *shape)
        found += [] if heat is None else [("attention", heat.numpy())]
    return found or [("", None)]


def _value(value: object) -> str | None:
    return f"{value:.2f}" if isinstance(value, int | float) else None


def _class_name(index: object, classes: list[str]) -> str | None:
    if not isinstance(index, int):
        return None
    return classes[index] if 0 <= index < len(classes) else str(index)
