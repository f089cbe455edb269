"""Frames of one camera with their times, forward, one at a time: from a video, a folder of pictures, an array or a still.

A source says when each of its frames was taken without making a picture of it, so that those that nobody wants cost little; a
frame that cannot be decoded keeps its place in time and has no picture.
"""

from __future__ import annotations

import re
import tokenize
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from affuse.signals.video import MAX_PIXELS, VideoReader, gray_image, rgb_image
from affuse.types import AffuseError

PICTURE_SUFFIXES = (".png", ".pgm", ".jpg", ".jpeg")
UNKNOWN_INTERVAL_US = 100_000

_LATEST = 10**17  # microseconds: 3000 years
FrameNames = Literal["number", "seconds", "microseconds"]


class TimedFrame(NamedTuple):
    """A frame's time, microseconds on its camera's clock, and how to get its picture, which gives None if it is unreadable.

    `load` itself is None where the frame is known to be lost.
    """

    time_us: int
    load: Callable[[], NDArray[Any] | None] | None


@dataclass(frozen=True)
class FrameSource:
    """Frames of one camera.

    Args:
        path: where they lie.
        interval_us: nominal time between frames; None for a still, which stands for all times.
        frames: the frames from a moment on (some before it may come too), in order of time.
    """

    path: Path
    interval_us: int | None
    frames: Callable[[int], Iterator[TimedFrame]]


def open_frames(path: str | Path, *, gray: bool, fps: float | None = None, names: FrameNames = "number") -> FrameSource:
    """The frames of a video, of a folder of pictures, of an ``.npy`` array or of a still, which is a single picture.

    The clock of a video starts at the start of its stream; that of an array at its first frame, at `fps`. A folder's pictures
    are named by the last number in their names: a ``number`` counts frames from the folder's smallest on, at `fps`, and a gap
    in the numbers is lost frames; ``seconds`` and ``microseconds`` are times as they stand, for example
    ``1305031102.160407.png``.

    Args:
        path: a file or a folder.
        gray: pictures are (h, w), of as many bits as the file has; otherwise 8-bit RGB (h, w, 3).
        fps: frames a second, of arrays (t, h, w) and of numbered pictures.
        names: how the pictures of a folder are named.

    Raises:
        AffuseError: nothing there, no such kind of file, no pictures, an array of another shape, `fps` is missing.
    """
    path = Path(path)
    if fps is not None and not 0 < fps < float("inf"):
        raise AffuseError(f"{path}: fps must be positive, got {fps}")
    if not path.exists():
        raise AffuseError(f"{path}: no such file or folder")
    if path.is_dir():
        return _folder(path, gray, fps, names)
    if path.stat().st_size == 0:
        raise AffuseError(f"{path}: the file is empty; copy it again")
    if path.suffix.lower() == ".npy":
        return _array(path, gray, fps)
    if path.suffix.lower() in PICTURE_SUFFIXES:
        read_picture(path, gray)  # a still is all there is: that it cannot be read is an error
        return FrameSource(path, None, lambda _: iter([TimedFrame(0, lambda: read_picture(path, gray))]))
    with VideoReader(path) as reader:
        # Containers that only know milliseconds may claim 1000 frames a second.
        interval_us = round(1e6 / reader.fps) if 0 < reader.fps < 1000 else UNKNOWN_INTERVAL_US
    return FrameSource(path, interval_us, lambda start_us: _video(path, gray, start_us))


