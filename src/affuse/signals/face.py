"""From a video to aligned faces: one face found, followed, levelled and evened out, frame by frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from affuse.signals.face_detection import FaceBox
from affuse.types import AffuseError

Status = Literal["ok", "no face", "unreadable"]


@dataclass(frozen=True)
class FacePipeline:
    """The ``pipeline`` section of a recipe: how a face is found in the frames of a video and made into a picture.

    Args:
        size: side of the crop, pixels.
        detector: ``haar``: OpenCV's cascades, as in the paper; ``dlib``: HOG and a linear SVM, steadier (the extra ``face``);
            ``yunet``: a small network whose ONNX file the user gives.
        detector_weights: path of the ONNX file of ``yunet``.
        detect_every: look for the face in every n-th frame; between, it stays where it was.
        align: turn the crop so that the eyes are level.
        margin: what is kept around the face on each side, in widths of the face.
        clahe: even out the contrast (adaptive histogram equalisation of L in LAB).
        bilateral: smooth, keeping edges.
        unsharp: a light unsharp mask.
        landmarks: 68 landmarks, through dlib and its model (the extra ``face``; for research only).
        patience: frames that a face is held at its last place without being found there, before it counts as gone.
        smoothing: weight of the past in the place of the box, from 0 to below 1, so that the crop does not tremble.
    """

    size: int = 224
    detector: Literal["haar", "dlib", "yunet"] = "haar"
    detector_weights: str | None = None
    detect_every: int = 1
    align: bool = True
    margin: float = 0.2
    clahe: bool = True
    bilateral: bool = True
    unsharp: bool = True
    landmarks: bool = False
    patience: int = 5
    smoothing: float = 0.5

    def __post_init__(self) -> None:
        if not 8 <= self.size <= 4096 or self.detect_every < 1:
            raise AffuseError(f"size is 8 to 4096 and detect_every at least 1, not {self.size} and {self.detect_every}")
        if not 0 <= self.margin <= 2 or self.patience < 0 or not 0 <= self.smoothing < 1:
            raise AffuseError(
                f"margin is 0 to 2, patience at least 0, smoothing 0 to below 1, not {self.margin}, {self.patience}, "
                f"{self.smoothing}"
            )
        if (self.detector == "yunet") != (self.detector_weights is not None):
            raise AffuseError("detector: yunet, and it alone, needs detector_weights: the path of its ONNX file")


@dataclass(frozen=True)
class FaceFrame:
    """One frame's face.

    Args:
        image: the crop, RGB (size, size, 3); None where there is no face.
        landmarks: (68, 2), x and y in [-1, 1] from edge to edge of the crop (x right, y down); None where there are none.
        box: the face in the frame, pixels.
        matrix: (2, 3), from places in the frame to places in the crop, pixels, both counted from the middle of the first.
        faces: faces that were seen in the frame, this one among them.
        status: ``ok``, ``no face``, or ``unreadable`` where the frame could not be decoded.
    """

    image: NDArray[np.uint8] | None
    landmarks: NDArray[np.float32] | None
    box: FaceBox | None
    matrix: NDArray[np.float64] | None
    faces: int
    status: Status


@dataclass(frozen=True)
class FaceClip:
    """The faces of a clip, one a frame.

    Args:
        images: RGB (t, size, size, 3), black where no face was found.
        times_us: start of each frame, microseconds (t,).
        found: frames that hold a face (t,).
        landmarks: (t, 68, 2) in [-1, 1] of the crop, NaN where there are none; None where they were not looked for.
        boxes: left, top, width, height in pixels of the frame (t, 4), NaN where no face was found.
        matrices: (t, 2, 3), from frame to crop, NaN where no face was found.
        faces: faces seen in each frame (t,).
        statuses: of each frame, as in `FaceFrame`.
    """

    images: NDArray[np.uint8]
    times_us: NDArray[np.int64]
    found: NDArray[np.bool_]
    landmarks: NDArray[np.float32] | None
    boxes: NDArray[np.float32]
    matrices: NDArray[np.float64]
    faces: NDArray[np.int64]
    statuses: tuple[str, ...]
