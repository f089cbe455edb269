"""AVE: audio-visual events, 4143 clips of ten seconds in 28 categories (Tian et al., ECCV 2018).

A folder holds::

    AVE/VIDEO.mp4                               sound and picture
    Annotations.txt                             all rows
    trainSet.txt, valSet.txt, testSet.txt       the rows of each part
    train_order.h5, val_order.h5, test_order.h5 or the numbers of the rows of each part, key "order"

A row is ``Category&VideoID&Quality&StartTime&EndTime``; some files begin with that as a header. Categories hold commas
("Male speech, man speaking"), so this is no csv.

**A video's id is no key**: 45 of them have two rows or three, each with another label, and some stand in two parts. A sample
is a row.
The published txt files and h5 orders are two different splits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np

from affuse.data.sound_and_frames import Clip, Clips, FrameSpec, SoundSpec, usable
from affuse.data.splits import Splits
from affuse.types import AffuseError, Task

FILES = {"train": "trainSet.txt", "validation": "valSet.txt", "test": "testSet.txt"}
ORDERS = {"train": "train_order.h5", "validation": "val_order.h5", "test": "test_order.h5"}
ALL = "Annotations.txt"
SECONDS = 10
_HEADER = "category&videoid&quality&starttime&endtime"
_MAX_BYTES = 16 * 2**20


@dataclass(frozen=True)
class AVERow:
    """One row of the annotations: `start_s` and `stop_s` bound the event within the video, whole seconds.

    A few published rows have both at 0: an event without a length.
    """

    row: int
    category: str
    video: str
    quality: str
    start_s: int
    stop_s: int


@dataclass(frozen=True)
class AVE:
    """The ``data`` section of a recipe for AVE: which of 28 events a clip shows.

    Args:
        root: folder of the data set.
        annotations: folder of the txt and h5 files; `root` by default.
        split: ``txt``: the three txt files; ``h5``: the orders, as numbers of rows of ``Annotations.txt``.
        segment: ``whole``: all of a video; ``event``: from the start to the end of the event alone; whole where the
            annotation gives the event no length.
        drop_shared: leave out training rows whose video also stands in validation or test, and validation rows whose video
            stands in test; the published splits keep them.
        modalities: those that are read.
        sound: how the sound becomes an input.
        frames: how frames become an input.
        max_bad_fraction: more unusable clips than this share stop the run.
    """

    root: str
    annotations: str | None = None
    split: Literal["txt", "h5"] = "txt"
    segment: Literal["whole", "event"] = "whole"
    drop_shared: bool = False
    modalities: tuple[Literal["audio", "video"], ...] = ("audio", "video")
    sound: SoundSpec = SoundSpec(seconds=10.0)
    frames: FrameSpec = FrameSpec(count=4)
    max_bad_fraction: float = 0.02

    def __post_init__(self) -> None:
        if not self.modalities or len(set(self.modalities)) < len(self.modalities):
            raise AffuseError(f"AVE: modalities are at least one, each once, not {list(self.modalities)}")

    def splits(self, seed: int) -> Splits:
        """Train, validation and test; the same for every seed.

        Raises:
            AffuseError: annotations are missing or wrong, or too many videos are missing or damaged.
        """
        root = Path(self.root)
        if not root.is_dir():
            raise AffuseError(f"{root}: no such folder; set data.root to the folder of AVE")
        rows = read_split(Path(self.annotations) if self.annotations is not None else root, self.split)
        classes = tuple(sorted({row.category for part in rows.values() for row in part}))
        shared = shared_videos(rows)
        dropped = 0
        if self.drop_shared:
            before = sum(map(len, rows.values()))
            test = {row.video for row in rows["test"]}
            rows["validation"] = [row for row in rows["validation"] if row.video not in test]
            later = test | {row.video for row in rows["validation"]}
            rows["train"] = [row for row in rows["train"] if row.video not in later]
            dropped = before - sum(map(len, rows.values()))
        clips = {part: [self._clip(row, root, classes) for row in group] for part, group in rows.items()}
        good, bad = usable([c for group in clips.values() for c in group], root, self.max_bad_fraction, "ave")
        kept = {clip.name for clip in good}
        clips = {part: [clip for clip in group if clip.name in kept] for part, group in clips.items()}
        empty = [part for part, group in clips.items() if not group]
        if empty:
            raise AffuseError(f"{root}: no usable clip in {empty}; copy the videos again")
        sources = {p: Clips(group, self.sound, self.frames, training=p == "train") for p, group in clips.items()}
        left = shared_videos({p: [r for r in group if _name(r) in kept] for p, group in rows.items()})
        facts = {
            "name": "AVE",
            "split": f"published {'txt files' if self.split == 'txt' else 'h5 orders'}; a sample is a row",
            "counts": {part: len(group) for part, group in clips.items()},
            "videos": len({row.video for group in rows.values() for row in group}),
            "videos_repeated": _repeated(rows),
            "videos_shared_by_parts": {name: len(videos) for name, videos in shared.items()},
            "dropped_as_shared": dropped,
            "events_without_length": sum(r.start_s == r.stop_s for group in rows.values() for r in group),
            "subjects_shared": sorted({video for videos in left.values() for video in videos}),
            "bad": len(bad),
            "bad_names": bad[:20],
        }
        task = Task("classification", classes)
        return Splits(task, sources["train"], sources["validation"], sources["test"], False, facts)

    def _clip(self, row: AVERow, root: Path, classes: Sequence[str]) -> Clip:
        path = root / "AVE" / f"{row.video}.mp4"
        timed = self.segment == "event" and row.start_s < row.stop_s
        segment = (float(row.start_s), float(row.stop_s)) if timed else None
        meta: dict[str, Any] = {"label": row.category, "subject": row.video, "row": row.row}
        meta |= {"event_s": [row.start_s, row.stop_s]}
        sound, frames = (path if name in self.modalities else None for name in ("audio", "video"))
        return Clip(_name(row), classes.index(row.category), sound, frames, segment, meta)


def read_rows(path: Path, first_row: int = 0) -> list[AVERow]:
    """The rows of a txt file, numbered from `first_row`; a header is known by its text.

    Raises:
        AffuseError: missing, no text, or a row that is not of five fields with whole seconds from 0 to 10.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise AffuseError(f"{path}: larger than {_MAX_BYTES // 2**20} MiB; AVE's is a quarter of one")
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise AffuseError(f"{path}: no such file; set data.annotations to the folder of AVE's txt files") from None
    except (OSError, UnicodeDecodeError) as error:
        raise AffuseError(f"{path}: not a text file ({str(error)[:60]}); copy it again") from None
    rows: list[AVERow] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip() or (number == 1 and line.replace(" ", "").lower() == _HEADER):
            continue
        fields = [field.strip() for field in line.split("&")]
        whole = len(fields) == 5 and all(f.isascii() and f.isdecimal() and len(f) < 3 for f in fields[3:])
        if not whole or not fields[0] or not fields[1] or Path(fields[1]).name != fields[1]:
            raise AffuseError(
                f"{path}, line {number}: expected 'Category&VideoID&Quality&StartTime&EndTime', got {line[:80]!r}"
            )
        start, stop = int(fields[3]), int(fields[4])
        if not start <= stop <= SECONDS:
            raise AffuseError(
                f"{path}, line {number}: an event from {start} to {stop} s; expected 0 <= start <= end <= 10"
            )
        rows.append(AVERow(first_row + len(rows), fields[0], fields[1], fields[2], start, stop))
    if not rows:
        raise AffuseError(f"{path}: lists no clip")
    return rows


