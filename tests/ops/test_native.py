"""Native code is found or its absence explained; the native scan is exact for every shape, layout, width and thread count."""

import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from affuse.ops import native
from affuse.ops.native.selective_scan import ENOUGH_BACKWARD, chunk_length
from affuse.ops.selective_scan import active_form, selective_scan
from affuse.types import AffuseError

BUILT, WHY = native.available()
needs_native = pytest.mark.skipif(not BUILT, reason=WHY)
NAMES = ["y", "last", "u", "delta", "A", "B", "C", "D", "state"]
WIDTHS = ["avx512", "avx2", "plain"]


def operands(b: int, t: int, d: int, n: int, seed: int = 0) -> list[Tensor]:
    """u, delta, A, B, C, D and a first state."""
    generator = torch.Generator().manual_seed(seed)
    made = lambda *shape: torch.randn(shape, generator=generator)  # noqa: E731
    delta = torch.nn.functional.softplus(made(b, t, d) - 2)
    return [made(b, t, d), delta, -torch.exp(made(d, n)), made(b, t, n), made(b, t, n), made(d), made(b, d, n)]


def values_and_gradients(inputs: list[Tensor], form: str, reverse: bool = False) -> list[Tensor]:
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    y, last = selective_scan(*leaves, reverse=reverse, form=form)
    generator = torch.Generator().manual_seed(7)
    of_y, of_last = torch.randn(y.shape, generator=generator), torch.randn(last.shape, generator=generator)
    ((y * of_y).sum() + (last * of_last).sum()).backward()
    return [y.detach(), last.detach(), *(x.grad for x in leaves)]


def assert_exact(inputs: list[Tensor], reverse: bool = False) -> None:
    truth = values_and_gradients([x.double() for x in inputs], "reference", reverse)
    for name, ours, true in zip(
        NAMES,
        values_and_gradients(inputs, "native", reverse),
        truth,
        strict=True,
    ):
        assert torch.isfinite(ours).all(), name
        assert float((ours.double() - true).norm()) <= 1e-5 * float(true.norm()) + 1e-30, name


def test_what_is_said_of_native_code_fits_what_it_does() -> None:
    if BUILT:
        assert native.instructions() in WHY
        assert native.function("affuse_scan_groups", "iii", "i")(8, 512, 1) == 1
    else:
        assert "compiler" in WHY
        with pytest.raises(AffuseError, match="compiler"):
            native.function("affuse_scan_groups", "iii", "i")


@needs_native
def test_a_function_that_an_older_build_lacks_is_named() -> None:
    with pytest.raises(AffuseError, match=r"affuse_no_such_function.*reinstall"):
        native.function("affuse_no_such_function", "i")


def test_threads_are_taken_for_large_work_only() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert native.threads(999, 1000) == 1
        assert native.threads(1000, 1000) == 2
    finally:
        torch.set_num_threads(before)


def test_without_the_extension_the_chunked_form_takes_over_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AFFUSE_SCAN", raising=False)
    monkeypatch.setattr(native, "_library", lambda: (None, "the native extension is not built (no compiler)"))
    assert active_form() == ("chunked", "the native extension is not built (no compiler)")
    inputs = operands(1, 5, 3, 2)
    assert torch.equal(selective_scan(*inputs)[0], selective_scan(*inputs, form="chunked")[0])
    with pytest.raises(AffuseError, match="not built"):
        selective_scan(*inputs, form="native")
    monkeypatch.setenv("AFFUSE_SCAN", "native")
    with pytest.raises(AffuseError, match="not built"):
        active_form()


