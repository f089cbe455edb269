"""Faces in a picture, by one of three detectors, and the eyes in a face.

``haar``: Viola and Jones, "Rapid Object Detection using a Boosted Cascade of Simple Features", CVPR 2001, with the cascades
that OpenCV ships, as the paper of the selective SSM uses them. Leaves, clouds and noise often pass for faces there, and nearly
never for a face with two level eyes in it: without such a pair a box does not count. ``dlib``: histograms of oriented gradients
and a linear SVM (Dalal and Triggs, CVPR 2005; King, "Max-Margin Object Detection", 2015). ``yunet``: Wu et al., "YuNet: A Tiny
Millisecond-level Face Detector", Machine Intelligence Research 2023, through OpenCV, of an ONNX file that the user gives.
"""

from __future__ import annotations

import functools
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import cv2
import numpy as np
from numpy.typing import NDArray

from affuse.types import AffuseError

DetectorName = Literal["haar", "dlib", "yunet"]
Eyes = tuple[tuple[float, float], tuple[float, float]]

_NEAR = 0.75  # what is searched around a known face, on each side, in its own sides
_STEP = 1.25  # between the scales at which a known face is searched for
_STEEPEST = np.tan(np.radians(30))  # eyes that stand steeper are no pair


@dataclass(frozen=True)
class FaceBox:
    """A face in a frame: pixels of the frame, x to the right and y downwards.

    Args:
        left, top, width, height: the box; it may reach beyond the frame.
        score: how sure the detector is, in its own units; comparable within one detector only.
        eyes: the middles of the two eyes, ``(x, y)``, the one further left in the picture first; None where not known.
    """

    left: float
    top: float
    width: float
    height: float
    score: float = 0.0
    eyes: Eyes | None = None

    @property
    def centre(self) -> tuple[float, float]:
        return self.left + self.width / 2, self.top + self.height / 2

    @property
    def side(self) -> float:
        """The longer side."""
        return max(self.width, self.height)

    @property
    def area(self) -> float:
        return self.width * self.height

    def overlap(self, other: FaceBox) -> float:
        """Intersection over union, from 0 to 1."""
        across = min(self.left + self.width, other.left + other.width) - max(self.left, other.left)
        down = min(self.top + self.height, other.top + other.height) - max(self.top, other.top)
        shared = max(0.0, across) * max(0.0, down)
        return min(1.0, shared / (self.area + other.area - shared))

    def moved(self, scale: float, x: float, y: float) -> FaceBox:
        """The box in a picture that is `scale` times as large, and whose origin then lies at ``(-x, -y)``."""
        eyes = self.eyes and tuple((ex * scale + x, ey * scale + y) for ex, ey in self.eyes)
        return FaceBox(
            self.left * scale + x,
            self.top * scale + y,
            self.width * scale,
            self.height * scale,
            self.score,
            eyes,  # type: ignore[arg-type]
        )


@runtime_checkable
class Detector(Protocol):
    """Finds faces in a picture.

    Attributes:
        side: the longer side to which a whole frame is shrunk before the search, pixels.
        face: the side to which a known face is scaled before it is searched for again, pixels.
        needs_eyes: a face counts only with a pair of eyes in it.
    """

    side: int
    face: int
    needs_eyes: bool

    def boxes(self, picture: NDArray[np.uint8], smallest: int, largest: int) -> list[FaceBox]:
        """Faces in an RGB picture (h, w, 3) with sides from `smallest` to `largest` pixels."""
        ...


def find_faces(frame: NDArray[np.uint8], detector: Detector, near: FaceBox | None = None) -> list[FaceBox]:
    """The faces of a frame, the largest first.

    Args:
        frame: RGB (h, w, 3).
        detector: of `open_detector`.
        near: a face that is known: only its surroundings and about its size are searched, which is much faster, and it
            needs no eyes again, since they may be closed.

    Raises:
        AffuseError: the frame is no 8-bit RGB image.
    """
    check_frame(frame)
    height, width = frame.shape[:2]
    if near is None:
        scale = min(1.0, detector.side / max(height, width))
        found = _search(frame, detector, scale, max(20, round(0.08 * min(height, width) * scale)), 10**6)
        if detector.needs_eyes:
            found = [
                FaceBox(b.left, b.top, b.width, b.height, b.score, eyes) for b in found if (eyes := find_eyes(frame, b))
            ]
    else:
        reach = _NEAR * near.side
        left, top = (max(0, int(value - reach)) for value in (near.left, near.top))
        right, bottom = near.left + near.width + reach, near.top + near.height + reach
        part = frame[top : max(top, int(bottom)), left : max(left, int(right))]
        if min(part.shape[:2]) < 8:
            return []
        # In steps, since a detector's sizes come in steps too: it would answer each change of scale with another size.
        scale = min(2.0, detector.face / _STEP ** round(np.log(near.side) / np.log(_STEP)))
        sizes = (round(0.65 * scale * near.side), round(1.55 * scale * near.side))
        found = [box.moved(1.0, float(left), float(top)) for box in _search(part, detector, scale, *sizes)]
    return sorted(found, key=lambda box: (-box.area, box.left, box.top))


