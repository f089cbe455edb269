"""Faces as inputs: normalised where found, NaN where not, absent where there is none at all."""

import numpy as np
import pytest
import torch

from affuse import AffuseError
from affuse.signals.face import FacePipeline
from affuse.signals.face_input import FaceInput, face_inputs


def test_frames_without_a_face_are_nan_whatever_their_picture_holds() -> None:
    images = np.full((3, 20, 20, 3), 255, np.uint8)
    found = np.array([True, False, True])
    spec = FaceInput(frames=3, size=10, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.5))
    face = face_inputs(images, found, None, spec)["face"]
    assert face.shape == (3, 3, 10, 10) and face.dtype == torch.float32
    assert face[1].isnan().all()
    assert torch.allclose(face[[0, 2]], torch.tensor([2.0, 2.0, 1.0]).reshape(3, 1, 1).expand(2, 3, 10, 10))


def test_a_clip_without_any_face_has_no_input() -> None:
    images, points = np.zeros((2, 8, 8, 3), np.uint8), np.zeros((2, 68, 2), np.float32)
    assert face_inputs(images, np.zeros(2, bool), points, FaceInput(frames=2, size=8, landmarks=True)) == {}


def test_landmarks_are_given_where_wanted_known_and_of_a_face() -> None:
    images = np.zeros((3, 8, 8, 3), np.uint8)
    found = np.array([True, True, False])
    points = np.full((3, 68, 2), 0.25, np.float32)
    points[0] = np.nan
    wanted = FaceInput(frames=3, size=8, landmarks=True)
    landmarks = face_inputs(images, found, points, wanted)["landmarks"]
    assert landmarks[[0, 2]].isnan().all() and (landmarks[1] == 0.25).all()
    assert list(face_inputs(images, found, points, FaceInput(frames=3, size=8))) == ["face"]
    assert list(face_inputs(images, found, None, wanted)) == ["face"]
    assert list(face_inputs(images, found, np.full_like(points, np.nan), wanted)) == ["face"]


def test_a_frame_may_be_freed_of_its_light() -> None:
    rng = np.random.default_rng(0)
    bright = rng.integers(0, 200, (1, 8, 8, 3)).astype(np.uint8)
    images = np.concatenate([bright, bright // 2, np.full_like(bright, 90)])
    found = np.ones(3, np.bool_)
    face = face_inputs(images, found, None, FaceInput(frames=3, size=8, normalise="frame"))["face"]
    assert face.mean((1, 2, 3)).abs().max() < 1e-4 and face.isfinite().all()
    assert 0.8 < face[0].std() < 1
    fixed = face_inputs(images, found, None, FaceInput(frames=3, size=8))["face"]
    assert (face[0] - face[1]).abs().mean() < 0.2 * (fixed[0] - fixed[1]).abs().mean()


def test_frames_are_chosen_as_the_recipe_says() -> None:
    assert FaceInput(frames=4, short="repeat_last").chosen(2).tolist() == [0, 1, 1, 1]
    assert FaceInput(frames=4, sampling="segments").chosen(40).tolist() == [9, 10, 29, 30]
    drawn = [FaceInput().chosen(99, training=True, rng=np.random.default_rng(seed)).tolist() for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"frames": 0}, "at least 1"),
        ({"frames": 15, "sampling": "segments"}, "is odd"),
        ({"std": (0.2, 0.0, 0.2)}, "std must be positive"),
        ({"landmarks": True, "pipeline": FacePipeline()}, "set pipeline.landmarks"),
    ],
)
def test_settings_that_cannot_be_are_an_error(fields: dict, message: str) -> None:
    with pytest.raises(AffuseError, match=message):
        FaceInput(**fields)


def test_shapes_that_do_not_fit_are_an_error() -> None:
    images = np.zeros((2, 8, 8, 3), np.uint8)
    with pytest.raises(AffuseError, match="found"):
        face_inputs(images, np.ones(3, bool), None, FaceInput())
    with pytest.raises(AffuseError, match="landmarks"):
        face_inputs(images, np.ones(2, bool), np.zeros((2, 5, 2), np.float32), FaceInput())
