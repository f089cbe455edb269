"""The verbs predict and explain of the command line: their options, and what of them goes with which run."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from affuse.types import AffuseError

ERRORS = "bad events in a file: stop (raise, the default), or leave them out and count them (drop)"
_SECONDS: dict[str, Any] = {"type": float, "metavar": "SECONDS"}
_FINDING = ("detector", "detector_weights", "detect_every", "landmarks")


def add_verbs(verbs: Any) -> None:
    """Add predict and explain to the subparsers of ``affuse``."""
    predict = verbs.add_parser("predict", help="answer files, one JSON line each", allow_abbrev=False)
    predict.add_argument("path", metavar="RUN", type=Path)
    what = "a file, or CAMERA=FILE for each camera of one recording; a camera left out is absent"
    predict.add_argument("files", metavar="FILE", nargs="+", type=Path, help=what)
    predict.add_argument("--errors", choices=("raise", "drop"), default="raise", help=ERRORS)
    _segment_options(predict.add_argument_group("recordings of cameras, and videos with faces"))
    _face_options(predict.add_argument_group("videos with faces"))
    of_cameras = predict.add_argument_group("recordings of cameras")
    truth = "csv with start_us, stop_us, label: segment metrics are printed too"
    of_cameras.add_argument("--truth", type=Path, metavar="CSV", help=truth)
    of_cameras.add_argument("--explain", type=Path, metavar="OUT.html", help="write a page that shows why")
    predict.set_defaults(run=_predict)

    explain = verbs.add_parser("explain", help="why a run says what it says of a video with a face", allow_abbrev=False)
    explain.add_argument("path", metavar="RUN", type=Path)
    explain.add_argument("clip", metavar="CLIP", type=Path, help="a video, a folder of pictures, or a picture")
    explain.add_argument("--out", type=Path, metavar="DIR", help="the folder to write (default: explained/CLIP)")
    _face_options(explain)
    _segment_options(explain)
    explain.set_defaults(run=_explain)


def _segment_options(parser: Any) -> None:
    parser.add_argument("--hop", **_SECONDS, help="from one window to the next (default: half a window)")
    parser.add_argument("--median", **_SECONDS, help="running median over the probabilities (default: none)")
    parser.add_argument("--minimum", **_SECONDS, help="a shorter segment joins a neighbour (default: none does)")
    parser.add_argument("--threshold", type=float, help="below this probability there is no answer (default 0)")
    parser.add_argument("--fps", type=float, help="frames a second, of numbered pictures in folders and of arrays")


def _face_options(parser: Any) -> None:
    parser.add_argument("--window", **_SECONDS, help="length of a window (default 2.5, as the clips of DFEW)")
    detector = "how faces are found (default: as the run's data says, else haar)"
    parser.add_argument("--detector", choices=("haar", "dlib", "yunet"), help=detector)
    parser.add_argument("--detector-weights", metavar="ONNX", help="the network of yunet")
    parser.add_argument("--detect-every", type=int, metavar="N", help="look for the face in every n-th frame")
    units = "look for 68 landmarks too, for action units (needs affuse[face])"
    parser.add_argument("--landmarks", action="store_const", const=True, help=units)


def _predict(arguments: argparse.Namespace, overrides: list[str]) -> int:
    from affuse import runs
    from affuse.data.digits import EventAudioDigits
    from affuse.face_windows import reads_faces
    from affuse.predict import EVENT_SUFFIXES, answer
    from affuse.predict_cameras import cameras_of
    from affuse.predict_digits import answer_digit
    from affuse.predict_features import answer_features

    run = runs.load_to_answer(arguments.path, overrides)
    cameras = cameras_of(arguments.files, run.system.modalities)
    if cameras and isinstance(run.recipe.data, EventAudioDigits):
        _refuse_recording_options(arguments)
        files = {name: str(path) for name, path in cameras.items()}
        print(json.dumps({"files": files, **answer_digit(run, cameras, arguments.errors)}), flush=True)
        return 0
    of_faces = reads_faces(run.recipe, run.system)
    events = not (cameras or of_faces) and any(file.suffix.lower() in EVENT_SUFFIXES for file in arguments.files)
    if arguments.errors == "drop" and not events:
        raise AffuseError("--errors drop is for files of events, and there is none among these: leave it out")
    if cameras:
        _recording(arguments, run, cameras)
        return 0
    if of_faces:
        _check_fps(arguments.fps, arguments.files)
    else:
        _refuse_recording_options(arguments)
    failures = 0
    for file in arguments.files:
        try:
            if of_faces:
                records: Iterable[dict[str, Any]] = [_faces(arguments, run, file)]
            else:
                records = answer_features(run, file) if file.is_dir() else [answer(run, file, arguments.errors)]
            for record in records:
                print(json.dumps({"file": str(file), **record}), flush=True)
        except AffuseError as error:
            print(f"affuse: {error}", file=sys.stderr)
            failures += 1
    return 1 if failures else 0


def _explain(arguments: argparse.Namespace, overrides: list[str]) -> int:
    from affuse import runs
    from affuse.explain_clip import explain_clip

    run = runs.load_run(arguments.path, overrides)
    _check_fps(arguments.fps, [arguments.clip])
    out = arguments.out or Path("explained") / arguments.clip.stem
    found = explain_clip(run, arguments.clip, out, _windowing(arguments), _segmentation(arguments), _finding(arguments))
    said = (
        found["reason"] if found["status"] != "ok" else found.get("label") or f"{found['value']:.3g} {found['units']}"
    )
    print(f"{found['status']}: {said}")
    for name, written in found["files"].items():
        print("\n".join(f"{name}: {file}" for file in ([written] if isinstance(written, str) else written)))
    print(f"numbers: {out / 'explain.json'}")
    return 0


def _faces(arguments: argparse.Namespace, run: Any, file: Path) -> dict[str, Any]:
    from affuse.predict_faces import answer_faces

    for name in ("truth", "explain"):
        if getattr(arguments, name) is not None:
            instead = "; affuse explain shows why" if name == "explain" else ""
            raise AffuseError(f"--{name} is for a recording of cameras{instead}")
    return answer_faces(run, file, _windowing(arguments), _segmentation(arguments), _finding(arguments))


def _refuse_recording_options(arguments: argparse.Namespace) -> None:
    for name in ("hop", "median", "minimum", "threshold", "truth", "explain"):
        if getattr(arguments, name) is not None:
            raise AffuseError(f"--{name} is for a recording of cameras: give its files as CAMERA=FILE")
    _refuse_face_options(arguments)


def _refuse_face_options(arguments: argparse.Namespace, but: Sequence[str] = ()) -> None:
    for name in ("window", "fps", *_FINDING):
        if getattr(arguments, name) is not None and name not in but:
            raise AffuseError(f"--{name.replace('_', '-')} is for runs that read faces in video; this run reads none")


def _has_no_clock(path: Path) -> bool:
    return path.is_dir() or path.suffix.lower() == ".npy"


def _check_fps(fps: float | None, files: Iterable[Path]) -> None:
    if fps is not None and all(file.exists() and not _has_no_clock(file) for file in files):
        raise AffuseError(
            "--fps is for folders of numbered pictures and arrays, and there is none among these: a video says its own"
        )


def _microseconds(arguments: argparse.Namespace, name: str) -> int | None:
    value = getattr(arguments, name)
    if value is not None and not 0 <= value < 1e6:
        raise AffuseError(f"--{name} is a number of seconds from 0, got {value}")
    return None if value is None else round(value * 1e6)


def _segmentation(arguments: argparse.Namespace) -> Any:
    from affuse.segments import Segmentation

    return Segmentation(
        median_us=_microseconds(arguments, "median") or 0,
        minimum_us=_microseconds(arguments, "minimum") or 0,
        threshold=arguments.threshold or 0.0,
    )


def _windowing(arguments: argparse.Namespace) -> Any:
    from affuse.face_windows import Windowing

    window_us = _microseconds(arguments, "window")
    default = Windowing()
    window_us = default.window_us if window_us is None else window_us
    return Windowing(window_us, _microseconds(arguments, "hop"), fps=arguments.fps)


def _finding(arguments: argparse.Namespace) -> dict[str, Any]:
    return {name: getattr(arguments, name) for name in _FINDING if getattr(arguments, name) is not None}


def _recording(arguments: argparse.Namespace, run: Any, cameras: Mapping[str, Path]) -> None:
    from affuse import predict_cameras, report_recording, segment_truth

    _refuse_face_options(arguments, but=("fps",))
    _check_fps(arguments.fps, cameras.values())
    if arguments.explain is not None:
        _check_page(arguments.explain, cameras)
    settings = _segmentation(arguments)
    classes = run.system.task.classes
    truth = None if arguments.truth is None else segment_truth.read_truth(arguments.truth, classes)
    shown = predict_cameras.WINDOWS_SHOWN if arguments.explain is not None else 0
    rates = {} if arguments.fps is None else {n: arguments.fps for n, path in cameras.items() if _has_no_clock(path)}
    found, windows = predict_cameras.answer_recording(
        run, cameras, hop_us=_microseconds(arguments, "hop"), settings=settings, shown=shown, fps=rates
    )
    if truth is not None:
        found["metrics"] = segment_truth.agreement(segment_truth.segments_of(found, classes), truth)
    # Before the page, which may yet fail.
    print(json.dumps({"files": {name: str(path) for name, path in cameras.items()}, **found}), flush=True)
    if arguments.explain is not None:
        report_recording.write_page(arguments.explain, run.system, found, windows, cameras, arguments.command)


def _check_page(page: Path, cameras: Mapping[str, Path]) -> None:
    """Whether the page can be written: known before the recording is read, which may take long."""
    if page.is_dir():
        raise AffuseError(f"{page}: a folder; give --explain the file to write, such as {page / 'why.html'}")
    if not page.parent.is_dir():
        raise AffuseError(f"{page}: there is no folder {page.parent}; make it, or give --explain another place")
    if page.exists() and any(path.exists() and page.samefile(path) for path in cameras.values()):
        raise AffuseError(f"{page}: --explain would write over the recording; give it another place")
