"""Video files as a stream of frames with a clock, through PyAV, in bounded memory.

`read_video` gives RGB pictures, of what can be decoded. `VideoReader.timed` gives every frame that the file announces, the ones
that are lost among them, from a moment on, and leaves it to the caller which of them become pictures.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import av
import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from affuse.signals.events import Events, linear_luminance, simulate_events, write_events
from affuse.signals.lost_frames import MAX_BAD_PACKETS_IN_A_ROW, Coded, decode_or_lose
from affuse.types import AffuseError

VIDEO_SUFFIXES = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")
MAX_PIXELS = 8192 * 8192
_SEEK_FROM_US = 2_000_000  # nearer to the start, decoding forward is as quick
_BACK_S = (0, 3, 12)  # a transport stream has no index: a seek lands anywhere, and the next key frame may be too late


class Frame(NamedTuple):
    """One frame: microseconds since the first frame, and 8-bit RGB (h, w, 3)."""

    time_us: int
    image: NDArray[np.uint8]


class Decoded(NamedTuple):
    """One frame as the codec left it, and microseconds since the start of the stream; None where it is lost."""

    time_us: int
    frame: VideoFrame | None


class VideoReader:
    """Iterates once over the frames of a file; closes it at the end, or as a context manager.

    Frames are turned as the file's display matrix says (phones), and their times strictly increase.

    Attributes:
        fps: nominal frames a second; 0 where the file does not say.
        dropped: packets that could not be decoded and frames without a time of their own, so far.
    """

    def __init__(self, path: str | Path, max_frames: int | None = None, stride: int = 1) -> None:
        """Open a video.

        Args:
            path: any container and codec that FFmpeg reads.
            max_frames: yield at most so many.
            stride: yield every `stride`-th frame.

        Raises:
            AffuseError: no such file, empty, not a video, or frames too large. Iterating raises it where no frame at all
                can be decoded.
        """
        if stride < 1 or (max_frames is not None and max_frames < 1):
            raise AffuseError(f"stride and max_frames must be at least 1, got {stride} and {max_frames}")
        self.path = Path(path)
        self.dropped = 0
        self._max_frames = max_frames
        self._stride = stride
        self._sought = False
        if not self.path.is_file():
            raise AffuseError(f"{self.path}: no such file" if not self.path.exists() else f"{self.path}: not a file")
        if self.path.stat().st_size == 0:
            raise AffuseError(f"{self.path}: the file is empty")
        self._open()
        if getattr(self._stream, "codec_context", None) is None:
            self.close()
            raise AffuseError(
                f"{self.path}: coded in a way that FFmpeg does not know, or damaged; convert it or copy it again"
            )
        width, height = self._stream.width or 0, self._stream.height or 0
        if width * height > MAX_PIXELS:
            self.close()
            raise AffuseError(f"{self.path}: frames of {width} x {height} are too large; scale the video down first")
        rate = self._stream.average_rate
        self.fps = float(rate) if rate else 0.0

    def _open(self) -> None:
        try:
            # The 'file:' prefix keeps a name such as 'concat:...' from being read as an FFmpeg protocol.
            self._container = av.open(f"file:{self.path}", metadata_errors="ignore")
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise AffuseError(f"{self.path}: not a video, or cut short ({_reason(error)}); copy it again") from None
        if not self._container.streams.video:
            self.close()
            raise AffuseError(f"{self.path}: holds no video stream")
        self._stream = self._container.streams.video[0]

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; iterating ends."""
        self._container.close()

    def __iter__(self) -> Iterator[Frame]:
        seen = yielded = 0
        first: int | None = None
        last = -1
        try:
            for time, decoded in self._decode_avi() if self._is_avi else self._decode():
                if time is None:
                    time = seen / (self.fps or 30.0)
                time_us = round(time * 1e6)
                first = time_us if first is None else first
                if time_us - first <= last:
                    self.dropped += 1
                    continue
                last = time_us - first
                if seen % self._stride == 0:
                    yield Frame(last, rgb_image(decoded))
                    yielded += 1
                    if yielded == self._max_frames:
                        return
                seen += 1
        finally:
            self.close()
        if not seen:
            raise AffuseError(f"{self.path}: no frame can be decoded ({self.dropped} packets failed); copy it again")

    def timed(self, start_us: int = 0) -> Iterator[Decoded]:
        """Every frame in order of time, lost ones among them, from the last key frame at or before `start_us` or earlier.

        What counts as lost is said in affuse.signals.lost_frames. Frames come one at a time; times are rounded down to whole
        microseconds. Closes the file at the end.
        """
        try:
            if start_us > _SEEK_FROM_US and self._keeps_times:
                self._seek(start_us)
            codec = self._stream.codec_context
            codec.thread_count, codec.options = 1, {"err_detect": "explode"}
            last = -1
            untimed = 0
            for pts, frame, whole in self._coded():
                if pts is None:
                    time_us = int(untimed * 1e6 / (self.fps or 30.0))
                    untimed += 1
                else:
                    time_us = math.floor((pts - self._zero) * self._time_base * 1_000_000)
                if not whole:
                    self.dropped += 1
                if time_us > last:
                    last = time_us
                    yield Decoded(time_us, frame if whole else None)
        finally:
            self.close()

    @property
    def _keeps_times(self) -> bool:
        """Whether frames have the same times after a seek.

        In an MPEG program stream not every frame has one, and FFmpeg guesses wrong up to the next group. In AVI a time is a
        frame's place in the order of frames: after a seek it is known only where they are coded in the order they are shown in.
        """
        name = self._container.format.name
        return name != "mpeg" and not (name == "avi" and self._stream.codec_context.has_b_frames)

    def _seek(self, start_us: int) -> None:
        """To a key frame before a moment; to the beginning, where the container cannot seek or lands late."""
        wanted = self._zero + int(Fraction(start_us, 1_000_000) / self._time_base)
        try:
            for back_s in _BACK_S:
                place = wanted - int(back_s / self._time_base)
                self._container.seek(place, stream=self._stream)
                keys = (p.pts for p in self._container.demux(self._stream) if p.is_keyframe and p.pts is not None)
                if next(keys, wanted + 1) <= wanted:
                    self._container.seek(place, stream=self._stream)
                    self._sought = True
                    return
        except (av.error.FFmpegError, OSError, OverflowError):
            pass  # decoded from the beginning instead
        self.close()
        self._open()

    @property
    def _time_base(self) -> Fraction:
        return self._stream.time_base or Fraction(1, 1_000_000)

    @property
    def _zero(self) -> int:
        return self._stream.start_time or 0

    @property
    def _is_avi(self) -> bool:
        return bool(self._container.format.name == "avi")

    def _coded(self) -> Iterator[Coded]:
        packets = self._container.demux(self._stream)
        if self._sought:  # perhaps into the middle of a group
            packets = itertools.dropwhile(lambda packet: not packet.is_keyframe, packets)
        return decode_or_lose(packets, self._stream.codec_context.name, self._container.format.name)

    def _decode_avi(self) -> Iterator[tuple[float | None, VideoFrame]]:
        """AVI stores no times: they follow from the order of frames, the lost ones among them."""
        for pts, frame, _ in self._coded():
            if frame is None:
                self.dropped += 1
            else:
                yield None if pts is None else float(pts * self._time_base), frame

    def _decode(self) -> Iterator[tuple[float | None, VideoFrame]]:
        bad_in_a_row = 0
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except (av.error.FFmpegError, OSError):
                self.dropped += 1  # the container itself breaks off here
                return
            try:
                frames = packet.decode()
            except (av.error.FFmpegError, OSError):
                self.dropped += 1
                bad_in_a_row += 1
                if bad_in_a_row > MAX_BAD_PACKETS_IN_A_ROW:
                    return
                continue
            if frames:
                bad_in_a_row = 0
            for frame in frames:
                if isinstance(frame, VideoFrame):
                    yield frame.time, frame