def _search(part: NDArray[np.uint8], detector: Detector, scale: float, smallest: int, largest: int) -> list[FaceBox]:
    size = tuple(max(1, round(value * scale)) for value in (part.shape[1], part.shape[0]))
    if size != (part.shape[1], part.shape[0]):
        part = np.asarray(cv2.resize(part, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR))
    found = detector.boxes(np.ascontiguousarray(part), smallest, largest)
    return [box.moved(1 / scale, 0.0, 0.0) for box in found if box.width >= 1 and box.height >= 1]


def find_eyes(frame: NDArray[np.uint8], face: FaceBox) -> Eyes | None:
    """The two eyes of a face, by the eye cascade: one a side, about level, and as far apart as eyes are.

    Args:
        frame: RGB (h, w, 3).
        face: where the face is.

    Returns:
        Their middles ``(x, y)`` in pixels of the frame, the one further left first; None where no such pair is found.
    """
    top, left = max(0, int(face.top + 0.12 * face.height)), max(0, int(face.left))
    upper = frame[top : max(top, int(face.top + 0.62 * face.height)), left : max(left, int(face.left + face.width))]
    if min(upper.shape[:2]) < 8:
        return None
    scale = 120 / face.width  # px: eyes of 20 to 45 pixels, which the cascade of 20 pixels wants
    size = tuple(max(1, round(value * scale)) for value in (upper.shape[1], upper.shape[0]))
    grey = cv2.resize(cv2.cvtColor(np.ascontiguousarray(upper), cv2.COLOR_RGB2GRAY), size, interpolation=cv2.INTER_AREA)
    boxes, counts = haar_cascade("haarcascade_eye.xml").detectMultiScale2(
        grey, scaleFactor=1.1, minNeighbors=3, minSize=(18, 18), maxSize=(48, 48)
    )
    found = [
        (int(count), (x + w / 2) / scale + left, (y + h / 2) / scale + top)
        for (x, y, w, h), count in zip(np.asarray(boxes).reshape(-1, 4).tolist(), np.ravel(counts), strict=True)
    ]
    pairs = [
        (one[0] + other[0], (one[1:], other[1:]))
        for one in found
        for other in found
        if 0.25 * face.width <= other[1] - one[1] <= 0.65 * face.width
        and abs(other[2] - one[2]) <= _STEEPEST * (other[1] - one[1])
        and one[1] < face.centre[0] < other[1]
    ]
    return max(pairs)[1] if pairs else None


def open_detector(name: DetectorName, weights: str | None = None) -> Detector:
    """A detector by name.

    Args:
        name: ``haar``, ``dlib`` or ``yunet``.
        weights: path of YuNet's ONNX file.

    Raises:
        AffuseError: the extra ``face`` is not installed (dlib), or the ONNX file is missing or not YuNet (yunet).
    """
    if name == "haar":
        return Haar()
    if name == "dlib":
        return Dlib()
    if weights is None:
        raise AffuseError("detector: yunet needs detector_weights: the path of its ONNX file")
    return _yunet(weights, threading.get_ident())


class Haar:
    """OpenCV's cascade ``frontalface_alt2``, of its four for frontal faces the one with the fewest false ones."""

    side, face, needs_eyes = 480, 90, True

    def boxes(self, picture: NDArray[np.uint8], smallest: int, largest: int) -> list[FaceBox]:
        """As `Detector.boxes`; the score is how many neighbouring windows agree."""
        grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
        largest = min(largest, max(grey.shape))
        found, counts = haar_cascade("haarcascade_frontalface_alt2.xml").detectMultiScale2(
            grey, scaleFactor=1.12, minNeighbors=3, minSize=(smallest, smallest), maxSize=(largest, largest)
        )
        corners = np.asarray(found, np.float64).reshape(-1, 4)
        return [
            FaceBox(left, top, width, height, float(count))
            for (left, top, width, height), count in zip(corners.tolist(), np.ravel(counts), strict=True)
        ]


