"""doctor: what is installed, which fast forms are active and why no faster ones, and whether a data folder is whole."""

from __future__ import annotations

import importlib.util
import io
import os
import platform
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import torch

from affuse import torchvision_schemas
from affuse.data import DATASETS
from affuse.data.nmnist import NMNIST
from affuse.data.see import SequenceName, is_lfs_pointer, read_annotations, take_census
from affuse.ops import events, lif, selective_scan
from affuse.types import AffuseError

_PACKAGES = (
    "affuse",
    "torch",
    "torchvision",
    "lightning",
    "torchmetrics",
    "timm",
    "numpy",
    "av",
    "opencv-python-headless",
)
# Extra -> the modules that it brings, and what they are for.
_EXTRAS = {
    "events": (("aedat",), "AEDAT4 event files"),
    "bench": (("mambapy", "spikingjelly", "snntorch", "tonic"), "the peers of benchmarks/"),
}
_NAMED = 5  # examples that a finding lists


@dataclass(frozen=True)
class Finding:
    """One thing that a person should know. An ``error`` makes the command fail, a ``warning`` does not."""

    severity: Literal["error", "warning", "info"]
    what: str
    remedy: str = ""


def doctor(data: str | None = None, root: str | Path | None = None) -> dict[str, Any]:
    """Look at the installation and, where `data` names a data set, at its folder.

    Args:
        data: ``see`` or ``nmnist``.
        root: its folder.

    Returns:
        Plain JSON values: ``versions``, ``torchvision``, ``extras``, ``forms``, ``device``, ``findings`` (``severity``,
        ``what``, ``remedy``) and, of a data set, ``data`` with its counts.

    Raises:
        AffuseError: one of the two is given without the other, or the data set is unknown or has no folder.
    """
    if (data is None) != (root is None):
        raise AffuseError("give both: --data NAME and --root DIR")
    report: dict[str, Any] = {
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in _PACKAGES}},
        "torchvision": _torchvision(),
        "extras": _extras(),
        "forms": active_forms(),
        "device": _device(),
    }
    findings: list[Finding] = []
    if data is not None and root is not None:
        checks = {"see": check_see, "nmnist": check_nmnist}
        if data not in checks:
            known = sorted(checks) if data not in DATASETS else f"{sorted(checks)}: {data!r} keeps nothing on disk"
            raise AffuseError(f"cannot check the data set {data!r}; choose one of {known}")
        counts: dict[str, Any] = {}
        findings += checks[data](root, counts)
        report["data"] = {"name": data, "root": str(root), **counts}
    report["findings"] = [asdict(finding) for finding in findings]
    return report


def has_errors(report: Mapping[str, Any]) -> bool:
    """Whether anything in the report is an error."""
    return any(finding["severity"] == "error" for finding in report["findings"])


def active_forms() -> dict[str, str]:
    """Which form of each operation runs here, why, and when another one would; a run keeps this beside its numbers."""
    return {
        name: f"{form} ({why}); {', '.join(other for other in forms if other != form)} off: {variable} chooses"
        for name, variable, forms, (form, why) in (
            ("selective_scan", "AFFUSE_SCAN", selective_scan.FORMS, selective_scan.active_form()),
            ("event images", "AFFUSE_EVENTS", events.FORMS, events.active_form()),
            ("spiking neurons", "AFFUSE_LIF", lif.FORMS, lif.active_form()),
        )
    } | {"expert dispatch": "sparse: only selected experts run; dense is off: exported graphs take it"}


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
                f"{len(named)} of {len(annotations.database)} sequences cannot be used: {_some(named)}",
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
        what = f"{len(names)} sequences have another label than their name says: {_some(names)}"
        findings.append(Finding("warning", what, "check emotion.json"))
    stray = _stray_sequences(root, annotations.labels, set(annotations.database))
    if stray:
        what = f"{len(stray)} folders are not in emotion.json: {_some(stray)}"
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
        what = f"{facts['bad']} recordings cannot be used: {_some(list(facts['bad_names']))}"
        return [Finding("error", what, "copy them again, or raise data.max_bad_fraction to train without them")]
    return []


def render(report: Mapping[str, Any]) -> str:
    """The report as text for a terminal."""
    from rich.console import Console
    from rich.table import Table

    console = Console(file=io.StringIO(), width=110, highlight=False)
    table = Table(title="affuse doctor", show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    table.add_row("versions", ", ".join(f"{name} {version}" for name, version in report["versions"].items()))
    threads = report["device"]["threads"]
    table.add_row("device", f"{report['device']['name']}, {threads} thread{'s' * (threads != 1)}")
    table.add_row("torchvision", report["torchvision"]["note"])
    for name, extra in report["extras"].items():
        missing = f"not installed; for {extra['for']}: {extra['pip']}"
        table.add_row(f"extra {name}", "installed" if extra["installed"] else missing)
    for name, form in report["forms"].items():
        table.add_row(name, form)
    for name, value in report.get("data", {}).items():
        shown = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else str(value)
        table.add_row(f"data {name}" if name != "name" else "data", shown)
    console.print(table, markup=False)
    for finding in report["findings"]:
        remedy = f" ({finding['remedy']})" if finding["remedy"] else ""
        console.print(f"{finding['severity']}: {finding['what']}{remedy}", markup=False, soft_wrap=True)
    if "data" in report and not has_errors(report):
        console.print("no errors found in the data", markup=False)
    return str(console.file.getvalue()).rstrip()  # type: ignore[attr-defined]


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def _torchvision() -> dict[str, Any]:
    active = torchvision_schemas.declare_if_needed()  # done once, at the import of affuse; this only asks
    note = (
        "compiled operators do not fit this torch; two schemas are declared in their place, models and transforms work"
        if active
        else "whole"
    )
    return {"remedy_active": active, "note": note}


def _extras() -> dict[str, Any]:
    found = {}
    for extra, (modules, purpose) in _EXTRAS.items():
        installed = all(importlib.util.find_spec(module) is not None for module in modules)
        found[extra] = {"installed": installed, "for": purpose, "pip": f"pip install 'affuse[{extra}]'"}
    return found


def _device() -> dict[str, Any]:
    cuda = torch.cuda.is_available()
    why = "this torch is a CPU build" if torch.version.cuda is None else "torch finds no CUDA device"
    name = torch.cuda.get_device_name(0) if cuda else f"CPU ({platform.machine()}); no GPU: {why}"
    return {"cuda": cuda, "name": name, "threads": torch.get_num_threads()}


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
        Finding(
            "error", f"{len(names)} image files are {fault}: {_some(names)}", remedies.get(fault, "copy them again")
        )
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
    what = f"{len(shared)} of {len(subsets)} subjects stand in more than one split: {_some(shared)}"
    return Finding("warning", what, "data.split: subject_disjoint keeps them apart")


def _some(names: list[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
