"""Finds one eye of the largest face in a video and holds on to it, with OpenCV's Haar cascades.

Viola and Jones, "Rapid Object Detection using a Boosted Cascade of Simple Features", CVPR 2001; Lienhart and Maydt, ICIP
2002. The crop is a square around one eye with its brow, which is what single-eye expression recognition sees.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from affuse.signals.face_detection import check_frame, haar_cascade
from affuse.types import AffuseError

_WORKING_SIDE = 480  # the longer side of the image that faces are searched in, pixels
_CROP_OF_FACE = 0.42  # side of the eye's crop in widths of the face: from above the brow to the cheek
_BROW = 0.12  # how far the crop's centre stands above the pupil, in its own sides


@dataclass(frozen=True)
class EyeBox:
    """A square around one eye and its brow: centre and side, pixels of the frame."""

    x: float
    y: float
    side: float

    def distance(self, other: EyeBox) -> float:
        """Between the centres, in sides of `other`."""
        return float(np.hypot(self.x - other.x, self.y - other.y)) / other.side


class EyeTrack(NamedTuple):
    """What tracking remembers: the box, and for how many frames no eye was found there."""

    box: EyeBox | None = None
    missed: int = 0


def find_eye(frame: NDArray[np.uint8], previous: EyeBox | None = None) -> EyeBox | None:
    """One eye of the largest face.

    Args:
        frame: RGB (h, w, 3).
        previous: where the eye was; the eye nearest to it is taken. Without it, the one that is larger in the image.

    Returns:
        The box, or None where no face with an eye in it is found.
    """
    check_frame(frame)
    shrink = max(1.0, max(frame.shape[:2]) / _WORKING_SIDE)
    grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
    if shrink > 1:
        grey = cv2.resize(grey, None, fx=1 / shrink, fy=1 / shrink, interpolation=cv2.INTER_AREA)
    smallest = max(24, min(grey.shape) // 8)
    faces = haar_cascade("haarcascade_frontalface_default.xml").detectMultiScale(
        cv2.equalizeHist(grey), scaleFactor=1.15, minNeighbors=5, minSize=(smallest, smallest)
    )
    for left, top, width, height in sorted(faces, key=lambda box: -int(box[2])):
        eyes = _eyes(frame, *(round(float(value) * shrink) for value in (left, top, width, height)))
        if eyes:
            return min(eyes, key=lambda eye: eye.distance(previous)) if previous else eyes[0]
    return None


def _eyes(frame: NDArray[np.uint8], left: int, top: int, width: int, height: int) -> list[EyeBox]:
    """Eyes in the upper part of a face, the most certain first. Their side follows the face's width, which is steadier."""
    upper = frame[max(0, top + height // 7) : top + round(0.6 * height), max(0, left) : left + width]
    if min(upper.shape[:2]) < 12:
        return []
    shrink = max(1.0, width / 240)
    grey = cv2.cvtColor(np.ascontiguousarray(upper), cv2.COLOR_RGB2GRAY)
    grey = cv2.resize(grey, None, fx=1 / shrink, fy=1 / shrink, interpolation=cv2.INTER_AREA)
    smallest, largest = max(8, round(0.12 * width / shrink)), round(0.4 * width / shrink)
    boxes, neighbours = haar_cascade("haarcascade_eye.xml").detectMultiScale2(
        grey, scaleFactor=1.08, minNeighbors=4, minSize=(smallest, smallest), maxSize=(largest, largest)
    )
    found = []
    for index in np.argsort(-np.asarray(neighbours).ravel(), kind="stable"):
        x, y, w, h = (float(value) * shrink for value in boxes[index])
        centre = x + w / 2
        if 0.4 * width < centre < 0.6 * width:
            continue  # the bridge of the nose
        side = _CROP_OF_FACE * width
        found.append(EyeBox(max(0, left) + centre, max(0, top + height // 7) + y + h / 2 - _BROW * side, side))
    return found


def track_step(
    frame: NDArray[np.uint8], track: EyeTrack, *, patience: int = 8, smoothing: float = 0.6
) -> tuple[EyeBox | None, EyeTrack]:
    """One frame of tracking: the box now, or None, and what to remember.

    The box moves by an exponential average, so that the crop does not tremble: trembling would be events to an event camera.
    Where no eye is found near the last box (a blink), the last one holds for `patience` frames; then the search starts anew.

    Args:
        frame: RGB (h, w, 3).
        track: of the frame before; ``EyeTrack()`` at first.
        patience: frames that a box holds without being found.
        smoothing: weight of the past, from 0 to below 1.
    """
    last = track.box
    found = find_eye(frame, last)
    if last is None:
        return found, EyeTrack(found)
    if found is not None and found.distance(last) < 0.45 and 0.6 < found.side / last.side < 1.6:
        mixed = (
            smoothing * old + (1 - smoothing) * new for old, new in zip(_values(last), _values(found), strict=True)
        )
        box = EyeBox(*mixed)
        return box, EyeTrack(box)
    if track.missed < patience:
        return last, EyeTrack(last, track.missed + 1)
    return found, EyeTrack(found)


def track_eye(frames: Iterable[NDArray[np.uint8]], *, patience: int = 8, smoothing: float = 0.6) -> list[EyeBox | None]:
    """The box of each frame, None where there is no eye; the fold of `track_step` over the frames."""
    track, boxes = EyeTrack(), []
    for frame in frames:
        box, track = track_step(frame, track, patience=patience, smoothing=smoothing)
        boxes.append(box)
    return boxes


def crop_eye(frame: NDArray[np.uint8], box: EyeBox, size: int) -> NDArray[np.uint8]:
    """The square of the box as (size, size, 3), sampled to a fraction of a pixel; beyond the frame its edge is repeated."""
    check_frame(frame)
    scale = size / box.side
    if scale < 1:  # average first, or shrinking would alias
        shrink = max(scale, 1 / min(frame.shape[:2]))
        frame = np.asarray(cv2.resize(frame, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA), dtype=np.uint8)
        box = EyeBox(box.x * shrink, box.y * shrink, box.side * shrink)
        scale = size / box.side
    centre = (size - 1) / 2
    matrix = np.array([[scale, 0, centre - scale * (box.x - 0.5)], [0, scale, centre - scale * (box.y - 0.5)]])
    crop = cv2.warpAffine(frame, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(crop, dtype=np.uint8)


def eye_crops(
    frames: Iterable[tuple[int, NDArray[np.uint8]]], size: int, max_frames: int = 20_000
) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.bool_]]:
    """The tracked eye of a video as a video of its own.

    Args:
        frames: ``(time_us, image)`` as `read_video` gives them.
        size: side of the crops, pixels.
        max_frames: the most that is held in memory.

    Returns:
        Crops (t, size, size, 3), times (t,) in microseconds, and where an eye was found (t,). Elsewhere the crop is a
        neighbour's (black where there is none), so that an event camera model sees no jump.

    Raises:
        AffuseError: more than `max_frames` frames.
    """
    crops: list[NDArray[np.uint8]] = []
    times_us: list[int] = []
    found: list[bool] = []
    track, last = EyeTrack(), None
    for time_us, image in frames:
        if len(times_us) == max_frames:
            raise AffuseError(f"the video has more than {max_frames} frames: cut it, or read it with a stride")
        box, track = track_step(image, track)
        if box is not None:
            last = crop_eye(image, box, size)
            if not any(found):
                crops = [last] * len(crops)
        crops.append(np.zeros((size, size, 3), np.uint8) if last is None else last)
        times_us.append(time_us)
        found.append(box is not None)
    stacked = np.stack(crops) if crops else np.zeros((0, size, size, 3), np.uint8)
    return stacked, np.array(times_us, np.int64), np.array(found, np.bool_)


def _values(box: EyeBox) -> tuple[float, float, float]:
    return box.x, box.y, box.side
