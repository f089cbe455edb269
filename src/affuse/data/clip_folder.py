"""A plain folder of clips, a folder a class, as anybody makes one of their own recordings.

::

    happy/anna_01.mp4            videos,
    happy/ben_02/0001.jpg ...    or folders of frames numbered in order
    train/happy/..., val/happy/..., test/happy/...    the same in parts

Where people are known, by a csv file or by a part of the clip's name, nobody stands in two drawn parts; of parts that folders
give, who stands in two is said.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from affuse.data.clip_index import ClipFile, ClipIndex
from affuse.data.face_augmentation import FaceAugmentation
from affuse.data.face_clips import PARTS, by_subject, face_splits, stratified
from affuse.data.sound_and_frames import MOVIE_SUFFIXES
from affuse.data.splits import Splits
from affuse.signals.face_input import FaceInput
from affuse.types import AffuseError

FOLDERS: Mapping[str, tuple[str, ...]] = {
    "train": ("train", "training"),
    "validation": ("val", "validation", "valid", "dev"),
    "test": ("test", "testing"),
}
_MAX_SUBJECTS = 1_000_000


@dataclass(frozen=True)
class ClipFolder:
    """The ``data`` section of a recipe for a folder of ``label/clip``.

    Args:
        root: the folder.
        classes: names of the label folders, in index order; None: all folders, in alphabetical order.
        split: ``folders``: train, val and test are folders above those of the labels, of which val may be missing;
            ``drawn``: by the seed; ``auto``: ``folders`` where there is a folder ``train``.
        validation_share, test_share: of the subjects where they are known, else of the clips of each class.
        subjects: a csv file of ``clip,subject`` (in `root`, or a path), the clip as ``label/name`` or by its name alone.
        subject_pattern: a regular expression that finds the subject in a clip's name (its first group, or all of it), such as
            ``^[^_]+``.
        input: how a clip becomes an input.
        augment: what training does to the faces; None: nothing.
        fps: frames a second of folders of frames; None: they have no clock.
        cache: folder that ``affuse data prepare`` wrote; None: faces are searched whenever a clip is read.
        max_bad_fraction: more clips that are empty than this share stop the run.
    """

    root: str
    classes: tuple[str, ...] | None = None
    split: Literal["auto", "folders", "drawn"] = "auto"
    validation_share: float = 0.15
    test_share: float = 0.15
    subjects: str | None = None
    subject_pattern: str | None = None
    input: FaceInput = FaceInput()
    augment: FaceAugmentation | None = FaceAugmentation()
    fps: float | None = None
    cache: str | None = None
    max_bad_fraction: float = 0.02

    def __post_init__(self) -> None:
        if min(self.validation_share, self.test_share) <= 0 or self.validation_share + self.test_share >= 1:
            raise AffuseError("validation_share and test_share are above 0, and together below 1")
        if self.subjects is not None and self.subject_pattern is not None:
            raise AffuseError("subjects come from a csv file or from subject_pattern, not from both")
        if self.subject_pattern is not None:
            try:
                re.compile(self.subject_pattern)
            except re.error as error:
                raise AffuseError(
                    f"subject_pattern {self.subject_pattern!r} is no regular expression: {error}"
                ) from None
        if self.fps is not None and not 0 < self.fps < 1000:
            raise AffuseError(f"fps is above 0 and below 1000, not {self.fps}")

    def splits(self, seed: int) -> Splits:
        """Train, validation and test. What is drawn, is drawn by the seed.

        Raises:
            AffuseError: no such folder, fewer than two labels, a clip without a known subject, or too few clips.
        """
        root = Path(self.root)
        places = self.places()
        classes = self.find_classes(places)
        clips = {part: self.find_clips(folder, classes, part) for part, folder in places.items()}
        known = self.subjects is not None or self.subject_pattern is not None
        rest = clips[""] if "" in clips else clips["train"]
        shares = {"validation": self.validation_share} | ({"test": self.test_share} if "" in clips else {})
        if "validation" in clips:
            parts, rule = clips, "the folders train, val and test"
        else:
            if known:
                parts = by_subject(rest, shares, "train", seed)
                rule = f"subjects drawn by seed {seed}"
            else:
                parts = {"train": rest}
                for number, (part, share) in enumerate(shares.items()):
                    # Of what is left, so much that it is the share of the whole.
                    left = share / (1 - sum(list(shares.values())[:number]))
                    parts["train"], parts[part] = stratified(parts["train"], left, seed)
                rule = f"clips drawn by class, seed {seed}"
            if "" not in clips:
                parts["test"] = clips["test"]
                rule = f"the folders train and test; validation: {rule}"
        facts = {
            "name": root.resolve().name,
            "split": rule,
            "frames": self.input.frames,
            "note": "" if known else "no subjects are named: whether somebody stands in two parts is unknown",
        }
        return face_splits(parts, classes, root, self.input, self.augment, self.cache, self.max_bad_fraction, facts)

    def places(self) -> dict[str, Path]:
        """The folders of labels by part; the part ``""`` where the clips are not parted yet.

        Raises:
            AffuseError: no such folder, or its parts are incomplete.
        """
        root = Path(self.root)
        if not root.is_dir():
            raise AffuseError(f"{root}: no such folder; set data.root to a folder of label/clip")
        found = {
            part: next((entry for name in names for entry in root.iterdir() if entry.name.lower() == name), None)
            for part, names in FOLDERS.items()
        }
        if self.split == "drawn" or (self.split == "auto" and found["train"] is None):
            return {"": root}
        missing = [part for part in ("train", "test") if found[part] is None]
        if missing:
            raise AffuseError(f"{root}: no folder {' or '.join(missing)}; make it, or set data.split to drawn")
        return {part: folder for part in PARTS if (folder := found[part]) is not None}

    def find_classes(self, places: Mapping[str, Path]) -> tuple[str, ...]:
        """The labels, as the folders of the parts are called.

        Raises:
            AffuseError: fewer than two, or one of `classes` has no folder.
        """
        found = sorted({entry.name for folder in places.values() for entry in folder.iterdir() if _is_label(entry)})
        if self.classes is None and len(found) < 2:
            raise AffuseError(
                f"{self.root}: {len(found)} folders of a label; it needs label/clip for at least two labels"
            )
        lacking = sorted(set(self.classes or ()) - set(found))
        if lacking:
            raise AffuseError(f"{self.root}: no folder of the class {lacking[0]!r}; it has {', '.join(found)[:200]}")
        return self.classes if self.classes is not None else tuple(found)

    def find_clips(self, folder: Path, classes: Sequence[str], part: str) -> list[ClipFile]:
        """The clips of a part, by label and name.

        Raises:
            AffuseError: a clip's subject should be known and is not.
        """
        table = {} if self.subjects is None else read_subjects(Path(self.root) / self.subjects)
        clips = []
        for target, label in enumerate(classes):
            index = ClipIndex(folder / label)
            for path in index.paths():
                name = f"{label}/{path.stem if path.is_file() else path.name}"
                meta = {"label": label} | self._subject(name, table)
                # The part is in the id, for two parts may use a name twice.
                clips.append(ClipFile(f"{part}/{name}" if part else name, target, path, self.fps, meta))
        return clips

    def _subject(self, name: str, table: Mapping[str, str]) -> dict[str, str]:
        short = name.rpartition("/")[2]
        if self.subjects is not None:
            if name not in table and short not in table:
                raise AffuseError(f"{self.subjects}: no subject of {name}; add it")
            return {"subject": table.get(name, table.get(short, ""))}
        if self.subject_pattern is None:
            return {}
        found = re.search(self.subject_pattern, short)
        subject = (found[1] if found.re.groups else found[0]) if found else None
        if not subject:
            raise AffuseError(f"{self.root}: subject_pattern {self.subject_pattern!r} finds nobody in {name[:80]!r}")
        return {"subject": subject}


def read_subjects(path: Path) -> dict[str, str]:
    """Subject by clip, of a csv file of ``clip,subject``; a first line of these words is passed over.

    Raises:
        AffuseError: no such csv file, or a clip stands twice with two subjects.
    """
    table: dict[str, str] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            for number, row in enumerate(csv.reader(file, strict=True), start=1):
                cells = [cell.strip() for cell in row]
                if not any(cells) or (number == 1 and cells[-1].lower() == "subject"):
                    continue
                if len(cells) != 2 or not all(cells) or number > _MAX_SUBJECTS:
                    raise AffuseError(f"{path}, line {number}: expected 'clip,subject', got {','.join(row)[:60]!r}")
                suffix = Path(cells[0]).suffix
                clip = cells[0].removesuffix(suffix) if suffix.lower() in MOVIE_SUFFIXES else cells[0]
                if table.setdefault(clip, cells[1]) != cells[1]:
                    raise AffuseError(f"{path}, line {number}: {clip[:60]} is said to be of two subjects")
    except FileNotFoundError:
        raise AffuseError(f"{path}: no such file; give a csv file of clip,subject") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise AffuseError(f"{path}: not a csv file ({str(error)[:80]}); save it as clip,subject") from None
    return table


def _is_label(entry: Path) -> bool:
    return entry.is_dir() and not entry.name.startswith(".")