def read_split(folder: Path, split: Literal["txt", "h5"]) -> dict[str, list[AVERow]]:
    """The rows of each part.

    Raises:
        AffuseError: a file is missing or wrong, or an order names a row twice or one that does not exist.
    """
    parts: dict[str, list[AVERow]] = {}
    if split == "txt":
        for part, file in FILES.items():
            parts[part] = read_rows(folder / file, sum(map(len, parts.values())))
        return parts
    rows = read_rows(folder / ALL)
    seen: set[int] = set()
    for part, file in ORDERS.items():
        order = _order(folder / file)
        for index in order:
            if not 0 <= index < len(rows):
                raise AffuseError(f"{folder / file}: row {index}, but {ALL} has {len(rows)} rows")
            if index in seen:
                raise AffuseError(f"{folder / file}: row {index} is named twice, here or in another order")
            seen.add(index)
        parts[part] = [rows[index] for index in order]
    return parts


def shared_videos(rows: Mapping[str, Sequence[AVERow]]) -> dict[str, list[str]]:
    """Ids of the videos that stand in two parts, by ``PART/PART``."""
    videos = {part: {row.video for row in group} for part, group in rows.items()}
    return {f"{one}/{other}": sorted(videos[one] & videos[other]) for one, other in combinations(videos, 2)}


def _repeated(rows: Mapping[str, Sequence[AVERow]]) -> int:
    counts = Counter(row.video for group in rows.values() for row in group)
    return sum(count > 1 for count in counts.values())


def _name(row: AVERow) -> str:
    return f"{row.row:04d}_{row.video}"


def _order(path: Path) -> list[int]:
    try:
        with h5py.File(path, "r") as file:
            array = file["order"]
            if not isinstance(array, h5py.Dataset) or array.ndim != 1 or array.dtype.kind not in "iu":
                raise AffuseError(f"{path}: its 'order' is no list of whole numbers; copy it again")
            if array.size > 1_000_000:
                raise AffuseError(f"{path}: an order of {array.size} rows; AVE has 4143")
            return np.asarray(array[:]).astype(np.int64).tolist()
    except FileNotFoundError:
        raise AffuseError(f"{path}: no such file; set data.annotations to the folder of AVE's orders") from None
    except (OSError, KeyError, RuntimeError) as error:
        raise AffuseError(f"{path}: no HDF5 file with a list 'order' ({str(error)[:60]}); copy it again") from None
