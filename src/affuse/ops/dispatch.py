"""Sparse dispatch: each row goes to the few experts that its router chose, and no expert sees any other row.

Shape letters: ``b`` batch, ``e`` expert, ``c`` class. The dense form runs every expert on every row; it is the reference, and
the form for an exported graph, which cannot branch on data.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from affuse.types import AffuseError

Expert = Callable[[Tensor], Tensor]


def top_k_weights(probabilities: Float[Tensor, "b e"], k: int) -> Float[Tensor, "b e"]:
    """Keep the `k` largest probabilities of each row, scaled to sum to 1; the others are exactly zero.

    Raises:
        AffuseError: `k` is not between 1 and the number of experts.
    """
    experts = probabilities.shape[1]
    if not 1 <= k <= experts:
        raise AffuseError(f"top_k must be between 1 and the number of experts, {experts}; got {k}")
    largest, chosen = probabilities.topk(k, dim=1)
    kept = largest / largest.sum(1, keepdim=True)
    return torch.zeros_like(probabilities).scatter(1, chosen, kept)


def dispatch(
    inputs: Float[Tensor, "b ..."], weights: Float[Tensor, "b e"], experts: Sequence[Expert], width: int
) -> Float[Tensor, "b c"]:
    """The weighted sum of the experts' outputs, each expert run only on the rows that give it a weight above zero.

    Args:
        inputs: one entry a row, of any shape.
        weights: weight of each expert.
        experts: functions of (rows, ...) to (rows, width). One that no row chose is not called.
        width: number of outputs (c).
    """
    output = inputs.new_zeros(len(inputs), width)
    counts = (weights != 0).sum(0).tolist()  # all at once, for on a GPU each look at a count waits
    for expert, weight, count in zip(experts, weights.unbind(1), counts, strict=True):
        if count == len(inputs):  # as at batch 1: there is nothing to sort out
            output = output + (weight[:, None] * expert(inputs)).to(output.dtype)
        elif count:
            rows = weight.nonzero().squeeze(1)
            answer = weight.index_select(0, rows)[:, None] * expert(inputs.index_select(0, rows))
            output = output.index_add(0, rows, answer.to(output.dtype))
    return output


def dispatch_dense(
    inputs: Float[Tensor, "b ..."], weights: Float[Tensor, "b e"], experts: Sequence[Expert]
) -> Float[Tensor, "b c"]:
    """The same sum with every expert run on every row."""
    answers = torch.stack([expert(inputs) for expert in experts], 1)  # b e c
    return (weights.unsqueeze(2) * answers).sum(1)
