"""What a report draws of sensors that answer one by one as well as together: look-alike classes, who was right, attention.

Everything comes from columns that any system may fill: the confusion matrix, `Output.unimodal` and ``aux["attention/NAME"]``;
what is not there is not drawn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from affuse.report_plots import BLUE, GREEN, INK, LINE, ORANGE, QUIET, canvas, svg

LOOK_ALIKES, RIGHT, BY_CONDITION = "Look-alike classes", "Each sensor alone, and together", "Right in each condition"
ATTENTION = "Attention over the frames"
PAIRS = 8  # of classes, at most
MARKERS = ("o", "s", "^", "D", "v")
Record = Mapping[str, Any]


def figures(
    records: Sequence[Record],
    metrics: Mapping[str, Any],
    modalities: Sequence[str],
    classes: Sequence[str],
    attention: Sequence[tuple[str, Mapping[str, Tensor]]] = (),
) -> list[tuple[str, str, Markup | None]]:
    """Title, note and drawing (None where there is nothing to draw) of each figure.

    Args:
        records: lines of ``predictions.jsonl``.
        metrics: what `affuse.metrics.summarise` gives, of which ``confusion`` is read.
        modalities: in the order of the modality weights.
        classes: names in index order; none of a regression, of which only attention is drawn.
        attention: of some samples, a name and by modality the attention (t, y, x) or (t,).
    """
    alone = (
        [name for name in modalities if any((r.get("unimodal") or {}).get(name) for r in records)] if classes else []
    )
    alike = (
        "Pairs of classes that were most often taken for each other. Bar: share of the samples of both that were answered with "
        "the other, with their number."
    )
    if alone:
        alike += " Marks: the same of each sensor alone, over the samples that have it."
    right = "Share of the test samples that have the sensor: who was right, the sensor alone or all together."
    condition = "Percent right, each sensor alone over the samples that have it; darker is more, framed the best."
    looked = (
        "Share of each frame in the attention (over tokens, or over time), in percent; darker is more. A sample a row."
    )
    return [
        (LOOK_ALIKES, alike, _look_alikes(records, metrics.get("confusion"), alone, classes)),
        (RIGHT, right, _right(records, alone)),
        (BY_CONDITION, condition, _by_condition(records, alone)),
        (ATTENTION, looked, attention_over_frames(attention, modalities)),
    ]


def look_alike_pairs(confusion: Sequence[Sequence[int]], most: int = PAIRS) -> list[tuple[int, int, int, int]]:
    """The pairs of classes that were most often taken for each other, the largest first.

    Args:
        confusion: counts, row: true class, column: answer, a last column of no answer may follow.
        most: pairs, at most; those that were never confused are left out.

    Returns:
        Of each pair a < b: a, b, how many of a were answered b, and how many of b were answered a.
    """
    counts = [
        (a, b, int(confusion[a][b]), int(confusion[b][a]))
        for a in range(len(confusion))
        for b in range(a + 1, len(confusion))
    ]
    return sorted((pair for pair in counts if pair[2] + pair[3]), key=lambda pair: -(pair[2] + pair[3]))[:most]


def _look_alikes(
    records: Sequence[Record], confusion: Sequence[Sequence[int]] | None, alone: Sequence[str], classes: Sequence[str]
) -> Markup | None:
    if not confusion or len(classes) < 3 or len(confusion) != len(classes):
        return None
    pairs = look_alike_pairs(confusion)
    if not pairs:
        return None
    figure, (axis,) = canvas(0.8 + 0.4 * max(len(pairs), 3))
    for row, (a, b, a_for_b, b_for_a) in enumerate(pairs):
        total = max(sum(confusion[a]) + sum(confusion[b]), 1)
        axis.barh(row, a_for_b / total, height=0.5, color=BLUE, alpha=0.75)
        axis.barh(row, b_for_a / total, left=a_for_b / total, height=0.5, color=ORANGE, alpha=0.75)
        text = f"{a_for_b} + {b_for_a}"
        axis.text(1.03, row, text, va="center", fontsize=8, color=QUIET, transform=axis.get_yaxis_transform())
        for number, name in enumerate(alone):
            share = _mistaken(records, name, a, b)
            if share is not None:
                style: dict[str, Any] = {"facecolors": "none", "edgecolors": INK, "linewidths": 1.1, "clip_on": False}
                axis.scatter([share], [row], s=30, marker=MARKERS[number % len(MARKERS)], zorder=3, **style)
    for number, name in enumerate(alone):
        where: dict[str, Any] = {"transform": axis.transAxes, "clip_on": False}
        marker = MARKERS[number % len(MARKERS)]
        x, y = 0.34 * (number % 3), 1.05 + 0.09 * (number // 3)  # three names a row
        axis.scatter([x], [y], s=26, marker=marker, facecolors="none", edgecolors=INK, **where)
        axis.text(x + 0.03, y, f"{_short(name)} alone", va="center", fontsize=8, color=INK, parse_math=False, **where)
    names = [f"{_short(classes[a])} / {_short(classes[b])}" for a, b, _, _ in pairs]
    axis.set_yticks(range(len(pairs)), names, parse_math=False)
    axis.tick_params(axis="y", labelcolor=INK, labelsize=8)
    axis.set_ylim(max(len(pairs), 3) - 0.4, -0.6)
    _share_axis(axis)
    return svg(figure, "Classes that were taken for each other")


def _mistaken(records: Sequence[Record], name: str, a: int, b: int) -> float | None:
    """Of the samples of two classes, the part that a sensor alone would have taken for the other."""
    said = [
        (r["target"], int(np.argmax(r["unimodal"][name])))
        for r in records
        if r.get("target") in (a, b) and (r.get("unimodal") or {}).get(name)
    ]
    return float(np.mean([answer == a + b - target for target, answer in said])) if said else None


def _judged(records: Sequence[Record], name: str) -> list[tuple[bool, bool]]:
    """Of the samples that have a sensor: whether it alone was right, and whether all together were."""
    return [
        (int(np.argmax(r["unimodal"][name])) == r["target"], r.get("prediction") == r["target"])
        for r in records
        if r.get("target") is not None and (r.get("unimodal") or {}).get(name)
    ]


def _right(records: Sequence[Record], alone: Sequence[str]) -> Markup | None:
    if len(alone) < 2:
        return None
    kinds = (
        ("both", (True, True), BLUE),
        ("together only", (False, True), GREEN),
        ("alone only", (True, False), ORANGE),
        ("neither", (False, False), LINE),
    )
    figure, (axis,) = canvas(0.95 + 0.36 * max(len(alone), 3))
    for row, name in enumerate(alone):
        judged = _judged(records, name)
        left = 0.0
        for _, kind, colour in kinds:
            share = sum(verdict == kind for verdict in judged) / max(len(judged), 1)
            axis.barh(row, share, left=left, height=0.56, color=colour, alpha=0.75)
            if share > 0.06:
                axis.text(left + share / 2, row, f"{100 * share:.0f}", ha="center", va="center", fontsize=8, color=INK)
            left += share
    for number, (text, _, colour) in enumerate(kinds):
        place = 0.24 * number + (0.06 if number > 1 else 0)
        axis.text(place, 1.02, "■", transform=axis.transAxes, color=colour, fontsize=10, va="bottom")
        axis.text(place + 0.04, 1.02, text, transform=axis.transAxes, color=INK, fontsize=8, va="bottom")
    axis.set_yticks(range(len(alone)), [f"{name} alone" for name in alone], parse_math=False)
    axis.tick_params(axis="y", labelcolor=INK)
    axis.set_ylim(max(len(alone), 3) - 0.4, -0.6)
    _share_axis(axis)
    return svg(figure, "Who was right, each sensor alone or all together")


def _by_condition(records: Sequence[Record], alone: Sequence[str]) -> Markup | None:
    conditions = list(dict.fromkeys(str(r["condition"]) for r in records if r.get("condition") is not None))
    if len(alone) < 2 or not 2 <= len(conditions) <= 12:
        return None
    rows = [*alone, "together"]
    table: NDArray[np.float64] = np.full((len(rows), len(conditions)), np.nan)
    for column, condition in enumerate(conditions):
        own = [r for r in records if str(r.get("condition")) == condition]
        for row, name in enumerate(alone):
            judged = _judged(own, name)
            table[row, column] = np.mean([sole for sole, _ in judged]) if judged else np.nan
        told = [r.get("prediction") == r["target"] for r in own if r.get("target") is not None]
        table[-1, column] = np.mean(told) if told else np.nan
    figure, (axis,) = canvas(0.9 + 0.36 * max(len(rows), 3))
    for row, column in np.argwhere(np.isfinite(table)):
        share = table[row, column]
        box = {"facecolor": BLUE, "alpha": 0.05 + 0.8 * share, "edgecolor": "none"}
        axis.add_patch(Rectangle((column - 0.47, row - 0.44), 0.94, 0.88, **box))
        if share == np.nanmax(table[:, column]):
            edge: dict[str, Any] = {"fill": False, "edgecolor": INK, "linewidth": 1.2}
            axis.add_patch(Rectangle((column - 0.47, row - 0.44), 0.94, 0.88, **edge))
        axis.text(column, row, f"{100 * share:.0f}", ha="center", va="center", fontsize=9, color=INK)
    axis.set_xlim(-0.55, len(conditions) - 0.45)
    axis.set_ylim(len(rows) - 0.45, -0.55)
    axis.set_xticks(range(len(conditions)), [_short(name) for name in conditions], parse_math=False)
    axis.set_yticks(range(len(rows)), rows, parse_math=False)
    axis.tick_params(labelcolor=INK)
    return svg(figure, "Percent right in each condition")


def attention_over_frames(rows: Sequence[tuple[str, Mapping[str, Tensor]]], modalities: Sequence[str]) -> Markup | None:
    """By modality a panel, by sample a row: the share of each time step in the attention; None where there is none.

    Args:
        rows: of each sample its name, and by modality the attention (t, y, x) or (t,).
        modalities: in the order of the panels.
    """
    seen = [name for name in modalities if any(name in maps for _, maps in rows)]
    if not seen:
        return None
    figure, axes = canvas(0.9 + 0.32 * len(rows), panels=len(seen), width=10.0)
    for axis, name in zip(axes, seen, strict=True):
        steps = 1
        for row, (_, maps) in enumerate(rows):
            if name not in maps:
                continue
            shares = frame_shares(maps[name]).numpy()
            steps = max(steps, len(shares))
            for column, share in enumerate(shares.tolist()):
                strength = 0.05 + 0.85 * share / max(float(shares.max()), 1e-9)
                box = {"facecolor": BLUE, "alpha": strength, "edgecolor": "none"}
                axis.add_patch(Rectangle((column - 0.46, row - 0.44), 0.92, 0.88, **box))
                if len(shares) <= 16:
                    axis.text(column, row, f"{100 * share:.0f}", ha="center", va="center", fontsize=7, color=INK)
        axis.set_xlim(-0.6, steps - 0.4)
        axis.set_ylim(len(rows) - 0.4, -0.6)
        axis.set_title(name, fontsize=9, color=INK, loc="left", parse_math=False)
        axis.set_xticks([0, steps - 1] if steps > 1 else [0], ["first", "last"] if steps > 1 else ["all"])
        names = [_short(text) for text, _ in rows]
        axis.set_yticks(range(len(rows)), names if axis is axes[0] else [""] * len(rows), parse_math=False)
    return svg(figure, ATTENTION)


def frame_shares(attention: Float[Tensor, "..."]) -> Float[Tensor, " t"]:
    """The attention of a sample, (t, y, x) or (t,), summed over each time step, as shares that sum to 1."""
    steps = attention.flatten(1).sum(1) if attention.dim() > 1 else attention
    return steps / steps.sum().clamp_min(torch.finfo(steps.dtype).tiny)


def attention_heat(attention: Float[Tensor, "..."], t: int, h: int, w: int) -> Float[Tensor, "{t} {h} {w}"] | None:
    """The attention (t', y, x) over pictures (t, h, w), the largest 1; None where it has no grid.

    Fewer time steps than pictures, as of tokens that last several frames, are repeated.
    """
    if attention.dim() != 3:
        return None
    steps = (torch.arange(t) * attention.shape[0]) // t
    large = functional.interpolate(attention[steps][:, None], (h, w), mode="bilinear", align_corners=False)[:, 0]
    return large / large.max().clamp_min(torch.finfo(large.dtype).tiny)


def visible(images: Float[np.ndarray, "t c h w"]) -> Float[np.ndarray, "t k h w"]:
    """Frames to be drawn: one that is lost (NaN) is as dark as the darkest place, of two channels, depth and its mask, the
    first is shown."""
    known = images[:, :1] if images.shape[1] == 2 else images
    finite = known[np.isfinite(known)]
    return np.where(np.isfinite(known), known, finite.min() if len(finite) else 0).astype(np.float32)


def _short(name: str) -> str:
    return name if len(name) < 19 else name[:17] + "…"


def _share_axis(axis: Axes) -> None:
    ticks = [0, 0.25, 0.5, 0.75, 1]
    axis.set_xlim(0, 1.0)
    axis.set_xticks(ticks, [f"{100 * tick:.0f}" for tick in ticks])
    axis.grid(axis="x", color=LINE, linewidth=0.8)
