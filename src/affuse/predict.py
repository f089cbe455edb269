"""predict: what a run says of files it has never seen, one record a file.

A video gives frames; the face and an eye are found in it, and the events are simulated from the eye's own motion. A picture
gives the same frame through a whole clip, and no events: nothing moves in it, so the event camera is absent. An event file
gives events alone, and the RGB camera is absent.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from affuse import runs
from affuse.evaluate import rounded
from affuse.signals.cameras import FRESH_FRAMES
from affuse.signals.clips import ClipSpec, event_clip, rgb_clip
from affuse.signals.events import Events, linear_luminance, read_events, simulate_events
from affuse.signals.eye import eye_crops
from affuse.signals.video import VIDEO_SUFFIXES, read_video
from affuse.types import AffuseError, Batch, Sample, System

EVENT_SUFFIXES = (".bin", ".bs2", ".raw", ".dat", ".aedat4", ".h5", ".hdf5", ".npz", ".txt", ".csv")
CLIPS_AT_ONCE = 64  # made, answered and forgotten, so that a long recording does not fill the memory
PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")


def predict(path: str | Path, files: Sequence[str | Path], overrides: Sequence[str] = ()) -> Iterator[dict[str, Any]]:
    """Answer each file by the run in `path`, lazily: ``file``, and what `answer` says of it.

    Raises:
        AffuseError: the run or a file cannot be read.
    """
    run = runs.load_to_answer(path, overrides)
    for file in files:
        yield {"file": str(file), **answer(run, file)}


def answer(run: runs.Run, file: str | Path, errors: Literal["raise", "drop"] = "raise") -> dict[str, Any]:
    """Answer one file.

    Args:
        run: the trained system.
        file: a video, a picture, or a recording of events.
        errors: of bad events in a recording, as `read_events` has it.

    Returns:
        ``status`` (``ok``, ``no face``, ``no answer``), and where ok ``label`` and ``probabilities`` by class, or ``value`` and
        ``units`` of a regression; ``weights`` (by modality and expert), ``events`` (``simulated``, ``recorded`` or
        ``absent``) and ``windows``: the same for each clip, with ``start_us`` and ``stop_us`` where there is a clock. A clip
        of a video is left out where frames are missing or no eye was found. Where not ok, ``reason``.

    Raises:
        AffuseError: the file cannot be read, or is of a kind that this run has never seen.
    """
    file = Path(file)
    if not file.exists():
        raise AffuseError(f"{file}: no such file")
    suffix = file.suffix.lower()
    spec: ClipSpec | None = getattr(run.recipe.data, "clip", None)
    if suffix in EVENT_SUFFIXES:
        recorded = read_events(file, errors=errors)
        of_data = getattr(run.recipe.data, "event_clips", None)
        if of_data is not None:  # a data set of events alone has windows of its own
            said, reason = _summary(run, of_data(recorded)), "the recording is shorter than one clip"
        elif spec is None:
            raise AffuseError(f"{file}: a run on {run.recipe.data_name!r} has seen no events")
        else:
            said, reason = _summary(run, _clips_of_events(recorded, spec)), _too_short(recorded.duration_us, spec)
        return {**said, "events": "recorded"} if said else {"status": "no answer", "reason": reason}
    if suffix not in (*VIDEO_SUFFIXES, *PICTURE_SUFFIXES):
        videos, pictures, events = map(", ".join, (VIDEO_SUFFIXES, PICTURE_SUFFIXES, EVENT_SUFFIXES))
        raise AffuseError(f"{file}: expected a video ({videos}), a picture ({pictures}) or events ({events})")
    if spec is None:
        instead = "give it an event file" if hasattr(run.recipe.data, "event_clips") else "it reads features, not files"
        raise AffuseError(f"{file}: a run on {run.recipe.data_name!r} has seen no frames; {instead}")
    crops, times_us, found = eye_crops(read_video(file), spec.size)  # t s s 3, t, t
    if not found.any():
        frames = "the picture" if suffix in PICTURE_SUFFIXES else f"any of {len(found)} frames"
        return {"status": "no face", "reason": f"no face with an eye in {frames}"}
    if suffix in PICTURE_SUFFIXES:
        still = Sample({"rgb": rgb_clip(np.repeat(crops[:1], spec.frames, axis=0), spec)})
        return {**_summary(run, [still]), "events": "absent"}
    said = _summary(run, _clips_of_video(crops, times_us, found, spec))
    if not said:
        return {"status": "no answer", "reason": _why_no_clip(times_us, found, spec)}
    return {**said, "events": "simulated"}


def _clips_of_video(
    crops: NDArray[np.uint8], times_us: NDArray[np.int64], found: NDArray[np.bool_], spec: ClipSpec
) -> Iterator[Sample]:
    """Clips of the eye in a video: those without a hole, and with an eye in every frame that they are made of."""
    events = simulate_events(linear_luminance(crops), times_us)
    for window in _windows(times_us, spec):
        if window.whole and found[window.read].all():
            times = times_us[window.rows]
            inputs = {"rgb": rgb_clip(crops[window.rows], spec), "event": event_clip(events, times, spec)}
            yield _sample(inputs, times, spec)


def _why_no_clip(times_us: NDArray[np.int64], found: NDArray[np.bool_], spec: ClipSpec) -> str:
    windows = list(_windows(times_us, spec))
    if not windows:
        return _too_short(int(times_us[-1] - times_us[0]), spec)
    if not any(window.whole for window in windows):
        longest = int(np.diff(times_us).max()) / 1e6
        return f"frames are missing for up to {longest:.3f} s, and no clip is without such a hole"
    return f"an eye was found in {int(found.sum())} of {len(found)} frames, never through a whole clip"


def _too_short(duration_us: int, spec: ClipSpec) -> str:
    needed_us = spec.window_us + (spec.frames - 1) * round(spec.stride * 1e6 / spec.fps)
    return f"the recording lasts {duration_us / 1e6:.3f} s, a clip {needed_us / 1e6:.3f} s"


class _Window(NamedTuple):
    """A clip of a video.

    Args:
        rows: (t,) the frames that it shows.
        read: all frames that it is made of: those it shows, and those that its events are simulated from.
        whole: whether no hole of the video lies in it.
    """

    rows: NDArray[np.int64]
    read: slice
    whole: bool


def _windows(times_us: NDArray[np.int64], spec: ClipSpec) -> Iterator[_Window]:
    """The clips, half a clip apart, by the clock and not by the frame rate of the file."""
    if len(times_us) < 2:
        return
    hole_us = FRESH_FRAMES * float(np.median(np.diff(times_us)))
    step_us = round(spec.stride * 1e6 / spec.fps)
    span_us = (spec.frames - 1) * step_us
    start = int(times_us[0]) + spec.window_us
    while start + span_us <= int(times_us[-1]):
        wanted = start + step_us * np.arange(spec.frames)
        rows = np.searchsorted(times_us, wanted, side="right") - 1  # the latest frame at each moment, never a later one
        # Events come of the change from frame to frame: the first ones of the change since the frame before their window.
        first = int(np.searchsorted(times_us, times_us[rows[0]] - spec.window_us, side="right")) - 1
        read = slice(max(first, 0), int(rows[-1]) + 1)
        longest = max(int((wanted - times_us[rows]).max()), int(np.diff(times_us[read]).max(initial=0)))
        yield _Window(rows, read, longest <= hole_us)
        start += max(span_us // 2, step_us)


def _clips_of_events(events: Events, spec: ClipSpec) -> Iterator[Sample]:
    """Clips of a recording of events."""
    step_us = round(spec.stride * 1e6 / spec.fps)
    start = int(events.t_us[0]) + spec.window_us if len(events) else 0
    while len(events) and start + (spec.frames - 1) * step_us <= int(events.t_us[-1]) + 1:
        times_us = start + step_us * np.arange(spec.frames)
        yield _sample({"event": event_clip(events, times_us, spec)}, times_us, spec)
        start += max((spec.frames - 1) * step_us // 2, step_us)


def _sample(inputs: dict[str, torch.Tensor], times_us: NDArray[np.int64], spec: ClipSpec) -> Sample:
    return Sample(inputs, meta={"start_us": int(times_us[0]) - spec.window_us, "stop_us": int(times_us[-1])})


@torch.no_grad()
def _summary(run: runs.Run, clips: Iterable[Sample]) -> dict[str, Any]:
    """What is said of a file's clips, one by one and as a whole; nothing where there is no clip."""
    system, task = run.system, run.system.task
    stream = iter(clips)
    places, some_logits, some_weights = list[Mapping[str, Any]](), list[Tensor](), list[dict[str, Tensor]]()
    while some := list(islice(stream, CLIPS_AT_ONCE)):
        output = system(Batch.collate(some, system.modalities))
        answered = output.answered
        # Of an output this is all that is kept: features and steps of a long recording would fill the memory as clips would.
        places += [clip.meta for clip, kept in zip(some, answered.tolist(), strict=True) if kept]
        some_logits.append(output.logits[answered])
        some_weights.append({name: values[answered] for name, values in output.weights.items()})
        del some, output  # before the next clips are made
    if not some_logits:
        return {}
    if not places:
        return {"status": "no answer", "reason": f"the file has none of the modalities {list(system.modalities)}"}
    logits = torch.cat(some_logits)  # k c
    said = logits if task.kind == "regression" else logits.softmax(-1)  # k c
    weights = {name: torch.cat([part[name] for part in some_weights]) for name in some_weights[0]}  # k m, k e, k t
    windows = [
        {**place, **describe(system, said[row], {name: values[row] for name, values in weights.items()})}
        for row, place in enumerate(places)
    ]
    whole = describe(system, said.mean(0), {name: values.mean(0) for name, values in weights.items()})
    return {"status": "ok", **whole, "windows": windows}


def describe(system: System, said: Float[Tensor, " c"], weights: Mapping[str, Float[Tensor, " _"]]) -> dict[str, Any]:
    """One answer as plain values: ``label`` and ``probabilities`` by class, or ``value`` and ``units``; and ``weights``.

    Args:
        said: probabilities, or the one value of a regression.
        weights: decisions by name; those of the modalities get their names.
    """
    task = system.task
    named: dict[str, Any] = {name: rounded(values) for name, values in weights.items()}
    if "modality" in named:
        named["modality"] = dict(zip(system.modalities, named["modality"], strict=True))
    if task.kind == "regression":
        return {"value": rounded(said)[0], "units": task.units, "weights": named}
    return {
        "label": task.classes[int(said.argmax())],
        "probabilities": dict(zip(task.classes, rounded(said), strict=True)),
        "weights": named,
    }
