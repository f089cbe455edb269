"""predict: what a run says of files it has never seen, one record a file.

A video gives frames; the face and an eye are found in it, and the events are simulated from the eye's own motion. An event
file gives events alone, and the RGB camera is absent. A folder with `frame` and `event` images is a recording of both.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from affuse import runs
from affuse.evaluate import rounded
from affuse.signals.clips import ClipSpec, event_clip, rgb_clip
from affuse.signals.events import linear_luminance, read_events, simulate_events
from affuse.signals.face import eye_crops
from affuse.signals.video import VIDEO_SUFFIXES, read_video
from affuse.types import AffuseError, Batch, Sample

EVENT_SUFFIXES = (".bin", ".bs2", ".raw", ".dat", ".aedat4", ".h5", ".hdf5", ".npz", ".txt")


def predict(path: str | Path, files: Sequence[str | Path], overrides: Sequence[str] = ()) -> Iterator[dict[str, Any]]:
    """Answer each file by the run in `path`, lazily.

    Yields:
        ``file``, ``status`` (``ok``, ``no face``, ``no answer``), and where ok ``label``, ``probabilities`` by class,
        ``weights`` (by modality and expert) and ``windows``: the same for each clip, with ``start_us`` and ``stop_us``. Where
        not ok, ``reason``.

    Raises:
        AffuseError: the run or a file cannot be read.
    """
    run = runs.load_run(path, overrides)
    spec = getattr(run.recipe.data, "clip", None)
    for file in map(Path, files):
        yield {"file": str(file), **_answer(run, spec, file)}


def _answer(run: runs.Run, spec: ClipSpec | None, file: Path) -> dict[str, Any]:
    if not file.exists():
        raise AffuseError(f"{file}: no such file")
    if file.suffix.lower() in VIDEO_SUFFIXES:
        if spec is None:
            raise AffuseError(f"{file}: a run on {run.recipe.data_name!r} has seen no video; give it an event file")
        clips, reason = _clips_of_video(file, spec)
        if reason:
            return {"status": "no face", "reason": reason}
        extra = {"events": "simulated"}
    elif file.suffix.lower() in EVENT_SUFFIXES:
        clips, extra = _clips_of_events(run, file, spec), {"events": "recorded"}
    else:
        raise AffuseError(
            f"{file}: expected a video ({', '.join(VIDEO_SUFFIXES)}) or events ({', '.join(EVENT_SUFFIXES)})"
        )
    if not clips:
        return {"status": "no answer", "reason": "the recording is shorter than one clip"}
    return {**_summary(run, clips), **extra}


def _clips_of_video(file: Path, spec: ClipSpec) -> tuple[list[Sample], str]:
    """Clips of the eye in a video, or the reason why there are none."""
    crops, times_us, found = eye_crops(read_video(file), spec.size)  # t s s 3, t, t
    if not found.any():
        return [], f"no face with an eye in any of {len(found)} frames"
    events = simulate_events(linear_luminance(crops), times_us)
    clips = []
    for rows in _windows(times_us, spec):
        if found[rows].all():
            inputs = {"rgb": rgb_clip(crops[rows], spec), "event": event_clip(events, times_us[rows], spec)}
            clips.append(_sample(inputs, times_us[rows], spec))
    reason = (
        "" if clips else f"an eye was found in {int(found.sum())} of {len(found)} frames, never through a whole clip"
    )
    return clips, reason


def _windows(times_us: NDArray[np.int64], spec: ClipSpec) -> Iterator[NDArray[np.int64]]:
    """Frame numbers of each clip, half a clip apart, by the clock and not by the frame rate of the file."""
    step_us = round(spec.stride * 1e6 / spec.fps)
    span_us = (spec.frames - 1) * step_us
    start = int(times_us[0]) + spec.window_us if len(times_us) else 0
    while len(times_us) and start + span_us <= int(times_us[-1]):
        wanted = start + step_us * np.arange(spec.frames)
        yield np.searchsorted(times_us, wanted, side="right") - 1  # the latest frame at each moment, never a later one
        start += max(span_us // 2, step_us)


def _clips_of_events(run: runs.Run, file: Path, spec: ClipSpec | None) -> list[Sample]:
    events = read_events(file)
    of_data = getattr(run.recipe.data, "event_clips", None)
    if of_data is not None:  # a data set of events alone has windows of its own
        return list(of_data(events))
    if spec is None:
        raise AffuseError(f"{file}: a run on {run.recipe.data_name!r} has seen no events")
    step_us = round(spec.stride * 1e6 / spec.fps)
    clips = []
    start = int(events.t_us[0]) + spec.window_us if len(events) else 0
    while len(events) and start + (spec.frames - 1) * step_us <= int(events.t_us[-1]) + 1:
        times_us = start + step_us * np.arange(spec.frames)
        clips.append(_sample({"event": event_clip(events, times_us, spec)}, times_us, spec))
        start += max((spec.frames - 1) * step_us // 2, step_us)
    return clips


def _sample(inputs: dict[str, torch.Tensor], times_us: NDArray[np.int64], spec: ClipSpec) -> Sample:
    return Sample(inputs, meta={"start_us": int(times_us[0]) - spec.window_us, "stop_us": int(times_us[-1])})


@torch.no_grad()
def _summary(run: runs.Run, clips: list[Sample]) -> dict[str, Any]:
    system, classes = run.system, run.info["task"]["classes"]
    output = system(Batch.collate(clips, system.modalities))
    if not bool(output.answered.any()):
        return {"status": "no answer", "reason": f"the file has none of the modalities {list(system.modalities)}"}
    probabilities = output.logits.softmax(-1)[output.answered]  # k c
    weights = {name: values[output.answered] for name, values in output.weights.items()}

    def described(distribution: torch.Tensor, of: dict[str, torch.Tensor]) -> dict[str, Any]:
        named = {name: rounded(values) for name, values in of.items()}
        if "modality" in named:
            named["modality"] = dict(zip(system.modalities, named["modality"], strict=True))  # type: ignore[assignment]
        return {
            "label": classes[int(distribution.argmax())],
            "probabilities": dict(zip(classes, rounded(distribution), strict=True)),
            "weights": named,
        }

    kept = [clip for clip, answered in zip(clips, output.answered.tolist(), strict=True) if answered]
    windows = [
        {**clip.meta, **described(probabilities[row], {name: values[row] for name, values in weights.items()})}
        for row, clip in enumerate(kept)
    ]
    whole = described(probabilities.mean(0), {name: values.mean(0) for name, values in weights.items()})
    return {"status": "ok", **whole, "windows": windows}
