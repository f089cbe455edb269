"""Where the clips that a list names lie: a name without its suffix and its leading zeros finds a video or a folder of frames.

Lists write ``2193``, folders hold ``02193``; a list of another machine writes ``/home/user/data/02193``. So a name is looked up
by its last component, in whatever zero padding the files have, and a folder in front of it is followed as far as it exists.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from affuse.data.sound_and_frames import IMAGE_SUFFIXES, MOVIE_SUFFIXES, fault
from affuse.types import AffuseError

_MAX_ENTRIES = 2_000_000


@dataclass(frozen=True)
class ClipFile:
    """One clip of a face on disk.

    Args:
        name: its id.
        target: class index.
        path: a video, a folder of numbered pictures, or a picture; None: it is listed and is not there.
        fps: frames a second of a folder of pictures; None: they have no clock. A video has its own.
        meta: subject, label and what else is known.
    """

    name: str
    target: int
    path: Path | None
    fps: float | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)


def bare(name: str) -> str:
    """A name without leading zeros, where it is a number: ``00017`` is ``17``, ``take_017`` stays."""
    return (name.lstrip("0") or "0") if name.isascii() and name.isdecimal() else name


class ClipIndex:
    """The clips below a folder; each folder of it is listed once, when something in it is first looked for.

    Args:
        root: the folder.
        deep: look a name up along its path; otherwise by its last component alone, in `root`.
    """

    def __init__(self, root: Path, deep: bool = False) -> None:
        self.root = root
        self._deep = deep
        self._folders: dict[Path, dict[str, Path]] = {}

    def find(self, name: str) -> Path | None:
        """The video or folder of frames of a clip; None where there is none.

        Args:
            name: as a list has it, ``/`` or ``\\`` between its components, with or without a suffix.

        Raises:
            AffuseError: two files could be meant.
        """
        parts = [part for part in PurePosixPath(name.replace("\\", "/")).parts if part != "/"]
        if not parts or ".." in parts:
            return None  # a list must not lead out of its folder
        *folders, last = parts
        if not self._deep:
            return self._in(self.root, last)
        for start in range(len(folders) + 1):
            found = self._in(self.root.joinpath(*folders[start:]), last)
            if found is not None:
                return found
        return None

    def _in(self, folder: Path, name: str) -> Path | None:
        entries = self._folders.get(folder)
        if entries is None:
            entries = self._folders[folder] = _entries(folder)
        stem, dot, suffix = name.rpartition(".")
        known = dot and f".{suffix.lower()}" in MOVIE_SUFFIXES
        return entries.get(bare(stem if known else name))

    def names(self) -> list[str]:
        """What the root itself holds, sorted, without suffixes and leading zeros."""
        self._in(self.root, "0")
        return sorted(self._folders[self.root])

    def paths(self) -> list[Path]:
        """The clips that the root itself holds, in the order of their names."""
        self._in(self.root, "0")
        return sorted(self._folders[self.root].values())


def _entries(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    try:
        with os.scandir(folder) as entries:
            for number, entry in enumerate(entries):
                if number >= _MAX_ENTRIES:
                    raise AffuseError(f"{folder}: more than {_MAX_ENTRIES} entries; is it a folder of clips?")
                stem, suffix = os.path.splitext(entry.name)
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    key = bare(entry.name)
                elif suffix.lower() in MOVIE_SUFFIXES:
                    key = bare(stem)
                else:
                    continue
                if key in found:
                    first, second = sorted((found[key].name, entry.name))
                    raise AffuseError(f"{folder}: {first} and {second} are the same clip; keep one of them")
                found[key] = folder / entry.name
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise AffuseError(f"{folder}: cannot be listed ({error.strerror})") from None
    return found


def clip_fault(path: Path | None) -> str | None:
    """What is wrong with a video or a folder of frames, as far as it shows at once; None: nothing.

    Of a folder only one picture is looked at: a data set has a million of them. `doctor` looks at all.
    """
    if path is None:
        return "missing"
    if not path.is_dir():
        return fault(path)
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                if os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES:
                    wrong = fault(Path(entry.path))
                    return f"{wrong} among its pictures" if wrong else None
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return "no picture in the folder"
