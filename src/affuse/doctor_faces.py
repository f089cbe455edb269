"""What doctor knows of clips of faces: DFEW, lists of clips, and plain folders of label/clip."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from affuse.data import dfew_files as dfew
from affuse.data.clip_folder import ClipFolder
from affuse.data.clip_index import ClipIndex
from affuse.data.expression_lists import read_list, repeated
from affuse.data.sound_and_frames import fault
from affuse.doctor_data import Finding, some
from affuse.signals.timed_frames import open_frames
from affuse.types import AffuseError

_REMEDIES = {"a Git LFS pointer": "run 'git lfs pull' where the data came from", "missing": "copy them"}
_LIST_SUFFIXES = (".txt", ".csv")


def check_dfew(root: str | Path, counts: dict[str, Any] | None = None) -> list[Finding]:
    """Check a folder of DFEW: the lists of all folds, and the clips in each form that is there.

    Every picture and video is looked at for zero length and Git LFS pointers, and the first frame of each clip is decoded.

    Args:
        root: the folder, with the lists in it.
        counts: filled with what was counted.
    """
    root, counts = Path(root), {} if counts is None else counts
    if not root.is_dir():
        return [Finding("error", f"{root}: no such folder", "give the folder of DFEW")]
    findings: list[Finding] = []
    listed: dict[str, int] = {}
    tested: list[list[str]] = []
    lacking: list[str] = []
    absent = ""
    counts["synthetic"] = (root / "SYNTHETIC").exists()
    counts["folds"] = {}
    for fold in dfew.FOLDS:
        parts: dict[str, dfew.DFEWList] = {}
        for part in dfew.PARTS:
            try:
                path = dfew.find_list(root, fold, part)
            except AffuseError as error:
                lacking.append(f"fold {fold}, {part}")
                absent = absent or str(error)
                continue
            try:
                parts[part] = dfew.read_dfew_list(path)
            except AffuseError as error:
                findings.append(Finding("error", str(error)))
        if parts:
            findings += _fold(root, fold, parts, counts)
        tested += [list(parts["test"].targets)] if "test" in parts else []
        for of_part in parts.values():
            differing = [
                number for number, target in of_part.targets.items() if listed.setdefault(number, target) != target
            ]
            if differing:
                what = (
                    f"{of_part.path}: {len(differing)} clips have another label than in other lists: {some(differing)}"
                )
                findings.append(Finding("error", what, "copy the lists again"))
    if len(lacking) == len(dfew.FOLDS) * len(dfew.PARTS):
        return [Finding("error", absent)]
    if lacking:
        findings.append(
            Finding("info", f"{root}: no list of {some(lacking)}", "the score of the tables needs five folds")
        )
    if twice := repeated(tested):
        what = f"{root}: {len(twice)} clips stand in the test part of several folds: {some(twice)}"
        findings.append(Finding("warning", what, "a score pooled over folds would count them twice"))
    forms: dict[str, ClipIndex] = dict(dfew.find_forms(root).items())
    if not forms:
        try:
            forms = {"clips": dfew.find_clips(root, "auto", ())[0]}
        except AffuseError as error:
            return [*findings, Finding("error", str(error))]
    counts["clips"] = {form: len(index.names()) for form, index in forms.items()}
    for form, index in forms.items():
        found = {number: index.find(number) for number in listed}
        missing = sorted((number for number, path in found.items() if path is None), key=int)
        if missing:
            what = f"{index.root}: {len(missing)} of {len(listed)} listed clips are missing: {some(missing)}"
            findings.append(Finding("error", what, "copy them; more than data.max_bad_fraction of them stop a run"))
        findings += _decoded(index.root, [path for path in found.values() if path is not None])
        if form == "frames_16":
            findings += _sixteen(index.root, [path for path in found.values() if path is not None])
    return findings


def _fold(root: Path, fold: int, parts: Mapping[str, dfew.DFEWList], counts: dict[str, Any]) -> list[Finding]:
    """What is odd in the lists of a fold."""
    findings = []
    by_class = {part: Counter(listed.targets.values()) for part, listed in parts.items()}
    counts["folds"][str(fold)] = {
        part: {name: number[index] for index, name in enumerate(dfew.CLASSES)} for part, number in by_class.items()
    }
    for listed in parts.values():
        if listed.repeated:
            what = f"{listed.path}: {len(listed.repeated)} clips are listed twice: {some(list(listed.repeated))}"
            findings.append(Finding("error", what, "keep one line of each"))
    sizes = tuple(len(parts[part].targets) if part in parts else 0 for part in dfew.PARTS)
    if sizes != dfew.SIZES[fold] and not counts["synthetic"]:
        said, wanted = ("/".join(map(str, pair)) for pair in (sizes, dfew.SIZES[fold]))
        findings.append(
            Finding(
                "warning", f"{root}: fold {fold} lists {said} clips; the published lists have {wanted}", "a part of it?"
            )
        )
    if len(parts) == 2 and (shared := sorted(set(parts["train"].targets) & set(parts["test"].targets), key=int)):
        what = f"{root}: fold {fold}: {len(shared)} clips stand in train and test: {some(shared)}"
        findings.append(Finding("error", what, "copy the lists again"))
    return findings


def check_expression_lists(root: str | Path, counts: dict[str, Any] | None = None) -> list[Finding]:
    """Check the lists of clips that lie in a folder (``.txt`` and ``.csv``), and the clips that they name below it.

    Args:
        root: the folder that the lists' paths start from.
        counts: filled with what was counted.
    """
    root, counts = Path(root), {} if counts is None else counts
    if not root.is_dir():
        return [Finding("error", f"{root}: no such folder", "give the folder of the lists and clips")]
    findings: list[Finding] = []
    index = ClipIndex(root, deep=True)
    seen: dict[str, list[str]] = {}
    paths: dict[Path, None] = {}
    for file in sorted(path for path in root.iterdir() if path.suffix.lower() in _LIST_SUFFIXES):
        try:
            clips = read_list(file)
            found = {clip.name: index.find(clip.name) for clip in clips}
        except AffuseError as error:
            findings.append(Finding("warning", str(error), "it is not read as a list"))
            continue
        counts[file.name] = {"clips": len(clips), "labels": dict(sorted(Counter(clip.label for clip in clips).items()))}
        missing = [name for name, path in found.items() if path is None]
        if missing:
            what = f"{file}: {len(missing)} of {len(clips)} clips are missing: {some(missing)}"
            findings.append(Finding("error", what, "copy them, or give the folder that the paths start from"))
        seen[file.name] = [str(found[clip.name] or clip.name) for clip in clips]
        paths |= dict.fromkeys(path for path in found.values() if path is not None)
    if not seen:
        return [*findings, Finding("error", f"{root}: no list of clips (.txt or .csv)", "a line is 'path label'")]
    if twice := repeated(seen.values()):
        what = f"{root}: {len(twice)} clips stand in several lines of {', '.join(seen)}: {some(twice)}"
        findings.append(Finding("warning", what, "no clip may be in two parts of one split"))
    return [*findings, *_decoded(root, paths)]


def check_clip_folder(root: str | Path, counts: dict[str, Any] | None = None) -> list[Finding]:
    """Check a folder of label/clip, or train, val and test of it: every clip's first frame is decoded.

    Args:
        root: the folder.
        counts: filled with what was counted.
    """
    root, counts = Path(root), {} if counts is None else counts
    config = ClipFolder(str(root))
    try:
        places = config.places()
        classes = config.find_classes(places)
        clips = {part: config.find_clips(folder, classes, part) for part, folder in places.items()}
    except AffuseError as error:
        return [Finding("error", str(error))]
    findings = []
    for part, group in clips.items():
        number = Counter(clip.meta["label"] for clip in group)
        counts[part or "clips"] = {name: number[name] for name in classes}
        if empty := [name for name in classes if not number[name]]:
            findings.append(Finding("warning", f"{places[part]}: no clip of {some(empty)}", "copy some"))
    return [
        *findings,
        *_decoded(root, [clip.path for group in clips.values() for clip in group if clip.path is not None]),
    ]


def _decoded(root: Path, paths: Iterable[Path]) -> list[Finding]:
    """Clips that cannot be used, by what is wrong with them."""
    bad: dict[str, list[str]] = {}
    for path in paths:
        wrong = fault(path)
        if wrong is None:
            try:
                first = next(open_frames(path, gray=False, fps=25.0).frames(0), None)
                if first is None or first.load is None or first.load() is None:
                    wrong = "its first frame cannot be decoded"
            except AffuseError:
                wrong = "cannot be decoded"
        if wrong:
            bad.setdefault(wrong, []).append(path.relative_to(root).as_posix())
    return [
        Finding("error", f"{root}: {len(names)} clips: {wrong}: {some(names)}", _remedy(wrong))
        for wrong, names in bad.items()
    ]


def _remedy(wrong: str) -> str:
    return next((remedy for what, remedy in _REMEDIES.items() if wrong.startswith(what)), "copy them again")


def _sixteen(root: Path, paths: Iterable[Path]) -> list[Finding]:
    """Folders that should hold sixteen pictures and do not."""
    pictures = {
        path: sum(1 for file in path.iterdir() if file.suffix.lower() == ".jpg") for path in paths if path.is_dir()
    }
    odd = [path.name for path, number in pictures.items() if number != 16]
    what = f"{root}: {len(odd)} folders do not hold 16 pictures: {some(odd)}"
    return [Finding("warning", what, "they are sampled as they are")] if odd else []
