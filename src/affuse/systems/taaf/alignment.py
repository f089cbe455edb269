"""Learned time alignment: each modality's features are shifted in time by a convolution, and spike again.

The paper takes its convolutional time alignment module from its reference [50], whose text it does not repeat; this is our
reading of "time step alignment by convolutional kernels" that end as spikes::

    x(t) = gain * sum_o w_o h(t + o),    w = softmax over offsets o,    y = the spikes of neurons whose input is x

One kernel for all features of a modality, so that it can only move them in time, not mix them; what lies before the first
and after the last step is silent. Because w is a distribution over offsets, its peak is a lag that can be read off.
Numbers of steps that differ are made equal beforehand, by linear interpolation (`resample`).
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from affuse.parts.spiking import Neuron, Neurons
from affuse.types import AffuseError

START = 0.8  # share of offset 0 before training
# Logits of the kernel by unit of parameter: an optimiser that moves a parameter by about its learning rate a step, as Adam
# does, would otherwise take thousands of steps to move a kernel by one offset.
SHARPNESS = 10.0

State = tuple[Tensor, Tensor]


def resample(steps: Float[Tensor, "t b d"], wanted: int) -> Float[Tensor, "n b d"]:
    """Another number of steps over the same time, by linear interpolation; step i covers the i-th equal part of the time."""
    if len(steps) == wanted:
        return steps
    moved = functional.interpolate(steps.permute(1, 2, 0), size=wanted, mode="linear", align_corners=False)  # b d n
    return moved.permute(2, 0, 1)


class TimeAlignment(nn.Module):
    """The alignment of one modality (see the head of this file).

    Args:
        width: features a step (d).
        kernel: offsets that the kernel covers: odd and centred on 0, or, where causal, 0 and the kernel - 1 steps before it.
        causal: looks only back, so that it streams.
        neuron: the neurons that spike again.
    """

    def __init__(self, width: int, kernel: int, causal: bool, neuron: Neuron) -> None:
        super().__init__()
        if kernel < 1 or (not causal and kernel % 2 == 0):
            raise AffuseError(f"the kernel of a centred time alignment is an odd number of steps, got {kernel}")
        self.kernel, self.causal = kernel, causal
        self.before = kernel - 1 if causal else kernel // 2
        logits = torch.zeros(kernel)
        if kernel > 1:
            logits[self.before] = math.log(START * (kernel - 1) / (1 - START))
        self.logits = nn.Parameter(logits / SHARPNESS)
        # A lone spike must reach the threshold again: the potential has to be above it.
        self.gain = nn.Parameter(torch.full((width,), 2.0 * neuron.threshold))
        self.neurons = Neurons(neuron)

    def weights(self) -> Float[Tensor, " k"]:
        """w, from the earliest offset to the latest."""
        return (SHARPNESS * self.logits).softmax(0)

    def offsets(self) -> Float[Tensor, " k"]:
        """The offsets o in steps, from the earliest to the latest."""
        return torch.arange(self.kernel, device=self.logits.device, dtype=self.logits.dtype) - self.before

    def lag(self) -> Float[Tensor, ""]:
        """The offset with the largest weight, in steps: above 0 where this modality is moved to an earlier time.

        Not the mean offset: weights that matter little need not become small, for neurons ignore what is below the threshold.
        """
        return self.offsets()[self.logits.argmax()]

    def forward(
        self, features: Float[Tensor, "t b d"], state: State | None = None
    ) -> tuple[Float[Tensor, "t b d"], State]:
        """Aligned features, and the state: the last kernel - 1 steps that a causal kernel looks back to, and the neurons'."""
        past, potentials = (None, None) if state is None else state
        if past is None or not self.causal:
            past = features.new_zeros(self.before, *features.shape[1:])
        padded = torch.cat([past, features])
        if not self.causal:
            padded = functional.pad(padded, (0, 0, 0, 0, 0, self.kernel - 1 - self.before))
        windows = padded.unfold(0, self.kernel, 1)  # t b d k
        current = self.gain * torch.einsum("tbdk,k->tbd", windows, self.weights())
        spikes, potentials = self.neurons(current, potentials)
        return spikes, (padded[len(padded) - self.before :] if self.causal else past, potentials)
