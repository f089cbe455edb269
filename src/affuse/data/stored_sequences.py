"""Samples whose sequences stay in their files until they are asked for; what the readers of feature files share."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from affuse.data.stored_array import StoredArray
from affuse.types import AffuseError, Sample


@dataclass(frozen=True)
class StoredSequence:
    """One modality of one sample: steps [start, stop) of `array`, or of row `row` of it.

    Args:
        array: (t, ...), or (n, t, ...) with `row`.
        start, stop: steps.
        row: which row; None where the array is this sequence alone, or many in one after another.
    """

    array: StoredArray
    start: int
    stop: int
    row: int | None = None

    def __len__(self) -> int:
        return self.stop - self.start

    def read(self) -> Tensor:
        """The steps: float32 (t, ...) with 0 where a number is not finite, or int64 where they are whole numbers."""
        if self.row is None:
            steps = self.array.rows(self.start, self.stop)
        else:
            steps = self.array[self.row][self.start : self.stop]
        if steps.dtype.kind in "iu":
            return torch.from_numpy(steps.astype(np.int64))
        return torch.from_numpy(finite(steps))


@dataclass(frozen=True)
class StoredSample:
    """What a sample is made of; an empty sequence is an absent modality.

    Args:
        inputs: by modality.
        target: class index, or value.
        meta: id, subject and what else is known.
        times_us: start of each step by modality, where a clock is known.
    """

    inputs: Mapping[str, StoredSequence | Tensor]
    target: int | float | None
    meta: Mapping[str, Any]
    times_us: Mapping[str, StoredSequence] = field(default_factory=dict)


class StoredSequences:
    """Map-style source that reads a sample's steps from their files when it is asked for."""

    def __init__(self, samples: Sequence[StoredSample]) -> None:
        self._samples = tuple(samples)

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int, /) -> Sample:
        sample = self._samples[index]
        inputs = {
            name: sequence if isinstance(sequence, Tensor) else sequence.read()
            for name, sequence in sample.inputs.items()
            if len(sequence)
        }
        times = {name: sequence.read() for name, sequence in sample.times_us.items() if name in inputs}
        return Sample(inputs, sample.target, times, sample.meta)

    @property
    def stored(self) -> tuple[StoredSample, ...]:
        """What the samples are made of, unread."""
        return self._samples


def finite(numbers: NDArray[Any]) -> NDArray[np.float32]:
    """As float32, 0 in place of what is not finite (COVAREP's logarithm of silence is -inf)."""
    with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinite, and then 0
        out = numbers.astype(np.float32)
    out[~np.isfinite(out)] = 0.0
    return out


def used_steps(array: StoredArray) -> tuple[NDArray[np.int64], int]:
    """Where the sequences of (n, t, d) begin and end, [start, stop) (n, 2), by their rows of zeros, and how many numbers are
    not finite. A sequence of zeros only is empty: start and stop are 0."""
    spans = np.zeros((len(array), 2), np.int64)
    strange = 0
    for first, block in array.blocks():
        good = np.isfinite(block)
        strange += int(block.size - np.count_nonzero(good))
        used = ((block != 0) & good).any(axis=2)  # n t
        some = used.any(axis=1)
        starts = used.argmax(axis=1)
        stops = used.shape[1] - used[:, ::-1].argmax(axis=1)
        spans[first : first + len(block)] = np.stack([starts * some, stops * some], axis=1)
    return spans, strange


def subjects_of(samples: Mapping[str, Sequence[StoredSample]]) -> dict[str, Any]:
    """The facts ``subjects`` (how many) and ``subjects_shared`` (those that stand in more than one split)."""
    found: dict[str, set[str]] = {}
    for split, part in samples.items():
        for sample in part:
            if "subject" in sample.meta:
                found.setdefault(sample.meta["subject"], set()).add(split)
    return {"subjects": len(found), "subjects_shared": sorted(s for s, splits in found.items() if len(splits) > 1)}


def absent_of(samples: Mapping[str, Sequence[StoredSample]], modalities: Sequence[str]) -> dict[str, dict[str, int]]:
    """How many samples of each split lack each modality; only what is lacking is named."""
    lacking = {
        split: {name: sum(not len(s.inputs.get(name, ())) for s in part) for name in modalities}
        for split, part in samples.items()
    }
    return {split: {name: n for name, n in counts.items() if n} for split, counts in lacking.items()}


def find_file(root: str | Path, candidates: Sequence[str], what: str) -> Path:
    """The first of `candidates` below `root` that exists.

    Raises:
        AffuseError: no folder, or none of them.
    """
    root = Path(root)
    if not root.is_dir():
        raise AffuseError(f"{root}: no such folder; set data.root to the folder of {what}")
    for name in candidates:
        if (root / name).is_file():
            return root / name
    raise AffuseError(f"{root}: {what} not found: none of {', '.join(candidates)}")


def sha256_of(path: Path) -> str:
    """The file's SHA-256 in hexadecimal, read block by block."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise AffuseError(f"{path}: cannot be read ({error.strerror or error})") from None
