"""Encoders: pooling equals PyTorch's, and a ResNet of other widths is a ResNet."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from affuse.parts.encoders import ImageEncoder, grid_pool
from affuse.types import AffuseError


@settings(max_examples=40)
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


def test_a_resnet_of_other_widths_is_as_deep_as_it_was() -> None:
    narrow, whole = ImageEncoder("resnet18", 3, widths=(4, 8, 16, 32)), ImageEncoder("resnet18", 3)
    assert narrow.width == 32 and narrow(torch.randn(2, 3, 3, 64, 64)).shape == (2, 3, 32, 2, 2)

    def blocks(encoder: ImageEncoder) -> list[int]:
        return [len(getattr(encoder.net, f"layer{stage}")) for stage in range(1, 5)]

    assert blocks(narrow) == blocks(whole) == [2, 2, 2, 2]


@pytest.mark.parametrize(
    "name, pretrained, first", [("small", False, 4), ("resnet18", True, 4), ("resnet18", False, 5)]
)
def test_widths_that_an_encoder_cannot_have_are_refused(name: str, pretrained: bool, first: int) -> None:
    with pytest.raises(AffuseError, match="cannot have widths"):
        ImageEncoder(name, 3, pretrained, widths=(first, 8, 16, 32))
