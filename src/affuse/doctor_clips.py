"""What doctor knows of folders of clips with sound and picture: RAVDESS, CREMA-D, AVE; and of Drive&Act."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from affuse.data import ave, crema_d, ravdess
from affuse.data import drive_and_act_chunks as chunks
from affuse.data.drive_and_act import SYNTHETIC
from affuse.data.drive_and_act_views import find_recordings
from affuse.data.sound_and_frames import fault
from affuse.doctor_data import Finding, some
from affuse.signals.audio import read_audio
from affuse.signals.video import read_video
from affuse.types import AffuseError

_REMEDIES = {"a Git LFS pointer": "run 'git lfs pull' where the data came from", "missing": "copy them"}
CREMA_D_SIZES = {"train": 6698, "test": 744}
DRIVE_AND_ACT_CHUNKS = 6642  # midlevel, split 0, training, kinect_color
AVE_SIZES = {"train": 3339, "validation": 402, "test": 402}


def check_ravdess(root: str | Path, counts: dict[str, Any] | None = None) -> list[Finding]:
    """Check a folder of RAVDESS: names, every sound and the first frame of every video by decoding it, and the file of vectors.

    Args:
        root: the folder.
        counts: filled with what was counted.
    """
    root, counts = Path(root), {} if counts is None else counts
    try:
        files, left_out = ravdess.find_files(root)
        if not files:
            return [Finding("error", f"{root}: no RAVDESS file", "its names are such as 03-01-05-02-01-01-12.flac")]
    except AffuseError as error:
        return [Finding("error", str(error))]
    sounds = [sound for _, sound, _ in files.values() if sound is not None]
    videos = [video for _, _, video in files.values() if video is not None]
    actors = {name.actor for name, _, _ in files.values()}
    counts |= {"clips": len(files), "sounds": len(sounds), "videos": len(videos), "left_out": left_out}
    counts["actors"] = len(actors)
    findings = [*_decoded(root, sounds, "sound"), *_decoded(root, videos, "picture")]
    vectors = root / ravdess.VECTORS
    if not vectors.exists():
        what = f"{vectors}: no such file"
        findings.append(Finding("info", what, "action units and the mfcc vector need it; else leave them out"))
        return findings
    try:
        table = ravdess.read_vectors(vectors)
    except AffuseError as error:
        return [*findings, Finding("error", str(error))]
    counts["vectors"] = len(table["au"])
    lacking = sorted(set(files) - set(table["au"]))
    if lacking:
        findings.append(Finding("info", f"{len(lacking)} clips have no vectors: {some(lacking)}"))
    return findings


def check_crema_d(root: str | Path, counts: dict[str, Any] | None = None) -> list[Finding]:
    """Check a folder of CREMA-D: names, every sound and the first frame of every video by decoding it, and the published split.

    Args:
        root: the folder.
        counts: filled with what was counted.
    """
    root, counts = Path(root), {} if counts is None else counts
    findings: list[Finding] = []
    found: dict[Literal["audio", "video"], dict[str, Path]] = {}
    kinds: tuple[Literal["audio", "video"], ...] = ("audio", "video")
    for place, name in enumerate(kinds):
        try:
            config = crema_d.CremaD(str(root), modalities=(name,))
            found[name] = config.find_files(root)[place]
        except AffuseError as error:
            findings.append(Finding("error", str(error)))
    if not found:
        return findings
    counts |= {f"{name}_clips": len(files) for name, files in found.items()}
    findings += _decoded(root, found.get("audio", {}).values(), "sound")
    findings += _decoded(root, found.get("video", {}).values(), "picture")
    if not (root / "train.csv").exists() and not (root / "test.csv").exists():
        what = f"{root}: no train.csv and test.csv"
        return [*findings, Finding("info", what, "the published split needs them; speaker_disjoint does not")]
    try:
        parts = crema_d.read_published(root)
    except AffuseError as error:
        return [*findings, Finding("error", str(error))]
    findings += _sizes(root, {part: len(names) for part, names in parts.items()}, CREMA_D_SIZES, counts)
    speakers = {part: {crema_d.CremaDName.parse(name).actor for name in names} for part, names in parts.items()}
    shared = sorted(map(str, speakers["train"] & speakers["test"]))
    if shared:
        what = f"{root}: {len(shared)} subjects stand in train and test of the published split: {some(shared)}"
        findings.append(Finding("warning", what, "its scores are of people that training has seen: speaker_disjoint"))
    for name, files in found.items():
        missing = [clip for names in parts.values() for clip in names if clip not in files]
        if missing:
            findings.append(Finding("error", f"{root}: {len(missing)} listed clips have no {name}: {some(missing)}"))
    return findings


def check_ave(root: str | Path, counts: dict[str, Any] | None = None) -> list[Finding]:
    """Check a folder of AVE: the annotations, the first frame of every video by decoding it, and what stands in several parts.

    Args:
        root: the folder.
        counts: filled with what was counted.
    """
    root, counts = Path(root), {} if counts is None else counts
    findings: list[Finding] = []
    splits: dict[str, dict[str, list[ave.AVERow]]] = {}
    errors: list[AffuseError] = []
    kinds: tuple[tuple[Literal["txt", "h5"], Mapping[str, str]], ...] = (("txt", ave.FILES), ("h5", ave.ORDERS))
    for kind, files in kinds:
        try:
            splits[kind] = ave.read_split(root, kind)
        except AffuseError as error:
            errors.append(error)
            if any((root / file).exists() for file in files.values()):
                findings.append(Finding("error", str(error)))
    if not splits:
        return findings or [Finding("error", str(errors[0]))]
    for name, rows in splits.items():
        about = counts.setdefault(name, {})
        findings += _sizes(root, {part: len(group) for part, group in rows.items()}, AVE_SIZES, about)
        shared = {pair: videos for pair, videos in ave.shared_videos(rows).items() if videos}
        if shared:
            said = "; ".join(f"{pair}: {len(videos)} ({some(videos)})" for pair, videos in shared.items())
            findings.append(
                Finding("warning", f"{root}: split {name} has videos in two parts: {said}", "data.drop_shared")
            )
    videos = sorted({row.video for rows in splits.values() for group in rows.values() for row in group})
    counts["videos"] = len(videos)
    paths = [root / "AVE" / f"{video}.mp4" for video in videos]
    return [*findings, *_decoded(root, paths, "sound"), *_decoded(root, paths, "picture")]


def check_drive_and_act(root: str | Path, counts: dict[str, Any] | None = None) -> list[Finding]:
    """Check a folder of Drive&Act: every csv file, the pairing of views, participants across parts, and the recordings.

    Args:
        root: the folder that holds ``activities_3s`` and the views.
        counts: filled with what was counted.
    """
    root, counts = Path(root), {} if counts is None else counts
    listed = {view: sorted((root / chunks.FOLDER / view).glob("*.chunks_90.split_*.csv")) for view in chunks.VIEWS}
    listed = {view: files for view, files in listed.items() if files}
    if not listed:
        return [Finding("error", f"{root}: no csv file in {chunks.FOLDER}/VIEW", "copy the annotations of Drive&Act")]
    counts["synthetic"] = (root / SYNTHETIC).exists()
    findings: list[Finding] = []
    wanted: dict[tuple[str, str], str] = {}
    longest: dict[tuple[str, str], int] = {}
    counts["chunks"] = {}
    for level in chunks.LEVELS:
        for split in chunks.SPLITS:
            parts: dict[str, chunks.Pairing] = {}
            for part in chunks.PARTS:
                files = {view: root / chunks.FOLDER / view / chunks.csv_name(level, split, part) for view in listed}
                there = {view: path for view, path in files.items() if path in listed[view]}
                if not there:
                    continue
                if lacking := sorted(set(files) - set(there)):
                    findings.append(Finding("warning", f"{root}: no {files[lacking[0]].name} of {some(lacking)}"))
                rows = {}
                for view, path in there.items():
                    try:
                        rows[view] = chunks.read_chunks(path, level)
                    except AffuseError as error:
                        findings.append(Finding("error", str(error)))
                parts[part] = chunks.pair_views(rows)
                findings += _paired(root, f"{level}, split {split}, {part}", level, rows, parts[part])
                for view, group in rows.items():
                    for row in group:
                        place = view, row.key.recording
                        wanted[place] = row.suffix
                        longest[place] = max(longest.get(place, 0), row.frame_end)
            if parts:
                name = f"{level} split {split}"
                counts["chunks"][name] = {part: len(pairing.chunks) for part, pairing in parts.items()}
                findings += _parts(root, name, parts)
    counts["participants"] = len({recording.partition("/")[0] for _, recording in wanted})
    counts["recordings"] = {view: len({r for v, r in wanted if v == view}) for view in listed}
    return [*findings, *_recordings(root, wanted, longest)]


def _paired(
    root: Path, where: str, level: str, rows: Mapping[str, list[chunks.Chunk]], pairing: chunks.Pairing
) -> list[Finding]:
    """What is odd in one part of a split."""
    findings = []
    strange = sorted({chunk.label for chunk in pairing.chunks} - set(chunks.CLASSES)) if level == "midlevel" else []
    if strange:
        what = f"{root}: {where}: {len(strange)} labels are none of the 34: {some(strange)}"
        findings.append(Finding("error", what, "data.classes found takes the labels as they stand"))
    real = where == "midlevel, split 0, train" and not (root / SYNTHETIC).exists()
    if real and len(rows.get("kinect_color", [])) not in (0, DRIVE_AND_ACT_CHUNKS):
        what = f"{root}: {where}: {len(rows['kinect_color'])} chunks; the published file has {DRIVE_AND_ACT_CHUNKS}"
        findings.append(Finding("warning", what, "is it a part of the data?"))
    for view, keys in pairing.conflicts.items():
        if keys:
            what = f"{root}: {where}: {view} calls {len(keys)} chunks otherwise: {some([str(key) for key in keys])}"
            findings.append(Finding("warning", what, "there the view counts as absent"))
    lacking = {view: count for view, count in pairing.lacking.items() if count}
    if lacking:
        said = ", ".join(f"{view} {count}" for view, count in lacking.items())
        findings.append(Finding("info", f"{root}: {where}: chunks that only other views have: {said}"))
    return findings


def _parts(root: Path, name: str, parts: Mapping[str, chunks.Pairing]) -> list[Finding]:
    """What is odd between the parts of a split."""
    findings = []
    if missing := sorted(set(chunks.PARTS) - set(parts)):
        findings.append(Finding("warning", f"{root}: {name} has no csv file of {', '.join(missing)}", "copy it"))
    shared = chunks.shared_participants({part: pairing.chunks for part, pairing in parts.items()})
    if shared:
        what = f"{root}: {name}: participants stand in two parts: {some(shared)}"
        findings.append(Finding("error", what, "the published splits share none: copy the csv files again"))
    labels = {part: {chunk.label for chunk in pairing.chunks} for part, pairing in parts.items()}
    if absent := sorted(set().union(*labels.values()) - labels.get("test", set())) if "test" in labels else []:
        what = f"{root}: {name}: the test part lacks {len(absent)} classes: {some(absent)}"
        findings.append(Finding("info", what, "mean-1 is over those that it has"))
    return findings


def _recordings(
    root: Path, wanted: Mapping[tuple[str, str], str], longest: Mapping[tuple[str, str], int]
) -> list[Finding]:
    """Recordings that are missing or damaged (each video's first frame is decoded), or end before their chunks do."""
    found = find_recordings(root, {view: view for view, _ in wanted}, wanted)
    findings = []
    bad = [wrong for wrong in found.values() if isinstance(wrong, str)]
    if len(bad) == len(found):
        what = f"{root}: none of the {len(found)} recordings that the csv files name is there or can be read"
        return [Finding("error", f"{what}: {some(bad)}", "copy the folders of the views")]
    if bad:
        what = f"{root}: {len(bad)} of {len(found)} recordings cannot be read: {some(bad)}"
        findings.append(Finding("warning", what, "copy them; their views are absent, or data.missing drop"))
    good = {place: recording for place, recording in found.items() if not isinstance(recording, str)}
    findings += _decoded(root, [r.path for r in good.values() if not r.suffix], "picture")
    short = [r.path.relative_to(root).as_posix() for place, r in good.items() if longest[place] > r.stop]
    if short:
        findings.append(
            Finding("warning", f"{root}: {len(short)} recordings end before their last chunk: {some(short)}")
        )
    return findings


def _decoded(root: Path, paths: Iterable[Path], what: Literal["sound", "picture"]) -> list[Finding]:
    """Files that cannot be used, by what is wrong with them; each sound is decoded, and the first frame of each picture."""
    bad: dict[str, list[str]] = {}
    for path in paths:
        wrong = fault(path)
        if wrong is None and not path.is_dir():
            try:
                if what == "sound":
                    read_audio(path)
                else:
                    next(iter(read_video(path, max_frames=1)))
            except AffuseError:
                wrong = f"without a {what} that can be decoded"
        if wrong:
            bad.setdefault(wrong, []).append(path.relative_to(root).as_posix())
    return [
        Finding("error", f"{root}: {len(names)} files: {wrong}: {some(names)}", _REMEDIES.get(wrong, "copy them again"))
        for wrong, names in bad.items()
    ]


def _sizes(root: Path, found: Mapping[str, int], published: Mapping[str, int], counts: dict[str, Any]) -> list[Finding]:
    counts["counts"] = dict(found)
    if dict(found) == dict(published):
        return []
    said, wanted = ("/".join(str(table[part]) for part in published) for table in (found, published))
    return [Finding("warning", f"{root}: {said} clips; the published split has {wanted}", "is it a part of the data?")]
