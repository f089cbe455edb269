"""Windows over the stretches of a video in which there is a face: what a run that reads faces is asked, frame after frame.

A stretch begins with a frame that holds a face and ends with the last one before the face is gone for longer than a gap.
Windows lie within stretches, so nothing is said of a time without a face. What is remembered is an argument and is given back,
and never more than one window of it: a stream may run for days.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from affuse.recipe import Recipe
from affuse.signals import landmarks as landmark_model
from affuse.signals.face import FaceFrame, FacePipeline, FaceState, face_step
from affuse.signals.face_input import FaceInput, face_inputs
from affuse.signals.timed_frames import open_frames
from affuse.types import AffuseError, Sample, System


@dataclass(frozen=True)
class Windowing:
    """How a video is cut into what a run is asked.

    Args:
        window_us: length of a window, microseconds. The clips of DFEW, which the papers' systems saw whole, last about 2.5 s.
        hop_us: from one window to the next; by default half a window.
        gap_us: a face that is gone for no longer is still there: its frames are marked and count for nothing.
        least_us: of a stretch that is shorter nothing is said.
        step_us: of a system that answers step by step, from one frame that it is given to the next; by default as far apart
            as the frames of a window; 0: every frame.
        fps: frames a second, of a folder of numbered pictures, which has no clock of its own.
    """

    window_us: int = 2_500_000
    hop_us: int | None = None
    gap_us: int = 500_000
    least_us: int = 200_000
    step_us: int | None = None
    fps: float | None = None

    def __post_init__(self) -> None:
        if self.window_us <= 0 or (self.hop_us is not None and self.hop_us <= 0):
            raise AffuseError(f"window and hop last longer than 0, got {self.window_us} and {self.hop_us} microseconds")
        if min(self.gap_us, self.least_us, self.step_us or 0) < 0:
            raise AffuseError("gap_us, least_us and step_us are not negative")

    @property
    def hop(self) -> int:
        """From one window to the next, microseconds."""
        return max(1, self.window_us // 2) if self.hop_us is None else self.hop_us

    def step(self, frames: int) -> int:
        """From one frame that a system is given to the next, microseconds, where a window has this many."""
        return self.window_us // frames if self.step_us is None else self.step_us


class Seen(NamedTuple):
    """A frame of a video: its time, microseconds, and the face in it."""

    time_us: int
    face: FaceFrame


class WindowState(NamedTuple):
    """What is remembered of a stretch.

    Args:
        frames: the latest, at most a window of them; empty outside of stretches.
        begin_us: when the stretch began.
        start_us: when the next window starts.
        found_us: when the face was last found.
        covered_us: the last frame that a window had; None before the first window.
    """

    frames: tuple[Seen, ...] = ()
    begin_us: int = 0
    start_us: int = 0
    found_us: int = 0
    covered_us: int | None = None


Window = tuple[Seen, ...]


def window_step(seen: Seen, state: WindowState, windowing: Windowing) -> tuple[list[Window], WindowState]:
    """One frame more: the windows that are complete by it, and what to remember.

    A window is complete when a frame comes that lies behind it; it begins and ends with a frame that holds a face.
    """
    windows: list[Window] = []
    if state.frames:
        late = seen.time_us - state.frames[-1].time_us > windowing.window_us  # the clock has jumped
        gone = seen.face.image is None and seen.time_us - state.found_us > windowing.gap_us
        if late or gone:
            windows, state = window_end(state, windowing), WindowState()
    if not state.frames and seen.face.image is None:
        return windows, state
    if not state.frames:
        state = WindowState((), seen.time_us, seen.time_us)
    while seen.time_us >= state.start_us + windowing.window_us:
        window = _with_face_at_the_ends(tuple(one for one in state.frames if one.time_us >= state.start_us))
        windows += [window] if window else []
        covered = window[-1].time_us if window else state.covered_us
        state = state._replace(start_us=state.start_us + windowing.hop, covered_us=covered)
    # What the window that is being filled needs, and a last window, should the stretch end here.
    kept = tuple(one for one in state.frames if one.time_us > seen.time_us - windowing.window_us)
    found_us = seen.time_us if seen.face.image is not None else state.found_us
    return windows, state._replace(frames=(*kept, seen), found_us=found_us)


def window_end(state: WindowState, windowing: Windowing) -> list[Window]:
    """The last window of a stretch, up to its end: one, or none where the one before reached as far, but for half a hop.

    A stretch that is shorter than `Windowing.least_us` has none.
    """
    window = _with_face_at_the_ends(state.frames)
    if not window or window[-1].time_us - window[0].time_us < windowing.least_us:
        return []
    if state.covered_us is not None and window[-1].time_us - state.covered_us <= windowing.hop // 2:
        return []
    return [window]


def window_sample(window: Window, spec: FaceInput) -> Sample:
    """What a system is asked of a window: `spec.frames` of its frames, with their times.

    In its meta: ``start_us``, ``stop_us``, of the first and the last frame, and ``chosen``, the numbers of the frames.
    """
    found = np.array([one.face.image is not None for one in window])
    chosen = spec.chosen(len(window))
    if not found[chosen].any():  # the face is in none of the frames that the rule takes
        with_face = np.flatnonzero(found)
        chosen = with_face[spec.chosen(len(with_face))]
    frames = [window[index] for index in chosen.tolist()]
    inputs = face_inputs(*pictures_of(frames), spec)
    clock = torch.tensor([one.time_us for one in frames], dtype=torch.int64)
    meta = {"start_us": window[0].time_us, "stop_us": window[-1].time_us, "chosen": chosen.tolist()}
    return Sample(inputs, times_us=dict.fromkeys(inputs, clock), meta=meta)


def pictures_of(
    frames: list[Seen],
) -> tuple[NDArray[np.uint8], NDArray[np.bool_], NDArray[np.float32] | None]:
    """Crops (t, s, s, 3), which frames hold a face (t,), and landmarks (t, 68, 2), NaN where none; as `face_inputs` reads."""
    found = np.array([one.face.image is not None for one in frames], dtype=np.bool_)
    pictures = [one.face.image for one in frames if one.face.image is not None]
    images = np.zeros((len(frames), *(pictures[0].shape if pictures else (1, 1, 3))), np.uint8)
    if pictures:
        images[found] = np.stack(pictures)
    if all(one.face.landmarks is None for one in frames):
        return images, found, None
    nothing = np.full((landmark_model.POINTS, 2), np.nan, np.float32)
    points = np.stack([nothing if one.face.landmarks is None else one.face.landmarks for one in frames])
    return images, found, points


def reads_faces(recipe: Recipe, system: System) -> bool:
    """Whether a run is asked about the faces in a video."""
    return "face" in system.modalities and isinstance(getattr(recipe.data, "input", None), FaceInput)


def face_input_of(recipe: Recipe, system: System, finding: Mapping[str, Any] | None = None) -> FaceInput:
    """How a run wants the faces of a video it has never seen: as its data says.

    Where the data were aligned faces already, the pictures of a video are aligned, and nothing else is done to them.
    Landmarks are looked for where the system can read them and dlib's model is installed.

    Args:
        recipe, system: of the run.
        finding: settings of `affuse.signals.face.FacePipeline` that shall be others, such as ``detector``.
    """
    data: Any = recipe.data
    spec: FaceInput = data.input
    pipeline = spec.pipeline
    if pipeline is None:
        landmarks = "landmarks" in system.modalities and landmark_model.available()[0]
        pipeline = FacePipeline(size=spec.size, clahe=False, bilateral=False, unsharp=False, landmarks=landmarks)
        spec = replace(spec, landmarks=landmarks)
    return replace(spec, pipeline=replace(pipeline, **(finding or {})))


def seen_faces(path: str | Path, pipeline: FacePipeline, fps: float | None = None) -> Iterator[Seen]:
    """The frames of a video, a folder of pictures or a picture, each with its face; one at a time.

    Args:
        path: what `affuse.signals.timed_frames.open_frames` opens.
        pipeline: how faces are found.
        fps: frames a second, of a folder of numbered pictures.

    Raises:
        AffuseError: it cannot be read, or no frame of it can be decoded, which shows at its end.
    """
    state, frames, readable = FaceState(), 0, 0
    for time_us, load in open_frames(path, gray=False, fps=fps).frames(0):
        image: NDArray[Any] | None = None if load is None else load()
        face, state = face_step(image, state, pipeline)
        frames, readable = frames + 1, readable + (image is not None)
        yield Seen(time_us, face)
    if not readable:
        raise AffuseError(f"{path}: none of its {frames} frames can be decoded; copy it again")


def _with_face_at_the_ends(frames: Window) -> Window:
    found = [number for number, one in enumerate(frames) if one.face.image is not None]
    return frames[found[0] : found[-1] + 1] if found else ()
