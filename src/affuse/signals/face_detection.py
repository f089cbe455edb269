"""Faces in a picture."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class FaceBox:
    """A face in a frame: pixels of the frame, x to the right and y downwards.

    Args:
        left, top, width, height: the box; it may reach beyond the frame.
        score: how sure the detector is, in its own units; comparable within one detector only.
        eyes: the middles of the two eyes, ``(x, y)``, the one further left in the picture first; None where not known.
    """

    left: float
    top: float
    width: float
    height: float
    score: float = 0.0
    eyes: tuple[tuple[float, float], tuple[float, float]] | None = None

    @property
    def centre(self) -> tuple[float, float]:
        return self.left + self.width / 2, self.top + self.height / 2

    @property
    def area(self) -> float:
        return self.width * self.height

    def overlap(self, other: FaceBox) -> float:
        """Intersection over union, from 0 to 1."""
        across = min(self.left + self.width, other.left + other.width) - max(self.left, other.left)
        down = min(self.top + self.height, other.top + other.height) - max(self.top, other.top)
        shared = max(0.0, across) * max(0.0, down)
        return shared / (self.area + other.area - shared)
