"""Lists of clips and their expressions, in the two forms of the field, and a data set that is such lists.

A list is a text file, one clip a line::

    video_name,label                       comma separated; a first line of names is passed over
    /home/user/DFEW_Face/02522 66 5        path, number of frames, label, as Former-DFER writes them; the number may be left out
    Scene/Label/0001 Label                 as FERV39K's train_All.csv: the label by its name

The label is an index or a name. Whether a path has a suffix, leading zeros or the folders of somebody else's machine in front
does not matter: see `affuse.data.clip_index`.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

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


def refuse_repeated(lists: Mapping[Path, Sequence[str]]) -> None:
    """Stop where a clip is listed twice, in one list or in two.

    Args:
        lists: by the list's file, the clips that it names, each always by the same name.

    Raises:
        AffuseError: one is.
    """
    twice = repeated(lists.values())
    if twice:
        raise AffuseError(
            f"{' and '.join(map(str, lists))}: {len(twice)} clips are listed twice (first: {twice[0][:80]}); keep one line of "
            "each"
        )


def repeated(lists: Iterable[Sequence[str]]) -> list[str]:
    """The clips that stand more than once in the lists taken together, in order of appearance."""
    return [name for name, count in Counter(name for names in lists for name in names).items() if count > 1]
