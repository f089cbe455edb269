import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from affuse import AffuseError
from affuse.signals.depth import (
    Depth,
    DepthSpec,
    Intrinsics,
    colour_depth,
    depth_form,
    masked_resize,
    normalise_depth,
    surface_normals,
    to_metres,
)

CAMERA = Intrinsics(60.0, 62.0, 31.0, 22.0)


def plane(normal: tuple[float, float, float], distance_m: float, camera: Intrinsics = CAMERA) -> Depth:
    """Depth of the plane n . p = -distance, seen by a pinhole camera of 48 x 64 pixels."""
    u, v = np.meshgrid(np.arange(64) - camera.cx, np.arange(48) - camera.cy)
    rays = np.stack([u / camera.fx, v / camera.fy, np.ones_like(u)], -1)
    metres = torch.from_numpy((-distance_m / (rays @ np.array(normal))).astype(np.float32))[None]
    return Depth(metres, metres > 0)


def unit(*values: float) -> tuple[float, float, float]:
    x, y, z = np.array(values) / np.linalg.norm(values)
    return float(x), float(y), float(z)


@pytest.mark.parametrize(
    ("stored", "spec", "metres"),
    [
        (np.array([[0, 1500, 9000]], np.uint16), DepthSpec(), [0, 1.5, 9.0]),
        (np.array([[0, 1500, 65535]], np.uint16), DepthSpec(), [0, 1.5, 0]),
        (np.array([[0, 5000, 1]], np.uint16), DepthSpec(metres_per_unit=1 / 5000), [0, 1.0, 0]),
        (np.array([[np.nan, 1.5, np.inf, -1.0]], np.float32), DepthSpec(), [0, 1.5, 0, 0]),
        (np.array([[3, 51, 255]], np.uint8), DepthSpec(coded_far_m=5.0), [0, 1.0, 5.0]),
        (np.array([[-5, 900]], np.int16), DepthSpec(near_m=0.5), [0, 0.9]),
    ],
)
def test_stored_numbers_become_metres_and_what_was_not_measured_is_invalid(
    stored: np.ndarray, spec: DepthSpec, metres: list[float]
) -> None:
    depth = to_metres(stored, spec)
    assert depth.metres.shape == (1, *stored.shape)
    torch.testing.assert_close(depth.metres[0, 0], torch.tensor(metres))
    assert depth.valid[0, 0].tolist() == [value > 0 for value in metres]


def test_eight_bit_codes_and_colours_are_refused_with_a_remedy() -> None:
    with pytest.raises(AffuseError, match="coded_far_m"):
        to_metres(np.ones((4, 4), np.uint8), DepthSpec())
    with pytest.raises(AffuseError, match="16-bit"):
        to_metres(np.ones((2, 4, 4, 3), np.uint8), DepthSpec(coded_far_m=4.0))
    with pytest.raises(AffuseError, match="complex64"):
        to_metres(np.ones((4, 4), np.complex64), DepthSpec())


