"""What doctor knows of folders of features: whether they are the published files, whole, and what stands in several splits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from affuse.data import feature_folder, mintrec, mmmo_youtube, mmsa, mosi_utterances, mult_glove
from affuse.data.features import Features
from affuse.data.splits import DataConfig
from affuse.data.stored_sequences import sha256_of
from affuse.doctor_data import Finding, some
from affuse.types import AffuseError

_KINDS: tuple[tuple[Literal["mosi", "mosei"], Literal["aligned", "unaligned"]], ...] = (
    ("mosi", "aligned"),
    ("mosi", "unaligned"),
    ("mosei", "aligned"),
    ("mosei", "unaligned"),
)


def check_mmsa(root: str | Path, counts: dict[str, Any] | None = None) -> list[Finding]:
    """Check every MMSA file below a folder: whether it is the published one (SHA-256), its schema, sizes and subjects.

    Args:
        root: MMSA's data folder, or that of a file.
        counts: filled with what was counted, by file.
    """
    root, counts = Path(root), {} if counts is None else counts
    places = {(d, a): root / d.upper() / "Processed" / f"{a}_50.pkl" for d, a in _KINDS}
    found = {kind: path for kind, path in places.items() if path.is_file()}
    for _, alignment in _KINDS[:2]:
        for path in (root / "Processed" / f"{alignment}_50.pkl", root / f"{alignment}_50.pkl"):
            if path.is_file():
                near = [parent.name.upper() for parent in path.resolve().parents[:2]]  # MOSEI/Processed
                found["mosei" if "MOSEI" in near else "mosi", alignment] = path
    if not found:
        return [Finding("error", f"{root}: no MMSA features: expected MOSI/Processed/aligned_50.pkl or its kin")]
    findings: list[Finding] = []
    for (dataset, alignment), path in found.items():
        about: dict[str, Any] = {}
        findings += _hash(path, mmsa.SHA256, about)
        config = mmsa.MMSA(str(path.parent), dataset, alignment)
        findings += _facts(str(path), config, about, dict(zip(feature_folder.PARTS, mmsa.SIZES[dataset], strict=True)))
        counts[path.relative_to(root).as_posix()] = about
    return findings


def check_mult_glove(root: str | Path, counts: dict[str, Any] | None = None) -> list[Finding]:
    """Check every file of MulT in a folder: schema, padding, subjects. Nobody has published their SHA-256.

    Args:
        root: the folder.
        counts: filled with what was counted, by file.
    """
    counts = {} if counts is None else counts
    findings: list[Finding] = []
    for dataset, alignment in _KINDS:
        config = mult_glove.MulTGloVe(str(root), dataset, alignment)
        try:
            path = config.path
        except AffuseError:
            continue
        about: dict[str, Any] = {}
        findings += [*_hash(path, {}, about), *_facts(str(path), config, about, {})]
        counts[path.name] = about
    return findings or [Finding("error", f"{root}: no file of MulT: expected mosi_data.pkl or its kin")]


def check_mintrec(root: str | Path, counts: dict[str, Any] | None = None) -> list[Finding]:
    """Check MIntRec's folder: annotations, feature pickles, clips without features.

    Args:
        root: folder of the tsv files.
        counts: filled with what was counted.
    """
    root, counts = Path(root), {} if counts is None else counts
    findings: list[Finding] = []
    held = [name for name, file in mintrec.FEATURES.items() if (root / file).is_file()]
    for name, file in mintrec.FEATURES.items():
        if name in held:
            findings += _hash(root / file, {}, counts.setdefault(file, {}))
        else:
            findings.append(
                Finding("error", f"{root / file}: no such file", "without it, leave it out of data.modalities")
            )
    sizes = dict(zip(feature_folder.PARTS, (1334, 445, 445), strict=True))
    if held:
        config = mintrec.MIntRec(str(root), modalities=tuple(held))
        return [*findings, *_facts(str(root), config, counts, sizes)]
    try:
        rows = {s: len(mintrec.read_annotations(root / f"{part}.tsv")) for s, part in mintrec.PARTS.items()}
    except AffuseError as error:
        return [*findings, Finding("error", str(error))]
    counts["counts"] = rows
    return [*findings, *_sizes(str(root), rows, sizes)]


def check_mosi_utterances(root: str | Path, counts: dict[str, Any] | None = None) -> list[Finding]:
    """Check the csv files of MOSI's utterances: that rows and labels fit together, sizes, videos in both parts.

    Args:
        root: the folder.
        counts: filled with what was counted.
    """
    counts = {} if counts is None else counts
    sizes = {"train": 1447, "validation": 166, "test": 160}
    return _facts(str(root), mosi_utterances.MOSIUtterances(str(root)), counts, sizes)


def check_mmmo_youtube(root: str | Path, counts: dict[str, Any] | None = None) -> list[Finding]:
    """Check the HDF5 files of MMMO or YouTube, in the folder or in ``mmmo`` and ``youtube`` below it.

    Args:
        root: the folder.
        counts: filled with what was counted.
    """
    root, counts = Path(root), {} if counts is None else counts
    names: tuple[Literal["mmmo", "youtube"], ...] = ("mmmo", "youtube")
    below = [name for name in names if (root / name).is_dir()]
    findings: list[Finding] = []
    for name in below:
        config = mmmo_youtube.MMMOYouTube(str(root / name), name)
        findings += _facts(str(root / name), config, counts.setdefault(name, {}), {})
    if below:
        return findings
    for name in names:  # the folder does not say which of the two it is; its labels do
        about: dict[str, Any] = {}
        found = _facts(str(root), mmmo_youtube.MMMOYouTube(str(root), name), about, {})
        if not any(finding.severity == "error" for finding in found):
            counts |= {"dataset": name, **about}
            return found
        findings = findings or found
    return findings


def check_features(root: str | Path, counts: dict[str, Any] | None = None) -> list[Finding]:
    """Check a folder in the project's own format: that manifest and arrays fit together and are as they were written.

    Args:
        root: the folder.
        counts: filled with what was counted.
    """
    root, counts = Path(root), {} if counts is None else counts
    try:
        manifest, samples = feature_folder.read_features(root)
        counts["sha256"] = sha256_of(root / feature_folder.ARRAYS)
    except AffuseError as error:
        return [Finding("error", str(error))]
    counts |= {"name": manifest.get("name"), "samples": len(samples), "without_task": manifest.get("task") is None}
    findings = []
    if counts["sha256"] != manifest.get("sha256"):
        what = f"{root / feature_folder.ARRAYS}: not as it was written (its SHA-256 is not the manifest's)"
        findings.append(Finding("error", what, "copy it again, or convert again"))
    if counts["without_task"]:
        what = f"{root / feature_folder.MANIFEST}: names no task"
        return [*findings, Finding("warning", what, "write task, splits and targets there before training")]
    return [*findings, *_facts(str(root), Features(str(root)), counts, {})]


def _hash(path: Path, known: Mapping[tuple[str, str], str], about: dict[str, Any]) -> list[Finding]:
    """Whether a file is a published one; all 64 digits are compared."""
    try:
        about["sha256"] = sha256_of(path)
    except AffuseError as error:
        return [Finding("error", str(error))]
    if not known:
        return [Finding("info", f"{path}: no SHA-256 of this file has been published; this one's is {about['sha256']}")]
    for (dataset, alignment), published in known.items():
        if about["sha256"] == published:
            about["published_as"] = f"{dataset.upper()} {alignment}"
            return [Finding("info", f"{path}: {about['published_as']} as published (all of its SHA-256 is equal)")]
    what = f"{path}: not a file that MMSA published (SHA-256 {about['sha256'][:8]}...{about['sha256'][-8:]})"
    return [Finding("warning", what, "right for features of your own; else copy it again")]


def _facts(where: str, config: DataConfig, counts: dict[str, Any], sizes: Mapping[str, int]) -> list[Finding]:
    """Read it all, and say what a reader of a result must know."""
    try:
        facts = config.splits(0).facts
    except AffuseError as error:
        return [Finding("error", str(error))]
    counts |= {key: value for key, value in facts.items() if key not in ("name", "split", "note", "converted_from")}
    findings = [*_sizes(where, facts["counts"], sizes)]
    if facts.get("not_finite_made_0"):
        said = ", ".join(f"{count} of {name}" for name, count in facts["not_finite_made_0"].items())
        findings.append(Finding("info", f"{where}: numbers that are not finite: {said}; they are read as 0"))
    if facts.get("steps_beyond_the_text"):
        said = ", ".join(f"{name} in {count} samples" for name, count in facts["steps_beyond_the_text"].items())
        findings.append(
            Finding("warning", f"{where}: not zero behind the end of the text: {said}", "is it padded in front?")
        )
    lacking = [f"{part}: {n} without {name}" for part, m in facts.get("absent", {}).items() for name, n in m.items()]
    if lacking:
        findings.append(Finding("info", f"{where}: absent modalities: {'; '.join(lacking)}"))
    findings.append(_subjects(where, facts))
    return findings


def _sizes(where: str, counts: Mapping[str, int], sizes: Mapping[str, int]) -> list[Finding]:
    if not sizes or dict(counts) == dict(sizes):
        return []
    found, wanted = ("/".join(str(table[part]) for part in feature_folder.PARTS) for table in (counts, sizes))
    return [
        Finding("warning", f"{where}: {found} samples; the published files have {wanted}", "is it a part of the data?")
    ]


def _subjects(where: str, facts: Mapping[str, Any]) -> Finding:
    shared: Sequence[str] = facts.get("subjects_shared", [])
    if shared:
        what = f"{where}: {len(shared)} subjects stand in more than one split: {some(list(shared))}"
        return Finding("warning", what, "scores of the test part are of people that training has seen")
    if facts.get("subjects", 0) in ("unknown", 0) and "videos" not in facts:
        return Finding("info", f"{where}: nothing in the files says who speaks")
    return Finding("info", f"{where}: no subject stands in more than one split")
