"""Crops around a face: where things land in them, to a fraction of a pixel, and how they are evened out."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from affuse import AffuseError
from affuse.signals.face_alignment import crop_face, crop_matrix, enhance, eye_tilt, to_crop
from affuse.signals.face_detection import FaceBox


def spots(height: int, width: int, places: list[tuple[float, float]], sigma: float = 4.0) -> NDArray[np.uint8]:
    """Round bright spots at places (x, y), pixels from the middle of the first one."""
    y, x = np.mgrid[:height, :width]
    light = sum(np.exp(-((x - px) ** 2 + (y - py) ** 2) / (2 * sigma**2)) for px, py in places)
    return np.repeat((np.clip(light, 0, 1) * 255).astype(np.uint8)[..., None], 3, axis=2)


def centroid(image: NDArray[np.uint8]) -> tuple[float, float]:
    light = image[..., 0].astype(float)
    y, x = np.mgrid[: light.shape[0], : light.shape[1]]
    return float((light * x).sum() / light.sum()), float((light * y).sum() / light.sum())


@given(
    x=st.floats(120, 180),
    y=st.floats(90, 150),
    side=st.floats(40, 160),
    size=st.integers(24, 200),
    tilt=st.floats(-1, 1),
)
@settings(max_examples=30)
def test_a_spot_lands_where_the_matrix_says_whether_the_crop_grows_or_shrinks(
    x: float, y: float, side: float, size: int, tilt: float
) -> None:
    box = FaceBox(150 - side / 2, 120 - side / 2, side, side)
    matrix = crop_matrix(box, size, tilt=tilt)
    reach = 0.35 * side  # within the crop, whatever the tilt
    place = (float(np.clip(x, 150 - reach, 150 + reach)), float(np.clip(y, 120 - reach, 120 + reach)))
    image = crop_face(spots(240, 300, [place], sigma=side / 20), matrix, size)
    told = matrix @ (*place, 1)
    assert np.allclose(centroid(image), told, atol=0.25)
    edges = to_crop(np.array([place], np.float32), matrix, size)[0]
    assert np.allclose((edges + 1) / 2 * size - 0.5, told, atol=1e-3)


def test_the_middle_of_the_box_is_the_middle_of_the_crop_and_the_margin_its_edge() -> None:
    box = FaceBox(30.0, 40.0, 20.0, 10.0)
    matrix = crop_matrix(box, 50, tilt=0.0, margin=0.25)
    centre = np.array(box.centre, np.float32) - 0.5
    right = centre + np.float32([15, 0])  # half of the longer side, and a quarter of it
    assert np.allclose(to_crop(np.stack([centre, right]), matrix, 50), [(0, 0), (1, 0)], atol=1e-5)


@pytest.mark.parametrize("degrees", [-25, 10, 40])
def test_tilted_eyes_are_level_in_the_crop(degrees: float) -> None:
    angle = np.radians(degrees)
    across = 20 * np.array([np.cos(angle), np.sin(angle)])
    middle = np.array([100.0, 80.0])
    eyes = tuple(tuple((middle + sign * across).tolist()) for sign in (-1, 1))
    assert eye_tilt(eyes) == pytest.approx(angle)
    matrix = crop_matrix(FaceBox(60.0, 40.0, 80.0, 80.0), 96, tilt=eye_tilt(eyes))
    image = crop_face(spots(160, 200, list(eyes)), matrix, 96)
    (left_x, left_y), (right_x, right_y) = (
        centroid(np.where(np.arange(96)[None, :, None] < 48, image, 0)),
        centroid(np.where(np.arange(96)[None, :, None] >= 48, image, 0)),
    )
    assert abs(left_y - right_y) < 0.5 and right_x - left_x == pytest.approx(40 * 96 / (80 * 1.4), abs=1)


def test_beyond_the_frame_its_edge_is_repeated() -> None:
    ramp = np.broadcast_to(np.linspace(0, 200, 80).astype(np.uint8)[None, :, None], (60, 80, 3)).copy()
    beside = crop_face(ramp, crop_matrix(FaceBox(70.0, 20.0, 20.0, 20.0), 28), 28)
    assert (beside[:, -13:] == 200).all() and (beside[:, 0] < 195).all()
    assert (crop_face(ramp, crop_matrix(FaceBox(500.0, 20.0, 20.0, 20.0), 28), 28) == 200).all()
    with pytest.raises(AffuseError, match="RGB"):
        crop_face(ramp[..., 0], np.eye(2, 3), 28)


def test_each_step_of_evening_out_does_its_work_and_can_be_left_out() -> None:
    random = np.random.default_rng(0)
    y, x = np.mgrid[:96, :96]
    smooth = 110 + 20 * np.sin(x / 9) + 8 * (y > 48)
    noisy = np.repeat((smooth + random.normal(0, 4, (96, 96))).astype(np.uint8)[..., None], 3, axis=2)
    off = {"clahe": False, "bilateral": False, "unsharp": False}
    assert (enhance(noisy, **off) == noisy).all()
    assert enhance(noisy, **{**off, "clahe": True}).std() > 1.2 * noisy.std()
    calm = enhance(noisy, **{**off, "bilateral": True}).astype(float)[..., 0]
    assert (calm - smooth).std() < 0.75 * (noisy[..., 0] - smooth).std()
    assert calm[52:60].mean() - calm[36:44].mean() > 6  # the edge is kept
    step = np.repeat(np.where(x < 48, 60, 160).astype(np.uint8)[..., None], 3, axis=2)
    sharp = enhance(step, **{**off, "unsharp": True})
    assert sharp.min() < 60 and sharp.max() > 160  # it overshoots beside the edge
    assert (sharp[:, :40] == 60).all() and (sharp[:, 56:] == 160).all()
