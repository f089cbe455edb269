"""What training does to a clip of faces before it is an input: the same to all of its frames, and to their landmarks.

The paper on the selective SSM names mild flips, affine jitter, brightness and contrast, noise, blur and colour jitter, without
numbers: those here are our reading. Former-DFER's crop and mirror image are `FORMER_DFER`.

All is drawn from torch's global generator, so that a seed repeats it.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from affuse.types import AffuseError

# iBUG 300-W: which point is which in the mirror image.
MIRRORED = np.array(
    [
        *range(16, -1, -1),  # jaw
        *range(26, 16, -1),  # brows
        *range(27, 31),  # bridge of the nose
        *range(35, 30, -1),  # nostrils
        *(45, 44, 43, 42, 47, 46),  # eyes
        *(39, 38, 37, 36, 41, 40),
        *range(54, 47, -1),  # outer lips, upper and lower
        *range(59, 54, -1),
        *range(64, 59, -1),  # inner lips
        *range(67, 64, -1),
    ]
)
_LUMA = np.array([0.299, 0.587, 0.114])


@dataclass(frozen=True)
class FaceAugmentation:
    """The ``augment`` section of a recipe over clips of faces. Each is drawn once a clip.

    Args:
        flip: share of clips that are mirrored.
        rotate: largest tilt, degrees.
        shift: largest shift, as a share of the side.
        zoom: size varies from 1 - zoom to 1 + zoom.
        min_crop: smallest share of the area that is kept and stretched to the whole, its sides as 3:4 to 4:3; 1: no crop.
        brightness, contrast, saturation: each a factor from 1 - x to 1 + x.
        hue: largest turn of the colours, as a share of the full circle.
        noise: standard deviation of the noise at most, as a share of white; each pixel of each frame has its own.
        noise_share, blur_share: share of clips with noise, and with blur.
        blur: standard deviation of the blur at most, as a share of the side.
    """

    flip: float = 0.5
    rotate: float = 8.0
    shift: float = 0.04
    zoom: float = 0.06
    min_crop: float = 1.0
    brightness: float = 0.2
    contrast: float = 0.2
    saturation: float = 0.2
    hue: float = 0.02
    noise: float = 0.03
    noise_share: float = 0.2
    blur: float = 0.006
    blur_share: float = 0.2

    def __post_init__(self) -> None:
        shares = (self.flip, self.noise_share, self.blur_share, self.brightness, self.contrast, self.saturation)
        if not all(0 <= share <= 1 for share in shares):
            raise AffuseError(
                "augment: flip, noise_share, blur_share, brightness, contrast and saturation are from 0 to 1"
            )
        if not (0 <= self.rotate <= 180 and 0 <= self.shift < 1 and 0 <= self.zoom < 1 and 0 <= self.hue <= 0.5):
            raise AffuseError("augment: rotate is up to 180 degrees, shift and zoom are below 1, hue is up to 0.5")
        if not (0 < self.min_crop <= 1 and 0 <= self.noise <= 1 and 0 <= self.blur <= 1):
            raise AffuseError("augment: min_crop is above 0 and at most 1, noise and blur are from 0 to 1")


FORMER_DFER = FaceAugmentation(
    rotate=0.0,
    shift=0.0,
    zoom=0.0,
    min_crop=0.08,
    brightness=0.0,
    contrast=0.0,
    saturation=0.0,
    hue=0.0,
    noise_share=0.0,
    blur_share=0.0,
)


def augmented(
    images: NDArray[np.uint8], landmarks: NDArray[np.float32] | None, settings: FaceAugmentation
) -> tuple[NDArray[np.uint8], NDArray[np.float32] | None]:
    """A clip as training may see it.

    Args:
        images: RGB (t, s, s, 3).
        landmarks: (t, 68, 2), x and y in [-1, 1] from edge to edge, NaN where there are none; None: not known.
        settings: how far it goes.

    Returns:
        Both, changed alike: landmarks follow the picture, and left and right change names where it is mirrored.
    """
    side = images.shape[1]
    place, mirror = _placement(settings)
    # Between pixels' centres and [-1, 1]: x = (2 px + 1) / side - 1.
    to_unit = np.array([[2 / side, 0, 1 / side - 1], [0, 2 / side, 1 / side - 1], [0, 0, 1]])
    pixels = (np.linalg.inv(to_unit) @ place @ to_unit)[:2]
    colours = _colours(settings)
    noise = _up_to(settings.noise) if _chance(settings.noise_share) else 0.0
    blur = _up_to(settings.blur) * side if _chance(settings.blur_share) else 0.0
    out = np.empty_like(images)
    for index, image in enumerate(images):
        if not np.array_equal(place, np.eye(3)):
            image = cv2.warpAffine(
                image, pixels, (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101
            )  # type: ignore[assignment]
        if colours is not None:
            image = cv2.transform(image, colours)  # type: ignore[assignment]  # rounds, and keeps to 0 to 255
        if blur > 0.1:  # below, nothing is seen
            image = cv2.GaussianBlur(image, (0, 0), blur)  # type: ignore[assignment]
        if noise > 0:
            grain = torch.randn(image.shape).numpy() * np.float32(255 * noise)
            image = np.clip(image + grain, 0, 255).astype(np.uint8)
        out[index] = image
    if landmarks is None:
        return out, None
    moved = landmarks @ place[:2, :2].T.astype(np.float32) + place[:2, 2].astype(np.float32)
    return out, np.ascontiguousarray(moved[:, MIRRORED] if mirror else moved, dtype=np.float32)


def _placement(settings: FaceAugmentation) -> tuple[NDArray[np.float64], bool]:
    """Where a point of the picture goes, as a (3, 3) matrix of [-1, 1], and whether it is mirrored."""
    place = np.eye(3)
    if settings.min_crop < 1:
        place = _crop(settings.min_crop) @ place
    mirror = _chance(settings.flip)
    if mirror:
        place = np.diag([-1.0, 1.0, 1.0]) @ place
    if settings.rotate or settings.zoom or settings.shift:
        angle = np.deg2rad(_within(settings.rotate))
        size = 1 + _within(settings.zoom)
        cosine, sine = size * np.cos(angle), size * np.sin(angle)
        right, down = 2 * _within(settings.shift), 2 * _within(settings.shift)  # the side is 2 long
        place = np.array([[cosine, -sine, right], [sine, cosine, down], [0, 0, 1]]) @ place
    return place, mirror


def _crop(smallest: float) -> NDArray[np.float64]:
    """A part of the picture stretched to all of it."""
    area = smallest + (1 - smallest) * float(torch.rand(()))
    ratio = float(np.exp(_within(np.log(4 / 3))))  # width to height
    width, height = min(1.0, np.sqrt(area * ratio)), min(1.0, np.sqrt(area / ratio))
    x, y = _within(1 - width), _within(1 - height)  # its middle
    return np.array([[1 / width, 0, -x / width], [0, 1 / height, -y / height], [0, 0, 1]])


def _colours(settings: FaceAugmentation) -> NDArray[np.float64] | None:
    """Brightness, contrast, saturation and hue as one (3, 4) matrix of RGB in 0 to 255."""
    if not (settings.brightness or settings.contrast or settings.saturation or settings.hue):
        return None
    gray = np.ones((3, 1)) * _LUMA
    turn = 2 * np.pi * _within(settings.hue)
    # Hue turns the plane of colours around the gray axis: the luma stays.
    axis = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / np.sqrt(3)
    around = np.eye(3) + np.sin(turn) * axis + (1 - np.cos(turn)) * axis @ axis
    hue = gray + (np.eye(3) - gray) @ around
    saturation = gray + (1 + _within(settings.saturation)) * (np.eye(3) - gray)
    contrast = 1 + _within(settings.contrast)
    gain = (1 + _within(settings.brightness)) * contrast
    return np.hstack([gain * saturation @ hue, np.full((3, 1), 127.5 * (1 - contrast))])


def _within(limit: float) -> float:
    return limit * (2 * float(torch.rand(())) - 1)


def _up_to(limit: float) -> float:
    return limit * float(torch.rand(()))


def _chance(share: float) -> bool:
    return bool(torch.rand(()) < share)
