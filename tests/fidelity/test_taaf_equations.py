"""TAAF-SNN's equations, written out as plain loops beside the code that realises them."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from affuse.parts.contribution import contribution_ratios, modality_scores, modulation_factors
from affuse.parts.spiking import Neuron
from affuse.systems.taaf import TAAF, Encoder, TAAFConfig
from affuse.systems.taaf.attention import TemporalAttention
from affuse.systems.taaf.losses import attention_guided_loss, mean_scores
from affuse.types import Batch, Output, Sample, Task

TASK = Task("classification", ("a", "b", "c"))
ENCODERS = {"audio": Encoder("mlp", features=5, layers=()), "visual": Encoder("mlp", features=4, layers=())}


def system(**changes: Any) -> TAAF:
    torch.manual_seed(0)
    encoders = changes.pop("encoders", ENCODERS)
    return TAAF(TAAFConfig(encoders=encoders, width=7, neuron=Neuron(tau=0.9), **changes), TASK).eval()


def batch(lacking: dict[int, str] | None = None, rows: int = 5) -> Batch:
    generator = torch.Generator().manual_seed(1)
    samples = []
    for row in range(rows):
        inputs = {name: 2 * torch.randn(4, e.features, generator=generator) for name, e in ENCODERS.items()}
        inputs.pop((lacking or {}).get(row, ""), None)
        samples.append(Sample(inputs, target=row % 3))
    return Batch.collate(samples, tuple(ENCODERS))


def softmax(values: np.ndarray) -> np.ndarray:
    shifted = np.exp(values - values.max())
    return shifted / shifted.sum()


def lif_by_hand(currents: np.ndarray, tau: float) -> np.ndarray:
    """Eq. 1 to 3 for (t, neurons)."""
    u, spikes = np.zeros(currents.shape[1]), []
    for current in currents:
        u = tau * u + current
        fired = (u > 1).astype(float)
        u = u * (1 - fired)
        spikes.append(fired)
    return np.stack(spikes)


def attention_by_hand(steps: np.ndarray, query: np.ndarray, key: np.ndarray) -> np.ndarray:
    """Eq. 5 to 7 for the (t, d) of one sample."""
    q, k = steps @ query.T, steps @ key.T
    t, c = q.shape
    alpha = np.zeros(t)
    for i in range(t):
        alpha += softmax(np.array([q[i] @ k[j] / math.sqrt(c) for j in range(t)])) / t
    return alpha


def agl_by_hand(steps: np.ndarray, target: np.ndarray, alpha: np.ndarray, lam: float, phi: float) -> float:
    """Eq. 8 and 9, mean over samples."""
    losses = []
    for row, label in enumerate(target):
        t = len(steps[row])
        original = -sum(alpha[row, i] * math.log(softmax(steps[row, i])[label]) for i in range(t))
        regular = sum(float(np.mean((steps[row, i] - phi) ** 2)) for i in range(t)) / t
        losses.append((1 - lam) * original + lam * regular)
    return sum(losses) / len(losses)


def test_branches_spike_by_equations_one_to_three_and_outputs_follow_equation_four() -> None:
    taaf = system(align=False)
    whole = batch()
    output = taaf(whole)
    weight, bias = (p.detach().double().numpy() for p in taaf.fusion.classifier.parameters())  # type: ignore[union-attr]
    for row in range(5):
        h = {}
        for name in ENCODERS:
            layer: Any = taaf.branches[name].network.layers[0]  # type: ignore[union-attr,index]
            w = layer.weights.weight.detach().double().numpy()
            scale = 1 / math.sqrt(1 + layer.norm.eps)  # untrained: mean 0, variance 1
            h[name] = lif_by_hand(whole.inputs[name][row].double().numpy() @ w.T * scale, 0.9)
        both = np.concatenate([h["audio"], h["visual"]], 1) @ weight.T + bias
        assert np.allclose(output.aux["steps"][row].detach(), both, atol=1e-5)
        for column, name in enumerate(ENCODERS):
            own = h[name] @ weight[:, 7 * column : 7 * column + 7].T + bias / 2
            assert np.allclose(output.aux[f"steps/{name}"][row].detach(), own, atol=1e-5)
            assert np.allclose(output.aux[f"features/{name}"][row].detach(), h[name].mean(0), atol=1e-6)


def test_unimodal_outputs_of_concatenation_sum_to_the_fused_output() -> None:
    aux = system()(batch()).aux
    assert torch.allclose(aux["steps/audio"] + aux["steps/visual"], aux["steps"], atol=1e-5)


@given(st.integers(1, 6), st.integers(1, 5), st.integers(0, 2**16))
@settings(max_examples=20)
def test_attention_follows_equations_five_to_seven_and_sums_to_one(t: int, inner: int, seed: int) -> None:
    torch.manual_seed(seed)
    attention = TemporalAttention(4, inner)
    steps = 5 * torch.randn(3, t, 4)
    alpha = attention(steps).detach()
    query, key = attention.query.weight.detach().numpy(), attention.key.weight.detach().numpy()
    expected = np.stack([attention_by_hand(row, query, key) for row in steps.numpy()])
    assert np.allclose(alpha, expected, atol=1e-5)
    assert torch.allclose(alpha.sum(1), torch.ones(3), atol=1e-5)


@pytest.mark.parametrize("attend_on", ["outputs", "features"])
def test_each_output_is_weighed_by_its_own_attention(attend_on: str) -> None:
    taaf = system(attend_on=attend_on)
    output = taaf(batch())
    assert taaf.attention is not None
    if attend_on == "outputs":
        found = {f"time/{name}": taaf.attention[name](output.aux[f"steps/{name}"]) for name in ENCODERS}
        assert torch.allclose(taaf.fused_attention(output.aux["steps"]), output.weights["time"], atol=1e-6)  # type: ignore[misc]
    else:
        h, _ = taaf.branches["audio"](batch().inputs["audio"])
        found = {"time/audio": taaf.attention["audio"](h.transpose(0, 1))}
    for name, alpha in found.items():
        assert torch.allclose(alpha, output.aux[name], atol=1e-6)


def test_the_answer_is_the_steps_weighed_as_the_read_out_says() -> None:
    for read_out in ("attention", "mean"):
        output = system(read_out=read_out)(batch())
        steps = output.aux["steps"]
        share = output.weights["time"] if read_out == "attention" else torch.full((5, 4), 0.25)
        assert torch.allclose(output.logits, (steps * share[:, :, None]).sum(1), atol=1e-6)


def test_without_attention_every_step_weighs_alike() -> None:
    assert torch.equal(system(attention=False)(batch()).weights["time"], torch.full((5, 4), 0.25))


@given(st.integers(1, 5), st.floats(0, 1), st.floats(-2, 2), st.integers(0, 2**16))
@settings(max_examples=20)
def test_attention_guided_loss_follows_equations_eight_and_nine(t: int, lam: float, phi: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    steps = 2 * torch.randn(4, t, 3, generator=generator)
    alpha = torch.rand(4, t, generator=generator).softmax(1)
    target = torch.tensor([0, 2, 1, 2])
    found = attention_guided_loss(steps, target, alpha, lam, phi)
    expected = agl_by_hand(steps.double().numpy(), target.numpy(), alpha.double().numpy(), lam, phi)
    assert found.item() == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_ratios_are_those_of_section_3_2_and_the_dominant_modality_is_held_back() -> None:
    audio, visual = 3 * torch.randn(6, 3), torch.randn(6, 3)
    y = torch.tensor([0, 1, 2, 0, 1, 2])
    s = {"a": 0.0, "v": 0.0}
    for name, logits in (("a", audio), ("v", visual)):
        for row in range(6):
            s[name] += softmax(logits[row].double().numpy())[y[row]]
    scores = torch.stack([modality_scores(audio, y), modality_scores(visual, y)], 1)
    ratios = contribution_ratios(mean_scores(scores, torch.ones(6, 2, dtype=torch.bool)))
    assert ratios.tolist() == pytest.approx([s["a"] / s["v"], s["v"] / s["a"]], rel=1e-5)
    factors = modulation_factors(ratios, torch.tensor([0.8, 0.8]))
    for rho, k in zip(ratios.tolist(), factors.tolist(), strict=True):
        assert k == pytest.approx(1 - math.tanh(0.8 * rho) if rho > 1 else 1.0, rel=1e-5)
    assert (factors < 1).sum() == 1


def test_of_several_modalities_each_is_held_against_the_mean_of_the_others() -> None:
    ratios = contribution_ratios(torch.tensor([0.6, 0.3, 0.1]))
    assert ratios.tolist() == pytest.approx([0.6 / 0.2, 0.3 / 0.35, 0.1 / 0.45])
    assert contribution_ratios(torch.tensor([0.6, torch.nan, 0.3])).tolist() == pytest.approx([2.0, 1.0, 0.5])
    assert contribution_ratios(torch.tensor([0.6, torch.nan])).tolist() == [1.0, 1.0]
    assert contribution_ratios(torch.tensor([0.4])).tolist() == [1.0]


@given(st.lists(st.floats(1e-3, 1), min_size=1, max_size=5), st.floats(0, 5))
@example([0.773521596997516] * 3, 1.0)  # rounding put each ahead of the others
@settings(max_examples=50)
def test_factors_are_from_zero_to_one_and_somebody_is_never_held_back(scores: list[float], suppression: float) -> None:
    ratios = contribution_ratios(torch.tensor(scores))
    factors = modulation_factors(ratios, torch.full_like(ratios, suppression))
    assert ((factors >= 0) & (factors <= 1)).all()
    assert (factors == 1).any()


def by_hand(taaf: TAAF, output: Output, whole: Batch) -> dict[str, float]:
    """Eq. 10 with every term from loops, for rows that have everything."""
    assert whole.target is not None
    config, y = taaf.config, whole.target.numpy()
    steps = {name: output.aux[f"steps/{name}"].detach().double().numpy() for name in ENCODERS}
    alpha = {name: output.aux[f"time/{name}"].detach().double().numpy() for name in ENCODERS}
    terms = {name: agl_by_hand(steps[name], y, alpha[name], config.lambda_mse, config.phi) for name in ENCODERS}
    f_steps, f_alpha = output.aux["steps"].detach().double().numpy(), output.weights["time"].detach().double().numpy()
    terms["fused"] = agl_by_hand(f_steps, y, f_alpha, config.lambda_mse, config.phi)
    total = {
        n: sum(softmax((steps[n][r] * alpha[n][r][:, None]).sum(0))[y[r]] for r in range(len(y))) for n in ENCODERS
    }
    rho = {"audio": total["audio"] / total["visual"], "visual": total["visual"] / total["audio"]}
    for name in ENCODERS:
        held = config.suppressions.get(name, config.suppression)
        terms[f"k/{name}"] = 1 - math.tanh(held * rho[name]) if rho[name] > 1 else 1.0
    terms["total"] = config.beta * sum(terms[f"k/{n}"] * terms[n] for n in ENCODERS) + terms["fused"]
    return terms


@pytest.mark.parametrize(
    "changes", [{}, {"beta": 0.3, "lambda_mse": 0.2, "phi": 0.5}, {"suppression": 0.1, "suppressions": {"audio": 2.0}}]
)
def test_the_whole_loss_follows_equation_ten(changes: dict[str, Any]) -> None:
    taaf = system(**changes)
    whole = batch()
    output = taaf(whole)
    found, expected = taaf.loss(output, whole), by_hand(taaf, output, whole)
    assert {name: value.item() for name, value in found.items()} == pytest.approx(expected, rel=1e-4)
    assert min(found[f"k/{name}"].item() for name in ENCODERS) < 1


def test_factors_get_no_gradient() -> None:
    taaf = system()
    whole = batch()
    loss = taaf.loss(taaf(whole), whole)
    assert not loss["k/audio"].requires_grad
    assert loss["audio"].requires_grad


def test_what_a_row_lacks_has_no_part_in_loss_or_ratio() -> None:
    taaf = system()
    part = batch(lacking={0: "visual", 3: "audio"})
    output = taaf(part)
    loss = taaf.loss(output, part)
    for name, rows in {"audio": [0, 1, 2, 4], "visual": [1, 2, 3, 4]}.items():
        held = Batch.collate([Sample({name: part.inputs[name][r]}, target=r % 3) for r in rows], tuple(ENCODERS))
        assert loss[name].item() == pytest.approx(taaf.loss(taaf(held), held)[name].item(), rel=1e-4)
    y = part.target
    assert y is not None
    mean = {
        "audio": modality_scores(output.unimodal["audio"][[0, 1, 2, 4]], y[[0, 1, 2, 4]]).mean(),
        "visual": modality_scores(output.unimodal["visual"][1:], y[1:]).mean(),
    }
    expected = [mean["audio"] / mean["visual"], mean["visual"] / mean["audio"]]
    assert taaf.ratios(output, part).tolist() == pytest.approx([value.item() for value in expected], rel=1e-5)


def test_modulation_ends_at_its_epoch() -> None:
    whole = batch()
    for after in ("unmodulated", "fused_only"):
        taaf = system(modulation_end=2, after_modulation=after)
        output = taaf(whole)
        taaf.begin_epoch(1)
        before = taaf.loss(output, whole)
        assert min(before["k/audio"].item(), before["k/visual"].item()) < 1
        taaf.begin_epoch(2)
        loss = taaf.loss(output, whole)
        assert loss["k/audio"] == loss["k/visual"] == 1
        alone = loss["audio"] + loss["visual"] if after == "unmodulated" else 0 * loss["audio"]
        assert loss["total"].item() == pytest.approx((loss["fused"] + alone).item(), rel=1e-5)


def test_modulation_by_epoch_follows_the_last_validation_as_algorithm_one() -> None:
    taaf = system(modulation="epoch")
    whole = batch()
    output = taaf(whole)
    assert taaf.factors(output, whole).tolist() == [1.0, 1.0]  # nothing was validated yet
    records = [
        {"target": 0, "unimodal": {"audio": [0.9, 0.1, 0.0], "visual": [0.2, 0.5, 0.3]}},
        {"target": 2, "unimodal": {"audio": [0.1, 0.4, 0.5], "visual": None}},
        {"target": None, "unimodal": {"audio": [1.0, 0.0, 0.0], "visual": [1.0, 0.0, 0.0]}},
    ]
    taaf.end_epoch(records)
    rho = 0.7 / 0.2
    assert taaf.factors(output, whole).tolist() == pytest.approx([1 - math.tanh(0.8 * rho), 1.0], rel=1e-4)
    resumed = system(modulation="epoch")
    resumed.load_state_dict(taaf.state_dict())
    assert torch.equal(resumed.factors(output, whole), taaf.factors(output, whole))


def test_without_modulation_the_losses_are_added_as_they_are() -> None:
    taaf = system(modulation="none", beta=0.5)
    whole = batch()
    loss = taaf.loss(taaf(whole), whole)
    expected = loss["fused"] + 0.5 * (loss["audio"] + loss["visual"])
    assert loss["total"].item() == pytest.approx(expected.item(), rel=1e-5)
