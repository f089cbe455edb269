"""evaluate: a run's answers on its test split, and the metrics from them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from affuse import explain, metrics, report, runs
from affuse.data.splits import SampleSource, Splits
from affuse.recipe import Recipe, load_recipe
from affuse.types import AffuseError, Batch, Output, Sample, System, Task

FEATURES_KEPT = 1000


def batches(source: SampleSource, system: System, batch_size: int) -> Iterator[Batch]:
    """The samples of a split in order."""
    for start in range(0, len(source), batch_size):
        samples = [source[index] for index in range(start, min(start + batch_size, len(source)))]
        yield Batch.collate(samples, system.modalities)


def answers(system: System, source: SampleSource, batch_size: int, split: str) -> list[dict[str, Any]]:
    """One record a sample: what was asked, what was answered, and the decisions behind it. Plain JSON values."""
    return answers_and_features(system, source, batch_size, split)[0]


@torch.no_grad()
def answers_and_features(
    system: System, source: SampleSource, batch_size: int, split: str
) -> tuple[list[dict[str, Any]], dict[str, Tensor]]:
    """The records as of `answers`, and what some answers were read from, where the system tells (``aux["features"]``).

    Returns:
        The records, and ``features`` (n, d) with ``row`` (n), the record of each: of at most `FEATURES_KEPT` evenly spaced
        samples, those that were answered. Empty where the system gives none.
    """
    system.eval()
    step = max(1, math.ceil(len(source) / FEATURES_KEPT))
    records: list[dict[str, Any]] = []
    kept: list[Tensor] = []
    rows: list[int] = []
    for batch in batches(source, system, batch_size):
        output = system(batch)
        features = output.aux.get("features")
        if features is not None and features.dim() == 2:
            chosen = [row for row in range(batch.size) if (len(records) + row) % step == 0 and output.answered[row]]
            rows += [len(records) + row for row in chosen]
            kept.append(features[chosen].float().cpu())
        records.extend(as_records(output, batch, split))
    return records, {"features": torch.cat(kept), "row": torch.tensor(rows, dtype=torch.int64)} if rows else {}


def as_records(output: Output, batch: Batch, split: str) -> list[dict[str, Any]]:
    """The rows of one answered batch as records.

    Of a classification a record has ``target`` (index), ``prediction`` and ``probabilities``; of a regression ``target`` and
    ``value``, which are not rounded, so that metrics are those of the values themselves. ``unimodal`` holds by modality what
    it alone would have answered (probabilities or value), None where it is absent.
    """
    regression = output.logits.shape[1] == 1
    output = replace(
        output, logits=output.logits.detach(), unimodal={name: part.detach() for name, part in output.unimodal.items()}
    )
    probabilities = output.logits.softmax(-1)
    # What is not finite answers nothing.
    answered = output.answered & (output.logits if regression else probabilities).isfinite().all(-1)  # b
    targets = _targets(batch, regression)
    alone = {
        name: (logits, batch.has(name) & logits.isfinite().all(-1)) for name, logits in output.unimodal.items()
    }  # (b, c), b
    records: list[dict[str, Any]] = []
    for row, meta in enumerate(batch.meta):
        if regression:
            said: dict[str, Any] = {"value": output.value[row].item() if answered[row] else None}
        else:
            said = {
                "prediction": int(probabilities[row].argmax()) if answered[row] else None,
                "probabilities": rounded(probabilities[row]) if answered[row] else None,
            }
        record = {
            "split": split,
            "id": str(meta.get("id", row)),
            "crop": int(meta.get("crop") or 0),
            "subject": meta.get("subject"),
            "condition": meta.get("condition"),
            "target": targets[row],
            **said,
            "answered": bool(answered[row]),
            "weights": {name: rounded(weights[row]) for name, weights in output.weights.items()},
            "truth": dict(meta.get("truth") or {}),
        }
        if alone:
            record["unimodal"] = {
                name: None if not there[row] else logits[row].item() if regression else rounded(logits[row].softmax(-1))
                for name, (logits, there) in alone.items()
            }
        records.append(record)
    return records


def _targets(batch: Batch, regression: bool) -> Sequence[float | int | None]:
    """The target of each row, None where it is not known."""
    if batch.target is None:
        return [None] * batch.size
    if regression:
        return [float(value) if math.isfinite(value) else None for value in batch.target.tolist()]
    return [int(index) if index >= 0 else None for index in batch.target.tolist()]


def rounded(values: torch.Tensor) -> list[float]:
    """Numbers short enough to read."""
    return [round(value, 6) for value in values.tolist()]


def evaluate(path: str | Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Evaluate a run again, on its own test split or on the data that the overrides name; writes metrics and the report.

    Args:
        path: the run folder.
        overrides: such as ``--data.root DIR``; the metrics keep them as ``overrides``, and whether they change the data (a
            setting of it, or the seed that draws it) as ``other_data``.

    Raises:
        AffuseError: the run or the data cannot be read, or the data asks something else than the run answers.
    """
    run = runs.load_run(path, overrides)
    own = load_recipe(run.path / runs.RECIPE)
    splits = run.recipe.data.splits(run.recipe.training.seed)
    check_task(path, run.system.task, splits.task)
    about: dict[str, Any] = {"selected_on": own.training.select_on}
    if overrides:
        about["overrides"] = list(overrides)
        about["other_data"] = _drawn_from(own) != _drawn_from(run.recipe)
    summary, features = write_metrics(run.path, run.system, splits, run.recipe.training.batch_size, about)
    write_evidence(run.path, run.system, splits, features)
    return summary


