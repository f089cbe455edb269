"""Metrics of a classification.

A prediction of -1 means "not answered". It is never dropped: it counts as wrong in every recall, has a column of its own in the
confusion matrix, and is left out of the calibration only, because a system that did not answer stated no confidence.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float, Int

from affuse.metrics.intervals import RESAMPLES, bootstrap, nanmean, plain, ratio
from affuse.types import AffuseError

UNANSWERED = -1
RULES = {
    "war": "weighted average recall: accuracy, correct / all",
    "uar": "unweighted average recall: mean of the recalls of the classes that occur in the truth",
    "macro_precision": "mean precision over the classes present in truth or answers; 0 for one that was never answered",
    "macro_recall": "mean recall over the classes present in truth or answers; 0 for one that is not in the truth",
    "macro_f1": "mean F1 over the classes present in truth or answers",
}


def confusion_matrix(
    target: Int[np.ndarray, " n"], prediction: Int[np.ndarray, " n"], classes: int
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


def weighted_average_recall(target: Int[np.ndarray, " n"], prediction: Int[np.ndarray, " n"]) -> float:
    """WAR: the mean of the classes' recalls weighted by their support, which is accuracy: correct / all. NaN of nothing."""
    return float(np.mean(target == prediction)) if len(target) else float("nan")


def unweighted_average_recall(target: Int[np.ndarray, " n"], prediction: Int[np.ndarray, " n"]) -> float:
    """UAR: the plain mean of the recalls of the classes that occur in `target` (balanced accuracy). NaN of nothing."""
    if not len(target):
        return float("nan")
    return float(np.mean([np.mean(prediction[target == c] == c) for c in np.unique(target)]))


def per_class_recall(
    target: Int[np.ndarray, " n"], prediction: Int[np.ndarray, " n"], classes: int
) -> Float[np.ndarray, " {classes}"]:
    """Of the samples of each class, the part that was answered with it; NaN where `target` has none of the class."""
    counts = confusion_matrix(target, prediction, classes)
    return ratio(np.diagonal(counts), counts.sum(1))


def reliability_bins(
    confidence: Float[np.ndarray, " n"], correct: Int[np.ndarray, " n"], bins: int = 10
) -> dict[str, list[float | int | None]]:
    """Equal-width bins over [0, 1] of the confidence (probability of the answer), for a reliability diagram.

    A bin is [lower, upper), the last one closed. Returns lists of length `bins`: ``lower``, ``upper``, ``count``, and
    ``confidence`` and ``accuracy`` (means within the bin; None in an empty one).
    """
    edges = np.linspace(0, 1, bins + 1)
    where = np.clip(np.searchsorted(edges, confidence, side="right") - 1, 0, bins - 1)
    count = np.bincount(where, minlength=bins)
    mean_confidence = ratio(np.bincount(where, confidence, bins), count)
    accuracy = ratio(np.bincount(where, correct, bins), count)
    return {
        "lower": edges[:-1].tolist(),
        "upper": edges[1:].tolist(),
        "count": count.tolist(),
        "confidence": [plain(v) for v in mean_confidence],
        "accuracy": [plain(v) for v in accuracy],
    }


def expected_calibration_error(
    confidence: Float[np.ndarray, " n"], correct: Int[np.ndarray, " n"], bins: int = 10
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


def macro_scores(target: Int[np.ndarray, " n"], prediction: Int[np.ndarray, " n"], classes: int) -> dict[str, float]:
    """``macro_precision``, ``macro_recall`` and ``macro_f1``: plain means over the classes present in truth or answers.

    They are scikit-learn's ``average="macro"`` with its default labels and ``zero_division=0``, as MIntRec reports them.
    Macro recall differs from UAR where a class is answered that the truth does not hold. NaN of nothing.
    """
    table = confusion_matrix(target, prediction, classes).astype(np.float64)[None, None]
    return {name: float(value[0, 0]) for name, value in _scores(table).items() if name.startswith("macro")}


def bootstrap_classification(
    target: Int[np.ndarray, " n"],
    prediction: Int[np.ndarray, " n"],
    classes: int,
    cluster: Int[np.ndarray, " n"],
    crop: Int[np.ndarray, " n"],
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> dict[str, Any]:
    """Every metric of `RULES` and the recall of each class with 95 % intervals, by a bootstrap over clusters.

    Each metric is computed for every crop number and averaged over them; the interval is that of `intervals.bootstrap`.

    Args:
        cluster: of each sample, any whole number that its cluster has alone.
        crop: crop number of each sample.

    Returns:
        By metric {"value", "low", "high"}; ``per_class``: a list of the same with "support" (samples of the class, over
        all crops).
    """
    if not len(target):
        nothing = {"value": None, "low": None, "high": None}
        return {name: dict(nothing) for name in RULES} | {"per_class": [nothing | {"support": 0}] * classes}
    counts = confusion_matrix(target, prediction, classes)
    column = np.where(prediction == UNANSWERED, classes, prediction)
    # The confusion of each cluster and crop is all that these metrics need: a resample is then a weighted sum.
    cells = np.zeros((len(target), classes, classes + 1))
    cells[np.arange(len(target)), target, column] = 1
    found = bootstrap(cells, cluster, crop, _scores, seed, resamples)
    supported = [entry | {"support": int(n)} for entry, n in zip(found.pop("per_class"), counts.sum(1), strict=True)]
    return {name: part[0] for name, part in found.items()} | {"per_class": supported}


def _scores(table: Float[np.ndarray, "r k c d"]) -> dict[str, Float[np.ndarray, "r _"]]:
    """Metrics of r tables, each a mean over those of the k crops that have samples (of the class)."""
    classes = table.shape[2]
    correct = np.diagonal(table, axis1=2, axis2=3)  # r k c
    true, answered = table.sum(3), table[..., :classes].sum(2)
    recall = ratio(correct, true)
    present = true + answered > 0
    count = present.sum(2)
    parts = {
        "macro_precision": np.nan_to_num(ratio(correct, answered)),
        "macro_recall": np.nan_to_num(recall),
        "macro_f1": np.nan_to_num(ratio(2 * correct, true + answered)),
    }
    return {
        "war": nanmean(ratio(correct.sum(2), true.sum(2)), 1)[:, None],
        "uar": nanmean(nanmean(recall, 2), 1)[:, None],
        # Where a resample has no sample at all it has no class either, and the mean is unknown.
        **{name: nanmean(ratio(part.sum(2), count), 1)[:, None] for name, part in parts.items()},
        "per_class": nanmean(recall, 1),
    }
