"""Depth images: metres and a mask of what was measured, from what sensors and data sets store; and forms that a network reads.

A depth sensor does not see everything: shiny, black and too near surfaces come as 0. Such pixels hold no distance, so they are
carried as a mask, take no part in any average (`masked_resize`) or slope (`surface_normals`), and stand as 0 in every form.

What is read: 16-bit PNG or PGM (millimetres as a rule), ``.npy`` arrays (whole numbers: millimetres; floats: metres), and, in
affuse.signals.timed_frames, folders of these and 16-bit gray video. 8-bit pictures and video are depth codes, not depth: the
``kinect_depth`` files of Drive&Act are such (H.264 of 8-bit gray). They are refused unless `DepthSpec.coded_far_m` says what
the value 255 stands for; lossy coding smears the invalid 0 into small values, which `coded_floor` cuts off.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from affuse.types import AffuseError

DEPTH_CHANNELS = {"metric": 1, "metric_valid": 2, "normals": 3, "colour": 3}
COLOUR_MAPS = {"turbo": cv2.COLORMAP_TURBO, "jet": cv2.COLORMAP_JET, "viridis": cv2.COLORMAP_VIRIDIS}


class Intrinsics(NamedTuple):
    """A pinhole camera, pixels: focal lengths and the principal point, in which 0 is the middle of the first pixel."""

    fx: float
    fy: float
    cx: float
    cy: float

    def resized(self, old: tuple[int, int], new: tuple[int, int]) -> Intrinsics:
        """Of the same camera once its image of height and width `old` has been resized to `new`."""
        y, x = new[0] / old[0], new[1] / old[1]
        # Borders fall on borders, not middles of pixels on middles: half a pixel lies between the two.
        return Intrinsics(self.fx * x, self.fy * y, (self.cx + 0.5) * x - 0.5, (self.cy + 0.5) * y - 0.5)


@dataclass(frozen=True)
class DepthSpec:
    """How stored numbers become metres, and which form a network reads.

    Args:
        metres_per_unit: metres of one stored unit; None: whole numbers are millimetres, floats metres.
        near_m, far_m: what lies outside is invalid; 0 always is, and so are NaN and infinity.
        coded_far_m: metres that 255 stands for in 8-bit codes, which are linear from 0; None: 8-bit depth is refused.
        coded_floor: 8-bit codes below this are invalid, as lossy coding does not keep 0.
        form: ``metric``: normalised metres (1 channel); ``metric_valid``: these and a channel that is 1 where valid;
            ``normals``: surface normals (3); ``colour``: a colour map (3).
        mean_m, std_m: metres are normalised as (x - mean_m) / std_m.
        colour_map: of form ``colour``, from near_m to far_m.
        intrinsics: fx, fy, cx, cy of the stored image, pixels, for normals; None: the small-angle form.
        field_of_view_deg: horizontal, of the small-angle form (Kinect v2: 70.6).
        min_coverage: a pixel of a smaller image is valid where at least this share of what it covers is.
    """

    metres_per_unit: float | None = None
    near_m: float = 0.1
    far_m: float = 10.0
    coded_far_m: float | None = None
    coded_floor: int = 4
    form: Literal["metric", "metric_valid", "normals", "colour"] = "metric"
    mean_m: float = 1.5
    std_m: float = 0.75
    colour_map: Literal["turbo", "jet", "viridis"] = "turbo"
    intrinsics: tuple[float, float, float, float] | None = None
    field_of_view_deg: float = 70.6
    min_coverage: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.near_m < self.far_m:
            raise AffuseError(f"near_m must be at least 0 and below far_m, got {self.near_m} and {self.far_m}")
        positive = {"metres_per_unit": self.metres_per_unit, "coded_far_m": self.coded_far_m, "std_m": self.std_m}
        for name, value in positive.items():
            if value is not None and not (math.isfinite(value) and value > 0):
                raise AffuseError(f"{name} must be positive, got {value}")
        if not 0 < self.min_coverage <= 1:
            raise AffuseError(f"min_coverage must lie in (0, 1], got {self.min_coverage}")
        if not 0 < self.field_of_view_deg < 180:
            raise AffuseError(f"field_of_view_deg must lie between 0 and 180, got {self.field_of_view_deg}")

    @property
    def channels(self) -> int:
        """Channels of the form."""
        return DEPTH_CHANNELS[self.form]


class Depth(NamedTuple):
    """Distances along the optical axis, metres (t, h, w), 0 where invalid, and where they are valid (t, h, w)."""

    metres: Float[Tensor, "t h w"]
    valid: Bool[Tensor, "t h w"]


def to_metres(stored: NDArray[Any], spec: DepthSpec) -> Depth:
    """Stored numbers, (t, h, w) or one image (h, w), as metres and a mask.

    Raises:
        AffuseError: colours, 8-bit codes without `coded_far_m`, or numbers that are no depth.
    """
    if (
        stored.ndim not in (2, 3)
        or stored.dtype.kind not in "uif"
        or (stored.dtype.kind == "i" and stored.itemsize < 2)
    ):
        raise AffuseError(
            f"depth is (t, h, w) or (h, w) of whole numbers or floats, got {stored.shape} of {stored.dtype}; "
            "colours cannot be turned back into depth: give the 16-bit images"
        )
    stored = stored if stored.ndim == 3 else stored[None]  # t h w
    invalid = np.zeros(stored.shape, bool)
    if stored.dtype == np.uint8:
        if spec.coded_far_m is None:
            raise AffuseError("8-bit values are codes, not depth: give 16-bit images, or set depth.coded_far_m")
        invalid = stored < spec.coded_floor
        scale = spec.coded_far_m / 255
    elif spec.metres_per_unit is not None:
        scale = spec.metres_per_unit
    else:
        scale = 1.0 if stored.dtype.kind == "f" else 1e-3
    metres = stored.astype(np.float32) * np.float32(scale)
    # A comparison with NaN is false, so that NaN is invalid too.
    valid = (metres > 0) & (metres >= spec.near_m) & (metres <= spec.far_m) & ~invalid
    return Depth(torch.from_numpy(np.where(valid, metres, np.float32(0))), torch.from_numpy(valid))


def masked_resize(
    images: Float[Tensor, "t c h w"],
    valid: Bool[Tensor, "t h w"],
    size: tuple[int, int],
    min_coverage: float = 0.5,
) -> tuple[Float[Tensor, "t c y x"], Bool[Tensor, "t y x"]]:
    """Images of another size, height and width, in which invalid pixels take no part, and their masks.

    Each pixel is the average of the valid pixels that it covers (antialiased bilinear weights, divided by the weight of what is
    valid); it is valid where at least `min_coverage` of the weight is, and 0 where not. What invalid pixels hold is not read.
    """
    weight = valid[:, None].to(images.dtype)  # t 1 h w
    known = torch.where(valid[:, None], images, torch.zeros_like(images))
    if tuple(images.shape[-2:]) == tuple(size):
        return known, valid
    shrink = lambda x: functional.interpolate(x, size, mode="bilinear", antialias=True, align_corners=False)  # noqa: E731
    coverage = shrink(weight)  # t 1 y x
    kept = coverage > min_coverage - 1e-4  # weights that sum to 1 up to rounding
    return torch.where(kept, shrink(known) / coverage.clamp_min(1e-6), 0.0), kept[:, 0]


def normalise_depth(depth: Depth, spec: DepthSpec) -> Float[Tensor, "t h w"]:
    """(metres - mean_m) / std_m where valid, 0 elsewhere."""
    return torch.where(depth.valid, (depth.metres - spec.mean_m) / spec.std_m, 0.0)


def colour_depth(depth: Depth, spec: DepthSpec) -> UInt8[Tensor, "t h w 3"]:
    """8-bit RGB of OpenCV's colour map, near_m first and far_m last; black where invalid."""
    share = ((depth.metres - spec.near_m) / (spec.far_m - spec.near_m)).clamp(0, 1)
    codes = (share * 255).round().to(torch.uint8)
    painted = [cv2.applyColorMap(code.numpy(), COLOUR_MAPS[spec.colour_map])[..., ::-1].copy() for code in codes]
    return torch.from_numpy(np.stack(painted)) * depth.valid[..., None]


