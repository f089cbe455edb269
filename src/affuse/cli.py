"""The command line: verbs to commands, nothing else."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from affuse import cli_answers
from affuse.types import AffuseError
from affuse_cli import INTERRUPTED, interrupts_end_the_process

DESCRIPTION = "Reads people from several sensors at once, and says why."


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is 0 when it did what was asked, 1 on an error of the input, 130 when interrupted."""
    try:
        parser = _parser()
        words = list(sys.argv[1:] if argv is None else argv)
        plain, settings = _settings_apart(words)
        arguments, others = parser.parse_known_args(plain)
        overrides = [*settings, *others]
        arguments.command = shlex.join(["affuse", *words])
        if overrides and arguments.verb not in ("fit", "evaluate", "predict", "explain", "data", "energy"):
            parser.error(f"unknown arguments: {' '.join(overrides)}")
        return arguments.run(arguments, overrides)
    except AffuseError as error:
        print(f"affuse: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("affuse: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader, such as head, has had enough; without this Python would complain when it flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"affuse: {where}{error.strerror or error}", file=sys.stderr)
        return 1


def _settings_apart(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Overrides ``--section.key value`` apart from the rest: argparse would take their values for files that it waits for."""
    plain: list[str] = []
    settings: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word == "--":
            return [*plain, word, *rest], settings
        if word.startswith("--") and "." in word.partition("=")[0]:
            settings += [word] if "=" in word else [word, *rest[:1]]
            rest = rest if "=" in word else rest[1:]
        else:
            plain.append(word)
    return plain, settings


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("affuse", description=DESCRIPTION)
    parser.add_argument("--version", action="version", version=f"affuse {metadata.version('affuse')}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    fit = verbs.add_parser("fit", help="train by a recipe and write a run", allow_abbrev=False)
    fit.add_argument("recipe", nargs="?", help="YAML file; its settings are overridden by --section.key value")
    fit.add_argument("--out", type=Path, help="folder of the run (default: runs/RECIPE-TIME)")
    fit.add_argument("--resume", type=Path, metavar="RUN", help="continue an interrupted run")
    fit.add_argument("--quiet", action="store_true", help="no progress bar")
    fit.set_defaults(run=_fit)

    evaluate = verbs.add_parser("evaluate", help="print and write the metrics of a run", allow_abbrev=False)
    evaluate.add_argument("path", metavar="RUN", type=Path)
    evaluate.set_defaults(run=_evaluate)

    cli_answers.add_verbs(verbs)

    energy = verbs.add_parser("energy", help="operations and energy of a run, layer by layer", allow_abbrev=False)
    energy.add_argument("path", metavar="RUN", type=Path)
    energy.add_argument("--split", choices=("train", "validation", "test"), default="test")
    energy.add_argument(
        "--samples", type=int, metavar="N", help="how many, evenly spaced over the split (default: all)"
    )
    energy.add_argument("--mac-pj", type=float, default=4.6, help="picojoules a multiply-accumulate (default 4.6)")
    energy.add_argument("--ac-pj", type=float, default=0.9, help="picojoules an accumulate (default 0.9)")
    energy.add_argument("--neuron-updates", action="store_true", help="the sums include updates of neurons' potentials")
    energy.add_argument("--json", action="store_true", help="print JSON")
    energy.set_defaults(run=_energy)

    doctor = verbs.add_parser("doctor", help="what is installed and active; check a data set's folder")
    doctor.add_argument("--data", help="data set to check")
    doctor.add_argument("--root", type=Path, help="its folder")
    doctor.add_argument("--json", action="store_true", help="print JSON")
    doctor.set_defaults(run=_doctor)

    what = "convert feature files into safetensors and JSON, or find the faces of clips once (prepare)"
    data = verbs.add_parser("data", help=what, allow_abbrev=False)
    data.add_argument("action", choices=("convert", "prepare"))
    what = "convert: mmsa, mult_glove, mintrec, mosi_utterances or mmmo_youtube; prepare: dfew, clip_folder, ..."
    data.add_argument("name", metavar="NAME", help=what)
    data.add_argument("root", metavar="ROOT", type=Path, help="its folder; its settings follow as --data.key value")
    what = "the folder to make; of prepare, what --data.cache names"
    data.add_argument("out", metavar="OUT", type=Path, help=what)
    data.add_argument("--seed", type=int, default=0, help="of what convert draws")
    data.add_argument("--workers", type=int, default=1, metavar="N", help="processes of prepare (default 1)")
    data.set_defaults(run=_data)

    features = verbs.add_parser("features", help="text, sound and face features of raw clips", allow_abbrev=False)
    features.add_argument("clips", metavar="VIDEO", nargs="+", type=Path)
    features.add_argument("out", metavar="OUT", type=Path, help="the folder to make; the data set features reads it")
    features.add_argument(
        "--transcripts", type=Path, metavar="DIR", help="folder of CLIP.srt, .vtt or .txt (default: beside the clips)"
    )
    features.add_argument("--audio", choices=("log_mel", "egemaps"), default="log_mel")
    features.add_argument("--text-encoder", metavar="NAME", help="a text model of transformers, by name or folder")
    features.add_argument("--fps", type=float, default=15.0, help="frames a second in which a face is searched")
    features.set_defaults(run=_features)

    events = verbs.add_parser("events", help="simulate events from a video, or describe an event file")
    events.add_argument("source", metavar="VIDEO | info", help="a video, or the word info")
    events.add_argument(
        "target", metavar="OUT | FILE", type=Path, help="the .npz to write, or the event file to describe"
    )
    events.add_argument("--threshold", type=float, default=0.2, help="contrast threshold, log intensity (default 0.2)")
    events.add_argument("--seed", type=int, default=0)
    events.add_argument("--errors", choices=("raise", "drop"), default="raise", help=cli_answers.ERRORS)
    events.set_defaults(run=_events)
    return parser


def _fit(arguments: argparse.Namespace, overrides: list[str]) -> int:
    with interrupts_end_the_process():
        from affuse import fit, report, runs
        from affuse.recipe import load_recipe

    if (arguments.recipe is None) == (arguments.resume is None):
        raise AffuseError("give either a recipe to train by, or --resume RUN")
    if arguments.resume is not None and arguments.out is not None:
        raise AffuseError("--out is for a new run; a resumed one stays in its folder: leave --out out")
    progress = not arguments.quiet and sys.stderr.isatty()
    out: Path | None = None
    try:
        if arguments.resume is not None:
            out = arguments.resume
            fit.resume(out, overrides, progress, arguments.command)
        else:
            recipe = load_recipe(arguments.recipe, overrides)
            stamp = time.strftime("%Y%m%d-%H%M%S")
            out = arguments.out or Path("runs") / f"{Path(arguments.recipe).stem}-{stamp}"
            fit.fit(recipe, out, progress, command=arguments.command)
    except KeyboardInterrupt:
        if out is None or not (out / runs.RUN).is_file():  # nothing has been written yet
            raise
        if runs.read_info(out)["status"] == "complete":
            remedy = "training is complete; write its report with: affuse evaluate"
        else:
            remedy = "continue with: affuse fit --resume"
        print(f"affuse: interrupted; {remedy} {shlex.quote(str(out))}", file=sys.stderr)
        return INTERRUPTED
    _print(report.report_table(json.loads((out / runs.METRICS).read_text())))
    print(f"run:    {out}\nreport: {out / 'report.html'}")
    return 0


def _evaluate(arguments: argparse.Namespace, overrides: list[str]) -> int:
    from affuse import evaluate, report, runs

    _print(report.report_table(evaluate.evaluate(arguments.path, overrides)))
    print(f"metrics: {arguments.path / runs.METRICS}\nreport:  {arguments.path / 'report.html'}")
    return 0


def _energy(arguments: argparse.Namespace, overrides: list[str]) -> int:
    from affuse.energy import estimate, tables

    constants = estimate.Constants(arguments.mac_pj, arguments.ac_pj)
    found = estimate.energy(
        arguments.path, arguments.split, arguments.samples, constants, arguments.neuron_updates, overrides
    )
    if arguments.json:
        print(json.dumps(found, indent=2))
    else:
        _print(tables.table(found))
        print(f"energy: {arguments.path / estimate.ENERGY}")
    return 0


def _doctor(arguments: argparse.Namespace, _: list[str]) -> int:
    from affuse import doctor

    found = doctor.doctor(arguments.data, arguments.root)
    print(json.dumps(found, indent=2) if arguments.json else doctor.render(found))
    return 1 if doctor.has_errors(found) else 0


def _check_seed(seed: int) -> None:
    if seed < 0:
        raise AffuseError(f"--seed is {seed}; it must be a number from 0 up")


def _data(arguments: argparse.Namespace, overrides: list[str]) -> int:
    _check_seed(arguments.seed)
    settings: dict[str, Any] = {}
    words = list(overrides)
    while words:
        key, equals, value = words.pop(0).partition("=")
        if not key.startswith("--data.") or not (equals or words):
            raise AffuseError(f"expected --data.key value, got {key!r}")
        settings[key.removeprefix("--data.")] = value if equals else words.pop(0)
    if arguments.action == "prepare":
        return _prepare(arguments, settings)
    from affuse.data.features import convert

    out = convert(arguments.name, arguments.root, arguments.out, settings, arguments.seed)
    print(f"{out}: train on it with data: {{name: features, root: {out}}}")
    return 0


def _prepare(arguments: argparse.Namespace, settings: Mapping[str, Any]) -> int:
    from affuse.data.face_preparation import prepare_data_set

    def progress(done: int, total: int) -> None:
        if sys.stderr.isatty():
            print(f"\r{done} of {total} clips", end="" if done < total else "\n", file=sys.stderr, flush=True)

    workers = arguments.workers if arguments.workers > 1 else 0
    try:
        found = prepare_data_set(arguments.name, arguments.root, arguments.out, settings, workers, progress)
    except KeyboardInterrupt:
        print("affuse: interrupted; the same command continues", file=sys.stderr)
        return INTERRUPTED
    for line in found.failed:
        print(f"affuse: cannot be read: {line}", file=sys.stderr)
    print(
        f"{found.count} clips prepared, {found.reused} were before, {len(found.failed)} cannot be read\n"
        f"{found.frames} frames, {found.without_face} of them without a face; {found.frames_per_second:.1f} frames/s in "
        f"{found.seconds:.1f} s, {max(1, workers)} processes\n"
        f"{arguments.out}: train on it with --data.cache {shlex.quote(str(arguments.out))}"
    )
    return 0 if found.count + found.reused else 1


def _features(arguments: argparse.Namespace, _: list[str]) -> int:
    from affuse.features import Extraction, extract_all

    extraction = Extraction(arguments.audio, text_encoder=arguments.text_encoder, fps=arguments.fps)
    if arguments.transcripts is not None:
        extraction = dataclasses.replace(extraction, transcripts=arguments.transcripts)
    for line in extract_all(arguments.clips, arguments.out, extraction):
        print(line, flush=True)
    print(f"{arguments.out}: write the task, the splits and the targets into its manifest.json to train on it")
    return 0


def _events(arguments: argparse.Namespace, _: list[str]) -> int:
    from affuse.signals.events import describe, read_events

    if arguments.source == "info":
        for key, value in describe(read_events(arguments.target, errors=arguments.errors)).items():
            print(f"{key}: {f'{value:.1f}' if key == 'rate_hz' else value}")
        return 0
    from affuse.signals.video import read_video, simulate_events_of_video

    _check_seed(arguments.seed)
    if not 0 < arguments.threshold < math.inf:
        raise AffuseError(f"--threshold is {arguments.threshold:g}; it must be a number above 0")
    if len(list(read_video(arguments.source, max_frames=2))) < 2:
        raise AffuseError(
            f"{arguments.source}: a single picture; where nothing moves there are no events: give a video"
        )
    events = simulate_events_of_video(
        arguments.source, arguments.target, threshold=arguments.threshold, seed=arguments.seed
    )
    print(
        f"{arguments.target}: {len(events)} events, {events.duration_us / 1e6:.3f} s, {events.width} x {events.height}"
    )
    return 0


def _print(renderable: Any) -> None:
    from rich.console import Console

    Console().print(renderable)


if __name__ == "__main__":
    sys.exit(main())
