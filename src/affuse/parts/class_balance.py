"""Losses for data in which some classes are rare: class weights, focal loss, and logits adjusted by how common a class is.

========================  ===================================================================================
``loss: focal``           Lin, Goyal, Girshick, He, Dollár, "Focal Loss for Dense Object Detection", ICCV 2017
``weights: effective``    Cui, Jia, Lin, Song, Belongie, "Class-Balanced Loss Based on Effective Number of
                          Samples", CVPR 2019
``logit_adjustment``      Menon and others, "Long-tail learning via logit adjustment", ICLR 2021
``weights: inverse``      "smoothed inverse-frequency weights (clipped to [0.1, 10])" of the paper on dynamic
                          expressions that `affuse.systems.fer_ssm` follows; its formula is not printed
========================  ===================================================================================
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int, Num
from torch import Tensor
from torch.nn import functional

from affuse.types import AffuseError


@dataclass(frozen=True)
class ClassBalance:
    """How a classification loss treats common and rare classes; as it stands, plain cross-entropy.

    What is computed from the counts n_c of the training classes is computed from n_c + `smoothing`, and never from less
    than one sample, so that a class without training samples gives no infinity.

    Args:
        loss: ``cross_entropy``, or ``focal``, its samples weighed by (1 - p)^gamma, p the probability of the true class.
        gamma: of the focal loss; 0 is cross-entropy. 2 in Lin and others.
        weights: of the true class: ``none``; ``inverse``, of its frequency; ``effective``, of its effective number.
        smoothing: samples added to each class (additive smoothing). The published weights of effective numbers have 0.
        clip: smallest and largest class weight.
        beta: of the effective number, (1 - beta^n) / (1 - beta); 0 weighs all classes alike, near 1 by inverse frequency.
        label_smoothing: share of the target that is spread evenly over all classes.
        logit_adjustment: tau; tau log(prior) is added to the logits in the loss alone, so that the logits a system answers
            with are those of classes equally common. 1 in Menon and others; 0 leaves them.

    Raises:
        AffuseError: a value makes no sense.
    """

    loss: Literal["cross_entropy", "focal"] = "cross_entropy"
    gamma: float = 2.0
    weights: Literal["none", "inverse", "effective"] = "none"
    smoothing: float = 1.0
    clip: tuple[float, float] = (0.1, 10.0)
    beta: float = 0.999
    label_smoothing: float = 0.0
    logit_adjustment: float = 0.0

    def __post_init__(self) -> None:
        for name in ("gamma", "smoothing", "logit_adjustment"):
            if not 0 <= getattr(self, name) < math.inf:
                raise AffuseError(f"{name} is {getattr(self, name)}; it must be a number from 0 up")
        for name in ("beta", "label_smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise AffuseError(f"{name} is {getattr(self, name)}; it must be from 0 to below 1")
        if not 0 < self.clip[0] <= self.clip[1] < math.inf:
            raise AffuseError(f"clip is {list(self.clip)}; it is the smallest and the largest class weight, above 0")


def class_weights(counts: Num[Tensor, " c"], settings: ClassBalance) -> Float[Tensor, " c"]:
    """The weight of each class, within `ClassBalance.clip`; 1 each without weights, or where classes are equally common.

    With n'_c = max(n_c + smoothing, 1):

    - inverse: w_c = sum_k n'_k / (C n'_c). Our reading of "smoothed": the samples added keep the weight of a class of a few
      samples from depending on each one of them. The weights of all samples together, before clipping, average 1.
    - effective: w_c in proportion to (1 - beta) / (1 - beta^n'_c), their sum C (Cui and others, section 4).

    Args:
        counts: training samples of each class.
        settings: `weights`, `smoothing`, `clip` and `beta` of them.

    Returns:
        float32, on the device of the counts.
    """
    if settings.weights == "none":
        return torch.ones(len(counts), device=counts.device)
    n = _smoothed(counts, settings)
    if settings.weights == "inverse":
        weights = n.mean() / n
    elif settings.beta == 0:
        weights = torch.ones_like(n)
    else:
        weights = -1 / torch.expm1(n * math.log(settings.beta))
        weights = weights * len(n) / weights.sum()
    return weights.clamp(*settings.clip).float()


def balanced_loss(
    logits: Float[Tensor, "b c"], target: Int[Tensor, " b"], counts: Num[Tensor, " c"], settings: ClassBalance
) -> Float[Tensor, ""]:
    """The loss of a batch: the mean over its samples of weight times focal factor times cross-entropy.

    The mean is over samples, not over their weights: a batch without a rare sample then counts less than one with it, and
    the batches together give the weighted loss of the whole split. With label smoothing weight and focal factor are those
    of the true class.

    Args:
        logits: finite; half precision is computed in float32.
        target: the class of each sample, all of them known.
        counts: training samples of each class, on any device.
        settings: the form of the loss.

    Returns:
        A scalar; 0, with a gradient of 0, of no samples.

    Raises:
        AffuseError: fewer than two classes: such logits are of a regression.
    """
    if logits.shape[1] < 2:
        raise AffuseError("a class-balanced loss is of a classification; these logits have a single column")
    counts = counts.to(logits.device)
    scores = logits if logits.dtype == torch.float64 else logits.float()
    if settings.logit_adjustment:
        n = _smoothed(counts, settings)
        scores = scores + (settings.logit_adjustment * (n / n.sum()).log()).to(scores.dtype)
    losses = functional.cross_entropy(scores, target, reduction="none", label_smoothing=settings.label_smoothing)  # b
    if settings.loss == "focal" and settings.gamma:
        # log(1 - p) over the other classes: 1 - p itself loses its digits, and its power its gradient, where p is near 1.
        true = functional.one_hot(target, scores.shape[1]).bool()  # b c
        others = scores.masked_fill(true, -torch.inf).logsumexp(1) - scores.logsumexp(1)  # b
        losses = losses * (settings.gamma * others).exp()
    losses = losses * class_weights(counts, settings).to(losses.dtype)[target]
    return losses.sum() / max(len(losses), 1)


def _smoothed(counts: Num[Tensor, " c"], settings: ClassBalance) -> Float[Tensor, " c"]:
    return (counts.double() + settings.smoothing).clamp_min(1)
