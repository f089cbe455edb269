"""Faces of real videos, and the answer where there is no face, more than one, a late one, or a broken frame."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from affuse import AffuseError
from affuse.signals import face as face_module
from affuse.signals.face import FacePipeline, FaceState, face_step, read_faces
from affuse.signals.video import read_video

PLAIN = {"clahe": False, "bilateral": False, "unsharp": False}


@pytest.fixture(params=["haar", "dlib"])
def pipeline(request: pytest.FixtureRequest) -> FacePipeline:
    if request.param == "dlib":
        pytest.importorskip("dlib", reason="the extra 'face' is not installed")
    return FacePipeline(size=64, detector=request.param)


@pytest.fixture(scope="session")
def real_frame(real_data: Path) -> NDArray[np.uint8]:
    image = cv2.imread(str(real_data / "faces/single_face.jpg"))
    assert image is not None
    return np.ascontiguousarray(cv2.resize(image, (286, 281))[..., ::-1], dtype=np.uint8)


def write(path: Path, frame: NDArray[np.uint8]) -> None:
    assert cv2.imwrite(str(path), frame[..., ::-1])


def test_one_face_is_tracked_through_a_real_video_and_does_not_jump(real_data: Path, pipeline: FacePipeline) -> None:
    clip = read_faces(real_data / "faces/single_face.mp4", pipeline, stride=6)
    assert clip.statuses == ("ok",) * 12 and clip.found.all() and (clip.faces == 1).all()
    sides = clip.boxes[:, 2].mean()
    assert np.abs(np.diff(clip.boxes, axis=0)).max() < 0.15 * sides
    assert (np.diff(clip.times_us) > 0).all() and clip.images.shape == (12, 64, 64, 3)
    assert clip.images.reshape(12, -1).std(1).min() > 20  # pictures, not blanks


def test_a_video_without_a_face_says_no_face_in_every_frame(real_data: Path, pipeline: FacePipeline) -> None:
    clip = read_faces(real_data / "faces/no_face.mp4", pipeline, stride=12)
    assert set(clip.statuses) == {"no face"} and not clip.found.any() and not clip.faces.any()
    assert np.isnan(clip.boxes).all() and np.isnan(clip.matrices).all() and not clip.images.any()


def test_nothing_is_claimed_before_a_late_face_nor_after_it(real_data: Path, pipeline: FacePipeline) -> None:
    clip = read_faces(real_data / "faces/noface_face.mov", pipeline, stride=12)
    cut_us, black_us = 3_940_000, 6_340_000  # the title ends, and the last frame is black
    seen = (clip.times_us >= cut_us) & (clip.times_us < black_us)
    assert not clip.found[clip.times_us < cut_us].any()
    assert clip.found[seen].all() and seen.sum() >= 6
    assert clip.times_us[-1] >= black_us and clip.statuses[-1] == "no face"


def test_of_several_faces_the_largest_is_read_and_their_number_said(real_data: Path, pipeline: FacePipeline) -> None:
    clip = read_faces(real_data / "faces/multi_face.jpg", pipeline)
    assert clip.statuses == ("ok",) and clip.faces[0] >= 3 and clip.times_us.tolist() == [0]
    left, _, width, _ = clip.boxes[0]
    assert 100 < width < 135 and (280 < left < 330 or 650 < left < 700)  # one of the two that are nearest to the camera


def test_a_broken_frame_and_a_gap_keep_their_place_and_their_time(
    tmp_path: Path, real_frame: NDArray[np.uint8], pipeline: FacePipeline
) -> None:
    for number in (1, 2, 3, 4, 7):
        write(tmp_path / f"{number}.png", real_frame)
    (tmp_path / "3.png").write_bytes((tmp_path / "3.png").read_bytes()[:2000])
    clip = read_faces(tmp_path, pipeline, fps=25.0)
    # Number 5 stands for the gap of two.
    assert clip.statuses == ("ok", "ok", "unreadable", "ok", "unreadable", "ok")
    assert clip.times_us.tolist() == [0, 40_000, 80_000, 120_000, 160_000, 240_000]
    assert clip.found.tolist() == [status == "ok" for status in clip.statuses]
    assert np.abs(clip.boxes[3] - clip.boxes[1]).max() < 0.1 * clip.boxes[1, 2]


def test_unreadable_frames_use_up_the_patience(real_frame: NDArray[np.uint8]) -> None:
    pipeline = FacePipeline(size=32, patience=2)
    _, state = face_step(real_frame, FaceState(), pipeline)
    for left in (True, True, False):
        face, state = face_step(None, state, pipeline)
        assert face.status == "unreadable" and (state.track.box is not None) is left


def test_a_clip_is_the_fold_of_its_frames_from_any_state_on(real_data: Path) -> None:
    path, pipeline = real_data / "faces/single_face.mp4", FacePipeline(size=48)
    clip = read_faces(path, pipeline, stride=18)
    states, images = [FaceState()], []
    for frame in read_video(path, stride=18):
        answer, state = face_step(frame.image, states[-1], pipeline)
        states.append(state)
        images.append(answer.image)
    assert all(image is not None and (image == kept).all() for image, kept in zip(images, clip.images, strict=True))
    last = next(frame.image for frame in read_video(path, stride=54) if frame.time_us > 0)
    again, _ = face_step(last, states[3], pipeline)
    assert again.image is not None and (again.image == clip.images[3]).all()


def test_a_tilted_head_stands_level_in_its_crop(real_frame: NDArray[np.uint8]) -> None:
    pytest.importorskip("dlib", reason="the extra 'face' is not installed")
    middle = (real_frame.shape[1] / 2, real_frame.shape[0] / 2)
    turned = cv2.warpAffine(real_frame, cv2.getRotationMatrix2D(middle, -14, 1.0), real_frame.shape[1::-1])
    for landmarks in (True, False):
        steep = {}
        for align in (True, False):
            pipeline = FacePipeline(size=96, align=align, landmarks=landmarks)
            answer, _ = face_step(np.asarray(turned, np.uint8), FaceState(), pipeline)
            # Judged by the landmarks in either case.
            judge = FacePipeline(size=96, align=False, landmarks=True, margin=0.0, **PLAIN)
            points = answer.landmarks
            if points is None:
                assert answer.image is not None
                points = face_step(answer.image, FaceState(), judge)[0].landmarks
            assert points is not None
            across = points[42:48].mean(0) - points[36:42].mean(0)
            steep[align] = abs(np.degrees(np.arctan2(across[1], across[0])))
        assert steep[True] < 5 < 9 < steep[False]


def test_landmarks_lie_on_the_crop_and_are_nan_where_there_is_no_face(
    tmp_path: Path, real_frame: NDArray[np.uint8]
) -> None:
    pytest.importorskip("dlib", reason="the extra 'face' is not installed")
    np.save(tmp_path / "clip.npy", np.stack([np.zeros_like(real_frame), real_frame]))
    for detector in ("haar", "dlib"):
        clip = read_faces(tmp_path / "clip.npy", FacePipeline(detector=detector, landmarks=True), fps=25.0)
        assert clip.landmarks is not None and clip.landmarks.shape == (2, 68, 2)
        assert np.isnan(clip.landmarks[0]).all() and np.abs(clip.landmarks[1]).max() < 1
        chin, lip, nose = clip.landmarks[1][[8, 57, 33], 1]
        eyes = clip.landmarks[1][36:48, 1].mean()
        assert chin > lip > nose > eyes
        # The pupils are darker than the cheeks below them: the points are where the picture has them.
        places = np.clip(((clip.landmarks[1] + 1) / 2 * 224).astype(int), 0, 223)
        grey = clip.images[1].mean(2)
        for eye in (slice(36, 42), slice(42, 48)):
            x, y = places[eye].mean(0).astype(int)
            assert grey[y - 2 : y + 3, x - 2 : x + 3].mean() < 0.8 * grey[y + 25 : y + 30, x - 2 : x + 3].mean()
    assert read_faces(tmp_path / "clip.npy", FacePipeline(size=32), fps=25.0).landmarks is None


def test_the_face_is_looked_for_in_every_nth_frame_only(
    real_frame: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[int] = []
    real_step = face_module.track_face_step
    monkeypatch.setattr(face_module, "track_face_step", lambda *a, **k: looks.append(1) or real_step(*a, **k))
    pipeline, state = FacePipeline(size=32, detect_every=3, **PLAIN), FaceState()
    statuses = []
    for frame in [real_frame] * 5 + [np.zeros_like(real_frame)]:
        answer, state = face_step(frame, state, pipeline)
        statuses.append(answer.status)
    assert statuses == ["ok"] * 5 + ["no face"]
    assert len(looks) == 3  # the first, the fourth, and the one where the picture became another


def test_clips_that_cannot_be_read_are_a_clear_error(tmp_path: Path) -> None:
    for number in range(3):
        write(tmp_path / f"{number}.png", np.zeros((40, 40, 3), np.uint8))
    with pytest.raises(AffuseError, match="more than 2 frames"):
        read_faces(tmp_path, FacePipeline(), 2, fps=25.0)
    assert read_faces(tmp_path, FacePipeline(), 2, fps=25.0, stride=2).statuses == ("no face",) * 2
    with pytest.raises(AffuseError, match="fps"):
        read_faces(tmp_path, FacePipeline())
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(b"nothing")
    with pytest.raises(AffuseError, match="no frame can be decoded"):
        read_faces(tmp_path, FacePipeline(), fps=25.0)
    with pytest.raises(AffuseError, match="at least 1"):
        read_faces(tmp_path, FacePipeline(), fps=25.0, stride=0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"size": 4}, "size is 8"),
        ({"detect_every": 0}, "detect_every"),
        ({"smoothing": 1.0}, "smoothing"),
        ({"detector": "yunet"}, "ONNX"),
        ({"detector_weights": "face.onnx"}, "ONNX"),
    ],
)
def test_settings_that_cannot_be_are_an_error(fields: dict, message: str) -> None:
    with pytest.raises(AffuseError, match=message):
        FacePipeline(**fields)
