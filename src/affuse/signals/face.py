"""From a video to aligned faces: one face found, followed, levelled and evened out, frame by frame.

`face_step` is one frame, with its state as an argument, so a live camera and a file are read alike; `read_faces` is its fold
over a clip. What happens where it is not plain: without a face a frame says ``no face`` and has no picture; of several faces
the largest is taken, and followed from then on; a face that comes late is there from its first frame on; a frame that cannot be
decoded says ``unreadable``, keeps its time, and counts against the patience as a frame in which the face was not found.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from affuse.signals.face_alignment import crop_face, crop_matrix, enhance, eye_tilt, to_crop
from affuse.signals.face_detection import Eyes, FaceBox, check_frame, find_eyes, open_detector
from affuse.signals.face_tracking import FaceTrack, still_there, track_face_step
from affuse.signals.landmarks import LEFT_EYE, POINTS, RIGHT_EYE, landmarks_in
from affuse.signals.timed_frames import FrameNames, TimedFrame, open_frames
from affuse.types import AffuseError

Status = Literal["ok", "no face", "unreadable"]


@dataclass(frozen=True)
class FacePipeline:
    """The ``pipeline`` section of a recipe: how a face is found in the frames of a video and made into a picture.

    Args:
        size: side of the crop, pixels.
        detector: ``haar``: OpenCV's cascades, as in the paper, where both eyes must be seen once (not behind dark glasses);
            ``dlib``: HOG and a linear SVM, which need no eyes (the extra ``face``); ``yunet``: a small network, which finds
            the smallest and most turned faces, and whose ONNX file the user gives.
        detector_weights: path of the ONNX file of ``yunet``.
        detect_every: look for the face in every n-th frame; between, it stays where it was, as long as it looks the same.
        align: turn the crop so that the eyes are level.
        margin: what is kept around the face on each side, in sides of its box.
        clahe: even out the contrast (adaptive histogram equalisation of L in LAB).
        bilateral: smooth, keeping edges.
        unsharp: a light unsharp mask.
        landmarks: 68 landmarks, through dlib and its model (the extra ``face``; for research only).
        patience: frames that a face is held at its last place without being found, as long as the picture there is still
            alike, before it counts as gone.
        smoothing: weight of the past in the box and its tilt, from 0 to below 1, so that the crop does not tremble.
    """

    size: int = 224
    detector: Literal["haar", "dlib", "yunet"] = "haar"
    detector_weights: str | None = None
    detect_every: int = 1
    align: bool = True
    margin: float = 0.2
    clahe: bool = True
    bilateral: bool = True
    unsharp: bool = True
    landmarks: bool = False
    patience: int = 5
    smoothing: float = 0.6

    def __post_init__(self) -> None:
        if not 8 <= self.size <= 4096 or self.detect_every < 1:
            raise AffuseError(f"size is 8 to 4096 and detect_every at least 1, not {self.size} and {self.detect_every}")
        if not 0 <= self.margin <= 2 or self.patience < 0 or not 0 <= self.smoothing < 1:
            raise AffuseError(
                f"margin is 0 to 2, patience at least 0, smoothing 0 to below 1, not {self.margin}, {self.patience}, "
                f"{self.smoothing}"
            )
        if (self.detector == "yunet") != (self.detector_weights is not None):
            raise AffuseError("detector: yunet, and it alone, needs detector_weights: the path of its ONNX file")


@dataclass(frozen=True)
class FaceFrame:
    """One frame's face.

    Args:
        image: the crop, RGB (size, size, 3); None where there is no face.
        landmarks: (68, 2), x and y in [-1, 1] from edge to edge of the crop (x right, y down); None where there are none.
        box: the face in the frame, pixels.
        matrix: (2, 3), from places in the frame to places in the crop, pixels, both counted from the middle of the first.
        faces: faces in the frame, this one among them, as of the last time that the whole of it was searched.
        status: ``ok``, ``no face``, or ``unreadable`` where the frame could not be decoded.
    """

    image: NDArray[np.uint8] | None
    landmarks: NDArray[np.float32] | None
    box: FaceBox | None
    matrix: NDArray[np.float64] | None
    faces: int
    status: Status


@dataclass(frozen=True)
class FaceClip:
    """The faces of a clip, one a frame.

    Args:
        images: RGB (t, size, size, 3), black where no face was found.
        times_us: start of each frame, microseconds (t,).
        found: frames that hold a face (t,).
        landmarks: (t, 68, 2) in [-1, 1] of the crop, NaN where there are none; None where they were not looked for.
        boxes: left, top, width, height in pixels of the frame (t, 4), NaN where no face was found.
        matrices: (t, 2, 3), from frame to crop, NaN where no face was found.
        faces: faces seen in each frame (t,).
        statuses: of each frame, as in `FaceFrame`.
    """

    images: NDArray[np.uint8]
    times_us: NDArray[np.int64]
    found: NDArray[np.bool_]
    landmarks: NDArray[np.float32] | None
    boxes: NDArray[np.float32]
    matrices: NDArray[np.float64]
    faces: NDArray[np.int64]
    statuses: tuple[str, ...]


@dataclass(frozen=True)
class FaceState:
    """What is remembered from one frame to the next; ``FaceState()`` before the first.

    Args:
        track: the face that is followed.
        tilt: of its eyes, smoothed, radians; None where none has been seen.
        frames: frames so far.
    """

    track: FaceTrack = FaceTrack()
    tilt: float | None = None
    frames: int = 0


def face_step(frame: NDArray[np.uint8] | None, state: FaceState, pipeline: FacePipeline) -> tuple[FaceFrame, FaceState]:
    """The face of one frame, and what to remember.

    Args:
        frame: RGB (h, w, 3); None where it could not be decoded.
        state: of the frame before.
        pipeline: the settings.

    Raises:
        AffuseError: the frame is no RGB image, or the detector or the landmarks are not installed.
    """
    track, tilt, frames = state.track, state.tilt, state.frames + 1
    if frame is None:
        missed = track.missed + 1
        track = FaceTrack() if track.box is None or missed > pipeline.patience else replace(track, missed=missed)
        return FaceFrame(None, None, None, None, 0, "unreadable"), FaceState(track, tilt, frames)
    check_frame(frame)
    looked = state.frames % pipeline.detect_every == 0 or (track.box is not None and not still_there(frame, track))
    if looked:
        detector = open_detector(pipeline.detector, pipeline.detector_weights)
        track = track_face_step(frame, track, detector, patience=pipeline.patience, smoothing=pipeline.smoothing)
        tilt = tilt if track.age else None
    box = track.box
    if box is None:
        return FaceFrame(None, None, None, None, 0, "no face"), FaceState(track, None, frames)
    points = landmarks_in(frame, box) if pipeline.landmarks else None
    eyes: Eyes | None = None
    if pipeline.align and looked and track.missed == 0:
        eyes = _eyes_of(points) if points is not None else box.eyes or find_eyes(frame, box)
    if eyes is not None:
        new = eye_tilt(eyes)
        tilt = new if tilt is None else pipeline.smoothing * tilt + (1 - pipeline.smoothing) * new
    matrix = crop_matrix(box, pipeline.size, tilt=tilt or 0.0, margin=pipeline.margin)
    image = enhance(
        crop_face(frame, matrix, pipeline.size),
        clahe=pipeline.clahe,
        bilateral=pipeline.bilateral,
        unsharp=pipeline.unsharp,
    )
    landmarks = None if points is None else to_crop(points, matrix, pipeline.size)
    return FaceFrame(image, landmarks, box, matrix, track.faces, "ok"), FaceState(track, tilt, frames)


def read_faces(
    path: str | Path,
    pipeline: FacePipeline,
    max_frames: int = 20_000,
    *,
    stride: int = 1,
    fps: float | None = None,
    names: FrameNames = "number",
) -> FaceClip:
    """The faces of a video, a folder of pictures, or a picture, which is a clip of one frame.

    Args:
        path: a file or a folder, as affuse.signals.timed_frames.open_frames reads it.
        pipeline: the settings.
        max_frames: the most that is held in memory.
        stride: every so many frames are looked at.
        fps: frames a second, of a folder of numbered pictures.
        names: how the pictures of a folder are named.

    Raises:
        AffuseError: nothing there, not readable, no frame of it can be decoded, more than `max_frames` frames, or the
            detector or the landmarks are not installed.
    """
    if stride < 1 or max_frames < 1:
        raise AffuseError(f"stride and max_frames must be at least 1, got {stride} and {max_frames}")
    source = open_frames(path, gray=False, fps=fps, names=names)
    state = FaceState()
    times_us: list[int] = []
    found: list[FaceFrame] = []
    for index, timed in enumerate(source.frames(0)):
        if index % stride:
            continue
        if len(found) == max_frames:
            raise AffuseError(f"{path}: more than {max_frames} frames: cut it, or read it with a stride")
        face, state = face_step(_picture(timed), state, pipeline)
        times_us.append(timed.time_us)
        found.append(face)
    if all(face.status == "unreadable" for face in found):
        raise AffuseError(f"{path}: no frame can be decoded; copy it again")
    return _clip(times_us, found, pipeline)


def _picture(timed: TimedFrame) -> NDArray[np.uint8] | None:
    return None if timed.load is None else timed.load()


def _clip(times_us: list[int], found: list[FaceFrame], pipeline: FacePipeline) -> FaceClip:
    t, size = len(found), pipeline.size
    images = np.zeros((t, size, size, 3), np.uint8)
    boxes, matrices = np.full((t, 4), np.nan, np.float32), np.full((t, 2, 3), np.nan)
    landmarks = np.full((t, POINTS, 2), np.nan, np.float32) if pipeline.landmarks else None
    for row in range(t):
        # Taken out of the list, so that no picture of a long clip is held twice.
        face = found[row]
        found[row] = replace(face, image=None)
        if face.image is not None and face.box is not None and face.matrix is not None:
            images[row], matrices[row] = face.image, face.matrix
            boxes[row] = face.box.left, face.box.top, face.box.width, face.box.height
        if landmarks is not None and face.landmarks is not None:
            landmarks[row] = face.landmarks
    return FaceClip(
        images,
        np.array(times_us, np.int64),
        np.array([face.status == "ok" for face in found], np.bool_),
        landmarks,
        boxes,
        matrices,
        np.array([face.faces for face in found], np.int64),
        tuple(face.status for face in found),
    )


def _eyes_of(points: NDArray[np.float32]) -> Eyes:
    (left_x, left_y), (right_x, right_y) = (points[eye].mean(0).tolist() for eye in (LEFT_EYE, RIGHT_EYE))
    return (left_x, left_y), (right_x, right_y)
