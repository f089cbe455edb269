"""68 landmarks: found in real faces, freed of place, size and tilt."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from affuse.signals.landmarks import LEFT_EYE, POINTS, RIGHT_EYE, find_landmarks, normalised
from affuse.signals.video import read_video
from affuse.types import AffuseError

pytest.importorskip("dlib", reason="the extra 'face' is not installed")


@given(
    angle=st.floats(-3, 3),
    size=st.floats(0.2, 50),
    x=st.floats(-500, 500),
    y=st.floats(-500, 500),
    seed=st.integers(0, 9),
)
@settings(max_examples=40)
def test_place_size_and_tilt_are_taken_away(angle: float, size: float, x: float, y: float, seed: int) -> None:
    points = np.random.default_rng(seed).normal(size=(POINTS, 2)).astype(np.float32)
    points[LEFT_EYE] -= (3, 0)
    points[RIGHT_EYE] += (3, 0)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    moved = (size * points @ turn + (x, y)).astype(np.float32)
    first, second = normalised(points), normalised(moved)
    assert np.allclose(first, second, atol=2e-3)
    left, right = first[LEFT_EYE].mean(0), first[RIGHT_EYE].mean(0)
    assert np.allclose(left, (-0.5, 0), atol=1e-4) and np.allclose(right, (0.5, 0), atol=1e-4)


def test_eyes_in_one_place_are_an_error() -> None:
    with pytest.raises(AffuseError, match="coincide"):
        normalised(np.zeros((POINTS, 2), np.float32))


def test_landmarks_of_a_real_face_lie_where_they_should(real_data: Path) -> None:
    frame = next(iter(read_video(real_data / "faces" / "single_face.mp4", max_frames=1))).image
    points = find_landmarks(frame)
    assert points is not None and points.shape == (POINTS, 2)
    assert (points >= 0).all() and (points <= (frame.shape[1], frame.shape[0])).all()
    face = normalised(points)
    assert face[8, 1] > face[57, 1] > face[33, 1] > 0  # chin below lip below nose below the eyes
    larger = np.asarray(cv2.resize(frame, None, fx=1.5, fy=1.5), np.uint8)
    again = find_landmarks(larger, points * 1.5)
    assert again is not None
    assert np.abs(again / 1.5 - points).mean() < 0.03 * np.ptp(points)


def test_no_face_is_none(real_data: Path) -> None:
    frame = next(iter(read_video(real_data / "faces" / "no_face.mp4", max_frames=1))).image
    assert find_landmarks(frame) is None


def test_what_is_no_picture_is_an_error() -> None:
    with pytest.raises(AffuseError, match="RGB"):
        find_landmarks(np.zeros((4, 4), np.uint8))
