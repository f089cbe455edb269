"""One face followed through a video: it does not jump to another person, holds through a gap, and ends where it is gone."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from affuse.signals.face_detection import Detector, FaceBox, find_faces

_WHOLE_EVERY = 15  # looks from one search of the whole frame to the next: who else is there is counted then
_LOOK = 24  # side of the small picture by which a face that is not found is still recognised, pixels
_ALIKE = 0.6  # correlation of two such pictures from which on they show the same


@dataclass(frozen=True)
class FaceTrack:
    """What tracking remembers from one frame to the next.

    Args:
        box: the face, smoothed; None where none is followed.
        missed: looks for which it has not been found.
        age: looks since it was first found.
        faces: faces in the frame when the whole of it was last searched.
        look: a small grey picture of the face when it was last found.
    """

    box: FaceBox | None = None
    missed: int = 0
    age: int = 0
    faces: int = 0
    look: NDArray[np.float32] | None = field(default=None, compare=False, repr=False)


def track_face_step(
    frame: NDArray[np.uint8],
    track: FaceTrack,
    detector: Detector,
    *,
    patience: int = 5,
    smoothing: float = 0.6,
) -> FaceTrack:
    """One look at a frame.

    Without a face to follow, the largest one of the frame is taken. With one, only a face about there and of about its size
    can be it. Where there is none, as in a blur or a turn of the head, the box holds for `patience` looks, as long as the
    picture in it has not become another (a cut of the film, a head that has left); then the search starts anew.

    Args:
        frame: RGB (h, w, 3).
        track: of the look before; ``FaceTrack()`` at first.
        detector: of affuse.signals.face_detection.open_detector.
        patience: looks that a box holds without being found.
        smoothing: weight of the past in the box, from 0 to below 1.

    Returns:
        The track, whose box is that of the face in this frame; None where there is no face.
    """
    last = track.box
    if last is None:
        return _started(frame, find_faces(frame, detector))
    everyone = find_faces(frame, detector) if (track.age + 1) % _WHOLE_EVERY == 0 else None
    faces = track.faces if everyone is None else max(1, len(everyone))
    same = _same(find_faces(frame, detector, last), last) or _same(everyone or [], last)
    if same is not None:
        box = _mixed(last, same, smoothing)
        return FaceTrack(box, 0, track.age + 1, faces, _look(frame, box))
    if track.missed < patience and still_there(frame, track):
        return replace(track, missed=track.missed + 1, age=track.age + 1, faces=faces)
    return _started(frame, find_faces(frame, detector) if everyone is None else everyone)


def still_there(frame: NDArray[np.uint8], track: FaceTrack) -> bool:
    """Whether the picture in the track's box is about the one it was when the face was last found there."""
    if track.box is None or track.look is None:
        return False
    now = _look(frame, track.box)
    return now is not None and float((now * track.look).mean()) >= _ALIKE


def _started(frame: NDArray[np.uint8], found: list[FaceBox]) -> FaceTrack:
    return FaceTrack(found[0], 0, 0, len(found), _look(frame, found[0])) if found else FaceTrack()


def _same(found: list[FaceBox], last: FaceBox) -> FaceBox | None:
    """Of the faces found the one that can be the one before, the nearest."""
    able = [box for box in found if _distance(box, last) < 0.6 and 0.6 < box.side / last.side < 1.67]
    return min(able, key=lambda box: (_distance(box, last), -box.overlap(last), box.left, box.top), default=None)


def _distance(box: FaceBox, last: FaceBox) -> float:
    """Between the middles, in sides of `last`."""
    (x, y), (old_x, old_y) = box.centre, last.centre
    return float(np.hypot(x - old_x, y - old_y)) / last.side


def _mixed(last: FaceBox, found: FaceBox, smoothing: float) -> FaceBox:
    pairs = zip(
        (last.left, last.top, last.width, last.height), (found.left, found.top, found.width, found.height), strict=True
    )
    left, top, width, height = (smoothing * old + (1 - smoothing) * new for old, new in pairs)
    return FaceBox(left, top, width, height, found.score, found.eyes)


def _look(frame: NDArray[np.uint8], box: FaceBox) -> NDArray[np.float32] | None:
    """The face as a small grey picture of mean 0 and variance 1; None where the box lies outside the frame."""
    top, left = max(0, int(box.top)), max(0, int(box.left))
    part = frame[top : max(top, int(box.top + box.height)), left : max(left, int(box.left + box.width))]
    if min(part.shape[:2]) < 2:
        return None
    small = cv2.resize(np.ascontiguousarray(part), (_LOOK, _LOOK), interpolation=cv2.INTER_AREA)
    grey = np.asarray(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY), np.float32)
    return (grey - grey.mean()) / max(1.0, float(grey.std()))
