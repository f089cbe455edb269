"""What a loss is taken over: the rows with an answer and a target, and what is left where there is none."""

from __future__ import annotations

import torch
from jaxtyping import Bool
from torch import Tensor

from affuse.types import AffuseError, Batch, Output, System, Task


def known_rows(output: Output, batch: Batch, task: Task) -> Bool[Tensor, " b"]:
    """Rows that were answered and have a target.

    Raises:
        AffuseError: the batch has no targets, or whole numbers in a regression.
    """
    if batch.target is None:
        raise AffuseError("the batch has no targets, so there is no loss: give every training sample a target")
    if task.kind == "regression" and not batch.target.is_floating_point():
        raise AffuseError("the targets of a regression are whole numbers, of which -1 says unknown: give floats")
    # An index below 0 says that the class is not known; in a regression it is a value.
    known = batch.target >= 0 if task.kind == "classification" else torch.isfinite(batch.target)
    return output.answered & known


def nothing_to_learn(system: System) -> dict[str, Tensor]:
    """The loss where no row has both an answer and a target: a zero that may still be differentiated."""
    return {"total": 0.0 * torch.stack([p.sum() for p in system.parameters() if p.requires_grad]).sum()}
