"""The Mamba block: its formula, steps that say nothing, and that it streams."""

import importlib
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from affuse.parts.mamba import MambaBlock
from affuse.types import AffuseError


def made(seed: int = 0, d_model: int = 6, **settings: int) -> MambaBlock:
    torch.manual_seed(seed)
    return MambaBlock(d_model, **{"d_state": 3, **settings})


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def by_the_formula(block: MambaBlock, x: Tensor) -> Tensor:
    """One sequence (t, d), one number of state at a time, as the paper's text says it."""
    u, z = (x @ block.in_proj.weight.T).chunk(2, 1)
    k, bias = block.d_conv, block.conv1d.bias
    assert bias is not None
    filtered = torch.zeros_like(u)
    for t in range(len(u)):
        for lag in range(k):
            if t - lag >= 0:
                filtered[t] += block.conv1d.weight[:, 0, k - 1 - lag] * u[t - lag]
    u = functional.silu(filtered + bias)
    both = u @ block.x_proj.weight.T
    r, n = block.dt_rank, block.d_state
    delta = torch.log1p(torch.exp(both[:, :r] @ block.dt_proj.weight.T + block.dt_proj.bias))
    B, C, A = both[:, r : r + n], both[:, r + n :], -block.A_log.exp()
    h, y = torch.zeros_like(A), torch.zeros_like(u)
    for t in range(len(u)):
        for e in range(u.shape[1]):
            h[e] = torch.exp(delta[t, e] * A[e]) * h[e] + delta[t, e] * B[t] * u[t, e]
            y[t, e] = h[e] @ C[t] + block.D[e] * u[t, e]
    return (y * functional.silu(z)) @ block.out_proj.weight.T


@torch.no_grad()
def test_it_is_the_formula_of_the_paper() -> None:
    block, x = made(), drawn(2, 7, 6)
    torch.testing.assert_close(block(x), torch.stack([by_the_formula(block, row) for row in x]))


def test_its_weights_have_the_names_and_shapes_of_mamba() -> None:
    shapes = {
        name: tuple(value.shape) for name, value in MambaBlock(40, d_state=5, d_conv=4, expand=2).state_dict().items()
    }
    assert shapes == {
        "A_log": (80, 5),
        "D": (80,),
        "in_proj.weight": (160, 40),
        "conv1d.weight": (80, 1, 4),
        "conv1d.bias": (80,),
        "x_proj.weight": (3 + 10, 80),
        "dt_proj.weight": (80, 3),
        "dt_proj.bias": (80,),
        "out_proj.weight": (40, 80),
    }


def test_steps_start_between_a_thousandth_and_a_tenth_and_states_decay_at_whole_rates() -> None:
    block = MambaBlock(64, d_state=4)
    steps = functional.softplus(block.dt_proj.bias.detach())
    assert 1e-3 * 0.999 <= float(steps.min()) < 3e-3
    assert 3e-2 < float(steps.max()) <= 0.1 * 1.001
    torch.testing.assert_close(block.A_log.exp(), torch.tensor([1.0, 2.0, 3.0, 4.0]).repeat(128, 1))


@torch.no_grad()
def test_with_the_weights_of_mambapy_it_gives_what_mambapy_gives() -> None:
    try:
        mamba: Any = importlib.import_module("mambapy.mamba")
    except ModuleNotFoundError:
        pytest.skip("mambapy is not installed: pip install 'affuse[bench]'")
    torch.manual_seed(3)
    theirs = mamba.MambaBlock(mamba.MambaConfig(d_model=24, n_layers=1, d_state=5))
    ours = MambaBlock(24, d_state=5)
    ours.load_state_dict(theirs.state_dict())
    x = drawn(2, 11, 24)
    torch.testing.assert_close(ours(x), theirs(x), atol=1e-5, rtol=1e-4)


@given(st.integers(0, 1000), st.integers(1, 9), st.integers(1, 5), st.booleans())
@settings(max_examples=25)
@torch.no_grad()
def test_forward_is_a_fold_of_step_also_over_steps_that_say_nothing(seed: int, t: int, d_conv: int, lost: bool) -> None:
    block, x = made(seed, d_conv=d_conv), drawn(3, t, 6, seed=seed)
    valid = drawn(3, t, seed=seed + 1) > -0.3 if lost else None
    if valid is not None:
        x = x.masked_fill(~valid[:, :, None], torch.nan)
    state, steps = block.init_state(3), []
    for i in range(t):
        y, state = block.step(x[:, i], state, None if valid is None else valid[:, i])
        steps.append(y)
    torch.testing.assert_close(block(x, valid), torch.stack(steps, 1))


@given(st.integers(0, 1000))
@settings(max_examples=25)
def test_a_step_that_is_not_valid_has_exactly_no_influence_and_gets_no_gradient(seed: int) -> None:
    block = made(seed)
    valid = drawn(2, 8, seed=seed) > 0
    found = []
    for filling in (torch.nan, 5.0):
        x = drawn(2, 8, 6, seed=seed + 1).masked_fill(~valid[:, :, None], filling).requires_grad_()
        y = block(x, valid)
        (own,) = torch.autograd.grad(y.square().sum(), x)
        assert torch.equal(own[~valid], torch.zeros_like(own[~valid]))
        assert torch.equal(y[~valid], torch.zeros_like(y[~valid]))
        found.append((y, own))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])


@torch.no_grad()
def test_what_says_nothing_before_the_first_step_is_as_if_it_were_not_there() -> None:
    block, x = made(), drawn(1, 5, 6)
    late = torch.cat([torch.full((1, 9, 6), torch.nan), x], 1)
    valid = torch.arange(14)[None] >= 9
    torch.testing.assert_close(block(late, valid)[:, 9:], block(x))


@torch.no_grad()
def test_no_step_depends_on_a_later_one_and_every_one_on_all_before() -> None:
    block, x = made(), drawn(1, 8, 6)
    for changed in range(8):
        other = x.clone()
        other[:, changed] += 1.0
        differs = (block(other) != block(x)).any(2)[0]
        assert differs.tolist() == [t >= changed for t in range(8)]


def test_gradients_reach_every_parameter() -> None:
    block = made()
    block(drawn(2, 5, 6), torch.tensor([[True] * 5, [True, False, True, True, False]])).square().sum().backward()
    for name, parameter in block.named_parameters():
        assert parameter.grad is not None and parameter.grad.any() and torch.isfinite(parameter.grad).all(), name


def test_state_is_an_argument_and_of_one_size() -> None:
    block = made()
    state = block.init_state(2)
    _, first = block.step(drawn(2, 6), state)
    _, second = block.step(drawn(2, 6), first)
    assert not state.scan.any() and not state.inputs.any()
    assert [x.shape for x in state] == [x.shape for x in second] == [(2, 3, 12), (2, 12, 3)]
    assert math.isfinite(float(second.scan.detach().abs().sum()))


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(AffuseError, match="at least 1"):
        MambaBlock(8, d_state=0)
