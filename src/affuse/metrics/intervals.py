"""Bootstrap intervals over clusters, rank correlation, and means that know of nothing."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int

RESAMPLES = 1000

Measure = Callable[[np.ndarray], dict[str, np.ndarray]]


def bootstrap(
    statistics: Float[np.ndarray, " n *s"],
    cluster: Int[np.ndarray, " n"],
    crop: Int[np.ndarray, " n"],
    measure: Measure,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> dict[str, list[dict[str, float | None]]]:
    """Values and 95 % intervals of metrics that follow from sums over samples.

    Whole clusters (subjects, or recordings where the subject is not known) are drawn with replacement, because samples of one
    person are not independent; the interval runs from the 2.5th to the 97.5th percentile. With one cluster nothing can be
    resampled and the interval is unknown (None).

    Args:
        statistics: what each sample adds to the sums.
        cluster: of each sample, any whole number that its cluster has alone.
        crop: crop number of each sample.
        measure: sums (r, k, ...) of r resamples and k crop numbers to metrics (r, j), each a mean over the crops.

    Returns:
        By metric a list of j {"value", "low", "high"}; what is not known is None.
    """
    names, member = np.unique(cluster, return_inverse=True)
    crops, crop_index = np.unique(crop, return_inverse=True)
    table = np.zeros((len(names), len(crops), *statistics.shape[1:]))
    np.add.at(table, (member, crop_index), statistics)
    value = measure(table.sum(0, keepdims=True))
    bounds = {name: np.full((2, part.shape[1]), np.nan) for name, part in value.items()}
    if len(names) > 1:
        drawn = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), size=resamples)
        bounds = {name: percentiles(part) for name, part in measure(np.tensordot(drawn, table, 1)).items()}
    return {
        name: [
            {"value": plain(v), "low": plain(low), "high": plain(high)}
            for v, low, high in zip(part[0], *bounds[name], strict=True)
        ]
        for name, part in value.items()
    }


def ranks(values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Ranks from 1; equal values share the mean of their ranks."""
    _, inverse, count = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(count) - (count - 1) / 2)[inverse]


def spearman(a: Float[np.ndarray, " n"], b: Float[np.ndarray, " n"]) -> float:
    """Spearman's rank correlation: Pearson's of the ranks, ties averaged. NaN where one side is constant or n < 2."""
    if len(a) < 2:
        return float("nan")
    x, y = ranks(a), ranks(b)
    x, y = x - x.mean(), y - y.mean()
    scale = np.sqrt((x**2).sum() * (y**2).sum())
    return float(np.clip((x * y).sum() / scale, -1, 1)) if scale > 0 else float("nan")


def ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole, NaN where whole is not above 0."""
    return np.divide(part, whole, out=np.full(np.shape(whole), np.nan), where=np.asarray(whole) > 0)


def nanmean(values: np.ndarray, axis: int) -> np.ndarray:
    """As np.nanmean, without its warning where all are NaN."""
    return ratio(np.nansum(values, axis), np.isfinite(values).sum(axis))


def percentiles(values: Float[np.ndarray, "r k"]) -> Float[np.ndarray, "2 k"]:
    """2.5th and 97.5th percentile of each column over its finite values; NaN where it has none."""
    bounds = np.full((2, values.shape[1]), np.nan)
    for column in range(values.shape[1]):
        finite = values[np.isfinite(values[:, column]), column]
        if len(finite):
            bounds[:, column] = np.percentile(finite, (2.5, 97.5))
    return bounds


def plain(value: float) -> float | None:
    """A number for JSON: None where it is not known."""
    return float(value) if np.isfinite(value) else None
