"""Answers about a face while it is being filmed: a frame in, what is known now out, in memory that does not grow.

A system that streams step by step (`System.streaming` is ``step``) is given a frame at a time and answers after each. Any other
answers over windows of the last seconds. `FaceStream` is a thin shell around `stream_step`, which has its state as an argument.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from affuse import runs
from affuse.face_windows import (
    Seen,
    Window,
    Windowing,
    WindowState,
    face_input_of,
    pictures_of,
    reads_faces,
    window_end,
    window_sample,
    window_step,
)
from affuse.predict import describe
from affuse.signals.face import FacePipeline, FaceState, face_step
from affuse.signals.face_input import FaceInput, face_inputs
from affuse.types import AffuseError, Batch, Output, System


@dataclass(frozen=True)
class Watch:
    """Who answers, and how a video becomes what it is asked.

    Args:
        system: in evaluation mode.
        spec: how the frames become inputs; with a pipeline.
        windowing: how they are cut.
        by_step: whether the system answers after each frame that it is given, and not over windows.
    """

    system: System
    spec: FaceInput
    windowing: Windowing = field(default_factory=Windowing)
    by_step: bool = False

    @property
    def pipeline(self) -> FacePipeline:
        """How faces are found.

        Raises:
            AffuseError: `spec` does not say.
        """
        if self.spec.pipeline is None:
            raise AffuseError("frames of a video need a face pipeline: set input.pipeline")
        return self.spec.pipeline


class Steps(NamedTuple):
    """Of a system that answers step by step: its own state, and of the stretch its start, last frame given, last face."""

    system: Any = None
    start_us: int = 0
    given_us: int = 0
    found_us: int = 0


class StreamState(NamedTuple):
    """All that is remembered from frame to frame.

    Args:
        face: where the face was.
        windows: of a system that answers over windows.
        steps: of a system that answers step by step; None outside of stretches with a face.
        said: the latest answer of this stretch.
    """

    face: FaceState
    windows: WindowState = WindowState()
    steps: Steps | None = None
    said: dict[str, Any] | None = None


def watch(run: runs.Run, windowing: Windowing | None = None, finding: Mapping[str, Any] | None = None) -> Watch:
    """How a run watches a face.

    Args:
        run: a trained run.
        windowing: how the video is cut.
        finding: settings of `affuse.signals.face.FacePipeline` that shall be others than those of the run.

    Raises:
        AffuseError: the run reads no faces.
    """
    if not reads_faces(run.recipe, run.system):
        name = run.recipe.data_name
        raise AffuseError(
            f"{run.path}: a run on {name!r} reads no faces in video; it has {list(run.system.modalities)}"
        )
    system = run.system.eval()
    return Watch(system, face_input_of(run.recipe, system, finding), windowing or Windowing(), _answers_by_step(system))


def stream_step(
    watching: Watch, frame: NDArray[np.uint8] | None, time_us: int, state: StreamState
) -> tuple[Seen, list[dict[str, Any]], StreamState]:
    """One frame: the face in it, the answers that it brought, and what to remember.

    Args:
        watching: who answers.
        frame: RGB (h, w, 3); None: it could not be decoded.
        time_us: when it was taken; later than the one before.
        state: ``StreamState(FaceState())`` at first.
    """
    face, remembered = face_step(frame, state.face, watching.pipeline)
    seen = Seen(time_us, face)
    answers, state = answer_step(watching, seen, state._replace(face=remembered))
    return seen, answers, state


def answer_step(watching: Watch, seen: Seen, state: StreamState) -> tuple[list[dict[str, Any]], StreamState]:
    """The answers that a frame brought, as of `record_of`, and what to remember; `state.said` is None without a face.

    An answer may be about a stretch that has just ended; it is then not what is said now.
    """
    if watching.by_step:
        return _by_step(watching, seen, state)
    windows, after = window_step(seen, state.windows, watching.windowing)
    answers = [record_of(watching, window) for window in windows]
    # A stretch that has ended takes its answers with it; another one may have begun in the same frame.
    same = bool(after.frames) and bool(state.windows.frames) and after.begin_us == state.windows.begin_us
    said = None if not same else answers[-1] if answers else state.said
    return answers, state._replace(windows=after, said=said)


def stream_end(watching: Watch, state: StreamState) -> list[dict[str, Any]]:
    """The answer about what no answer was about so far, at the end of a video: none or one."""
    if watching.by_step:
        return []
    return [record_of(watching, window) for window in window_end(state.windows, watching.windowing)]


@torch.no_grad()
def record_of(watching: Watch, window: Window) -> dict[str, Any]:
    """What is said of a window, as plain values.

    Returns:
        ``start_us``, ``stop_us``, what `affuse.predict.describe` gives (``label`` or ``value`` is None where nothing was
        answered), ``times_us`` of the frames that the system was given and, of each, ``valid``: whether it holds a face.
    """
    sample = window_sample(window, watching.spec)
    valid = sample.inputs["face"].flatten(1).isfinite().any(1)
    place = {"start_us": sample.meta["start_us"], "stop_us": sample.meta["stop_us"]}
    batch = Batch.collate([sample], watching.system.modalities).to(_device(watching.system))
    said = said_of(watching.system, watching.system(batch), 0)
    return {**place, **said, "times_us": sample.times_us["face"].tolist(), "valid": valid.tolist()}


def said_of(system: System, output: Output, row: int) -> dict[str, Any]:
    """A row of an output as plain values; ``label`` (or ``value``) is None where nothing was answered."""
    logits = output.logits[row].detach().float().cpu()
    if not bool(output.answered[row]) or not bool(logits.isfinite().all()):
        return {"value" if system.task.kind == "regression" else "label": None}
    said = logits if system.task.kind == "regression" else logits.softmax(-1)
    return describe(system, said, {name: values[row].detach() for name, values in output.weights.items()})


class FaceStream:
    """A run that watches a camera.

    Args:
        run: a trained run that reads faces; or the path of one, which is read by `runs.load_to_answer`.
        windowing: how the stream is cut.
        finding: as of `watch`.

    Raises:
        AffuseError: it is no run, or reads no faces.
    """

    def __init__(
        self,
        run: runs.Run | str | Path,
        windowing: Windowing | None = None,
        finding: Mapping[str, Any] | None = None,
    ) -> None:
        self.watch = watch(run if isinstance(run, runs.Run) else runs.load_to_answer(run), windowing, finding)
        self.state = StreamState(FaceState())
        self._last_us: int | None = None

    def push(self, frame: NDArray[np.uint8] | None, time_us: int) -> dict[str, Any]:
        """A frame, RGB (h, w, 3), or None where it was lost; and what is known now.

        Returns:
            ``time_us``; ``status``: ``ok``, ``no face`` or ``unreadable``; ``faces`` seen in the frame; ``box`` (left, top,
            width, height) or None; ``answer``: the latest one about the face that is there now, as of `record_of`, or None;
            ``new``: the answers that this frame brought.

        Raises:
            AffuseError: the frame is not later than the one before, or is no picture.
        """
        if self._last_us is not None and time_us <= self._last_us:
            raise AffuseError(f"frames come in order of time: {time_us} us does not come after {self._last_us} us")
        self._last_us = time_us
        seen, new, self.state = stream_step(self.watch, frame, time_us, self.state)
        box = seen.face.box
        return {
            "time_us": time_us,
            "status": seen.face.status,
            "faces": seen.face.faces,
            "box": None if box is None else [round(value, 1) for value in (box.left, box.top, box.width, box.height)],
            "answer": self.state.said,
            "new": new,
        }

    def end(self) -> list[dict[str, Any]]:
        """The stream is over: answers about what none was about so far. The next frame begins a new stream."""
        answers = stream_end(self.watch, self.state)
        self.state, self._last_us = StreamState(FaceState()), None
        return answers


@torch.no_grad()
def _by_step(watching: Watch, seen: Seen, state: StreamState) -> tuple[list[dict[str, Any]], StreamState]:
    windowing, steps, system = watching.windowing, state.steps, watching.system
    if steps is not None and seen.time_us - steps.found_us > windowing.gap_us:
        steps, state = None, state._replace(said=None)
    if seen.face.image is None:
        return [], state._replace(steps=steps)
    if steps is None:
        steps = Steps(system.init_state(1), seen.time_us, seen.time_us - windowing.step(watching.spec.frames))
    steps = steps._replace(found_us=seen.time_us)
    if seen.time_us - steps.given_us < windowing.step(watching.spec.frames):
        return [], state._replace(steps=steps)
    device = _device(system)
    inputs = {
        name: values.to(device) for name, values in face_inputs(*pictures_of([seen]), watching.spec).items()
    }  # 1 ...
    output, after = system.step(inputs, steps.system)
    steps = steps._replace(system=after, given_us=seen.time_us)
    if seen.time_us - steps.start_us < windowing.least_us:
        return [], state._replace(steps=steps)
    place = {"start_us": steps.start_us, "stop_us": seen.time_us}
    record = {**place, **said_of(system, output, 0), "times_us": [seen.time_us], "valid": [True]}
    return [record], state._replace(steps=steps, said=record)


def _answers_by_step(system: System) -> bool:
    """A class that streams step by step may have settings under which it does not, such as a scan from both ends."""
    if system.streaming != "step":
        return False
    try:
        system.init_state(1)
    except AffuseError:
        return False
    return True


def _device(system: System) -> torch.device:
    some: Tensor | None = next(system.parameters(), None)
    return torch.device("cpu") if some is None else some.device
