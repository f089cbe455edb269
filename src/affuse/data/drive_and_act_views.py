"""The recordings of Drive&Act: which file shows which view of a drive, and its frames by number.

Frames of a video are found by their time, number / rate: exact where the rate is constant. The data set's kinect_depth files
are 8-bit codes of depth; what 255 stands for we do not know, and 4.5 m, the sensor's range, is our reading.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import av
import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from affuse.data.sound_and_frames import fault
from affuse.signals.cameras import CameraClip, CameraSpec, clip_input, read_cameras
from affuse.signals.depth import DepthSpec, to_metres
from affuse.signals.timed_frames import read_picture
from affuse.types import AffuseError

Source = Literal["auto", "videos", "frames"]
Kind = Literal["rgb", "infrared", "depth"]
_FRAME = re.compile(r"frame_([0-9]{1,9})\.(?:png|jpe?g)")
_COLOUR, _DEPTH = "kinect_color", "kinect_depth"  # all other views are near infrared
_KINECT_HZ, _OTHERS_HZ = 15.0, 30.0
# Pictures are large, 1280 x 1024 in some views: what is not needed is dropped as they are read.
CAMERAS = CameraSpec(size=224, keep=320, depth=DepthSpec(coded_far_m=4.5, far_m=4.5))


@dataclass(frozen=True)
class Recording:
    """One view of one drive: a video, or a folder of its frames.

    Args:
        path: of the video or folder.
        kind: what the view shows.
        rate_hz: frames a second; of a folder the nominal rate of its view.
        first, stop: number of the first frame, and the one behind the last; frames of a video count from 0, those of a folder
            are numbered as their names say.
        suffix: of the frames of a folder, such as ``.png``; empty of a video.
        digits: to which the numbers of a folder's frames are padded.
    """

    path: Path
    kind: Kind
    rate_hz: float
    first: int
    stop: int
    suffix: str = ""
    digits: int = 5

    def time_us(self, number: int) -> int:
        """When a frame begins, microseconds from frame 0 of the recording."""
        return round(number * 1e6 / self.rate_hz)

    def lacks(self, first: int, stop: int) -> str | None:
        """Where no frame of a span lies within the recording, that; else None."""
        if max(first, self.first) < min(stop, self.stop):
            return None
        return f"{self.path.parent.name}/{self.path.name}: has frames {self.first} to {self.stop - 1}, not {first}"

    def clamp(self, first: int, stop: int) -> tuple[int, int]:
        """The part of a span of frames that lies within the recording; of a span wholly outside, the span itself."""
        inside = max(first, self.first), min(stop, self.stop)
        return inside if inside[0] < inside[1] else (first, stop)


def kind_of(view: str) -> Kind:
    """What a view shows."""
    return "rgb" if view == _COLOUR else "depth" if view == _DEPTH else "infrared"


def find_recordings(
    root: Path,
    views: Mapping[str, str],
    wanted: Mapping[tuple[str, str], str],
    source: Source = "auto",
    rates_hz: Mapping[str, float] | None = None,
) -> dict[tuple[str, str], Recording | str]:
    """The recordings that chunks name.

    Args:
        root: folder of the data set.
        views: modality -> view.
        wanted: (modality, recording) -> suffix of its video; a recording is such as ``vp1/run1b_2018-05-29-14-02-47``.
        source: what is looked for: videos, folders of frames, or folders and else videos.
        rates_hz: frames a second of folders, by modality; else 15 of the Kinect's views and 30 of the others.

    Returns:
        By (modality, recording), the recording or what is wrong with it: ``FILE: fault``. Videos are opened, not decoded.
    """
    found: dict[tuple[str, str], Recording | str] = {}
    for (name, recording), suffix in wanted.items():
        view = views[name]
        folder = root / f"{view}_frames" / recording
        video = root / view / f"{recording}.{suffix}.mp4"
        take_folder = source == "frames" or (source == "auto" and folder.is_dir())
        try:
            if take_folder:
                nominal = _KINECT_HZ if view.startswith("kinect") else _OTHERS_HZ
                found[name, recording] = _of_folder(folder, kind_of(view), (rates_hz or {}).get(name, nominal))
            else:
                found[name, recording] = _of_video(video, kind_of(view))
        except AffuseError as error:
            place = folder if take_folder else video
            found[name, recording] = f"{place.relative_to(root).as_posix()}: {error}"
    return found


def read_frames(
    recording: Recording, numbers: Sequence[int], spec: CameraSpec
) -> tuple[Float[Tensor, "t c s s"], Int[Tensor, " t"]]:
    """Frames by number, normalised, and their times, microseconds from frame 0; a frame that cannot be decoded, or that the
    recording does not have, is NaN.

    Args:
        recording: where they lie.
        numbers: not decreasing.
        spec: size and normalisation; its clocks are not read.

    Raises:
        AffuseError: the recording cannot be opened, or shows another kind of picture than its view.
    """
    if not recording.suffix:
        # The middle of a frame's time: neither rounding reaches into the one before or behind.
        moments = [recording.time_us(number) + round(5e5 / recording.rate_hz) for number in numbers]
        clock = replace(spec, offsets_us={}, fps={}, max_age_us=None)
        clip = read_cameras({recording.kind: recording.path}, moments, clock)[recording.kind]
        return clip_input(clip, spec), torch.from_numpy(clip.times_us)
    images = [_picture(recording, number, spec) for number in numbers]
    times = torch.tensor([recording.time_us(number) for number in numbers])
    known = [image for image in images if image is not None]
    nothing = torch.full_like(known[0], torch.nan) if known else torch.full((1, 1, 1, 1), torch.nan)
    return torch.cat([nothing if image is None else image for image in images]), times


def _picture(recording: Recording, number: int, spec: CameraSpec) -> Float[Tensor, "1 c s s"] | None:
    """One picture of a folder; None where it is missing or broken. One at a time, for a clip of large ones is large."""
    path = recording.path / f"frame_{number:0{recording.digits}d}{recording.suffix}"
    if not path.is_file():
        return None
    try:
        stored = read_picture(path, gray=recording.kind != "rgb")
    except AffuseError as error:
        if "in colour" in str(error):  # true of all of them
            raise
        return None
    if recording.kind == "depth":
        image = to_metres(stored, spec.depth).metres.numpy()[..., None]  # 1 h w 1
    else:
        image = stored[None] if recording.kind == "rgb" else stored[None, ..., None]
    return clip_input(CameraClip(image, np.zeros(1, np.int64), np.ones(1, np.bool_)), spec)


def _of_folder(folder: Path, kind: Kind, rate_hz: float) -> Recording:
    if not folder.is_dir():
        raise AffuseError("missing")
    numbers: dict[str, tuple[int, int]] = {}
    digits: dict[str, set[int]] = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            if name := _FRAME.fullmatch(entry.name):
                number, suffix = int(name[1]), Path(entry.name).suffix
                low, high = numbers.get(suffix, (number, number))
                numbers[suffix] = min(low, number), max(high, number)
                digits.setdefault(suffix, set()).add(len(name[1]))
    if not numbers:
        raise AffuseError("no image named such as frame_00058.png")
    suffix = max(numbers, key=lambda suffix: numbers[suffix][1] - numbers[suffix][0])
    first, last = numbers[suffix]
    # Padded to the shortest: a longer number has no leading zero.
    return Recording(folder, kind, rate_hz, first, last + 1, suffix, min(digits[suffix]))


def _of_video(path: Path, kind: Kind) -> Recording:
    if wrong := fault(path):
        raise AffuseError(wrong)
    try:
        # The 'file:' prefix keeps a name from being read as an FFmpeg protocol.
        with av.open(f"file:{path}", metadata_errors="ignore") as container:
            stream = next(iter(container.streams.video), None)
            rate = None if stream is None else stream.average_rate
            if stream is None or not rate:
                raise AffuseError("no video with a frame rate")
            frames = stream.frames  # as the header counts them; 0 where it does not
            if not frames and stream.duration and stream.time_base:
                frames = round(stream.duration * stream.time_base * rate)
            return Recording(path, kind, float(rate), 0, frames or 2**31)
    except (av.error.FFmpegError, OSError, ValueError):
        raise AffuseError("not a video, or cut short") from None
