"""The order in which an epoch's samples are drawn, and how many of each class there are to draw from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.data import Sampler

from affuse.data.splits import SampleSource
from affuse.types import AffuseError, Task


class Shuffled(Sampler[int]):
    """A new order each epoch. All randomness of an epoch (order, crops, dropout) follows from the seed and its number, so
    that a resumed run repeats it exactly; hence the seeding at the moment when an epoch's first sample is asked for. That is
    too late for a loader with workers, which draws their seed before: it takes that from `generator`.

    Args:
        n: samples there are, and indices an epoch gives.
        seed: of all epochs.
        chances: how likely each sample is to be drawn (n,), up to a factor; drawing is then with replacement. None: each
            sample once.
    """

    def __init__(self, n: int, seed: int, chances: Float[Tensor, " n"] | None = None):
        self.n, self.seed, self.chances = n, seed, chances
        self.generator = torch.Generator()
        self.set_epoch(0)

    def __len__(self) -> int:
        return self.n

    def set_epoch(self, epoch: int) -> None:
        """Lightning's trainer calls this before each epoch."""
        self.epoch = epoch
        self.generator.manual_seed(self._seed_of_epoch)

    @property
    def _seed_of_epoch(self) -> int:
        return self.seed * 100_003 + self.epoch

    def __iter__(self) -> Iterator[int]:
        torch.manual_seed(self._seed_of_epoch)
        if self.chances is None:
            return iter(torch.randperm(self.n).tolist())
        return iter(torch.multinomial(self.chances, self.n, replacement=True).tolist())


def class_targets(source: SampleSource) -> Int[Tensor, " n"]:
    """The class of each sample of a source, -1 where it is not known.

    A source that has a property ``targets``, a class index or None for each sample, is not read; of any other each sample is
    made once, which of a data set of videos takes as long as an epoch. No random numbers are used up.

    Raises:
        AffuseError: a target is not the index of a class, or there are not as many ``targets`` as samples.
    """
    found: Sequence[int | float | None] | None = getattr(source, "targets", None)
    if found is None:
        with torch.random.fork_rng(devices=[]):
            found = [source[index].target for index in range(len(source))]
    if len(found) != len(source):
        raise AffuseError(f"{type(source).__name__}: {len(found)} targets of {len(source)} samples")
    whole = [-1 if target is None else int(target) for target in found]
    if any(target is not None and target != index for target, index in zip(found, whole, strict=True)):
        raise AffuseError(f"{type(source).__name__}: a target is no class index, though the task is a classification")
    return torch.tensor(whole, dtype=torch.int64)


def class_counts(targets: Int[Tensor, " n"], task: Task) -> Int[Tensor, " c"]:
    """How many samples each class of a task has; those of an unknown class, below 0, are left out.

    Raises:
        AffuseError: a target is the index of no class.
    """
    known = targets[targets >= 0]
    if len(known) and int(known.max()) >= task.outputs:
        raise AffuseError(f"a target is {int(known.max())}, but there are {task.outputs} classes, numbered from 0")
    return torch.bincount(known, minlength=task.outputs)


def sampling_chances(
    targets: Int[Tensor, " n"], task: Task, sampling: Literal["shuffled", "balanced", "square_root"]
) -> Float[Tensor, " n"] | None:
    """How likely each sample is to be drawn, so that a class of n_c samples is drawn in proportion to n_c^q.

    q is 0 with ``balanced``, so that every class that has samples is equally likely, and 1/2 with ``square_root`` (Mahajan
    and others, "Exploring the Limits of Weakly Supervised Pretraining", ECCV 2018). Samples of an unknown class, which no
    loss is taken of, are not drawn.

    Args:
        targets: class of each sample, below 0 where unknown.
        task: a classification.
        sampling: the rule.

    Returns:
        float64; they sum to 1. None with ``shuffled``, which draws each sample once.

    Raises:
        AffuseError: no sample has a class.
    """
    if sampling == "shuffled":
        return None
    counts = class_counts(targets, task).double()
    if not counts.any():
        raise AffuseError(f"training.sampling is {sampling!r}, but no training sample has a class; choose 'shuffled'")
    q = 0.0 if sampling == "balanced" else 0.5
    chances = torch.where(targets >= 0, counts.clamp_min(1)[targets.clamp_min(0)] ** (q - 1), 0.0)
    return chances / chances.sum()
