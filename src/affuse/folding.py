"""A trained system for inference alone: the same answers but for rounding, in less time.

What is linear behind what is linear becomes one product: batch normalisation behind its convolution, and all layers of a deep
expert (MCO-E Net Eq. 16, which has no activation). Weights of convolutions go into channels-last order.
"""

from __future__ import annotations

import contextlib
import copy
import itertools

import torch
from timm.layers import BatchNormAct2d, Conv2dSame
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from affuse.parts.encoders import ImageEncoder, SmallEncoder
from affuse.parts.experts import DeepExpert
from affuse.types import AffuseError, System

# The very classes: a subclass may compute something else too.
CONVOLUTIONS, NORMS = (nn.Conv2d, Conv2dSame), (nn.BatchNorm2d, BatchNormAct2d)


def folded(system: System) -> System:
    """A copy of a system that answers faster; see `fold`.

    Raises:
        AffuseError: the system is in training mode.
    """
    system = copy.deepcopy(system)
    fold(system)
    return system


def fold(system: System) -> None:
    """Make a system answer faster, in place; it cannot train any more.

    Args:
        system: in evaluation mode.

    Raises:
        AffuseError: the system is in training mode.
    """
    _check_mode(system)
    for module in list(system.modules()):
        if isinstance(module, ImageEncoder):
            with contextlib.suppress(AffuseError):  # it branches on data: slower, and no less right
                module.net = _fold_net(module.net)
    for module in list(system.modules()):
        if type(module) is nn.Sequential:
            _fold_sequence(module)
        for name, child in module.named_children():
            if isinstance(child, DeepExpert):
                module.set_submodule(name, child.as_one_layer())
    _channels_last(system)


def fold_batch_norm(net: nn.Module) -> nn.Module:
    """A copy of a convolutional network with batch normalisation folded into the convolutions before it.

    Args:
        net: a network in evaluation mode, as `SmallEncoder` or a model of timm.

    Raises:
        AffuseError: the network is in training mode, or `torch.fx` cannot follow it.
    """
    _check_mode(net)
    net = _fold_net(copy.deepcopy(net))
    _channels_last(net)
    return net


def _fold_net(net: nn.Module) -> nn.Module:
    """`fold_batch_norm` of a network that nobody else uses.

    Raises:
        AffuseError: `torch.fx` cannot follow it; it is as it was.
    """
    if isinstance(net, SmallEncoder):  # all of it is one sequence of sequences, which needs no trace
        for block in net.blocks:
            assert isinstance(block, nn.Sequential)
            _fold_sequence(block)
        return net
    try:
        graph = _Tracer().trace(net)
    except (TypeError, ValueError, RuntimeError, NotImplementedError, fx.proxy.TraceError) as error:
        line = (str(error).splitlines() or [type(error).__name__])[0]
        raise AffuseError(
            f"the network {type(net).__name__} branches on data, so nothing was folded: {line}"
        ) from error
    traced = fx.GraphModule(net, graph)
    modules = dict(traced.named_modules())
    calls = [node.target for node in graph.nodes if node.op == "call_module"]
    for node in list(graph.nodes):
        before = node.args[0] if node.op == "call_module" and node.args else None
        if not isinstance(before, fx.Node) or before.op != "call_module" or len(before.users) > 1:
            continue
        if calls.count(before.target) > 1 or calls.count(node.target) > 1:
            continue
        pair = _fused(modules[before.target], modules[node.target])
        if pair is not None:
            traced.set_submodule(str(before.target), pair[0])
            traced.set_submodule(str(node.target), pair[1])
    traced.recompile()
    return traced


class _Tracer(fx.Tracer):
    """Takes timm's convolutions and normalisations as a whole, as it does PyTorch's own."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return type(m) in (*CONVOLUTIONS, *NORMS) or super().is_leaf_module(m, module_qualified_name)


def _fold_sequence(sequence: nn.Sequential) -> None:
    """Fold the pairs of neighbours in a sequence, in place."""
    for number, (before, after) in enumerate(itertools.pairwise(list(sequence))):
        pair = _fused(before, after)
        if pair is not None:
            sequence[number], sequence[number + 1] = pair


def _fused(conv: nn.Module, norm: nn.Module) -> tuple[nn.Module, nn.Module] | None:
    """A convolution that normalises too, and what is left of the normalisation; None where they are no such pair."""
    if type(conv) not in CONVOLUTIONS or type(norm) not in NORMS or norm.running_mean is None:
        return None
    assert isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
    left = nn.Sequential(norm.drop, norm.act) if isinstance(norm, BatchNormAct2d) else nn.Identity()
    return fuse_conv_bn_eval(conv, norm), left


def _channels_last(net: nn.Module) -> None:
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _check_mode(net: nn.Module) -> None:
    if any(module.training for module in net.modules()):
        raise AffuseError("batch normalisation folds in evaluation mode only: call .eval() on the network first")
