"""The selective scan in Triton agrees with the float64 loop: on a GPU where there is one, else in Triton's interpreter.

The interpreter must be asked for before Triton is first imported, so one test runs this file again in a process of its own,
where the kernels' tests are collected. It is slow (some 20 ms a step and program), so the shapes are tiny there.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from affuse.ops import triton
from affuse.ops.selective_scan import active_form, selective_scan
from affuse.ops.triton import scan
from affuse.ops.triton.scan import selective_scan_stacked, selective_scan_triton
from affuse.types import AffuseError

INTERPRETED = triton.interpreted()
RUN_HERE, WHY = triton.available()
DEVICE = "cpu" if INTERPRETED else "cuda"
LENGTHS = (1, 2, 3, 4, 5, 7, 9, 16, 33) if INTERPRETED else range(1, 65)
BOTH_WAYS = pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])


@pytest.mark.skipif(RUN_HERE, reason="the kernels' tests run in this process")
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed: pip install triton")
def test_kernels_agree_with_the_reference_in_tritons_interpreter() -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    environment |= {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-x", "-k", "TestKernels", __file__]
    root = Path(__file__).parents[2]
    child = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    assert child.returncode == 0, child.stdout[-4000:] + child.stderr[-2000:]
    assert " passed" in child.stdout and "skipped" not in child.stdout


@pytest.mark.skipif(RUN_HERE, reason="the kernels' tests run in this process")
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed: pip install triton")
@pytest.mark.parametrize("name", ["segment_states", "join_segments", "forward", "backward"])
def test_kernels_compile_for_a_gpu_that_is_not_here(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The compiler takes less than the interpreter does; this needs no GPU, only the assembler that comes with Triton."""
    from triton import compile as compiled
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from affuse.ops.triton import kernels

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    kernel = getattr(kernels, name)
    constants = {"P": 2, "N": 4, "L": 8, "R": 2, "BLOCK": 64, "BACKWARD": True}
    constants |= dict.fromkeys(("HAS_D", "HAS_ENTRY", "KEEP"), True)
    low = {"u", "delta", "x", "into", "B", "C", "y", "grad_y", "grad_u", "grad_delta"}
    kinds = {x: "constexpr" if x in constants else "*bf16" if x in low else "*fp32" for x in kernel.arg_names}
    kinds |= {x: "i32" for x in kinds if x in kernels.UNKNOWN and x != "scratch"}
    taken = {x: constants[x] for x in kernel.arg_names if x in constants}
    source = ASTSource(fn=kernel, signature=kinds, constexprs=taken)
    assert compiled(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 1}).asm["cubin"]


@pytest.mark.skipif(RUN_HERE, reason=WHY)
def test_without_a_gpu_the_error_says_what_is_missing() -> None:
    with pytest.raises(AffuseError, match=r"Triton is not installed|need an NVIDIA GPU"):
        selective_scan_triton(*operands(2, device="cpu"))


def operands(length: int, b: int = 1, d: int = 3, n: int = 4, seed: int = 0, device: str = DEVICE) -> list[Tensor]:
    """u, delta, A, B, C, D and a first state."""
    generator = torch.Generator().manual_seed(seed)
    made = lambda *shape: torch.randn(shape, generator=generator)  # noqa: E731
    delta = torch.nn.functional.softplus(made(b, length, d) - 2)
    A = -torch.exp(made(d, n))
    found = [made(b, length, d), delta, A, made(b, length, n), made(b, length, n), made(d), made(b, d, n)]
    return [x.to(device) for x in found]


def judged(y: Tensor, last: Tensor) -> Tensor:
    """A number that depends on every output."""
    generator = torch.Generator().manual_seed(7)
    weights = [torch.randn(x.shape, generator=generator).to(x.device) for x in (y, last)]
    return (y.double() * weights[0]).sum() + (last * weights[1]).sum()


def ours(inputs: list[Tensor], **options: object) -> list[Tensor]:
    """y, the last state and all gradients, from the kernels."""
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    y, last = selective_scan_triton(*leaves, **options)
    judged(y, last).backward()
    return [y.detach(), last.detach(), *(x.grad for x in leaves)]


