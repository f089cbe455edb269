"""Small spiking networks: of convolutions for images and spectrograms, of recurrent layers for sequences, of plain layers.

TAAF-SNN (arXiv 2505.14535, Section 4) reads event digits by a convolutional and sounds by a recurrent spiking network and
gives 128 features each; it states no layers, so the sizes here are ours.

Shape letters as in `affuse.parts.spiking.neurons`; ``c h w`` channels, height and width of an image.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from affuse.parts.spiking.neurons import Neuron, SpikingLayer, State, currents
from affuse.types import AffuseError

Pooling = Literal["max", "average"]


class SpikingConvNet(nn.Module):
    """Convolutions of 3 x 3, each halving the image, then a layer of `width` neurons over all that is left of it.

    Pooling comes before the neurons, so that what a layer hands on is spikes and there are a quarter as many neurons.

    Args:
        channels: of the image; 2 for event frames of both polarities.
        size: its height and width in pixels, or one number for both.
        width: of the features.
        neuron: what the neurons are.
        channels_by_layer: of the convolutions, one halving each.
        pooling: of the currents, 2 x 2.

    Raises:
        AffuseError: an image too small to be halved so often, an unknown pooling; in a call, an image of another shape.
    """

    def __init__(
        self,
        channels: int,
        size: int | tuple[int, int],
        width: int,
        neuron: Neuron | None = None,
        channels_by_layer: Sequence[int] = (16, 32, 64),
        pooling: Pooling = "max",
    ) -> None:
        super().__init__()
        neuron = neuron or Neuron()
        height, across = (size, size) if isinstance(size, int) else size
        halvings = len(channels_by_layer)
        if pooling not in get_args(Pooling):
            raise AffuseError(
                f"pooling {pooling!r} of a spiking network is unknown: use {' or '.join(get_args(Pooling))}"
            )
        if min(height, across) < 2**halvings:
            raise AffuseError(f"an image of {height} x {across} cannot be halved {halvings} times: use fewer layers")
        self.shape, self.width = (channels, height, across), width
        layers = []
        for before, after in itertools.pairwise((channels, *channels_by_layer)):
            pool = nn.MaxPool2d(2) if pooling == "max" else nn.AvgPool2d(2)
            weights = nn.Sequential(nn.Conv2d(before, after, 3, padding=1, bias=False), pool)
            layers.append(SpikingLayer(weights, after, neuron))
        self.layers = nn.ModuleList(layers)
        left = (channels, *channels_by_layer)[-1] * (height >> halvings) * (across >> halvings)
        self.head = SpikingLayer(nn.Linear(left, width, bias=False), width, neuron)

    def forward(
        self, x: Float[Tensor, "t b c h w"], state: State | None = None
    ) -> tuple[Float[Tensor, "t b d"], State]:
        if x.shape[2:] != self.shape:
            raise AffuseError(f"this network reads images (c, h, w) of {self.shape}, got {tuple(x.shape[2:])}")
        x, inner = _fold(self.layers, x, None if state is None else state[:-1])
        features, last = self.head(x.flatten(2), None if state is None else state[-1])
        return features, (*inner, last)


class SpikingMLP(nn.Module):
    """Layers of neurons, each fully connected to the one before.

    Args:
        features: of the input vectors.
        width: of the features that are given, the last layer.
        neuron: what the neurons are.
        hidden: neurons of the layers between.
    """

    def __init__(self, features: int, width: int, neuron: Neuron | None = None, hidden: Sequence[int] = (128,)) -> None:
        super().__init__()
        neuron = neuron or Neuron()
        self.features, self.width = features, width
        sizes = (features, *hidden, width)
        self.layers = nn.ModuleList(
            SpikingLayer(nn.Linear(before, after, bias=False), after, neuron)
            for before, after in itertools.pairwise(sizes)
        )

    def forward(self, x: Float[Tensor, "t b k"], state: State | None = None) -> tuple[Float[Tensor, "t b d"], State]:
        _check_vectors(x, self.features)
        return _fold(self.layers, x, state)


class RecurrentLayer(nn.Module):
    """Neurons that also hear, one step later, what their layer fired: current_t = tdBN(W x_t) + R s_(t-1).

    W runs once over all steps, R step by step. The recurrent part is not normalised, so that a step depends on nothing but
    its past. The state is (potential, last spikes).

    Args:
        features: of the input vectors.
        width: neurons.
        neuron: what they are.
    """

    def __init__(self, features: int, width: int, neuron: Neuron) -> None:
        super().__init__()
        self.forwards = SpikingLayer(nn.Linear(features, width, bias=False), width, neuron)
        self.recurrent = nn.Linear(width, width, bias=False)

    def forward(self, x: Float[Tensor, "t b k"], state: State | None = None) -> tuple[Float[Tensor, "t b d"], State]:
        layer = self.forwards
        inputs = currents(x, layer.weights, layer.norm)  # t b d
        v, spikes = state if state is not None else (None, inputs.new_zeros(inputs.shape[1:]))
        fired = []
        for current in inputs:
            y, v = layer.neurons((current + self.recurrent(spikes))[None], v)
            spikes = y[0]
            fired.append(spikes)
        if not fired:  # no step: the state stays as it was
            y, v = layer.neurons(inputs, v)
            return y, (v, spikes)
        return torch.stack(fired), (v, spikes)


class SpikingRecurrentNet(nn.Module):
    """Recurrent layers for sequences of vectors, then a layer of `width` neurons.

    Args:
        features: of the input vectors, such as mel bands.
        width: of the features that are given.
        neuron: what the neurons are.
        layers: neurons of the recurrent layers.
    """

    def __init__(self, features: int, width: int, neuron: Neuron | None = None, layers: Sequence[int] = (128,)) -> None:
        super().__init__()
        neuron = neuron or Neuron()
        self.features, self.width = features, width
        sizes = (features, *layers)
        self.layers = nn.ModuleList(
            RecurrentLayer(before, after, neuron) for before, after in itertools.pairwise(sizes)
        )
        self.head = SpikingLayer(nn.Linear(sizes[-1], width, bias=False), width, neuron)

    def forward(self, x: Float[Tensor, "t b k"], state: State | None = None) -> tuple[Float[Tensor, "t b d"], State]:
        _check_vectors(x, self.features)
        x, inner = _fold(self.layers, x, None if state is None else state[:-1])
        features, last = self.head(x, None if state is None else state[-1])
        return features, (*inner, last)


def _check_vectors(x: Tensor, features: int) -> None:
    if x.shape[-1] != features:
        raise AffuseError(f"this network reads vectors of {features} features, got {x.shape[-1]}")


def _fold(layers: nn.ModuleList, x: Tensor, state: State | None) -> tuple[Tensor, State]:
    """Layer after layer over all steps, with the state of each."""
    states = []
    for layer, before in zip(layers, state if state is not None else [None] * len(layers), strict=True):
        x, after = layer(x, before)
        states.append(after)
    return x, tuple(states)
