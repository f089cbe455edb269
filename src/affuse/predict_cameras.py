"""predict over a recording of several cameras: sliding windows, what was said in each and why, and the segments from them.

The recording is read once, forward; of the windows only what was said is kept, and the pictures of a few for `--explain`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from affuse.predict import describe
from affuse.runs import Run
from affuse.segments import Segmentation, plain_segment, segments
from affuse.signals.camera_windows import CameraWindow
from affuse.signals.cameras import camera_inputs, camera_windows
from affuse.types import AffuseError, Batch, Output, Sample, System

CLIPS_AT_ONCE = 8
WINDOWS_SHOWN = 6


@dataclass(frozen=True)
class ShownWindow:
    """A window that is kept whole, to be looked at.

    Args:
        sample: its frames.
        record: what was said of it, as in ``windows`` of `answer_windows`.
        attention: by camera, of the class token over the tokens, (t, y, x), or (t,) where there is no grid; sums to 1.
    """

    sample: Sample
    record: dict[str, Any]
    attention: dict[str, Tensor] = field(default_factory=dict)


def answer_recording(
    run: Run,
    files: Mapping[str, str | Path],
    *,
    hop_us: int | None = None,
    settings: Segmentation | None = None,
    shown: int = 0,
    fps: Mapping[str, float] | None = None,
) -> tuple[dict[str, Any], list[ShownWindow]]:
    """Answer one recording of several cameras, in bounded memory.

    Args:
        run: the trained system, whose data configuration has a ``camera_window``.
        files: by camera, what `affuse.signals.cameras.camera_windows` reads; a camera that is left out is absent.
        hop_us: from one window to the next, microseconds; rounded to the frames of a window. By default half a window.
        settings: how windows become segments.
        shown: how many windows to keep whole.
        fps: by camera, frames a second of numbered pictures and of arrays, where they are not those of the run's data.

    Returns:
        As of `answer_windows`.

    Raises:
        AffuseError: the run reads no cameras or not these, or a file cannot be read.
    """
    window: CameraWindow | None = getattr(run.recipe.data, "camera_window", None)
    if window is None:
        raise AffuseError(
            f"{run.path}: a run on {run.recipe.data_name!r} reads no recordings of cameras: give it files"
        )
    unknown = [name for name in files if name not in run.system.modalities]
    if unknown:
        raise AffuseError(
            f"{unknown[0]}={files[unknown[0]]}: this run has the cameras {', '.join(run.system.modalities)}"
        )
    window = replace(window, spec=replace(window.spec, fps={**window.spec.fps, **(fps or {})}))
    return answer_windows(run.system, recording_clips(files, window, window.hop_us(hop_us)), settings, shown)


def recording_clips(files: Mapping[str, str | Path], window: CameraWindow, hop_us: int) -> Iterator[Sample]:
    """One sample a window; a camera none of whose frames is valid in it is not in its inputs.

    Args:
        files: by camera.
        window: what a window looks like.
        hop_us: a multiple of ``window.step_us``.
    """
    clips = camera_windows(files, window.spec, frames=window.frames, step_us=window.step_us, hop_us=hop_us)
    for number, cameras in enumerate(clips):
        inputs, times_us = camera_inputs(cameras, window.spec)
        start_us = number * hop_us
        yield Sample(inputs, times_us=times_us, meta={"start_us": start_us, "stop_us": start_us + window.span_us})


def cameras_of(words: Sequence[str | Path], modalities: Sequence[str]) -> dict[str, Path]:
    """``rgb=a.mp4 depth=b.mp4`` as files by camera; empty where the words are plain files.

    Raises:
        AffuseError: cameras and plain files are mixed, a camera is given twice or unknown to the run.
    """
    named = []
    for word in words:
        name, _, file = str(word).partition("=")
        if file and "/" not in name and not Path(word).exists():
            named.append((name, Path(file)))
    if not named:
        return {}
    known = f"this run has the cameras {', '.join(modalities)}"
    if len(named) < len(words):
        raise AffuseError(f"{named[0][0]}={named[0][1]}: give either files or cameras as NAME=FILE; {known}")
    found: dict[str, Path] = {}
    for name, path in named:
        if name not in modalities:
            raise AffuseError(f"{name}={path}: no such camera; {known}")
        if name in found:
            raise AffuseError(f"{name}={path}: the camera is given twice, the first time as {found[name]}")
        found[name] = path
    return found


class _Shown:
    """At most `most` windows, evenly spaced over a stream whose length is not known before its end."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._every = 1
        self._kept: list[tuple[int, ShownWindow]] = []

    def wants(self, number: int) -> bool:
        return self.most > 0 and number % self._every == 0

    def add(self, number: int, window: ShownWindow) -> None:
        self._kept.append((number, window))
        if len(self._kept) > 2 * self.most:
            self._every *= 2
            self._kept = [(n, kept) for n, kept in self._kept if n % self._every == 0]

    def windows(self) -> list[ShownWindow]:
        chosen = np.unique(np.linspace(0, len(self._kept) - 1, min(self.most, len(self._kept))).round().astype(int))
        return [self._kept[index][1] for index in chosen.tolist()]


