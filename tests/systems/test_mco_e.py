"""MCO-E Net: what its parts compute, what absence does to them, and the released variant."""

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from affuse.parts.experts import DeepExpert, FocalExpert, HeterogeneousExperts, Routing, balance_loss
from affuse.parts.mamba import causal_convolution
from affuse.systems.mco_e import MCOEConfig, MCOENet
from affuse.systems.mco_e.fusion import MCIB, added
from affuse.systems.mco_e.mjos import JointMamba
from affuse.types import AffuseError, Batch, Task

SMALL: dict[str, Any] = {"d_model": 16, "d_state": 4, "heads": 2, "experts": 6, "dropout": 0.0}
RELEASED: dict[str, Any] = {
    "variant": "as_released", "released_outputs": 20, "released_width": 16, "experts": 6, "dropout": 0.0, "deep_layers": 2
}  # fmt: skip
TASK = Task("classification", ("calm", "tense", "away"))


def system(task: Task = TASK, **changes: Any) -> MCOENet:
    torch.manual_seed(0)
    return MCOENet(MCOEConfig(**{**SMALL, **changes}), task)


def batch(present: list[tuple[bool, bool]], t: int = 3, size: int = 32, seed: int = 0) -> Batch:
    """Clips of both sensors, NaN where absent; a sensor that no row has is one NaN a row, as collate makes it."""
    generator = torch.Generator().manual_seed(seed)
    has = torch.tensor(present)
    inputs = {}
    for column, name in enumerate(("rgb", "event")):
        clips = torch.randn(len(present), t, 3, size, size, generator=generator)
        clips[~has[:, column]] = torch.nan
        inputs[name] = clips if has[:, column].any() else torch.full((len(present), 1), torch.nan)
    return Batch(inputs, has, target=torch.arange(len(present)) % 3)


BOTH, RGB, EVENT, NONE = (True, True), (True, False), (False, True), (False, False)
MIXED = [BOTH, RGB, EVENT, NONE, BOTH]
VARIANTS = [{}, {"tokens": "spatial"}, {"mcib": False}, {"interact": "", "exchange": True}, {"layers": 2}, RELEASED]


def named(values: Any) -> str:
    return ",".join(f"{key}={value}" for key, value in values.items())[:30] or "paper"


def trained_step(model: MCOENet, data: Batch) -> dict[str, Tensor]:
    model.train().zero_grad(set_to_none=True)
    model.loss(model(data), data)["total"].backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def test_frames_of_a_row_that_lacks_the_sensor_are_no_frames_of_the_others() -> None:
    model, clips = system().eval(), torch.randn(2, 4, 3, 32, 32)
    clips[1, 2:] = 0
    present = torch.tensor([[False], [True]])
    beside = Batch({"rgb": clips}, present, {"rgb": torch.tensor([4, 2])})
    alone = Batch({"rgb": clips[1:, :2]}, present[1:])
    torch.testing.assert_close(model(beside).logits[1], model(alone).logits[0])


@pytest.mark.parametrize("changes", VARIANTS, ids=named)
def test_rows_without_anything_are_no_answer_and_do_no_harm(changes: dict[str, Any]) -> None:
    model = system(**changes)
    output = model.eval()(batch(MIXED))
    assert output.answered.tolist() == [True, True, True, False, True]
    assert output.logits[3].isnan().all()
    assert torch.isfinite(output.logits[output.answered]).all()
    for value in output.weights.values():
        assert torch.allclose(value.sum(1), output.answered.float(), atol=1e-5)
    assert all(torch.isfinite(gradient).all() for gradient in trained_step(model, batch(MIXED)).values())


@pytest.mark.parametrize("changes", VARIANTS, ids=named)
def test_a_lone_modality_has_all_the_weight(changes: dict[str, Any]) -> None:
    weights = system(**changes).eval()(batch(MIXED)).weights["modality"]
    assert weights[1].tolist() == [1.0, 0.0]
    assert weights[2].tolist() == [0.0, 1.0]
    assert (weights[0] > 0).all()


