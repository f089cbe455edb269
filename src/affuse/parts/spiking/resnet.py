"""ResNet-18 of spiking neurons, the branch of TAAF-SNN for pictures and spectrograms (arXiv 2505.14535, Section 3).

The paper names the network and no details. Blocks are those of Zheng et al., "Going Deeper With Directly-Trained Larger
Spiking Neural Networks", AAAI 2021: the two paths of a block are added as currents, before the neurons, and each is
normalised to 1 / sqrt(2) of the threshold, so that their sum has the deviation that one path has elsewhere.

Shape letters as in `affuse.parts.spiking.neurons`; ``c h w`` channels, height and width of an image.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

from jaxtyping import Float
from torch import Tensor, nn

from affuse.parts.spiking.neurons import Neuron, Neurons, SpikingLayer, State, ThresholdBatchNorm, currents
from affuse.types import AffuseError

Stem = Literal["3x3", "7x7"]
BLOCKS_A_STAGE, WIDENING, STRIDES = 2, (1, 2, 4, 8), (1, 2, 2, 2)


def _conv(before: int, after: int, size: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(before, after, size, stride, size // 2, bias=False)


class ResidualBlock(nn.Module):
    """Convolution, neurons, convolution, the input added, neurons; the state is that of both layers of neurons.

    Args:
        before: channels in.
        after: channels out.
        stride: of the first convolution.
        neuron: what the neurons are.
    """

    def __init__(self, before: int, after: int, stride: int, neuron: Neuron) -> None:
        super().__init__()
        half = 1 / math.sqrt(2)
        self.first = SpikingLayer(_conv(before, after, 3, stride), after, neuron)
        self.second = _conv(after, after, 3, 1)
        self.second_norm = ThresholdBatchNorm(after, neuron.threshold, half)
        self.shortcut, self.shortcut_norm = None, None
        if stride != 1 or before != after:
            self.shortcut = _conv(before, after, 1, stride)
            self.shortcut_norm = ThresholdBatchNorm(after, neuron.threshold, half)
        self.neurons = Neurons(neuron)

    def forward(
        self, x: Float[Tensor, "t b c h w"], state: State | None = None
    ) -> tuple[Float[Tensor, "t b d y x"], State]:
        inner, last = state if state is not None else (None, None)
        spikes, inner = self.first(x, inner)
        added = currents(spikes, self.second, self.second_norm)
        if self.shortcut is not None and self.shortcut_norm is not None:
            x = currents(x, self.shortcut, self.shortcut_norm)
        spikes, last = self.neurons(added + x, last)
        return spikes, (inner, last)


class SpikingResNet18(nn.Module):
    """A first convolution, eight residual blocks, the mean over the image, and a layer of `width` neurons.

    Args:
        channels: of the image.
        width: of the features.
        neuron: what the neurons are.
        base: channels of the first stage; the later ones have 2, 4 and 8 times as many. 64 in ResNet-18.
        stem: the first convolution: ``3x3`` at full resolution, for small images, or ``7x7`` with stride 2 and a maximum
            over 3 x 3 with stride 2, for images of 100 pixels and more. The maximum is taken of spikes, so it is one.

    Raises:
        AffuseError: there is no such stem; in a call, an image with other channels.
    """

    def __init__(
        self, channels: int, width: int, neuron: Neuron | None = None, base: int = 64, stem: Stem = "3x3"
    ) -> None:
        super().__init__()
        neuron = neuron or Neuron()
        if stem not in get_args(Stem):
            raise AffuseError(f"stem {stem!r} of a spiking ResNet is unknown: use {' or '.join(get_args(Stem))}")
        self.channels, self.width = channels, width
        small = stem == "3x3"
        self.stem = SpikingLayer(_conv(channels, base, 3 if small else 7, 1 if small else 2), base, neuron)
        self.pool = nn.Identity() if small else nn.MaxPool2d(3, 2, 1)
        blocks, before = [], base
        for factor, stride in zip(WIDENING, STRIDES, strict=True):
            for index in range(BLOCKS_A_STAGE):
                blocks.append(ResidualBlock(before, factor * base, 1 if index else stride, neuron))
                before = factor * base
        self.blocks = nn.ModuleList(blocks)
        self.head = SpikingLayer(nn.Linear(before, width, bias=False), width, neuron)

    def forward(
        self, x: Float[Tensor, "t b c h w"], state: State | None = None
    ) -> tuple[Float[Tensor, "t b d"], State]:
        if x.shape[2] != self.channels:
            raise AffuseError(f"this network reads images of {self.channels} channels, got {x.shape[2]}")
        first, *inner, last = state if state is not None else [None] * (len(self.blocks) + 2)
        x, first = self.stem(x, first)
        x = self.pool(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        states = []
        for block, before in zip(self.blocks, inner, strict=True):
            x, after = block(x, before)
            states.append(after)
        features, last = self.head(x.mean((-2, -1)), last)  # t b c, rates over the image
        return features, (first, *states, last)
