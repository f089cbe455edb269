"""Pictures of what was seen in a face over time: frames under their heat with the answer below them, and curves.

The strips follow Figures 3 and 4 of the paper of FER-SSM (Grad-CAM over the frames of one clip).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import matplotlib
import numpy as np
from jaxtyping import Bool, Float, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from affuse.overlay import INK, ORANGE, PAPER, QUIET, font, with_heat

COLUMNS = 8  # of frames in a row
FRAMES = 32  # of a window, at most
TILE = 136  # side of a frame, pixels
CURVES = 6  # action units, at most
_LINE = 17  # height of a line below a frame, pixels


class Strip(NamedTuple):
    """The frames of a window that a system was given, and what was found in them.

    Args:
        title: the answer.
        note: what the window is of.
        times_us: of each frame.
        images: (t, s, s, 3), the aligned faces.
        valid: (t,) whether the frame holds a face.
        heat: (t, y, x) in [0, 1], Grad-CAM; None where the system has no spatial layer.
        captions: a line or more below each frame.
    """

    title: str
    note: str
    times_us: Int[np.ndarray, " t"]
    images: NDArray[np.uint8]
    valid: Bool[np.ndarray, " t"]
    heat: Float[np.ndarray, "t y x"] | None
    captions: Sequence[Sequence[str]]


def draw_strip(strip: Strip) -> NDArray[np.uint8]:
    """The frames in order of time, each above itself under its heat, with its time and captions below; RGB (h, w, 3)."""
    count = len(strip.times_us)
    chosen = np.unique(np.linspace(0, count - 1, min(count, FRAMES)).round().astype(int)).tolist()
    columns, gap, head = min(COLUMNS, len(chosen)), 6, 62
    rows = -(-len(chosen) // columns)
    lines = 1 + max((len(strip.captions[index]) for index in chosen), default=0)
    tall = TILE * (1 if strip.heat is None else 2) + lines * _LINE + 8
    sheet = Image.new("RGB", (max(gap + columns * (TILE + gap), 560), head + rows * (tall + gap)), PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((gap, 6), strip.title, INK, font(22))
    pen.text((gap, 38), strip.note, QUIET, font(13))
    for place, index in enumerate(chosen):
        left, top = gap + place % columns * (TILE + gap), head + place // columns * (tall + gap)
        below = top + tall - lines * _LINE - 6
        if strip.valid[index]:
            face = np.asarray(cv2.resize(strip.images[index], (TILE, TILE), interpolation=cv2.INTER_CUBIC), np.uint8)
            sheet.paste(Image.fromarray(face), (left, top))
            if strip.heat is not None:
                heat = cv2.resize(strip.heat[index].astype(np.float32), (TILE, TILE), interpolation=cv2.INTER_LINEAR)
                under = with_heat(face, np.asarray(heat, np.float32), 0.7)
                sheet.paste(Image.fromarray(under), (left, top + TILE))
        else:
            pen.rectangle((left, top, left + TILE - 1, below - 4), outline=QUIET)
            pen.text((left + 8, top + 8), "no face", QUIET, font(13))
        pen.text((left + 2, below), f"{strip.times_us[index] / 1e6:.2f} s", QUIET, font(12))
        for number, line in enumerate(strip.captions[index], 1):
            pen.text((left + 2, below + number * _LINE), line, ORANGE if number == 1 else QUIET, font(12))
    return np.asarray(sheet)


class Timeline(NamedTuple):
    """What is drawn over the time of a whole clip; times in microseconds.

    Args:
        classes: names, in the order of the probabilities; empty of a regression, whose one column is the value.
        times_us: of the answers.
        probabilities: (k, c), NaN where nothing was answered.
        unit_names: of action units.
        unit_times_us: of each frame.
        units: (t, u), intensities, NaN where unknown; None where no landmarks were looked for.
        gaps: stretches without a face.
    """

    classes: Sequence[str]
    times_us: Int[np.ndarray, " k"]
    probabilities: Float[np.ndarray, "k c"]
    unit_names: Sequence[str] = ()
    unit_times_us: Int[np.ndarray, " t"] | None = None
    units: Float[np.ndarray, "t u"] | None = None
    gaps: Sequence[tuple[int, int]] = ()


def draw_timeline(path: Path, line: Timeline) -> Path:
    """Write a PNG: the answer over time, and below it the strongest action units, where they are known."""
    strongest: list[int] = []
    if line.units is not None and np.isfinite(line.units).any():
        largest = np.nan_to_num(line.units).max(0)
        strongest = [int(u) for u in np.argsort(-largest, kind="stable")[:CURVES] if largest[u] > 0]
    panels = 2 if strongest else 1
    figure = Figure(figsize=(10, 2.9 * panels + 0.3), layout="constrained")
    axes = [figure.add_subplot(panels, 1, number + 1) for number in range(panels)]
    first = axes[0]
    seconds = line.times_us / 1e6
    for number, values in enumerate(line.probabilities.T):
        marker = "o" if len(seconds) < 12 else None
        name = line.classes[number] if line.classes else "value"
        first.plot(
            seconds, values, label=_plain(name), linewidth=1.8, marker=marker, markersize=4, color=f"C{number % 10}"
        )
    first.set_ylabel("probability" if line.classes else "value")
    if line.classes:
        first.set_ylim(-0.02, 1.02)
    if strongest and line.units is not None and line.unit_times_us is not None:
        for number, unit in enumerate(strongest):
            values, name = line.units[:, unit], _plain(line.unit_names[unit])
            axes[1].plot(line.unit_times_us / 1e6, values, label=name, linewidth=1.4, color=f"C{number % 10}")
        axes[1].set_ylim(-0.02, 1.02)
        axes[1].set_ylabel("action units")
    ends = [*line.times_us.tolist(), *(moment for gap in line.gaps for moment in gap)]
    ends += [] if line.unit_times_us is None else line.unit_times_us[[0, -1]].tolist()
    for axis in axes:
        _finish(axis, min(ends, default=0) / 1e6, max(ends, default=0) / 1e6, line.gaps)
    axes[-1].set_xlabel("seconds")
    temporary = path.with_name(path.name + ".tmp")
    with matplotlib.rc_context({"axes.unicode_minus": False}):
        figure.savefig(temporary, format="png", dpi=110)
    temporary.replace(path)
    return path


def per_class_table(
    metrics: Mapping[str, Any], classes: Sequence[str], trained_on: Mapping[str, int] | None = None
) -> dict[str, Any] | None:
    """Precision, recall, F1 and samples of each class, from the confusion matrix, as the cells of a table; None without one.

    A sample without an answer is missed by its class and claimed by none. `trained_on`, the training samples of each class,
    becomes a last column where it is known: how rare a class was says much of how well it is found.
    """
    counts = np.array(metrics.get("confusion") or [], dtype=np.float64)
    if not counts.size or len(counts) != len(classes):
        return None
    right, claimed, there = np.diag(counts), counts[:, : len(classes)].sum(0), counts.sum(1)
    rows = []
    for number, name in enumerate(classes):
        precision = right[number] / claimed[number] if claimed[number] else None
        recall = right[number] / there[number] if there[number] else None
        # F1 as 2 TP / (2 TP + FP + FN): it is 0, not unknown, where a class was never claimed.
        both = claimed[number] + there[number]
        shares = (precision, recall, 2 * right[number] / both if both else None)
        rows.append(
            [name, *("none" if share is None else f"{100 * share:.1f} %" for share in shares), f"{there[number]:.0f}"]
        )
    columns = ["", "precision", "recall", "F1", "samples"]
    if trained_on:
        columns.append("in training")
        for name, row in zip(classes, rows, strict=True):
            row.append(str(trained_on.get(name, "unknown")))
    return {"columns": columns, "rows": rows}


def _finish(axis: Axes, begin: float, end: float, gaps: Sequence[tuple[int, int]]) -> None:
    for number, (start_us, stop_us) in enumerate(gaps):
        name = "no face" if not number else None
        axis.axvspan(start_us / 1e6, stop_us / 1e6, color="0.9", linewidth=0, label=name)
    axis.set_xlim(begin, max(end, begin + 1e-3))
    axis.grid(color="0.88", linewidth=0.7)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=9)


def _plain(name: str) -> str:
    """A name that the plots take as it stands: a dollar sign would begin mathematics, an underscore hide the curve."""
    text = name.replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text
