"""Synchronised cameras: clips of RGB, infrared and depth at common moments, from recordings with clocks of their own.

At each wanted moment a camera gives the latest frame that it had taken by then, never a later one, with the frame's true time.
A frame that was lost or cannot be decoded, and a moment outside of the recording or too long after the last frame, is marked
as not valid and never filled from its neighbours: its image is zeros in a `CameraClip` and NaN in `clip_input`.

A camera's modality is its name, or what stands before the first ``_`` of it (``infrared_ceiling``).
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from affuse.signals.clips import resize
from affuse.signals.depth import Depth, DepthSpec, depth_form, masked_resize, to_metres
from affuse.signals.timed_frames import FrameNames, FrameSource, TimedFrame, open_frames
from affuse.types import AffuseError

KINDS = ("rgb", "infrared", "depth")
# Intervals that a frame stands for: one lost now and then is no hole, of what lies in a longer stretch nothing is known.
FRESH_FRAMES = 2.5


@dataclass(frozen=True)
class CameraSpec:
    """How cameras are read and what their tensors look like.

    Args:
        size: side of the square input, pixels.
        depth: how depth is read and shown.
        offsets_us: by camera, where the zero of its clock lies on the common clock, microseconds.
        fps: by camera, frames a second of numbered pictures and of arrays; a video says it itself.
        frame_names: how pictures in folders are named, see `affuse.signals.timed_frames.open_frames`.
        max_age_us: how long a frame stands for the moments after it; None: two and a half intervals of its camera. After the
            last frame of a recording it is less than one interval.
        keep: longer side to which frames are shrunk as they are read, pixels, so that a clip of large frames stays small;
            None: as they are.
        rgb_mean, rgb_std: RGB in [0, 1] is normalised as (x - mean) / std.
        infrared_mean, infrared_std: the same for infrared.
        infrared_white: the stored number that counts as 1 in infrared; None: the largest of its type (255 or 65535).
    """

    size: int = 48
    depth: DepthSpec = DepthSpec()
    offsets_us: Mapping[str, int] = field(default_factory=dict)
    fps: Mapping[str, float] = field(default_factory=dict)
    frame_names: FrameNames = "number"
    max_age_us: int | None = None
    keep: int | None = None
    rgb_mean: float = 0.5
    rgb_std: float = 0.25
    infrared_mean: float = 0.5
    infrared_std: float = 0.25
    infrared_white: float | None = None

    def __post_init__(self) -> None:
        if self.size < 1 or (self.keep is not None and self.keep < 1):
            raise AffuseError(f"size and keep must be at least 1, got {self.size} and {self.keep}")
        if self.max_age_us is not None and self.max_age_us < 0:
            raise AffuseError(f"max_age_us must not be negative, got {self.max_age_us}")
        if min(self.rgb_std, self.infrared_std) <= 0 or (self.infrared_white is not None and self.infrared_white <= 0):
            raise AffuseError("rgb_std, infrared_std and infrared_white must be positive")
        for name in (*self.offsets_us, *self.fps):
            camera_kind(name)


@dataclass(frozen=True)
class CameraClip:
    """Frames of one camera at the wanted moments.

    Args:
        images: (t, h, w, c): RGB 8 bits, c = 3; infrared 8 or 16 bits, c = 1; depth in metres, float32, c = 1, 0 where
            invalid. Zeros where a frame is not valid.
        times_us: (t,) when each frame was taken, on the common clock; the wanted moment where it is not valid.
        valid: (t,) whether there is a frame.
        stored_size: height and width of the stored images, which `CameraSpec.keep` may have shrunk since; None: as they are.
    """

    images: NDArray[Any]
    times_us: NDArray[np.int64]
    valid: NDArray[np.bool_]
    stored_size: tuple[int, int] | None = None

    @property
    def lost(self) -> int:
        """Moments without a valid frame."""
        return int((~self.valid).sum())


class _Made(NamedTuple):
    """An image (h, w, c), and the height and width it was stored at."""

    image: NDArray[Any]
    stored_size: tuple[int, int]


class _Picked(NamedTuple):
    time_us: int
    made: _Made | None


class _Camera:
    """Frames of one camera at moments that increase."""

    def __init__(self, name: str, path: str | Path, spec: CameraSpec, start_us: int) -> None:
        self.kind = camera_kind(name)
        self._spec = spec
        self._offset = int(spec.offsets_us.get(name, 0))
        self.source: FrameSource = open_frames(
            path, gray=self.kind != "rgb", fps=spec.fps.get(name), names=spec.frame_names
        )
        self._frames = self.source.frames(start_us - self._offset)
        self._now: TimedFrame | None = None
        self._next = next(self._frames, None)
        self._made: _Made | None = None  # the picture of `_now`, if it was asked for

    def close(self) -> None:
        close = getattr(self._frames, "close", None)
        if close is not None:
            close()

    def at(self, moment_us: int) -> _Picked:
        """The latest frame by a moment on the common clock."""
        self._advance(moment_us)
        if self._now is None or self._now.load is None or self._stale(moment_us - self._offset - self._now.time_us):
            return _Picked(moment_us, None)
        if self._made is None:
            self._made = self._picture(self._now.load)
            if self._made is None:
                self._now = TimedFrame(self._now.time_us, None)
                return _Picked(moment_us, None)
        return _Picked(self._now.time_us + self._offset, self._made)

    def over(self, moment_us: int) -> bool:
        """Whether a moment lies after the recording; a still has no end, and no recording waits for it."""
        self._advance(moment_us)
        interval = self.source.interval_us
        if interval is None:
            return True
        if self._next is not None:
            return False
        return self._now is None or moment_us - self._offset - self._now.time_us >= interval

    def _advance(self, moment_us: int) -> None:
        while self._next is not None and self._next.time_us <= moment_us - self._offset:
            self._now, self._next, self._made = self._next, next(self._frames, None), None

    def _stale(self, age_us: int) -> bool:
        interval = self.source.interval_us
        if interval is None:
            return False
        limit = FRESH_FRAMES * interval if self._spec.max_age_us is None else self._spec.max_age_us
        # The last frame lasts until the next one would have come: there the recording ends.
        return age_us > limit or (self._next is None and age_us >= interval)

    def _picture(self, load: Any) -> _Made | None:
        stored = load()
        if stored is None:
            return None
        if self.kind == "depth":
            try:
                depth = to_metres(stored, self._spec.depth)
            except AffuseError as error:
                raise AffuseError(f"{self.source.path}: {error}") from None
            return _Made(_shrunk_depth(depth, self._spec), stored.shape[-2:])
        image = stored if self.kind == "rgb" else _infrared(stored, self.source.path)  # h w c
        scale = 1.0 if self._spec.keep is None else self._spec.keep / max(image.shape[:2])
        return _Made(image if scale >= 1 else _sized(image, _scaled(image.shape, scale)), image.shape[:2])


def camera_kind(name: str) -> str:
    """``rgb``, ``infrared`` or ``depth``: what a camera of this name gives.

    Raises:
        AffuseError: another name.
    """
    kind = name.partition("_")[0]
    if kind not in KINDS:
        raise AffuseError(f"camera {name!r}: names start with one of {', '.join(KINDS)}, such as 'infrared_ceiling'")
    return kind


def read_cameras(
    paths: Mapping[str, str | Path], times_us: Sequence[int] | NDArray[np.int64], spec: CameraSpec
) -> dict[str, CameraClip]:
    """A clip of each camera at the same moments: of each the latest frame by then, never a later one.

    Videos are decoded forward from the key frame before the first moment; only the wanted frames are held.

    Args:
        paths: a video, a folder of pictures, an ``.npy`` array or a still, by camera.
        times_us: moments on the common clock, microseconds, not decreasing.
        spec: settings.

    Raises:
        AffuseError: a file cannot be opened or is of another kind than the camera needs, or times decrease.
    """
    moments = [int(time) for time in times_us]
    if not moments or any(b < a for a, b in itertools.pairwise(moments)):
        raise AffuseError(f"times_us must be given and must not decrease, got {moments[:8]}")
    clips = {}
    for name, path in paths.items():
        with closing(_Camera(name, path, spec, moments[0])) as camera:
            clips[name] = _clip([camera.at(moment) for moment in moments], camera.kind)
    return clips


def camera_windows(
    paths: Mapping[str, str | Path],
    spec: CameraSpec,
    *,
    frames: int,
    step_us: int,
    hop_us: int,
    start_us: int = 0,
    stop_us: int | None = None,
) -> Iterator[dict[str, CameraClip]]:
    """Sliding windows over a long recording, each file decoded once, `frames` frames of each camera held at a time.

    Window k has the moments start_us + k hop_us + i step_us, i < frames. Windows go on while their last moment lies before
    `stop_us` and within the recording of any camera; a recording that is shorter than a window gives one.

    Args:
        paths: as in `read_cameras`.
        spec: settings.
        frames: moments a window.
        step_us: microseconds between moments.
        hop_us: microseconds between windows, a multiple of `step_us`.
        start_us: first moment of the first window.
        stop_us: end; None: the end of the longest recording. Stills have no end: where all cameras are stills, give it.

    Raises:
        AffuseError: a setting is impossible, or a file cannot be opened or is of another kind than the camera needs.
    """
    if frames < 1 or step_us < 1 or hop_us < 1 or hop_us % step_us:
        raise AffuseError(
            f"frames and step_us must be positive and hop_us a multiple of step_us, got {frames}, {step_us}, {hop_us}"
        )
    if not paths:
        raise AffuseError("no camera is given: name at least one file")
    return _windows(paths, spec, frames, step_us, hop_us // step_us, start_us, stop_us)


def _windows(
    paths: Mapping[str, str | Path],
    spec: CameraSpec,
    frames: int,
    step_us: int,
    hop: int,
    start_us: int,
    stop_us: int | None,
) -> Iterator[dict[str, CameraClip]]:
    with ExitStack() as stack:
        cameras = {
            name: stack.enter_context(closing(_Camera(name, path, spec, start_us))) for name, path in paths.items()
        }
        if stop_us is None and all(camera.source.interval_us is None for camera in cameras.values()):
            raise AffuseError(f"{', '.join(map(str, paths.values()))}: stills have no end: give stop_us")
        held: dict[str, deque[_Picked]] = {name: deque(maxlen=frames) for name in cameras}
        for tick in itertools.count():
            moment = start_us + tick * step_us
            over = moment >= stop_us if stop_us is not None else all(c.over(moment) for c in cameras.values())
            if over and tick >= frames:
                return
            for name, camera in cameras.items():
                held[name].append(camera.at(moment))
            if tick >= frames - 1 and (tick - frames + 1) % hop == 0:
                yield {name: _clip(list(held[name]), camera.kind) for name, camera in cameras.items()}


def clip_input(clip: CameraClip, spec: CameraSpec) -> Float[Tensor, "t c s s"]:
    """The normalised tensor of a clip, float32; frames that are not valid are NaN throughout.

    Depth has the channels of `DepthSpec.form`, RGB three, infrared one.
    """
    kind = "depth" if clip.images.dtype.kind == "f" else "rgb" if clip.images.shape[-1] == 3 else "infrared"
    if kind == "depth":
        metres = torch.from_numpy(np.ascontiguousarray(clip.images[..., 0]))  # t h w
        tensor = depth_form(Depth(metres, metres > 0), spec.depth, spec.size, clip.stored_size)
    else:
        white, mean, std = 255.0, spec.rgb_mean, spec.rgb_std
        if kind == "infrared":
            white = spec.infrared_white or float(np.iinfo(clip.images.dtype).max)
            mean, std = spec.infrared_mean, spec.infrared_std
        images = torch.from_numpy(clip.images.astype(np.float32)).permute(0, 3, 1, 2) / white  # t c h w
        tensor = (resize(images.clamp(max=1), spec.size) - mean) / std
    return torch.where(torch.from_numpy(clip.valid)[:, None, None, None], tensor, torch.nan)


def camera_inputs(
    clips: Mapping[str, CameraClip], spec: CameraSpec
) -> tuple[dict[str, Float[Tensor, "_ _ _ _"]], dict[str, Tensor]]:
    """`inputs` and `times_us` of a `Sample`; a camera without any valid frame is left out: it is absent."""
    seen = {name: clip for name, clip in clips.items() if clip.valid.any()}
    inputs = {name: clip_input(clip, spec) for name, clip in seen.items()}
    return inputs, {name: torch.from_numpy(clip.times_us) for name, clip in seen.items()}


def _clip(picked: Sequence[_Picked], kind: str) -> CameraClip:
    first = next((made for _, made in picked if made is not None), None)
    channels, dtype = (3, np.uint8) if kind == "rgb" else (1, np.float32 if kind == "depth" else np.uint8)
    like = np.zeros((1, 1, channels), dtype) if first is None else first.image
    stacked = np.zeros((len(picked), *like.shape), like.dtype)
    for row, (_, made) in enumerate(picked):
        if made is not None:
            # A stream may change its size on the way; the first valid frame of the clip decides.
            stacked[row] = made.image if made.image.shape == like.shape else _sized(made.image, like.shape[:2])
    return CameraClip(
        stacked,
        np.array([time for time, _ in picked], np.int64),
        np.array([made is not None for _, made in picked], np.bool_),
        None if first is None else first.stored_size,
    )


def _infrared(stored: NDArray[Any], path: Path) -> NDArray[Any]:
    if stored.dtype.kind != "u" or stored.dtype.itemsize > 2:
        raise AffuseError(f"{path}: infrared is 8 or 16 bits, got {stored.dtype}; save it as 16-bit whole numbers")
    return stored[..., None]  # h w 1


def _scaled(shape: tuple[int, ...], scale: float) -> tuple[int, int]:
    return max(1, round(shape[0] * scale)), max(1, round(shape[1] * scale))


def _sized(image: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """An image (h, w, c) at another height and width; depth without mixing what is invalid."""
    if image.dtype.kind == "f":
        metres = torch.from_numpy(image[None, ..., 0])  # 1 h w
        small, _ = masked_resize(metres[:, None], metres > 0, size)
        return small[0, 0].numpy()[..., None]
    resized = cv2.resize(image, (size[1], size[0]), interpolation=cv2.INTER_AREA)
    return np.asarray(resized if resized.ndim == 3 else resized[..., None])


def _shrunk_depth(depth: Depth, spec: CameraSpec) -> NDArray[np.float32]:
    height, width = depth.metres.shape[1:]
    metres, valid = depth.metres[:, None], depth.valid  # 1 1 h w, 1 h w
    if spec.keep is not None and max(height, width) > spec.keep:
        size = _scaled((height, width), spec.keep / max(height, width))
        metres, valid = masked_resize(metres, valid, size, spec.depth.min_coverage)
    return metres[0, 0].numpy()[..., None]
