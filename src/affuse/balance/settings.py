"""Settings of the balancing methods: the section ``training.balance`` of a recipe. Light to import: no trainer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from affuse.types import AffuseError


def _window(starts: int, ends: int | None) -> None:
    if starts < 0 or (ends is not None and ends < starts):
        raise AffuseError(
            f"starts is {starts} and ends {ends}: epochs count from 0, and the first comes before the last"
        )


def _not_negative(**values: int | float) -> None:
    for name, value in values.items():
        if not 0 <= value < float("inf"):
            raise AffuseError(f"{name} is {value}; it must be a number from 0 up")


@dataclass(frozen=True)
class OGMGESettings:
    """OGM-GE.

    Args:
        name: of the method.
        alpha: strength; the paper's code has 0.8 for CREMA-D and 0.1 for VGGSound.
        noise: whether gradients get the noise of generalisation enhancement (GE).
        parameters: ``all`` of a modality's own, as the paper's theta^u, or only the 4-D weights of its 2-D convolutions
            (``convolutions``), as the released code.
        starts: first epoch of it, numbered from 0.
        ends: last epoch of it; the released code's 50 is of 100. None: it never ends.
    """

    name: Literal["ogm_ge"] = "ogm_ge"
    alpha: float = 0.8
    noise: bool = True
    parameters: Literal["all", "convolutions"] = "all"
    starts: int = 0
    ends: int | None = 50

    def __post_init__(self) -> None:
        _not_negative(alpha=self.alpha)
        _window(self.starts, self.ends)


@dataclass(frozen=True)
class PMRSettings:
    """PMR.

    Args:
        name: of the method.
        alpha: weight of the prototypical cross-entropy; 1 in the released code.
        coefficient: ``clipped``: by how much a modality is behind, at most 1, as the paper; ``full``: 1 for whichever is
            behind, as the released code.
        momentum: how much of a prototype stays when it is estimated anew; 0.2 in the released code.
        share: of the training batches that prototypes are estimated from; a tenth in the released code.
        mu: weight of the entropy of the modality that is ahead. The released code leaves the term out; 0.01 is ours.
        entropy_epochs: in how many of the first epochs it has that term; ours.
        starts: first epoch of the method, numbered from 0.
        ends: last epoch of it; 100 of 150 in the released code. None: it never ends.
    """

    name: Literal["pmr"] = "pmr"
    alpha: float = 1.0
    coefficient: Literal["clipped", "full"] = "clipped"
    momentum: float = 0.2
    share: float = 0.1
    mu: float = 0.01
    entropy_epochs: int = 5
    starts: int = 0
    ends: int | None = 100

    def __post_init__(self) -> None:
        _not_negative(alpha=self.alpha, mu=self.mu, entropy_epochs=self.entropy_epochs)
        _window(self.starts, self.ends)
        if not 0 <= self.momentum < 1:
            raise AffuseError(f"momentum is {self.momentum}; it must be at least 0 and below 1")
        if not 0 < self.share <= 1:
            raise AffuseError(f"share is {self.share}; it must be above 0 and at most 1")


@dataclass(frozen=True)
class AGMSettings:
    """AGM.

    Args:
        name: of the method.
        alpha: strength; the paper chooses it by data set, 1 is ours.
        starts: first epoch of it, numbered from 0.
        ends: last epoch of it. None: it never ends.
    """

    name: Literal["agm"] = "agm"
    alpha: float = 1.0
    starts: int = 0
    ends: int | None = None

    def __post_init__(self) -> None:
        _not_negative(alpha=self.alpha)
        _window(self.starts, self.ends)


BalanceSettings = OGMGESettings | PMRSettings | AGMSettings
METHODS: dict[str, type] = {"ogm_ge": OGMGESettings, "pmr": PMRSettings, "agm": AGMSettings}
