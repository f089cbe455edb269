"""Sparse dispatch equals the dense sum, and an expert sees only the rows that chose it."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from affuse.ops.dispatch import dispatch, dispatch_dense, top_k_weights
from affuse.types import AffuseError


def routed(b: int, e: int, k: int, seed: int) -> tuple[Tensor, Tensor, list[nn.Module]]:
    torch.manual_seed(seed)
    return torch.randn(b, 5), top_k_weights(torch.randn(b, e).softmax(1), k), [nn.Linear(5, 3) for _ in range(e)]


sizes = st.integers(1, 6).flatmap(
    lambda e: st.tuples(st.integers(1, 9), st.just(e), st.integers(1, e), st.integers(0, 999))
)


@settings(max_examples=40)
@given(sizes)
def test_sparse_equals_dense_in_values_and_gradients(size: tuple[int, int, int, int]) -> None:
    inputs, weights, experts = routed(*size)
    gradients = []
    for form in ("sparse", "dense"):
        x, w = inputs.clone().requires_grad_(), weights.clone().requires_grad_()
        answer = dispatch(x, w, experts, 3) if form == "sparse" else dispatch_dense(x, w, experts)
        (answer**2).sum().backward()
        gradients.append((answer.detach(), x.grad, w.grad * (weights > 0)))
    for ours, theirs in zip(*gradients, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-4)


@settings(max_examples=40)
@given(sizes)
def test_exactly_k_weights_are_kept_in_proportion_and_sum_to_one(size: tuple[int, int, int, int]) -> None:
    b, e, k, seed = size
    probabilities = torch.randn(b, e, generator=torch.Generator().manual_seed(seed)).softmax(1)
    weights = top_k_weights(probabilities, k)
    assert ((weights > 0).sum(1) == k).all()
    assert torch.allclose(weights.sum(1), torch.ones(b))
    for row in range(b):
        kept = weights[row] > 0
        assert probabilities[row][kept].min() >= probabilities[row].sort(descending=True).values[k - 1]
        ratio = weights[row][kept] / probabilities[row][kept]
        assert torch.allclose(ratio, ratio[0].expand_as(ratio))


def test_an_expert_sees_only_the_rows_that_chose_it() -> None:
    seen: dict[int, list[float]] = {}

    def expert(number: int):
        def run(rows: Tensor) -> Tensor:
            seen[number] = rows[:, 0].tolist()
            return rows

        return run

    weights = torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.0, 1.0, 0.0]])
    answer = dispatch(torch.tensor([[1.0], [2.0], [3.0]]), weights, [expert(n) for n in range(3)], 1)
    assert seen == {0: [1.0, 2.0], 1: [2.0, 3.0]}
    assert answer[:, 0].tolist() == [1.0, 2.0, 3.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_expert_that_all_rows_chose_gets_the_inputs_as_they_are(dtype: torch.dtype) -> None:
    inputs = torch.randn(3, 2, dtype=dtype)
    weights = torch.tensor([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0], [0.25, 0.0, 0.75]])
    seen = []

    def first(rows: Tensor) -> Tensor:
        seen.append(rows is inputs)
        return rows

    answer = dispatch(inputs, weights, [first, torch.neg, torch.zeros_like], 2)
    assert seen == [True]
    assert answer.dtype == dtype
    expected = torch.stack([0 * inputs[0], inputs[1], inputs[2] / 4]).float()
    torch.testing.assert_close(answer.float(), expected, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("k", [0, 4])
def test_an_impossible_k_is_an_error(k: int) -> None:
    with pytest.raises(AffuseError, match="top_k"):
        top_k_weights(torch.full((2, 3), 1 / 3), k)
