"""What TAAF-SNN is trained by: Eq. 8 and 9 of the paper, and the mean scores that ratios are taken of.

``r`` rows with an answer and a target, ``t`` time steps, ``c`` classes, ``m`` modalities.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional


def attention_guided_loss(
    steps: Float[Tensor, "r t c"],
    target: Int[Tensor, " r"],
    weights: Float[Tensor, "r t"],
    lambda_mse: float,
    phi: float,
) -> Float[Tensor, ""]:
    """L_AGL of Eq. 8 and 9, the mean over rows.

    Args:
        steps: logits O(t).
        target: class indices.
        weights: alpha of Eq. 7, rows that sum to 1. 1 / T everywhere is temporal efficient training (Deng et al., ICLR 2022).
        lambda_mse: lambda of Eq. 9.
        phi: what the regularisation draws every output towards.
    """
    logits = steps.float()
    errors = functional.cross_entropy(logits.transpose(1, 2), target[:, None].expand(weights.shape), reduction="none")
    original = (weights.float() * errors).sum(1).mean()  # Eq. 8
    regular = (logits - phi).square().mean()  # L_MSE: every step, row and class counts alike
    return (1 - lambda_mse) * original + lambda_mse * regular  # Eq. 9


def mean_scores(scores: Float[Tensor, "r m"], present: Bool[Tensor, "r m"]) -> Float[Tensor, " m"]:
    """Mean score of each modality over the rows that have it; NaN where none has.

    Where every row has every modality, the ratio of two means is the ratio of the two sums of section 3.2.
    """
    counted = present.sum(0)  # m
    means = scores.masked_fill(~present, 0).sum(0) / counted.clamp(min=1)
    return means.masked_fill(counted == 0, torch.nan)
