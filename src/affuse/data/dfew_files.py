"""Where DFEW's lists and clips lie: its own folders, Former-DFER's lists, and a bare folder of clips.

::

    DFEW-part2/EmoLabel_DataSplit/{train,test}(single-labeled)/set_1.csv    video_name,label; labels 1 to 7
    DFEW_set_1_{train,test}.txt                                             path frames label; labels 0 to 6
    DFEW-part2/Clip/original/2193.mp4                                       cut out of films; not zero-padded
    DFEW-part2/Clip/clip_224x224/02193/02193_00001.jpg                      faces, found and aligned; as many as there were
    DFEW-part2/Clip/clip_224x224_16f/02193/1.jpg                            16 of them, evenly spread
    DFEW-part2/Clip/clip_224x224_avi/02193.avi                              the same faces as a video

A list names a clip by a number or by a path that ends in one. Frames are in the order of the numbers in their names, and the
zeros in front of a number never matter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from affuse.data.clip_index import ClipIndex, bare
from affuse.data.expression_lists import class_index, read_list
from affuse.types import AffuseError

CLASSES = ("happy", "sad", "neutral", "angry", "surprise", "disgust", "fear")
FOLDS = (1, 2, 3, 4, 5)
PARTS = ("train", "test")
# Clips in train and test of each fold, as Former-DFER's lists have them.
SIZES = {1: (9356, 2341), 2: (9356, 2341), 3: (9357, 2340), 4: (9358, 2339), 5: (9361, 2336)}
Form = Literal["original", "frames", "frames_16", "avi"]
FOLDERS: Mapping[Form, str] = {
    "frames": "clip_224x224",
    "avi": "clip_224x224_avi",
    "frames_16": "clip_224x224_16f",
    "original": "original",
}
_PLACES = ("", "Clip", "DFEW-part2/Clip", "DFEW-part2")
_LIST_PLACES = ("", "EmoLabel_DataSplit", "DFEW-part2/EmoLabel_DataSplit", "annotation", "annotations", "Annotation")
_LIST_NAMES = (
    "{part}(single-labeled)/set_{fold}.csv",
    "{part}/set_{fold}.csv",
    "DFEW_set_{fold}_{part}.txt",
    "set_{fold}_{part}.txt",
    "set_{fold}_{part}.csv",
)


@dataclass(frozen=True)
class DFEWList:
    """The clips of a part of a fold.

    Args:
        path: the list.
        targets: class index by the clip's number, in the order of the list.
        repeated: numbers that the list has more than once.
    """

    path: Path
    targets: Mapping[str, int]
    repeated: tuple[str, ...] = ()


def find_list(folder: Path, fold: int, part: str) -> Path:
    """The list of a part of a fold, below the folder of the data set or of the lists.

    Raises:
        AffuseError: there is none.
    """
    for place in _LIST_PLACES:
        for name in _LIST_NAMES:
            path = folder / place / name.format(fold=fold, part=part)
            if path.is_file():
                return path
    raise AffuseError(
        f"{folder}: no list of fold {fold} for {part} (such as EmoLabel_DataSplit/{part}(single-labeled)/set_{fold}.csv or "
        f"DFEW_set_{fold}_{part}.txt); copy the lists there, or set data.lists to their folder"
    )


def read_dfew_list(path: Path) -> DFEWList:
    """One list: a csv file counts its labels from 1, a txt file from 0.

    Raises:
        AffuseError: no such list, or a line names no clip or no class of DFEW.
    """
    base = 1 if path.suffix.lower() == ".csv" else 0
    targets: dict[str, int] = {}
    twice: list[str] = []
    for clip in read_list(path):
        number = bare(clip.name.replace("\\", "/").rstrip("/").rpartition("/")[2].partition(".")[0])
        if not (number.isascii() and number.isdecimal() and len(number) < 8):
            raise AffuseError(f"{path}, line {clip.line}: {clip.name[:60]!r} does not end in the number of a clip")
        index = class_index(clip, CLASSES, base, str(path))
        if number in targets:
            twice.append(number)
        targets[number] = index
    return DFEWList(path, targets, tuple(dict.fromkeys(twice)))


def find_clips(root: Path, form: Form | Literal["auto"], wanted: Sequence[Form]) -> tuple[ClipIndex, Form | None]:
    """The folder of the clips, and which of DFEW's forms it is; None: a bare folder of clips, whatever they are.

    Args:
        root: folder of the data set, or of the clips themselves.
        form: the one to take; ``auto``: the first of `wanted` that is there, else `root` itself if it holds numbered clips.
        wanted: forms in order of preference.

    Raises:
        AffuseError: there is none.
    """
    forms = wanted if form == "auto" else (form,)
    there = find_forms(root)
    for name in forms:
        if name in there:
            return there[name], name
    if form == "auto":
        index = ClipIndex(root)
        if any(name.isdecimal() for name in index.names()):
            return index, None
    looked = ", ".join(FOLDERS[name] for name in forms)
    raise AffuseError(
        f"{root}: no clips of DFEW (looked for {looked} in it and in Clip, and for numbered clips in it); copy one of them, or "
        "set data.root to the folder that holds Clip, or data.form and data.input.pipeline for the uncut films in 'original'"
    )


def find_forms(root: Path) -> dict[Form, ClipIndex]:
    """The forms of DFEW's clips that are there, below the folder of the data set."""
    found: dict[Form, ClipIndex] = {}
    for form, name in FOLDERS.items():
        folder = next((root / place / name for place in _PLACES if (root / place / name).is_dir()), None)
        if folder is not None:
            found[form] = ClipIndex(folder)
    return found
