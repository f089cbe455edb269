"""Folding a system for inference changes nothing but the speed."""

import pytest
import timm
import torch
from torch import Tensor, nn

from affuse.folding import fold_batch_norm, folded
from affuse.parts.encoders import SmallEncoder
from affuse.parts.experts import DeepExpert
from affuse.systems.mco_e import MCOEConfig, MCOENet
from affuse.types import AffuseError, Batch, Task


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


@pytest.mark.parametrize("name", ["small", "resnet18", "mobilenetv3_small_050", "tf_efficientnetv2_b0"])
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


@pytest.mark.parametrize("residual", [None, 0.3])
def test_a_deep_expert_is_one_layer(residual: float | None) -> None:
    torch.manual_seed(0)
    expert = DeepExpert(6, 3, layers=3, dropout=0.5, residual=residual).double().eval()
    for parameter in expert.parameters():
        nn.init.normal_(parameter)
    tokens = torch.randn(4, 5, 6, dtype=torch.float64)
    whole = expert.as_one_layer()
    torch.testing.assert_close(whole(tokens), expert(tokens), rtol=1e-9, atol=1e-9)
    assert sum(parameter.numel() for parameter in whole.parameters()) == 3 * 6 + 3


def test_a_folded_system_has_no_normalisation_of_batches_and_no_deep_expert_left() -> None:
    torch.manual_seed(0)
    system = MCOENet(
        MCOEConfig(encoder="resnet18", pretrained=False, d_model=16, heads=2), Task("classification", ("a", "b"))
    )
    with_statistics(system)
    batch = Batch(
        {name: torch.randn(2, 2, 3, 32, 32) for name in system.modalities}, torch.ones(2, 2, dtype=torch.bool)
    )
    faster = folded(system)
    assert any(isinstance(module, DeepExpert) for module in system.modules())
    assert not any(isinstance(module, nn.BatchNorm2d | DeepExpert) for module in faster.modules())
    with torch.no_grad():
        torch.testing.assert_close(faster(batch).logits, system(batch).logits, rtol=1e-4, atol=1e-4)


def test_folding_a_system_in_training_is_an_error() -> None:
    with pytest.raises(AffuseError, match="eval"):
        folded(
            MCOENet(
                MCOEConfig(encoder="small", pretrained=False, d_model=16, heads=2), Task("classification", ("a", "b"))
            )
        )
