"""Clips: the one place where frames and events become a system's inputs, in training and in service alike.

A clip is `frames` frames of a video, `stride` raw frames apart. Each RGB frame stands beside the events of the window that
ends with it, so that at the time of a frame nothing of the future is read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from affuse.ops.events import accumulated_image, voxel_grid
from affuse.signals.events import Events
from affuse.types import AffuseError


@dataclass(frozen=True)
class ClipSpec:
    """What a clip looks like.

    Args:
        frames: frames a clip (t).
        stride: raw frames between two frames of a clip.
        fps: raw frames a second.
        size: side of the square input, pixels.
        event_form: ``voxel``: signed voxel grid with `event_channels` bins over the window; ``accumulated``: the image of
            SEE, three channels.
        event_channels: channels of the event tensor (B in the MCO-E Net paper, 3 there).
        event_window_us: length of the event window, microseconds; None: from one clip frame to the next.
        rgb_mean, rgb_std: RGB in [0, 1] is normalised as (x - mean) / std.
        event_mean, event_std: the same for the event tensor.
    """

    frames: int = 4
    stride: int = 4
    fps: float = 30.0
    size: int = 64
    event_form: Literal["voxel", "accumulated"] = "voxel"
    event_channels: int = 3
    event_window_us: int | None = None
    rgb_mean: float = 0.5
    rgb_std: float = 0.25
    event_mean: float = 0.0
    event_std: float = 1.0

    def __post_init__(self) -> None:
        if min(self.frames, self.stride, self.size, self.event_channels) < 1 or self.fps <= 0:
            raise AffuseError(f"frames, stride, size, event_channels and fps must be positive: {self}")
        if self.event_form == "accumulated" and self.event_channels != 3:
            raise AffuseError("event_form 'accumulated' is an image of 3 channels: set event_channels to 3")

    @property
    def window_us(self) -> int:
        """Length of the event window of each clip frame, microseconds."""
        return self.event_window_us or round(self.stride * 1e6 / self.fps)

    @property
    def span(self) -> int:
        """Raw frames from the first to the last frame of a clip, both counted."""
        return (self.frames - 1) * self.stride + 1


def rgb_clip(frames: NDArray[np.uint8], spec: ClipSpec) -> Float[Tensor, "t 3 h w"]:
    """Frames (t, h, w, 3), 8-bit RGB, as the normalised RGB tensor (t, 3, size, size)."""
    images = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).float() / 255  # t 3 h w
    return (resize(images, spec.size) - spec.rgb_mean) / spec.rgb_std


def event_clip(events: Events, frame_times_us: NDArray[np.int64], spec: ClipSpec) -> Float[Tensor, "t c h w"]:
    """Events of the windows [time - window, time) that end with each frame time, as the event tensor."""
    grids = []
    for time in np.asarray(frame_times_us, dtype=np.int64).tolist():
        part = events.slice_time(time - spec.window_us, time)
        if spec.event_form == "voxel":
            grid = voxel_grid(
                *part.tensors(),
                bins=spec.event_channels,
                height=part.height,
                width=part.width,
                t_start_us=time - spec.window_us,
                t_stop_us=time,
            )  # c h w
        else:
            grid = accumulated_image(*part.tensors(), height=part.height, width=part.width)  # 3 h w
        grids.append(grid)
    return normalise_events(torch.stack(grids), spec)


def normalise_events(grids: Float[Tensor, "t c h w"], spec: ClipSpec) -> Float[Tensor, "t c s s"]:
    """Resize and normalise event images, whether made here or stored as SEE stores them (then in [0, 1])."""
    return (resize(grids, spec.size) - spec.event_mean) / spec.event_std


def resize(images: Float[Tensor, "t c h w"], size: int) -> Float[Tensor, "t c s s"]:
    """To a square of this side, antialiased."""
    if tuple(images.shape[-2:]) == (size, size):
        return images
    return functional.interpolate(images, (size, size), mode="bilinear", antialias=True, align_corners=False)
