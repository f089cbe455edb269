"""events: what an event camera would have recorded of a video."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from affuse.signals.events import Events, linear_luminance, simulate_events, write_events
from affuse.signals.video import read_video
from affuse.types import AffuseError


def record(video: str | Path, out: str | Path, threshold: float = 0.2, seed: int = 0) -> Events:
    """Simulate events from a video file and write them as ``.npz``.

    Args:
        video: any file that PyAV reads.
        out: the file to write; its name ends in ``.npz``.
        threshold: contrast threshold, in units of log intensity.
        seed: of the thresholds' mismatch and the noise.

    Raises:
        AffuseError: the video cannot be read, or `out` has another ending.
    """
    if Path(out).suffix != ".npz":
        raise AffuseError(f"{out}: events are written as .npz; choose such a name")
    times_us: list[int] = []

    def luminance() -> Iterator[NDArray[np.float32]]:
        for frame in read_video(video):
            times_us.append(frame.time_us)
            yield linear_luminance(frame.image)

    # The simulator asks for a frame and then for its time, so the list has it by then: two frames are held at once.
    events = simulate_events(luminance(), times_us, threshold=threshold, seed=seed)
    write_events(events, out)
    return events