@needs_native
def test_what_the_native_form_does_not_serve_is_said_or_chunked(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = [x.double() for x in operands(1, 5, 3, 2)]
    with pytest.raises(AffuseError, match="float64"):
        selective_scan(*inputs, form="native")
    monkeypatch.setenv("AFFUSE_SCAN", "native")
    assert torch.equal(selective_scan(*inputs)[0], selective_scan(*inputs, form="chunked")[0])


@needs_native
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("n", [1, 3, 8, 16, 17])
@pytest.mark.parametrize("d", [1, 5, 16, 33, 512])
def test_native_is_exact_for_any_channels_and_states_at_every_vector_width(
    d: int, n: int, width: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AFFUSE_VECTORS", width)
    steps = chunk_length(n) + 3 if d < 512 else 9
    assert_exact(operands(2, steps, d, n), reverse=n == 3)


@needs_native
@pytest.mark.parametrize("t", [1, 2, 15, 16, 17, 64, 100, 1024])
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
def test_native_is_exact_for_any_length(t: int, reverse: bool) -> None:
    assert_exact(operands(1, t, 5 if t > 100 else 20, 16), reverse)


@needs_native
@settings(max_examples=25)
@given(
    b=st.integers(1, 3), t=st.integers(1, 40), d=st.integers(1, 40), n=st.integers(1, 40), reverse=st.booleans(),
    seed=st.integers(0, 1000),
)  # fmt: skip
def test_native_is_exact_for_any_shape(b: int, t: int, d: int, n: int, reverse: bool, seed: int) -> None:
    assert_exact(operands(b, t, d, n, seed), reverse)


@needs_native
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("exponent", [-1e30, -200.0, -103.0, -88.0, -87.0, -1.0, -1e-8, 0.0, 1.0, 88.0, 1e30])
def test_decays_underflow_and_overflow_as_the_exponential_does(
    exponent: float, width: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AFFUSE_VECTORS", width)
    one = torch.ones(1, 1, 1)
    _, last = selective_scan(one * 0, one, torch.tensor([[exponent]]), one, one, None, one, form="native")
    assert float(last) == pytest.approx(
        float(torch.tensor(exponent).exp()), rel=3e-7 + 1e-7 * abs(exponent), abs=1.2e-38
    )


@needs_native
@pytest.mark.parametrize("width", WIDTHS)
def test_a_nan_stays_in_its_row_and_channel(width: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AFFUSE_VECTORS", width)
    u, delta, A, B, C, D, state = operands(2, 20, 5, 4)
    delta[0, 7, 2] = float("nan")
    y, last = selective_scan(u, delta, A, B, C, D, state, form="native")
    assert torch.isnan(y[0, 7:, 2]).all() and torch.isnan(last[0, 2]).all()
    assert int(torch.isnan(y).sum()) == 13 and int(torch.isnan(last).sum()) == 4


@needs_native
@pytest.mark.parametrize("shape", [(0, 5, 3, 4), (2, 0, 3, 4)], ids=["no rows", "no steps"])
def test_empty_inputs_give_empty_outputs_and_pass_the_state_on(shape: tuple[int, int, int, int]) -> None:
    inputs = operands(*shape)
    y, last, *gradients = values_and_gradients(inputs, "native")
    assert y.shape == inputs[0].shape and torch.equal(last, inputs[6])
    assert all(not gradient.any() for gradient in gradients[:-1])
    assert [x.shape for x in gradients] == [x.shape for x in inputs]


@needs_native
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
def test_layout_in_memory_has_no_influence(reverse: bool) -> None:
    inputs = operands(2, 21, 19, 5)
    truth = values_and_gradients(inputs, "native", reverse)
    u, delta, A, B, C, D, state = (x.clone().requires_grad_() for x in inputs)
    both = torch.cat([B, C], 2)  # slices of one projection, as in Mamba
    y, last = selective_scan(
        u.transpose(0, 1).contiguous().transpose(0, 1),
        delta.transpose(1, 2).contiguous().transpose(1, 2),
        A.t().contiguous().t(),
        *both.split(5, 2),
        D.repeat_interleave(2)[::2],
        state.transpose(1, 2).contiguous().transpose(1, 2),
        reverse=reverse,
        form="native",
    )
    generator = torch.Generator().manual_seed(7)
    of_y, of_last = torch.randn(y.shape, generator=generator), torch.randn(last.shape, generator=generator)
    ((y * of_y).sum() + (last * of_last).sum()).backward()
    for ours, true in zip([y, last, *(x.grad for x in (u, delta, A, B, C, D, state))], truth, strict=True):
        assert torch.equal(ours, true)


@needs_native
def test_an_output_without_gradient_and_an_expanded_gradient_are_taken() -> None:
    inputs = operands(2, 20, 18, 4)
    for use in (lambda y, last: y.sum(), lambda y, last: last.sum()):
        ours, truth = (
            [x.clone().to(dtype).detach().requires_grad_() for x in inputs[:6]]
            for dtype in (torch.float32, torch.float64)
        )
        use(*selective_scan(*ours, form="native")).backward()
        use(*selective_scan(*truth, form="reference")).backward()
        for mine, true in zip(ours, truth, strict=True):
            expected = torch.zeros_like(true) if true.grad is None else true.grad
            assert float((mine.grad - expected).norm()) <= 1e-5 * float(expected.norm())


@needs_native
@pytest.mark.parametrize("team", ["of PyTorch", "of our own"])
@pytest.mark.parametrize("b", [1, 2, 3])
def test_two_threads_agree_with_one_whoever_lends_them(b: int, team: str) -> None:
    inputs = operands(b, 128, 256, 16)
    assert inputs[0].numel() * 16 >= ENOUGH_BACKWARD
    before = torch.get_num_threads()
    use_team = native.function("affuse_use_team", "p")
    try:
        use_team(native.team_of_pytorch() if team == "of PyTorch" else None)
        torch.set_num_threads(1)
        one = values_and_gradients(inputs, "native")
        torch.set_num_threads(2)
        two = values_and_gradients(inputs, "native")
    finally:
        torch.set_num_threads(before)
        use_team(native.team_of_pytorch())
    for name, mine, other in zip(NAMES, two, one, strict=True):
        if name in "BC":  # sums over channels, in parts
            assert torch.allclose(mine, other, rtol=1e-5, atol=1e-5), name
        else:
            assert torch.equal(mine, other), name


@needs_native
def test_a_second_derivative_is_refused() -> None:
    u, *rest = operands(1, 4, 3, 2)
    u.requires_grad_()
    delta = rest[0].requires_grad_()
    y, _ = selective_scan(u, delta, *rest[1:], form="native")
    (gradient,) = torch.autograd.grad(y.sum(), u, create_graph=True)
    with pytest.raises(RuntimeError, match="once only"):
        gradient.sum().backward()


class Scan(torch.nn.Module):
    def forward(
        self, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, state: Tensor
    ) -> tuple[Tensor, Tensor]:
        return selective_scan(2 * u, delta, A, B, C, D, state, form="native")


@needs_native
def test_export_keeps_the_scan_as_one_operator() -> None:
    inputs = tuple(operands(2, 20, 18, 4))
    exported = torch.export.export(
        Scan(),
        inputs,
        dynamic_shapes=tuple({1: torch.export.Dim("t", min=2)} if i in (0, 1, 3, 4) else {} for i in range(7)),
    )
    assert "affuse.selective_scan_native.default" in exported.graph_module.code
    longer = tuple(operands(2, 45, 18, 4))
    for mine, true in zip(exported.module()(*longer), Scan()(*longer), strict=True):
        assert torch.equal(mine, true)


@needs_native
def test_the_operators_keep_what_they_promise_to_the_compiler() -> None:
    u, delta, A, B, C, D, state = (x.requires_grad_() for x in operands(2, 20, 3, 4))
    scan = torch.ops.affuse.selective_scan_native.default
    for arguments in ((D, state, True, True), (None, None, False, True)):
        torch.library.opcheck(
            scan,
            (u, delta, A, B, C, *arguments),
            test_utils=("test_schema", "test_faketensor", "test_autograd_registration", "test_aot_dispatch_dynamic"),
        )


COMPILED = """
import torch
from affuse.ops.selective_scan import selective_scan

scan = lambda u, *rest: selective_scan(2 * u, *rest, form="native")
shapes = [(2, 20, 18), (2, 20, 18), (18, 4), (2, 20, 4), (2, 20, 4), (18,), (2, 18, 4)]
torch.manual_seed(0)
inputs = [torch.rand(shape) for shape in shapes]
inputs[2] = -inputs[2]
ours, truth = ([x.clone().requires_grad_() for x in inputs] for _ in range(2))
torch.compile(scan, backend="aot_eager", fullgraph=True)(*ours)[0].square().sum().backward()
scan(*truth)[0].square().sum().backward()
for mine, true in zip(ours, truth):
    assert torch.allclose(mine.grad, true.grad, rtol=1e-5, atol=1e-6)
"""


@needs_native
def test_gradients_flow_through_a_compiled_scan() -> None:
    # In a process of its own: the compiler cannot trace the checks of shapes that the tests put around every function.
    subprocess.run([sys.executable, "-c", COMPILED], env=os.environ, check=True)


@needs_native
def test_importing_loads_no_native_code() -> None:
    seen = "import sys, affuse.ops.selective_scan; sys.exit('affuse.ops.native._native' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", seen], env=os.environ).returncode == 0


@needs_native
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_forked_process_does_not_wait_for_the_threads_of_its_parent() -> None:
    code = """
import os, signal, torch
from affuse.ops.selective_scan import selective_scan
torch.set_num_threads(2)
x = torch.rand(2, 700, 48)
inputs = x, x, -torch.rand(48, 16), torch.rand(2, 700, 16), torch.rand(2, 700, 16)
truth = selective_scan(*inputs, form="native")[0].tolist()
child = os.fork()
if child == 0:
    signal.alarm(60)
    os._exit(0 if selective_scan(*inputs, form="native")[0].tolist() == truth else 3)
print("child", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "child 0", done.stderr
