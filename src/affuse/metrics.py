"""Metrics, each named with its rule.

A prediction of -1 means "not answered". It is never dropped: it counts as wrong in every recall, has a column of its own in the
confusion matrix, and is left out of the calibration only, because a system that did not answer stated no confidence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from affuse.types import AffuseError

UNANSWERED = -1
RESAMPLES = 1000

Record = Mapping[str, Any]


def confusion_matrix(
    target: Int[np.ndarray, "n"], prediction: Int[np.ndarray, "n"], classes: int
) -> Int[np.ndarray, "{classes} {classes}+1"]:
    """Counts; row: true class, column: predicted class, last column: not answered (prediction -1).

    Raises:
        AffuseError: a target or a prediction is not one of the classes.
    """
    if len(target) and (target.min() < 0 or target.max() >= classes):
        raise AffuseError(f"targets run from {target.min()} to {target.max()}, but there are {classes} classes")
    if len(prediction) and (prediction.min() < UNANSWERED or prediction.max() >= classes):
        raise AffuseError(
            f"predictions run from {prediction.min()} to {prediction.max()}, but there are {classes} classes"
        )
    column = np.where(prediction == UNANSWERED, classes, prediction)
    flat = np.bincount(target * (classes + 1) + column, minlength=classes * (classes + 1))
    return flat.reshape(classes, classes + 1).astype(np.int64)


def weighted_average_recall(target: Int[np.ndarray, "n"], prediction: Int[np.ndarray, "n"]) -> float:
    """WAR: the mean of the classes' recalls weighted by their support, which is accuracy: correct / all. NaN of nothing."""
    return float(np.mean(target == prediction)) if len(target) else float("nan")


def unweighted_average_recall(target: Int[np.ndarray, "n"], prediction: Int[np.ndarray, "n"]) -> float:
    """UAR: the plain mean of the recalls of the classes that occur in `target` (balanced accuracy). NaN of nothing."""
    if not len(target):
        return float("nan")
    return float(np.mean([np.mean(prediction[target == c] == c) for c in np.unique(target)]))


def per_class_recall(
    target: Int[np.ndarray, "n"], prediction: Int[np.ndarray, "n"], classes: int
) -> Float[np.ndarray, "{classes}"]:
    """Of the samples of each class, the part that was answered with it; NaN where `target` has none of the class."""
    counts = confusion_matrix(target, prediction, classes)
    return _ratio(np.diagonal(counts), counts.sum(1))


def reliability_bins(
    confidence: Float[np.ndarray, "n"], correct: Int[np.ndarray, "n"], bins: int = 10
) -> dict[str, list[float | int | None]]:
    """Equal-width bins over [0, 1] of the confidence (probability of the answer), for a reliability diagram.

    A bin is [lower, upper), the last one closed. Returns lists of length `bins`: ``lower``, ``upper``, ``count``, and
    ``confidence`` and ``accuracy`` (means within the bin; None in an empty one).
    """
    edges = np.linspace(0, 1, bins + 1)
    where = np.clip(np.searchsorted(edges, confidence, side="right") - 1, 0, bins - 1)
    count = np.bincount(where, minlength=bins)
    mean_confidence = _ratio(np.bincount(where, confidence, bins), count)
    accuracy = _ratio(np.bincount(where, correct, bins), count)
    return {
        "lower": edges[:-1].tolist(),
        "upper": edges[1:].tolist(),
        "count": count.tolist(),
        "confidence": [_plain(v) for v in mean_confidence],
        "accuracy": [_plain(v) for v in accuracy],
    }


def expected_calibration_error(
    confidence: Float[np.ndarray, "n"], correct: Int[np.ndarray, "n"], bins: int = 10
) -> float:
    """ECE: |accuracy - mean confidence| of each bin of `reliability_bins`, weighted by the samples in it. NaN of nothing.

    Guo et al., On Calibration of Modern Neural Networks, ICML 2017, equation 3.
    """
    if not len(confidence):
        return float("nan")
    table = reliability_bins(confidence, correct, bins)
    gaps = [
        count * abs(accuracy - mean)
        for count, accuracy, mean in zip(table["count"], table["accuracy"], table["confidence"], strict=True)
        if count and accuracy is not None and mean is not None
    ]
    return float(sum(gaps) / len(confidence))


