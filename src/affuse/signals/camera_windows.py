"""What a window of a recording of cameras looks like to a trained system: its frames, how far apart, and how they are read."""

from __future__ import annotations

from dataclasses import dataclass

from affuse.signals.cameras import CameraSpec
from affuse.types import AffuseError


@dataclass(frozen=True)
class CameraWindow:
    """A window, as the data that a system was trained on gives it (``camera_window`` of a data configuration).

    Args:
        spec: how each camera is read and becomes an input.
        frames: of a window (t).
        step_us: microseconds from one frame to the next.
    """

    spec: CameraSpec
    frames: int
    step_us: int

    def __post_init__(self) -> None:
        if self.frames < 1 or self.step_us < 1:
            raise AffuseError(f"frames and step_us must be positive, got {self.frames} and {self.step_us}")

    @property
    def span_us(self) -> int:
        """Length of the window: each frame stands until the next one would come."""
        return self.frames * self.step_us

    def hop_us(self, wanted_us: int | None = None) -> int:
        """From one window to the next: the nearest multiple of `step_us`, at least one; by default half a window."""
        steps = self.frames // 2 if wanted_us is None else round(wanted_us / self.step_us)
        return max(1, steps) * self.step_us
