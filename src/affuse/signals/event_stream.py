"""The `Events` type: what a recording of an event camera is, wherever it came from."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor

from affuse.types import AffuseError


@dataclass(frozen=True, eq=False)
class Events:
    """Events of one sensor in order of time. The arrays are not to be written to.

    Args:
        t_us: times (n,), microseconds, never falling; kept as int64.
        x, y: column in [0, width) and row in [0, height), (n,); kept as int32.
        p: polarity (n,), -1 or +1; kept as int8.
        width, height: size of the sensor, pixels.
        dropped: bad events that a reader left out.
        source: name of the format the events came from.
        size_inferred: the size is the largest coordinate plus one, because the file told none.

    Raises:
        AffuseError: lengths differ, time falls, or a coordinate or polarity is out of range.
    """

    t_us: NDArray[np.integer[Any]]
    x: NDArray[np.integer[Any]]
    y: NDArray[np.integer[Any]]
    p: NDArray[np.integer[Any]]
    width: int
    height: int
    dropped: int = 0
    source: str = ""
    size_inferred: bool = False

    def __post_init__(self) -> None:
        arrays = {"t_us": self.t_us, "x": self.x, "y": self.y, "p": self.p}
        if any(array.ndim != 1 for array in arrays.values()) or len({len(a) for a in arrays.values()}) > 1:
            shapes = {name: array.shape for name, array in arrays.items()}
            raise AffuseError(f"events need four arrays of one length, got shapes {shapes}")
        if not (1 <= self.width <= 1 << 16 and 1 <= self.height <= 1 << 16):
            raise AffuseError(f"a sensor of {self.width} x {self.height} pixels is none: give width and height")
        if len(self.t_us):
            if bool((self.t_us[1:] < self.t_us[:-1]).any()):
                raise AffuseError("the times of events go backwards: sort them, or read with errors='drop'")
            for name, size in (("x", self.width), ("y", self.height)):
                low, high = int(arrays[name].min()), int(arrays[name].max())
                if low < 0 or high >= size:
                    raise AffuseError(
                        f"{name} of events runs from {low} to {high} on a sensor of {self.width} x {self.height}: "
                        "give its true size, or read with errors='drop'"
                    )
            if not bool(((self.p == 1) | (self.p == -1)).all()):
                raise AffuseError("polarity of events must be -1 or +1: map 0 to -1 before")
        kept = {"t_us": np.int64, "x": np.int32, "y": np.int32, "p": np.int8}
        for name, dtype in kept.items():
            object.__setattr__(self, name, arrays[name].astype(dtype, copy=False))

    @classmethod
    def trusted(
        cls,
        t_us: NDArray[np.integer[Any]],
        x: NDArray[np.integer[Any]],
        y: NDArray[np.integer[Any]],
        p: NDArray[np.integer[Any]],
        width: int,
        height: int,
        dropped: int = 0,
        source: str = "",
        size_inferred: bool = False,
    ) -> Events:
        """Events of columns that are known to be sound and of the types that are kept: they are not looked through again."""
        events = object.__new__(cls)
        values = (t_us, x, y, p, width, height, dropped, source, size_inferred)
        for field, value in zip(fields(cls), values, strict=True):
            object.__setattr__(events, field.name, value)
        return events

    def __len__(self) -> int:
        return len(self.t_us)

    @property
    def duration_us(self) -> int:
        """From the first to the last event, microseconds; 0 where there are none."""
        return int(self.t_us[-1]) - int(self.t_us[0]) if len(self) else 0

    @property
    def rate_hz(self) -> float:
        """Events a second over the duration; 0 where the duration is."""
        return len(self) * 1e6 / self.duration_us if self.duration_us else 0.0

    def slice_time(self, start_us: int, stop_us: int) -> Events:
        """The events with start <= t < stop, so that neighbouring slices share none and lose none."""
        first, last = np.searchsorted(self.t_us, [start_us, max(start_us, stop_us)], side="left")
        return self.part(int(first), int(last), self.dropped)

    def crop(self, x0: int, y0: int, width: int, height: int) -> Events:
        """The events in a window of the sensor, whose corner (x0, y0) becomes the origin.

        Raises:
            AffuseError: the window does not lie within the sensor.
        """
        if min(x0, y0) < 0 or min(width, height) < 1 or x0 + width > self.width or y0 + height > self.height:
            raise AffuseError(
                f"a crop of {width} x {height} at ({x0}, {y0}) leaves the sensor of {self.width} x {self.height}"
            )
        inside = (self.x >= x0) & (self.x < x0 + width) & (self.y >= y0) & (self.y < y0 + height)
        t_us, x, y, p = self.t_us[inside], self.x[inside] - x0, self.y[inside] - y0, self.p[inside]
        return replace(self, t_us=t_us, x=x, y=y, p=p, width=width, height=height)

    def tensors(self) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"], Int[Tensor, " n"], Int[Tensor, " n"]]:
        """Copies as tensors (t_us, x, y, p), int64 but p, which is int8: what the functions of `ops.events` take."""
        t_us, x, y = (torch.from_numpy(array.astype(np.int64)) for array in (self.t_us, self.x, self.y))
        return t_us, x, y, torch.from_numpy(self.p.astype(np.int8))

    def part(self, first: int, stop: int, dropped: int) -> Events:
        """The events from one place in the order up to another."""
        t_us, x, y, p = (column[first:stop] for column in (self.t_us, self.x, self.y, self.p))
        return Events.trusted(t_us, x, y, p, self.width, self.height, dropped, self.source, self.size_inferred)
