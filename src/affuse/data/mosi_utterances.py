"""CMU-MOSI, one feature vector an utterance (Poria et al., "Context-Dependent Sentiment Analysis", ACL 2017, and its
successors), with the neighbouring utterances of the video as context.

A folder holds, for ``train`` (62 videos) and ``dev`` (16 videos of the test part)::

    {text,audio,video}_{train,dev}.csv   one row an utterance: its features, then the label (0 negative, 1 positive)
    {train,dev}_utterances.csv           id, text, label of the same rows; id is VIDEO_NUMBER

**What is valid here.** The text and video features came from extractors that had been trained on the labels of the training
part, in which a linear model therefore reaches 98 %: splitting that part again measures nothing. So training reads ``train``,
and the videos of ``dev`` are halved, one half for validation and one for the test (`half` says which; report both).

**The order of the files tells the label**: within a video the positive utterances stand first. Neighbours are therefore
found by the number of the utterance. Numbers are not without gaps (neutral utterances were left out); a neighbour is the
next one that is there.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from affuse.data.splits import Splits
from affuse.types import AffuseError, Sample, Task

CLASSES = ("negative", "positive")
MODALITIES = ("text", "audio", "video")
_MAX_ROWS = 100_000


@dataclass(frozen=True)
class MOSIUtterances:
    """The ``data`` section of a recipe for the utterance features of MOSI.

    Args:
        root: folder of the csv files.
        context: neighbours on each side (k); each modality is (2k + 1, d), the farthest first, the next before the previous
            one at equal distance, and the utterance that is asked last. Zeros stand where the video has no neighbour.
        half: which half of the ``dev`` videos is the test; the other is validation.
    """

    root: str
    context: int = 0
    half: Literal[0, 1] = 0

    def __post_init__(self) -> None:
        if not 0 <= self.context <= 1000:
            raise AffuseError(f"MOSIUtterances: context is a number of neighbours from 0 to 1000, not {self.context}")

    def splits(self, seed: int) -> Splits:
        """Train, validation and test; the same for every seed.

        Raises:
            AffuseError: files are missing, damaged, or do not fit together.
        """
        root = Path(self.root)
        train, dev = _read(root, "train"), _read(root, "dev")
        shared = sorted({u.video for u in train.utterances} & {u.video for u in dev.utterances})
        for name in MODALITIES:
            if train.features[name].shape[1] != dev.features[name].shape[1]:
                raise AffuseError(f"{root}: {name}_train.csv and {name}_dev.csv differ in their number of columns")
            # Standardised by the training part alone, so that zero is its mean: a neutral neighbour.
            mean, std = train.features[name].mean(axis=0), train.features[name].std(axis=0)
            std[std == 0] = 1.0
            for table in (train, dev):
                table.features[name] = (table.features[name] - mean) / std
        videos = sorted({utterance.video for utterance in dev.utterances})
        if len(videos) < 2:
            raise AffuseError(f"{root}: the dev part has {len(videos)} videos; validation and test need one each")
        tests = set(videos[self.half :: 2])
        sources = {
            "train": Utterances(train, {u.video for u in train.utterances}, self.context),
            "validation": Utterances(dev, set(videos) - tests, self.context),
            "test": Utterances(dev, tests, self.context),
        }
        facts = {
            "name": "CMU-MOSI utterance features",
            "split": (
                f"train: the training part; of the {len(videos)} dev videos every other one by name is test "
                f"(half {self.half}), the rest validation"
            ),
            "note": "text and video features come from extractors trained on the training labels: only dev measures",
            "counts": {name: len(source) for name, source in sources.items()},
            "videos": {name: len({u.video for u in source.asked}) for name, source in sources.items()},
            "subjects_shared": shared,
            "widths": {name: int(train.features[name].shape[1]) for name in MODALITIES},
        }
        task = Task("classification", CLASSES)
        return Splits(task, sources["train"], sources["validation"], sources["test"], False, facts)


@dataclass(frozen=True)
class _Utterance:
    video: str
    number: int
    text: str
    label: int
    row: int


@dataclass(frozen=True)
class _Table:
    utterances: tuple[_Utterance, ...]
    features: dict[str, NDArray[np.float64]]  # (n, d)


class Utterances:
    """Map-style source: one sample an utterance of `videos`, in the order of video and number, each with its neighbours."""

    def __init__(self, table: _Table, videos: set[str], context: int) -> None:
        self.asked = sorted((u for u in table.utterances if u.video in videos), key=lambda u: (u.video, u.number))
        self._features = {name: torch.from_numpy(rows).float() for name, rows in table.features.items()}
        self._context = context

    def __len__(self) -> int:
        return len(self.asked)

    def __getitem__(self, index: int, /) -> Sample:
        asked = self.asked[index]
        rows = []
        for offset in context_order(self._context):
            place = index + offset
            inside = 0 <= place < len(self.asked) and self.asked[place].video == asked.video
            rows.append(self.asked[place].row if inside else -1)
        inputs = {name: _rows(features, rows) for name, features in self._features.items()}
        meta = {
            "id": f"{asked.video}_{asked.number}",
            "subject": asked.video,
            "label": CLASSES[asked.label],
            "text": asked.text,
        }
        return Sample(inputs, asked.label, {}, meta)


def context_order(k: int) -> list[int]:
    """Places of the 2k + 1 steps relative to the utterance that is asked: k, -k, ..., 1, -1, 0."""
    return [sign * distance for distance in range(k, 0, -1) for sign in (1, -1)] + [0]


def _rows(features: Float[Tensor, "n d"], rows: Sequence[int]) -> Float[Tensor, "t d"]:
    out = torch.zeros(len(rows), features.shape[1])
    for step, row in enumerate(rows):
        if row >= 0:
            out[step] = features[row]
    return out


def _read(root: Path, part: str) -> _Table:
    utterances = _utterances(root / f"{part}_utterances.csv")
    features = {}
    for name in MODALITIES:
        path = root / f"{name}_{part}.csv"
        table = _numbers(path)
        if len(table) != len(utterances):
            raise AffuseError(f"{path}: {len(table)} rows where {part}_utterances.csv has {len(utterances)}")
        wrong = np.flatnonzero(table[:, -1] != [u.label for u in utterances])
        if len(wrong):
            raise AffuseError(f"{path}, line {wrong[0] + 1}: its label differs from that in {part}_utterances.csv")
        features[name] = table[:, :-1]
    return _Table(utterances, features)


def _lines(path: Path) -> list[list[str]]:
    if not path.parent.is_dir():
        raise AffuseError(f"{path.parent}: no such folder; set data.root to the folder of the MOSI csv files")
    if not path.is_file():
        raise AffuseError(
            f"{path}: no such file; the folder needs text, audio, video and utterances, each of train and dev"
        )
    try:
        with path.open(encoding="utf-8", newline="") as file:
            lines: list[list[str]] = []
            for line in csv.reader(file, strict=True):
                if len(lines) > _MAX_ROWS:
                    raise AffuseError(f"{path}: more than {_MAX_ROWS} rows; MOSI has 2199 utterances")
                lines.append(line)
    except (UnicodeDecodeError, csv.Error) as error:
        raise AffuseError(f"{path}: not a csv file ({str(error)[:80]}); copy it again") from None
    if not lines:
        raise AffuseError(f"{path}: empty; copy it again")
    return lines


def _numbers(path: Path) -> NDArray[np.float64]:
    lines = _lines(path)
    width = len(lines[0])
    for number, line in enumerate(lines, start=1):
        if len(line) != width or width < 2:
            raise AffuseError(f"{path}, line {number}: {len(line)} columns where the first line has {width}")
    try:
        table = np.array(lines, dtype=np.float64)
    except ValueError as error:
        raise AffuseError(f"{path}: {str(error)[:80]}; every cell is a number") from None
    if not np.isfinite(table).all():
        row = int(np.flatnonzero(~np.isfinite(table).all(axis=1))[0])
        raise AffuseError(f"{path}, line {row + 1}: a number that is not finite")
    return table


def _utterances(path: Path) -> tuple[_Utterance, ...]:
    header, *lines = _lines(path)
    if header != ["id", "text", "label"]:
        raise AffuseError(f"{path}: its first line is {','.join(header)[:60]!r}, not 'id,text,label'")
    found: dict[str, _Utterance] = {}
    for row, line in enumerate(lines):
        fields: list[Any] = [*line[0].rpartition("_"), *line[1:]] if line else []
        if len(fields) != 5 or not fields[2].isdecimal() or len(fields[2]) > 9 or fields[4] not in ("0", "1"):
            raise AffuseError(f"{path}, line {row + 2}: expected 'VIDEO_NUMBER,text,0 or 1', got {str(line)[:80]}")
        if line[0] in found:
            raise AffuseError(f"{path}, line {row + 2}: {line[0]!r} is listed twice")
        found[line[0]] = _Utterance(fields[0], int(fields[2]), fields[3], int(fields[4]), row)
    if not found:
        raise AffuseError(f"{path}: lists no utterance")
    return tuple(found.values())
