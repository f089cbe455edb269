"""Spiking networks with explicit state: time first, spikes 0 or 1, and a non-spiking twin of the same parameters.

Every network is called as ``features, state = network(x, state)`` with x (t, b, ...) and features (t, b, width). The state is
a tuple of tensors, handed in and handed out and never kept: None is rest, all potentials zero. So a sequence may be given at
once or step by step, and nothing passes from one batch to the next.
"""

from affuse.parts.spiking.networks import SpikingConvNet, SpikingMLP, SpikingRecurrentNet
from affuse.parts.spiking.neurons import Neuron, Neurons, SpikingLayer, State, ThresholdBatchNorm
from affuse.parts.spiking.resnet import SpikingResNet18

__all__ = [
    "Neuron",
    "Neurons",
    "SpikingConvNet",
    "SpikingLayer",
    "SpikingMLP",
    "SpikingRecurrentNet",
    "SpikingResNet18",
    "State",
    "ThresholdBatchNorm",
]
