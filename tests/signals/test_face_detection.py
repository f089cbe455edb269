"""Faces are found in pictures, and what only looks like one to a cascade is not."""

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from affuse import AffuseError
from affuse.signals.face_alignment import eye_tilt
from affuse.signals.face_detection import (
    DetectorName,
    FaceBox,
    check_frame,
    find_eyes,
    find_faces,
    open_detector,
)


def picture(path: Path) -> NDArray[np.uint8]:
    image = cv2.imread(str(path))
    assert image is not None
    return np.ascontiguousarray(image[..., ::-1], dtype=np.uint8)


def noise(seed: int) -> NDArray[np.uint8]:
    """Cloudy noise, in which the cascade sees faces."""
    values = np.random.default_rng(seed).normal(size=(36, 64, 3)).astype(np.float32)
    values = cv2.GaussianBlur(cv2.resize(values, (640, 360)), (0, 0), 3)
    return ((values - values.min()) / np.ptp(values) * 255).astype(np.uint8)


@pytest.fixture(params=["haar", "dlib"])
def detector(request: pytest.FixtureRequest) -> DetectorName:
    if request.param == "dlib":
        pytest.importorskip("dlib", reason="the extra 'face' is not installed")
    return request.param


boxes = st.builds(FaceBox, *[st.floats(-50, 50)] * 2, *[st.floats(1, 60)] * 2)


@given(one=boxes, other=boxes)
def test_overlap_is_symmetric_one_with_itself_and_follows_the_scale(one: FaceBox, other: FaceBox) -> None:
    assert one.overlap(one) == pytest.approx(1)
    assert 0 <= one.overlap(other) <= 1 and one.overlap(other) == pytest.approx(other.overlap(one))
    assert one.moved(3.0, 5.0, -7.0).overlap(other.moved(3.0, 5.0, -7.0)) == pytest.approx(one.overlap(other), abs=1e-6)


def test_overlap_of_halves() -> None:
    assert FaceBox(0.0, 0.0, 4.0, 4.0).overlap(FaceBox(2.0, 0.0, 4.0, 4.0)) == pytest.approx(1 / 3)
    assert FaceBox(0.0, 0.0, 4.0, 4.0).overlap(FaceBox(9.0, 9.0, 4.0, 4.0)) == 0


def test_several_faces_come_with_the_largest_first(real_data: Path, detector: DetectorName) -> None:
    frame = picture(real_data / "faces/multi_face.jpg")
    found = find_faces(frame, open_detector(detector))
    assert len(found) >= 3
    assert [box.area for box in found] == sorted((box.area for box in found), reverse=True)
    for box in found:  # two eyes are seen in each of them
        assert find_eyes(frame, box) is not None


def test_what_looks_like_a_face_to_the_cascade_is_none_without_eyes() -> None:
    haar = open_detector("haar")
    pictures = [noise(seed) for seed in range(1, 5)]
    assert any(haar.boxes(picture, 40, 100) for picture in pictures)
    assert [find_faces(picture, haar) for picture in pictures] == [[]] * 4


def test_a_known_face_is_found_again_near_its_place_only(real_data: Path, detector: DetectorName) -> None:
    frame = picture(real_data / "faces/multi_face.jpg")
    finder = open_detector(detector)
    for box in find_faces(frame, finder):
        again = find_faces(frame, finder, near=box)
        assert max(box.overlap(other) for other in again) > 0.5
        assert all(abs(other.centre[0] - box.centre[0]) < 1.3 * box.side for other in again)
    assert find_faces(frame, finder, near=FaceBox(880.0, 20.0, 100.0, 100.0)) == []
    assert find_faces(frame, finder, near=FaceBox(5000.0, 20.0, 100.0, 100.0)) == []


@pytest.mark.parametrize("degrees", [-12, 0, 12])
def test_eyes_tell_the_tilt_of_a_head(real_data: Path, degrees: int) -> None:
    frame = picture(real_data / "faces/single_face.jpg")
    middle = (frame.shape[1] / 2, frame.shape[0] / 2)
    turned = cv2.warpAffine(frame, cv2.getRotationMatrix2D(middle, -degrees, 1.0), frame.shape[1::-1])
    turned = np.asarray(turned, np.uint8)
    face = find_faces(turned, open_detector("haar"))[0]
    assert face.eyes is not None
    upright = find_faces(frame, open_detector("haar"))[0].eyes
    assert upright is not None
    assert np.degrees(eye_tilt(face.eyes) - eye_tilt(upright)) == pytest.approx(degrees, abs=4)