def _drawn_from(recipe: Recipe) -> tuple[str, Any, int]:
    return recipe.data_name, recipe.data, recipe.training.seed


def write_metrics(
    path: Path, system: System, splits: Splits, batch_size: int, about: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Answers and metrics of a system, written to its run; back come the metrics, and the features for `write_evidence`.

    Args:
        about: what else the metrics say of where they come from: ``selected_on``, and of an evaluation by other settings than
            the run's own ``overrides`` and ``other_data``.
    """
    records, features = answers_and_features(system, splits.test, batch_size, "test")
    summary = metrics.summarise(records, splits.task, system.modalities)
    summary["synthetic"] = splits.synthetic
    summary["facts"] = dict(splits.facts)
    summary |= about
    runs.write_lines(path / runs.PREDICTIONS, records)
    runs.write_json(path / runs.METRICS, summary)
    return summary, features


def write_evidence(path: Path, system: System, splits: Splits, features: dict[str, Tensor]) -> None:
    """Features, example heat maps and the report of a run whose metrics are written."""
    runs.write_features(features, path / runs.FEATURES)
    explain.save_examples(system, example_samples(splits.test), path / runs.EXAMPLES)
    report.write_report(path)


def check_task(path: str | Path, task: Task, asked: Task) -> None:
    """Whether data asks what the run in `path` answers.

    Raises:
        AffuseError: it asks something else.
    """
    if asked != task:
        raise AffuseError(
            f"{path}: this run answers {_asked(task)}, the data asks {_asked(asked)}: give data with the task of the run"
        )


def _asked(task: Task) -> str:
    if task.kind == "classification":
        return str(list(task.classes))
    scale = "" if task.value_range is None else f" from {task.value_range[0]:g} to {task.value_range[1]:g}"
    return f"a value{scale}{f' ({task.units})' if task.units else ''}"


def example_samples(source: SampleSource, conditions: int = 4) -> list[Sample]:
    """The first sample of each condition, at most this many: a fixed rule, so that no example is chosen for its looks."""
    found: dict[str, Sample] = {}
    for index in range(min(len(source), 400)):
        sample = source[index]
        found.setdefault(str(sample.meta.get("condition")), sample)
        if len(found) == conditions:
            break
    return list(found.values())
