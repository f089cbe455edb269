"""Encoders: their pooling equals PyTorch's."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from affuse.parts.encoders import grid_pool


@settings(max_examples=40, deadline=None)
@given(h=st.integers(1, 9), w=st.integers(1, 9), side=st.integers(1, 5), seed=st.integers(0, 99))
def test_grid_pooling_equals_adaptive_average_pooling_in_values_and_gradients(
    h: int, w: int, side: int, seed: int
) -> None:
    torch.manual_seed(seed)
    maps = torch.randn(2, 3, 4, h, w, dtype=torch.float64)
    slopes = torch.randn(2, 3, 4 * side * side, dtype=torch.float64)

    def peer(values: Tensor) -> Tensor:
        return functional.adaptive_avg_pool2d(values.flatten(0, 1), side).flatten(1).unflatten(0, (2, 3))

    found = []
    for pool in (lambda values: grid_pool(values, side), peer):
        values = maps.clone().requires_grad_()
        pooled = pool(values)
        (pooled * slopes).sum().backward()
        found.append((pooled.detach(), values.grad))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
