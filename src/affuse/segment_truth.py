"""The truth of a long recording as a csv file, and how far the segments of an answer agree with it."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from affuse.metrics.segments import segment_scores
from affuse.segments import MOMENTS, NO_ANSWER, Segment, labels_at
from affuse.types import AffuseError

COLUMNS = ("start_us", "stop_us", "label")
LARGEST = 64 * 1024 * 1024  # bytes


def read_truth(path: str | Path, classes: Sequence[str]) -> list[Segment]:
    """The actions of a recording, in order.

    Args:
        path: csv with a head of ``start_us``, ``stop_us`` (microseconds on the clock of the recording) and ``label``; other
            columns are passed over. What lies between two rows is not annotated.
        classes: names in index order.

    Raises:
        AffuseError: the file cannot be read, a row is not a stretch of time, two overlap, or a label is no class.
    """
    path = Path(path)
    if not path.is_file():
        raise AffuseError(f"{path}: no such file")
    if path.stat().st_size > LARGEST:
        raise AffuseError(f"{path}: larger than {LARGEST // 2**20} MiB: give the csv of one recording")
    number = {name: index for index, name in enumerate(classes)}
    found = []
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            missing = [name for name in COLUMNS if name not in (rows.fieldnames or ())]
            if missing:
                raise AffuseError(
                    f"{path}: has no column {missing[0]!r}; the first line must name {', '.join(COLUMNS)}"
                )
            for row in rows:
                where = f"{path}, line {rows.line_num}"
                try:
                    start_us, stop_us = int(row["start_us"]), int(row["stop_us"])
                except (TypeError, ValueError):
                    raise AffuseError(f"{where}: start_us and stop_us must be whole microseconds") from None
                if not 0 <= start_us < stop_us < 2**62:
                    raise AffuseError(f"{where}: stops before it starts, or lies outside of any recording")
                if row["label"] not in number:
                    raise AffuseError(f"{where}: {row['label']!r} is none of the classes {', '.join(classes)}")
                found.append(Segment(start_us, stop_us, number[row["label"]], 1.0))
    except (UnicodeDecodeError, csv.Error) as error:
        raise AffuseError(f"{path}: not a csv file of UTF-8 text ({error})") from None
    found.sort(key=lambda segment: segment.start_us)
    for one, other in pairwise(found):
        if other.start_us < one.stop_us:
            raise AffuseError(f"{path}: two rows overlap at {other.start_us} us: a moment has one label")
    return found


def agreement(said: Sequence[Segment], truth: Sequence[Segment], frame_us: int = 33_333) -> dict[str, Any]:
    """The metrics of `affuse.metrics.segments` of one recording, on frames this far apart.

    Frames run from the first to the last moment of either; one of the truth that the answer does not reach was not answered.

    Returns:
        As of `segment_scores`, None in place of NaN, and ``frame_us``.

    Raises:
        AffuseError: that is more frames than any recording has.
    """
    both = [*said, *truth]
    first = min((segment.start_us for segment in both), default=0)
    last = max((segment.stop_us for segment in both), default=0)
    if (last - first) // frame_us >= MOMENTS:
        raise AffuseError(f"the truth ends after {last / 1e6:.0f} s: write its times as microseconds of this recording")
    times_us = np.arange(first, last, frame_us, dtype=np.int64)
    scores = segment_scores([(labels_at(truth, times_us), labels_at(said, times_us))])
    return {name: None if value != value else value for name, value in scores.items()} | {"frame_us": frame_us}


def segments_of(answer: Mapping[str, Any], classes: Sequence[str]) -> list[Segment]:
    """The ``segments`` of an answer of `affuse.predict_cameras`, read back, with class indices in place of names."""
    number = {name: index for index, name in enumerate(classes)}
    return [
        Segment(
            part["start_us"],
            part["stop_us"],
            NO_ANSWER if part["label"] is None else number[part["label"]],
            float("nan") if part["confidence"] is None else part["confidence"],
        )
        for part in answer.get("segments") or ()
    ]
