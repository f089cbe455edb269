"""Operations of a network, layer by layer, from the inputs that its layers really see.

A layer here is a convolution or a linear map that is called as a module, once or at each step. Of each are counted:

- ``dense``: multiply-accumulates of the ordinary form, outputs times fan-in. Borders are not discounted, as is the custom.
- ``synaptic``: where every input entry was exactly 0 or 1, the accumulates that an event-driven form needs: for each spike,
  the outputs that it touches. Strides, dilation, groups and spikes at a border, which touch fewer, are counted exactly.

A layer is an accumulating one (``AC``) if all it ever saw was 0 or 1 and another layer stands before it. Everything else is
multiply-accumulating (``MAC``), and so is the first layer of each branch, whatever it sees: real-valued pictures and event
counts are multiplied there, and a binary input must not make the layer look free.

Not counted: biases and normalisation, which fold into weights and thresholds at inference; pooling, sums and activations;
reading weights and potentials from memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from affuse.evaluation_mode import evaluating
from affuse.parts.spiking import Neurons, ThresholdBatchNorm
from affuse.types import Batch, System

Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d
COUNTED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
LOOKED_UP = (nn.Embedding, nn.EmbeddingBag)  # their rows are read, not multiplied
NORMS = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.RMSNorm,
    ThresholdBatchNorm,
)
HOLDERS = (nn.ParameterDict, nn.ParameterList)


@dataclass
class LayerCount:
    """Sums over all samples of one layer.

    Args:
        name: the module's name in the system.
        rows: how often it was applied: time steps times samples that have the modality.
        inputs: entries of its inputs.
        nonzero: those that are not 0.
        dense: multiply-accumulates of the ordinary form.
        synaptic: accumulates of the event-driven form; of no meaning unless `binary`.
        binary: whether all inputs were exactly 0 or 1.
        first: whether it is the first layer of a branch.
    """

    name: str
    rows: int = 0
    inputs: int = 0
    nonzero: int = 0
    dense: int = 0
    synaptic: int = 0
    binary: bool = True
    first: bool = False

    @property
    def kind(self) -> Literal["MAC", "AC"]:
        return "AC" if self.binary and not self.first else "MAC"


@dataclass
class NeuronCount:
    """Sums over all samples of one layer of neurons.

    Args:
        name: the module's name in the system.
        streams: samples that have the modality: those that began at rest.
        rows: time steps times streams.
        updates: of a potential, one a neuron and step; none of the non-spiking twin, which has no potential.
        spikes: outputs other than 0.
        outputs: all of them.
    """

    name: str
    streams: int = 0
    rows: int = 0
    updates: int = 0
    spikes: int = 0
    outputs: int = 0


@dataclass
class Counts:
    """What a system did on some samples.

    Args:
        samples: how many, those with absent modalities among them.
        layers: in the order in which they first ran.
        neurons: the layers of neurons, in this order too.
        uncounted: modules that ran and hold weights of another kind than is counted here.
        not_run: convolutions and linear maps that were never called, though a system may use their weights by itself.
    """

    samples: int = 0
    layers: list[LayerCount] = field(default_factory=list)
    neurons: list[NeuronCount] = field(default_factory=list)
    uncounted: list[str] = field(default_factory=list)
    not_run: list[str] = field(default_factory=list)


def count(system: System, batches: Iterable[Batch]) -> Counts:
    """Run a system in evaluation mode over batches and count; it is left as it was found.

    A layer is the first of its branch if no other counted layer lies between it and the system's input. Autograd tells: each
    layer's output is made a new leaf that asks for a gradient, and nothing else does.
    """
    counter = _Counter(system)
    asked = [(parameter, parameter.requires_grad) for parameter in system.parameters()]
    hooks = [
        module.register_forward_hook(counter.layer(name), with_kwargs=True)
        for name, module in system.named_modules()
        if isinstance(module, COUNTED)
    ]
    hooks += [
        module.register_forward_hook(counter.neuron(name), with_kwargs=True)
        for name, module in system.named_modules()
        if isinstance(module, Neurons)
    ]
    hooks += [
        module.register_forward_hook(counter.note(name))
        for name, module in system.named_modules()
        if not isinstance(module, (*COUNTED, *LOOKED_UP, *NORMS, *HOLDERS)) and _holds_weights(module)
    ]
    try:
        system.requires_grad_(False)
        with evaluating(system), torch.enable_grad():
            for batch in batches:
                system(batch)
                counter.samples += batch.size
    finally:
        for hook in hooks:
            hook.remove()
        for parameter, wanted in asked:
            parameter.requires_grad_(wanted)
    return counter.counts()


class _Counter:
    def __init__(self, system: System) -> None:
        self.system = system
        self.samples = 0
        self.found: dict[str, LayerCount] = {}
        self.fed: set[str] = set()  # layers that another layer feeds
        self.heard: set[str] = set()  # layers that no layer feeds, and that saw more than silence
        self.firing: dict[str, NeuronCount] = {}
        self.others: list[str] = []

    def layer(self, name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> Tensor:
            x: Tensor = args[0] if args else kwargs["input"]
            self._add(name, module, x, output.detach())
            # A copy goes on: what follows may write into it, which a leaf does not allow.
            return output.detach().requires_grad_().clone()

        return hook

    def neuron(self, name: str) -> Any:
        def hook(module: Neurons, args: tuple[Any, ...], kwargs: dict[str, Any], output: tuple[Tensor, Any]) -> None:
            currents: Tensor = args[0] if args else kwargs["currents"]
            entry = self.firing.setdefault(name, NeuronCount(name))
            t, b = currents.shape[:2]
            # A recurrent layer calls its neurons step by step: with a state it is the same stream that goes on.
            state = args[1] if len(args) > 1 else kwargs.get("state")
            entry.streams += b if state is None else 0
            entry.rows += t * b
            entry.updates += currents.numel() if module.neuron.kind == "lif" else 0
            entry.spikes += int(output[0].count_nonzero())
            entry.outputs += output[0].numel()

        return hook

    def note(self, name: str) -> Any:
        def hook(_module: nn.Module, _args: tuple[Any, ...], _output: Any) -> None:
            if name not in self.others:
                self.others.append(name)

        return hook

    def _add(self, name: str, module: nn.Module, x: Tensor, output: Tensor) -> None:
        entry = self.found.setdefault(name, LayerCount(name))
        fed, x = x.requires_grad, x.detach()
        nonzero = int(x.count_nonzero())
        if fed:
            self.fed.add(name)
        elif nonzero:
            self.heard.add(name)
        entry.inputs += x.numel()
        entry.nonzero += nonzero
        entry.binary = entry.binary and is_binary(x)
        if isinstance(module, nn.Linear):
            entry.rows += x.numel() // module.in_features
            entry.dense += output.numel() * module.in_features
            entry.synaptic += nonzero * module.out_features if entry.binary else 0
        elif isinstance(module, Convolution):
            spatial = len(module.kernel_size)
            x, output = (tensor if tensor.dim() == spatial + 2 else tensor[None] for tensor in (x, output))
            entry.rows += len(x)
            entry.dense += output.numel() * module.in_channels // module.groups * math.prod(module.kernel_size)
            entry.synaptic += convolution_accumulates(module, x, tuple(output.shape[2:])) if entry.binary else 0

    def counts(self) -> Counts:
        # The initial state of a recurrent layer is no input of the system though no layer feeds it: it is silent. A layer that
        # heard nothing at all is nevertheless the first of its branch if the system or a modality begins with it.
        begins = set(list(self.found)[:1])
        names = {module: name for name, module in self.system.named_modules()}
        for parts in self.system.modality_parts().values():
            inside = {names.get(module) for part in parts for module in part.modules()}
            begins |= set([name for name in self.found if name in inside][:1])
        for name, entry in self.found.items():
            entry.first = name not in self.fed and (name in self.heard or name in begins)
        modules = self.system.named_modules()
        not_run = [name for name, module in modules if isinstance(module, COUNTED) and name not in self.found]
        return Counts(self.samples, list(self.found.values()), list(self.firing.values()), self.others, not_run)


def is_binary(x: Tensor) -> bool:
    """Whether all entries are exactly 0 or 1."""
    return bool(((x == 0) | (x == 1)).all())


def convolution_accumulates(
    convolution: Convolution, spikes: Float[Tensor, "n c *space"], output_size: Sequence[int]
) -> int:
    """For each spike, the outputs that it touches, summed: the exact number of accumulates of an event-driven form.

    Args:
        convolution: of one, two or three dimensions, as `spikes` is; any stride, padding, dilation and groups.
        spikes: entries other than 0 count as one spike each.
        output_size: of the convolution's result, in space.
    """
    axes = range(len(convolution.kernel_size))
    before, after = zip(*(_padding(convolution, axis) for axis in axes), strict=True)
    if convolution.padding_mode != "zeros":
        # What is copied into the border are spikes as well.
        sides = [side for axis in reversed(axes) for side in (before[axis], after[axis])]
        spikes = functional.pad(spikes, sides, mode=convolution.padding_mode)
        before = tuple(0 for _ in axes)
    places = (spikes != 0).sum((0, 1))  # int64, in space
    for axis in reversed(axes):
        touched = touched_outputs(
            spikes.shape[2 + axis],
            output_size[axis],
            convolution.kernel_size[axis],
            convolution.stride[axis],
            convolution.dilation[axis],
            before[axis],
        )
        places = (places * touched.to(places.device)).sum(-1)
    return int(places) * (convolution.out_channels // convolution.groups)


def touched_outputs(
    size: int, output_size: int, kernel: int, stride: int, dilation: int, before: int
) -> Int[Tensor, " {size}"]:
    """How many outputs each input place of one axis touches: of (output o, tap k), those with o stride + k dilation - before
    equal to the place. Along several axes, the counts multiply."""
    outputs, taps = torch.arange(output_size)[:, None], torch.arange(kernel)
    places = (outputs * stride + taps * dilation - before).flatten()
    return torch.bincount(places[(places >= 0) & (places < size)], minlength=size)


def _padding(convolution: Convolution, axis: int) -> tuple[int, int]:
    if convolution.padding == "valid":
        return 0, 0
    if convolution.padding == "same":
        whole = convolution.dilation[axis] * (convolution.kernel_size[axis] - 1)
        return whole // 2, whole - whole // 2
    each = convolution.padding[axis]
    assert isinstance(each, int)
    return each, each


def _holds_weights(module: nn.Module) -> bool:
    """Whether parameters are its own, or in a dictionary or list of its own."""
    held = [module, *(child for child in module.children() if isinstance(child, HOLDERS))]
    return any(True for holder in held for _ in holder.parameters(recurse=False))