def truth(inputs: list[Tensor], reverse: bool) -> list[Tensor]:
    """The same from the float64 loop."""
    leaves = [x.detach().double().requires_grad_() for x in inputs]
    y, last = selective_scan(*leaves, reverse=reverse, form="reference")
    judged(y, last).backward()
    return [y.detach(), last.detach(), *(x.grad for x in leaves)]


def furthest(found: list[Tensor], true: list[Tensor]) -> float:
    """The largest relative error (of norms) among the tensors."""
    return max(float((a.double() - b).norm() / b.norm().clamp(min=1e-30)) for a, b in zip(found, true, strict=True))


@pytest.mark.skipif(RUN_HERE, reason="the kernels can run here")
def test_asking_for_it_where_it_cannot_run_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = operands(2, device="cpu")
    with pytest.raises(AffuseError, match="Triton"):
        selective_scan(*inputs[:5], form="triton")
    monkeypatch.setenv("AFFUSE_SCAN", "triton")
    with pytest.raises(AffuseError, match="Triton"):
        selective_scan(*inputs[:5])
    with pytest.raises(AffuseError, match="AFFUSE_SCAN=triton, but"):
        active_form()
    monkeypatch.delenv("AFFUSE_SCAN")
    assert active_form("cuda")[0] == "chunked"


