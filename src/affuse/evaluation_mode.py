"""Evaluation mode for a while, for what looks at a system that may be in training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluating(system: nn.Module) -> Iterator[None]:
    """Evaluation mode inside: no dropout, and no batch statistics that move; each module's own mode afterwards."""
    modes = [(module, module.training) for module in system.modules()]
    system.eval()
    try:
        yield
    finally:
        # One by one: a part that keeps itself in evaluation mode, such as a frozen encoder, stays so.
        for module, mode in modes:
            module.training = mode
