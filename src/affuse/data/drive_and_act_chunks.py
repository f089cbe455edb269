"""The annotations of Drive&Act: csv files of chunks of at most three seconds, one file a view, level, split and part.

``activities_3s/VIEW/LEVEL.chunks_90.split_N.PART.csv`` has the columns participant_id, file_id, annotation_id, frame_start,
frame_end, activity, chunk_id, and at the level of objects also object and location. A file_id is such as
``vp1/run1b_2018-05-29-14-02-47.kinect_color``: participant, run, and the suffix of the view.

**Every view counts its own frames**: the same chunk has other numbers in another view. Views are therefore paired on
participant, run (without the suffix), annotation and chunk, never on the position of a row. That these four name a chunk in
every view is read off the format; where views name one chunk differently, `pair_views` says so.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from affuse.types import AffuseError

Level = Literal["midlevel", "objectlevel", "tasklevel"]
Label = Literal["activity", "object", "location", "all"]
LEVELS: tuple[Level, ...] = ("midlevel", "objectlevel", "tasklevel")
SPLITS = (0, 1, 2)
PARTS = {"train": "train", "validation": "val", "test": "test"}
FOLDER = "activities_3s"
# View -> what its files end with.
VIEWS = {
    "kinect_color": "kinect_color",
    "kinect_ir": "kinect_ir",
    "kinect_depth": "kinect_depth",
    "inner_mirror": "ids_1",
    "a_column_co_driver": "ids_2",
    "ceiling": "ids_3",
    "steering_wheel": "ids_4",
    "a_column_driver": "ids_5",
}
# The 34 fine-grained activities, letter by letter as the files write them; alphabetical, which is their index.
CLASSES = (
    "closing_bottle",
    "closing_door_inside",
    "closing_door_outside",
    "closing_laptop",
    "drinking",
    "eating",
    "entering_car",
    "exiting_car",
    "fastening_seat_belt",
    "fetching_an_object",
    "interacting_with_phone",
    "looking_or_moving_around (e.g. searching)",
    "opening_backpack",
    "opening_bottle",
    "opening_door_inside",
    "opening_door_outside",
    "opening_laptop",
    "placing_an_object",
    "preparing_food",
    "pressing_automation_button",
    "putting_laptop_into_backpack",
    "putting_on_jacket",
    "putting_on_sunglasses",
    "reading_magazine",
    "reading_newspaper",
    "sitting_still",
    "taking_laptop_from_backpack",
    "taking_off_jacket",
    "taking_off_sunglasses",
    "talking_on_phone",
    "unfastening_seat_belt",
    "using_multimedia_display",
    "working_on_laptop",
    "writing",
)
_COLUMNS = ("participant_id", "file_id", "annotation_id", "frame_start", "frame_end", "activity", "chunk_id")
_OBJECT_COLUMNS = ("object", "location")
_FILE_ID = re.compile(r"vp(?P<participant>[0-9]{1,6})/(?P<run>[A-Za-z0-9_-]{1,80})\.(?P<suffix>[a-z0-9_]{1,40})")
_WHOLE = re.compile(r"[0-9]{1,9}")
_MAX_BYTES = 64 * 2**20
_MAX_LABEL = 200


@dataclass(frozen=True, order=True)
class ChunkKey:
    """What names a chunk in every view: `run` is such as ``run1b_2018-05-29-14-02-47``, the rest numbers as they stand."""

    participant: int
    run: str
    annotation: int
    chunk: int

    @property
    def recording(self) -> str:
        """The recording, below the folder of a view: ``vp1/run1b_2018-05-29-14-02-47``."""
        return f"vp{self.participant}/{self.run}"

    def __str__(self) -> str:
        return f"{self.recording}/{self.annotation}_{self.chunk}"


@dataclass(frozen=True)
class Chunk:
    """One row: `suffix` is that of the view's files; `frame_start` and `frame_end` count the view's frames, as they stand."""

    key: ChunkKey
    suffix: str
    frame_start: int
    frame_end: int
    label: str


@dataclass(frozen=True)
class PairedChunk:
    """A chunk in all views that have it: rows by modality."""

    key: ChunkKey
    label: str
    rows: Mapping[str, Chunk]


@dataclass(frozen=True)
class Pairing:
    """Chunks of all views, in the order of their keys.

    Args:
        chunks: those that any view has.
        lacking: by modality, chunks that another view has and this one has not.
        conflicts: by modality, chunks that this view calls otherwise than the first view that has them; it counts as not
            having them.
    """

    chunks: tuple[PairedChunk, ...]
    lacking: Mapping[str, int]
    conflicts: Mapping[str, tuple[ChunkKey, ...]]


def csv_name(level: Level, split: int, part: str) -> str:
    """The name of a file of chunks; `part` is ``train``, ``validation`` or ``test``."""
    return f"{level}.chunks_90.split_{split}.{PARTS[part]}.csv"


def read_chunks(path: Path, level: Level = "midlevel", label: Label = "activity") -> list[Chunk]:
    """The rows of a file of chunks.

    Args:
        path: the csv file.
        level: midlevel and tasklevel have an activity, objectlevel also an object and a location.
        label: the column that becomes the label; ``all``: activity, object and location, with blanks between.

    Raises:
        AffuseError: missing, no such csv file, or a row that is not of its grammar or stands twice.
    """
    if label != "activity" and level != "objectlevel":
        raise AffuseError(
            f"{path}: {level} has activities only; set data.label to activity, or data.level to objectlevel"
        )
    columns = _COLUMNS + (_OBJECT_COLUMNS if level == "objectlevel" else ())
    lines = _lines(path)
    reader = csv.reader(lines, strict=True)
    chunks: list[Chunk] = []
    seen: set[ChunkKey] = set()
    places: list[int] = []
    width = 0
    try:
        for row in reader:
            where = f"{path}, line {reader.line_num}"
            if not places:
                missing = [column for column in columns if column not in row]
                if missing:
                    raise AffuseError(f"{where}: no column {', '.join(missing)}; is it a file of chunks of {level}?")
                places = [row.index(column) for column in columns]
                width = len(row)
            elif row:
                if len(row) != width:
                    raise AffuseError(f"{where}: {len(row)} fields below {width} columns; copy the file again")
                chunk = _chunk(dict(zip(columns, (row[place] for place in places), strict=True)), label, where)
                if chunk.key in seen:
                    raise AffuseError(f"{where}: the chunk {chunk.key} stands twice; copy the file again")
                seen.add(chunk.key)
                chunks.append(chunk)
    except csv.Error as error:
        raise AffuseError(
            f"{path}, line {reader.line_num}: not a csv file ({str(error)[:60]}); copy it again"
        ) from None
    if not chunks:
        raise AffuseError(f"{path}: lists no chunk; copy it again")
    return chunks


def pair_views(views: Mapping[str, Sequence[Chunk]]) -> Pairing:
    """Join the rows of several views on participant, run, annotation and chunk.

    Args:
        views: rows by modality; where views disagree on a label, the first of them that has the chunk is believed.
    """
    rows: dict[ChunkKey, dict[str, Chunk]] = {}
    conflicts: dict[str, list[ChunkKey]] = {name: [] for name in views}
    for name, chunks in views.items():
        for chunk in chunks:
            there = rows.setdefault(chunk.key, {})
            believed = next(iter(there.values()), chunk).label
            if chunk.label == believed:
                there[name] = chunk
            else:
                conflicts[name].append(chunk.key)
    paired = [PairedChunk(key, next(iter(there.values())).label, there) for key, there in sorted(rows.items())]
    lacking = {name: len(rows) - len({chunk.key for chunk in chunks}) for name, chunks in views.items()}
    return Pairing(tuple(paired), lacking, {name: tuple(keys) for name, keys in conflicts.items()})


def shared_participants(parts: Mapping[str, Sequence[PairedChunk]]) -> list[str]:
    """Participants that stand in more than one part, such as ``vp3``: there should be none."""
    members = Counter(p for chunks in parts.values() for p in {chunk.key.participant for chunk in chunks})
    return [f"vp{participant}" for participant, times in sorted(members.items()) if times > 1]


def span(chunk: Chunk, frame_end: Literal["exclusive", "inclusive"]) -> tuple[int, int]:
    """First frame, and the one behind the last; at least one frame."""
    stop = chunk.frame_end + (1 if frame_end == "inclusive" else 0)
    return chunk.frame_start, max(stop, chunk.frame_start + 1)


def _lines(path: Path) -> list[str]:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise AffuseError(f"{path}: larger than {_MAX_BYTES // 2**20} MiB; Drive&Act's are below one")
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise AffuseError(
            f"{path}: no such file; set data.root or data.annotations to the folder that holds {FOLDER}/"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise AffuseError(f"{path}: not a text file ({str(error)[:60]}); copy it again") from None
    if text.startswith("version https://git-lfs"):
        raise AffuseError(f"{path}: a Git LFS pointer, not the file; run 'git lfs pull' where the data came from")
    return text.splitlines(keepends=True)


def _chunk(fields: Mapping[str, str], label: Label, where: str) -> Chunk:
    numbers = {}
    for column in ("participant_id", "annotation_id", "frame_start", "frame_end", "chunk_id"):
        if not _WHOLE.fullmatch(fields[column]):
            raise AffuseError(f"{where}: {column} is a whole number from 0 up, not {fields[column][:40]!r}")
        numbers[column] = int(fields[column])
    name = _FILE_ID.fullmatch(fields["file_id"])
    if name is None:
        raise AffuseError(
            f"{where}: file_id {fields['file_id'][:80]!r} is not such as vp1/run1b_2018-05-29.kinect_color"
        )
    if name["participant"] != str(numbers["participant_id"]):
        raise AffuseError(
            f"{where}: participant {numbers['participant_id']}, but the file is of vp{name['participant']}"
        )
    if numbers["frame_end"] < numbers["frame_start"]:
        raise AffuseError(
            f"{where}: frames from {numbers['frame_start']} to {numbers['frame_end']}; the end lies before the start"
        )
    wanted = ("activity", *_OBJECT_COLUMNS) if label == "all" else (label,)
    said = [fields[column] for column in wanted]
    if any(not text.strip() or len(text) > _MAX_LABEL or not text.isprintable() for text in said):
        raise AffuseError(f"{where}: {' and '.join(wanted)} must be named, got {str(said)[:80]}")
    key = ChunkKey(numbers["participant_id"], name["run"], numbers["annotation_id"], numbers["chunk_id"])
    return Chunk(key, name["suffix"], numbers["frame_start"], numbers["frame_end"], " ".join(said))