def read_video(path: str | Path, max_frames: int | None = None, stride: int = 1) -> VideoReader:
    """Open a video file and iterate over ``(time_us, image)``; see `VideoReader`.

    Raises:
        AffuseError: no such file, empty, not a video, cut short before its first frame.
    """
    return VideoReader(path, max_frames, stride)


def simulate_events_of_video(
    source: str | Path, target: str | Path, *, threshold: float = 0.2, seed: int = 0
) -> Events:
    """The events that an event camera would have sent of a video, written to `target`, a ``.npz`` that `read_events` reads.

    Args:
        source: a video.
        target: the file to write.
        threshold: contrast threshold, natural log units.
        seed: of the sensor's mismatch and noise.

    Raises:
        AffuseError: the video cannot be read, or `target` is not an ``.npz`` in a folder that exists.
    """
    target = Path(target)
    if target.suffix.lower() != ".npz" or not target.parent.is_dir():
        raise AffuseError(f"{target}: events are written to a .npz file in a folder that exists")
    images, clock = itertools.tee(read_video(source))  # the simulator takes a frame and its time in turn: one is held
    events = simulate_events(
        (linear_luminance(frame.image) for frame in images),
        (frame.time_us for frame in clock),
        threshold=threshold,
        seed=seed,
    )
    write_events(events, target)
    return events


def rgb_image(frame: VideoFrame) -> NDArray[np.uint8]:
    """A decoded frame as upright 8-bit RGB (h, w, 3)."""
    return _turned(np.asarray(frame.to_ndarray(format="rgb24"), dtype=np.uint8), frame)


def gray_image(frame: VideoFrame) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """A decoded frame as an upright gray image (h, w): as stored where the video is gray of 9 to 16 bits, else 8 bits."""
    bits = frame.format.components[0].bits
    if frame.format.name.startswith("gray") and 8 < bits <= 16:
        # Read from the plane, as a conversion from 10 or 12 bits to 16 would scale the numbers.
        order = ">u2" if frame.format.is_big_endian else "<u2"
        rows = np.frombuffer(memoryview(frame.planes[0]), order).reshape(frame.height, -1)
        return _turned(rows[:, : frame.width].astype(np.uint16), frame)
    return _turned(np.asarray(frame.to_ndarray(format="gray"), dtype=np.uint8), frame)


def _turned(image: NDArray[Any], frame: VideoFrame) -> NDArray[Any]:
    turns = round(frame.rotation / 90) % 4  # degrees, counterclockwise
    return np.ascontiguousarray(np.rot90(image, turns)) if turns else image


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or type(error).__name__)