def ranks(values: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
    """Ranks from 1; equal values share the mean of their ranks."""
    _, inverse, count = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(count) - (count - 1) / 2)[inverse]


def spearman(a: Float[np.ndarray, "n"], b: Float[np.ndarray, "n"]) -> float:
    """Spearman's rank correlation: Pearson's of the ranks, ties averaged. NaN where one side is constant or n < 2."""
    if len(a) < 2:
        return float("nan")
    x, y = ranks(a), ranks(b)
    x, y = x - x.mean(), y - y.mean()
    scale = np.sqrt((x**2).sum() * (y**2).sum())
    return float(np.clip((x * y).sum() / scale, -1, 1)) if scale > 0 else float("nan")


def bootstrap_recalls(
    target: Int[np.ndarray, "n"],
    prediction: Int[np.ndarray, "n"],
    classes: int,
    cluster: Int[np.ndarray, "n"],
    crop: Int[np.ndarray, "n"],
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> dict[str, Any]:
    """WAR, UAR and the recall of each class with 95 % intervals, by a bootstrap over clusters.

    Each metric is computed for every crop number and averaged over them. Whole clusters (subjects, or recordings where the
    subject is not known) are drawn with replacement, because samples of one person are not independent; the interval runs
    from the 2.5th to the 97.5th percentile. With one cluster nothing can be resampled and the interval is unknown (None).

    Args:
        cluster: of each sample, any whole number that its cluster has alone.
        crop: crop number of each sample.

    Returns:
        ``war``, ``uar``: {"value", "low", "high"}; ``per_class``: a list of the same with "support"
        (samples of the class, over all crops).
    """
    if not len(target):
        nothing = {"value": None, "low": None, "high": None}
        return {"war": dict(nothing), "uar": dict(nothing), "per_class": [nothing | {"support": 0}] * classes}
    counts = confusion_matrix(target, prediction, classes)
    names, member = np.unique(cluster, return_inverse=True)
    crops, crop_index = np.unique(crop, return_inverse=True)
    # Correct and total per cluster, crop and class are all that these metrics need: a resample is then a weighted sum.
    table = np.zeros((2, len(names), len(crops), classes))
    np.add.at(table[0], (member, crop_index, target), target == prediction)
    np.add.at(table[1], (member, crop_index, target), 1)
    value = _recalls(*table.sum(1, keepdims=True))
    result = [np.array([np.nan, np.nan])[:, None] * part for part in value]
    if len(names) > 1:
        generator = np.random.default_rng(seed)
        drawn = generator.multinomial(len(names), np.full(len(names), 1 / len(names)), size=resamples)
        resampled = _recalls(*(np.tensordot(drawn, part, 1) for part in table))
        result = [_percentiles(part) for part in resampled]
    interval = [
        [
            {"value": _plain(v), "low": _plain(low), "high": _plain(high)}
            for v, low, high in zip(part[0], bounds[0], bounds[1], strict=True)
        ]
        for part, bounds in zip(value, result, strict=True)
    ]
    war, uar, per_class = interval
    supported = [entry | {"support": int(n)} for entry, n in zip(per_class, counts.sum(1), strict=True)]
    return {"war": war[0], "uar": uar[0], "per_class": supported}


def recalls(records: Sequence[Record], classes: int) -> dict[str, float]:
    """``war`` and ``uar`` of records, each the mean over the crop numbers, without intervals: what selection looks at.

    Raises:
        AffuseError: no record has a target, so there is nothing to measure.
    """
    known = [record for record in records if record.get("target") is not None]
    if not known:
        raise AffuseError("no sample has a target, so WAR and UAR are unknown: give the split labelled samples")
    target, prediction, crop = _columns(known)
    zeros = np.zeros_like(target)
    result = bootstrap_recalls(target, prediction, classes, zeros, crop)
    return {"war": result["war"]["value"], "uar": result["uar"]["value"]}


def summarise(
    records: Sequence[Record], classes: Sequence[str], modalities: Sequence[str], seed: int = 0
) -> dict[str, Any]:
    """Everything a report says of a classification, as plain JSON (unknown numbers are None).

    Args:
        records: lines of ``predictions.jsonl``; those without a target are counted and left out of the metrics.
        classes: names in index order.
        modalities: names in the order of ``weights["modality"]``.
        seed: of the bootstrap.

    Returns:
        ``war``, ``uar`` (each value, low, high), ``per_class`` and ``per_condition`` (by name), ``confusion``,
        ``calibration`` (ece, bins), ``unanswered``, ``samples`` (recordings), ``crops``, ``subjects``, ``clustered_by``,
        ``modality_weight_by_condition`` and ``modality_weight`` (means by modality), ``expert_load`` (mean_weight, chosen:
        share of samples with a weight above 0, first: share that weighs it most), ``event_weight_vs_rgb_lost``.

    Raises:
        AffuseError: a record names a class that does not exist.
    """
    known = [record for record in records if record.get("target") is not None]
    target, prediction, crop = _columns(known)
    by_subject = bool(known) and all(record.get("subject") is not None for record in known)
    cluster = _numbered(
        [str(record["subject"] if by_subject else record.get("id", i)) for i, record in enumerate(known)]
    )
    overall = bootstrap_recalls(target, prediction, len(classes), cluster, crop, seed)
    answered = [record for record in records if _answer(record) != UNANSWERED]
    condition = np.array([str(record.get("condition")) for record in known], dtype=object)
    per_condition = {}
    for name in _conditions(known):
        rows = condition == name
        part = bootstrap_recalls(target[rows], prediction[rows], len(classes), cluster[rows], crop[rows], seed)
        samples = len({str(record.get("id", i)) for i, record in enumerate(known) if rows[i]})
        per_condition[name] = part["war"] | {"samples": samples, "uar": part["uar"]}
    return {
        "war": overall["war"],
        "uar": overall["uar"],
        "per_class": dict(zip(classes, overall["per_class"], strict=True)),
        "per_condition": per_condition,
        "confusion": confusion_matrix(target, prediction, len(classes)).tolist(),
        "calibration": _calibration(known),
        "unanswered": len(records) - len(answered),
        "without_target": len(records) - len(known),
        "predictions": len(records),
        "samples": len({str(record.get("id", i)) for i, record in enumerate(records)}),
        "crops": len(np.unique(crop)),
        "subjects": len({record["subject"] for record in records if record.get("subject") is not None}),
        "clustered_by": "subject" if by_subject else "id",
        "modality_weight": _mean_weights(answered, modalities),
        "modality_weight_by_condition": {
            name: _mean_weights([r for r in answered if str(r.get("condition")) == name], modalities)
            for name in _conditions(answered)
        },
        "expert_load": _expert_load(answered),
        "event_weight_vs_rgb_lost": _event_weight_vs_rgb_lost(answered, modalities),
    }


def _columns(known: Sequence[Record]) -> tuple[Int[np.ndarray, "n"], Int[np.ndarray, "n"], Int[np.ndarray, "n"]]:
    """Target, prediction and crop number of records that have a target."""
    rows = [(int(r["target"]), _answer(r), int(r.get("crop") or 0)) for r in known]
    table = np.array(rows, dtype=np.int64).reshape(len(rows), 3)
    return table[:, 0], table[:, 1], table[:, 2]


def _calibration(known: Sequence[Record]) -> dict[str, Any]:
    stated = [r for r in known if _answer(r) != UNANSWERED and r.get("probabilities") is not None]
    confidence = np.array([r["probabilities"][_answer(r)] for r in stated], dtype=np.float64)
    correct = np.array([r["target"] == _answer(r) for r in stated], dtype=np.int64)
    ece = expected_calibration_error(confidence, correct)
    return {"ece": _plain(ece), "bins": reliability_bins(confidence, correct)}


def _weights(records: Sequence[Record], kind: str) -> Float[np.ndarray, "n k"]:
    rows = [r["weights"][kind] for r in records if (r.get("weights") or {}).get(kind) is not None]
    return np.array(rows, dtype=np.float64).reshape(len(rows), -1 if rows else 0)


def _mean_weights(answered: Sequence[Record], modalities: Sequence[str]) -> dict[str, float]:
    weights = _weights(answered, "modality")
    if weights.shape != (len(weights), len(modalities)) or not len(weights):
        return {}
    return {name: float(value) for name, value in zip(modalities, weights.mean(0), strict=True)}


def _expert_load(answered: Sequence[Record]) -> dict[str, list[float]]:
    weights = _weights(answered, "expert")
    if not weights.size:
        return {}
    first = np.bincount(weights.argmax(1), minlength=weights.shape[1]) / len(weights)
    chosen = (weights > 0).mean(0)
    return {"mean_weight": weights.mean(0).tolist(), "chosen": chosen.tolist(), "first": first.tolist()}


def _event_weight_vs_rgb_lost(answered: Sequence[Record], modalities: Sequence[str]) -> float | None:
    """Rank correlation between the weight of the event camera and the part of the RGB signal that the light took."""
    if "event" not in modalities:
        return None
    told = [
        r
        for r in answered
        if (r.get("truth") or {}).get("rgb_kept") is not None and (r.get("weights") or {}).get("modality") is not None
    ]
    weight = np.array([r["weights"]["modality"][list(modalities).index("event")] for r in told], dtype=np.float64)
    lost = np.array([1 - r["truth"]["rgb_kept"] for r in told], dtype=np.float64)
    return _plain(spearman(weight, lost))


def _answer(record: Record) -> int:
    prediction = record.get("prediction")
    return UNANSWERED if prediction is None or record.get("answered") is False else int(prediction)


def _conditions(records: Sequence[Record]) -> list[str]:
    return list(dict.fromkeys(str(r["condition"]) for r in records if r.get("condition") is not None))


def _numbered(names: Sequence[str]) -> Int[np.ndarray, "n"]:
    return np.unique(np.array(names, dtype=str), return_inverse=True)[1].astype(np.int64)


def _recalls(
    correct: Float[np.ndarray, "r k c"], total: Float[np.ndarray, "r k c"]
) -> tuple[Float[np.ndarray, "r 1"], Float[np.ndarray, "r 1"], Float[np.ndarray, "r c"]]:
    """WAR, UAR and class recalls of r tables, each a mean over those of the k crops that have samples (of the class)."""
    recall = _ratio(correct, total)  # r k c
    war = _nanmean(_ratio(correct.sum(2), total.sum(2)), 1)
    uar = _nanmean(_nanmean(recall, 2), 1)
    return war[:, None], uar[:, None], _nanmean(recall, 1)


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(np.shape(whole), np.nan), where=np.asarray(whole) > 0)


def _nanmean(values: np.ndarray, axis: int) -> np.ndarray:
    """As np.nanmean, without its warning where all are NaN."""
    return _ratio(np.nansum(values, axis), np.isfinite(values).sum(axis))


def _percentiles(values: Float[np.ndarray, "r k"]) -> Float[np.ndarray, "2 k"]:
    """2.5th and 97.5th percentile of each column over its finite values; NaN where it has none."""
    bounds = np.full((2, values.shape[1]), np.nan)
    for column in range(values.shape[1]):
        finite = values[np.isfinite(values[:, column]), column]
        if len(finite):
            bounds[:, column] = np.percentile(finite, (2.5, 97.5))
    return bounds


def _plain(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
