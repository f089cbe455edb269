"""Encoders: pooling equals PyTorch's, and folding batch normalisation changes nothing but the speed."""

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from affuse.parts.encoders import ImageEncoder, SmallEncoder, fold_batch_norm, grid_pool
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


def with_statistics(net: nn.Module) -> nn.Module:
    """As after training: no normalisation is the identity."""
    torch.manual_seed(0)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
    return net.eval()


@pytest.mark.parametrize("name", ["small", "resnet18", "mobilenetv3_small_050"])
def test_folding_batch_normalisation_changes_no_answer_and_not_the_network(name: str) -> None:
    made = SmallEncoder(3) if name == "small" else timm.create_model(name, num_classes=0, global_pool="")
    net = with_statistics(made).double()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    images = torch.randn(2, 3, 64, 48, dtype=torch.float64)
    with torch.no_grad():
        expected = net(images)
        folded = fold_batch_norm(net)
        torch.testing.assert_close(folded(images), expected, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(net(images), expected, rtol=0, atol=0)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    if name != "mobilenetv3_small_050":  # whose normalisations hold an activation and stay
        assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())


def test_a_normalisation_that_another_branch_needs_unfolded_stays() -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

        def forward(self, images: Tensor) -> Tensor:
            maps = self.conv(images)
            return self.norm(maps) + maps

    net = with_statistics(Branching())
    images = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(fold_batch_norm(net)(images), net(images))


def test_folding_a_network_in_training_is_an_error() -> None:
    with pytest.raises(AffuseError, match="eval"):
        fold_batch_norm(SmallEncoder(3))


def test_folding_a_network_that_branches_on_data_is_an_error() -> None:
    class Choosy(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images if images.sum() > 0 else -images

    with pytest.raises(AffuseError, match="branches"):
        fold_batch_norm(Choosy().eval())


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