@torch.no_grad()
def answer_windows(
    system: System, clips: Iterable[Sample], settings: Segmentation | None = None, shown: int = 0
) -> tuple[dict[str, Any], list[ShownWindow]]:
    """What a system says of the windows of one recording, and the segments from them.

    Args:
        system: in evaluation mode.
        clips: one a window, in order, with ``start_us`` and ``stop_us`` in its meta; read once. One without inputs is a
            window in which no camera has a frame.
        settings: how windows become segments.
        shown: how many windows to keep whole, evenly spaced.

    Returns:
        ``status`` (``ok`` or ``no answer`` with a ``reason``); of the whole recording the mean of its answered windows, as of
        `affuse.predict.describe`; ``windows``: the same of each, with ``start_us``, ``stop_us``, ``frames`` (valid ones by
        camera) and ``unimodal`` (what each camera alone would have said); where not answered, ``label`` (or ``value``) is
        None; ``segments`` of a classification: ``start_us``, ``stop_us``, ``label`` (None: no answer), ``confidence``. And
        the windows that are shown.
    """
    windows: list[dict[str, Any]] = []
    said: list[Tensor] = []  # of each window c; NaN where not answered
    weights: dict[str, list[Tensor]] = {}
    kept = _Shown(shown)
    stream = iter(clips)
    while some := list(islice(stream, CLIPS_AT_ONCE)):
        outputs = _outputs(system, some)
        for sample, (output, row) in zip(some, outputs, strict=True):
            saying, record = _window(system, sample, output, row)
            if output is not None and bool(saying.isfinite().all()):
                for name, values in output.weights.items():
                    weights.setdefault(name, []).append(values[row])
            if kept.wants(len(windows)):
                kept.add(len(windows), ShownWindow(sample, record, _attention(system, output, row)))
            said.append(saying)
            windows.append(record)
    answered = [saying for saying in said if bool(saying.isfinite().all())]
    if not answered:
        reason = (
            "no window holds a frame of any of the cameras" if windows else "the recording is shorter than one window"
        )
        return {"status": "no answer", "reason": reason, "windows": windows}, kept.windows()
    means = {name: torch.stack(rows).mean(0) for name, rows in weights.items() if len({len(row) for row in rows}) == 1}
    whole = describe(system, torch.stack(answered).mean(0), means)
    found: dict[str, Any] = {"status": "ok", **whole, "windows": windows}
    if system.task.kind == "classification":
        start_us, stop_us = (
            np.array([window[end] for window in windows], dtype=np.int64) for end in ("start_us", "stop_us")
        )
        parts = segments(start_us, stop_us, torch.stack(said).double().numpy(), settings)
        found["segments"] = [plain_segment(part, system.task.classes) for part in parts]
    return found, kept.windows()


def _outputs(system: System, clips: Sequence[Sample]) -> Iterator[tuple[Output | None, int]]:
    """The output of each clip and its row there; None of a clip without inputs, which no system is asked about."""
    asked = [clip for clip in clips if any(name in clip.inputs for name in system.modalities)]
    some = next(system.parameters(), None)
    device = "cpu" if some is None else some.device
    output = system(Batch.collate(asked, system.modalities).to(device)) if asked else None
    row = 0
    for clip in clips:
        there = any(name in clip.inputs for name in system.modalities)
        yield (output if there else None), row
        row += there


def _window(
    system: System, sample: Sample, output: Output | None, row: int
) -> tuple[Float[Tensor, " c"], dict[str, Any]]:
    """What was said in a window, NaN where nothing was, and its record."""
    regression = system.task.kind == "regression"
    place = {"start_us": int(sample.meta["start_us"]), "stop_us": int(sample.meta["stop_us"])}
    frames = {name: int(_valid(sample.inputs[name]).sum()) for name in system.modalities if name in sample.inputs}
    if output is None or not bool(output.answered[row]) or not bool(output.logits[row].isfinite().all()):
        silent = torch.full((system.task.outputs,), torch.nan)
        return silent, {**place, "value" if regression else "label": None, "frames": frames}
    logits = output.logits[row].float().cpu()
    said = logits if regression else logits.softmax(-1)
    record = {**place, **describe(system, said, {name: values[row] for name, values in output.weights.items()})}
    alone: dict[str, Any] = {}
    for name, own in output.unimodal.items():
        if name in sample.inputs and bool(own[row].isfinite().all()):
            values = own[row].float().cpu()
            told = describe(system, values if regression else values.softmax(-1), {})
            alone[name] = {key: value for key, value in told.items() if key != "weights"}
    return said, {**record, "unimodal": alone, "frames": frames}


def _attention(system: System, output: Output | None, row: int) -> dict[str, Tensor]:
    found = {}
    for name in system.modalities if output is not None else ():
        maps = output.aux.get(f"attention/{name}") if output is not None else None
        if maps is not None and bool(maps[row].isfinite().all()) and float(maps[row].sum()) > 0:
            found[name] = maps[row].float().cpu()
    return found


def _valid(images: Tensor) -> Tensor:
    """Which frames of a camera hold a picture: those that are not marked by NaN."""
    return images.flatten(1).isfinite().any(1)
