"""How much each modality contributes: scores of what it alone answers, and their ratios.

Source: Peng et al., "Balanced Multimodal Learning via On-the-fly Gradient Modulation" (OGM-GE), CVPR 2022: the score of a
modality is the softmax of its own logits at the label, the contribution ratio of two modalities that of their scores.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

LEAST = 1e-8  # a score that a ratio may still be taken of


@torch.no_grad()
def scored_rows(logits: Float[Tensor, "b c"], target: Int[Tensor, "b"], rows: Bool[Tensor, "b"]) -> Float[Tensor, "r"]:
    """Softmax at the label, of these rows, in float32; rows whose logits are not numbers are left out."""
    rows = rows & logits.isfinite().all(1)
    return logits[rows].float().softmax(1).gather(1, target[rows, None])[:, 0]


def ratios(scores: Mapping[str, float]) -> dict[str, float]:
    """Each score over the mean of the others: above 1 for a modality that is ahead. 1 where there is no other.

    Args:
        scores: a number from 0 up by modality, such as the mean softmax at the label.
    """
    found = {}
    for name, score in scores.items():
        others = [other for its, other in scores.items() if its != name]
        found[name] = max(score, LEAST) / max(sum(others) / len(others), LEAST) if others else 1.0
    return found
