"""The neuron as a setting, a layer of neurons, its normalisation, and a layer with the weights before it.

Source of the neuron: TAAF-SNN (arXiv 2505.14535), Eq. 1-3; of the normalisation: Zheng et al., "Going Deeper With
Directly-Trained Larger Spiking Neural Networks", AAAI 2021.

Shape letters: ``t`` time (first), ``b`` batch, ``d`` channel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from affuse.ops.lif import SURROGATES, Reset, Surrogate, lif
from affuse.types import AffuseError

Kind = Literal["lif", "relu"]
State = tuple[Any, ...]
"""Potentials of a network: a tuple of tensors and of tuples, layer by layer; the first axis of each tensor is the batch."""


@dataclass(frozen=True)
class Neuron:
    """What every neuron of a network is.

    Args:
        kind: ``lif``, or ``relu``: the non-spiking twin, without memory.
        tau: the share of the potential that is left one step later; 0.5 in the paper.
        threshold: the potential above which a neuron fires, positive; 1 in the paper.
        reset: ``hard`` to zero (Eq. 3), or ``soft`` by subtraction of the threshold.
        surrogate: slope of the spike in the backward pass, as in `affuse.ops.lif`.
        alpha: its width (triangle) or steepness.
        detach_reset: let no gradient through the reset.

    Raises:
        AffuseError: a setting that no neuron has.
    """

    kind: Kind = "lif"
    tau: float = 0.5
    threshold: float = 1.0
    reset: Reset = "hard"
    surrogate: Surrogate = "triangle"
    alpha: float = 1.0
    detach_reset: bool = False

    def __post_init__(self) -> None:
        for name, known in (("kind", get_args(Kind)), ("reset", get_args(Reset)), ("surrogate", SURROGATES)):
            if getattr(self, name) not in known:
                raise AffuseError(f"neuron: {name} {getattr(self, name)!r} is unknown: use {' or '.join(known)}")
        if not 0 <= self.tau <= 1:
            raise AffuseError(f"neuron: tau is the share of the potential that is left, 0 to 1, got {self.tau}")
        for name in ("threshold", "alpha"):
            if not getattr(self, name) > 0:
                raise AffuseError(f"neuron: {name} must be positive, got {getattr(self, name)}")


class Neurons(nn.Module):
    """A layer of neurons, any shape: currents in, spikes out. It has no parameters."""

    def __init__(self, neuron: Neuron) -> None:
        super().__init__()
        self.neuron = neuron

    def forward(
        self, currents: Float[Tensor, "t b ..."], state: Float[Tensor, "b ..."] | None = None
    ) -> tuple[Float[Tensor, "t b ..."], Float[Tensor, "b ..."]]:
        """Spikes, 0 or 1, and the potential after the last step; None is rest.

        The twin gives max(current, 0), and as its state an empty tensor (b, 0).
        """
        neuron = self.neuron
        if neuron.kind == "relu":
            return functional.relu(currents), currents.new_zeros(currents.shape[1], 0)
        return lif(
            currents,
            state,
            tau=neuron.tau,
            threshold=neuron.threshold,
            reset=neuron.reset,
            surrogate=neuron.surrogate,
            alpha=neuron.alpha,
            detach_reset=neuron.detach_reset,
        )

    def extra_repr(self) -> str:
        return repr(self.neuron)


class ThresholdBatchNorm(nn.Module):
    """Threshold-dependent batch normalisation (tdBN): currents get mean 0 and deviation `share` times the threshold.

    Statistics run over the batch, over time and over what follows the channel axis::

        y = weight * (share * threshold) * (x - mean) / sqrt(variance + eps) + bias      (Zheng et al. 2021, Eq. 4-6)

    so that neurons fire neither always nor never, whatever the depth. A batch of one stream in training takes the running
    statistics and leaves them alone: its steps are no sample of the population, and where there is only one its deviation is 0.
    The same holds for an empty batch.

    Args:
        channels: size of the third axis.
        threshold: of the neurons that follow.
        share: 1, or 1 / sqrt(2) on each of two paths that are added.
    """

    running_mean: Tensor
    running_var: Tensor
    momentum, eps = 0.1, 1e-5

    def __init__(self, channels: int, threshold: float = 1.0, share: float = 1.0) -> None:
        super().__init__()
        self.gain = threshold * share
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Float[Tensor, "t b d ..."]) -> Float[Tensor, "t b d ..."]:
        t, b = x.shape[:2]
        normal = functional.batch_norm(
            x.flatten(0, 1),  # (t b) d ...
            self.running_mean,
            self.running_var,
            self.weight * self.gain,
            self.bias,
            self.training and t > 0 and b > 1,
            self.momentum,
            self.eps,
        )
        return normal.unflatten(0, (t, b))

    def extra_repr(self) -> str:
        return f"{len(self.weight)}, gain={self.gain:.4g}"


class SpikingLayer(nn.Module):
    """Weights, tdBN and neurons: one layer. Weights run once over all steps side by side, only the neurons go step by step.

    Args:
        weights: maps (rows, ...) to (rows, channels, ...), without a bias, which the normalisation has.
        channels: that `weights` gives.
        neuron: what the neurons are.
    """

    def __init__(self, weights: nn.Module, channels: int, neuron: Neuron) -> None:
        super().__init__()
        self.weights = weights
        self.norm = ThresholdBatchNorm(channels, neuron.threshold)
        self.neurons = Neurons(neuron)

    def forward(
        self, x: Float[Tensor, "t b ..."], state: Float[Tensor, "b ..."] | None = None
    ) -> tuple[Float[Tensor, "t b ..."], Float[Tensor, "b ..."]]:
        return self.neurons(currents(x, self.weights, self.norm), state)


def currents(x: Float[Tensor, "t b ..."], weights: nn.Module, norm: ThresholdBatchNorm) -> Float[Tensor, "t b d ..."]:
    """Normalised weighted inputs of all steps.

    An input that is one step shown again and again (a view that does not move in time, as direct encoding gives) is
    weighted once: the same mean and variance, and the values are equal.
    """
    t, b = x.shape[:2]
    if t > 1 and x.stride(0) == 0:
        return currents(x[:1], weights, norm).expand(t, *[-1] * (x.ndim - 1))
    return norm(weights(x.flatten(0, 1)).unflatten(0, (t, b)))
