"""The selective scan agrees with a float64 loop, folds step by step, and survives any decay."""

import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from affuse.ops import native
from affuse.ops.selective_scan import (
    CHUNK,
    _check,
    active_form,
    selective_scan,
    selective_scan_reference,
    selective_scan_step,
)
from affuse.types import AffuseError

BUILT, WHY = native.available()
needs_native = pytest.mark.skipif(not BUILT, reason=WHY)
FORMS = ["reference", "chunked", pytest.param("native", marks=needs_native)]
FAST_FORMS = FORMS[1:]
LENGTHS = (1, 2, 3, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK, 101, 257, 1000, 1023, 1024)


def operands(length: int, b: int = 2, d: int = 3, n: int = 4, seed: int = 0) -> list[Tensor]:
    """u, delta, A, B, C, D and a first state."""
    generator = torch.Generator().manual_seed(seed)
    made = lambda *shape: torch.randn(shape, generator=generator)  # noqa: E731
    delta = torch.nn.functional.softplus(made(b, length, d) - 2)
    return [
        made(b, length, d),
        delta,
        -torch.exp(made(d, n)),
        made(b, length, n),
        made(b, length, n),
        made(d),
        made(b, d, n),
    ]


def values_and_gradients(inputs: list[Tensor], dtype: torch.dtype, form: str, reverse: bool) -> list[Tensor]:
    leaves = [x.detach().to(dtype, copy=True).requires_grad_() for x in inputs]
    y, last = selective_scan(*leaves, reverse=reverse, form=form)
    generator = torch.Generator().manual_seed(7)
    seen = (y * torch.randn(y.shape, generator=generator)).sum() + (
        last * torch.randn(last.shape, generator=generator)
    ).sum()
    seen.backward()
    return [y.detach(), last.detach(), *(x.grad for x in leaves)]


def furthest(ours: list[Tensor], truth: list[Tensor]) -> float:
    return max(float((a.double() - b).norm() / b.norm().clamp(min=1e-30)) for a, b in zip(ours, truth, strict=True))


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("form", FAST_FORMS)
def test_every_form_agrees_with_float64_reference_in_values_and_gradients(
    form: str, length: int, reverse: bool
) -> None:
    inputs = operands(length)
    truth = values_and_gradients(inputs, torch.float64, "reference", reverse)
    assert furthest(values_and_gradients(inputs, torch.float32, form, reverse), truth) < 1e-5


