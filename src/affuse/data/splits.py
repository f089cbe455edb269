"""What every data set gives: three splits of samples, and the facts about them that a report must state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from affuse.signals.clips import ClipSpec
from affuse.types import AffuseError, Sample, Task


@runtime_checkable
class SampleSource(Protocol):
    """A map-style data set of samples. A random crop draws from torch's global generator."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Sample: ...


@dataclass(frozen=True)
class Splits:
    """Train, validation and test.

    Args:
        task: what is predicted.
        train, validation, test: the samples. Samples of `test` that share ``meta["id"]`` are crops of one recording;
            ``meta["crop"]`` numbers them, and evaluation averages its metrics over the crop numbers.
        synthetic: whether any of it was made by a simulation; every table then says so.
        facts: what a reader of a result must know: ``name``, ``split`` (the rule), counts, ``subjects_shared`` (subjects that
            stand in more than one split), bad files. Plain JSON values.
        clip: how video and events become inputs, for `predict`; None where samples are not clips.
    """

    task: Task
    train: SampleSource
    validation: SampleSource
    test: SampleSource
    synthetic: bool
    facts: Mapping[str, Any] = field(default_factory=dict)
    clip: ClipSpec | None = None


def check_bad(
    where: object, bad: Sequence[str], total: int, max_bad_fraction: float, remedy: str = "mend them"
) -> None:
    """Stop a run of which too many recordings cannot be used.

    Args:
        where: the file or folder that they are in.
        bad: what is wrong with each bad one.
        total: how many there are, good and bad.
        max_bad_fraction: more bad ones than this share are an error.
        remedy: what else helps than to raise that share.

    Raises:
        AffuseError: there are more.
    """
    if len(bad) > max_bad_fraction * total:
        raise AffuseError(
            f"{where}: {len(bad)} of {total} recordings cannot be used (first: {bad[0]}); {remedy} or raise max_bad_fraction"
        )


@runtime_checkable
class DataConfig(Protocol):
    """The ``data`` section of a recipe: a frozen dataclass that can make its splits."""

    def splits(self, seed: int) -> Splits: ...
