"""Faces as an expression system's inputs, in training and in service alike: ``face`` and, beside it, ``landmarks``.

A frame in which no face was found, or that could not be decoded, is marked and never invented: all its values are NaN.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from affuse.signals.clips import resize
from affuse.signals.face import FacePipeline
from affuse.signals.frame_sampling import ShortClip, segments, uniform
from affuse.signals.landmarks import POINTS
from affuse.types import AffuseError

CONSECUTIVE = 2  # frames a run, where frames are sampled in segments
_FLAT = 0.1  # added to a frame's deviation, so that the noise of a dark frame is not blown up


@dataclass(frozen=True)
class FaceInput:
    """The ``input`` section of a recipe over clips of faces.

    Args:
        frames: frames of a clip that are looked at (16 in the papers on DFEW).
        size: side of the square pictures, pixels.
        sampling: ``uniform``: one frame of each of equal parts; ``segments``: pairs of consecutive frames, as Former-DFER.
        short: what stands in where a clip has too few frames; see affuse.signals.frame_sampling.
        mean, std: RGB in [0, 1] is normalised as (x - mean) / std; those of ImageNet by default.
        normalise: ``fixed``: that is all; ``frame``: each frame is then brought to zero mean and about unit deviation over all
            its values, which takes most of light and complexion away.
        landmarks: 68 landmarks too, where they are known.
        pipeline: how faces are found in the frames; None: the pictures are aligned faces already.
    """

    frames: int = 16
    size: int = 112
    sampling: Literal["uniform", "segments"] = "uniform"
    short: ShortClip = "spread"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    normalise: Literal["fixed", "frame"] = "fixed"
    landmarks: bool = False
    pipeline: FacePipeline | None = None

    def __post_init__(self) -> None:
        if self.frames < 1 or self.size < 8:
            raise AffuseError(f"frames is at least 1 and size at least 8, not {self.frames} and {self.size}")
        if self.sampling == "segments" and self.frames % CONSECUTIVE:
            raise AffuseError(f"sampling: segments takes frames in runs of {CONSECUTIVE}: frames {self.frames} is odd")
        if min(self.std) <= 0:
            raise AffuseError(f"std must be positive, not {self.std}")
        if self.landmarks and self.pipeline is not None and not self.pipeline.landmarks:
            raise AffuseError("landmarks are wanted but not looked for: set pipeline.landmarks, or landmarks to false")

    def chosen(
        self, available: int, *, training: bool = False, rng: np.random.Generator | None = None
    ) -> NDArray[np.int64]:
        """Which of a clip's frames are looked at: indices (frames,) into the `available` ones, in order.

        Raises:
            AffuseError: no frame is available, or training without `rng`.
        """
        if self.sampling == "segments":
            return segments(available, self.frames, CONSECUTIVE, training, rng, short=self.short)
        return uniform(available, self.frames, short=self.short, training=training, rng=rng)


def face_inputs(
    images: NDArray[np.uint8], found: NDArray[np.bool_], landmarks: NDArray[np.float32] | None, spec: FaceInput
) -> dict[str, Tensor]:
    """The inputs of one clip, of the frames that were chosen.

    Args:
        images: aligned faces, RGB (t, s, s, 3).
        found: frames that hold a face (t,); what the pictures of the others hold is not read.
        landmarks: (t, 68, 2), x and y in [-1, 1] from edge to edge of the crop, NaN where there are none; None: not known.
        spec: size and normalisation.

    Returns:
        ``face`` (t, 3, size, size), NaN in the frames without a face, and, where `spec` wants them and some are known,
        ``landmarks`` (t, 68, 2), NaN in the frames without. A clip without any face has neither: both are absent.

    Raises:
        AffuseError: the shapes do not fit together.
    """
    t = len(images)
    if images.ndim != 4 or images.shape[3] != 3 or images.dtype != np.uint8 or found.shape != (t,):
        raise AffuseError(f"expected RGB pictures (t, s, s, 3) and found (t,), got {images.shape} and {found.shape}")
    if landmarks is not None and landmarks.shape != (t, POINTS, 2):
        raise AffuseError(f"expected landmarks ({t}, {POINTS}, 2), got {landmarks.shape}")
    if not found.any():
        return {}
    seen = torch.from_numpy(found.copy())
    levels = torch.from_numpy(np.ascontiguousarray(images[found].transpose(0, 3, 1, 2)))  # q 3 h w
    mean, std = (torch.tensor(values).reshape(3, 1, 1) for values in (spec.mean, spec.std))
    pictures = torch.addcmul(-mean / std, resize(levels.float(), spec.size), 1 / (255 * std))
    if spec.normalise == "frame":
        values = pictures.flatten(1)  # a view
        values -= values.mean(1, keepdim=True)
        # As torch.std, which takes ten times as long.
        deviation = torch.linalg.vector_norm(values, dim=1, keepdim=True) / (values.shape[1] - 1) ** 0.5
        values /= deviation + _FLAT
    face = torch.full((t, 3, spec.size, spec.size), torch.nan)
    face[seen] = pictures
    inputs = {"face": face}
    if spec.landmarks and landmarks is not None:
        points = torch.from_numpy(landmarks.astype(np.float32))
        points[~seen] = torch.nan
        if torch.isfinite(points).any():
            inputs["landmarks"] = points
    return inputs