def read_picture(path: Path, gray: bool) -> NDArray[Any]:
    """One picture: gray (h, w) of as many bits as stored, or 8-bit RGB (h, w, 3).

    Raises:
        AffuseError: it cannot be read whole, is too large, or colours stand where gray is wanted.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise AffuseError(f"{path}: cannot be read ({error.strerror})") from None
    width, height = _header(content)
    if not 0 < width * height <= MAX_PIXELS:
        raise AffuseError(f"{path}: not a whole PNG, PGM or JPEG picture of at most {MAX_PIXELS} pixels; copy it again")
    # A JPEG decoder fills what is missing with gray; the end marker tells. PNG and PGM decoders refuse by themselves.
    if content[:2] == b"\xff\xd8" and b"\xff\xd9" not in content[-1024:]:
        raise AffuseError(f"{path}: the picture is cut short; copy it again")
    # The orientation of EXIF is kept out: depth and infrared have none, and pictures must stay aligned.
    flags = cv2.IMREAD_UNCHANGED if gray else cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        image = cv2.imdecode(np.frombuffer(content, np.uint8), flags)
    except cv2.error:
        image = None
    if image is None:
        raise AffuseError(f"{path}: the picture cannot be decoded; copy it again")
    if not gray:
        return np.ascontiguousarray(image[..., ::-1])
    if image.ndim == 3:
        colour = image[..., :3]
        if image.shape[2] < 3 or not (colour == colour[..., :1]).all():
            raise AffuseError(f"{path}: a picture in colour where gray is wanted; give the gray or 16-bit pictures")
        return np.ascontiguousarray(colour[..., 0])
    return np.asarray(image)


def _video(path: Path, gray: bool, start_us: int) -> Iterator[TimedFrame]:
    convert = gray_image if gray else rgb_image
    for time_us, frame in VideoReader(path).timed(start_us):
        yield TimedFrame(time_us, None if frame is None else lambda frame=frame: convert(frame))  # type: ignore[misc]


def _folder(path: Path, gray: bool, fps: float | None, names: FrameNames) -> FrameSource:
    numbered: dict[int, Path] = {}
    pattern = re.compile(r"\d+\.\d+|\d+" if names == "seconds" else r"\d+")
    for file in sorted(path.iterdir()):
        if file.suffix.lower() not in PICTURE_SUFFIXES:
            continue
        found = pattern.findall(file.stem)
        if not found:
            raise AffuseError(f"{file}: a picture without a number in its name; name pictures by {names}")
        number = round(float(found[-1]) * 1e6) if names == "seconds" else int(found[-1])
        if number > _LATEST:
            raise AffuseError(f"{file}: the number in its name is too large for frames named by {names}; rename it")
        if number in numbered:
            raise AffuseError(f"{file}: has the number of {numbered[number].name}; keep one of them in the folder")
        numbered[number] = file
    if not numbered:
        raise AffuseError(f"{path}: holds no picture ({', '.join(PICTURE_SUFFIXES)}); give a folder of frames")
    order = sorted(numbered)
    if names == "number":
        if fps is None:
            raise AffuseError(f"{path}: numbered pictures have no clock: give the camera's fps")
        times = {number: int((number - order[0]) * 1e6 / fps) for number in order}
        interval_us = round(1e6 / fps)
    else:
        times = {number: number for number in order}
        gaps = np.diff(order)
        interval_us = max(1, int(np.median(gaps))) if len(gaps) else UNKNOWN_INTERVAL_US

    def frames(start_us: int) -> Iterator[TimedFrame]:
        first = max(0, int(np.searchsorted([times[number] for number in order], start_us, side="right")) - 1)
        before: int | None = None
        for number in order[first:]:
            if names == "number" and fps is not None and before is not None and number > before + 1:
                yield TimedFrame(int((before + 1 - order[0]) * 1e6 / fps), None)  # stands for the whole gap
            before = number
            yield TimedFrame(times[number], lambda file=numbered[number]: _readable(file, gray))  # type: ignore[misc]

    return FrameSource(path, interval_us, frames)


def _readable(file: Path, gray: bool) -> NDArray[Any] | None:
    """A picture of a folder, or None where this one cannot be read: the others still can."""
    try:
        return read_picture(file, gray)
    except AffuseError as error:
        if "in colour" in str(error):
            raise
        return None


def _array(path: Path, gray: bool, fps: float | None) -> FrameSource:
    try:
        with path.open("rb") as file:
            if file.read(2) == b"PK":  # NumPy would open it as the archive that it is
                raise AffuseError(f"{path}: an archive of arrays (.npz) named .npy; save the one array with numpy.save")
        # Mapped, so that only the frames that are wanted are read, and a header that lies about the size is refused.
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (
        ValueError,
        OSError,
        EOFError,
        SyntaxError,
        tokenize.TokenError,
    ) as error:  # NumPy parses a header as Python
        raise AffuseError(
            f"{path}: not a whole .npy array ({str(error).splitlines()[0][:120]}); save it again"
        ) from None
    shape = array.shape if gray else array.shape[:-1]
    wanted = "(h, w) or (t, h, w)" if gray else "8-bit (h, w, 3) or (t, h, w, 3)"
    if (
        len(shape) not in (2, 3)
        or 0 in array.shape
        or shape[-1] * shape[-2] > MAX_PIXELS
        or array.dtype.kind not in "uif"
        or (not gray and (array.shape[-1] != 3 or array.dtype != np.uint8))
    ):
        raise AffuseError(f"{path}: an array {array.shape} of {array.dtype} where {wanted} is wanted; save it so")
    native = array.dtype.newbyteorder("=")
    if len(shape) == 2:
        return FrameSource(path, None, lambda _: iter([TimedFrame(0, lambda: np.array(array, native))]))
    if fps is None:
        raise AffuseError(f"{path}: an array of frames has no clock: give the camera's fps")

    def frames(start_us: int) -> Iterator[TimedFrame]:
        for index in range(max(0, int(start_us * fps / 1e6) - 1), len(array)):
            yield TimedFrame(int(index * 1e6 / fps), lambda index=index: np.array(array[index], native))  # type: ignore[misc]

    return FrameSource(path, round(1e6 / fps), frames)


def _header(content: bytes) -> tuple[int, int]:
    """Width and height that a picture claims, before room is made for it; (0, 0) where it is no picture that is known."""
    if content[:8] == b"\x89PNG\r\n\x1a\n" and len(content) >= 24:
        return int.from_bytes(content[16:20], "big"), int.from_bytes(content[20:24], "big")
    if content[:2] in (b"P2", b"P5"):
        numbers = re.match(rb"P[25](?:\s|#[^\n]*\n)+(\d{1,9})(?:\s|#[^\n]*\n)+(\d{1,9})\s", content[:4096])
        return (int(numbers[1]), int(numbers[2])) if numbers else (0, 0)
    if content[:2] == b"\xff\xd8":
        place = 2
        while place + 9 <= len(content) and content[place] == 0xFF:
            marker = content[place + 1]
            if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # the start of a frame
                return int.from_bytes(content[place + 7 : place + 9], "big"), int.from_bytes(
                    content[place + 5 : place + 7], "big"
                )
            place += 2 + int.from_bytes(content[place + 2 : place + 4], "big")
    return 0, 0
