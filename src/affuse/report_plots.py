"""How a report draws: the numbers of a run as SVG plots that follow the page's colours, its examples as strips of pictures."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib import image
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

# Colours that the page replaces by its own, so that plots follow a dark page: matplotlib only sees the left side.
THEME = {
    "#010101": "var(--ink)",
    "#020202": "var(--quiet)",
    "#030303": "var(--line)",
    "#040404": "var(--blue)",
    "#050505": "var(--orange)",
    "#060606": "var(--green)",
    "#070707": "var(--violet)",
    "#080808": "var(--card)",
}
INK, QUIET, LINE, BLUE, ORANGE, GREEN, VIOLET, CARD = THEME
SERIES = (BLUE, ORANGE, GREEN, VIOLET)
FRAMES = 6  # of an example, at most

# Every text goes into a figure with parse_math=False: a class may be called "$".


def figures(
    metrics: Mapping[str, Any],
    history: list[dict[str, Any]],
    classes: list[str],
    of_samples: Sequence[tuple[str, str, Markup | None]] = (),
    of_balance: Sequence[tuple[str, str, Markup | None]] = (),
) -> list[dict[str, Any]]:
    """Every figure that the numbers allow, in the order of the page.

    Args:
        metrics: what `affuse.metrics.summarise` gives; what is missing is not drawn.
        history: one row an epoch.
        classes: names of the classes, in index order.
        of_samples: title, note and drawing of what stands before the training curves: see `report_samples.figures`.
        of_balance: the same of what stands after them, over the whole width: see `report_balance.figures`.

    Returns:
        ``title``, ``note``, ``svg`` and ``wide`` (whether it takes the whole width of the page) of each.
    """
    counts = "Line: 95 % interval. Grey number: test samples."
    drawn = [
        ("Recall of each class", counts, _bars(metrics.get("per_class"), "support")),
        ("Accuracy (WAR) in each condition", counts, _bars(metrics.get("per_condition"), "samples")),
        ("Mean absolute error in each condition", counts, _errors(metrics.get("per_condition"))),
        (
            "Confusion",
            "Row: true class, in percent of its samples. Column: the answer.",
            _confusion(metrics.get("confusion"), classes),
        ),
        (
            "Reliability",
            "How often answers of each confidence were right; on the dashed line, confidence can be taken at its word.",
            _reliability(metrics.get("calibration")),
        ),
        ("Which sensor it believed", "Mean modality weight in each condition.", _modality_weight(metrics)),
        (
            "Which experts worked",
            "Bar: mean weight. Ring: share of samples that chose the expert. Percent.",
            _expert_load(metrics.get("expert_load")),
        ),
        *of_samples,
        (
            "Training",
            "Left: loss, on training and validation data. Right: the metrics on validation data.",
            _history(history),
        ),
        *of_balance,
    ]
    shown = [{"title": title, "note": note, "svg": svg, "wide": False} for title, note, svg in drawn if svg]
    wide = {"Training", "Weight beside importance", "Attention over the frames", *(title for title, _, _ in of_balance)}
    for figure in shown:
        figure["wide"] = figure["title"] in wide
    narrow = [figure for figure in shown if not figure["wide"]]
    if len(narrow) % 2:
        narrow[-1]["wide"] = True
    return shown


def canvas(height: float, panels: int = 1, width: float = 5.0) -> tuple[Figure, list[Axes]]:
    """A figure that lets the page's colour through, and its panels side by side; sizes in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.patch.set_alpha(0)
    axes = [figure.add_subplot(1, panels, number + 1) for number in range(panels)]
    for axis in axes:
        axis.patch.set_alpha(0)
        axis.spines[:].set_visible(False)
        axis.tick_params(length=0, colors=QUIET, labelsize=9)
        axis.set_axisbelow(True)
    return figure, axes


def svg(figure: Figure, label: str) -> Markup:
    """The figure as SVG to stand in the page: text stays text, colours follow the page."""
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": label}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    # Ids of groups repeat from figure to figure, and nothing refers to them.
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    for placeholder, colour in THEME.items():
        text = text.replace(placeholder, colour)
    return Markup(text.replace("<svg ", f'<svg role="img" aria-label="{Markup.escape(label)}" ', 1))


