"""How much each modality contributes: scores of what it alone answers, their ratios, and the factors that hold one back.

Sources: Peng et al., "Balanced Multimodal Learning via On-the-fly Gradient Modulation" (OGM-GE), CVPR 2022, and TAAF-SNN
(arXiv 2505.14535), section 3.2, which takes them over: the score of a modality is the softmax of its own logits at the label,
the contribution ratio of two modalities that of their scores, and who is ahead is held back by 1 - tanh(strength ratio).

``r`` rows with an answer and a target, ``c`` classes, ``m`` modalities.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

LEAST = 1e-8  # a score that a ratio may still be taken of
ROUNDING = 1e-6  # of ratios in float32


def modality_scores(logits: Float[Tensor, "r c"], target: Int[Tensor, " r"]) -> Float[Tensor, " r"]:
    """s: the softmax score of the true class, in float32."""
    return logits.float().softmax(1).gather(1, target[:, None]).squeeze(1)


@torch.no_grad()
def scored_rows(
    logits: Float[Tensor, "b c"], target: Int[Tensor, " b"], rows: Bool[Tensor, " b"]
) -> Float[Tensor, " r"]:
    """`modality_scores` of these rows; rows whose logits are not numbers are left out."""
    rows = rows & logits.isfinite().all(1)
    return modality_scores(logits[rows], target[rows])


def contribution_ratios(scores: Float[Tensor, " m"]) -> Float[Tensor, " m"]:
    """rho: each modality's score over the mean of the others'; with two, over the other's.

    Args:
        scores: mean or summed score of each modality, NaN where it is not known.

    Returns:
        Ratios, 1 where a score or all others are not known.
    """
    known = ~scores.isnan()
    held = scores.masked_fill(~known, 0)
    others = known.sum() - known.long()  # m
    rest = (held.sum() - held) / others.clamp(min=1)
    # Scores are probabilities and so above zero, but for those that underflow.
    ratios = held.clamp(min=LEAST) / rest.clamp(min=LEAST)
    return torch.where(known & (others > 0), ratios, torch.ones_like(ratios))


def ratios(scores: Mapping[str, float]) -> dict[str, float]:
    """`contribution_ratios` by name: above 1 for a modality that is ahead. 1 where there is no other.

    Args:
        scores: a number from 0 up by modality, such as the mean softmax at the label.
    """
    found = contribution_ratios(torch.tensor(list(scores.values()), dtype=torch.float64))
    return dict(zip(scores, found.tolist(), strict=True))


def modulation_factors(ratios: Float[Tensor, " m"], suppression: Float[Tensor, " m"]) -> Float[Tensor, " m"]:
    """k: 1 - tanh(suppression rho) where rho > 1, else 1.

    k jumps where rho passes 1, so a ratio that is 1 but for rounding is 1: of equals nobody is held back.
    """
    return torch.where(ratios > 1 + ROUNDING, 1 - torch.tanh(suppression * ratios), torch.ones_like(ratios))