@pytest.mark.parametrize("changes", VARIANTS, ids=named)
@pytest.mark.parametrize("kind", [RGB, EVENT])
def test_batches_that_lack_a_modality_answer_and_train(kind: tuple[bool, bool], changes: dict[str, Any]) -> None:
    data = batch([kind] * 4)
    model = system(**changes)
    gradients = trained_step(model, data)
    assert all(torch.isfinite(gradient).all() for gradient in gradients.values())
    there, lacking = ("rgb", "event") if kind == RGB else ("event", "rgb")
    assert any(name.startswith(f"trunk.encoders.{there}") for name in gradients)
    assert not any(name.startswith(f"trunk.encoders.{lacking}") for name in gradients)


@pytest.mark.parametrize("lone", ["rgb", "event"])
def test_one_sensor_alone_is_a_configuration(lone: str) -> None:
    model = system(modalities=(lone,))
    output = model.eval()(batch([BOTH] * 2))
    assert output.weights["modality"].tolist() == [[1.0], [1.0]]
    assert any(gradient.any() for gradient in trained_step(model, batch([BOTH] * 2)).values())


@pytest.mark.parametrize("encoder", ["small", "resnet18"])
@pytest.mark.parametrize("present", [[RGB], [BOTH, EVENT]], ids=["one clip", "one clip of RGB"])
def test_one_clip_trains_and_leaves_the_running_statistics_alone(present: Any, encoder: str) -> None:
    model = system(encoder=encoder, frame_grid=1, modalities=("rgb",))
    before = {name: value.clone() for name, value in model.named_buffers()}
    gradients = trained_step(model, batch(present, t=1))
    assert gradients
    assert all(torch.isfinite(gradient).all() for gradient in gradients.values())
    assert all(torch.equal(value, before[name]) for name, value in model.named_buffers())
    assert all(module.training for module in model.modules())


def test_the_running_statistics_feel_only_rows_that_are_there() -> None:
    whole, holed = system(), system()
    data = batch([BOTH, RGB, RGB])
    trained_step(holed, data)
    trained_step(whole, batch([BOTH, BOTH, BOTH]))
    ours, theirs = dict(holed.named_buffers()), dict(whole.named_buffers())
    assert all(torch.equal(ours[key], theirs[key]) for key in ours if "encoders.rgb" in key)
    assert any(not torch.equal(ours[key], theirs[key]) for key in ours if "encoders.event" in key)


def test_joint_scan_follows_equations_one_to_five() -> None:
    torch.manual_seed(0)
    mamba = JointMamba(MCOEConfig(**{**SMALL, "pre_norm": False}))
    tokens = {name: torch.randn(2, 5, 16) for name in ("rgb", "event")}
    rows = {name: torch.ones(2, dtype=torch.bool) for name in tokens}
    with torch.no_grad():
        found = mamba(tokens, rows)
        x, z = {}, {}
        for name, value in tokens.items():
            x[name], z[name] = mamba.into[name](value).chunk(2, 2)
            kernel, bias = mamba.conv[name].weight[:, 0], mamba.conv[name].bias  # inner 4
            padded = torch.cat([torch.zeros(2, 3, 32), x[name]], 1)
            x[name] = torch.stack([(padded[:, t : t + 4] * kernel.T).sum(1) + bias for t in range(5)], 1)
        for name, other in (("rgb", "event"), ("event", "rgb")):
            y = torch.zeros(2, 5, 32)
            for scan in mamba.scans.values():
                joint = {}
                for k, lin in (("B", scan.B), ("C", scan.C)):
                    a, b = lin[name](x[name]), lin[other](x[other])
                    W = scan.mix[f"{k}_{name}"]
                    joint[k] = torch.cat([a, b], 2) @ W.weight.T + W.bias + a  # Eq. 5
                delta = torch.log1p(torch.exp(x[name] @ scan.delta[name].weight.T + scan.delta[name].bias))
                order = reversed(range(5)) if scan.backward_in_time else range(5)
                h = torch.zeros(2, 32, 4)
                for t in order:  # Eq. 1-4
                    step = delta[:, t, :, None]
                    h = torch.exp(step * -scan.A_log[name].exp()) * h
                    h = h + step * joint["B"][:, t, None, :] * x[name][:, t, :, None]
                    y[:, t] += (h * joint["C"][:, t, None, :]).sum(2) + scan.D[name] * x[name][:, t]
            assert torch.allclose(found[name], mamba.out[name](z[name] * y), atol=1e-5)


