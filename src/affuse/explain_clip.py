"""explain: why a run says what it says of a video with a face: pictures, curves, numbers, and all of it drawn into the video.

The video is read twice, forward: first the answers, the heat maps and where the face was; then every frame again, with the
evidence drawn onto it. What is held between is small: heat maps of a few cells and a line of numbers a frame.
"""

from __future__ import annotations

import json
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from affuse import runs
from affuse.explain import grad_cam
from affuse.face_windows import Seen, Window, Windowing, pictures_of, seen_faces, window_end, window_sample, window_step
from affuse.overlay import FrameAnswer, Layout, draw, write_png, write_video
from affuse.parts.action_units import ACTION_UNITS, NAMES, action_units
from affuse.predict_faces import FaceCount, is_still, summary
from affuse.report_faces import Strip, Timeline, draw_strip, draw_timeline
from affuse.segments import Segmentation, average_windows
from affuse.signals.face import FaceState
from affuse.signals.timed_frames import open_frames
from affuse.stream import StreamState, Watch, answer_step, record_of, watch
from affuse.types import AffuseError, Batch

STRIPS = 8  # windows drawn as pictures, at most
AT_ONCE = 64  # windows over one moment that are looked at, at most
MOMENT_US = 40_000  # of the curves over time
HEAT_SIDE = 32  # of a heat map as it is kept for the video
WRITTEN = ("explain.json", "window-[0-9]*.png", "timeline.png", "overlay.mp4", "overlay.png")  # what a folder is given


class Place(NamedTuple):
    """Where the face was in a frame: what the second reading needs."""

    time_us: int
    status: str
    box: tuple[float, float, float, float] | None
    matrix: NDArray[np.float64] | None
    units: NDArray[np.float32] | None  # (u,)


class Evidence(NamedTuple):
    """A window with what was found in it.

    Args:
        record: as of `affuse.stream.record_of`, and by frame: ``heat_share``, the part of the window's heat in it, and
            ``probability`` of the window's label after it, where the system answers after each frame.
        heat: (t, y, x) in 255ths, of the frames given; None where the system has no spatial layer.
        images: (t, s, s, 3), the aligned faces; None where the window is not drawn.
    """

    record: dict[str, Any]
    heat: NDArray[np.uint8] | None
    images: NDArray[np.uint8] | None