def test_a_blank_box_has_no_eyes() -> None:
    grey = np.full((200, 200, 3), 128, np.uint8)
    assert find_eyes(grey, FaceBox(20.0, 20.0, 150.0, 150.0)) is None
    assert find_eyes(grey, FaceBox(500.0, 20.0, 150.0, 150.0)) is None


def test_what_yunet_says_is_read_as_box_score_and_eyes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Network:
        def setInputSize(self, size: tuple[int, int]) -> None:
            self.size = size

        def detect(self, picture: NDArray[np.uint8]) -> tuple[int, NDArray[np.float32] | None]:
            assert picture.shape[1::-1] == getattr(self, "size", (320, 320))
            if not picture.any():
                return 0, None
            assert (picture[0, 0] == (3, 2, 1)).all()  # BGR, as OpenCV wants it
            one = [10, 20, 50, 70, 45, 40, 25, 41, *[0] * 6, 0.9]  # the person's right eye comes first, wherever it is
            return 2, np.array([one, [100, 20, 12, 14, *[0] * 10, 0.8]], np.float32)

    monkeypatch.setattr(cv2.FaceDetectorYN, "create", lambda *_: Network())
    (tmp_path / "some.onnx").write_bytes(b"a network")
    frame = np.full((320, 640, 3), (1, 2, 3), np.uint8)
    (face,) = find_faces(frame, open_detector("yunet", str(tmp_path / "some.onnx")))  # the other one is too small
    assert (face.left, face.top, face.width, face.height) == (10, 20, 50, 70) and face.score == pytest.approx(0.9)
    assert face.eyes == ((25, 41), (45, 40))
    assert find_faces(np.zeros_like(frame), open_detector("yunet", str(tmp_path / "some.onnx"))) == []


@pytest.mark.parametrize("shape", [(1, 1), (2, 900), (30, 7)])
def test_tiny_and_narrow_frames_have_no_face(detector: DetectorName, shape: tuple[int, int]) -> None:
    frame = np.full((*shape, 3), 90, np.uint8)
    assert find_faces(frame, open_detector(detector)) == []
    assert find_faces(frame, open_detector(detector), near=FaceBox(-20.0, -20.0, 40.0, 40.0)) == []


def test_weights_that_are_no_yunet_are_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(AffuseError, match="needs detector_weights"):
        open_detector("yunet")
    with pytest.raises(AffuseError, match="no such file"):
        open_detector("yunet", str(tmp_path / "absent.onnx"))
    (tmp_path / "text.onnx").write_text("not a network")
    with pytest.raises(AffuseError, match=r"text\.onnx: OpenCV cannot use it as YuNet"):
        open_detector("yunet", str(tmp_path / "text.onnx"))


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint16, np.int32, np.bool_])
def test_a_frame_of_other_numbers_than_8_bits_is_an_error_that_says_so(dtype: type) -> None:
    with pytest.raises(AffuseError, match=rf"8-bit RGB .*{np.dtype(dtype)}.*np\.uint8"):
        check_frame(np.ones((120, 120, 3), dtype))


def test_a_stream_of_such_frames_is_this_error_where_no_types_are_checked() -> None:
    script = """
import numpy as np
from affuse import AffuseError
from affuse.signals.face import FacePipeline, FaceState, face_step
for dtype in (np.float32, np.float64, np.uint16):
    try:
        face_step(np.ones((120, 120, 3), dtype), FaceState(), FacePipeline())
    except AffuseError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert [line.partition(":")[0].split()[-1] for line in done.stdout.splitlines()] == ["float32", "float64", "uint16"]


def test_what_is_no_rgb_frame_is_an_error() -> None:
    with pytest.raises(AffuseError, match="RGB"):
        find_faces(np.zeros((40, 40), np.uint8), open_detector("haar"))
