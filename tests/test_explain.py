"""Grad-CAM finds what decided, and leaves the system as it was."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn import functional

from affuse import AffuseError, Batch, Output, Sample, System, Task, explain


@dataclass(frozen=True)
class Nothing:
    """No settings."""


class Corner(System):
    """Class c has evidence where channel c of a modality is bright. Absent modalities are not encoded."""

    Config = Nothing
    modalities = ("rgb", "event")

    def __init__(self) -> None:
        super().__init__()
        self.task = Task("classification", ("a", "b", "c"))
        self.encoders = nn.ModuleDict({name: nn.Conv2d(3, 3, 4, stride=4, bias=False) for name in self.modalities})
        self.drop = nn.Dropout(0.9)
        with torch.no_grad():
            for encoder in self.encoders.values():
                encoder.weight.copy_(torch.eye(3)[:, :, None, None].expand(3, 3, 4, 4) / 16)

    def spatial_layer(self, modality: str) -> nn.Module:
        return self.encoders[modality]

    def forward(self, batch: Batch) -> Output:
        total = torch.zeros(batch.size, 3)
        for name in self.modalities:
            rows = batch.has(name)
            if rows.any():
                images = batch.inputs[name][rows]  # r t c h w
                maps = self.encoders[name](images.flatten(0, 1)).relu_()  # (r t) d h' w'
                total = total.index_add(0, rows.nonzero().flatten(), maps.unflatten(0, images.shape[:2]).sum((1, 3, 4)))
        answered = batch.present.any(1)
        logits = torch.where(answered[:, None], self.drop(total), torch.nan)
        weights = batch.present / batch.present.sum(1, keepdim=True).clamp_min(1)
        return Output(logits, answered, {"modality": weights})

    def loss(self, output: Output, batch: Batch) -> dict[str, Tensor]:
        return {"total": output.logits[output.answered].sum()}


def bright(channel: int, top: int, left: int, t: int = 2) -> Tensor:
    """A clip (t, 3, 16, 16) that is dark but for one 4 x 4 patch of one channel, in the first frame."""
    clip = torch.zeros(t, 3, 16, 16)
    clip[0, channel, top : top + 4, left : left + 4] = 1
    return clip


def test_heat_stands_where_the_evidence_is() -> None:
    batch = Batch.collate([Sample({"rgb": bright(1, 0, 12)}), Sample({"rgb": bright(2, 12, 0)})], Corner.modalities)
    heat = explain.grad_cam(Corner(), batch, "rgb")
    assert heat.shape == (2, 2, 16, 16)
    assert heat.amax((1, 2, 3)).tolist() == [1, 1]
    assert heat.min() >= 0
    assert heat[0, 0, 1, 14] > 0.9 and heat[1, 0, 14, 1] > 0.9
    assert heat[0, 0, 8:].max() == 0 and heat[0, 1].max() == 0, "nothing where, and when, it is dark"


def test_target_chooses_whose_evidence_is_shown() -> None:
    clip = bright(1, 0, 12) * 2 + bright(2, 12, 0)
    batch = Batch.collate([Sample({"rgb": clip}), Sample({"rgb": clip})], Corner.modalities)
    system = Corner()
    assert explain.grad_cam(system, batch, "rgb")[0, 0, 1, 14] == 1
    assert explain.grad_cam(system, batch, "rgb", target=2)[0, 0, 1, 14] == 0
    each = explain.grad_cam(system, batch, "rgb", target=torch.tensor([1, 2]))
    assert each[0, 0, 1, 14] == 1 and each[1, 0, 14, 1] == 1
    assert explain.grad_cam(system, batch, "rgb", target=0).max() == 0, "no evidence, no heat"


class Halves(Corner):
    """Class a has evidence where the left half is bright; what is bright on the right speaks against it."""

    def forward(self, batch: Batch) -> Output:
        images = batch.inputs["rgb"]
        maps = self.encoders["rgb"](images.flatten(0, 1)).unflatten(0, images.shape[:2])  # b t d h' w'
        sign = torch.tensor([1.0, 1.0, -1.0, -1.0])
        logits = functional.pad((maps * sign).sum((1, 2, 3, 4))[:, None], (0, 2))
        return Output(logits, batch.present.any(1), {"modality": batch.present.float()})


def test_a_place_weighs_by_its_own_gradient_where_the_map_is_read_place_by_place() -> None:
    """Grad-CAM's mean over the frame is 0 here, and shows nothing."""
    batch = Batch.collate([Sample({"rgb": bright(0, 0, 0) + bright(0, 8, 12)})], Corner.modalities)
    heat = explain.grad_cam(Halves(), batch, "rgb", target=0)[0, 0]
    assert heat[1, 1] == 1 and heat[:, 8:].max() == 0
    assert explain.grad_cam(Halves(), batch, "rgb", target=0, by_place=False).max() == 0