def explain_clip(
    run: runs.Run,
    clip: str | Path,
    out: str | Path,
    windowing: Windowing | None = None,
    settings: Segmentation | None = None,
    finding: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Explain one video, folder of pictures, or picture, into a folder.

    It writes ``explain.json``; ``window-N.png``, the frames of a window under Grad-CAM with the answer below them, of at most
    `STRIPS` windows, evenly spaced; ``timeline.png``, the answers, and action units where there are landmarks, over time; and
    ``overlay.mp4``, the clip at its own times with box, answer and heat (of a picture, ``overlay.png``). Files by these names
    that an earlier explanation left in the folder are removed.

    Args:
        run: a trained run that reads faces.
        clip: what `affuse.signals.timed_frames.open_frames` opens.
        out: the folder, which is made.
        windowing: how the video is cut.
        settings: how answers become segments.
        finding: settings of `affuse.signals.face.FacePipeline` that shall be others than those of the run.

    Returns:
        What ``explain.json`` holds: as of `affuse.predict_faces.answer_faces`, each window with ``heat_share`` and
        ``probability`` by frame; ``steps``, the answers of a system that answers step by step; ``track``: of each frame
        ``time_us``, ``status``, ``box``; ``action_units``: names, and the strongest moment of each; ``files``.

    Raises:
        AffuseError: the file cannot be read, the run reads no faces, or the folder cannot be made or holds the clip itself
            under a name that is written.
    """
    clip, out = Path(clip), Path(out)
    if clip.resolve() in (out.resolve(), *(path.resolve() for path in _written(out))):
        raise AffuseError(f"{clip}: its explanation would be written over it; name another folder with --out")
    watching = watch(run, windowing, finding)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise AffuseError(f"{out}: cannot be made ({error.strerror}); name another folder with --out") from None
    still = is_still(clip)
    count, places, steps, evidence = _first_reading(watching, clip, still)
    records = [one.record for one in evidence]
    found = summary(watching, steps if watching.by_step and not still else records, count, settings)
    if still and records:
        found = {"still": True, **found}
        found.pop("segments", None)
    found = {**found, "windows": records, **({"steps": steps} if watching.by_step and not still else {})}
    for old in _written(out):  # of another clip, or of more windows: it would pass for a part of this explanation
        old.unlink()
    files = _pictures(watching, clip, out, evidence, still)
    if not still and (records or any(place.units is not None for place in places)):
        line = _timeline(watching, steps if watching.by_step else records, places)
        files["timeline"] = str(draw_timeline(out / "timeline.png", line))
    files.update(_overlay(watching, clip, out, places, steps, evidence, still))
    found["action_units"] = _strongest_units(places)
    found["track"] = [
        {"time_us": place.time_us, "status": place.status, "box": None if place.box is None else list(place.box)}
        for place in places
    ]
    found["files"] = files
    runs.write_text(out / "explain.json", json.dumps({"clip": str(clip), **found}, indent=1, allow_nan=False) + "\n")
    return found


def _written(out: Path) -> list[Path]:
    return [path for name in WRITTEN for path in out.glob(name)]


def _first_reading(
    watching: Watch, clip: Path, still: bool
) -> tuple[FaceCount, list[Place], list[dict[str, Any]], list[Evidence]]:
    count, places, steps, kept = FaceCount(), list[Place](), list[dict[str, Any]](), list[Evidence]()
    stepping, cutting = StreamState(FaceState()), StreamState(FaceState()).windows
    frames: list[Seen] = []
    for seen in seen_faces(clip, watching.pipeline, watching.windowing.fps):
        count.add(seen)
        places.append(_place(seen))
        if still:
            frames.append(seen)
            continue
        if watching.by_step:
            said, stepping = answer_step(watching, seen, stepping)
            steps += said
        windows, cutting = window_step(seen, cutting, watching.windowing)
        for window in windows:
            _keep(kept, evidence_of(watching, window))
    rest = [tuple(frames)] if still and count.found else window_end(cutting, watching.windowing)
    for window in rest:
        _keep(kept, evidence_of(watching, window))
    return count, places, steps, kept


def evidence_of(watching: Watch, window: Window) -> Evidence:
    """What a window shows: its answer, where it was read, and how it grew."""
    system = watching.system
    sample = window_sample(window, watching.spec)
    record = record_of(watching, window)
    images = pictures_of([window[index] for index in sample.meta["chosen"]])[0]
    batch = Batch.collate([sample], system.modalities)
    some = next(system.parameters(), None)
    batch = batch if some is None else batch.to(some.device)
    with torch.no_grad():
        output = system(batch)
    after = output.aux.get("steps")
    if after is not None and record.get("label") is not None:
        column = system.task.classes.index(record["label"])
        shares = after[0].float().softmax(-1)[:, column].tolist()
        record["probability"] = [round(share, 6) if np.isfinite(share) else None for share in shares]
    try:
        heat = grad_cam(system, batch, "face")[0].cpu().numpy()
    except AffuseError as error:
        return Evidence({**record, "no_heat": str(error)}, None, images)
    total = float(heat.sum())
    record["heat_share"] = [round(float(part.sum()) / total, 6) if total > 0 else 0.0 for part in heat]
    small = [cv2.resize(part, (HEAT_SIDE, HEAT_SIDE), interpolation=cv2.INTER_AREA) for part in heat]
    return Evidence(record, (255 * np.clip(np.stack(small), 0, 1)).round().astype(np.uint8), images)


def _keep(kept: list[Evidence], one: Evidence) -> None:
    """At the end of the list. No more than twice `STRIPS` keep their pictures, evenly spaced, however many there are."""
    kept.append(one)
    every = 1
    while len(kept) > 2 * STRIPS * every:
        every *= 2
    for number, other in enumerate(kept):
        if number % every and other.images is not None:
            kept[number] = other._replace(images=None)


def _place(seen: Seen) -> Place:
    face = seen.face
    box = None
    if face.box is not None:
        left, top, width, height = (
            round(float(v), 1) for v in (face.box.left, face.box.top, face.box.width, face.box.height)
        )
        box = (left, top, width, height)
    units = None
    if face.landmarks is not None:
        units = action_units(torch.from_numpy(face.landmarks.astype(np.float32))).numpy()
    return Place(seen.time_us, face.status, box, face.matrix, units)


def _pictures(watching: Watch, clip: Path, out: Path, evidence: Sequence[Evidence], still: bool) -> dict[str, Any]:
    """Strips of the windows that kept their pictures."""
    drawn = [(number, one) for number, one in enumerate(evidence) if one.images is not None]
    chosen = np.unique(np.linspace(0, len(drawn) - 1, min(STRIPS, len(drawn))).round().astype(int))
    files = []
    for index in chosen.tolist():
        number, one = drawn[index]
        strip = _strip(watching, clip, one, still)
        files.append(str(write_png(out / f"window-{number + 1}.png", draw_strip(strip))))
    return {"windows": files}


def _strip(watching: Watch, clip: Path, one: Evidence, still: bool) -> Strip:
    record, images = one.record, one.images
    assert images is not None
    heat = None if one.heat is None else one.heat.astype(np.float32) / 255
    rows = [0] if still else list(range(len(images)))  # a picture is one frame, however often it was given
    if still and heat is not None:
        heat = heat.mean(0, keepdims=True) / max(float(heat.mean(0).max()), 1e-6)
    weights = (record.get("weights") or {}).get("time")
    captions = []
    for row in rows:
        lines = []
        if record.get("probability") and record["probability"][row] is not None and not still:
            lines.append(f"{record['label']} {100 * record['probability'][row]:.0f} %")
        elif record.get("label") is not None:
            lines.append(f"{record['label']} {100 * record['probabilities'][record['label']]:.0f} % in all")
        if weights is not None and len(weights) == len(images) and not still:
            lines.append(f"weight {100 * weights[row]:.0f} %")
        if record.get("heat_share") and not still:
            lines.append(f"heat {100 * record['heat_share'][row]:.0f} %")
        captions.append(lines)
    span = "a picture: nothing moves" if still else f"{record['start_us'] / 1e6:.2f} to {record['stop_us'] / 1e6:.2f} s"
    note = f"{clip.name}, {span}; {type(watching.system).__name__}"
    note += "" if heat is None else "; below each frame: Grad-CAM for this answer"
    times = np.array(record["times_us"], dtype=np.int64)[rows]
    return Strip(_said(record), note, times, images[rows], np.array(record["valid"])[rows], heat, captions)


def _said(record: Mapping[str, Any]) -> str:
    if record.get("value") is not None:
        return f"{record['value']:.3g} {record.get('units') or ''}".strip()
    if record.get("label") is None:
        return "no answer"
    return f"{record['label']} {100 * record['probabilities'][record['label']]:.0f} %"


def _timeline(watching: Watch, records: Sequence[Mapping[str, Any]], places: Sequence[Place]) -> Timeline:
    task = watching.system.task
    nothing = [float("nan")] * task.outputs
    rows = []
    for record in records:
        said = (
            list((record.get("probabilities") or {}).values()) if task.kind == "classification" else [record["value"]]
        )
        rows.append([float("nan") if value is None else value for value in said] or nothing)
    values = np.array(rows, dtype=np.float64).reshape(len(rows), task.outputs)
    times = np.array([record["stop_us"] for record in records], dtype=np.int64)
    if not watching.by_step and len(records):  # the mean over the windows that a moment lies in, as in the segments
        starts = np.array([record["start_us"] for record in records], dtype=np.int64)
        step_us = max(1, min(MOMENT_US, int((times - starts).min())))
        times, values = average_windows(starts, np.maximum(times, starts + 1), values, step_us)
    units = None
    if any(place.units is not None for place in places):
        unknown = np.full(len(NAMES), np.nan, np.float32)
        units = np.stack([unknown if place.units is None else place.units for place in places]).astype(np.float64)
    clock = np.array([place.time_us for place in places], dtype=np.int64)
    names = [f"{name} {meaning}" for name, meaning in ACTION_UNITS.items()]
    return Timeline(task.classes, times, values, names, clock, units, _gaps(places))


def _gaps(places: Sequence[Place]) -> list[tuple[int, int]]:
    """Stretches of frames without a face, up to the frame after them."""
    gaps: list[tuple[int, int]] = []
    before = False
    for number, place in enumerate(places):
        after = places[number + 1].time_us if number + 1 < len(places) else place.time_us
        if place.box is None:
            gaps = [*gaps[:-1], (gaps[-1][0], after)] if before else [*gaps, (place.time_us, after)]
        before = place.box is None
    return gaps


def _strongest_units(places: Sequence[Place]) -> dict[str, Any]:
    """Of each action unit that shows: its largest intensity and when; empty without landmarks."""
    known = [place for place in places if place.units is not None]
    found = {}
    for number, (name, meaning) in enumerate(ACTION_UNITS.items()):
        values = [float(place.units[number]) for place in known if place.units is not None]
        if values and np.nanmax(values) > 0:
            best = int(np.nanargmax(values))
            found[name] = {"meaning": meaning, "most": round(values[best], 4), "time_us": known[best].time_us}
    return found


def _overlay(
    watching: Watch,
    clip: Path,
    out: Path,
    places: Sequence[Place],
    steps: Sequence[Mapping[str, Any]],
    evidence: Sequence[Evidence],
    still: bool,
) -> dict[str, str]:
    """The clip with the evidence drawn in: its file by name."""
    pictures = _drawn(watching, clip, places, steps if watching.by_step and not still else [], evidence)
    if still:
        image = next(iter(pictures), None)
        return {} if image is None else {"overlay": str(write_png(out / "overlay.png", image[1]))}
    interval_us = open_frames(clip, gray=False, fps=watching.windowing.fps).interval_us or 33_333
    written = write_video(out / "overlay.mp4", pictures, 1e6 / interval_us)
    return {"overlay": str(out / "overlay.mp4")} if written else {}


def _drawn(
    watching: Watch,
    clip: Path,
    places: Sequence[Place],
    steps: Sequence[Mapping[str, Any]],
    evidence: Sequence[Evidence],
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    layout: Layout | None = None
    image: NDArray[np.uint8] | None = None
    frames = open_frames(clip, gray=False, fps=watching.windowing.fps).frames(0)
    for (time_us, load), place in zip(frames, places, strict=False):
        loaded = None if load is None else load()
        image = loaded if loaded is not None else image  # a frame that cannot be decoded shows the last one that could
        if image is None:
            continue
        layout = layout or Layout.of(image.shape[1], image.shape[0])
        said, shares = _said_at(watching, time_us, steps, evidence)
        heat = _heat_at(time_us, evidence) if place.matrix is not None else None
        answer = FrameAnswer(
            None if is_still(clip) else time_us,
            place.status,
            said,
            shares,
            place.box,
            heat,
            place.matrix,
            watching.pipeline.size,
        )
        yield time_us, draw(image, answer, watching.system.task.classes, layout)


def _said_at(
    watching: Watch, time_us: int, steps: Sequence[Mapping[str, Any]], evidence: Sequence[Evidence]
) -> tuple[str, tuple[float, ...]]:
    """What is said at a moment: after the frames so far where the system answers so, else the mean over the windows there."""
    task = watching.system.task
    if steps:
        before = bisect_right(steps, time_us, key=lambda step: step["stop_us"])
        hold_us = max(watching.windowing.step(watching.spec.frames), 1) + watching.windowing.gap_us
        records = [step for step in steps[:before][-1:] if time_us - step["stop_us"] <= hold_us]
    else:
        records = [one.record for one in _windows_at(time_us, evidence)]
    if task.kind == "regression":
        values = [record["value"] for record in records if record["value"] is not None]
        return (f"{np.mean(values):.3g} {task.units}".strip(), ()) if values else ("", ())
    told = [list(record["probabilities"].values()) for record in records if record["label"] is not None]
    if not told:
        return "", ()
    mean = np.mean(told, axis=0)
    return f"{task.classes[int(mean.argmax())]} {100 * mean.max():.0f} %", tuple(mean.tolist())


def _windows_at(time_us: int, evidence: Sequence[Evidence]) -> list[Evidence]:
    first = bisect_left(evidence, time_us, key=lambda one: one.record["stop_us"])
    later = evidence[first : first + AT_ONCE]
    return [one for one in later if one.record["start_us"] <= time_us]


def _heat_at(time_us: int, evidence: Sequence[Evidence]) -> NDArray[np.float32] | None:
    """The heat at a moment, between the frames that were given: of the window whose middle is nearest."""
    there = [one for one in _windows_at(time_us, evidence) if one.heat is not None]
    if not there:
        return None
    one = min(there, key=lambda one: abs(one.record["start_us"] + one.record["stop_us"] - 2 * time_us))
    assert one.heat is not None
    valid = np.flatnonzero(one.record["valid"])
    times = np.array(one.record["times_us"], dtype=np.int64)[valid]
    if not len(times):
        return None
    after = min(int(np.searchsorted(times, time_us)), len(times) - 1)
    before = max(after - 1, 0)
    apart = int(times[after] - times[before])
    share = float(np.clip((time_us - times[before]) / apart, 0, 1)) if apart > 0 else 1.0
    mixed = (1 - share) * one.heat[valid[before]].astype(np.float32) + share * one.heat[valid[after]].astype(np.float32)
    return (mixed / 255).astype(np.float32)
