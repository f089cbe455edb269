"""Records in, everything that a report says of them out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from affuse.metrics import classification, decisions, regression
from affuse.metrics.decisions import Record, is_answered
from affuse.metrics.intervals import plain
from affuse.types import AffuseError, Task


def scores(records: Sequence[Record], task: Task) -> dict[str, float]:
    """The metrics of records, each the mean over the crop numbers, without intervals: what selection looks at.

    Returns:
        ``war``, ``uar`` and the macro scores of a classification; `regression.measured` of a regression, NaN where unknown.

    Raises:
        AffuseError: no record has a target, so there is nothing to measure.
    """
    known = [record for record in records if record.get("target") is not None]
    if not known:
        raise AffuseError("no sample has a target, so there is nothing to measure: give the split labelled samples")
    # One cluster: nothing is resampled.
    found = _measure(known, task, np.zeros(len(known), dtype=np.int64), 0)
    return {name: float("nan") if found[name]["value"] is None else found[name]["value"] for name in _names(task)}


def summarise(records: Sequence[Record], task: Task, modalities: Sequence[str], seed: int = 0) -> dict[str, Any]:
    """Everything a report says, as plain JSON (unknown numbers are None).

    Args:
        records: lines of ``predictions.jsonl``; those without a target are counted and left out of the metrics.
        task: what was asked.
        modalities: names in the order of ``weights["modality"]``.
        seed: of the bootstrap.

    Returns:
        ``kind``; the metrics (each value, low, high) and their ``rules``; ``per_condition`` (by name, with samples);
        ``unimodal``: metrics of what each modality alone would have answered, over the samples that have it, by modality;
        ``unanswered``, ``without_target``, ``predictions``, ``samples`` (recordings), ``crops``, ``subjects``,
        ``clustered_by``; ``modality_weight`` and ``modality_weight_by_condition`` (means by modality), ``expert_load``,
        ``event_weight_vs_rgb_lost``, ``router_on_informative``, ``weight_vs_importance``: see `decisions`. Of a
        classification also ``per_class``, ``confusion`` and ``calibration`` (ece, bins); in ``per_condition``, value, low
        and high are those of WAR. Of a regression also ``units`` and ``value_range``.

    Raises:
        AffuseError: a record names a class that does not exist.
    """
    known = [record for record in records if record.get("target") is not None]
    by_subject = bool(known) and all(record.get("subject") is not None for record in known)
    cluster = _numbered(
        [str(record["subject"] if by_subject else record.get("id", i)) for i, record in enumerate(known)]
    )
    answered = [record for record in records if is_answered(record)]
    condition = np.array([str(record.get("condition")) for record in known], dtype=object)
    per_condition = {}
    for name in _conditions(known):
        rows = np.flatnonzero(condition == name)
        part = _measure([known[row] for row in rows], task, cluster[rows], seed)
        part.pop("per_class", None)
        samples = len({str(known[row].get("id", row)) for row in rows})
        per_condition[name] = part.get("war", {}) | {"samples": samples} | part
    return {
        "kind": task.kind,
        **_measure(known, task, cluster, seed),
        **(_of_classification(known, task) if task.kind == "classification" else _of_regression(task)),
        "rules": _names(task),
        "per_condition": per_condition,
        "unimodal": _unimodal(known, task, cluster, modalities, seed),
        "unanswered": len(records) - len(answered),
        "without_target": len(records) - len(known),
        "predictions": len(records),
        "samples": len({str(record.get("id", i)) for i, record in enumerate(records)}),
        "crops": len({_crop(record) for record in known}),
        "subjects": len({record["subject"] for record in records if record.get("subject") is not None}),
        "clustered_by": "subject" if by_subject else "id",
        "modality_weight": decisions.mean_weights(answered, modalities),
        "modality_weight_by_condition": {
            name: decisions.mean_weights([r for r in answered if str(r.get("condition")) == name], modalities)
            for name in _conditions(answered)
        },
        "expert_load": decisions.expert_load(answered),
        "event_weight_vs_rgb_lost": decisions.event_weight_vs_rgb_lost(answered, modalities),
        "router_on_informative": decisions.router_on_informative(answered, modalities),
        "weight_vs_importance": decisions.weight_vs_importance(answered, modalities),
    }


def _measure(known: Sequence[Record], task: Task, cluster: Int[np.ndarray, " n"], seed: int) -> dict[str, Any]:
    """The metrics of records with a target; of a classification with per_class, by name."""
    crop = np.array([_crop(record) for record in known], dtype=np.int64)
    if task.kind == "regression":
        target, value = _values(known)
        return regression.bootstrap_regression(target, value, cluster, crop, tuple(_names(task)), seed)
    target, prediction = _classes(known)
    found = classification.bootstrap_classification(target, prediction, len(task.classes), cluster, crop, seed)
    return found | {"per_class": dict(zip(task.classes, found["per_class"], strict=True))}


def _names(task: Task) -> dict[str, str]:
    """The metrics of a task, with their rules."""
    if task.kind == "classification":
        return dict(classification.RULES)
    return {name: regression.RULES[name] for name in regression.measured(task.value_range)}


def _of_classification(known: Sequence[Record], task: Task) -> dict[str, Any]:
    target, prediction = _classes(known)
    stated = [r for r in known if is_answered(r) and r.get("probabilities") is not None]
    confidence = np.array([r["probabilities"][int(r["prediction"])] for r in stated], dtype=np.float64)
    correct = np.array([r["target"] == int(r["prediction"]) for r in stated], dtype=np.int64)
    ece = plain(classification.expected_calibration_error(confidence, correct))
    return {
        "confusion": classification.confusion_matrix(target, prediction, len(task.classes)).tolist(),
        "calibration": {"ece": ece, "bins": classification.reliability_bins(confidence, correct)},
    }


def _of_regression(task: Task) -> dict[str, Any]:
    return {"units": task.units, "value_range": None if task.value_range is None else list(task.value_range)}


def _unimodal(
    known: Sequence[Record], task: Task, cluster: Int[np.ndarray, " n"], modalities: Sequence[str], seed: int
) -> dict[str, Any]:
    """The metrics of each modality alone, over the samples of which it said something."""
    found: dict[str, Any] = {}
    for name in modalities:
        rows = [row for row, record in enumerate(known) if (record.get("unimodal") or {}).get(name) is not None]
        if rows:
            alone = [_alone(known[row], known[row]["unimodal"][name], task) for row in rows]
            part = _measure(alone, task, cluster[rows], seed)
            part.pop("per_class", None)
            found[name] = {"samples": len(rows)} | part
    return found


def _alone(record: Record, answer: Any, task: Task) -> Record:
    said = {"value": answer} if task.kind == "regression" else {"prediction": int(np.argmax(answer))}
    return {**record, **said, "answered": True}


def _classes(known: Sequence[Record]) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """Target and prediction of records that have a target."""
    none = classification.UNANSWERED
    rows = [(int(r["target"]), int(r["prediction"]) if is_answered(r) else none) for r in known]
    table = np.array(rows, dtype=np.int64).reshape(len(rows), 2)
    return table[:, 0], table[:, 1]


def _values(known: Sequence[Record]) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Target and value of records that have a target; NaN where not answered."""
    rows = [(r["target"], r["value"] if is_answered(r) else np.nan) for r in known]
    table = np.array(rows, dtype=np.float64).reshape(len(rows), 2)
    return table[:, 0], table[:, 1]


def _crop(record: Record) -> int:
    return int(record.get("crop") or 0)


def _conditions(records: Sequence[Record]) -> list[str]:
    return list(dict.fromkeys(str(r["condition"]) for r in records if r.get("condition") is not None))


def _numbered(names: Sequence[str]) -> Int[np.ndarray, " n"]:
    return np.unique(np.array(names, dtype=str), return_inverse=True)[1].astype(np.int64)
