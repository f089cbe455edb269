"""What doctor knows of data folders: SEE's, N-MNIST's and event-audio digits', and what a finding is."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from affuse.data.digits import EventAudioDigits
from affuse.data.fsdd import read_fsdd
from affuse.data.mnist_dvs import find_mnist_dvs, read_screen_digit
from affuse.data.nmnist import NMNIST
from affuse.data.ntidigits import read_ntidigits
from affuse.data.see import SequenceName, is_lfs_pointer, read_annotations, take_census
from affuse.types import AffuseError

_NAMED = 5  # examples that a finding lists


@dataclass(frozen=True)
class Finding:
    """One thing that a person should know. An ``error`` makes the command fail, a ``warning`` does not."""

    severity: Literal["error", "warning", "info"]
    what: str
    remedy: str = ""


def check_see(root: str | Path, counts: dict[str, Any] | None = None) -> list[Finding]:
    """Check a folder in SEE's layout: files, names, labels, and subjects that stand in more than one subset.

    Args:
        root: folder with ``event``, ``frame`` and ``emotion.json``.
        counts: filled with what was counted.
    """
    root = Path(root)
    counts = {} if counts is None else counts
    try:
        annotations = read_annotations(root)
    except AffuseError as error:
        return [Finding("error", str(error))]
    census = take_census(root, annotations)
    usable = census.sequences
    counts |= {
        "annotated": len(annotations.database),
        "usable": len(usable),
        "frames": sum(len(sequence.frames) for sequence in usable),
        "subjects": len({sequence.fields.subject for sequence in usable}),
        "by_subset": dict(Counter(sequence.subset for sequence in usable)),
        "by_label": dict(Counter(sequence.label for sequence in usable)),
        "by_lighting": dict(Counter(sequence.fields.lighting for sequence in usable)),
        "synthetic": annotations.synthetic,
    }
    findings: list[Finding] = []
    if census.skipped:
        named = [f"{name} ({reason})" for name, reason in census.skipped.items()]
        findings.append(
            Finding(
                "error",
                f"{len(named)} of {len(annotations.database)} sequences cannot be used: {some(named)}",
                "copy them again, or raise data.max_bad_fraction to train without them",
            )
        )
    findings += _check_image_files(root, counts)
    for kind in ("missing", "in one camera only"):
        if census.bad_frames[kind]:
            findings.append(
                Finding("warning", f"{census.bad_frames[kind]} annotated frames {_BAD[kind]}", "copy again")
            )
    if census.label_differs_from_name:
        names = census.label_differs_from_name
        what = f"{len(names)} sequences have another label than their name says: {some(names)}"
        findings.append(Finding("warning", what, "check emotion.json"))
    stray = _stray_sequences(root, annotations.labels, set(annotations.database))
    if stray:
        what = f"{len(stray)} folders are not in emotion.json: {some(stray)}"
        findings.append(Finding("warning", what, "they are not used"))
    findings.append(_subjects(annotations.database))
    return findings


_BAD = {"missing": "do not exist", "in one camera only": "exist for one camera only and are left out"}


def check_nmnist(root: str | Path, counts: dict[str, Any] | None = None) -> list[Finding]:
    """Check a folder of N-MNIST recordings by reading all of it.

    Args:
        root: folder of the recordings and ``labels.txt``.
        counts: filled with what was counted.
    """
    counts = {} if counts is None else counts
    try:
        facts = NMNIST(str(root), max_bad_fraction=1.0).splits(0).facts
    except AffuseError as error:
        return [Finding("error", str(error))]
    counts |= {"usable": sum(facts["counts"].values()), "unusable": facts["bad"]}
    if facts["bad"]:
        what = f"{facts['bad']} recordings cannot be used: {some(list(facts['bad_names']))}"
        return [Finding("error", what, "copy them again, or raise data.max_bad_fraction to train without them")]
    return []


def check_event_audio_digits(root: str | Path, counts: dict[str, Any] | None = None) -> list[Finding]:
    """Check what there is of ``nmnist``, ``mnist_dvs``, ``fsdd`` and ``ntidigits`` in a folder, by reading all of it.

    Args:
        root: the folder that holds them.
        counts: filled with what was counted.
    """
    root = Path(root)
    counts = {} if counts is None else counts
    findings: list[Finding] = []
    seen = [name for name in ("nmnist", "mnist_dvs") if (root / name).exists()]
    heard = [name for name in ("fsdd", "ntidigits") if (root / name).exists()]
    for kind, found, known in (("event", seen, "nmnist or mnist_dvs"), ("spoken", heard, "fsdd or ntidigits")):
        if not found:
            findings.append(
                Finding("error", f"{root}: no folder of {kind} digits", f"name it {known}, or link it there")
            )
    if "nmnist" in seen:
        mine: dict[str, Any] = {}
        findings += check_nmnist(root / "nmnist", mine)
        counts |= {f"nmnist_{name}": value for name, value in mine.items()}
    if "mnist_dvs" in seen:
        findings += _check_mnist_dvs(root / "mnist_dvs", counts)
    for name in heard:
        try:
            recordings, bad = (read_fsdd if name == "fsdd" else read_ntidigits)(root / name, 1.0)
        except AffuseError as error:
            findings.append(Finding("error", str(error)))
            continue
        counts |= {f"{name}_usable": len(recordings), f"{name}_unusable": len(bad)}
        counts[f"{name}_speakers"] = len({one.speaker for one in recordings})
        if bad:
            what = f"{len(bad)} recordings of {name} cannot be used: {some(list(bad))}"
            findings.append(
                Finding("error", what, "copy them again, or raise data.max_bad_fraction to train without them")
            )
    if any(finding.severity == "error" for finding in findings):
        return findings
    try:
        facts = (
            EventAudioDigits(
                str(root),
                event_source="nmnist" if "nmnist" in seen else "mnist_dvs",
                audio_source="fsdd" if "fsdd" in heard else "ntidigits",
                audio_form="cochlea",
                scale=counts.get("mnist_dvs_scale", 4),
                max_bad_fraction=1.0,
            )
            .splits(0)
            .facts
        )
    except AffuseError as error:
        return [*findings, Finding("error", str(error))]
    counts["pairs"] = dict(facts["counts"])
    return findings


def _check_mnist_dvs(root: Path, counts: dict[str, Any]) -> list[Finding]:
    bad: list[str] = []
    usable: dict[str, int] = {}
    for scale in (4, 8, 16):
        try:
            recordings = find_mnist_dvs(root, scale)
        except AffuseError as error:
            if "holds no recording" in str(error):
                continue
            return [Finding("error", str(error))]
        for one in recordings:
            try:
                read_screen_digit(one.path)
            except AffuseError as error:
                bad.append(str(error))
            else:
                usable[f"scale{scale}"] = usable.get(f"scale{scale}", 0) + 1
    counts |= {"mnist_dvs": usable, "mnist_dvs_unusable": len(bad)}
    if bad:
        what = f"{len(bad)} recordings of MNIST-DVS cannot be used: {some(bad)}"
        return [Finding("error", what, "copy them again or take them away: a run stops at the first one")]
    if not usable:
        return [Finding("error", f"{root}: holds no recording named as mnist_0_scale04_0001.aedat")]
    counts["mnist_dvs_scale"] = int(next(iter(usable)).removeprefix("scale"))
    return []


def _check_image_files(root: Path, counts: dict[str, Any]) -> list[Finding]:
    """Every ``.jpg`` below ``event`` and ``frame``: empty, a Git LFS pointer, unreadable, or cut short."""
    bad: dict[str, list[str]] = {}
    total = 0
    for kind in ("event", "frame"):
        for folder, _, names in os.walk(root / kind):
            for name in sorted(names):
                if name.lower().endswith(".jpg"):
                    total += 1
                    path = Path(folder) / name
                    fault = _fault(path)
                    if fault:
                        bad.setdefault(fault, []).append(path.relative_to(root).as_posix())
    counts["image_files"] = total
    remedies = {"a Git LFS pointer": "run 'git lfs pull' where the data came from"}
    return [
        Finding("error", f"{len(names)} image files are {fault}: {some(names)}", remedies.get(fault, "copy them again"))
        for fault, names in bad.items()
    ]


def _fault(path: Path) -> str:
    """What is wrong with a JPEG, by its size and its two ends: decoding 250,000 images would take long."""
    try:
        size = path.stat().st_size
        if size == 0:
            return "empty"
        if is_lfs_pointer(path):
            return "a Git LFS pointer"
        with path.open("rb") as file:
            head = file.read(3)
            file.seek(-min(size, 64), os.SEEK_END)
            tail = file.read()
    except OSError:
        return "unreadable"
    if head != b"\xff\xd8\xff":
        return "no JPEG"
    return "" if b"\xff\xd9" in tail else "cut short"


def _stray_sequences(root: Path, labels: tuple[str, ...], known: set[str]) -> list[str]:
    stray = []
    for kind in ("event", "frame"):
        for label in sorted(path.name for path in (root / kind).iterdir() if path.is_dir()):
            if label not in labels:
                stray.append(f"{kind}/{label}")
                continue
            stray += [
                f"{kind}/{label}/{p.name}" for p in sorted((root / kind / label).iterdir()) if p.name not in known
            ]
    return stray


def _subjects(database: Mapping[str, Mapping[str, Any]]) -> Finding:
    subsets: dict[str, set[str]] = {}
    for name, entry in database.items():
        try:
            subsets.setdefault(SequenceName.parse(name).subject, set()).add(entry["subset"])
        except AffuseError:
            continue  # already counted among the sequences that cannot be used
    shared = sorted(subject for subject, found in subsets.items() if len(found) > 1)
    if not shared:
        return Finding("info", f"none of the {len(subsets)} subjects stands in more than one split")
    what = f"{len(shared)} of {len(subsets)} subjects stand in more than one split: {some(shared)}"
    return Finding("warning", what, "data.split: subject_disjoint keeps them apart")


def some(names: list[str]) -> str:
    """The first of many names."""
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