class TestKernels:
    """Collected where the kernels can run: on a GPU, or in the interpreter."""

    __test__ = RUN_HERE

    @pytest.mark.parametrize("length", LENGTHS)
    def test_values_and_gradients_equal_float64_at_any_length(self, length: int) -> None:
        reverse = length % 2 == 0 if INTERPRETED else length % 3 == 0
        inputs = operands(length, n=4)
        assert furthest(ours(inputs, reverse=reverse), truth(inputs, reverse)) < 1e-5

    @pytest.mark.parametrize(
        ("length", "d", "n"), [(6, 37, 16), (5, 129, 5), (64, 1, 16)] if INTERPRETED else [(200, 37, 16), (90, 601, 5)]
    )
    @BOTH_WAYS
    def test_blocks_that_channels_states_and_steps_do_not_fill(
        self, length: int, d: int, n: int, reverse: bool
    ) -> None:
        if INTERPRETED and length == 64 and reverse:
            length = 17
        inputs = operands(length, d=d, n=n)
        assert furthest(ours(inputs, reverse=reverse), truth(inputs, reverse)) < 1e-5

    def test_rows_of_a_batch_do_not_mix(self) -> None:
        inputs = operands(3, b=3)
        assert furthest(ours(inputs), truth(inputs, False)) < 1e-5

    @BOTH_WAYS
    def test_segments_walked_through_at_once_give_the_same(
        self, reverse: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(scan, "CHUNK", 4)
        inputs = operands(22)  # 6 chunks, the last of 2 steps; 3 segments
        assert furthest(ours(inputs, reverse=reverse, segments=3), truth(inputs, reverse)) < 1e-5

    def test_one_segment_keeps_a_state_a_chunk(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(scan, "CHUNK", 4)
        inputs = operands(10)
        assert furthest(ours(inputs), truth(inputs, False)) < 1e-5
        u, delta, A, B, C, D, state = (x.unsqueeze(0) for x in inputs)
        kept = torch.ops.affuse.selective_scan_triton(u, delta, A, B, C, D, state, 0, True, 0)[2]
        assert kept.shape == (1, 3, 4, 3)  # row, chunks, n, d
        dropped = torch.ops.affuse.selective_scan_triton(u, delta, A, B, C, D, state, 0, False, 0)[2]
        assert not dropped.numel()

    def test_without_direct_path_and_first_state(self) -> None:
        u, delta, A, B, C, *_ = operands(5)
        found = ours([u, delta, A, B, C])
        true = truth([u, delta, A, B, C], False)
        assert furthest(found, true) < 1e-5

    def test_decays_of_any_strength_neither_overflow_nor_divide(self) -> None:
        u, delta, A, B, C, D, state = operands(4)
        inputs = [u, delta * torch.tensor([1e-6, 1.0, 1e4], device=DEVICE), A, B, C, D, state]
        found = ours(inputs)
        assert all(x.isfinite().all() for x in found)
        assert furthest(found, truth(inputs, False)) < 1e-5

    def test_bfloat16_inputs_cost_only_the_rounding_of_what_is_bfloat16(self) -> None:
        inputs = [x.bfloat16() if i in (0, 1, 3, 4) else x for i, x in enumerate(operands(9))]
        found, true = ours(inputs), truth(inputs, False)
        assert [x.dtype for x in found[:4]] == [torch.bfloat16, torch.float32, torch.bfloat16, torch.bfloat16]
        rounded = [x for x in zip(found, true, strict=True) if x[0].dtype == torch.bfloat16]
        exact = [x for x in zip(found, true, strict=True) if x[0].dtype == torch.float32]
        assert furthest(*map(list, zip(*rounded, strict=True))) < 2**-8
        # The gradient of y comes in as bfloat16 too, and so do gradients that are summed from it.
        assert furthest(*map(list, zip(*exact, strict=True))) < 2**-8
        assert furthest([found[1]], [true[1]]) < 1e-5  # the last state is float32 all the way

    def test_gradient_of_the_last_state_alone(self) -> None:
        u, delta, A, B, C, D, state = operands(3)
        found = torch.autograd.grad(selective_scan_triton(u.requires_grad_(), delta, A, B, C, D, state)[1].sum(), u)
        wide = [x.detach().double() for x in (u, delta, A, B, C, D, state)]
        wide[0].requires_grad_()
        true = torch.autograd.grad(selective_scan(*wide, form="reference")[1].sum(), wide[0])
        assert furthest(list(found), list(true)) < 1e-5

    def test_groups_in_one_launch_equal_each_alone(self) -> None:
        """Two directions of one input, which is expanded and not copied; its gradient is the sum of both."""
        alone = [operands(5, b=2, seed=seed) for seed in (0, 1)]
        shared = alone[0][0].clone().requires_grad_()
        rest = [torch.stack(x).requires_grad_() for x in list(zip(*alone, strict=True))[1:]]
        y, last = selective_scan_stacked(shared.expand(2, -1, -1, -1), *rest, reverse=[False, True])
        (judged(y[0], last[0]) + judged(y[1], last[1])).backward()
        alone[1][0] = alone[0][0]
        true = [truth(inputs, reverse) for inputs, reverse in zip(alone, (False, True), strict=True)]
        assert furthest([shared.grad], [true[0][2] + true[1][2]]) < 1e-5
        found = [y.detach(), last.detach(), *(x.grad for x in rest)]
        wanted = [torch.stack(x) for i, x in enumerate(zip(*true, strict=True)) if i != 2]
        assert furthest(found, wanted) < 1e-5

    @pytest.mark.parametrize("shape", [(0, 1, 3), (2, 0, 3)], ids=["no steps", "no rows"])
    def test_nothing_to_scan(self, shape: tuple[int, int, int]) -> None:
        length, b, d = shape
        inputs = operands(length, b=b, d=d)
        found = ours(inputs)
        assert found[0].shape == (b, length, d)
        assert torch.equal(found[1], inputs[6])
        assert not found[4].any()  # gradient of A

    @pytest.mark.filterwarnings("ignore")
    def test_operator_is_sound_for_compilers(self) -> None:
        u, delta, A, B, C, D, state = (x.unsqueeze(0).requires_grad_() for x in operands(2))
        operator = torch.ops.affuse.selective_scan_triton.default
        checks = ("test_schema", "test_autograd_registration", "test_faketensor")
        for optional in ((D, state), (None, None)):
            torch.library.opcheck(operator, (u, delta, A, B, C, *optional, 0, True, 0), test_utils=checks)

    def test_the_public_scan_takes_it_by_name(self) -> None:
        u, delta, A, B, C, D, state = operands(5)
        y, last = selective_scan(u, delta, A, B, C, D, state, form="triton")
        expected, expected_last = selective_scan(u, delta, A, B, C, D, state, form="reference")
        assert furthest([y, last], [expected, expected_last]) < 1e-5

    def test_wrong_calls_are_named(self) -> None:
        u, delta, A, B, C, *_ = operands(2)
        with pytest.raises(AffuseError, match=r"not torch\.float64"):
            selective_scan_triton(u.double(), delta, A, B, C)
        with pytest.raises(AffuseError, match=r"B is torch\.float64"):
            selective_scan_triton(u, delta, A, B.double(), C)
        with pytest.raises(AffuseError, match="1 groups and 2 directions"):
            selective_scan_stacked(*(x[None] for x in (u, delta, A, B, C)), reverse=[True, False])