@pytest.mark.parametrize(
    "wrong",
    [
        {"near_m": 2.0, "far_m": 1.0},
        {"metres_per_unit": 0.0},
        {"coded_far_m": math.nan},
        {"std_m": -1.0},
        {"min_coverage": 0.0},
        {"field_of_view_deg": 180.0},
    ],
)
def test_impossible_settings_are_named(wrong: dict[str, float]) -> None:
    with pytest.raises(AffuseError, match=next(iter(wrong))):
        DepthSpec(**wrong)  # type: ignore[arg-type]


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(3, 40), st.integers(3, 40), st.integers(1, 30), st.floats(0.05, 1.0))
def test_resizing_never_mixes_valid_and_invalid_pixels(seed: int, h: int, w: int, size: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    valid = torch.from_numpy(rng.random((1, h, w)) < share)
    near, far = 1.0, 2.0
    inside = torch.from_numpy(rng.uniform(near, far, (1, 1, h, w)).astype(np.float32))
    poisoned = torch.where(valid[:, None], inside, torch.full_like(inside, torch.nan))
    small, kept = masked_resize(poisoned, valid, (size, size))
    values = small[kept[:, None]]
    assert torch.isfinite(small).all() and (small[~kept[:, None]] == 0).all()
    assert ((values > near - 1e-3) & (values < far + 1e-3)).all()
    if bool(valid.all()):
        assert bool(kept.all())
    if not bool(valid.any()):
        assert not bool(kept.any())


def test_min_coverage_decides_which_pixels_of_a_smaller_image_are_valid() -> None:
    valid = torch.ones(1, 8, 8, dtype=torch.bool)
    valid[:, :, :3] = False
    images = torch.full((1, 1, 8, 8), 2.0)
    assert masked_resize(images, valid, (2, 2), 1.0)[1].tolist() == [[[False, False], [False, False]]]
    assert masked_resize(images, valid, (2, 2), 0.6)[1].tolist() == [[[False, True], [False, True]]]
    small, kept = masked_resize(images, valid, (2, 2), 0.01)
    assert bool(kept.all()) and torch.allclose(small, torch.tensor(2.0))


@settings(max_examples=25)
@given(st.floats(-0.5, 0.5), st.floats(-0.5, 0.5), st.floats(1.0, 3.0))
def test_normals_of_a_plane_are_its_own_wherever_it_stands(x: float, y: float, distance_m: float) -> None:
    normal = unit(x, y, -1.0)
    depth = plane(normal, distance_m)
    normals, known = surface_normals(depth, CAMERA)
    assert bool(known.all())
    # Inside: the depth of a tilted plane is a hyperbola, of which a central difference is the slope up to second order.
    inside = normals[0, :, 1:-1, 1:-1].flatten(1)
    assert torch.allclose(inside, torch.tensor(normal)[:, None].expand_as(inside), atol=0.01)


def test_without_intrinsics_normals_are_right_near_the_axis() -> None:
    fov = 2 * math.degrees(math.atan(64 / 2 / 200))
    camera = Intrinsics(200.0, 200.0, 31.5, 23.5)
    normal = unit(0.2, -0.3, -1.0)
    normals, _ = surface_normals(plane(normal, 2.0, camera), field_of_view_deg=fov)
    middle = normals[0, :, 22:26, 30:34].mean((1, 2))
    assert torch.allclose(middle, torch.tensor(normal), atol=0.01)


def test_a_hole_gives_no_normal_and_leaves_those_around_it_as_they_are() -> None:
    whole = plane(unit(0.1, 0.2, -1.0), 1.5)
    holed = whole.valid.clone()
    holed[0, 10:14, 20:26] = False
    metres = torch.where(holed, whole.metres, torch.tensor(0.0))
    normals, known = surface_normals(Depth(metres, holed), CAMERA)
    assert torch.equal(known, holed) and (normals[:, :, 10:14, 20:26] == 0).all()
    reference, _ = surface_normals(whole, CAMERA)
    difference = ((normals - reference).abs() * known[:, None]).max()
    assert difference < 0.03  # a slope from one side is of first order
    alone = torch.zeros_like(holed)
    alone[0, 5, 5] = True
    assert not surface_normals(Depth(whole.metres * alone, alone), CAMERA)[1].any()


def test_a_shrunk_image_has_the_intrinsics_of_its_own_pixels() -> None:
    normal = unit(0.3, -0.2, -1.0)
    spec = DepthSpec(form="normals", intrinsics=tuple(CAMERA))
    whole = plane(normal, 1.5)
    metres, valid = masked_resize(whole.metres[:, None], whole.valid, (24, 21))
    small = depth_form(Depth(metres[:, 0], valid), spec, 8, stored_size=(48, 64))
    assert torch.allclose(small[0, :, 1:-1, 1:-1], depth_form(whole, spec, 8)[0, :, 1:-1, 1:-1], atol=0.01)
    assert torch.allclose(small[0, :, 4, 4], torch.tensor(normal), atol=0.01)


def test_colours_run_from_near_to_far_and_invalid_is_black() -> None:
    spec = DepthSpec(near_m=1.0, far_m=3.0, colour_map="jet")
    colours = colour_depth(to_metres(np.array([[0, 1000, 2999, 9000]], np.uint16), spec), spec)[0, 0]
    assert colours[0].tolist() == colours[3].tolist() == [0, 0, 0]
    assert colours[1, 2] > 100 > colours[1, 0] and colours[2, 0] > 100 > colours[2, 2]  # blue is near, red is far


@pytest.mark.parametrize("form", ["metric", "metric_valid", "normals", "colour"])
def test_each_form_has_its_channels_and_zeros_where_nothing_was_measured(form: str) -> None:
    spec = DepthSpec(form=form)  # type: ignore[arg-type]
    stored = np.full((2, 40, 60), 1800, np.uint16)
    stored[:, :, :30] = 0
    image = depth_form(to_metres(stored, spec), spec, 20)
    assert image.shape == (2, spec.channels, 20, 20) and torch.isfinite(image).all()
    assert (image[..., :9] == 0).all() and (image[..., 11:] != 0).any(1).all()


def test_metric_depth_is_normalised_by_the_settings() -> None:
    spec = DepthSpec(mean_m=1.0, std_m=0.5, form="metric_valid")
    depth = to_metres(np.array([[2000, 0]], np.uint16), spec)
    assert normalise_depth(depth, spec).tolist() == [[[2.0, 0.0]]]
    assert depth_form(to_metres(np.full((6, 6), 2000, np.uint16), spec), spec, 3)[0, :, 1, 1].tolist() == [2.0, 1.0]
