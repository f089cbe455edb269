"""EMOE's equations, written out by hand beside the code that realises them; then the released code's ways."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from affuse.systems.emoe import EMOE, EMOEConfig
from affuse.systems.emoe.losses import combined, distillation, importance, negative_entropy, similarity
from affuse.types import Batch, Output, Sample, Task

WIDTHS = {"text": 6, "audio": 3, "video": 4}
SENTIMENT = Task("regression", value_range=(-3.0, 3.0))
INTENT = Task("classification", ("praise", "thank", "leave"))
SMALL: dict[str, Any] = {"widths": WIDTHS, "d_model": 8, "heads": 2, "layers": 1, "router_width": 5}


def system(task: Task = SENTIMENT, **changes: Any) -> EMOE:
    torch.manual_seed(0)
    return EMOE(EMOEConfig(**{**SMALL, **changes}), task).eval()


def batch(task: Task = SENTIMENT, lacking: dict[int, str] | None = None) -> Batch:
    generator = torch.Generator().manual_seed(1)
    samples = []
    for row in range(5):
        inputs = {
            name: torch.randn(3 + (row + column) % 3, width, generator=generator)
            for column, (name, width) in enumerate(WIDTHS.items())
            if (lacking or {}).get(row) != name
        }
        samples.append(Sample(inputs, target=row % 3 if task.kind == "classification" else row - 1.7))
    return Batch.collate(samples, tuple(WIDTHS))


def by_hand(emoe: EMOE, sample: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor], torch.Tensor]:
    """Section 3.2 for one sample without padding: f (Eq. 1's concatenation), f'_m, W."""
    trunk: Any = emoe.trunk
    f, high = [], {}
    for name in WIDTHS:
        values = sample.inputs[name]  # 1 t d
        x = functional.conv1d(
            values.transpose(1, 2), trunk.convolution[name].convolution.weight,
            trunk.convolution[name].convolution.bias, padding=2,
        ).transpose(1, 2)  # fmt: skip
        encoder = trunk.encoder[name][1]
        low = torch.relu(x) @ encoder.weight.T + encoder.bias
        f.append(low.mean(1))
        high[name] = trunk.transformer[name](low, torch.ones(1, low.shape[1], dtype=torch.bool))[:, -1]
    joined = torch.cat(f, 1)
    linear, norm, _, last = trunk.router.layers
    hidden = joined @ linear.weight.T
    hidden = (hidden - norm.running_mean) / (norm.running_var + norm.eps).sqrt() * norm.weight + norm.bias
    scores = torch.relu(hidden) @ last.weight.T + last.bias
    return joined, high, (scores / 0.1).exp() / (scores / 0.1).exp().sum(1, keepdim=True)


@pytest.mark.parametrize("fusion", ["sum", "concat"])
def test_router_and_fusion_follow_equations_one_to_three(fusion: str) -> None:
    emoe = system(fusion=fusion)
    trunk: Any = emoe.trunk
    trunk.router.layers[1].running_mean.normal_()
    trunk.router.layers[1].running_var.uniform_(0.5, 2)
    whole = batch()
    output = emoe(whole)
    for row in range(5):
        steps = {n: int(whole.lengths[n][row]) for n in WIDTHS}
        alone = Batch({n: whole.inputs[n][row : row + 1, : steps[n]] for n in WIDTHS}, whole.present[row : row + 1])
        _, high, weights = by_hand(emoe, alone)
        parts = [weights[:, column, None] * high[name] for column, name in enumerate(WIDTHS)]
        fused = torch.stack(parts).sum(0) if fusion == "sum" else torch.cat(parts, 1)
        assert torch.allclose(output.weights["modality"][row], weights[0], atol=1e-5)  # Eq. 1
        assert torch.allclose(output.aux["features"][row], fused[0], atol=1e-5)  # Eq. 2, 3
        assert torch.allclose(output.logits[row], emoe.head(fused)[0][0], atol=1e-5)
        for name in WIDTHS:
            assert torch.allclose(output.unimodal[name][row], emoe.unimodal[name](high[name])[0][0], atol=1e-5)


def test_temperature_divides_the_scores_of_equation_one() -> None:
    warm, cold = system(temperature=1.0)(batch()), system(temperature=0.25)(batch())
    log_warm, log_cold = warm.weights["modality"].log(), cold.weights["modality"].log()
    spread_warm = log_warm - log_warm.mean(1, keepdim=True)
    assert torch.allclose(log_cold - log_cold.mean(1, keepdim=True), 4 * spread_warm, atol=1e-4)


def test_a_head_adds_two_linear_maps_before_the_last() -> None:
    head = system().head
    f = torch.randn(2, 8)
    first, _, _, second = head.add
    projected = f + torch.relu(f @ first.weight.T + first.bias) @ second.weight.T + second.bias
    logits, found = head(f)
    assert torch.allclose(found, projected, atol=1e-6)
    assert torch.allclose(logits, projected @ head.out.weight.T + head.out.bias, atol=1e-6)


def test_importance_follows_equation_five() -> None:
    errors = torch.tensor([[0.5, 2.0, 1.0], [4.0, 0.25, 3.0]])
    present = torch.tensor([[True, True, True], [True, False, True]])
    found = importance(errors, present, "softmax", 1e-8)
    for row in range(2):
        powers = [math.exp(1 / float(c)) if p else 0.0 for c, p in zip(errors[row], present[row], strict=True)]
        assert found[row].tolist() == pytest.approx([x / sum(powers) for x in powers], abs=1e-5)
    inverse = importance(errors, present, "inverse", 0.1)
    assert inverse[1].tolist() == pytest.approx([(1 / 4.1) / (1 / 4.1 + 1 / 3.1), 0, (1 / 3.1) / (1 / 4.1 + 1 / 3.1)])


@settings(max_examples=60)
@given(
    errors=st.lists(
        st.floats(0, 1e6, width=32, allow_subnormal=True) | st.just(0.0), min_size=2, max_size=4
    ),
    rule=st.sampled_from(["softmax", "inverse"]),
)  # fmt: skip
def test_importance_is_finite_sums_to_one_and_is_largest_for_the_least_error(errors: list[float], rule: str) -> None:
    c = torch.tensor([errors])
    found = importance(c, torch.ones_like(c, dtype=torch.bool), rule, 1e-8)
    assert torch.isfinite(found).all()
    assert found.sum().item() == pytest.approx(1, abs=1e-5)
    assert found[0, int(c.argmin())] == found.max()


def test_similarity_follows_equation_six() -> None:
    w, i = torch.tensor([[0.2, 0.5, 0.3], [1.0, 0.0, 0.0]]), torch.tensor([[0.1, 0.1, 0.8], [0.0, 1.0, 0.0]])
    expected = ((0.01 + 0.16 + 0.25) + (1 + 1 + 0)) / 2
    assert similarity(w, i, "squared").item() == pytest.approx(expected, abs=1e-6)
    cosine = 1 - (0.02 + 0.05 + 0.24) / math.sqrt(0.38 * 0.66)
    assert similarity(w, i, "cosine").item() == pytest.approx((cosine + 1) / 2, abs=1e-6)


def test_router_entropy_follows_equation_seven() -> None:
    w = torch.tensor([[0.2, 0.5, 0.3], [0.4, 0.0, 0.6]])
    present = torch.tensor([[True, True, True], [True, False, True]])
    rows = [n * sum(x * math.log(x) for x in row.tolist() if x) for n, row in zip((3, 2), w, strict=True)]
    assert negative_entropy(w, present).item() == pytest.approx(sum(rows) / 2, abs=1e-5)


def test_router_entropy_is_least_where_weights_are_equal_and_has_finite_gradients() -> None:
    scores = torch.tensor([[30.0, -200.0, 0.0]], requires_grad=True)
    present = torch.ones(1, 3, dtype=torch.bool)
    loss = negative_entropy(scores.softmax(1), present)
    loss.backward()
    assert torch.isfinite(scores.grad).all()
    assert negative_entropy(torch.full((1, 3), 1 / 3), present) < loss


def test_combination_follows_equation_ten() -> None:
    z, w = torch.randn(2, 3, 4), torch.tensor([[0.2, 0.5, 0.3], [0.0, 1.0, 0.0]])
    assert torch.allclose(
        combined(z, w, "sum"), torch.stack([sum(w[r, m] * z[r, m] for m in range(3)) for r in (0, 1)])
    )
    side = torch.cat([w[:, m, None] * z[:, m] for m in range(3)], 1)
    assert torch.allclose(combined(z, w, "concat", 2.0), 2 * side)


@pytest.mark.parametrize("on", ["value", "classes", "features"])
def test_distillation_teaches_only_the_multimodal_side_of_equation_eleven(on: str) -> None:
    width = 1 if on == "value" else 4
    multi = torch.randn(3, width, requires_grad=True)
    uni = torch.randn(3, width, requires_grad=True)
    loss = distillation(multi, uni, on)
    p, q = uni.softmax(1), multi.softmax(1)
    expected = {
        "value": (multi - uni).square().mean(),
        "classes": (p * (p / q).log()).sum(1).mean(),
        "features": (p - q).square().mean(),
    }[on]
    assert torch.allclose(loss, expected, atol=1e-6)
    loss.backward()
    assert multi.grad is not None
    assert multi.grad.any()
    assert uni.grad is None


def own_terms(emoe: EMOE, output: Output, whole: Batch, errors: str) -> dict[str, torch.Tensor]:
    """Eq. 4 to 12 with the functions above, for rows that have everything."""
    y = whole.target
    assert y is not None
    w = output.weights["modality"]

    def cost(z: torch.Tensor, power: int) -> torch.Tensor:
        return functional.cross_entropy(z, y, reduction="none") if errors == "ce" else (z[:, 0] - y).abs() ** power

    terms = {"multi": cost(output.logits, 1).mean()}
    terms["uni"] = sum(cost(z, 1).mean() for z in output.unimodal.values()) / 3
    c = torch.stack([cost(z, 2) for z in output.unimodal.values()], 1)
    everything = torch.ones_like(w, dtype=torch.bool)
    i = importance(c.detach(), everything, "softmax", 1e-8)
    terms["similarity"] = (w - i).square().sum(1).mean()
    terms["entropy"] = 3 * (w * w.log()).sum(1).mean()
    z_uni = sum(w[:, m, None] * z for m, z in enumerate(output.unimodal.values()))
    terms["ud"] = distillation(output.logits, z_uni, "classes" if errors == "ce" else "value")
    return terms


@pytest.mark.parametrize(("task", "errors"), [(SENTIMENT, "l1"), (INTENT, "ce")], ids=["regression", "classification"])
def test_the_whole_loss_follows_equations_four_to_twelve(task: Task, errors: str) -> None:
    emoe = system(task, alpha=0.3, lambda1=0.2, lambda2=0.7)
    whole = batch(task)
    output = emoe(whole)
    found, expected = emoe.loss(output, whole), own_terms(emoe, output, whole, errors)
    assert set(found) == {*expected, "total"}
    for name, value in expected.items():
        assert found[name].item() == pytest.approx(value.item(), abs=1e-5), name
    balance = expected["entropy"] + 0.3 * expected["similarity"]  # Eq. 8
    total = expected["multi"] + expected["uni"] + 0.2 * balance + 0.7 * expected["ud"]  # Eq. 12
    assert found["total"].item() == pytest.approx(total.item(), abs=1e-5)


def test_importance_and_the_combined_answers_are_targets_without_gradient() -> None:
    emoe = system(lambda1=1.0, alpha=1.0)
    whole = batch()
    output = emoe(whole)
    loss = emoe.loss(output, whole)
    for term in ("similarity", "ud"):
        reached = torch.autograd.grad(loss[term], list(output.unimodal.values()), retain_graph=True, allow_unused=True)
        assert all(gradient is None or not gradient.any() for gradient in reached), term
    weights = output.weights["modality"]
    assert torch.autograd.grad(loss["similarity"], weights, retain_graph=True)[0].any()  # the router learns from it


def test_what_a_row_lacks_has_no_part_in_any_loss() -> None:
    emoe = system()
    part = batch(lacking={0: "audio", 3: "text"})
    output = emoe(part)
    loss = emoe.loss(output, part)
    y = part.target
    assert y is not None
    audio = (output.unimodal["audio"][1:, 0] - y[1:]).abs().mean()
    text = (output.unimodal["text"][[0, 1, 2, 4], 0] - y[[0, 1, 2, 4]]).abs().mean()
    video = (output.unimodal["video"][:, 0] - y).abs().mean()
    assert loss["uni"].item() == pytest.approx(((audio + text + video) / 3).item(), abs=1e-5)
    weights, shares = output.weights["modality"], emoe.importance(output, part)
    for held in (weights, shares):
        assert held[0, 1] == held[3, 0] == 0
        assert torch.allclose(held.sum(1), torch.ones(5), atol=1e-6)


RELEASED: dict[str, Any] = {"variant": "as_released", "released_lengths": {"text": 5, "audio": 7, "video": 6}}


def test_released_router_reads_the_raw_input_flattened_at_fixed_lengths() -> None:
    emoe = system(**RELEASED, kernel=3)
    whole = batch()
    router: Any = emoe.trunk.router
    assert router.hidden.weight.shape == (5 * 13 // 8, 5 * 13)
    raw = {}
    for name, steps in RELEASED["released_lengths"].items():
        values = whole.inputs[name]
        raw[name] = functional.pad(values, (0, 0, 0, steps - values.shape[1]))
        if name in router.align:
            raw[name] = (raw[name].transpose(1, 2) @ router.align[name].weight.T + router.align[name].bias).transpose(
                1, 2
            )
    assert set(router.align) == {"audio", "video"}
    hidden = router.hidden(torch.cat(list(raw.values()), 2).flatten(1))
    hidden = torch.relu(hidden / hidden.norm(dim=1, keepdim=True))
    assert torch.allclose(emoe(whole).weights["modality"], (router.out(hidden) / 0.1).softmax(1), atol=1e-5)


def test_released_trunk_shares_an_encoder_and_takes_the_last_step_padding_or_not() -> None:
    emoe = system(**RELEASED, kernel=3)
    trunk: Any = emoe.trunk
    whole = batch()
    values = functional.pad(whole.inputs["video"], (0, 0, 0, 1))  # the longest has 5 steps, the fixed length is 6
    x = (
        functional.conv1d(values.transpose(1, 2), trunk.convolution["video"].weight).transpose(1, 2)
        @ trunk.encoder.weight.T
    )
    assert x.shape[1] == 4
    steps = trunk.transformer["video"](x, torch.ones(5, 4, dtype=torch.bool))
    logits, _ = emoe.unimodal["video"](steps[:, -1])
    assert torch.allclose(emoe(whole).unimodal["video"], logits, atol=1e-5)


def test_released_transformer_gives_steps_of_nothing_no_position() -> None:
    encoder: Any = system(**RELEASED).trunk.transformer["text"]
    x = torch.zeros(1, 3, 8)
    x[:, 0] = 1.0
    placed = encoder._placed(x, torch.ones(1, 3, dtype=torch.bool))
    assert placed[0, 0].any()
    assert not placed[0, 1:].any()


def test_released_losses_are_the_released_code_s() -> None:
    emoe = system(**RELEASED, kernel=3, fusion="concat")
    whole = batch()
    output = emoe(whole)
    w, y = output.weights["modality"], whole.target
    assert y is not None
    loss = emoe.loss(output, whole)
    c = torch.stack([(z[:, 0] - y).square() for z in output.unimodal.values()], 1)
    i = (1 / (c + 0.1)) / (1 / (c + 0.1)).sum(1, keepdim=True)
    assert torch.allclose(emoe.importance(output, whole), i, atol=1e-6)
    assert loss["similarity"].item() == pytest.approx(functional.mse_loss(w, i).item(), abs=1e-6)
    uni = torch.cat([w[:, m, None] * output.aux[f"projected_{name}"] for m, name in enumerate(WIDTHS)], 1)
    ud = functional.mse_loss(output.aux["projected"].softmax(1), uni.softmax(1))
    assert loss["ud"].item() == pytest.approx(ud.item(), abs=1e-6)
    high = output.aux["features"].unflatten(1, (3, 8)) / (3 * w.unsqueeze(2))  # the released factor of 3
    for column, name in enumerate(WIDTHS):
        own, _ = emoe.unimodal[name](high[:, column])
        assert torch.allclose(own, output.unimodal[name], atol=1e-3)
