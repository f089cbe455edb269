from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from affuse import AffuseError
from affuse.signals.eye import EyeBox, EyeTrack, crop_eye, eye_crops, find_eye, track_eye, track_step
from affuse.signals.video import read_video


def frames_of(path: Path, stride: int, max_frames: int | None = None) -> list[NDArray[np.uint8]]:
    return [frame.image for frame in read_video(path, max_frames, stride)]


def test_a_real_face_has_an_eye_in_every_frame_and_the_box_does_not_jump(real_data: Path) -> None:
    boxes = track_eye(frames_of(real_data / "faces/single_face.mp4", stride=4))
    held = [box for box in boxes if box is not None]
    assert len(held) == len(boxes) == 18
    assert max(b.distance(a) for a, b in pairwise(held)) < 0.15
    assert all(0 < box.x < 640 and 0 < box.y < 360 and 30 < box.side < 200 for box in held)


def test_a_video_without_a_face_has_no_eye(real_data: Path) -> None:
    assert track_eye(frames_of(real_data / "faces/no_face.mp4", stride=6)) == [None] * 16


def test_a_face_that_appears_late_is_found_from_then_on(real_data: Path) -> None:
    found = [box is not None for box in track_eye(frames_of(real_data / "faces/noface_face.mov", stride=8))]
    first = found.index(True)
    assert first >= 8 and all(found[first:])


def test_of_several_faces_the_largest_is_taken(real_data: Path) -> None:
    image = cv2.imread(str(real_data / "faces/multi_face.jpg"))
    assert image is not None
    frame = np.ascontiguousarray(image[..., ::-1])
    box = find_eye(frame)
    assert box is not None
    small = cv2.resize(frame, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    canvas = np.full((frame.shape[0], frame.shape[1] + small.shape[1], 3), 128, np.uint8)
    canvas[: small.shape[0], : small.shape[1]] = small
    canvas[:, small.shape[1] :] = frame
    beside = find_eye(canvas)
    assert beside is not None and beside.x > small.shape[1] and beside.side > 0.7 * box.side


def test_the_same_eye_is_kept_where_both_are_seen(real_data: Path) -> None:
    frame = frames_of(real_data / "faces/single_face.mp4", 1, 1)[0]
    box = find_eye(frame)
    assert box is not None
    for side in (-1, 1):
        near = find_eye(frame, EyeBox(box.x + side * 300, box.y, box.side))
        assert near is not None and side * (near.x - box.x) >= 0
    left, right = (find_eye(frame, EyeBox(box.x + side * 300, box.y, box.side)) for side in (-1, 1))
    assert left is not None and right is not None and right.x - left.x > 0.5 * box.side


def test_a_box_holds_through_a_gap_and_is_given_up_after_it() -> None:
    grey = np.full((120, 160, 3), 128, np.uint8)
    box = EyeBox(80.0, 60.0, 40.0)
    track = EyeTrack(box)
    answers = []
    for _ in range(5):
        answer, track = track_step(grey, track, patience=3)
        answers.append(answer)
    assert answers == [box, box, box, None, None] and track == EyeTrack()


def test_a_crop_is_centred_and_repeats_the_edge_beyond_the_frame() -> None:
    frame = np.zeros((60, 80, 3), np.uint8)
    frame[28:32, 38:42] = 255
    crop = crop_eye(frame, EyeBox(40.0, 30.0, 20.0), 40)
    assert crop.shape == (40, 40, 3)
    rows, columns = np.nonzero(crop[..., 0] > 127)
    assert abs(rows.mean() - 19.5) < 0.6 and abs(columns.mean() - 19.5) < 0.6 and 40 <= len(rows) <= 100
    ramp = np.broadcast_to(np.linspace(0, 200, 80).astype(np.uint8)[None, :, None], (60, 80, 3)).copy()
    assert (crop_eye(ramp, EyeBox(80.0, 30.0, 20.0), 20)[:, -9:] == 200).all()
    assert crop_eye(ramp, EyeBox(40.0, 30.0, 50.0), 10).shape == (10, 10, 3)


def test_crops_of_a_video_hold_still_where_no_eye_is_found(real_data: Path) -> None:
    video = read_video(real_data / "faces/noface_face.mov", stride=12)
    crops, times_us, found = eye_crops(video, size=32)
    assert crops.shape == (len(times_us), 32, 32, 3) and 0 < found.sum() < len(found)
    first = int(np.argmax(found))
    assert (crops[: first + 1] == crops[first]).all() and (np.diff(times_us) > 0).all()


def test_a_video_that_is_too_long_or_no_video_is_a_clear_error() -> None:
    grey = np.full((40, 40, 3), 128, np.uint8)
    with pytest.raises(AffuseError, match="more than 2 frames"):
        eye_crops(((i, grey) for i in range(3)), size=8, max_frames=2)
    with pytest.raises(AffuseError, match="RGB"):
        find_eye(np.zeros((4, 4, 1), np.uint8))