@settings(max_examples=15)
@given(length=st.integers(1, 80), reverse=st.booleans(), seed=st.integers(0, 1000))
def test_chunked_agrees_with_reference_for_any_length(length: int, reverse: bool, seed: int) -> None:
    inputs = operands(length, seed=seed)
    truth = values_and_gradients(inputs, torch.float64, "reference", reverse)
    assert furthest(values_and_gradients(inputs, torch.float64, "chunked", reverse), truth) < 1e-11


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("length", [1, 5, CHUNK + 3, 130])
def test_forward_equals_folding_step(form: str, length: int) -> None:
    u, delta, A, B, C, D, state = operands(length)
    y, last = selective_scan(u, delta, A, B, C, D, state, form=form)
    folded = []
    for t in range(length):
        y_t, state = selective_scan_step(u[:, t], delta[:, t], A, B[:, t], C[:, t], D, state)
        folded.append(y_t)
    assert torch.allclose(y, torch.stack(folded, 1), rtol=1e-5, atol=1e-6)
    assert torch.allclose(last, state, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_a_scan_goes_on_from_its_last_state(form: str) -> None:
    u, delta, A, B, C, D, _ = operands(50)
    whole, end = selective_scan(u, delta, A, B, C, D, form=form)
    first, state = selective_scan(u[:, :23], delta[:, :23], A, B[:, :23], C[:, :23], D, form=form)
    second, last = selective_scan(u[:, 23:], delta[:, 23:], A, B[:, 23:], C[:, 23:], D, state, form=form)
    assert torch.allclose(whole, torch.cat([first, second], 1), rtol=1e-5, atol=1e-6)
    assert torch.allclose(end, last, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_reverse_is_the_forward_scan_of_the_flipped_sequence(form: str) -> None:
    u, delta, A, B, C, D, state = operands(37)
    y, last = selective_scan(u, delta, A, B, C, D, state, reverse=True, form=form)
    flipped, end = selective_scan(u.flip(1), delta.flip(1), A, B.flip(1), C.flip(1), D, state, form=form)
    assert torch.equal(y, flipped.flip(1))
    assert torch.equal(last, end)


@pytest.mark.parametrize("decay", [1e-8, 1e2, 1e6, 1e30], ids=["none", "fast", "faster", "at once"])
@pytest.mark.parametrize("form", FAST_FORMS)
def test_extreme_decays_stay_finite_and_exact(form: str, decay: float) -> None:
    inputs = operands(70)
    inputs[2] = torch.full_like(inputs[2], -decay)
    truth = values_and_gradients(inputs, torch.float64, "reference", False)
    ours = values_and_gradients(inputs, torch.float32, form, False)
    assert all(torch.isfinite(x).all() for x in ours)
    assert furthest(ours[:2], truth[:2]) < 1e-5
    assert furthest([ours[2], *ours[5:8]], [truth[2], *truth[5:8]]) < 1e-5  # u, B, C, D


@pytest.mark.parametrize("form", FORMS)
def test_half_precision_keeps_its_state_in_float32(form: str) -> None:
    u, delta, A, B, C, D, _ = operands(64)
    u, delta, B, C = (x.bfloat16() for x in (u, delta, B, C))
    y, last = selective_scan(u, delta, A, B, C, D, form=form)
    assert y.dtype == torch.bfloat16
    assert last.dtype == torch.float32
    exact, end = selective_scan(*(x.double() for x in (u, delta, A, B, C, D)), form="reference")
    assert torch.allclose(last.double(), end, rtol=1e-5, atol=1e-6)
    assert torch.allclose(y.double(), exact, rtol=2**-8, atol=1e-5)  # the last rounding alone


class Scan(torch.nn.Module):
    def forward(
        self, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, state: Tensor
    ) -> tuple[Tensor, Tensor]:
        return selective_scan(2 * u, delta, A, B, C, D, state, form="chunked", reverse=True)


def test_export_keeps_the_chunked_scan_as_one_operator_for_any_time() -> None:
    dynamic = tuple({1: torch.export.Dim("t", min=2)} if i in (0, 1, 3, 4) else {} for i in range(7))
    exported = torch.export.export(Scan(), tuple(operands(20)), dynamic_shapes=dynamic)
    assert "affuse.selective_scan_chunked.default" in exported.graph_module.code
    for length in (3, CHUNK, 45):
        longer = operands(length)
        for mine, true in zip(exported.module()(*longer), Scan()(*longer), strict=True):
            assert torch.equal(mine, true)


@pytest.mark.parametrize("length", [2, 20])
def test_the_chunked_operators_keep_what_they_promise_to_the_compiler(length: int) -> None:
    u, delta, A, B, C, _, state = (x.requires_grad_() for x in operands(length))
    for first, reverse in ((state, True), (None, False)):
        torch.library.opcheck(
            torch.ops.affuse.selective_scan_chunked.default,
            (u, delta, A, B, C, first, reverse, True),
            test_utils=("test_schema", "test_faketensor", "test_autograd_registration", "test_aot_dispatch_dynamic"),
        )


COMPILED = """
import torch
from affuse.ops.selective_scan import selective_scan

scan = lambda u, *rest: selective_scan(2 * u, *rest, form="chunked")
compiled = torch.compile(scan, backend="aot_eager", fullgraph=True)
for t in (5, 20):
    shapes = [(2, t, 18), (2, t, 18), (18, 4), (2, t, 4), (2, t, 4), (18,), (2, 18, 4)]
    torch.manual_seed(0)
    inputs = [torch.rand(shape) for shape in shapes]
    inputs[2] = -inputs[2]
    ours, truth = ([x.clone().requires_grad_() for x in inputs] for _ in range(2))
    compiled(*ours)[0].square().sum().backward()
    scan(*truth)[0].square().sum().backward()
    for mine, true in zip(ours, truth):
        assert torch.allclose(mine.grad, true.grad, rtol=1e-5, atol=1e-6)
"""


def test_gradients_flow_through_a_compiled_chunked_scan() -> None:
    # In a process of its own: the compiler cannot trace the checks of shapes that the tests put around every function.
    subprocess.run([sys.executable, "-c", COMPILED], env=os.environ, check=True)


def test_a_second_derivative_of_the_chunked_form_is_refused() -> None:
    u, *rest = operands(4)
    u.requires_grad_()
    delta = rest[0].requires_grad_()
    y, _ = selective_scan(u, delta, *rest[1:], form="chunked")
    (gradient,) = torch.autograd.grad(y.sum(), u, create_graph=True)
    with pytest.raises(RuntimeError, match="once only"):
        gradient.sum().backward()


@pytest.mark.parametrize("form", FAST_FORMS)
@pytest.mark.parametrize("length", [5, 40])
def test_a_graph_that_is_kept_gives_the_same_gradients_twice(form: str, length: int) -> None:
    inputs = [x.requires_grad_() for x in operands(length)]
    y, last = selective_scan(*inputs, form=form)
    last.detach().zero_()  # what the caller does with an output is no business of the backward pass
    first, second = (torch.autograd.grad(y.square().sum(), inputs, retain_graph=True) for _ in range(2))
    assert all(torch.equal(one, two) for one, two in zip(first, second, strict=True))
    truth = [x.detach().double().requires_grad_() for x in inputs]
    true = torch.autograd.grad(selective_scan(*truth, form="reference")[0].square().sum(), truth)
    assert furthest(list(first), list(true)) < 1e-5


@pytest.mark.parametrize("form", FAST_FORMS)
def test_half_precision_gradients_come_back_in_the_dtype_of_their_inputs(form: str) -> None:
    inputs = operands(20)
    kinds = [torch.bfloat16, torch.bfloat16, torch.float32, torch.bfloat16, torch.bfloat16, torch.float32]
    leaves = [x.to(kind).requires_grad_() for x, kind in zip(inputs[:6], kinds, strict=True)]
    exact = [x.detach().double().requires_grad_() for x in leaves]
    selective_scan(*leaves, form=form)[0].sum().backward()
    selective_scan(*exact, form="reference")[0].sum().backward()
    for mine, kind, true in zip(leaves, kinds, exact, strict=True):
        assert mine.grad.dtype == kind
        assert float((mine.grad.double() - true.grad).norm()) < 2**-8 * float(true.grad.norm())


@pytest.mark.parametrize("form", FAST_FORMS)
def test_autocast_does_not_reach_the_state(form: str) -> None:
    inputs = operands(20)
    truth = values_and_gradients(inputs, torch.float32, form, False)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = values_and_gradients(inputs, torch.float32, form, False)
    assert all(torch.equal(one, two) for one, two in zip(truth, cast, strict=True))


@pytest.mark.parametrize("shape", [(0, 5), (2, 0)], ids=["no rows", "no steps"])
def test_empty_inputs_of_the_chunked_form_give_empty_outputs_and_pass_the_state_on(shape: tuple[int, int]) -> None:
    inputs = operands(shape[1], b=shape[0])
    y, last, *gradients = values_and_gradients(inputs, torch.float32, "chunked", False)
    assert y.shape == inputs[0].shape and torch.equal(last, inputs[6])
    assert [x.shape for x in gradients] == [x.shape for x in inputs]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("place", "shape"),
    [(1, (2, 3, 3)), (1, (2, 5, 1)), (2, (1, 4)), (3, (1, 5, 4)), (4, (2, 5, 5)), (5, (1,)), (6, (3, 4))],
)
def test_shapes_that_do_not_fit_are_refused_before_any_memory_is_read(
    form: str, place: int, shape: tuple[int, ...]
) -> None:
    inputs = operands(5)
    inputs[place] = torch.ones(shape)
    name = ("u", "delta", "A", "B", "C", "D", "state")[place]
    with pytest.raises((AffuseError, TypeError), match=name):  # a TypeError where types are checked, as in these tests
        selective_scan(*inputs, form=form)
    with pytest.raises(AffuseError, match=rf"selective scan: {name} is "):
        _check(*inputs)


def test_without_a_state_there_is_no_scan() -> None:
    u, delta, _, _, _, D, _ = operands(5)
    with pytest.raises(AffuseError, match="n above 0"):
        selective_scan(u, delta, torch.empty(3, 0), torch.empty(2, 5, 0), torch.empty(2, 5, 0), D)


def test_operands_on_another_device_are_refused() -> None:
    u, delta, A, B, C, _, _ = operands(5)
    with pytest.raises(AffuseError, match="not everything is on cpu"):
        selective_scan(u, delta, A, B.to("meta"), C)


@pytest.mark.parametrize("form", FORMS)
def test_a_double_anywhere_makes_a_double_state(form: str) -> None:
    *inputs, state = operands(5)
    if form == "native":
        with pytest.raises(AffuseError, match="serves float32"):
            selective_scan(*inputs, state.double(), form=form)
    else:
        assert selective_scan(*inputs, state.double(), form=form)[1].dtype == torch.float64


def test_function_transforms_take_the_reference() -> None:
    u, delta, A, B, C, D, _ = operands(5)
    loss = lambda u: selective_scan(u, delta, A, B, C, D)[0].square().sum()  # noqa: E731
    leaf = u.clone().requires_grad_()
    loss(leaf).backward()
    torch.testing.assert_close(torch.func.grad(loss)(u), leaf.grad)
    many = torch.func.vmap(lambda u: selective_scan(u, delta, A, B, C, D)[0])(torch.stack([u, 2 * u]))
    torch.testing.assert_close(many[1], selective_scan(2 * u, delta, A, B, C, D)[0])
    with pytest.raises(AffuseError, match=r"cannot be transformed by torch\.func"):
        torch.func.grad(lambda u: selective_scan(u, delta, A, B, C, D, form="chunked")[0].sum())(u)


def test_the_environment_chooses_the_form(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AFFUSE_SCAN", raising=False)
    assert active_form() == ("native" if native.available()[0] else "chunked", native.available()[1])
    monkeypatch.setenv("AFFUSE_SCAN", "chunked")
    assert active_form() == ("chunked", "AFFUSE_SCAN=chunked")
    monkeypatch.setenv("AFFUSE_SCAN", "reference")
    assert active_form() == ("reference", "AFFUSE_SCAN=reference")
    u, delta, A, B, C, D, _ = operands(20)
    y, _ = selective_scan(u, delta, A, B, C, D)
    assert torch.equal(y, selective_scan_reference(u, delta, A, B, C)[0] + D * u)
    monkeypatch.setenv("AFFUSE_SCAN", "fastest")
    with pytest.raises(AffuseError, match="fastest"):
        selective_scan(u, delta, A, B, C, D)