def _names(axis: Axes, names: Sequence[str], horizontal: bool = True) -> None:
    places = list(range(len(names)))
    texts = [name if len(name) < 19 else name[:17] + "…" for name in names]
    if horizontal:
        axis.set_yticks(places, texts, parse_math=False)
        axis.tick_params(axis="y", labelcolor=INK)
        axis.set_ylim(len(names) - 0.4, -0.6)
    else:
        axis.set_xticks(
            places,
            texts,
            parse_math=False,
            rotation=40 if max(map(len, texts)) > 5 else 0,
            ha="right" if max(map(len, texts)) > 5 else "center",
        )
        axis.tick_params(axis="x", labelcolor=INK)


def _percent_axis(axis: Axes, which: str = "x") -> None:
    """An axis from 0 to 1, written in percent, with quiet lines."""
    ticks = [0, 0.25, 0.5, 0.75, 1]
    if which == "x":
        axis.set_xlim(0, 1.0)
        axis.set_xticks(ticks, [f"{100 * t:.0f}" for t in ticks])
    else:
        axis.set_ylim(0, 1.0)
        axis.set_yticks(ticks, [f"{100 * t:.0f}" for t in ticks])
    axis.grid(axis=which, color=LINE, linewidth=0.8)  # type: ignore[arg-type]


def _bars(entries: Mapping[str, Any] | None, count: str) -> Markup | None:
    entries = {name: entry for name, entry in (entries or {}).items() if entry.get("value") is not None}
    if not entries:
        return None
    figure, (axis,) = canvas(0.6 + 0.36 * max(len(entries), 3))
    values = [entry["value"] for entry in entries.values()]
    axis.barh(range(len(values)), values, height=0.56, color=BLUE, alpha=0.75)
    for row, entry in enumerate(entries.values()):
        if entry.get("low") is not None:
            axis.plot([entry["low"], entry["high"]], [row, row], color=INK, linewidth=1.4, solid_capstyle="butt")
        text = f"{100 * entry['value']:.0f} %"
        axis.text(
            1.03, row, text, va="center", fontsize=9, color=INK, transform=axis.get_yaxis_transform(), parse_math=False
        )
        where: dict[str, Any] = {"va": "center", "fontsize": 8, "color": QUIET, "transform": axis.get_yaxis_transform()}
        axis.text(1.2, row, str(entry.get(count, "")), **where)
    _names(axis, list(entries))
    _percent_axis(axis)
    return svg(figure, f"Bars with intervals of {', '.join(entries)}")


def _errors(entries: Mapping[str, Any] | None) -> Markup | None:
    """Mean absolute errors with their intervals, by condition."""
    shown = {
        name: part["mae"] | {"samples": part["samples"]} for name, part in (entries or {}).items() if "mae" in part
    }
    shown = {name: part for name, part in shown.items() if part["value"] is not None}
    if not shown:
        return None
    figure, (axis,) = canvas(0.6 + 0.36 * max(len(shown), 3))
    axis.barh(range(len(shown)), [part["value"] for part in shown.values()], height=0.56, color=BLUE, alpha=0.75)
    for row, part in enumerate(shown.values()):
        if part["low"] is not None:
            axis.plot([part["low"], part["high"]], [row, row], color=INK, linewidth=1.4, solid_capstyle="butt")
        where: dict[str, Any] = {"va": "center", "transform": axis.get_yaxis_transform()}
        axis.text(1.03, row, f"{part['value']:.3f}", fontsize=9, color=INK, **where)
        axis.text(1.2, row, str(part["samples"]), fontsize=8, color=QUIET, **where)
    _names(axis, list(shown))
    axis.set_xlim(left=0)
    axis.grid(axis="x", color=LINE, linewidth=0.8)
    return svg(figure, f"Errors with intervals of {', '.join(shown)}")


