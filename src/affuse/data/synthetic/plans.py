"""Who does what under which light: the plan of a synthetic world's recordings, drawn before any picture is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, get_args, runtime_checkable

import numpy as np

from affuse.types import AffuseError

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)


@dataclass(frozen=True)
class Plan:
    """What a recording shows; `number` and `subject` count over the whole world, `seed` draws the rest."""

    split: Split
    number: int
    subject: int
    label: str
    light: str
    seed: tuple[int, ...]

    @property
    def id(self) -> str:
        return f"{self.split}_{self.number:05d}"


def dealt(
    split: Split,
    recordings: Mapping[Split, int],
    subjects: Mapping[Split, int],
    labels: Sequence[str],
    lights: Sequence[str],
    world: int,
) -> list[Plan]:
    """The recordings of a split: labels and lights in equal shares, its own people at random.

    Args:
        split: which.
        recordings, subjects: how many each split has.
        labels, lights: what there is of both.
        world: its seed.
    """
    part = SPLITS.index(split)
    first, first_subject = (sum(sizes[name] for name in SPLITS[:part]) for sizes in (recordings, subjects))
    rng = np.random.default_rng((world, part))
    order = rng.permutation(recordings[split])
    people = first_subject + rng.integers(0, subjects[split], recordings[split])
    return [
        Plan(
            split,
            first + i,
            int(people[i]),
            labels[k % len(labels)],
            lights[k // len(labels) % len(lights)],
            (world, 1 + part, i),
        )
        for i, k in enumerate(order.tolist())
    ]


@runtime_checkable
class Planned(Protocol):
    """A split of a world: what it shows, one plan a recording."""

    @property
    def plans(self) -> Sequence[Any]: ...


def facts_of(name: str, sources: Mapping[Split, Planned], world: int) -> dict[str, Any]:
    """What a run writes down of a world in which every split has people of its own."""
    return {
        "name": name,
        "split": "by subject: every split has people of its own",
        "counts": {split: len(source.plans) for split, source in sources.items()},
        "subjects": {split: len({plan.subject for plan in source.plans}) for split, source in sources.items()},
        "subjects_shared": [],
        "bad": 0,
        "world_seed": world,
    }


def check_world_seed(name: str, world_seed: int | None) -> None:
    """Whether a world can be drawn by this seed.

    Raises:
        AffuseError: it is negative.
    """
    if world_seed is not None and world_seed < 0:
        raise AffuseError(
            f"{name}: world_seed is {world_seed}; it must be 0 or more, or null for the seed of the training"
        )


def new_folder(root: str | Path, what: str) -> Path:
    """The folder that a world is to be written to.

    Raises:
        AffuseError: it exists and is not an empty folder.
    """
    root = Path(root)
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise AffuseError(f"{root}: not an empty folder; give a new one to write the {what} to")
    return root
