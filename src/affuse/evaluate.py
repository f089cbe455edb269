"""evaluate: a run's answers on its test split, and the metrics from them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from affuse import explain, metrics, report, runs
from affuse.data.splits import SampleSource, Splits
from affuse.types import AffuseError, Batch, Output, Sample, System


def batches(source: SampleSource, system: System, batch_size: int) -> Iterator[Batch]:
    """The samples of a split in order."""
    for start in range(0, len(source), batch_size):
        samples = [source[index] for index in range(start, min(start + batch_size, len(source)))]
        yield Batch.collate(samples, system.modalities)


@torch.no_grad()
def answers(system: System, source: SampleSource, batch_size: int, split: str) -> list[dict[str, Any]]:
    """One record a sample: what was asked, what was answered, and the decisions behind it. Plain JSON values."""
    system.eval()
    records: list[dict[str, Any]] = []
    for batch in batches(source, system, batch_size):
        records.extend(as_records(system(batch), batch, split))
    return records


def as_records(output: Output, batch: Batch, split: str) -> list[dict[str, Any]]:
    """The rows of one answered batch as records."""
    probabilities = output.logits.softmax(-1)
    records: list[dict[str, Any]] = []
    for row, meta in enumerate(batch.meta):
        answered = bool(output.answered[row])
        records.append(
            {
                "split": split,
                "id": str(meta.get("id", row)),
                "crop": int(meta.get("crop") or 0),
                "subject": meta.get("subject"),
                "condition": meta.get("condition"),
                "target": None if batch.target is None else int(batch.target[row]),
                "prediction": int(probabilities[row].argmax()) if answered else None,
                "probabilities": rounded(probabilities[row]) if answered else None,
                "answered": answered,
                "weights": {name: rounded(weights[row]) for name, weights in output.weights.items()},
                "truth": dict(meta.get("truth") or {}),
            }
        )
    return records


def rounded(values: torch.Tensor) -> list[float]:
    """Numbers short enough to read."""
    return [round(value, 6) for value in values.tolist()]


def evaluate(path: str | Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Evaluate a run again, on its own test split or on the data that the overrides name; writes metrics and the report.

    Args:
        path: the run folder.
        overrides: such as ``--data.root DIR``.

    Raises:
        AffuseError: the run or the data cannot be read, or the data has other classes than the run.
    """
    run = runs.load_run(path, overrides)
    splits = run.recipe.data.splits(run.recipe.training.seed)
    trained, found = list(run.info["task"]["classes"]), list(splits.task.classes)
    if found != trained:
        raise AffuseError(
            f"{path}: this run answers {trained}, the data asks {found}: give data with the run's classes"
        )
    run.system.task = splits.task
    return write_evaluation(run.path, run.system, splits, run.recipe.training.batch_size)


def write_evaluation(path: Path, system: System, splits: Splits, batch_size: int) -> dict[str, Any]:
    """Answers, metrics, example heat maps and the report of a system, written to its run."""
    records = answers(system, splits.test, batch_size, "test")
    summary = metrics.summarise(records, splits.task.classes, system.modalities)
    summary["synthetic"] = splits.synthetic
    summary["facts"] = dict(splits.facts)
    runs.write_lines(path / runs.PREDICTIONS, records)
    runs.write_json(path / runs.METRICS, summary)
    explain.save_examples(system, example_samples(splits.test), path / runs.EXAMPLES)
    report.write_report(path)
    return summary


def example_samples(source: SampleSource, conditions: int = 4) -> list[Sample]:
    """The first sample of each condition, at most this many: a fixed rule, so that no example is chosen for its looks."""
    found: dict[str, Sample] = {}
    for index in range(min(len(source), 400)):
        sample = source[index]
        found.setdefault(str(sample.meta.get("condition")), sample)
        if len(found) == conditions:
            break
    return list(found.values())
