"""Which frames of a clip are looked at: uniformly, or in segments as Former-DFER does, and what stands in where it is short.

Uniform: one frame of each of equal parts of the clip, its middle one. Segments: Zhao and Liu, "Former-DFER: Dynamic Facial
Expression Recognition Transformer", ACM MM 2021, after Wang et al., "Temporal Segment Networks", ECCV 2016: runs of
consecutive frames, one run a segment, in the middle of it, and anywhere within it in training.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from affuse.types import AffuseError

ShortClip = Literal["spread", "repeat_first", "repeat_last"]


def uniform(
    available: int,
    frames: int,
    *,
    short: ShortClip = "spread",
    training: bool = False,
    rng: np.random.Generator | None = None,
) -> NDArray[np.int64]:
    """One frame of each of `frames` equal parts of a clip, in order.

    Args:
        available: frames of the clip.
        frames: frames that are wanted.
        short: of a clip with fewer frames than wanted: ``spread`` repeats them as evenly as can be, ``repeat_first`` and
            ``repeat_last`` take each once and fill up with the first one in front, or with the last one behind.
        training: any frame of each part instead of the middle one.
        rng: what draws it; needed in training.

    Returns:
        Indices (frames,) into the clip, never decreasing.

    Raises:
        AffuseError: a number below 1, or training without `rng`.
    """
    _check(available, frames, training, rng)
    if available < frames and short != "spread":
        return _filled(np.arange(available, dtype=np.int64), frames, short)
    part = np.arange(frames, dtype=np.float64)
    within = rng.random(frames) if training and rng is not None and available >= frames else np.full(frames, 0.5)
    return np.minimum((part + within) * available / frames, available - 1).astype(np.int64)


def segments(
    available: int,
    frames: int,
    consecutive: int = 2,
    training: bool = False,
    rng: np.random.Generator | None = None,
    *,
    short: ShortClip = "repeat_first",
) -> NDArray[np.int64]:
    """Runs of `consecutive` frames, one in each of ``frames / consecutive`` segments of a clip.

    Args:
        available: frames of the clip.
        frames: frames that are wanted, a multiple of `consecutive`.
        consecutive: frames a run (2 in Former-DFER, with 8 segments).
        training: a run anywhere in its segment instead of its middle.
        rng: what draws it; needed in training.
        short: of a clip with fewer places for a run than segments: ``repeat_first`` starts every run at the first frame, as
            Former-DFER does; ``repeat_last`` takes each place once, then the last one; ``spread`` repeats them evenly.

    Returns:
        Indices (frames,) into the clip. A run that would pass the end of the clip repeats its last frame.

    Raises:
        AffuseError: a number below 1, `frames` is no multiple of `consecutive`, or training without `rng`.
    """
    _check(available, frames, training, rng)
    if consecutive < 1 or frames % consecutive:
        raise AffuseError(f"frames must be a multiple of consecutive (at least 1), got {frames} and {consecutive}")
    count = frames // consecutive
    places = max(1, available - consecutive + 1)
    if places < count and short == "repeat_first":
        starts = np.zeros(count, np.int64)
    else:
        starts = uniform(places, count, short=short, training=training, rng=rng)
    runs = starts[:, None] + np.arange(consecutive)  # segment, frame of the run
    return np.minimum(runs, available - 1).reshape(-1).astype(np.int64)


def _filled(indices: NDArray[np.int64], frames: int, short: ShortClip) -> NDArray[np.int64]:
    before = frames - len(indices) if short == "repeat_first" else 0
    return np.pad(indices, (before, frames - len(indices) - before), mode="edge")


def _check(available: int, frames: int, training: bool, rng: np.random.Generator | None) -> None:
    if available < 1 or frames < 1:
        raise AffuseError(f"frames are drawn from a clip with at least one frame, got {frames} of {available}")
    if training and rng is None:
        raise AffuseError("frames are drawn at random in training: give rng")
