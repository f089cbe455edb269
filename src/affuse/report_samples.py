"""What a report draws of single samples: answers beside truths, features in the plane, weights beside importance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from affuse import explain
from affuse.metrics import modality_importance, modality_weights
from affuse.metrics.decisions import is_answered
from affuse.report_plots import BLUE, INK, LINE, ORANGE, QUIET, SERIES, canvas, svg

POINTS = 1000  # of a scatter plot, at most
PLANE = 500  # of features in the plane, at most: t-SNE takes seconds
COLUMNS = 24  # of samples side by side, at most
MARKERS = ("o", "s", "^", "D", "v")


def figures(
    records: Sequence[Mapping[str, Any]],
    features: tuple[NDArray[np.float32], NDArray[np.int64]] | None,
    metrics: Mapping[str, Any],
    modalities: Sequence[str],
    classes: Sequence[str],
) -> list[tuple[str, str, Markup | None]]:
    """Title, note and drawing (None where there is nothing to draw) of each figure.

    Args:
        records: lines of ``predictions.jsonl``.
        features: vectors (n, d) and the record (n) of each.
        metrics: what `affuse.metrics.summarise` gives.
        modalities: in the order of the modality weights.
        classes: names in index order; none of a regression.
    """
    answered = [r for r in records if is_answered(r) and r.get("target") is not None]
    units = f", {metrics['units']}" if metrics.get("units") else ""
    drawn = []
    if not classes:
        shown = evenly(answered, POINTS)
        some = "" if len(shown) == len(answered) else f" {len(shown)} of {len(answered)} samples."
        drawn.append(
            (
                "Answer beside truth",
                f"A point a sample{units}; on the dashed line, the two agree.{some}",
                _scatter(shown),
            )
        )
    plane, method = _plane(records, features, classes)
    of = "positive blue, negative orange" if not classes else "by true class"
    note = f"{method} of what the answer is read from; a point a sample, {of}. Distances between clouds mean little."
    drawn.append(("Features in the plane", note, plane))
    agreement = metrics.get("weight_vs_importance") or {}
    note = (
        "Share of each modality by sample, darker is more, framed the largest. Above: the weight that the system gave. Below: "
        "its importance, the inverse squared error of its answer alone, normalised."
    )
    if agreement:
        note += f" In {100 * agreement['agree']:.0f} % of {agreement['samples']} samples both name the same modality."
    drawn.append(("Weight beside importance", note, _weight_beside_importance(answered, modalities)))
    return drawn


def evenly(items: Sequence[Any], most: int) -> list[Any]:
    """At most this many, evenly spaced: a fixed rule, so that none is chosen for its looks."""
    if len(items) <= most:
        return list(items)
    return [items[index] for index in np.linspace(0, len(items) - 1, most).round().astype(int)]


def _scatter(answered: Sequence[Mapping[str, Any]]) -> Markup | None:
    points = np.array([(r["target"], r["value"]) for r in answered if r.get("value") is not None], dtype=np.float64)
    if not len(points):
        return None
    figure, (axis,) = canvas(4.2)
    low, high = points.min(), points.max()
    margin = 0.05 * (high - low) or 0.5
    span = (low - margin, high + margin)
    axis.plot(span, span, color=QUIET, linewidth=1, linestyle=(0, (4, 3)))
    axis.scatter(points[:, 0], points[:, 1], s=12, color=BLUE, alpha=0.5, linewidths=0)
    axis.set_xlim(span)
    axis.set_ylim(span)
    axis.set_aspect("equal")
    axis.grid(color=LINE, linewidth=0.8)
    axis.set_xlabel("truth", color=QUIET, fontsize=9)
    axis.set_ylabel("answer", color=QUIET, fontsize=9)
    return svg(figure, "Answers against truths")


def _plane(
    records: Sequence[Mapping[str, Any]],
    features: tuple[NDArray[np.float32], NDArray[np.int64]] | None,
    classes: Sequence[str],
) -> tuple[Markup | None, str]:
    if features is None:
        return None, ""
    vectors, rows = features
    known = [i for i, row in enumerate(rows) if 0 <= row < len(records) and records[int(row)].get("target") is not None]
    told = evenly(known, PLANE)
    projected = explain.project(vectors[told])
    if projected is None:
        return None, ""
    points, method = projected
    target = np.array([records[int(rows[i])]["target"] for i in told], dtype=np.float64)
    figure, (axis,) = canvas(4.2)
    if classes:
        for number, name in enumerate(classes):
            own = points[target == number]
            colour = SERIES[number % len(SERIES)]
            marker = MARKERS[number // len(SERIES) % len(MARKERS)]
            axis.scatter(own[:, 0], own[:, 1], s=13, color=colour, marker=marker, alpha=0.65, linewidths=0)
            _legend(axis, number, name, colour, marker)
    else:
        largest = np.abs(target).max() or 1.0
        for sign, colour in ((1, BLUE), (-1, ORANGE)):
            own = target * sign > 0
            if not own.any():  # all values of a scale from 1 to 5 have one sign
                continue
            strength: Any = 0.15 + 0.75 * np.abs(target[own]) / largest  # one a point
            axis.scatter(points[own, 0], points[own, 1], s=13, color=colour, alpha=strength, linewidths=0)
        zero = target == 0
        axis.scatter(points[zero, 0], points[zero, 1], s=13, color=QUIET, alpha=0.4, linewidths=0)
    axis.set_xticks([])
    axis.set_yticks([])
    return svg(figure, f"{method} of features"), method


def _legend(axis: Axes, number: int, name: str, colour: str, marker: str) -> None:
    """Below the plot, four names a row."""
    x, y = 0.25 * (number % 4), -0.05 - 0.06 * (number // 4)
    where: dict[str, Any] = {"transform": axis.transAxes, "clip_on": False}
    axis.scatter([x + 0.01], [y], s=20, color=colour, marker=marker, linewidths=0, **where)
    short = name if len(name) < 15 else name[:13] + "…"
    axis.text(x + 0.035, y, short, color=INK, fontsize=8, va="center", parse_math=False, **where)


def _weight_beside_importance(answered: Sequence[Mapping[str, Any]], modalities: Sequence[str]) -> Markup | None:
    pairs = [(modality_weights(r), modality_importance(r, modalities)) for r in answered]
    known = evenly([(weight, importance) for weight, importance in pairs if weight and importance], COLUMNS)
    if not known:
        return None
    m = len(modalities)
    figure, (axis,) = canvas(0.7 + 0.62 * m, width=10.0)
    for column, blocks in enumerate(known):
        for block, (shares, colour) in enumerate(zip(blocks, (BLUE, ORANGE), strict=True)):
            for row, share in enumerate(shares):
                y = row + block * (m + 0.5)
                framed = row == int(np.argmax(shares))
                axis.add_patch(
                    Rectangle(
                        (column - 0.46, y - 0.44),
                        0.92,
                        0.88,
                        facecolor=colour,
                        alpha=0.05 + 0.85 * min(max(share, 0.0), 1.0),
                        edgecolor="none",
                    )
                )
                if framed:
                    axis.add_patch(
                        Rectangle((column - 0.46, y - 0.44), 0.92, 0.88, fill=False, edgecolor=INK, linewidth=1.2)
                    )
                axis.text(column, y, f"{100 * share:.0f}", ha="center", va="center", fontsize=8, color=INK)
    axis.set_xlim(-0.6, len(known) - 0.4)
    axis.set_ylim(2 * m + 0.1, -0.6)
    names = [f"{name}, {what}" for what in ("weight", "importance") for name in modalities]
    axis.set_yticks([row + (0.5 if row >= m else 0) for row in range(2 * m)], names, parse_math=False)
    axis.tick_params(axis="y", labelcolor=INK)
    axis.set_xticks([])
    return svg(figure, "Modality weight and modality importance by sample")