def _confusion(counts: list[list[int]] | None, classes: list[str]) -> Markup | None:
    table = np.array(counts or [], dtype=np.float64)
    if not table.size or len(classes) != len(table):
        return None
    columns = list(classes)
    if table[:, -1].any():
        columns.append("no answer")
    else:
        table = table[:, :-1]
    share = table / np.maximum(table.sum(1, keepdims=True), 1)
    figure, (axis,) = canvas(min(0.9 + 0.42 * len(classes), 7))
    for row, column in np.ndindex(*share.shape):
        value = share[row, column]
        square = {"facecolor": BLUE if row == column else ORANGE, "alpha": 0.06 + 0.84 * value, "edgecolor": "none"}
        axis.add_patch(Rectangle((column - 0.47, row - 0.45), 0.94, 0.9, **square))
        if value > 0 and len(classes) <= 16:
            axis.text(column, row, f"{100 * value:.0f}", ha="center", va="center", fontsize=9, color=INK)
    axis.set_xlim(-0.5, len(columns) - 0.5)
    _names(axis, classes)
    _names(axis, columns, horizontal=False)
    axis.set_ylim(len(classes) - 0.5, -0.5)
    return svg(figure, "Confusion matrix")


def _reliability(calibration: Mapping[str, Any] | None) -> Markup | None:
    bins = (calibration or {}).get("bins") or {}
    if not any(bins.get("count") or []):
        return None
    figure, (axis,) = canvas(3.3)
    total = sum(bins["count"])
    for low, high, accuracy, count in zip(bins["lower"], bins["upper"], bins["accuracy"], bins["count"], strict=True):
        if count:
            # Faint bars stand on few samples.
            axis.bar(
                (low + high) / 2, accuracy, 0.92 * (high - low), color=BLUE, alpha=0.25 + 0.6 * (count / total) ** 0.5
            )
            axis.text((low + high) / 2, accuracy + 0.02, str(count), ha="center", fontsize=8, color=QUIET)
    axis.plot([0, 1], [0, 1], color=QUIET, linewidth=1, linestyle=(0, (4, 3)))
    axis.set_xlim(0, 1)
    _percent_axis(axis, "y")
    _percent_axis(axis)
    axis.set_ylim(0, 1.08)
    axis.grid(visible=False, axis="x")
    axis.set_xlabel("confidence, %", color=QUIET, fontsize=9)
    axis.set_ylabel("right, %", color=QUIET, fontsize=9)
    return svg(figure, "Reliability diagram")


def _modality_weight(metrics: Mapping[str, Any]) -> Markup | None:
    lights = {name: part for name, part in (metrics.get("modality_weight_by_condition") or {}).items() if part}
    if metrics.get("modality_weight"):
        lights = {**lights, "all": metrics["modality_weight"]} if len(lights) != 1 else lights
    modalities = list(dict.fromkeys(name for part in lights.values() for name in part))
    if len(modalities) < 2:
        return None
    figure, (axis,) = canvas(0.95 + 0.36 * max(len(lights), 3))
    left = np.zeros(len(lights))
    for number, name in enumerate(modalities):
        values = np.array([part.get(name, 0.0) for part in lights.values()])
        colour = SERIES[number % len(SERIES)]
        axis.barh(range(len(lights)), values, left=left, height=0.56, color=colour, alpha=0.75, edgecolor=CARD)
        axis.text(0.24 * number, 1.02, "■", transform=axis.transAxes, color=colour, fontsize=10, va="bottom")
        axis.text(
            0.24 * number + 0.04,
            1.02,
            name,
            transform=axis.transAxes,
            color=INK,
            fontsize=9,
            va="bottom",
            parse_math=False,
        )
        for row, (start, value) in enumerate(zip(left, values, strict=True)):
            if value > 0.08:
                axis.text(
                    start + value / 2, row, f"{100 * value:.0f} %", ha="center", va="center", fontsize=9, color=INK
                )
        left = left + values
    _names(axis, list(lights))
    _percent_axis(axis)
    return svg(figure, "Mean modality weight by condition")


def _expert_load(load: Mapping[str, Any] | None) -> Markup | None:
    if not load or not load.get("mean_weight"):
        return None
    count = len(load["mean_weight"])
    figure, (axis,) = canvas(0.6 + 0.36 * max(count, 3))
    axis.barh(range(count), load["mean_weight"], height=0.56, color=VIOLET, alpha=0.75)
    axis.scatter(
        load["chosen"], range(count), s=34, facecolors="none", edgecolors=INK, linewidths=1.3, clip_on=False, zorder=3
    )
    _names(axis, [f"expert {number + 1}" for number in range(count)])
    _percent_axis(axis)
    return svg(figure, "Expert load")


