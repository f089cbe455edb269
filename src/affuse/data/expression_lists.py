"""Lists of clips and their expressions, in the two forms of the field, and a data set that is such lists.

A list is a text file, one clip a line::

    video_name,label                       comma separated; a first line of names is passed over
    /home/user/DFEW_Face/02522 66 5        path, number of frames, label, as Former-DFER writes them; the number may be left out
    Scene/Label/0001 Label                 as FERV39K's train_All.csv: the label by its name

The label is an index or a name. Whether a path has a suffix, leading zeros or the folders of somebody else's machine in front
does not matter: see `affuse.data.clip_index`.

Of what the field's data sets look like, this was seen: Former-DFER's lists of DFEW (which `affuse.data.dfew` reads by itself),
and the form that users of FERV39K describe. Others, such as AFEW and MAFW, are read where they come as such lists; AFEW's
folders of ``label/clip`` are `affuse.data.clip_folder`'s. None of these three has been tried here: they are not free to copy.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from affuse.data.clip_index import ClipFile, ClipIndex
from affuse.data.face_augmentation import FaceAugmentation
from affuse.data.face_clips import face_splits, stratified
from affuse.data.splits import Splits
from affuse.signals.face_input import FaceInput
from affuse.types import AffuseError

_MAX_BYTES = 64 << 20
_MAX_LINE = 4096
_HEADERS = ("label", "labels", "emotion", "expression", "class")


@dataclass(frozen=True)
class ListedClip:
    """One line of a list.

    Args:
        name: the clip's path, as it stands there.
        label: index or name of the class, as it stands there.
        frames: how many frames the list says it has; None where it does not say.
        line: number of the line, from 1.
    """

    name: str
    label: str
    frames: int | None
    line: int


def read_list(path: Path) -> list[ListedClip]:
    """The clips of a list, in its order.

    Raises:
        AffuseError: no such file, not text, a line that is no clip and label, or no clip at all.
    """
    try:
        size = path.stat().st_size
        if size > _MAX_BYTES:
            raise AffuseError(f"{path}: {size} bytes; a list of clips has at most {_MAX_BYTES}")
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise AffuseError(f"{path}: no such list of clips; copy it, or say where it is") from None
    except UnicodeDecodeError:
        raise AffuseError(f"{path}: not a text file; copy the list again") from None
    except OSError as error:
        raise AffuseError(f"{path}: cannot be read ({error.strerror or error})") from None
    if text.startswith("version https://git-lfs"):
        raise AffuseError(f"{path}: a Git LFS pointer, not the list: run 'git lfs pull' where it came from")
    rows = list(_rows(path, text))
    if not rows:
        raise AffuseError(f"{path}: lists no clip")
    return rows


def _rows(path: Path, text: str) -> Iterator[ListedClip]:
    first = True
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        if len(line) > _MAX_LINE or "\0" in line:
            raise AffuseError(f"{where}: no line of a list of clips; copy the list again")
        cells = _cells(where, line)
        if first and cells[-1].lower() in _HEADERS and not (cells[-2:-1] or [""])[0].isdecimal():
            first = False
            continue
        first = False
        if len(cells) not in (2, 3) or not all(cells):
            raise AffuseError(f"{where}: expected 'path label' or 'path frames label', got {line.strip()[:80]!r}")
        frames = None
        if len(cells) == 3:
            if not (cells[1].isascii() and cells[1].isdecimal() and len(cells[1]) < 10):
                raise AffuseError(f"{where}: the number of frames is {cells[1][:40]!r}; expected 'path frames label'")
            frames = int(cells[1])
        yield ListedClip(cells[0], cells[-1], frames, number)


def _cells(where: str, line: str) -> list[str]:
    """Path, perhaps the number of frames, and label."""
    if "," in line:
        try:
            return [cell.strip() for cell in next(csv.reader([line], strict=True))]
        except csv.Error as error:
            raise AffuseError(f"{where}: not comma separated ({error}); copy the list again") from None
    # From the right, for a path may hold blanks.
    words = line.strip().rsplit(None, 2)
    counted = len(words) == 3 and words[1].isascii() and words[1].isdecimal()
    return words if counted else line.strip().rsplit(None, 1)


def class_index(clip: ListedClip, classes: Sequence[str], base: int, where: str) -> int:
    """The index of a listed clip's class.

    Args:
        clip: as listed.
        classes: names, in index order.
        base: the index that the list calls the first class.
        where: the list, for the error.

    Raises:
        AffuseError: neither an index nor a name of a class.
    """
    label = clip.label
    if label.isascii() and label.isdecimal() and len(label) < 6:
        index = int(label) - base
        if 0 <= index < len(classes):
            return index
        raise AffuseError(
            f"{where}, line {clip.line}: label {label}; {len(classes)} classes run from {base} to {len(classes) + base - 1}"
        )
    names = [name.casefold() for name in classes]
    if label.casefold() in names:
        return names.index(label.casefold())
    raise AffuseError(f"{where}, line {clip.line}: label {label[:40]!r} is none of {', '.join(classes)}")


def refuse_repeated(lists: Iterable[tuple[Path, Sequence[str]]]) -> None:
    """Stop where a clip is listed twice, in one list or in two.

    Args:
        lists: each list's file and the clips that it names, each always by the same name.

    Raises:
        AffuseError: one is.
    """
    files, names = zip(*lists, strict=True)
    twice = repeated(names)
    if twice:
        raise AffuseError(
            f"{' and '.join(map(str, files))}: {len(twice)} clips are listed twice (first: {twice[0][:80]}); keep one line of "
            "each"
        )


def repeated(lists: Iterable[Sequence[str]]) -> list[str]:
    """The clips that stand more than once in the lists taken together, in order of appearance."""
    return [name for name, count in Counter(name for names in lists for name in names).items() if count > 1]


@dataclass(frozen=True)
class ExpressionLists:
    """The ``data`` section of a recipe for clips that lists name.

    Args:
        root: folder that the paths of the lists start from.
        train: list of the training part; in `root`, or a path.
        test: list of the test part.
        validation: list of the validation part; None: drawn out of the training part, by class and seed.
        name: of the data set, for reports.
        classes: names in index order; None: the names that the lists use, in alphabetical order.
        first_index: what the lists call the first class, where they have numbers.
        input: how a clip becomes an input.
        validation_share: share of each class of the training part that is validation, where there is no list of it.
        augment: what training does to the faces; None: nothing.
        fps: frames a second that folders of frames are taken to have; None: they have no clock.
        cache: folder that ``affuse data prepare`` wrote; None: faces are searched whenever a clip is read.
        max_bad_fraction: more listed clips that are missing or empty than this share stop the run.
    """

    root: str
    train: str
    test: str
    validation: str | None = None
    name: str = "lists of clips"
    classes: tuple[str, ...] | None = None
    first_index: int = 0
    input: FaceInput = FaceInput()
    validation_share: float = 0.1
    augment: FaceAugmentation | None = FaceAugmentation()
    fps: float | None = None
    cache: str | None = None
    max_bad_fraction: float = 0.01

    def __post_init__(self) -> None:
        if not 0 < self.validation_share < 1:
            raise AffuseError(f"validation_share is between 0 and 1, not {self.validation_share}")
        if self.fps is not None and not 0 < self.fps < 1000:
            raise AffuseError(f"fps is above 0 and below 1000, not {self.fps}")

    def splits(self, seed: int) -> Splits:
        """Train, validation and test; the seed draws validation where there is no list of it.

        Raises:
            AffuseError: a list or the folder is missing, a label is unknown, a clip stands twice, or too many are missing.
        """
        root = Path(self.root)
        if not root.is_dir():
            raise AffuseError(f"{root}: no such folder; set data.root to the folder that the lists' paths start from")
        named = {"train": self.train, "validation": self.validation, "test": self.test}
        files = {part: root / file for part, file in named.items() if file is not None}
        lists = {part: read_list(file) for part, file in files.items()}
        classes = self._classes(files, [clip for clips in lists.values() for clip in clips])
        index = ClipIndex(root, deep=True)
        parts: dict[str, list[ClipFile]] = {}
        for part, listed in lists.items():
            parts[part] = []
            for clip in listed:
                target = class_index(clip, classes, self.first_index, str(files[part]))
                meta = {"label": classes[target]}
                parts[part].append(ClipFile(clip.name, target, index.find(clip.name), self.fps, meta))
        # Two names of one clip are one clip.
        refuse_repeated((files[part], [str(c.path or c.name) for c in clips]) for part, clips in parts.items())
        rule = "lists of train, validation and test"
        if self.validation is None:
            parts["train"], parts["validation"] = stratified(parts["train"], self.validation_share, seed)
            rule = (
                f"lists of train and test; {self.validation_share:g} of each class of train for validation, seed {seed}"
            )
        facts = {
            "name": self.name,
            "split": rule,
            "lists": {part: file.name for part, file in files.items()},
            "frames": self.input.frames,
            "note": "the lists name no subjects: whether somebody stands in two parts is unknown",
        }
        return face_splits(parts, classes, root, self.input, self.augment, self.cache, self.max_bad_fraction, facts)

    def _classes(self, files: Mapping[str, Path], clips: Sequence[ListedClip]) -> tuple[str, ...]:
        if self.classes is not None:
            return self.classes
        found = sorted({clip.label for clip in clips})
        numbers = [label for label in found if label.isdecimal()]
        if numbers:
            raise AffuseError(
                f"{', '.join(map(str, files.values()))}: labels are numbers (such as {numbers[0]}); set data.classes to the "
                "names of the classes, in order"
            )
        return tuple(found)
