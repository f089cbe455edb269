"""events: what an event camera would have recorded of a video."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from affuse.signals.clips import linear_luminance
from affuse.signals.events import Events, simulate_events, write_events
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
    # Luminance alone is kept: a twelfth of what RGB in float would take.
    frames = [(frame.time_us, linear_luminance(frame.image)) for frame in read_video(video)]
    times_us = np.array([time for time, _ in frames], dtype=np.int64)
    events = simulate_events(np.stack([image for _, image in frames]), times_us, threshold=threshold, seed=seed)
    write_events(events, out)
    return events