def _history(history: list[dict[str, Any]]) -> Markup | None:
    names = ("war", "uar") if any("validation/war" in row for row in history) else ("mae", "corr")
    panels = (("train/total", "validation/total"), tuple(f"validation/{name}" for name in names))
    if not any(key in row for row in history for keys in panels for key in keys):
        return None
    figure, axes = canvas(2.6, panels=2, width=10.0)
    for axis, keys in zip(axes, panels, strict=True):
        ends = []
        for number, key in enumerate(keys):
            points = [(row.get("epoch", i) + 1, row[key]) for i, row in enumerate(history) if row.get(key) is not None]
            if points:
                x, y = zip(*points, strict=True)
                axis.plot(x, y, color=SERIES[number], linewidth=1.8, marker="o" if len(x) < 3 else None, markersize=4)
                ends.append(
                    (
                        SERIES[number],
                        key.removesuffix("/total")
                        if key.endswith("/total")
                        else {"corr": "correlation"}.get(name := key.removeprefix("validation/"), name.upper()),
                    )
                )
        for number, (colour, name) in enumerate(ends):
            axis.text(0.2 * number, 1.02, "■", transform=axis.transAxes, color=colour, fontsize=10, va="bottom")
            axis.text(0.2 * number + 0.03, 1.02, name, transform=axis.transAxes, color=INK, fontsize=9, va="bottom")
        if keys[0] == "validation/war":
            _percent_axis(axis, "y")
        else:
            axis.grid(axis="y", color=LINE, linewidth=0.8)
            axis.set_ylim(bottom=0 if keys[0] == "train/total" else None)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.set_xlabel("epoch", color=QUIET, fontsize=9)
    return svg(figure, "Training curves")


def pictures(images: NDArray[np.float32], everyone: Sequence[NDArray[np.float32]], signed: bool) -> NDArray[np.float32]:
    """Inputs (t, c, h, w) as RGB pictures (t, h, w, 3) in [0, 1].

    All examples of a modality, `everyone`, share one scale: a dark clip must stay dark beside a bright one. Signed inputs
    (events) become red where the sum of the channels is positive and blue where negative, on a light ground.
    """
    if signed:
        total = images.sum(1)
        largest = max((float(np.percentile(np.abs(part.sum(1)), 99.5)) for part in everyone), default=0.0) or 1.0
        strength = np.clip(np.abs(total) / largest, 0, 1)[..., None] ** 0.7
        colour = np.where(total[..., None] > 0, np.array([0.80, 0.22, 0.16]), np.array([0.16, 0.36, 0.75]))
        return (0.96 * (1 - strength) + colour * strength).astype(np.float32)
    low = min(float(part.min()) for part in everyone)
    high = max(float(part.max()) for part in everyone)
    scaled = (images - low) / ((high - low) or 1.0)
    scaled = scaled if scaled.shape[1] == 3 else np.repeat(scaled.mean(1, keepdims=True), 3, 1)
    return np.moveaxis(scaled, 1, -1).astype(np.float32)


def strip(frames: NDArray[np.float32], heat: NDArray[np.float32] | None) -> str:
    """Frames (t, h, w, 3) side by side, and below them the same under their heat maps (t, h, w), as a PNG data URI."""
    chosen = np.unique(np.linspace(0, len(frames) - 1, min(FRAMES, len(frames))).round().astype(int))
    rows = [frames[chosen]]
    if heat is not None:
        colour = matplotlib.colormaps["inferno"](heat[chosen])[..., :3]
        # The picture shows through where it is cold.
        cover = 0.25 + 0.6 * heat[chosen][..., None]
        rows.append((frames[chosen].mean(-1, keepdims=True) * (1 - cover) + colour * cover).astype(np.float32))
    t, h, w, _ = rows[0].shape
    gap = max(1, w // 40)
    sheet = np.zeros((len(rows) * (h + gap) - gap, t * (w + gap) - gap, 4), dtype=np.float32)
    for row, part in enumerate(rows):
        for column, frame in enumerate(part):
            top, left = row * (h + gap), column * (w + gap)
            sheet[top : top + h, left : left + w, :3] = np.clip(frame, 0, 1)
            sheet[top : top + h, left : left + w, 3] = 1
    buffer = io.BytesIO()
    image.imsave(buffer, (sheet * 255).round().astype(np.uint8), format="png")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
