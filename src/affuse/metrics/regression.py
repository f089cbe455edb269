"""Metrics of a regression of sentiment, each equal to the field's definition (MMSA) and named with its rule.

A value of NaN means "not answered". It has no error, so it is left out of the mean absolute error and of the correlation; in
the accuracies and in F1 it counts as wrong. How many there are stands beside the metrics.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from affuse.metrics.intervals import RESAMPLES, bootstrap, nanmean, ratio

RULES = {
    "mae": "mean absolute error of the answered samples, not clipped",
    "corr": "Pearson correlation of answers and truth over the answered samples",
    "acc2_has0": "accuracy, truth >= 0 against answer >= 0, all samples",
    "f1_has0": "F1 of the same two classes, averaged with their support as weights",
    "acc2_non0": "accuracy, truth > 0 against answer > 0, without the samples whose truth is exactly 0",
    "f1_non0": "F1 of the same two classes, averaged with their support as weights",
    "acc3": "truth and answer clipped to [-1, 1] and rounded, half to even",
    "acc5": "truth and answer clipped to [-2, 2] and rounded, half to even",
    "acc7": "truth and answer clipped to [-3, 3] and rounded, half to even",
}
LIMITS = {"acc3": 1, "acc5": 2, "acc7": 3}
SENTIMENT = (-3.0, 3.0)

# Columns of what each sample adds to the sums: two confusion matrices of 2 x 3 (third answer: none), then these.
_COLUMNS = (*LIMITS, "answered", "error", "x", "y", "xx", "yy", "xy")


def measured(value_range: tuple[float, float] | None) -> tuple[str, ...]:
    """The metrics that make sense on a scale: acc-3, acc-5 and acc-7 belong to one from -3 to 3, signs to one around zero.

    An unknown scale (None) is taken for the one from -3 to 3.
    """
    if value_range is None or tuple(value_range) == SENTIMENT:
        return tuple(RULES)
    signed = value_range[0] < 0 < value_range[1]
    return tuple(
        name for name in RULES if name not in LIMITS and (signed or ("has0" not in name and "non0" not in name))
    )


def regression_scores(target: Float[np.ndarray, " n"], value: Float[np.ndarray, " n"]) -> dict[str, float]:
    """Every metric of `RULES`, NaN where it is not known (correlation of a constant, acc2_non0 where every truth is 0).

    Args:
        target: the truth.
        value: the answers; NaN where not answered.
    """
    scores = _scores(_statistics(target, value).sum(0)[None, None])
    return {name: float(part[0, 0]) for name, part in scores.items()}


def bootstrap_regression(
    target: Float[np.ndarray, " n"],
    value: Float[np.ndarray, " n"],
    cluster: Int[np.ndarray, " n"],
    crop: Int[np.ndarray, " n"],
    names: Sequence[str] = tuple(RULES),
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> dict[str, Any]:
    """The named metrics, each {"value", "low", "high"}, by a bootstrap over clusters (`intervals.bootstrap`).

    Each metric is computed for every crop number and averaged over them.
    """
    if not len(target):
        return {name: {"value": None, "low": None, "high": None} for name in names}
    found = bootstrap(_statistics(target, value), cluster, crop, _scores, seed, resamples)
    return {name: found[name][0] for name in names}


def _statistics(target: Float[np.ndarray, " n"], value: Float[np.ndarray, " n"]) -> Float[np.ndarray, "n s"]:
    target, value = target.astype(np.float64), value.astype(np.float64)
    answered = np.isfinite(value)
    said = np.where(answered, value, 0.0)
    rows = np.arange(len(target))
    has0, non0 = np.zeros((2, len(target), 2, 3))
    has0[rows, (target >= 0).astype(int), np.where(answered, said >= 0, 2)] = 1
    non0[rows, (target > 0).astype(int), np.where(answered, said > 0, 2)] = 1
    non0[target == 0] = 0
    classes = [
        answered & (np.round(np.clip(target, -limit, limit)) == np.round(np.clip(said, -limit, limit)))
        for limit in LIMITS.values()
    ]
    # Moments about the mean: the correlation would lose digits to those about zero.
    x = np.where(answered, said - (said[answered].mean() if answered.any() else 0), 0)
    y = np.where(answered, target - (target[answered].mean() if answered.any() else 0), 0)
    error = np.where(answered, np.abs(said - target), 0)
    others = np.stack([*classes, answered, error, x, y, x * x, y * y, x * y], 1).astype(np.float64)
    return np.concatenate([has0.reshape(-1, 6), non0.reshape(-1, 6), others], 1)


def _scores(table: Float[np.ndarray, "r k s"]) -> dict[str, Float[np.ndarray, "r 1"]]:
    """Metrics of r tables, each a mean over those of the k crops that know it."""
    has0, non0 = (table[..., start : start + 6].reshape(*table.shape[:2], 2, 3) for start in (0, 6))
    of = {name: table[..., 12 + number] for number, name in enumerate(_COLUMNS)}
    n, samples = of["answered"], has0.sum((2, 3))
    scores = {
        "mae": ratio(of["error"], n),
        "corr": _correlation(n, *(of[name] for name in ("x", "y", "xx", "yy", "xy"))),
        "acc2_has0": ratio(np.trace(has0, axis1=2, axis2=3), samples),
        "f1_has0": _weighted_f1(has0),
        "acc2_non0": ratio(np.trace(non0, axis1=2, axis2=3), non0.sum((2, 3))),
        "f1_non0": _weighted_f1(non0),
        **{name: ratio(of[name], samples) for name in LIMITS},
    }
    return {name: nanmean(part, 1)[:, None] for name, part in scores.items()}


def _weighted_f1(table: Float[np.ndarray, "r k 2 3"]) -> Float[np.ndarray, "r k"]:
    """scikit-learn's f1_score(truth, answer, average="weighted"): F1 of both classes weighted by their support."""
    correct = np.diagonal(table, axis1=2, axis2=3)  # r k 2
    support = table.sum(3)
    f1 = np.nan_to_num(ratio(2 * correct, support + table[..., :2].sum(2)))
    return ratio((f1 * support).sum(2), support.sum(2))


def _correlation(
    n: Float[np.ndarray, "r k"],
    x: Float[np.ndarray, "r k"],
    y: Float[np.ndarray, "r k"],
    xx: Float[np.ndarray, "r k"],
    yy: Float[np.ndarray, "r k"],
    xy: Float[np.ndarray, "r k"],
) -> Float[np.ndarray, "r k"]:
    """Pearson's correlation from sums; NaN where one side is constant."""
    many = np.maximum(n, 1)
    spread_x, spread_y = xx - x * x / many, yy - y * y / many
    # What rounding leaves of a constant side is not a spread.
    spread = np.where((spread_x > 1e-12 * xx) & (spread_y > 1e-12 * yy), spread_x * spread_y, 0)
    return np.clip(ratio(xy - x * y / many, np.sqrt(spread)), -1, 1)
