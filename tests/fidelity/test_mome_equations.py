"""The terms of MoME + HTL by hand: the paper's equations are not known, so these hold our readings (ledger/mome.md)."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from affuse.systems.mome import MoME, MoMEConfig
from affuse.systems.mome.gating import (
    confidence,
    entropy_of,
    gate_weights,
    hidden_at_random,
    imbalance_of,
    pooled_frames,
)
from affuse.systems.mome.guidance import (
    ClassTokenRefinement,
    divergence,
    mutual_guidance,
    reliability,
    self_guidance,
)
from affuse.types import Batch, Sample, Task

TASK = Task("classification", ("a", "b", "c"))
SMALL: dict[str, Any] = {"width": 8, "heads": 2, "frames": 2, "grid": 2, "dropout": 0.0, "gate_dropout": 0.0}


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def clips() -> Batch:
    channels = {"rgb": 3, "infrared": 1, "depth": 1}
    samples = [
        Sample({n: drawn(2, c, 16, 16, seed=9 * row + c) for n, c in channels.items()}, target=row % 3)
        for row in range(4)
    ]
    return Batch.collate(samples, tuple(channels))


def trained(**changes: Any) -> tuple[MoME, dict[str, Tensor]]:
    torch.manual_seed(0)
    model, batch = MoME(MoMEConfig(**{**SMALL, **changes}), TASK), clips()
    return model, model.loss(model(batch), batch)


@settings(max_examples=40)
@given(st.integers(0, 10_000), st.integers(1, 4), st.floats(0.1, 5.0))
def test_weights_are_a_softmax_over_the_largest_that_are_there(seed: int, top_k: int, temperature: float) -> None:
    scores = drawn(6, 4, seed=seed)
    present = drawn(6, 4, seed=seed + 1) > -0.5
    present[:, seed % 4] = True
    found = gate_weights(scores, present, top_k, temperature)
    assert torch.allclose(found.sum(1), torch.ones(6))
    for row in range(6):
        there = present[row].nonzero()[:, 0]
        kept = there[scores[row, there].argsort(descending=True)[:top_k]]
        expected = torch.zeros(4)
        expected[kept] = (scores[row, kept] / temperature).softmax(0)
        assert torch.allclose(found[row], expected, atol=1e-6)


@settings(max_examples=40)
@given(st.integers(0, 10_000), st.floats(0.0, 0.99))
def test_hiding_at_random_invents_no_camera_and_leaves_one(seed: int, probability: float) -> None:
    torch.manual_seed(seed)
    present = torch.rand(20, 3) > 0.4
    kept = hidden_at_random(present, probability)
    assert not (kept & ~present).any()
    assert torch.equal(kept.any(1), present.any(1))


def test_confidence_is_largest_probability_margin_and_entropy() -> None:
    p = torch.tensor([[0.7, 0.2, 0.1], [1 / 3, 1 / 3, 1 / 3]])
    entropy = -(0.7 * torch.tensor(0.7).log() + 0.2 * torch.tensor(0.2).log() + 0.1 * torch.tensor(0.1).log())
    expected = torch.tensor([[0.7, 0.5, float(entropy) / float(torch.tensor(3.0).log())], [1 / 3, 0.0, 1.0]])
    assert torch.allclose(confidence(p.log()), expected, atol=1e-5)


def test_the_input_gate_reads_mean_and_deviation_of_cells_over_valid_frames() -> None:
    frames = drawn(1, 3, 2, 4, 4)
    valid = torch.tensor([[True, True, False]])
    found = pooled_frames(frames, valid, 2)
    cells = frames[0, :2].unflatten(2, (2, 2)).unflatten(4, (2, 2)).mean((3, 5)).flatten(1)  # 2 frames, (c y x)
    expected = torch.cat([cells.mean(0), (cells.var(0, unbiased=False) + 1e-6).sqrt()])
    assert torch.allclose(found[0], expected, atol=1e-5)


def test_entropy_is_one_of_even_weights_and_none_of_a_single_one() -> None:
    present = torch.tensor([[True, True, True], [True, True, False], [True, False, False]])
    even = present / present.sum(1, keepdim=True)
    assert entropy_of(even, present).item() == pytest.approx(1.0)
    sharp = torch.tensor([[1.0, 0.0, 0.0]] * 3).requires_grad_()
    value = entropy_of(sharp, present)
    value.backward()
    assert value.item() == pytest.approx(0.0, abs=1e-6)
    assert sharp.grad is not None and torch.isfinite(sharp.grad).all()


def test_the_load_is_balanced_over_a_batch_not_within_a_sample() -> None:
    present = torch.ones(2, 2, dtype=torch.bool)
    assert imbalance_of(torch.eye(2), present).item() == pytest.approx(0.0)
    assert imbalance_of(torch.tensor([[1.0, 0.0], [1.0, 0.0]]), present).item() == pytest.approx(2 * (0.25 + 0.25))


def test_the_class_token_is_refined_by_what_its_valid_tokens_answer() -> None:
    torch.manual_seed(0)
    refine = ClassTokenRefinement(8, 2)
    first, tokens = drawn(3, 8), drawn(3, 5, 8, seed=1)
    valid = torch.ones(3, 5, dtype=torch.bool)
    valid[0, 3:] = False
    refined, attention = refine(first, tokens, valid)
    assert torch.allclose(attention.sum(1), torch.ones(3))
    assert not attention[0, 3:].any()
    again, _ = refine(first, tokens.masked_fill(~valid[:, :, None], 7.0), valid)
    assert torch.equal(refined, again)
    one_head = ClassTokenRefinement(8, 1)
    refined, attention = one_head(first, tokens, valid)
    answer = torch.einsum("rn,rnd->rd", attention, one_head.value(one_head.token_norm(tokens)))
    assert torch.allclose(refined, first + one_head.out(answer), atol=1e-5)


def test_divergence_is_the_softened_kl_and_of_values_the_squared_difference() -> None:
    teacher, student = drawn(4, 3), drawn(4, 3, seed=1).requires_grad_()
    p, q = (teacher / 2).softmax(1), (student / 2).softmax(1)
    assert torch.allclose(divergence(teacher, student, 2.0), 4 * (p * (p / q).log()).sum(1), atol=1e-5)
    assert torch.allclose(divergence(teacher[:, :1], student[:, :1], 2.0), (teacher[:, 0] - student[:, 0]).square())


def test_self_guidance_moves_the_tokens_that_are_attended_to_and_not_the_class_token() -> None:
    first, tokens = drawn(2, 3).requires_grad_(), drawn(2, 4, 3, seed=1).requires_grad_()
    attention = torch.tensor([[0.7, 0.3, 0.0, 0.0], [0.25, 0.25, 0.25, 0.25]])
    value = self_guidance(first, tokens, attention, "attention", 2.0)
    one, two = first.detach(), tokens.detach()
    by_hand = [sum(attention[r, n] * divergence(one[r], two[r, n], 2.0) for n in range(4)) for r in range(2)]
    assert value.item() == pytest.approx(float(sum(by_hand)) / 2, rel=1e-5)
    value.backward()
    assert first.grad is None
    assert tokens.grad is not None and tokens.grad[0, :2].all() and not tokens.grad[0, 2:].any()
    alike = self_guidance(first, tokens, attention, "all", 2.0)
    rows = [divergence(one[r], two[r, n], 2.0) for r, n in ((0, 0), (0, 1))]
    others = [divergence(one[1], two[1, n], 2.0) for n in range(4)]
    assert alike.item() == pytest.approx(float(sum(rows)) / 4 + float(sum(others)) / 8, rel=1e-5)
    agreed = self_guidance(first, first[:, None].expand(2, 4, 3), attention, "attention", 2.0)
    assert agreed.item() == pytest.approx(0.0, abs=1e-6)


def test_reliability_is_the_probability_of_the_truth_or_the_largest_one() -> None:
    p, target = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3]]), torch.tensor([1, 1])
    assert torch.allclose(reliability(p.log(), target, "correctness"), torch.tensor([0.2, 0.6]))
    assert torch.allclose(reliability(p.log(), target, "confidence"), torch.tensor([0.7, 0.6]))
    assert reliability(p.log(), target, "equal").tolist() == [1.0, 1.0]
    values = reliability(torch.tensor([[1.0], [3.0]]), torch.tensor([1.0, 1.0]), "correctness")
    assert torch.allclose(values, torch.tensor([1.0, float(torch.tensor(-2.0).exp())]))


@pytest.mark.parametrize("cosine", [False, True])
def test_mutual_guidance_is_the_mean_over_ordered_pairs_weighed_by_the_teacher(cosine: bool) -> None:
    logits, tokens = drawn(2, 3, 4), drawn(2, 3, 5, seed=1)
    trust = torch.tensor([[0.9, 0.5, 0.1], [0.3, 0.8, 0.6]])
    present = torch.tensor([[True, True, True], [True, False, True]])
    parts = []
    for row, teacher, student in [(0, a, b) for a in range(3) for b in range(3) if a != b] + [(1, 0, 2), (1, 2, 0)]:
        if cosine:
            apart = 1 - torch.nn.functional.cosine_similarity(tokens[row, teacher], tokens[row, student], 0)
        else:
            apart = divergence(logits[row, teacher], logits[row, student], 2.0)
        parts.append(trust[row, teacher] * apart)
    found = mutual_guidance(logits, tokens if cosine else None, trust, present, 2.0)
    assert found.item() == pytest.approx(float(torch.stack(parts).mean()), rel=1e-5)


def test_a_teacher_gets_no_gradient_and_an_unreliable_one_teaches_nothing() -> None:
    logits = drawn(1, 2, 3).requires_grad_()
    present = torch.ones(1, 2, dtype=torch.bool)
    mutual_guidance(logits, None, torch.tensor([[1.0, 0.0]]), present, 1.0).backward()
    assert logits.grad is not None
    assert not logits.grad[0, 0].any()
    assert logits.grad[0, 1].all()
    alone = mutual_guidance(logits, None, torch.ones(1, 2), torch.tensor([[True, False]]), 1.0)
    assert alone.item() == 0.0


def test_the_total_is_the_weighed_sum_of_its_terms() -> None:
    weights = {"own_weight": 0.7, "self_weight": 0.3, "mutual_weight": 0.2, "gate_entropy": -0.1, "gate_balance": 0.4}
    _, terms = trained(**weights)
    names = ("own", "self", "mutual", "entropy", "balance")
    expected = terms["fused"] + sum(w * terms[name] for w, name in zip(weights.values(), names, strict=True))
    assert set(terms) == {"fused", "total", *names}
    assert terms["total"].item() == pytest.approx(float(expected.detach()), rel=1e-5)


@pytest.mark.parametrize(
    ("changes", "term"),
    [
        ({"self_guidance": False}, "self"),
        ({"mutual_guidance": False}, "mutual"),
        ({"gating": "late"}, "balance"),
        ({"gating": "late"}, "entropy"),
        ({"modalities": ("rgb",)}, "mutual"),
    ],
)
def test_what_is_switched_off_has_no_term(changes: dict[str, Any], term: str) -> None:
    assert term in trained()[1]
    assert term not in trained(**changes)[1]


@pytest.mark.parametrize(
    ("changes", "term"),
    [
        ({"self_temperature": 1.0}, "self"),
        ({"self_over": "all"}, "self"),
        ({"mutual_temperature": 1.0}, "mutual"),
        ({"mutual_align": "cosine"}, "mutual"),
        ({"reliability": "confidence"}, "mutual"),
        ({"reliability": "equal"}, "mutual"),
    ],
)
def test_a_setting_of_guidance_changes_its_own_term_alone(changes: dict[str, Any], term: str) -> None:
    plain, other = trained()[1], trained(**changes)[1]
    changed = {name for name in plain if not torch.allclose(plain[name], other[name], rtol=1e-5)}
    assert changed - {"total"} == {term}
