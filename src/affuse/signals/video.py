"""Video files as a stream of RGB frames with a clock, through PyAV, in bounded memory."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import av
import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from affuse.signals.events import Events, linear_luminance, simulate_events, write_events
from affuse.types import AffuseError

VIDEO_SUFFIXES = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")
MAX_PIXELS = 8192 * 8192
_MAX_BAD_PACKETS_IN_A_ROW = 256


class Frame(NamedTuple):
    """One frame: microseconds since the first frame, and 8-bit RGB (h, w, 3)."""

    time_us: int
    image: NDArray[np.uint8]


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
        if not self.path.is_file():
            raise AffuseError(f"{self.path}: no such file" if not self.path.exists() else f"{self.path}: not a file")
        if self.path.stat().st_size == 0:
            raise AffuseError(f"{self.path}: the file is empty")
        try:
            # The 'file:' prefix keeps a name such as 'concat:...' from being read as an FFmpeg protocol.
            self._container = av.open(f"file:{self.path}", metadata_errors="ignore")
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise AffuseError(f"{self.path}: not a video, or cut short ({_reason(error)}); copy it again") from None
        if not self._container.streams.video:
            self.close()
            raise AffuseError(f"{self.path}: holds no video stream")
        self._stream = self._container.streams.video[0]
        width, height = self._stream.width or 0, self._stream.height or 0
        if width * height > MAX_PIXELS:
            self.close()
            raise AffuseError(f"{self.path}: frames of {width} x {height} are too large; scale the video down first")
        rate = self._stream.average_rate
        self.fps = float(rate) if rate else 0.0

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
            for decoded in self._decode():
                time = decoded.time
                if time is None:
                    time = seen / (self.fps or 30.0)
                time_us = round(time * 1e6)
                first = time_us if first is None else first
                if time_us - first <= last:
                    self.dropped += 1
                    continue
                last = time_us - first
                if seen % self._stride == 0:
                    yield Frame(last, _upright(decoded))
                    yielded += 1
                    if yielded == self._max_frames:
                        return
                seen += 1
        finally:
            self.close()
        if not seen:
            raise AffuseError(f"{self.path}: no frame can be decoded ({self.dropped} packets failed); copy it again")

    def _decode(self) -> Iterator[VideoFrame]:
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
                if bad_in_a_row > _MAX_BAD_PACKETS_IN_A_ROW:
                    return
                continue
            if frames:
                bad_in_a_row = 0
            for frame in frames:
                if isinstance(frame, VideoFrame):
                    yield frame


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


def _upright(frame: VideoFrame) -> NDArray[np.uint8]:
    image = np.asarray(frame.to_ndarray(format="rgb24"), dtype=np.uint8)
    turns = round(frame.rotation / 90) % 4  # degrees, counterclockwise
    return np.ascontiguousarray(np.rot90(image, turns)) if turns else image


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or type(error).__name__)
