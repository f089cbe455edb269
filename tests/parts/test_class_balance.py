"""Losses for rare classes: their formulas, and that they stay finite."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from affuse.parts.class_balance import ClassBalance, balanced_loss, class_weights
from affuse.types import AffuseError

DFEW = torch.tensor([1956, 1515, 2135, 1738, 1175, 116, 721])  # training clips of its first fold
COUNTS = st.lists(st.integers(0, 10_000), min_size=2, max_size=8).map(torch.tensor)
FORMS = st.builds(
    ClassBalance,
    loss=st.sampled_from(["cross_entropy", "focal"]),
    gamma=st.floats(0, 5),
    weights=st.sampled_from(["none", "inverse", "effective"]),
    smoothing=st.floats(0, 100),
    beta=st.floats(0, 0.99999),
    label_smoothing=st.floats(0, 0.5),
    logit_adjustment=st.floats(0, 2),
)


@settings(max_examples=60)
@given(COUNTS, FORMS)
def test_weights_stay_within_the_clip_and_never_favour_the_more_common_class(
    counts: torch.Tensor, form: ClassBalance
) -> None:
    weights = class_weights(counts, form)
    assert (weights >= form.clip[0] - 1e-6).all() and (weights <= form.clip[1] + 1e-6).all()
    in_order = weights[counts.argsort()]  # from the rarest class
    assert (in_order.diff() <= 1e-5).all()


@settings(max_examples=60)
@given(COUNTS, FORMS, st.floats(0, 1e4), st.integers(0, 2**31))
def test_loss_and_gradient_are_finite_however_sure_the_logits(
    counts: torch.Tensor, form: ClassBalance, scale: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = (scale * torch.randn(5, len(counts), generator=generator)).requires_grad_()
    loss = balanced_loss(logits, torch.randint(len(counts), (5,), generator=generator), counts, form)
    loss.backward()
    assert logits.grad is not None
    assert loss.isfinite() and loss >= 0 and logits.grad.isfinite().all()


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_a_focal_loss_of_gamma_zero_without_weights_is_cross_entropy(label_smoothing: float) -> None:
    logits, target = torch.randn(6, 7), torch.randint(7, (6,))
    expected = functional.cross_entropy(logits, target, label_smoothing=label_smoothing)
    for loss in ("focal", "cross_entropy"):
        form = ClassBalance(loss, gamma=0.0, label_smoothing=label_smoothing)  # type: ignore[arg-type]
        torch.testing.assert_close(balanced_loss(logits, target, DFEW, form), expected)


def test_the_focal_loss_is_that_of_its_paper() -> None:
    logits, target = torch.randn(6, 7, dtype=torch.float64), torch.randint(7, (6,))
    p = logits.softmax(1)[torch.arange(6), target]
    expected = (-((1 - p) ** 2) * p.log()).mean()
    torch.testing.assert_close(balanced_loss(logits, target, DFEW, ClassBalance("focal")), expected)


@pytest.mark.parametrize("weights", ["none", "inverse", "effective"])
@pytest.mark.parametrize("loss", ["cross_entropy", "focal"])
def test_the_gradient_is_that_of_finite_differences(loss: str, weights: str) -> None:
    form = ClassBalance(loss, gamma=0.5, weights=weights, label_smoothing=0.1, logit_adjustment=1.0)  # type: ignore[arg-type]
    logits = torch.randn(4, 7, dtype=torch.float64, requires_grad=True)
    target = torch.tensor([0, 5, 6, 5])
    assert torch.autograd.gradcheck(lambda x: balanced_loss(x, target, DFEW, form), (logits,))


def test_a_sure_right_answer_gets_a_gradient_and_no_nan_at_any_gamma() -> None:
    logits = torch.tensor([[200.0, 0.0, 0.0]], requires_grad=True)
    for gamma in (0.1, 0.5, 1.0, 2.0):
        loss = balanced_loss(logits, torch.tensor([0]), torch.ones(3), ClassBalance("focal", gamma=gamma))
        (gradient,) = torch.autograd.grad(loss, logits)
        assert gradient.isfinite().all()


def test_inverse_weights_follow_the_formula_and_the_papers_clip() -> None:
    plain = class_weights(DFEW, ClassBalance(weights="inverse", smoothing=0.0, clip=(1e-3, 1e3)))
    torch.testing.assert_close(plain, DFEW.sum() / (7 * DFEW.float()))
    assert (plain * DFEW).sum() / DFEW.sum() == pytest.approx(1)  # over the samples they average one
    clipped = class_weights(DFEW, ClassBalance(weights="inverse"))
    assert clipped[5] == 10  # disgust, which would weigh 11.5
    assert clipped[0] == pytest.approx((9356 + 7) / (7 * 1957))


def test_smoothing_pulls_the_weights_together() -> None:
    spread = [
        float(class_weights(DFEW, ClassBalance(weights="inverse", smoothing=s, clip=(1e-3, 1e3))).std())
        for s in (0.0, 10.0, 100.0, 1e6)
    ]
    assert spread == sorted(spread, reverse=True)
    assert spread[-1] < 0.01


def test_effective_weights_follow_the_paper_and_reach_both_of_its_limits() -> None:
    form = ClassBalance(weights="effective", smoothing=0.0, beta=0.999, clip=(1e-3, 1e3))
    expected = (1 - 0.999) / (1 - 0.999 ** DFEW.double())
    torch.testing.assert_close(class_weights(DFEW, form), (7 * expected / expected.sum()).float())
    alike = class_weights(DFEW, ClassBalance(weights="effective", beta=0.0))
    torch.testing.assert_close(alike, torch.ones(7))
    near_one = class_weights(DFEW, ClassBalance(weights="effective", smoothing=0.0, beta=1 - 1e-9))
    torch.testing.assert_close(near_one * DFEW, (near_one * DFEW).mean().expand(7), rtol=1e-3, atol=0)


def test_equal_counts_leave_every_form_as_it_is_without_counts() -> None:
    logits, target = torch.randn(6, 3), torch.randint(3, (6,))
    plain = functional.cross_entropy(logits, target)
    for weights in ("inverse", "effective"):
        form = ClassBalance(weights=weights, logit_adjustment=1.0)  # type: ignore[arg-type]
        torch.testing.assert_close(balanced_loss(logits, target, torch.ones(3, dtype=torch.int64), form), plain)


def test_logit_adjustment_shifts_logits_by_the_log_prior_in_the_loss() -> None:
    logits, target = torch.randn(6, 7), torch.randint(7, (6,))
    prior = DFEW / DFEW.sum()
    form = ClassBalance(logit_adjustment=0.7, smoothing=0.0)
    expected = functional.cross_entropy(logits + 0.7 * prior.log(), target)
    torch.testing.assert_close(balanced_loss(logits, target, DFEW, form), expected)


def test_a_rare_sample_weighs_more_also_in_a_batch_of_its_own() -> None:
    logits = torch.zeros(1, 7)
    form = ClassBalance(weights="inverse")
    rare = balanced_loss(logits, torch.tensor([5]), DFEW, form)
    common = balanced_loss(logits, torch.tensor([2]), DFEW, form)
    assert rare / common == pytest.approx(float(class_weights(DFEW, form)[5] / class_weights(DFEW, form)[2]))


def test_half_precision_is_computed_in_single() -> None:
    logits = torch.tensor([[60_000.0, -60_000.0]], dtype=torch.float16, requires_grad=True)
    loss = balanced_loss(logits, torch.tensor([1]), torch.ones(2), ClassBalance("focal", logit_adjustment=1.0))
    assert loss.dtype == torch.float32 and float(loss.detach()) == pytest.approx(120_000, rel=1e-2)


def test_no_samples_give_a_zero_that_can_be_differentiated() -> None:
    logits = torch.zeros(0, 3, requires_grad=True)
    loss = balanced_loss(logits, torch.zeros(0, dtype=torch.int64), torch.ones(3), ClassBalance("focal"))
    loss.backward()
    assert float(loss.detach()) == 0


@pytest.mark.parametrize(
    "setting",
    [
        {"gamma": -1.0},
        {"gamma": float("nan")},
        {"beta": 1.0},
        {"label_smoothing": 1.0},
        {"smoothing": -1.0},
        {"clip": (0.0, 1.0)},
        {"clip": (2.0, 1.0)},
        {"logit_adjustment": float("inf")},
    ],
)
def test_a_setting_that_makes_no_sense_is_named(setting: dict[str, Any]) -> None:
    with pytest.raises(AffuseError, match=next(iter(setting))):
        ClassBalance(**setting)


def test_logits_of_a_regression_are_refused() -> None:
    with pytest.raises(AffuseError, match="classification"):
        balanced_loss(torch.zeros(2, 1), torch.zeros(2, dtype=torch.int64), torch.ones(1), ClassBalance())