def test_interaction_block_follows_equations_six_to_thirteen() -> None:
    torch.manual_seed(0)
    block = MCIB(8, 2, 1.0, False)
    y = {name: torch.randn(3, 5, 8) for name in ("rgb", "event")}
    rows = {name: torch.ones(3, dtype=torch.bool) for name in y}
    with torch.no_grad():
        fused, alpha = block(y, rows)

        def attention(name: str, other: str) -> Tensor:
            part = block.attention[name]
            q, k, v = part.query(y[other]), part.key(y[name]), part.value(y[name])
            heads = [
                (q[:, :, s] @ k[:, :, s].transpose(1, 2) / math.sqrt(4)).softmax(2) @ v[:, :, s]
                for s in (slice(0, 4), slice(4, 8))
            ]
            return part.out(torch.cat(heads, 2))

        gate = 1 / (1 + torch.exp(-(y["rgb"] * y["event"]).sum(2)))
        expected = gate[:, :, None] * attention("rgb", "event") + (1 - gate[:, :, None]) * attention("event", "rgb")
    assert torch.allclose(alpha, gate, atol=1e-6)
    assert torch.allclose(fused, expected, atol=1e-5)


def test_plain_addition_adds_what_is_there() -> None:
    rgb, event = torch.randn(2, 3, 4), torch.randn(1, 3, 4)
    rows = {"rgb": torch.tensor([True, True]), "event": torch.tensor([False, True])}
    total, share = added({"rgb": rgb, "event": event}, rows)
    assert torch.allclose(total, torch.stack([rgb[0], rgb[1] + event[0]]))
    assert share[:, 0].tolist() == [1.0, 0.5]


@pytest.mark.parametrize("d_model", [16, 64, 128])
@pytest.mark.parametrize("changes", [{}, {"mamba": False}], ids=named)
def test_the_gate_is_open_at_first_and_learns(changes: dict[str, Any], d_model: int) -> None:
    model = system(**{**changes, "d_model": d_model, "heads": 4})
    output = model(batch([BOTH] * 6))
    alpha = output.aux["alpha"]
    alpha.retain_grad()
    model.loss(output, batch([BOTH] * 6))["total"].backward()
    open_tokens = (alpha - 0.5).abs() < 0.45
    assert open_tokens.float().mean().item() > 0.8
    assert alpha.std().item() > 1e-4
    assert alpha.grad is not None and alpha.grad.abs().max() > 1e-6


def test_gate_scale_narrows_the_gate() -> None:
    data = batch([BOTH] * 4)
    plain = system().eval()(data).aux["alpha"]
    narrow = system(gate_scale=0.25).eval()(data).aux["alpha"]
    assert torch.allclose(torch.logit(narrow), 0.25 * torch.logit(plain), atol=1e-4)


def test_deep_expert_keeps_the_size_of_its_signal_at_any_depth() -> None:
    torch.manual_seed(0)
    tokens = torch.randn(64, 4, 32)
    expert = DeepExpert(32, 3, 8, 0.0)
    seen = tokens
    for block in expert.blocks:
        seen = block(seen)
    assert 0.3 < seen.std().item() < 3


def test_deep_expert_without_dropout_answers_the_same_whether_it_pools_first_or_last() -> None:
    for residual in (None, 0.3):
        expert = DeepExpert(8, 3, 2, 0.0, residual)
        tokens = torch.randn(5, 4, 8)
        torch.testing.assert_close(expert.train()(tokens), expert.eval()(tokens))


def test_focal_expert_is_its_two_convolutions() -> None:
    expert = FocalExpert(8, 3)
    for length in (1, 2, 5):
        tokens = torch.randn(4, length, 8)
        convolved = expert.out(functional.gelu(expert.local(tokens.transpose(1, 2)))).mean(2)
        torch.testing.assert_close(expert(tokens), convolved)


def test_causal_convolution_is_a_grouped_convolution_padded_in_front() -> None:
    for length, width in ((1, 4), (3, 4), (9, 2), (5, 1)):
        conv = nn.Conv1d(6, 6, width, groups=6)
        x = torch.randn(2, length, 12)[:, :, :6]  # as chunk gives it: not contiguous
        padded = functional.pad(x.transpose(1, 2), (width - 1, 0))
        torch.testing.assert_close(causal_convolution(x, conv.weight, conv.bias), conv(padded).transpose(1, 2))