class Dlib:
    """dlib's detector of frontal faces, of 80 pixels and more."""

    side, face, needs_eyes = 640, 150, False  # its grid is of 8 pixels: a smaller face would tremble more

    def __init__(self) -> None:
        self._find = _dlib(threading.get_ident())

    def boxes(self, picture: NDArray[np.uint8], smallest: int, largest: int) -> list[FaceBox]:
        """As `Detector.boxes`; the score is the distance from the SVM's plane."""
        found, scores, _ = self._find.run(picture, 0, 0.0)
        boxes = [
            FaceBox(float(box.left()), float(box.top()), float(box.width()), float(box.height()), float(score))
            for box, score in zip(found, scores, strict=True)
        ]
        return [box for box in boxes if smallest <= box.side <= largest]


class YuNet:
    """OpenCV's ``FaceDetectorYN``, which finds the eyes too."""

    side, face, needs_eyes = 640, 110, False

    def __init__(self, weights: str) -> None:
        path = Path(weights)
        if not path.is_file():
            raise AffuseError(f"{path}: no such file; detector_weights is the path of YuNet's ONNX file")
        try:
            self._find: Any = cv2.FaceDetectorYN.create(str(path), "", (320, 320), 0.7)
            self._find.detect(np.zeros((320, 320, 3), np.uint8))
        except cv2.error as error:
            reason = str(error).strip().splitlines()[0][:120]
            raise AffuseError(f"{path}: OpenCV cannot use it as YuNet ({reason}); give YuNet's ONNX file") from None

    def boxes(self, picture: NDArray[np.uint8], smallest: int, largest: int) -> list[FaceBox]:
        """As `Detector.boxes`; the score is the network's, from 0 to 1."""
        self._find.setInputSize((picture.shape[1], picture.shape[0]))
        _, found = self._find.detect(np.ascontiguousarray(picture[..., ::-1]))
        boxes = []
        for row in np.zeros((0, 15)) if found is None else np.asarray(found, np.float64):
            one, other = sorted(((float(row[4]), float(row[5])), (float(row[6]), float(row[7]))))
            left, top, width, height = row[:4].tolist()
            boxes.append(FaceBox(left, top, width, height, float(row[14]), (one, other)))
        return [box for box in boxes if smallest <= box.side <= largest]


def haar_cascade(name: str) -> cv2.CascadeClassifier:
    """One of the cascades that OpenCV ships, by the name of its file.

    Raises:
        AffuseError: this OpenCV does not ship it.
    """
    return _cascade(name, threading.get_ident())


def check_frame(frame: NDArray[Any]) -> None:
    """Raises: AffuseError: the frame is no 8-bit RGB image (h, w, 3)."""
    if frame.ndim != 3 or frame.shape[2] != 3 or min(frame.shape) < 1:
        raise AffuseError(f"a frame is RGB (height, width, 3), not {frame.shape}")
    if frame.dtype != np.uint8:
        # Whether its white is 1, 255 or 65535 is not ours to guess.
        raise AffuseError(
            f"a frame is 8-bit RGB from 0 to 255, not {frame.dtype}: scale it, then frame.astype(np.uint8)"
        )


# None of the three kinds of detector may be used by two threads at a time, so each thread has its own.
@functools.lru_cache(maxsize=16)
def _cascade(name: str, thread: int) -> cv2.CascadeClassifier:
    path = Path(cv2.__file__).parent / "data" / name
    cascade = cv2.CascadeClassifier(str(path)) if path.is_file() else None
    if cascade is None or cascade.empty():
        raise AffuseError(f"{path}: OpenCV's face model is missing; reinstall with: pip install opencv-python-headless")
    return cascade


@functools.lru_cache(maxsize=8)
def _dlib(thread: int) -> Any:
    try:
        import dlib
    except ImportError:
        raise AffuseError("detector: dlib needs dlib: pip install 'affuse[face]', or set detector: haar") from None
    return dlib.get_frontal_face_detector()


@functools.lru_cache(maxsize=8)
def _yunet(weights: str, thread: int) -> YuNet:
    return YuNet(weights)