def surface_normals(
    depth: Depth, intrinsics: Intrinsics | None = None, field_of_view_deg: float = 70.6
) -> tuple[Float[Tensor, "t 3 h w"], Bool[Tensor, "t h w"]]:
    """Unit normals of the seen surface, which face the camera, and where they are known.

    Axes: x right, y down, z away from the camera; a wall across the view has (0, 0, -1). With z(u, v) the depth and its slopes
    z_u, z_v a pixel, the point of a pixel is z ((u - cx) / fx, (v - cy) / fy, 1), and the cross product of its derivatives is,
    up to length, ``(fx z_u, fy z_v, -z - (u - cx) z_u - (v - cy) z_v)``. Without intrinsics the terms of (u - cx) and (v - cy)
    are left out (small angles from the axis: orthographic at the scale of each point), the focal length of the field of view.

    Slopes are central differences, one-sided where only one neighbour is valid; a pixel without a valid neighbour in either
    direction has no normal: 0, and not known.
    """
    height, width = depth.metres.shape[1:]
    z_u, known_u = _slope(depth, -1)
    z_v, known_v = _slope(depth, -2)
    if intrinsics is None:
        focal = width / 2 / math.tan(math.radians(field_of_view_deg) / 2)
        x, y, away = focal * z_u, focal * z_v, -depth.metres
    else:
        u = torch.arange(width, dtype=depth.metres.dtype) - intrinsics.cx  # w
        v = torch.arange(height, dtype=depth.metres.dtype)[:, None] - intrinsics.cy  # h 1
        x, y, away = intrinsics.fx * z_u, intrinsics.fy * z_v, -depth.metres - u * z_u - v * z_v
    normals = functional.normalize(torch.stack([x, y, away], dim=1), dim=1)  # t 3 h w
    known = depth.valid & known_u & known_v
    return torch.where(known[:, None], normals, 0.0), known


