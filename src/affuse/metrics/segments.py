"""Metrics of segmented recordings: frame-wise accuracy, edit score, segmental F1.

Source: Colin Lea, Michael D. Flynn, Rene Vidal, Austin Reiter and Gregory D. Hager, "Temporal Convolutional Networks for Action
Segmentation and Detection", CVPR 2017, section 4 (metrics). All are shares from 0 to 1 here, which the literature writes in
percent.

A recording is the label of each frame. -1 is "not answered" in an answer and "not annotated" in a truth; it is no segment. A
frame that was not answered counts as wrong, a frame that is not annotated is not measured by the accuracy. Classes named as
background are no segments either, as where the paper leaves out the background class.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from jaxtyping import Int

from affuse.metrics.classification import UNANSWERED
from affuse.metrics.intervals import nanmean
from affuse.types import AffuseError

OVERLAPS = (0.10, 0.25, 0.50)
RULES = {
    "frame_accuracy": "annotated frames that were answered correctly / annotated frames; mean over recordings",
    "edit": "1 - Levenshtein distance of the segments' classes / length of the longer; mean over recordings",
    "f1_10": "F1 of segments with an intersection over union of at least 10 %; mean over recordings",
    "f1_25": "F1 of segments with an intersection over union of at least 25 %; mean over recordings",
    "f1_50": "F1 of segments with an intersection over union of at least 50 %; mean over recordings",
}


def runs_of(labels: Int[np.ndarray, " n"]) -> list[tuple[int, int, int]]:
    """Equal neighbours as (label, begin, end), end not included."""
    if not len(labels):
        return []
    edges = [0, *(np.flatnonzero(np.diff(labels)) + 1).tolist(), len(labels)]
    return [(int(labels[begin]), begin, end) for begin, end in pairwise(edges)]


def label_segments(labels: Int[np.ndarray, " n"], background: Collection[int] = ()) -> list[tuple[int, int, int]]:
    """`runs_of` the labels without those of no class and of the background."""
    return [run for run in runs_of(labels) if run[0] != UNANSWERED and run[0] not in background]


def frame_accuracy(target: Int[np.ndarray, " n"], prediction: Int[np.ndarray, " n"]) -> float:
    """Correct frames / annotated frames; NaN where no frame is annotated."""
    known = target != UNANSWERED
    return float((target[known] == prediction[known]).mean()) if known.any() else float("nan")


def edit_score(
    target: Int[np.ndarray, " n"], prediction: Int[np.ndarray, " n"], background: Collection[int] = ()
) -> float:
    """1 - Levenshtein distance between the sequences of the segments' classes / the length of the longer one.

    How long a segment lasts does not matter, their order does. 1 where neither has a segment.
    """
    truth = np.array([label for label, _, _ in label_segments(target, background)], dtype=np.int64)
    said = np.array([label for label, _, _ in label_segments(prediction, background)], dtype=np.int64)
    longer = max(len(truth), len(said))
    return 1 - levenshtein(truth, said) / longer if longer else 1.0


def levenshtein(a: Int[np.ndarray, " n"], b: Int[np.ndarray, " k"]) -> int:
    """The fewest insertions, deletions and substitutions, each of cost 1, that make `b` of `a`."""
    row = np.arange(len(b) + 1)
    columns = np.arange(len(b) + 1)
    for number, symbol in enumerate(a, 1):
        best = np.concatenate([[number], np.minimum(row[1:] + 1, row[:-1] + (b != symbol))])
        # Insertions run along the row: best[j] = min over i <= j of best[i] + (j - i).
        row = np.minimum.accumulate(best - columns) + columns
    return int(row[-1])


def segment_counts(
    target: Int[np.ndarray, " n"], prediction: Int[np.ndarray, " n"], overlap: float, background: Collection[int] = ()
) -> tuple[int, int, int]:
    """True positives, false positives and false negatives among the segments.

    In order of time, each segment of the answer is held against the true segment of its class that it shares most with, by
    intersection over union. It is a true positive if that is at least `overlap` and no earlier one was one there; else it is a
    false positive. True segments that are left over are false negatives.

    Raises:
        AffuseError: the overlap is not above 0 and at most 1.
    """
    if not 0 < overlap <= 1:
        raise AffuseError(f"overlap is an intersection over union, above 0 and at most 1, got {overlap}")
    truth, said = label_segments(target, background), label_segments(prediction, background)
    used: set[int] = set()
    for label, begin, end in said:
        shared = [
            max(0, min(end, stop) - max(begin, start)) / (max(end, stop) - min(begin, start)) if label == name else 0.0
            for name, start, stop in truth
        ]
        best = int(np.argmax(shared)) if shared else -1
        if best >= 0 and best not in used and shared[best] >= overlap:
            used.add(best)
    return len(used), len(said) - len(used), len(truth) - len(used)


def segmental_f1(
    target: Int[np.ndarray, " n"], prediction: Int[np.ndarray, " n"], overlap: float, background: Collection[int] = ()
) -> float:
    """F1@k with k = 100 `overlap`: 2 TP / (2 TP + FP + FN) of `segment_counts`; 1 where neither has a segment."""
    hits, extra, missed = segment_counts(target, prediction, overlap, background)
    return 2 * hits / (2 * hits + extra + missed) if hits + extra + missed else 1.0


def segment_scores(
    recordings: Sequence[tuple[Int[np.ndarray, " _"], Int[np.ndarray, " _"]]], background: Collection[int] = ()
) -> dict[str, Any]:
    """Every metric of this file, over recordings of (truth, answer) of their frames.

    Returns:
        The means by name, as of `RULES` (NaN of no recording); ``recordings``, ``frames`` that are annotated, and
        ``unanswered`` among them.

    Raises:
        AffuseError: truth and answer of a recording differ in length.
    """
    rows: list[Mapping[str, float]] = []
    for number, (target, prediction) in enumerate(recordings):
        if len(target) != len(prediction):
            raise AffuseError(
                f"recording {number}: the truth has {len(target)} frames, the answer {len(prediction)}: read both on one clock"
            )
        rows.append(
            {
                "frame_accuracy": frame_accuracy(target, prediction),
                "edit": edit_score(target, prediction, background),
                **{f"f1_{round(100 * k)}": segmental_f1(target, prediction, k, background) for k in OVERLAPS},
            }
        )
    means = nanmean(
        np.array([[row[name] for name in RULES] for row in rows], dtype=np.float64).reshape(-1, len(RULES)), 0
    )
    known = [target != UNANSWERED for target, _ in recordings]
    said = [prediction for _, prediction in recordings]
    return {
        **dict(zip(RULES, means.tolist(), strict=True)),
        "recordings": len(rows),
        "frames": int(sum(there.sum() for there in known)),
        "unanswered": int(sum((part[there] == UNANSWERED).sum() for there, part in zip(known, said, strict=True))),
    }
