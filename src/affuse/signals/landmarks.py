"""68 facial landmarks of the largest face, or of one that is known, through dlib.

Kazemi and Sullivan, "One Millisecond Face Alignment with an Ensemble of Regression Trees", CVPR 2014, on the 68 points of
iBUG 300-W (Sagonas et al., ICCV Workshops 2013). The extra ``face`` brings dlib and the trained model; **the model's terms
allow research only**, since 300-W's do.
"""

from __future__ import annotations

import functools
from importlib import metadata
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from affuse.signals.face_detection import FaceBox, check_frame
from affuse.types import AffuseError

POINTS = 68
LEFT_EYE, RIGHT_EYE = slice(36, 42), slice(42, 48)  # of the picture, not of the person
_MODEL = "shape_predictor_68_face_landmarks.dat"
_WORKING_SIDE = 480  # the longer side of the image that faces are searched in, pixels
_FACE_SIDE = 200.0  # to which a known face is scaled, pixels: the model answers in whole ones
# dlib's box around a face, by its 68 points: measured on the faces that its own detector finds.
_SIDE_OF_SPREAD, _ABOVE_MEAN = (
    0.76,
    0.03,
)  # its side in diagonals of their bounding box; its middle above their mean, in sides
REMEDY = "pip install 'affuse[face]'"


def find_landmarks(frame: NDArray[np.uint8], previous: NDArray[np.float32] | None = None) -> NDArray[np.float32] | None:
    """The landmarks of one face.

    Args:
        frame: RGB (h, w, 3).
        previous: landmarks of the frame before: the face nearest to them is taken. Without them, the largest.

    Returns:
        (68, 2), x and y in pixels of the frame, in the order of iBUG 300-W; None where no face is found.

    Raises:
        AffuseError: the frame is no RGB image, or the extra ``face`` is not installed.
    """
    check_frame(frame)
    detector, predictor = _models()
    shrink = max(1.0, max(frame.shape[:2]) / _WORKING_SIDE)
    small = np.asarray(frame, dtype=np.uint8)
    if shrink > 1:
        small = np.asarray(
            cv2.resize(small, None, fx=1 / shrink, fy=1 / shrink, interpolation=cv2.INTER_AREA), dtype=np.uint8
        )
    faces = list(detector(np.ascontiguousarray(small), 0))
    if not faces:
        return None
    if previous is None:
        face = max(faces, key=lambda box: box.width())
    else:
        centre = previous.mean(0) / shrink
        face = min(faces, key=lambda box: np.hypot(box.center().x - centre[0], box.center().y - centre[1]))
    shape = predictor(np.ascontiguousarray(small), face)
    return np.array([(part.x, part.y) for part in shape.parts()], dtype=np.float32) * np.float32(shrink)


def landmarks_in(frame: NDArray[np.uint8], face: FaceBox) -> NDArray[np.float32]:
    """The landmarks of a face that is known, whichever detector found it.

    The model was trained on boxes of dlib's detector, and others lie otherwise around a face. So the points are found twice:
    in the box as it is, and in the box that dlib's would be around those points.

    Args:
        frame: RGB (h, w, 3).
        face: where it is.

    Returns:
        (68, 2), x and y in pixels of the frame, counted from the middle of the first one, in the order of iBUG 300-W.

    Raises:
        AffuseError: the frame is no RGB image, the box lies outside it, or the extra ``face`` is not installed.
    """
    check_frame(frame)
    predictor = _models()[1]
    left, top = (max(0, int(start - 0.5 * face.side)) for start in (face.left, face.top))
    part = frame[top : int(face.top + 1.5 * face.side + 1), left : int(face.left + 1.5 * face.side + 1)]
    if min(part.shape[:2], default=0) < 1 or face.left + face.width <= 0 or face.top + face.height <= 0:
        raise AffuseError(f"{face} lies outside the frame of {frame.shape[1]} x {frame.shape[0]}")
    size = tuple(max(1, round(n * _FACE_SIDE / face.side)) for n in (part.shape[1], part.shape[0]))
    way = cv2.INTER_AREA if face.side > _FACE_SIDE else cv2.INTER_LINEAR
    small = np.asarray(cv2.resize(np.ascontiguousarray(part), size, interpolation=way), np.uint8)
    scale = np.array([small.shape[1] / part.shape[1], small.shape[0] / part.shape[0]])
    (x, y), side = (np.array(face.centre) - (left, top)) * scale, _FACE_SIDE
    points = _predict(predictor, small, x, y, side)
    x, y = points.mean(0)
    side = _SIDE_OF_SPREAD * float(np.hypot(*np.ptp(points, axis=0)))
    points = _predict(predictor, small, x, y - _ABOVE_MEAN * side, side)
    return ((points + 0.5) / scale + (left - 0.5, top - 0.5)).astype(np.float32)


def _predict(predictor: Any, picture: NDArray[np.uint8], x: float, y: float, side: float) -> NDArray[np.float64]:
    import dlib

    corners = (round(value) for value in (x - side / 2, y - side / 2, x + side / 2, y + side / 2))
    return np.array([(part.x, part.y) for part in predictor(picture, dlib.rectangle(*corners)).parts()], np.float64)


def normalised(landmarks: NDArray[np.float32]) -> NDArray[np.float32]:
    """Landmarks freed of place, size and tilt: (68, 2) with the middle of the eyes at 0, the eyes level and 1 apart.

    Raises:
        AffuseError: the landmarks are not (68, 2), or the eyes coincide.
    """
    if landmarks.shape != (POINTS, 2):
        raise AffuseError(f"landmarks are ({POINTS}, 2), not {landmarks.shape}")
    left, right = landmarks[LEFT_EYE].mean(0), landmarks[RIGHT_EYE].mean(0)
    along = right - left
    apart = float(np.hypot(*along))
    if apart == 0:
        raise AffuseError("the eyes of these landmarks coincide, so their tilt and size are unknown")
    cosine, sine = along / apart
    turn = np.array([[cosine, -sine], [sine, cosine]], dtype=np.float32)  # row vectors: undoes the tilt
    return ((landmarks - (left + right) / 2) @ turn / np.float32(apart)).astype(np.float32)


def available() -> tuple[bool, str]:
    """Whether dlib and the trained model are installed, and what is missing."""
    try:
        _models()
    except AffuseError as error:
        return False, str(error)
    return True, "dlib and its model of 68 landmarks are installed"


@functools.lru_cache(maxsize=1)
def _models() -> tuple[Any, Any]:
    try:
        import dlib

        # The package that carries the model needs a module that newer setuptools lack, so it is found but not imported.
        files = metadata.files("face_recognition_models") or []
    except (ImportError, metadata.PackageNotFoundError):
        raise AffuseError(f"facial landmarks need dlib and its model: {REMEDY} (for research only)") from None
    found = [file.locate() for file in files if file.name == _MODEL]
    if not found:
        raise AffuseError(f"{_MODEL} is missing from face_recognition_models: reinstall it, {REMEDY}")
    return dlib.get_frontal_face_detector(), dlib.shape_predictor(str(found[0]))