def test_where_a_network_sums_its_map_both_ways_to_weigh_are_one() -> None:
    batch = Batch.collate([Sample({"rgb": bright(1, 0, 12)})], Corner.modalities)
    by_frame, by_place = (explain.grad_cam(Corner(), batch, "rgb", by_place=way) for way in (False, True))
    torch.testing.assert_close(by_frame, by_place)


def test_absent_modality_has_no_heat_and_moves_no_other_row() -> None:
    samples = [Sample({"rgb": bright(0, 0, 0)}), Sample({"event": bright(0, 0, 0)}), Sample({"rgb": bright(1, 8, 8)})]
    system = Corner()
    heat = explain.grad_cam(system, Batch.collate(samples, Corner.modalities), "rgb")
    assert heat[1].max() == 0
    alone = explain.grad_cam(system, Batch.collate(samples[2:], Corner.modalities), "rgb")
    torch.testing.assert_close(heat[2:], alone)
    nothing = Batch.collate(samples, Corner.modalities).without("rgb")
    assert explain.grad_cam(system, nothing, "rgb").max() == 0


@pytest.mark.parametrize("frozen", [False, True])
def test_system_is_left_as_found(frozen: bool) -> None:
    system = Corner()
    system.train()
    system.drop.eval()
    for parameter in system.parameters():
        parameter.requires_grad_(not frozen)
        parameter.grad = torch.ones_like(parameter)
    batch = Batch.collate([Sample({"rgb": bright(1, 0, 12)})], Corner.modalities)
    with torch.no_grad():
        heat = explain.grad_cam(system, batch, "rgb")
    assert heat.max() == 1 and not heat.requires_grad
    assert system.training and system.encoders["rgb"].training and not system.drop.training
    assert not system.encoders["rgb"]._forward_hooks
    assert all((parameter.grad == 1).all() for parameter in system.parameters())
    assert all(parameter.requires_grad is not frozen for parameter in system.parameters())


def test_what_cannot_be_explained_is_a_clear_error() -> None:
    system = Corner()
    sound = Batch({"rgb": torch.zeros(1, 5, 8)}, torch.ones(1, 1, dtype=torch.bool))
    with pytest.raises(AffuseError, match=r"needs images .* 'rgb' is of shape \(1, 5, 8\)"):
        explain.grad_cam(system, sound, "rgb")
    system.spatial_layer = lambda modality: system.drop  # type: ignore[method-assign]
    with pytest.raises(AffuseError, match="must run once"):
        explain.grad_cam(system, Batch.collate([Sample({"rgb": bright(0, 0, 0)})], Corner.modalities), "rgb")


def test_examples_hold_inputs_heat_and_what_was_answered(tmp_path: Path) -> None:
    samples = [
        Sample(
            {"rgb": bright(1, 0, 12), "event": bright(1, 0, 0)}, 1, meta={"id": "x", "subject": 3, "condition": "Low"}
        ),
        Sample({"event": bright(2, 0, 0)}, 0, meta={"id": "y"}),
        Sample({}, 0, meta={"id": "z"}),
    ]
    explain.save_examples(Corner(), samples, tmp_path / "examples.safetensors")
    with safe_open(tmp_path / "examples.safetensors", "pt") as file:
        examples = json.loads(file.metadata()["examples"])
        assert set(file.keys()) == {f"{n}/{k}" for n in ("0/rgb", "0/event", "1/event") for k in ("input", "heat")}, (
            "only what is there"
        )
        assert file.get_tensor("0/rgb/input").shape == (2, 3, 16, 16)
        assert file.get_tensor("0/rgb/heat")[0, 1, 14] == 1
    assert [e["prediction"] for e in examples] == [1, 2, None]
    assert examples[0]["condition"] == "Low" and examples[0]["subject"] == "3"
    assert examples[0]["weights"] == {"rgb": 0.5, "event": 0.5}
    assert examples[2]["probabilities"] is None
    assert [p.name for p in tmp_path.iterdir()] == ["examples.safetensors"]


def test_a_system_without_a_spatial_layer_still_shows_its_inputs(tmp_path: Path) -> None:
    class Plain(Corner):
        spatial_layer = None  # type: ignore[assignment]

    explain.save_examples(Plain(), [Sample({"rgb": bright(0, 0, 0)})], tmp_path / "e.safetensors")
    with safe_open(tmp_path / "e.safetensors", "pt") as file:
        assert list(file.keys()) == ["0/rgb/input"]


def test_no_examples_are_a_file_without_tensors(tmp_path: Path) -> None:
    explain.save_examples(Corner(), [], tmp_path / "e.safetensors")
    with safe_open(tmp_path / "e.safetensors", "pt") as file:
        assert list(file.keys()) == [] and json.loads(file.metadata()["examples"]) == []