def test_sparse_experts_equal_the_dense_form() -> None:
    torch.manual_seed(0)
    experts = HeterogeneousExperts(16, 3, ("focal", "attention", "deep"), 7, 3, 2, 2, 0.0)
    tokens = torch.randn(5, 4, 16)
    sparse, routing = experts(tokens)
    dense, _ = experts(tokens, dense=True)
    assert torch.allclose(sparse, dense, atol=1e-5)
    assert ((routing.weights > 0).sum(1) == 3).all()


def test_experts_that_were_not_chosen_are_not_run() -> None:
    torch.manual_seed(0)
    experts = HeterogeneousExperts(16, 3, ("focal", "attention", "deep"), 6, 2, 2, 2, 0.0)
    rows_seen: dict[int, int] = {}
    for number, expert in enumerate(experts.experts):
        expert.register_forward_pre_hook(lambda _, args, n=number: rows_seen.update({n: len(args[0])}))
    _, routing = experts(torch.randn(4, 3, 16))
    chosen = (routing.weights > 0).sum(0)
    assert rows_seen == {n: int(count) for n, count in enumerate(chosen) if count}


def test_balance_is_one_when_even_and_more_when_one_expert_has_all() -> None:
    even = torch.eye(4)
    assert balance_loss(Routing(torch.full((4, 4), 0.25), even)) == pytest.approx(1.0)
    alone = torch.tensor([[1.0, 0, 0, 0]] * 4)
    assert balance_loss(Routing(alone, alone)) == pytest.approx(4.0)


def test_balance_joins_the_loss_only_where_it_is_weighted() -> None:
    data = batch([BOTH] * 3)
    plain, weighted = system(), system(balance_weight=0.5)
    assert set(plain.loss(plain(data), data)) == {"cross_entropy", "total"}
    terms = weighted.loss(weighted(data), data)
    assert terms["total"].item() == pytest.approx((terms["cross_entropy"] + 0.5 * terms["balance"]).item())


def test_regression_is_scored_by_squared_error_over_known_values() -> None:
    task = Task("regression", value_range=(-3.0, 3.0))
    model = system(task)
    data = dataclasses.replace(batch([BOTH, RGB, NONE]), target=torch.tensor([1.0, torch.nan, 2.0]))
    output = model.eval()(data)
    assert model.loss(output, data)["total"].item() == pytest.approx((output.value[0].item() - 1) ** 2, rel=1e-5)


def test_a_batch_without_any_answer_has_a_loss_of_zero_that_may_be_differentiated() -> None:
    gradients = trained_step(system(), batch([NONE, NONE]))
    assert gradients
    assert not any(gradient.any() for gradient in gradients.values())


def test_causal_tokens_do_not_look_ahead() -> None:
    data = batch([BOTH] * 2, t=4)
    later = {name: value.clone() for name, value in data.inputs.items()}
    for value in later.values():
        value[:, 3] += 1.0
    other = dataclasses.replace(data, inputs=later)
    has = {name: data.has(name) for name in data.modalities}

    def tokens(model: MCOENet, inputs: dict[str, Tensor]) -> Tensor:
        return model.trunk(inputs, has)[0]

    causal, plain = system(causal=True).eval(), system().eval()
    assert torch.allclose(tokens(causal, data.inputs)[:, :3], tokens(causal, other.inputs)[:, :3], atol=1e-6)
    assert not torch.allclose(tokens(plain, data.inputs)[:, :3], tokens(plain, other.inputs)[:, :3], atol=1e-4)


@pytest.mark.parametrize("changes", [{}, RELEASED, {"encoder": "resnet18", "frame_grid": 1}], ids=named)
def test_spatial_layer_gives_the_last_map_of_each_image(changes: dict[str, Any]) -> None:
    model = system(**changes).eval()
    shapes: list[tuple[int, ...]] = []
    for name in ("rgb", "event"):
        layer = model.spatial_layer(name)
        layer.register_forward_hook(lambda _m, _i, out: shapes.append(tuple(out.shape)))
    model(batch([BOTH] * 2, size=64))
    images = 2 if changes is RELEASED else 2 * 3
    assert [len(shape) for shape in shapes] == [4, 4]
    assert {shape[0] for shape in shapes} == {images}
    with pytest.raises(AffuseError, match="depth"):
        model.spatial_layer("depth")


