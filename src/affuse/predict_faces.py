"""predict over videos with faces: what was said when, and of which frames nothing can be said.

A video is read once, forward, and what is held of it does not grow with its length. A picture is taken for a clip in which
nothing moves, and the answer says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from affuse import runs
from affuse.face_windows import Seen, Windowing, seen_faces
from affuse.segments import Segmentation, plain_segment, segments
from affuse.signals.face import FaceState
from affuse.signals.timed_frames import PICTURE_SUFFIXES
from affuse.stream import StreamState, Watch, answer_step, record_of, stream_end, watch
from affuse.types import System

_FRAME_US = 33_333  # how long the last answer of a stretch holds, where every frame is answered


@dataclass
class FaceCount:
    """What is counted of the frames of a video as they go by."""

    frames: int = 0
    found: int = 0
    unreadable: int = 0
    most: int = 0
    first_us: int | None = None
    last_us: int | None = None

    def add(self, seen: Seen) -> None:
        """One frame more."""
        self.frames += 1
        self.unreadable += seen.face.status == "unreadable"
        self.most = max(self.most, seen.face.faces)
        if seen.face.image is not None:
            self.found += 1
            self.first_us = seen.time_us if self.first_us is None else self.first_us
            self.last_us = seen.time_us

    def plain(self) -> dict[str, Any]:
        """As plain values."""
        return dict(vars(self))


def answer_faces(
    run: runs.Run,
    file: str | Path,
    windowing: Windowing | None = None,
    settings: Segmentation | None = None,
    finding: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Answer one video, folder of pictures, or picture.

    Args:
        run: a trained run that reads faces.
        file: what `affuse.signals.timed_frames.open_frames` opens.
        windowing: how it is cut.
        settings: how answers become segments.
        finding: settings of `affuse.signals.face.FacePipeline` that shall be others than those of the run.

    Returns:
        ``status``: ``ok``, ``no face``, or ``no answer``; the latter two with a ``reason``. ``faces``: ``frames``, of which
        ``found`` have a face and ``unreadable`` could not be decoded, ``most`` faces seen in one frame, and when a face was
        seen ``first_us`` and ``last_us``. Where ok: the answer over the whole file, which is the mean over its windows (of a
        system that answers step by step, over the last answers of its stretches), as of `affuse.predict.describe`;
        ``windows``: as of `affuse.stream.record_of`; and ``segments`` of a classification: ``start_us``, ``stop_us``,
        ``label`` (None: no answer), ``confidence``. Of a picture: ``still``, true, and no segments.

    Raises:
        AffuseError: the file cannot be read, or the run reads no faces.
    """
    watching = watch(run, windowing, finding)
    if is_still(file):
        return _answer_still(watching, Path(file))
    state, count, windows = StreamState(FaceState()), FaceCount(), list[dict[str, Any]]()
    for seen in seen_faces(file, watching.pipeline, watching.windowing.fps):
        count.add(seen)
        found, state = answer_step(watching, seen, state)
        windows += found
    windows += stream_end(watching, state)
    return summary(watching, windows, count, settings)


def is_still(file: str | Path) -> bool:
    """Whether a file is a single picture."""
    return Path(file).suffix.lower() in PICTURE_SUFFIXES


def summary(
    watching: Watch, windows: Sequence[dict[str, Any]], count: FaceCount, settings: Segmentation | None = None
) -> dict[str, Any]:
    """What is said of a whole video, from its windows in order of time; see `answer_faces`."""
    faces = count.plain()
    if not count.found:
        return {"status": "no face", "reason": f"no face in any of {count.frames} frames", "faces": faces}
    key = "value" if watching.system.task.kind == "regression" else "label"
    answered = [window for window in windows if window[key] is not None]
    if not answered:
        shortest = watching.windowing.least_us / 1e6
        reason = f"a face in {count.found} of {count.frames} frames, but never for {shortest:g} s on end"
        return {"status": "no answer", "reason": reason, "faces": faces}
    whole = _mean(watching, _last_of_each_stretch(answered) if watching.by_step else answered)
    found = {"status": "ok", **whole, "faces": faces, "windows": list(windows)}
    if key == "label":
        found["segments"] = _segments(watching, windows, settings)
    return found


def _answer_still(watching: Watch, file: Path) -> dict[str, Any]:
    count, frames = FaceCount(), []
    for seen in seen_faces(file, watching.pipeline, watching.windowing.fps):
        count.add(seen)
        frames.append(seen)
    faces = count.plain()
    if not count.found:
        return {"status": "no face", "reason": "no face in the picture", "faces": faces}
    record = record_of(watching, tuple(frames))
    said = {key: value for key, value in record.items() if key not in ("start_us", "stop_us", "times_us", "valid")}
    if said.get("label", said.get("value")) is None:
        return {"status": "no answer", "reason": "nothing was answered about the face in the picture", "faces": faces}
    note = f"a picture, repeated {watching.spec.frames} times: nothing moves in it"
    return {"status": "ok", **said, "still": True, "note": note, "faces": faces, "windows": [record]}


def _mean(watching: Watch, windows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    task = watching.system.task
    if task.kind == "regression":
        return {"value": round(float(np.mean([window["value"] for window in windows])), 6), "units": task.units}
    mean = np.mean([list(window["probabilities"].values()) for window in windows], axis=0)
    probabilities = dict(zip(task.classes, (round(float(share), 6) for share in mean), strict=True))
    return {"label": task.classes[int(mean.argmax())], "probabilities": probabilities}


def _last_of_each_stretch(windows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Answers step by step carry the start of their stretch; the last of each has seen all of it."""
    return list({window["start_us"]: window for window in windows}.values())


def _segments(
    watching: Watch, windows: Sequence[Mapping[str, Any]], settings: Segmentation | None
) -> list[dict[str, Any]]:
    """Segments of equal label. An answer of a system that goes step by step holds until the next one of its stretch."""
    system: System = watching.system
    spans = [(window["start_us"], max(window["stop_us"], window["start_us"] + 1)) for window in windows]
    if watching.by_step:
        spans = _holds(windows, watching.windowing.step(watching.spec.frames) or _FRAME_US)
    nothing = [float("nan")] * len(system.task.classes)
    said = [list((window.get("probabilities") or {}).values()) or nothing for window in windows]
    start_us, stop_us = np.array(spans, dtype=np.int64).T
    parts = segments(start_us, stop_us, np.array(said, dtype=np.float64), settings)
    return [plain_segment(part, system.task.classes) for part in parts]


def _holds(windows: Sequence[Mapping[str, Any]], step_us: int) -> list[tuple[int, int]]:
    spans = []
    for number, window in enumerate(windows):
        now = window["stop_us"]
        after = windows[number + 1] if number + 1 < len(windows) else None
        together = after is not None and after["start_us"] == window["start_us"]
        spans.append((now, after["stop_us"] if after is not None and together else now + step_us))
    return spans
