"""doctor: what is installed, which fast forms are active and why no faster ones, and whether a data folder is whole."""

from __future__ import annotations

import importlib.util
import io
import platform
from collections.abc import Callable, Mapping
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from affuse import torchvision_schemas
from affuse.data import DATASETS
from affuse.doctor_clips import check_ave, check_crema_d, check_drive_and_act, check_ravdess
from affuse.doctor_data import Finding, check_event_audio_digits, check_nmnist, check_see
from affuse.doctor_faces import check_clip_folder, check_dfew, check_expression_lists
from affuse.doctor_features import (
    check_features,
    check_mintrec,
    check_mmmo_youtube,
    check_mmsa,
    check_mosi_utterances,
    check_mult_glove,
)
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
    "text": (("transformers",), "text encoders and tokenizers"),
    "audio": (("opensmile",), "voices in clips"),
    "face": (("dlib", "face_recognition_models"), "faces in clips"),
    "explain": (("sklearn",), "t-SNE in the report"),
    "export": (("onnx", "onnxscript", "onnxruntime"), "ONNX files"),
    "bench": (("mambapy", "spikingjelly", "snntorch", "tonic"), "the peers of benchmarks/"),
}
CHECKS: dict[str, Callable[[str | Path, dict[str, Any]], list[Finding]]] = {
    "see": check_see,
    "nmnist": check_nmnist,
    "event_audio_digits": check_event_audio_digits,
    "mmsa": check_mmsa,
    "mult_glove": check_mult_glove,
    "mintrec": check_mintrec,
    "mosi_utterances": check_mosi_utterances,
    "mmmo_youtube": check_mmmo_youtube,
    "features": check_features,
    "ravdess": check_ravdess,
    "crema_d": check_crema_d,
    "ave": check_ave,
    "drive_and_act": check_drive_and_act,
    "dfew": check_dfew,
    "expression_lists": check_expression_lists,
    "clip_folder": check_clip_folder,
}


def doctor(data: str | None = None, root: str | Path | None = None) -> dict[str, Any]:
    """Look at the installation and, where `data` names a data set, at its folder.

    Args:
        data: a name in `CHECKS`.
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
        if data not in CHECKS:
            known = sorted(CHECKS) if data not in DATASETS else f"{sorted(CHECKS)}: {data!r} keeps nothing on disk"
            raise AffuseError(f"cannot check the data set {data!r}; choose one of {known}")
        counts: dict[str, Any] = {}
        findings += CHECKS[data](root, counts)
        report["data"] = {"name": data, "root": str(root), **counts}
    report["findings"] = [asdict(finding) for finding in findings]
    return report


def has_errors(report: Mapping[str, Any]) -> bool:
    """Whether anything in the report is an error."""
    return any(finding["severity"] == "error" for finding in report["findings"])


def active_forms() -> dict[str, str]:
    """Which form of each operation runs here, why, and when another one would; a run keeps this beside its numbers."""
    on_gpu, why_on_gpu = selective_scan.active_form("cuda")
    return {
        name: f"{form} ({why}); {', '.join(other for other in forms if other != form)} off: {variable} chooses"
        for name, variable, forms, (form, why) in (
            ("selective_scan", "AFFUSE_SCAN", selective_scan.FORMS, selective_scan.active_form()),
            ("event images and decoding", "AFFUSE_EVENTS", events.FORMS, events.active_form()),
            ("spiking neurons", "AFFUSE_LIF", lif.FORMS, lif.active_form()),
        )
    } | {
        "selective_scan on an NVIDIA GPU": f"{on_gpu} ({why_on_gpu})",
        "expert dispatch": "sparse: only selected experts run; dense is off: exported graphs take it",
    }


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
