"""Each method by its equations, on a batch whose numbers are known."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from affuse import AffuseError, Batch, Output, System, Task
from affuse.balance import AGMSettings, OGMGESettings, PMRSettings, balancing
from affuse.balance.agm import AGM, ahead, mono_modal_responses
from affuse.balance.base import Balance
from affuse.balance.ogm_ge import OGMGE
from affuse.balance.pmr import PMR, entropy, similarities
from affuse.evaluation_mode import evaluating
from affuse.parts.contribution import modulation_factors, ratios, scored_rows


def gradients(system: System, batch: Batch, method: Balance | None) -> dict[str, torch.Tensor]:
    """Of one step, with the hooks that the trainer would set."""
    system.zero_grad()
    output = system(batch)
    terms = system.loss(output, batch)
    handles = []
    if method is not None:
        extra = method.loss(system, output, batch)
        terms["total"] = sum(extra.values(), terms["total"])
        for name, own in method.hooked(system).items():
            handles += [p.register_hook(method._hook(name)) for p in own]
    terms["total"].backward()
    for handle in handles:
        handle.remove()
    return {name: p.grad.clone() for name, p in system.named_parameters()}


@given(st.dictionaries(st.text(min_size=1, max_size=2), st.floats(1e-3, 1.0), min_size=2, max_size=4))
def test_a_ratio_is_above_one_exactly_for_a_score_above_the_mean_of_the_others(scores: dict[str, float]) -> None:
    for name, ratio in ratios(scores).items():
        others = [score for other, score in scores.items() if other != name]
        assert ratio == pytest.approx(scores[name] / (sum(others) / len(others)))


def test_two_ratios_are_each_others_inverse() -> None:
    found = ratios({"audio": 0.6, "visual": 0.2})
    assert found == pytest.approx({"audio": 3.0, "visual": 1 / 3})


def test_rows_that_lack_a_modality_do_not_count_in_its_score() -> None:
    logits = torch.tensor([[2.0, 0.0], [torch.nan, torch.nan], [0.0, 1.0]])
    rows = torch.tensor([True, True, False])
    found = scored_rows(logits, torch.tensor([0, 0, 1]), rows)
    assert torch.allclose(found, torch.tensor([2.0]).sigmoid())


@given(st.floats(0.0, 1.0), st.floats(1.001, 20.0), st.floats(0.01, 1.0))
def test_ogm_slows_whoever_is_ahead_by_the_tanh_of_the_ratio_and_nobody_else(
    behind: float, ahead: float, alpha: float
) -> None:
    found = torch.tensor([behind, ahead], dtype=torch.float64)
    factors = modulation_factors(found, torch.full_like(found, alpha)).tolist()
    assert factors == pytest.approx([1, 1 - math.tanh(alpha * ahead)])
    assert 0 <= factors[1] < 1


def test_ogm_scales_the_gradient_of_the_modality_ahead_and_of_no_other(pair: System, batch: Batch) -> None:
    method = OGMGE(OGMGESettings(alpha=0.3, noise=False))
    with torch.no_grad():  # this branch knows the answer
        pair.heads["loud"].weight.copy_(5 * torch.eye(3, 5))
        pair.branches["loud"].weight.copy_(torch.eye(5, 4))
    plain, scaled = gradients(pair, batch, None), gradients(pair, batch, method)
    assert method.figures["ratio/loud"] > 1
    k = 1 - math.tanh(0.3 * method.figures["ratio/loud"])
    for name, gradient in plain.items():
        factor = k if name.startswith("branches.loud") else 1.0
        assert torch.allclose(scaled[name], factor * gradient, atol=1e-7), name


def test_ge_adds_noise_with_the_spread_of_each_gradient(pair: System, batch: Batch) -> None:
    torch.manual_seed(3)
    method = OGMGE(OGMGESettings(alpha=0.0))
    method.coefficients = {"loud": 1.0}
    gradient = torch.cat([torch.zeros(50_000), torch.full((50_000,), 2.0)])
    noise = method.modulated(gradient, "loud") - gradient
    assert float(noise.std()) == pytest.approx(float(gradient.std()), rel=0.02)
    assert float(noise.mean()) == pytest.approx(0, abs=0.02)


def test_ogm_for_convolutions_only_needs_some(pair: System, batch: Batch) -> None:
    with pytest.raises(AffuseError, match="no 2-D convolutions of its own for loud, faint"):
        OGMGE(OGMGESettings(parameters="convolutions")).check(pair, batch)


def test_outside_its_epochs_a_method_changes_nothing(pair: System, batch: Batch) -> None:
    plain = gradients(pair, batch, None)
    for settings in (OGMGESettings(starts=2, ends=3), AGMSettings(starts=2), PMRSettings(starts=2)):
        for epoch in (0, 1):
            method = balancing(settings)
            method.epoch = epoch
            after = gradients(pair, batch, method)
            assert all(torch.equal(plain[name], after[name]) for name in plain)
    method = OGMGE(OGMGESettings(starts=2, ends=3))
    active = []
    for method.epoch in range(6):
        active.append(method.active)
    assert active == [False, False, True, True, False, False]


def test_mono_modal_responses_sum_to_the_answer_and_are_each_branchs_own(pair: System, batch: Batch) -> None:
    responses = mono_modal_responses(pair, batch)
    with torch.no_grad():
        output = pair(batch)
    assert torch.allclose(sum(responses.values()), output.logits, atol=1e-6)
    for name, response in responses.items():  # the system is a sum, so Shapley values are its terms
        assert torch.allclose(response, output.unimodal[name].nan_to_num(0.0), atol=1e-6)


class Product(System):
    """Logits that are no sum of parts."""

    Config = dict
    modalities = ("a", "b", "c")

    def __init__(self) -> None:
        super().__init__()
        self.task = Task("classification", ("yes", "no"))
        self.weight = nn.Parameter(torch.tensor(1.0))
        self.drop = nn.Dropout(0.9)

    def forward(self, batch: Batch) -> Output:
        values = [torch.where(batch.has(n)[:, None], batch.inputs[n][:, 0], 0.5) for n in self.modalities]
        logits = self.drop(self.weight * values[0] * values[1] + values[2])
        answered = batch.present.any(1)
        return Output(torch.where(answered[:, None], logits, torch.nan), answered)

    def loss(self, output: Output, batch: Batch) -> dict[str, torch.Tensor]:
        return {"total": output.logits.sum()}


def test_shapley_responses_of_three_modalities_that_interact_sum_to_the_answer() -> None:
    system = Product()
    torch.manual_seed(0)
    inputs = {name: torch.randn(4, 1, 2) for name in system.modalities}
    present = torch.tensor([[1, 1, 1], [1, 1, 0], [0, 1, 0], [0, 0, 0]], dtype=torch.bool)
    inputs = {n: torch.where(present[:, c, None, None], x, torch.nan) for c, (n, x) in enumerate(inputs.items())}
    batch = Batch(inputs, present, target=torch.tensor([0, 1, 0, 1]))
    state = torch.random.get_rng_state()
    responses = mono_modal_responses(system, batch)
    assert system.drop.training
    assert torch.equal(state, torch.random.get_rng_state())
    with torch.no_grad(), evaluating(system):
        expected = system(batch).logits.nan_to_num(0.0)
    assert torch.allclose(sum(responses.values()), expected, atol=1e-6)
    for column, name in enumerate(system.modalities):
        assert (responses[name][~present[:, column]] == 0).all()


def test_agm_follows_its_equations_over_two_batches(pair: System, batch: Batch) -> None:
    method = AGM(AGMSettings(alpha=0.7))
    plain, first = gradients(pair, batch, None), gradients(pair, batch, method)
    responses = mono_modal_responses(pair, batch)
    s = {}
    for name in pair.modalities:
        own = batch.has(name)
        s[name] = float(functional.cross_entropy(responses[name][own], batch.target[own]))
    r = math.exp(s["faint"] - s["loud"])
    assert method.coefficients["loud"] == pytest.approx(math.exp(-0.7 * (r - 1)))  # tau before any batch is 1
    for name, gradient in plain.items():
        factor = method.coefficients[name.split(".")[1]] if name.startswith("branches") else 1.0
        assert torch.allclose(first[name], factor * gradient, rtol=1e-4, atol=1e-7), name
    gradients(pair, batch, method)
    assert method.coefficients["loud"] == pytest.approx(1.0)  # as far ahead as it has been
    assert method.means == pytest.approx(s)
    assert method.batches == {"loud": 2, "faint": 2}


def test_agm_slows_whoever_is_further_ahead_than_it_was() -> None:
    assert ahead({"a": 1.0, "b": 2.0, "c": 4.0}) == pytest.approx(
        {"a": math.exp(2.0), "b": math.exp(0.5), "c": math.exp(-2.5)}
    )


def test_similarity_is_minus_the_distance_and_its_gradient_is_finite_at_a_prototype() -> None:
    features = torch.tensor([[3.0, 4.0], [0.0, 0.0]], requires_grad=True)
    prototypes = torch.tensor([[0.0, 0.0], [3.0, 0.0], [9.0, 9.0]])
    found = similarities(features, prototypes, torch.tensor([True, True, False]))
    assert torch.allclose(found[:, :2], torch.tensor([[-5.0, -4.0], [0.0, -3.0]]))
    assert (found[:, 2] == -torch.inf).all()
    (functional.cross_entropy(found, torch.tensor([0, 1])) - entropy(found)).backward()
    assert features.grad is not None
    assert features.grad.isfinite().all()


def test_entropy_is_that_of_the_known_classes() -> None:
    assert float(entropy(torch.tensor([[0.0, 0.0, -torch.inf]]))) == pytest.approx(math.log(2))


def test_prototypes_are_class_means_over_the_rows_that_have_the_modality(pair: System, batch: Batch) -> None:
    with torch.no_grad():
        features = pair(batch).aux["features/faint"]
    means, known = PMR.estimate(pair, [batch, batch])["faint"]
    assert known.all()
    for label in range(3):
        rows = batch.has("faint") & (batch.target == label)
        assert torch.allclose(means[label], features[rows].mean(0), atol=1e-6)


def test_pmr_draws_whoever_is_behind_and_holds_back_whoever_is_ahead(pair: System, batch: Batch) -> None:
    with torch.no_grad():
        pair.branches["loud"].weight.copy_(torch.eye(5, 4))
        pair.branches["faint"].weight.mul_(0.01)
    method = PMR(PMRSettings(alpha=2.0, mu=0.5))
    found = PMR.estimate(pair, [batch])
    method.prototypes = {name: means for name, (means, _) in found.items()}
    method.known = {name: known for name, (_, known) in found.items()}
    output = pair(batch)
    terms = method.loss(pair, output, batch)
    ratio = method.figures["ratio/loud"]
    assert ratio > 1
    assert set(terms) == {"prototype/faint", "prototype_entropy/loud"}
    has, own = batch.has("faint"), {}
    for name in pair.modalities:
        rows = batch.has(name)
        own[name] = -torch.cdist(output.aux[f"features/{name}"][rows], method.prototypes[name])
    cost = functional.cross_entropy(own["faint"], batch.target[has])
    assert torch.allclose(terms["prototype/faint"], 2.0 * min(ratio - 1, 1) * cost, rtol=1e-4)
    p = own["loud"].softmax(1)
    spread = -(p * p.log()).sum(1).mean()
    assert torch.allclose(terms["prototype_entropy/loud"], -0.5 * min(ratio - 1, 1) * spread, rtol=1e-4)
    method.epoch = method.settings.entropy_epochs
    assert set(method.loss(pair, output, batch)) == {"prototype/faint"}


@pytest.mark.parametrize(
    ("settings", "missing"),
    [
        (OGMGESettings(), "Output.unimodal"),
        (PMRSettings(), "aux features/NAME"),
        (AGMSettings(), "modality_parts"),
    ],
)
def test_a_system_that_lacks_what_a_method_needs_is_refused_by_name(settings: Any, missing: str) -> None:
    batch = Batch(
        {n: torch.ones(2, 1, 2) for n in "abc"}, torch.ones(2, 3, dtype=torch.bool), target=torch.zeros(2).long()
    )
    with pytest.raises(AffuseError, match=f"cannot train Product.*{missing}") as error:
        balancing(settings).check(Product(), batch)
    assert len(str(error.value).splitlines()) == 1


def test_a_single_modality_and_a_regression_are_refused(pair: System, batch: Batch) -> None:
    pair.modalities = ("loud",)
    with pytest.raises(AffuseError, match="one modality"):
        AGM(AGMSettings()).check(pair, batch)
    pair.modalities, pair.task = ("loud", "faint"), Task("regression")
    with pytest.raises(AffuseError, match="regression"):
        AGM(AGMSettings()).check(pair, batch)
