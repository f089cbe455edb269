"""Action segments of a long recording, from the answers of overlapping windows.

Time is cut into moments of equal length. The probabilities of a moment are the mean over the windows that its middle lies in;
a moment that no answered window covers has none, and is never filled in. A running median may calm them, and what is still too
short may join a neighbour. Neighbouring moments of one class are one segment.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from affuse.metrics.classification import UNANSWERED
from affuse.metrics.segments import runs_of
from affuse.types import AffuseError

NO_ANSWER = UNANSWERED
MOMENTS = 10_000_000  # of a recording, at most: eleven days in moments of 100 ms


@dataclass(frozen=True)
class Segmentation:
    """How windows become segments.

    Args:
        step_us: length of a moment, microseconds; that of the shortest window where this is longer.
        median_us: length of the running median over the probabilities of each class; 0: none.
        minimum_us: an answer that lasts less joins a neighbour; 0: none does.
        threshold: a moment whose most probable class is less probable than this has no answer.
    """

    step_us: int = 100_000
    median_us: int = 0
    minimum_us: int = 0
    threshold: float = 0.0

    def __post_init__(self) -> None:
        if self.step_us <= 0:
            raise AffuseError(f"step_us is the length of a moment and above 0, got {self.step_us}")
        if self.median_us < 0 or self.minimum_us < 0:
            raise AffuseError(f"median_us and minimum_us are not negative, got {self.median_us}, {self.minimum_us}")
        if not 0 <= self.threshold <= 1:
            raise AffuseError(f"threshold is a probability, from 0 to 1, got {self.threshold}")


@dataclass(frozen=True)
class Segment:
    """From `start_us` up to, not including, `stop_us`: one class, or `NO_ANSWER`.

    Args:
        confidence: mean probability of the class over the segment; NaN of no answer.
    """

    start_us: int
    stop_us: int
    label: int
    confidence: float = float("nan")


def window_starts(first_us: int, last_us: int, span_us: int, hop_us: int) -> Int[np.ndarray, " n"]:
    """Starts of the windows of `span_us` that lie within a recording, `hop_us` apart, from its beginning.

    None where the recording is shorter than one window; what is left at its end, less than a hop, is in no window.
    """
    if span_us < 0 or hop_us <= 0:
        raise AffuseError(f"windows need a span of at least 0 and a hop above 0 microseconds, got {span_us}, {hop_us}")
    return np.arange(first_us, last_us - span_us + 1, hop_us, dtype=np.int64)


def average_windows(
    start_us: Int[np.ndarray, " n"],
    stop_us: Int[np.ndarray, " n"],
    probabilities: Float[np.ndarray, "n c"],
    step_us: int,
) -> tuple[Int[np.ndarray, " k"], Float[np.ndarray, "k c"]]:
    """Mean probabilities of each moment over the windows that its middle lies in.

    Args:
        start_us, stop_us: of each window, in any order; the stop is not part of it.
        probabilities: of each window; a row that is not finite is an unanswered window, which says nothing.

    Returns:
        The start of each moment, `step_us` apart, of all whose middle lies between the first start and the last stop, and its
        probabilities; NaN where no answered window covers its middle.

    Raises:
        AffuseError: a window stops before it starts, or the recording has too many moments.
    """
    n, classes = probabilities.shape
    if not n:
        return np.zeros(0, dtype=np.int64), np.zeros((0, classes))
    if (stop_us <= start_us).any():
        raise AffuseError("a window stops before it starts: start_us and stop_us are microseconds of one clock")
    first_us, last_us = int(start_us.min()), int(stop_us.max())
    count = _moment_of(last_us - first_us, step_us)
    if count > MOMENTS:
        raise AffuseError(
            f"a recording of {(last_us - first_us) / 1e6:.0f} s has {count} moments: set a longer step_us"
        )
    low, high = (_moment_of(edges - first_us, step_us) for edges in (start_us, stop_us))
    known = np.isfinite(probabilities).all(1) & (low < high)
    sums, covered = np.zeros((count, classes)), np.zeros(count + 1, dtype=np.int64)
    for begin, end, row in zip(low[known], high[known], probabilities[known], strict=True):
        sums[begin:end] += row
        covered[begin] += 1
        covered[end] -= 1
    windows = np.cumsum(covered)[:count, None]
    mean = np.divide(sums, windows, out=np.full_like(sums, np.nan), where=windows > 0)
    return first_us + step_us * np.arange(count, dtype=np.int64), mean


def _moment_of(time_us: Any, step_us: int) -> Any:
    """The first moment k whose middle, (k + 1/2) step, is not before this time; an integer, or an array of them."""
    return -(-(2 * time_us - step_us) // (2 * step_us))  # twice everything, so that halves are whole numbers


def running_median(probabilities: Float[np.ndarray, "k c"], moments: int) -> Float[np.ndarray, "k c"]:
    """The median of each class over this many moments around each, made to sum to 1 again; fewer at the ends.

    Unknown moments (NaN) stay unknown and count for none of their neighbours. An even number is taken as the next odd one.
    """
    half = moments // 2
    known = np.isfinite(probabilities).all(1)
    if half < 1 or not known.any():
        return probabilities
    smooth = np.full_like(probabilities, np.nan)
    for moment in np.flatnonzero(known):
        around = slice(max(moment - half, 0), moment + half + 1)
        smooth[moment] = np.median(probabilities[around][known[around]], axis=0)
    total = smooth.sum(1, keepdims=True)
    # The medians of all classes may be 0 at once; then the moment itself speaks.
    return np.where(total > 0, smooth / np.where(total > 0, total, 1), probabilities)


def moment_labels(probabilities: Float[np.ndarray, "k c"], threshold: float) -> Int[np.ndarray, " k"]:
    """The most probable class of each moment; `NO_ANSWER` below the threshold and where nothing is known."""
    known = np.isfinite(probabilities).all(1)
    filled = np.where(known[:, None], probabilities, 0.0)
    return np.where(known & (filled.max(1) >= threshold), filled.argmax(1), NO_ANSWER)


def without_short(
    labels: Int[np.ndarray, " k"], probabilities: Float[np.ndarray, "k c"], minimum: int
) -> Int[np.ndarray, " k"]:
    """Answers of fewer than `minimum` moments join a neighbour, the shortest and then the earliest first.

    It is the neighbour whose class is more probable over these moments, the earlier one where both are alike; a neighbour
    without an answer comes last. No answer is never filled in, and what has no neighbour stays.
    """
    labels = labels.copy()
    while True:
        runs = runs_of(labels)
        short = [i for i, (label, begin, end) in enumerate(runs) if label != NO_ANSWER and end - begin < minimum]
        if not short or len(runs) < 2:
            return labels
        chosen = min(short, key=lambda i: runs[i][2] - runs[i][1])
        _, begin, end = runs[chosen]
        beside = [runs[i][0] for i in (chosen - 1, chosen + 1) if 0 <= i < len(runs)]
        mean = probabilities[begin:end].mean(0)
        labels[begin:end] = max(beside, key=lambda label: -1.0 if label == NO_ANSWER else float(mean[label]))


def segments(
    start_us: Int[np.ndarray, " n"],
    stop_us: Int[np.ndarray, " n"],
    probabilities: Float[np.ndarray, "n c"],
    settings: Segmentation | None = None,
) -> list[Segment]:
    """The segments of a recording, from the windows that were answered over it.

    Args:
        start_us, stop_us, probabilities: as of `average_windows`.
        settings: by default those of `Segmentation`.

    Returns:
        In order, without gaps, from the first start to the last stop; neighbours differ. Stretches without an answer are
        segments of `NO_ANSWER`.
    """
    settings = settings or Segmentation()
    if not len(start_us):
        return []
    # Moments no longer than the shortest window, so that each window covers the middle of one.
    step_us = max(1, min(settings.step_us, int((stop_us - start_us).min())))
    moments_us, mean = average_windows(start_us, stop_us, probabilities, step_us)
    mean = running_median(mean, settings.median_us // step_us)
    labels = moment_labels(mean, settings.threshold)
    labels = without_short(labels, mean, -(-settings.minimum_us // step_us))
    last_us = int(stop_us.max())
    found = []
    for label, begin, end in runs_of(labels):
        stop = int(moments_us[end]) if end < len(moments_us) else last_us
        confidence = float("nan") if label == NO_ANSWER else float(mean[begin:end, label].mean())
        found.append(Segment(int(moments_us[begin]), stop, label, confidence))
    return found


def plain_segment(segment: Segment, classes: Sequence[str]) -> dict[str, Any]:
    """A segment as plain values; ``label`` and ``confidence`` are None where there is no answer."""
    known = segment.label != NO_ANSWER
    return {
        "start_us": segment.start_us,
        "stop_us": segment.stop_us,
        "label": classes[segment.label] if known else None,
        "confidence": round(segment.confidence, 6) if known else None,
    }


def labels_at(found: Sequence[Segment], times_us: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """The label at each moment of a clock, such as that of the frames of a truth; `NO_ANSWER` outside of all segments.

    Args:
        found: not overlapping, in order.
    """
    labels = np.full(len(times_us), NO_ANSWER, dtype=np.int64)
    for segment in found:
        labels[(times_us >= segment.start_us) & (times_us < segment.stop_us)] = segment.label
    return labels
