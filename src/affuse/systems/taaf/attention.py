"""Temporal attention of TAAF-SNN: Eq. 5 to 7 of the paper."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn


class TemporalAttention(nn.Module):
    """How much each time step of a sample counts, from what all its steps say.

    Q = O W^Q and K = O W^K (Eq. 5), A = softmax(Q K^T / sqrt(C)) over the keys (Eq. 6), and alpha, the mean of A over the
    queries (Eq. 7). Rows of alpha sum to 1, however many steps there are.

    Args:
        width: what a step is described by (D).
        inner: columns of W^Q and W^K (C).
    """

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.query = nn.Linear(width, inner, bias=False)
        self.key = nn.Linear(width, inner, bias=False)

    def forward(self, steps: Float[Tensor, "b t d"]) -> Float[Tensor, "b t"]:
        query, keys = self.query(steps), self.key(steps)  # Eq. 5: b t c
        similarity = torch.einsum("bqc,bkc->bqk", query, keys) / math.sqrt(query.shape[2])
        return similarity.softmax(2).mean(1)  # Eq. 6, 7