def depth_form(
    depth: Depth, spec: DepthSpec, size: int, stored_size: tuple[int, int] | None = None
) -> Float[Tensor, "t c s s"]:
    """What a network reads: `spec.form` of depth images at this side, invalid pixels 0 in every channel.

    Args:
        depth: images (t, h, w).
        spec: form and settings.
        size: side of what is made, pixels.
        stored_size: height and width that the images had where they were stored, of which `spec.intrinsics` are; None: as now.
    """
    square = (size, size)
    if spec.form == "normals":
        intrinsics = None if spec.intrinsics is None else Intrinsics(*spec.intrinsics)
        if intrinsics is not None and stored_size is not None:
            height, width = depth.metres.shape[1:]
            intrinsics = intrinsics.resized(stored_size, (height, width))
        # Slopes are taken before the image is made small: afterwards neighbours lie on different things.
        normals, known = surface_normals(depth, intrinsics, spec.field_of_view_deg)
        normals, known = masked_resize(normals, known, square, spec.min_coverage)
        return torch.where(known[:, None], functional.normalize(normals, dim=1), 0.0)
    metres, valid = masked_resize(depth.metres[:, None], depth.valid, square, spec.min_coverage)  # t 1 s s, t s s
    small = Depth(metres[:, 0], valid)
    if spec.form == "colour":
        colours = colour_depth(small, spec).permute(0, 3, 1, 2).float() / 255  # t 3 s s
        return torch.where(valid[:, None], (colours - 0.5) / 0.25, 0.0)
    channels = [normalise_depth(small, spec)]
    if spec.form == "metric_valid":
        channels.append(valid.float())
    return torch.stack(channels, dim=1)


def _slope(depth: Depth, axis: int) -> tuple[Tensor, Tensor]:
    """Difference a pixel along an axis of (t, h, w), and where a neighbour is valid to take it from."""
    z, valid = depth.metres, depth.valid
    after, before = torch.zeros_like(z), torch.zeros_like(z)
    has_after, has_before = torch.zeros_like(valid), torch.zeros_like(valid)
    length = z.shape[axis]
    if length > 1:
        step = torch.diff(z, dim=axis)
        both = valid.narrow(axis, 1, length - 1) & valid.narrow(axis, 0, length - 1)
        after.narrow(axis, 0, length - 1).copy_(step)
        before.narrow(axis, 1, length - 1).copy_(step)
        has_after.narrow(axis, 0, length - 1).copy_(both)
        has_before.narrow(axis, 1, length - 1).copy_(both)
    number = has_after.to(z.dtype) + has_before.to(z.dtype)
    slope = (after * has_after + before * has_before) / number.clamp_min(1)
    return slope, number > 0
