"""A face cut out of its frame, with level eyes, and evened out: the crop that an expression system sees.

The steps and their order are the paper's: tilt correction by the eyes, CLAHE (Zuiderveld, Graphics Gems IV, 1994), bilateral
filter (Tomasi and Manduchi, ICCV 1998), a light unsharp mask. Their strengths are not given there and are ours.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from affuse.signals.face_detection import Eyes, FaceBox, check_frame

_CLAHE_LIMIT, _CLAHE_TILES = 2.0, 8
_BILATERAL_REACH, _BILATERAL_COLOUR, _BILATERAL_SPACE = 5, 25.0, 3.0  # pixels, grey levels, pixels
_UNSHARP_SIGMA, _UNSHARP_AMOUNT = 1.0, 0.3


def eye_tilt(eyes: Eyes) -> float:
    """How far the line of the eyes is turned clockwise in the picture, radians; 0 where they are level."""
    (left_x, left_y), (right_x, right_y) = eyes
    return math.atan2(right_y - left_y, right_x - left_x)


def crop_matrix(box: FaceBox, size: int, *, tilt: float = 0.0, margin: float = 0.2) -> NDArray[np.float64]:
    """From places in a frame to places in the square crop around a face.

    Args:
        box: the face; its middle becomes the middle of the crop.
        size: side of the crop, pixels.
        tilt: what is turned back, radians, as of `eye_tilt`.
        margin: what is kept around the box on each side, in its longer sides.

    Returns:
        (2, 3), to multiply ``(x, y, 1)`` with; pixels are counted from the middle of the first one on both sides.
    """
    scale = size / (box.side * (1 + 2 * margin))
    cosine, sine = scale * math.cos(tilt), scale * math.sin(tilt)
    x, y = (value - 0.5 for value in box.centre)
    middle = (size - 1) / 2
    return np.array(
        [
            [cosine, sine, middle - cosine * x - sine * y],
            [-sine, cosine, middle + sine * x - cosine * y],
        ]
    )


def crop_face(frame: NDArray[np.uint8], matrix: NDArray[np.float64], size: int) -> NDArray[np.uint8]:
    """The crop (size, size, 3) that a matrix of `crop_matrix` describes, sampled to a fraction of a pixel.

    Beyond the frame its edge is repeated.

    Raises:
        AffuseError: the frame is no RGB image.
    """
    check_frame(frame)
    height, width = frame.shape[:2]
    back = cv2.invertAffineTransform(matrix)
    corners = np.array([[-1, -1, 1], [size, -1, 1], [-1, size, 1], [size, size, 1]]) @ back.T  # 4 2
    # Only what the crop shows is touched: frames are large. A box outside the frame still sees its nearest pixels.
    left, top = (int(np.clip(np.floor(corners[:, i].min()) - 2, 0, n - 1)) for i, n in ((0, width), (1, height)))
    right, bottom = (
        int(np.clip(np.ceil(corners[:, i].max()) + 3, low + 1, n)) for i, low, n in ((0, left, width), (1, top, height))
    )
    part = frame[top:bottom, left:right]
    scale = float(np.hypot(matrix[0, 0], matrix[0, 1]))
    across = down = 1.0
    if scale < 1:  # average first, or shrinking would alias
        wide, high = (max(1, round(scale * n)) for n in (part.shape[1], part.shape[0]))
        across, down = wide / part.shape[1], high / part.shape[0]
        part = np.asarray(cv2.resize(part, (wide, high), interpolation=cv2.INTER_AREA))
    # From the part to the frame: a pixel's middle lies half a pixel behind its edge, whatever its size.
    to_frame = np.array([[1 / across, 0, 0.5 / across - 0.5 + left], [0, 1 / down, 0.5 / down - 0.5 + top], [0, 0, 1]])
    crop = cv2.warpAffine(
        np.ascontiguousarray(part),
        matrix @ to_frame,
        (size, size),
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return np.asarray(crop, dtype=np.uint8)


def enhance(
    image: NDArray[np.uint8], *, clahe: bool = True, bilateral: bool = True, unsharp: bool = True
) -> NDArray[np.uint8]:
    """A crop evened out.

    Args:
        image: RGB (s, s, 3).
        clahe: adaptive histogram equalisation of the lightness (L of LAB), limited in contrast.
        bilateral: noise is smoothed and edges are kept.
        unsharp: a light unsharp mask.
    """
    out = np.ascontiguousarray(image)
    if clahe:
        lab = cv2.cvtColor(out, cv2.COLOR_RGB2LAB)
        tiles = max(1, min(_CLAHE_TILES, min(image.shape[:2]) // 8))  # a tile of fewer pixels has no histogram
        lab[..., 0] = cv2.createCLAHE(_CLAHE_LIMIT, (tiles, tiles)).apply(np.ascontiguousarray(lab[..., 0]))
        out = np.asarray(cv2.cvtColor(lab, cv2.COLOR_LAB2RGB), np.uint8)
    if bilateral:
        out = np.asarray(cv2.bilateralFilter(out, _BILATERAL_REACH, _BILATERAL_COLOUR, _BILATERAL_SPACE), np.uint8)
    if unsharp:
        soft = cv2.GaussianBlur(out, (0, 0), _UNSHARP_SIGMA)
        out = np.asarray(cv2.addWeighted(out, 1 + _UNSHARP_AMOUNT, soft, -_UNSHARP_AMOUNT, 0), np.uint8)
    return out


def to_crop(points: NDArray[np.float32], matrix: NDArray[np.float64], size: int) -> NDArray[np.float32]:
    """Places in the frame (n, 2), pixels from the middle of the first one, as places in [-1, 1] of the crop.

    -1 and 1 are the outer edges of the crop's first and last pixels.
    """
    inside = points.astype(np.float64) @ matrix[:, :2].T + matrix[:, 2]
    return (2 * (inside + 0.5) / size - 1).astype(np.float32)
