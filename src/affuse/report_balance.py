"""What a report draws of how modalities and time steps shared the work: TAAF-SNN's Figure 2, for any system.

Everything comes from columns of ``history.jsonl`` (`affuse.curves.ValidationCurves`, and what a loss or a balancing method
returns) and from the time weights of the predictions; what is not there is not drawn. Figure 2: Shen et al., "Spiking Neural
Networks with Temporal Attention-Guided Adaptive Fusion for imbalanced Multi-modal Learning", 2025, arXiv 2505.14535.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from affuse.report_plots import BLUE, INK, LINE, QUIET, SERIES, canvas, svg

ALONE, SHARE, TIME = "Each modality alone, by epoch", "Balance of the modalities, by epoch", "Attention by time step"
EPOCHS, STEPS = 40, 16  # columns and rows of the attention map, at most
FARTHEST = 20  # doublings that an axis of ratios shows, at most
LABELS = 12  # numbers below an axis of steps, at most
DASHES: tuple[Any, ...] = ("solid", (0, (5, 2)), (0, (1, 1.5)), (0, (5, 1, 1, 1)))


@dataclass(frozen=True)
class Curve:
    """One line of a panel: its name, points (epoch from 1, value), colour and dashes."""

    name: str
    points: list[tuple[int, float]]
    colour: str
    dash: Any = "solid"


@dataclass(frozen=True)
class Panel:
    """Lines over the epochs that share an axis: ``share`` (0 to 1, in percent), ``ratio`` (logarithmic) or ``plain``."""

    label: str
    curves: list[Curve]
    scale: str = "plain"


def figures(
    history: Sequence[Mapping[str, Any]], records: Sequence[Mapping[str, Any]]
) -> list[tuple[str, str, Markup | None]]:
    """Title, note and drawing (None where there is nothing to draw) of each figure; each takes the width of the page.

    Args:
        history: rows of ``history.jsonl``, one an epoch. Read are ``validation/unimodal/NAME/war`` (or ``mae``) and ``/loss``,
            ``validation/war`` (or ``mae``), ``validation/fused`` or else ``validation/total``, ``ratio/NAME`` of both splits,
            ``train/k/NAME``, ``train/coefficient/NAME`` and ``validation/time/STEP``.
        records: lines of ``predictions.jsonl``, of which ``weights.time`` is read.
    """
    alone_note = "On validation data: what each modality alone answers, beside the fused answer. "
    if _points(history, "validation/fused"):
        alone_note += "The fused loss is that of the fused answer alone."
    else:
        alone_note += "The fused loss is the whole loss that was minimised, with every term that the method adds."
    share_note = (
        "Contribution ratio: mean probability that a modality alone gives the true class, over that of the others; above 1 it "
        "dominates. Factor k weighs the loss of a modality. A coefficient is what a balancing method multiplies a modality's "
        "gradients by (OGM-GE, AGM) or its prototype term (PMR)."
    )
    time_note = "Mean weight of each time step. "
    time_note += "Left: on validation data, by epoch, darker is more. Right: of the test samples; line: middle 80 %."
    return [
        (ALONE, alone_note, _panels(_alone(history), ALONE)),
        (SHARE, share_note, _panels(_balance(history), SHARE)),
        (TIME, time_note, _time(history, records)),
    ]


def _alone(history: Sequence[Mapping[str, Any]]) -> list[Panel]:
    panels = []
    loss = "validation/fused" if _points(history, "validation/fused") else "validation/total"
    for measure, fused, label, scale in (
        ("war", "validation/war", "accuracy (WAR), %", "share"),
        ("mae", "validation/mae", "mean absolute error", "plain"),
        ("loss", loss, "loss", "plain"),
    ):
        names = _between(history, "validation/unimodal/", f"/{measure}")
        curves = _curves(history, {name: f"validation/unimodal/{name}/{measure}" for name in names})
        whole = _points(history, fused)
        if curves and whole:
            curves.append(Curve("fused", whole, INK))
        panels.append(Panel(label, curves, scale))
    return panels


def _balance(history: Sequence[Mapping[str, Any]]) -> list[Panel]:
    panels: list[Panel] = []
    for column, label, scale in (
        ("validation/ratio/", "contribution ratio, validation", "ratio"),
        ("train/ratio/", "contribution ratio, training", "ratio"),
        ("train/k/", "factor k of the loss", "plain"),
        ("train/coefficient/", "coefficient", "plain"),
    ):
        curves = _curves(history, {name: column + name for name in _between(history, column)})
        if not (column == "train/ratio/" and panels and panels[0].curves):
            # Beside those of validation, ratios of the training batches say little more.
            panels.append(Panel(label, curves, scale))
    return panels


def _between(history: Sequence[Mapping[str, Any]], start: str, end: str = "") -> list[str]:
    """What stands in column names between a start and an end, in order of appearance."""
    names = (key[len(start) : len(key) - len(end)] for row in history for key in row if _is_within(key, start, end))
    return list(dict.fromkeys(name for name in names if name))


def _is_within(key: str, start: str, end: str) -> bool:
    return key.startswith(start) and key.endswith(end) and len(key) >= len(start) + len(end)


def _points(history: Sequence[Mapping[str, Any]], key: str) -> list[tuple[int, float]]:
    return [
        (int(row.get("epoch", i)) + 1, float(row[key])) for i, row in enumerate(history) if _is_number(row.get(key))
    ]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _curves(history: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> list[Curve]:
    """A line a name, in the colours of the page; from the fifth on they differ by their dashes."""
    found = []
    for number, (name, column) in enumerate(columns.items()):
        points = _points(history, column)
        if points:
            dash = DASHES[number // len(SERIES) % len(DASHES)]
            found.append(Curve(name, points, SERIES[number % len(SERIES)], dash))
    return found


def _panels(panels: Sequence[Panel], label: str) -> Markup | None:
    shown = [panel for panel in panels if panel.curves]
    if not shown:
        return None
    figure, axes = canvas(2.8, panels=len(shown), width=10.0)
    for axis, panel in zip(axes, shown, strict=True):
        _draw(axis, panel)
        for number, curve in enumerate(panel.curves):
            _legend(axis, number, curve, 2 if len(shown) > 2 else 4)
    return svg(figure, label)


def _draw(axis: Axes, panel: Panel) -> None:
    """The lines of a panel, on an axis that holds all of them."""
    for curve in panel.curves:
        x, y = zip(*curve.points, strict=True)
        axis.plot(
            x,
            y,
            color=curve.colour,
            linestyle=curve.dash,
            linewidth=2.2 if curve.colour == INK else 1.6,
            marker="o" if len(x) < 3 else None,
            markersize=4,
        )
    values = [value for curve in panel.curves for _, value in curve.points]
    if panel.scale == "ratio":
        _ratio_axis(axis, [value for value in values if value > 0])
    elif panel.scale == "share":
        axis.set_ylim(0, 1)
        ticks = [0, 0.25, 0.5, 0.75, 1]
        axis.set_yticks(ticks, [f"{100 * tick:.0f}" for tick in ticks])
    else:
        # A line along the very top would be cut in half.
        axis.set_ylim(min(0.0, *values), 1.05 * max(0.0, *values) or 1.0)
    axis.grid(axis="y", color=LINE, linewidth=0.8)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_xlabel("epoch", color=QUIET, fontsize=9)
    axis.set_ylabel(panel.label, color=QUIET, fontsize=9)


def _ratio_axis(axis: Axes, values: Sequence[float]) -> None:
    """A logarithmic axis around 1, as far up as down, so that twice and half lie equally far away."""
    farthest = max((abs(math.log2(value)) for value in values), default=0.0)
    doublings = min(max(1, math.ceil(farthest)), FARTHEST)
    every = math.ceil(doublings / 4)
    # Limits first: a ratio of 0 alone has none on a logarithmic axis.
    axis.set_ylim(2.0 ** -(doublings + 0.1), 2.0 ** (doublings + 0.1))
    axis.set_yscale("log", base=2)
    powers = sorted({sign * power for power in range(0, doublings + 1, every) for sign in (-1, 1)})
    axis.set_yticks(
        [2.0**power for power in powers], [f"{2**power:g}" if power >= 0 else f"1/{2**-power}" for power in powers]
    )
    axis.minorticks_off()
    axis.axhline(1, color=QUIET, linewidth=1, linestyle=(0, (4, 3)))


def _legend(axis: Axes, number: int, curve: Curve, a_row: int) -> None:
    """Above the panel, rows from below."""
    x, y = number % a_row / a_row, 1.03 + 0.09 * (number // a_row)
    where: dict[str, Any] = {"transform": axis.transAxes, "clip_on": False}
    axis.plot([x, x + 0.05], [y + 0.03] * 2, color=curve.colour, linestyle=curve.dash, linewidth=2.2, **where)
    short = curve.name if len(curve.name) < 13 else curve.name[:11] + "…"
    axis.text(x + 0.065, y, short, color=INK, fontsize=9, va="bottom", parse_math=False, transform=axis.transAxes)


def _time(history: Sequence[Mapping[str, Any]], records: Sequence[Mapping[str, Any]]) -> Markup | None:
    by_epoch, epochs = _weights_by_epoch(history)
    of_samples = _weights_of_samples(records)
    shown = [part for part in (by_epoch, of_samples) if part is not None]
    if not shown:
        return None
    figure, axes = canvas(2.8, panels=len(shown), width=10.0)
    places = iter(axes)
    if by_epoch is not None:
        _map(next(places), by_epoch, epochs)
    if of_samples is not None:
        _bars(next(places), of_samples)
    return svg(figure, TIME)


def _weights_by_epoch(history: Sequence[Mapping[str, Any]]) -> tuple[NDArray[np.float64] | None, list[int]]:
    """Mean time weights (epoch, step), evenly spaced epochs, and their numbers from 1."""
    steps = sorted({int(name) for name in _between(history, "validation/time/") if name.isdecimal()})
    rows = [
        (int(row.get("epoch", i)) + 1, [row.get(f"validation/time/{step}") for step in steps])
        for i, row in enumerate(history)
        if any(_is_number(row.get(f"validation/time/{step}")) for step in steps)
    ]
    if not rows:
        return None, []
    chosen = np.unique(np.linspace(0, len(rows) - 1, min(EPOCHS, len(rows))).round().astype(int))
    values = [[weight if _is_number(weight) else 0.0 for weight in rows[row][1]] for row in chosen]
    return np.array(values, dtype=np.float64), [rows[row][0] for row in chosen]


def _weights_of_samples(records: Sequence[Mapping[str, Any]]) -> NDArray[np.float64] | None:
    """Time weights (sample, step) of what was answered; a step that a shorter sample lacks has no weight in it."""
    found = list(_answered_weights(records))
    if not found:
        return None
    table = np.zeros((len(found), max(map(len, found))))
    for row, weights in enumerate(found):
        table[row, : len(weights)] = weights
    return table


def _answered_weights(records: Sequence[Mapping[str, Any]]) -> Iterator[list[float]]:
    for record in records:
        weights = (record.get("weights") or {}).get("time") or []
        # A row that was not answered is all zero.
        if all(_is_number(weight) for weight in weights) and any(weights):
            yield weights


def _map(axis: Axes, weights: NDArray[np.float64], epochs: Sequence[int]) -> None:
    """Time weights as squares: steps upward, epochs to the right; the largest of all is darkest.

    A long sequence is drawn by means over neighbouring steps.
    """
    steps = weights.shape[1]
    groups = np.array_split(np.arange(steps), min(STEPS, steps))
    weights = np.stack([weights[:, group].mean(1) for group in groups], 1)
    largest = float(weights.max()) or 1.0
    for column, row in np.ndindex(*weights.shape):
        strength = max(0.0, float(weights[column, row])) / largest
        square: dict[str, Any] = {"facecolor": BLUE, "alpha": 0.04 + 0.86 * strength, "edgecolor": "none"}
        axis.add_patch(Rectangle((column - 0.48, row - 0.46), 0.96, 0.92, **square))
    axis.set_xlim(-0.5, len(epochs) - 0.5)
    axis.set_ylim(-0.5, weights.shape[1] - 0.5)
    ticks = np.unique(np.linspace(0, len(epochs) - 1, min(8, len(epochs))).round().astype(int))
    axis.set_xticks(ticks, [str(epochs[tick]) for tick in ticks])
    axis.set_xlabel("epoch", color=QUIET, fontsize=9)
    _step_axis(axis, [int(group[0]) for group in groups], "y")


def _bars(axis: Axes, weights: NDArray[np.float64]) -> None:
    """Mean weight of each step over samples, with the range from the 10th to the 90th percentile."""
    steps = np.arange(weights.shape[1])
    low, high = np.percentile(weights, (10, 90), axis=0)
    axis.bar(steps, weights.mean(0), 0.72, color=BLUE, alpha=0.75)
    if len(weights) > 1:
        axis.vlines(steps, low, high, color=INK, linewidth=1.4)
    axis.axhline(1 / len(steps), color=QUIET, linewidth=1, linestyle=(0, (4, 3)))
    axis.set_ylim(bottom=0)
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}"))
    axis.grid(axis="y", color=LINE, linewidth=0.8)
    axis.set_ylabel("weight, % (dashed: even)", color=QUIET, fontsize=9)
    _step_axis(axis, list(range(len(steps))), "x")


def _step_axis(axis: Axes, steps: Sequence[int], which: str) -> None:
    """The numbers of the steps from 1, every one of them where there is room."""
    ticks = list(range(0, len(steps), math.ceil(len(steps) / LABELS)))
    labels = [str(steps[tick] + 1) for tick in ticks]
    if which == "x":
        axis.set_xticks(ticks, labels)
        axis.set_xlabel("time step", color=QUIET, fontsize=9)
    else:
        axis.set_yticks(ticks, labels)
        axis.set_ylabel("time step", color=QUIET, fontsize=9)