def test_released_variant_reads_only_the_first_and_the_last_frame() -> None:
    model = system(**RELEASED).eval()
    data = batch([BOTH] * 2, t=4)
    middle = {name: value.clone() for name, value in data.inputs.items()}
    for value in middle.values():
        value[:, 1:3] = 0
    assert torch.equal(model(data).logits, model(dataclasses.replace(data, inputs=middle)).logits)
    for value in middle.values():
        value[:, 3] = 0
    assert not torch.allclose(model(data).logits, model(dataclasses.replace(data, inputs=middle)).logits, atol=1e-4)


def test_released_variant_has_the_released_shapes() -> None:
    model = system(variant="as_released", released_width=32)
    output = model.eval()(batch([BOTH] * 2))
    assert output.aux["alpha"].shape == (2, 500)
    scan: Any = model.get_submodule("trunk.mamba.scans.scan_forward")
    assert scan.joint["B"].weight.shape == (16, 66)
    assert len(model.get_submodule("trunk.encoders")._modules) == 4


def test_released_variant_trains_every_parameter() -> None:
    model = system(**{**RELEASED, "top_k": 6})
    gradients = trained_step(model, batch(MIXED))
    assert {name for name, _ in model.named_parameters()} == set(gradients)
    # With a single token softmax is constant, so queries and keys of router and attention experts cannot learn: the
    # degenerate attention of the released code.
    idle = {name for name, gradient in gradients.items() if not gradient.any()}
    assert all(name.startswith("head.") and (".query." in name or ".key." in name) for name in idle), idle


def test_the_scan_has_no_hidden_state() -> None:
    model = system().eval()
    first = model(batch([BOTH] * 2, seed=1)).logits
    model(batch([BOTH] * 2, seed=2))
    assert torch.equal(model(batch([BOTH] * 2, seed=1)).logits, first)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"interact": "BE"}, "interact"),
        ({"share": "A"}, "share"),
        ({"interact": "", "share": "A", "exchange": True}, "exclude"),
        ({"modalities": ("event", "rgb")}, "modalities"),
        ({"top_k": 9}, "top_k"),
        ({"heads": 3}, "heads"),
        ({"encoder": "resnet1"}, "resnet1"),
        ({"pretrained": True}, "pretrained"),
        ({"dropout": 1.0}, "dropout"),
        ({"expert_types": ()}, "expert_types"),
        ({"encoder_weights": "no/such.safetensors"}, "no/such.safetensors"),
        ({"variant": "as_released", "modalities": ("rgb",)}, "both"),
    ],
)
def test_an_impossible_setting_is_an_error_that_names_it(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(AffuseError, match=named) as caught:
        system(**changes)
    assert "\n" not in str(caught.value)


def test_clips_that_do_not_fit_are_an_error_that_names_the_modality() -> None:
    data = batch([BOTH] * 2)
    with pytest.raises(AffuseError, match="event_channels"):
        system()(dataclasses.replace(data, inputs={**data.inputs, "event": torch.zeros(2, 3, 5, 32, 32)}))
    with pytest.raises(AffuseError, match="same frames"):
        system()(dataclasses.replace(data, inputs={**data.inputs, "event": torch.zeros(2, 2, 3, 32, 32)}))
    with pytest.raises(AffuseError, match="different numbers of frames"):
        system()(dataclasses.replace(data, lengths={"rgb": torch.tensor([2, 3])}))


def test_encoder_weights_are_read_from_safetensors(tmp_path: Any) -> None:
    from safetensors.torch import save_file

    donor: Any = system()
    net: nn.Module = donor.trunk.encoders["rgb"].net
    stored = {key: value + 1 if value.is_floating_point() else value for key, value in net.state_dict().items()}
    save_file(stored, tmp_path / "encoder.safetensors")
    model: Any = system(encoder_weights=str(tmp_path / "encoder.safetensors"))
    for name in ("rgb", "event"):
        own = model.trunk.encoders[name].net.state_dict()
        assert all(torch.equal(own[key], value) for key, value in stored.items())
    stored.pop(next(iter(stored)))
    save_file(stored, tmp_path / "encoder.safetensors")
    with pytest.raises(AffuseError, match="does not fit"):
        system(encoder_weights=str(tmp_path / "encoder.safetensors"))


def test_the_chunked_and_the_reference_scan_give_the_same_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    model = system(tokens="spatial").eval()
    data = batch([BOTH] * 2)
    monkeypatch.setenv("AFFUSE_SCAN", "reference")
    slow = model(data).logits
    monkeypatch.setenv("AFFUSE_SCAN", "chunked")
    assert torch.allclose(model(data).logits, slow, atol=1e-5)
