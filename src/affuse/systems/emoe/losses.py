"""What EMOE is trained by, beside the task: Eq. 5 to 8 and 10 to 11 of the paper, as functions.

``r`` rows with an answer and a target, ``m`` modalities. `present` (r, m) says which modalities a row has; what stands at the
others has no part in any result.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

ENTROPY_EPS = 1e-8  # of Eq. 7, where the paper gives no value


def importance(
    errors: Float[Tensor, "r m"], present: Bool[Tensor, "r m"], rule: Literal["softmax", "inverse"], eps: float
) -> Float[Tensor, "r m"]:
    """I of Eq. 5 from the errors c_m >= 0 of the unimodal answers; rows sum to 1, absent modalities have 0.

    ``softmax``: softmax(1 / (c + eps)), as the paper. It is nearly one-hot wherever an error is small: 1 / c grows without
    bound; the largest is subtracted before the exponential, so that none overflows. ``inverse``: 1 / (c + eps) over its sum,
    as the released code.
    """
    inverse = 1 / (errors.float().masked_fill(~present, 1.0) + eps)  # r m
    if rule == "softmax":
        return inverse.masked_fill(~present, -torch.inf).softmax(1)
    inverse = inverse.masked_fill(~present, 0)
    return inverse / inverse.sum(1, keepdim=True)


def similarity(
    weights: Float[Tensor, "r m"], target: Float[Tensor, "r m"], measure: Literal["squared", "cosine"]
) -> Float[Tensor, ""]:
    """Eq. 6, L_sim: how far the router's weights are from the importances; mean over rows.

    ``squared``: the sum over the modalities of (w_m - I_m)^2; ``cosine``: 1 - cos(w, I).
    """
    if measure == "squared":
        return (weights - target).square().sum(1).mean()
    return (1 - functional.cosine_similarity(weights, target, 1)).mean()


def negative_entropy(weights: Float[Tensor, "r m"], present: Bool[Tensor, "r m"]) -> Float[Tensor, ""]:
    """Eq. 7, L_entropy = N sum_m w_m log(w_m + eps), N the modalities that a row has; mean over rows."""
    # A weight of 0 gives 0 and its gradient log(eps), which softmax multiplies by 0.
    return (present.sum(1) * (weights * (weights + ENTROPY_EPS).log()).sum(1)).mean()


def combined(
    values: Float[Tensor, "r m k"], weights: Float[Tensor, "r m"], how: Literal["sum", "concat"], factor: float = 1.0
) -> Float[Tensor, "r n"]:
    """C of Eq. 10, and F of Eq. 2 and 3: the weighted sum (n = k), or the weighted values side by side (n = m k)."""
    weighted = weights.unsqueeze(2) * values
    return weighted.sum(1) if how == "sum" else factor * weighted.flatten(1)


def distillation(
    multimodal: Float[Tensor, "r k"],
    unimodal: Float[Tensor, "r k"],
    on: Literal["value", "classes", "features"],
) -> Float[Tensor, ""]:
    """Eq. 11, D(z_multi -> z_uni): the multimodal side learns from the unimodal one, which gets no gradient; mean over rows.

    ``value``: squared difference of a regression's answers. ``classes``: KL(softmax z_uni || softmax z_multi). ``features``:
    mean squared difference of both after a softmax over the features, as the released code.
    """
    unimodal = unimodal.detach()
    if on == "value":
        return functional.mse_loss(multimodal, unimodal)
    if on == "classes":
        log_multi, log_uni = multimodal.log_softmax(1), unimodal.log_softmax(1)
        return functional.kl_div(log_multi, log_uni, reduction="batchmean", log_target=True)
    return functional.mse_loss(multimodal.softmax(1), unimodal.softmax(1))
