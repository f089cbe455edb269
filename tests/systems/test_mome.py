"""MoME + HTL: what it promises beyond the contract of all systems (the forms of its terms: tests/fidelity)."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from affuse.balance.base import rows_with
from affuse.explain import grad_cam
from affuse.systems.mome import MoME, MoMEConfig
from affuse.systems.mome.config import VIDEO_TRANSFORMERS
from affuse.systems.mome.experts import expert_named
from affuse.types import AffuseError, Batch, Output, Sample, Task

TASK = Task("classification", ("a", "b", "c"))
VALUE = Task("regression", value_range=(0.0, 1.0), units="s")
TINY: dict[str, Any] = {"width": 8, "heads": 2, "frames": 6, "size": 16, "patch": 8, "grid": 2, "dropout": 0.0}
EXPERTS = ("small", "resnet10t", *VIDEO_TRANSFORMERS)
NAMES = ("rgb", "infrared", "depth")


def config(**changes: Any) -> MoMEConfig:
    return MoMEConfig(**{**TINY, "gate_dropout": 0.0, **changes})


def made(task: Task = TASK, **changes: Any) -> MoME:
    torch.manual_seed(0)
    return MoME(config(**changes), task)


def clip(seed: int, channels: int = 1, frames: int = 6) -> Tensor:
    return torch.randn(frames, channels, 16, 16, generator=torch.Generator().manual_seed(seed))


def sample(seed: int, lacks: tuple[str, ...] = (), frames: int = 6) -> Sample:
    inputs = {n: clip(10 * seed + i, 3 if n == "rgb" else 1, frames) for i, n in enumerate(NAMES) if n not in lacks}
    return Sample(inputs, target=seed % 3)


def batch_of(*samples: Sample) -> Batch:
    return Batch.collate(samples, NAMES)


def same(one: Output, other: Output) -> bool:
    pairs = [(one.logits, other.logits), (one.weights["modality"], other.weights["modality"])]
    pairs += [(one.unimodal[name], other.unimodal[name]) for name in one.unimodal]
    pairs += [(one.aux[key], other.aux[key]) for key in one.aux if key.startswith(("attention/", "features"))]
    return all(torch.equal(a.nan_to_num(9.0), b.nan_to_num(9.0)) for a, b in pairs)


@pytest.mark.parametrize("name", EXPERTS)
def test_a_lost_frame_has_exactly_no_influence_on_an_expert(name: str) -> None:
    torch.manual_seed(0)
    expert = expert_named(name, 1, config()).eval()
    clips, valid = torch.stack([clip(1), clip(2), clip(3)]), torch.ones(3, 6, dtype=torch.bool)
    valid[0, 2:4], valid[1, 5] = False, False
    filled = clips.masked_fill(~valid[:, :, None, None, None], 5.0)
    one, other = expert(clips, valid), expert(filled, valid)
    assert torch.equal(one.valid, other.valid)
    assert not one.valid[:2].all(1).any() and one.valid[2].all()
    assert torch.equal(one.class_token, other.class_token)
    assert torch.equal(one.tokens[one.valid], other.tokens[one.valid])
    whole = expert(clips, torch.ones_like(valid))
    assert torch.allclose(one.class_token[2], whole.class_token[2], atol=1e-5)
    assert not torch.allclose(one.class_token[0], whole.class_token[0], atol=1e-4)


@pytest.mark.parametrize("name", EXPERTS)
def test_a_frame_that_is_partly_nan_is_lost_as_a_whole_and_trains_no_one(name: str) -> None:
    found = []
    for value in (torch.nan, 3.0):
        one, other = sample(1), sample(2)
        one.inputs["rgb"][2:4] = value
        one.inputs["rgb"][2:4, :, 0, 0] = torch.nan
        model, batch = made(expert=name), batch_of(one, other)
        output = model.train()(batch)
        model.loss(output, batch)["total"].backward()
        gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        found.append((output, gradients))
    assert same(found[0][0], found[1][0])
    assert all(torch.isfinite(gradient).all() for gradient in found[0][1])
    assert all(torch.equal(a, b) for a, b in zip(found[0][1], found[1][1], strict=True))


@pytest.mark.parametrize("guided", [True, False])
@pytest.mark.parametrize("name", EXPERTS)
def test_token_attention_has_a_grid_and_is_shared_among_the_frames_that_are_there(name: str, guided: bool) -> None:
    one = sample(1)
    one.inputs["infrared"][4:] = torch.nan
    output = made(expert=name, self_guidance=guided).eval()(batch_of(one, sample(2, ("infrared",)), sample(3)))
    found = output.aux["attention/infrared"]  # b t y x
    steps = 3 if name in ("videomae", "vivit") else 6
    assert found.shape == (3, steps, 2, 2)
    assert torch.allclose(found.sum((1, 2, 3)), torch.tensor([1.0, 0.0, 1.0]), atol=1e-5)
    lost = found[0, 2:] if steps == 3 else found[0, 4:]
    assert not lost.any()
    assert (found[2] > 0).all()


def test_frames_lost_at_the_end_are_as_a_shorter_clip() -> None:
    model = made().eval()
    long = sample(1)
    for name in NAMES:
        long.inputs[name][4:] = torch.nan
    short = Sample({name: found[:4] for name, found in long.inputs.items()}, target=1)
    assert torch.allclose(model(batch_of(long)).logits, model(batch_of(short)).logits, atol=1e-6)
    padded = model(batch_of(short, sample(2)))  # among longer ones
    assert torch.allclose(padded.logits[0], model(batch_of(short)).logits[0], atol=1e-6)


def test_a_camera_without_a_frame_is_absent() -> None:
    one = sample(1)
    one.inputs["rgb"][:] = torch.nan
    model = made().eval()
    found, absent = model(batch_of(one, sample(2))), model(batch_of(sample(1, ("rgb",)), sample(2)))
    assert same(found, absent)
    assert found.weights["modality"][0, 0] == 0
    for name in NAMES[1:]:
        one.inputs[name][:] = torch.nan
    assert model(batch_of(one, sample(2))).answered.tolist() == [False, True]


def test_a_camera_without_a_frame_is_absent_to_balancing_methods_too() -> None:
    lost, lacking = sample(1), sample(1, lacks=("rgb",))
    lost.inputs["rgb"][:] = torch.nan  # type: ignore[index]
    model = made().eval()
    for one in (lost, lacking):
        batch = batch_of(one, sample(2))
        assert rows_with(model(batch), batch, "rgb").tolist() == [False, True]


def test_every_other_frame_lost_leaves_no_tube_of_two_and_so_no_camera() -> None:
    one = sample(1)
    one.inputs["rgb"][::2] = torch.nan
    output = made(expert_of={"rgb": "videomae"}).eval()(batch_of(one, sample(2)))
    assert output.aux["present"].tolist() == [[False, True, True], [True, True, True]]
    assert torch.isfinite(output.logits).all()


def test_an_expert_runs_over_the_rows_that_have_its_camera_alone() -> None:
    model = made().eval()
    seen: list[int] = []
    model.experts["rgb"].register_forward_hook(lambda _m, inputs, _o: seen.append(len(inputs[0])))
    model(batch_of(sample(1), sample(2, ("rgb",)), sample(3)))
    model(batch_of(sample(1, ("rgb",)), sample(2, ("rgb",))))
    assert seen == [2]


def test_tokens_of_timesformer_are_put_in_the_order_of_time() -> None:
    torch.manual_seed(0)
    expert = expert_named("timesformer", 1, config()).eval()
    clips = torch.stack([clip(1), clip(2)])
    found = expert(clips, torch.ones(2, 6, dtype=torch.bool))
    hidden = expert.model(pixel_values=clips).last_hidden_state  # r 1+(y x t) d
    assert torch.allclose(found.class_token, hidden[:, 0], atol=1e-6)
    place, time = 3, 4
    assert torch.allclose(found.tokens[:, time * 4 + place], hidden[:, 1 + place * 6 + time], atol=1e-6)


@pytest.mark.parametrize("kind", VIDEO_TRANSFORMERS)
def test_weights_of_a_folder_are_taken_and_fit_other_channels(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(3)
    source = expert_named(kind, 3, config())
    source.model.save_pretrained(tmp_path)
    settings = config(expert=str(tmp_path), pretrained=True)
    rgb, gray = (expert_named(str(tmp_path), channels, settings).eval() for channels in (3, 1))
    clips, valid = torch.stack([clip(1)]), torch.ones(1, 6, dtype=torch.bool)
    threefold = clips.expand(-1, -1, 3, -1, -1)
    expected = source.eval()(threefold, valid).class_token
    assert torch.allclose(rgb(threefold, valid).class_token, expected, atol=1e-6)
    assert torch.allclose(gray(clips, valid).class_token, expected, atol=1e-5)
    random = expert_named(str(tmp_path), 1, config(expert=str(tmp_path))).eval()
    assert not torch.allclose(random(clips, valid).class_token, expected, atol=1e-3)
    model = made(expert=str(tmp_path), pretrained=True)
    assert list(model.pretrained_parts()) == [model.experts[name] for name in NAMES]


def test_without_transformers_the_error_has_the_pip_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(AffuseError, match=r"pip install 'affuse\[text\]'"):
        made(expert="videomae")
    made()  # the small one needs nothing


def test_an_expert_that_is_none_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(AffuseError, match="is a bert; give one of timesformer, videomae, vivit"):
        made(expert=str(tmp_path))
    with pytest.raises(AffuseError, match=r"config\.json"):
        made(expert=str(tmp_path / "nowhere" / "at" / "all"))
    with pytest.raises(AffuseError, match=r"neither 'small' nor a model of timm; .*timesformer, videomae, vivit"):
        made(expert="restnet18")
    with pytest.raises(AffuseError, match="takes 4 frames, fewer than frames: 6"):
        folder = tmp_path / "short"
        expert_named("vivit", 1, config(frames=4)).model.save_pretrained(folder)  # type: ignore[union-attr, operator]
        made(expert=str(folder))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"modalities": ()}, "at least one"),
        ({"modalities": ("rgb", "rgb")}, "each once"),
        ({"modalities": ("a.b",)}, "no dot"),
        ({"channels": {"rgb": 3}}, "infrared, depth"),
        ({"expert_of": {"sonar": "small"}}, "sonar"),
        ({"frames": 0}, "frames"),
        ({"gate_width": -1}, "linear"),
        ({"heads": 3}, "heads must divide width"),
        ({"dropout": 1.0}, "dropout"),
        ({"self_temperature": 0.0}, "self_temperature"),
        ({"mutual_weight": -1.0}, "mutual_weight"),
        ({"pretrained": True}, "no expert here has published weights"),
        ({"top_k": 4}, "top_k is from 1"),
        ({"top_k": 1, "gating": "late"}, "needs a gate"),
        ({"expert": "vivit", "frames": 5}, "even"),
        ({"expert": "timesformer", "patch": 5}, "patch must divide size"),
    ],
)
def test_an_impossible_setting_is_an_error(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(AffuseError, match=told):
        made(**changes)


def test_cosine_needs_class_tokens_of_one_width(tmp_path: Path) -> None:
    expert_named("videomae", 3, config(width=12)).model.save_pretrained(tmp_path)  # type: ignore[union-attr, operator]
    with pytest.raises(AffuseError, match=r"one width, these have \[8, 12\]"):
        made(expert_of={"rgb": str(tmp_path)}, mutual_align="cosine")
    model = made(expert_of={"rgb": str(tmp_path)}, fuse="class_tokens").eval()
    assert model(batch_of(sample(1))).aux["features"].shape == (1, 12 + 8 + 8)


def test_inputs_that_do_not_fit_are_errors() -> None:
    model = made()
    with pytest.raises(AffuseError, match=r"'infrared': expected float frames \(b, t, 1, h, w\).*set channels"):
        model(batch_of(Sample({"infrared": clip(1, 3)})))
    with pytest.raises(AffuseError, match="a clip of 9 frames, but frames is 6"):
        model(batch_of(sample(1, frames=9)))
    with pytest.raises(AffuseError, match=r"reads \(24, 24\): set the data's size"):
        made(expert="videomae", size=24)(batch_of(sample(1)))


def test_the_weights_of_each_gate_are_what_its_name_says() -> None:
    batch = batch_of(sample(1), sample(2), sample(3, ("depth",)))
    weights = {g: made(gating=g).eval()(batch).weights["modality"] for g in ("output", "input", "plain", "late")}
    for found in weights.values():
        assert torch.allclose(found.sum(1), torch.ones(3))
        assert found[2, 2] == 0
    assert torch.allclose(weights["late"], torch.tensor([[1 / 3] * 3, [1 / 3] * 3, [0.5, 0.5, 0.0]]))
    plain = made(gating="plain").eval()
    with torch.no_grad():
        plain.gate.scores.copy_(torch.tensor([2.0, 0.0, 1.0]))  # type: ignore[union-attr, operator]
    found = plain(batch).weights["modality"]
    assert torch.allclose(found[0], torch.tensor([2.0, 0.0, 1.0]).softmax(0))
    assert torch.equal(found[0], found[1])
    for gating in ("output", "input"):
        assert not torch.allclose(weights[gating][0], weights[gating][1], atol=1e-4)


def test_the_input_gate_does_not_read_the_experts_and_the_output_gate_does() -> None:
    for gating, reads in (("input", False), ("output", True)):
        model, batch = made(gating=gating), batch_of(sample(1), sample(2))
        model(batch).weights["modality"][:, 0].sum().backward()
        touched = [p.grad is not None and bool(p.grad.any()) for p in model.experts.parameters()]
        assert any(touched) == reads
        held = made(gating=gating, gate_detached=True)
        held(batch).weights["modality"][:, 0].sum().backward()
        assert not any(p.grad is not None and bool(p.grad.any()) for p in held.experts.parameters())


def test_top_k_leaves_that_many_experts_or_those_that_are_there() -> None:
    batch = batch_of(sample(1), sample(2), sample(3, ("depth", "rgb")))
    output = made(top_k=2).eval()(batch)
    assert (output.weights["modality"] > 0).sum(1).tolist() == [2, 2, 1]
    assert torch.allclose(output.weights["modality"].sum(1), torch.ones(3))
    soft = output.aux["gate"][:2]
    assert (soft > 0).all()
    left_out = output.weights["modality"][:2] == 0
    assert torch.equal(left_out.float().argmax(1), soft.argmin(1))


def test_the_fused_answer_is_what_fuse_says() -> None:
    batch = batch_of(sample(1), sample(2, ("rgb",)))
    for fuse in ("logits", "probabilities"):
        output = made(fuse=fuse).eval()(batch)
        own = torch.stack([output.unimodal[name] for name in NAMES], 1)  # b m c
        own = (own if fuse == "logits" else own.softmax(2)).nan_to_num(0.0)
        expected = torch.einsum("bmc,bm->bc", own, output.weights["modality"])
        assert torch.allclose(output.logits, expected if fuse == "logits" else expected.log(), atol=1e-5)
    model = made(fuse="class_tokens").eval()
    output = model(batch)
    tokens = torch.stack([output.aux[f"features/{name}"] for name in NAMES], 1)
    expected = torch.einsum("bmd,bm->bd", tokens, output.weights["modality"])
    assert torch.allclose(output.aux["features"], expected, atol=1e-6)
    assert torch.allclose(model.fused_head(expected), output.logits, atol=1e-5)  # type: ignore[misc]


def test_in_training_the_gate_is_told_that_cameras_are_lost_but_every_expert_still_answers() -> None:
    model, batch = made(gate_dropout=0.6), batch_of(*(sample(i) for i in range(12)))
    torch.manual_seed(1)
    output = model.train()(batch)
    assert (output.weights["modality"] == 0).any()
    assert torch.equal(output.weights["modality"] > 0, output.aux["seen"])
    assert torch.allclose(output.weights["modality"].sum(1), torch.ones(12))
    assert output.aux["present"].all()
    assert all(torch.isfinite(found).all() for found in output.unimodal.values())
    assert (model.eval()(batch).weights["modality"] > 0).all()


def test_a_regression_has_values_and_refuses_what_needs_classes() -> None:
    batch = Batch.collate([Sample(sample(i).inputs, target=0.3 * i) for i in range(3)], NAMES)
    for changes in ({}, {"fuse": "probabilities"}, {"fuse": "class_tokens"}, {"mutual_align": "cosine"}):
        model = made(VALUE, gate_reads="logits", **changes)
        output = model(batch)
        terms = model.loss(output, batch)
        terms["total"].backward()
        assert output.value.shape == (3,)
        expected = (output.value - batch.target).square().mean()
        assert terms["fused"].item() == pytest.approx(expected.item(), rel=1e-5)
        assert {"self", "mutual"} <= set(terms)
    with pytest.raises(AffuseError, match="gate_reads: confidence needs classes"):
        made(VALUE, gate_reads="confidence")
    with pytest.raises(AffuseError, match="reliability: confidence needs classes"):
        made(VALUE, reliability="confidence")


@pytest.mark.parametrize("name", ["small", "resnet10t"])
def test_grad_cam_looks_at_the_last_map_also_where_frames_are_lost(name: str) -> None:
    model = made(expert=name).eval()
    one = sample(1)
    one.inputs["rgb"][3] = torch.nan
    heat = grad_cam(model, batch_of(one, sample(2), sample(3, ("rgb",))), "rgb")
    assert heat.shape == (3, 6, 16, 16)
    assert not heat[2].any()
    assert not heat[0, 3].any()
    assert heat[1].any()


def test_a_video_transformer_names_no_spatial_layer() -> None:
    model = made(expert="timesformer")
    with pytest.raises(AffuseError, match="timesformer, has no map of each frame"):
        model.spatial_layer("rgb")
    with pytest.raises(AffuseError, match="no modality 'sonar'"):
        model.spatial_layer("sonar")


def test_the_parts_of_the_modalities_are_all_but_the_gate_and_the_fused_classifier() -> None:
    model = made(fuse="class_tokens")
    parts = {id(p) for modules in model.modality_parts().values() for module in modules for p in module.parameters()}
    left = {key.split(".")[0] for key, parameter in model.named_parameters() if id(parameter) not in parts}
    assert left == {"gate", "fused_head"}
    assert sum(len(list(m.parameters())) for ms in model.modality_parts().values() for m in ms) == len(parts)


def test_the_gate_learns_to_believe_the_camera_that_saw_it() -> None:
    """In each sample one camera shows the class, the other noise; the gate has to tell from what their experts say."""
    generator = torch.Generator().manual_seed(0)
    shown = torch.randn(3, 1, 16, 16, generator=generator)

    def drawn(count: int) -> tuple[Batch, Tensor]:
        which = torch.arange(count) % 2
        samples = []
        for index in range(count):
            seen = shown[index % 3] + 0.3 * torch.randn(2, 1, 16, 16, generator=generator)
            noise = torch.randn(2, 1, 16, 16, generator=generator)
            pair = (seen, noise) if which[index] == 0 else (noise, seen)
            samples.append(Sample(dict(zip(("a", "b"), pair, strict=True)), target=index % 3))
        return Batch.collate(samples, ("a", "b")), which

    torch.manual_seed(0)
    settings = {**TINY, "frames": 2, "layers": 1, "modalities": ("a", "b"), "channels": {"a": 1, "b": 1}}
    model = MoME(MoMEConfig(**settings), TASK)
    optimiser = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(60):
        batch, _ = drawn(24)
        loss = model.loss(model(batch), batch)["total"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    batch, which = drawn(60)
    output = model.eval()(batch)
    assert (output.logits.argmax(1) == batch.target).float().mean() > 0.9
    assert (output.weights["modality"].argmax(1) == which).float().mean() > 0.85
