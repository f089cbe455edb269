"""The selective scan in Triton as custom operators, so that ``torch.compile`` and ``torch.export`` pass through it.

Mathematics, shapes and names are those of `affuse.ops.selective_scan`; the kernels are in ``kernels.py``. One launch serves
any number of groups, each with its own A, D and direction in time: the two directions of a bidirectional scan, the two
modalities of a joint one (MCO-E Net, Algorithm 1), or both at once. Shape letter: ``g`` group.

Where channels and batch alone fill the GPU, each program walks through the whole sequence. Where they do not, the sequence
is cut into segments: one pass finds what each segment adds to the state that enters it, a short one joins them, and the
last walks through all segments at once. The forward pass keeps one state for each `CHUNK` steps.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from affuse.ops import triton
from affuse.types import AffuseError

CHUNK = 64  # steps between two kept states
LANES = 8  # channels beside each other in one warp; the other lanes hold states
TILE = 512  # states in one program's registers: 16 a thread
ROWS = 65535  # a grid's third axis
GROUPS = 31  # the directions of the groups are the bits of one number
SERVED = (torch.float32, torch.bfloat16, torch.float16)


def selective_scan_triton(
    u: Float[Tensor, "b t d"],
    delta: Float[Tensor, "b t d"],
    A: Float[Tensor, "d n"],
    B: Float[Tensor, "b t n"],
    C: Float[Tensor, "b t n"],
    D: Float[Tensor, " d"] | None = None,
    state: Float[Tensor, "b d n"] | None = None,
    *,
    reverse: bool = False,
    segments: int = 0,
) -> tuple[Float[Tensor, "b t d"], Float[Tensor, "b d n"]]:
    """`affuse.ops.selective_scan.selective_scan` in Triton: one group of `selective_scan_stacked`."""
    one = [None if x is None else x.unsqueeze(0) for x in (u, delta, A, B, C, D, state)]
    y, last = selective_scan_stacked(*one, reverse=[reverse], segments=segments)  # type: ignore[arg-type]
    return y[0], last[0]


def selective_scan_stacked(
    u: Float[Tensor, "g b t d"],
    delta: Float[Tensor, "g b t d"],
    A: Float[Tensor, "g d n"],
    B: Float[Tensor, "g b t n"],
    C: Float[Tensor, "g b t n"],
    D: Float[Tensor, "g d"] | None = None,
    state: Float[Tensor, "g b d n"] | None = None,
    *,
    reverse: Sequence[bool],
    segments: int = 0,
) -> tuple[Float[Tensor, "g b t d"], Float[Tensor, "g b d n"]]:
    """Several selective scans in one launch.

    Args:
        u: input; delta: step sizes, positive; A: negative; B and C: coefficients; D: weight of the direct path; state: the
            first state. As in `selective_scan`, each with an axis of groups before. float32, bfloat16 or float16, of which
            u, delta, B and C need not be the same; what is the same in several groups may be expanded instead of copied.
        reverse: whether each group is scanned from its last step to its first.
        segments: parts in which the sequence is walked through at once; 0 chooses by the size of the GPU.

    Returns:
        The outputs, in the dtype of `u`, and the last states, float32.

    Raises:
        AffuseError: no Triton, no GPU, tensors elsewhere than on it, another dtype, `reverse` of another length, too many rows.
    """
    check(u)
    for name, x in (("delta", delta), ("A", A), ("B", B), ("C", C), ("D", D), ("state", state)):
        if x is not None and x.device != u.device:
            raise AffuseError(f"selective scan: {name} is on {x.device} and u on {u.device}: move one of them")
        if x is not None and x.dtype not in SERVED:
            raise AffuseError(
                f"selective scan: {name} is {x.dtype}; in Triton, float32, bfloat16 and float16 are served"
            )
    if len(reverse) != len(u) or len(u) > GROUPS:
        raise AffuseError(
            f"selective scan: {len(u)} groups and {len(reverse)} directions; give as many, {GROUPS} at most"
        )
    if u.shape[0] * u.shape[1] > ROWS:
        raise AffuseError(f"selective scan: {u.shape[0] * u.shape[1]} rows; in Triton, {ROWS} at most: split the batch")
    inputs = (u, delta, A, B, C, D, state)
    keep = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in inputs)
    A, D, state = (None if x is None else x.float() for x in (A, D, state))  # type: ignore[assignment]
    y, last, _ = torch.ops.affuse.selective_scan_triton(
        u, delta, A, B, C, D, state, sum(1 << g for g, turned in enumerate(reverse) if turned), keep, segments
    )
    return y, last


def check(u: Tensor) -> None:
    """Whether the kernels serve this input.

    Raises:
        AffuseError: they do not; the message says why.
    """
    ok, why = triton.available()
    if not ok:
        raise AffuseError(f"selective scan with form='triton': {why}")
    wanted = "cpu" if triton.interpreted() else "cuda"
    if u.device.type != wanted or u.dtype not in SERVED:
        raise AffuseError(
            f"selective scan with form='triton' serves float32, bfloat16 and float16 on {wanted}, not {u.dtype} on {u.device}"
        )


def _power(x: int) -> int:
    """The smallest power of two that is not below `x`."""
    return 1 << max(x - 1, 0).bit_length()


def _tile(t: int, d: int, n: int, most: int) -> dict[str, int]:
    """The kernels' constants: channels by P and L, states N, and steps at a time R, at `most`, so that registers hold them."""
    N = _power(n)
    P = min(max(1, TILE // (N * LANES)), _power(-(-d // LANES)))
    R = max(1, min(most, most * TILE // (P * N * LANES), _power(t)))
    return {"P": P, "N": N, "L": LANES, "R": R}


@functools.cache
def _processors(device: torch.device) -> int:
    """Multiprocessors of the GPU."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


def _segment_length(programs: int, t: int, chunk: int, asked: int, device: torch.device) -> int:
    """Steps of a segment, whole chunks.

    A multiprocessor issues from four warps at once. With half of them busy one pass is cheaper than the extra one that
    segments cost; else, enough segments for eight warps each, so that they hide each other's latency.
    """
    most = max(1, t // (2 * chunk))
    if asked:
        segments = asked
    elif programs >= 2 * _processors(device) or most == 1 or device.type != "cuda":
        segments = 1
    else:
        segments = min(most, -(-8 * _processors(device) // programs))
    chunks = -(-t // chunk)
    return -(-chunks // segments) * chunk


def _dense(x: Tensor) -> Tensor:
    """`x`, copied only where its last axis is not dense."""
    return x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()


def _channels_last(x: Tensor) -> Tensor:
    """(..., d, n) as (..., n, d), dense, as the kernels have it."""
    return x.transpose(-1, -2).contiguous()


def _kept(u: Tensor, A: Tensor) -> tuple[Any, ...]:
    """Shape of the states before each chunk."""
    g, b, t, d = u.shape
    return g * b, (t + CHUNK - 1) // CHUNK, A.shape[2], d


class _Launch:
    """What forward and backward launches have in common: sizes, the grid, and what enters each segment."""

    def __init__(self, u: Tensor, A: Tensor, reverse: int, segments: int, steps: int) -> None:
        from affuse.ops.triton import kernels  # imports Triton

        self.kernels = kernels
        g, self.b, self.t, self.d = u.shape
        self.n, self.rows, self.reverse = A.shape[2], g * self.b, reverse
        self.constants = _tile(self.t, self.d, self.n, steps)
        self.blocks = -(-self.d // (self.constants["P"] * LANES))
        self.segment = _segment_length(self.rows * self.blocks, self.t, CHUNK, segments, u.device)
        self.parts = -(-self.t // self.segment)
        self.grid = (self.blocks, self.parts, self.rows)
        self.A = _channels_last(A) * math.log2(math.e)

    def entries(self, x: Tensor, delta: Tensor, into: Tensor, first: Tensor | None, backward: bool) -> Tensor | None:
        """What enters each segment, (rows, segments, n, d); None for zeros. first: what enters the first, (g, b, n, d)."""
        if self.parts == 1:
            return first
        ends = self.A.new_empty(self.rows, self.parts, self.n, self.d)
        sums = self.A.new_empty(self.rows, self.parts, self.d)
        self.kernels.segment_states[self.grid](
            *(x, delta, self.A, into, ends, sums, self.b, self.t, self.d, self.n, self.reverse, self.segment),
            *(stride for y in (x, delta, into) for stride in y.stride()[:3]),
            BACKWARD=backward,
            num_warps=1,
            **self.constants,
        )
        block = 256
        self.kernels.join_segments[(-(-self.n * self.d // block), self.rows)](
            *(self.A, ends, sums, first, self.b, self.d, self.n, self.parts),
            HAS_ENTRY=first is not None,
            BACKWARD=backward,
            BLOCK=block,
        )
        return ends


def _on_its_device(operator: Callable[..., Any]) -> Callable[..., Any]:
    """`operator` with the GPU of its first argument as the current one, where Triton launches."""

    def placed(u: Tensor, *rest: Any) -> Any:
        with torch.cuda.device_of(u):
            return operator(u, *rest)

    return placed


def _forward(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    state: Tensor | None,
    reverse: int,
    keep: bool,
    segments: int,
) -> tuple[Tensor, Tensor, Tensor]:
    y, last, starts = _forward_shapes(u, delta, A, B, C, D, state, reverse, keep, segments)
    if not y.numel() or not last.numel():
        last = last.zero_() if state is None else state.clone()
        return (y if D is None else y.copy_(u * D[:, None, None])), last, starts.zero_()
    u, delta, B, C = _dense(u), _dense(delta), _dense(B), _dense(C)
    D = None if D is None else D.contiguous()
    launch = _Launch(u, A, reverse, segments, 4)
    entry = launch.entries(u, delta, B, None if state is None else _channels_last(state), False)
    ended = last.new_empty(launch.rows, launch.n, launch.d)
    launch.kernels.forward[launch.grid](
        *(u, delta, launch.A, B, C, D, entry, y, ended, starts),
        *(launch.b, launch.t, launch.d, launch.n, reverse, launch.segment, CHUNK),
        *(stride for x in (u, delta, B, C) for stride in x.stride()[:3]),
        HAS_D=D is not None,
        HAS_ENTRY=entry is not None,
        KEEP=keep,
        num_warps=1,
        **launch.constants,
    )
    return y, last.copy_(ended.view(*last.shape[:2], launch.n, launch.d).transpose(2, 3)), starts


def _backward(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    starts: Tensor,
    grad_y: Tensor,
    grad_last: Tensor | None,
    reverse: int,
    segments: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    found = _backward_shapes(u, delta, A, B, C, D, starts, grad_y, grad_last, reverse, segments)
    grad_u, grad_delta, *_, grad_state = found
    if not grad_u.numel() or not grad_state.numel():
        for x in found:
            x.zero_()
        if D is not None:
            grad_u.copy_(grad_y * D[:, None, None])
            found[5].copy_((grad_y * u).sum((1, 2)))
        if grad_last is not None:
            grad_state.copy_(grad_last)
        return found
    u, delta, B, C, grad_y = _dense(u), _dense(delta), _dense(B), _dense(C), _dense(grad_y)
    D = None if D is None else D.contiguous()
    launch = _Launch(u, A, reverse, segments, 2)  # the states of more steps would leave the registers
    g, (b, t, d, n), parts, rows = len(u), (launch.b, launch.t, launch.d, launch.n), launch.parts, launch.rows
    entry = launch.entries(grad_y, delta, C, None if grad_last is None else _channels_last(grad_last), True)
    carried = starts.new_empty(rows, n, d)
    tile = launch.constants
    programs, pieces = launch.blocks * parts * rows, -(-CHUNK // tile["R"])
    scratch = starts.new_empty(programs, pieces, tile["P"] * tile["N"] * tile["L"])
    sum_A = starts.new_empty(rows, parts, n, d)
    sum_B, sum_C = starts.new_empty(launch.blocks, g, b, t, n), starts.new_empty(launch.blocks, g, b, t, n)
    sum_D = None if D is None else starts.new_empty(rows, parts, d)
    launch.kernels.backward[launch.grid](
        *(u, delta, launch.A, B, C, D, starts, grad_y, entry, scratch),
        *(grad_u, grad_delta, sum_A, sum_B, sum_C, sum_D, carried),
        *(b, t, d, n, reverse, launch.segment, CHUNK),
        *(stride for x in (u, delta, B, C, grad_y) for stride in x.stride()[:3]),
        HAS_D=D is not None,
        HAS_ENTRY=entry is not None,
        num_warps=1,
        **tile,
    )
    grad_A = sum_A.view(g, b * parts, n, d).sum(1).transpose(1, 2).contiguous()
    grad_state.copy_(carried.view(g, b, n, d).transpose(2, 3))
    grad_D = found[5] if sum_D is None else sum_D.view(g, b * parts, d).sum(1)
    return grad_u, grad_delta, grad_A, sum_B.sum(0).to(B.dtype), sum_C.sum(0).to(C.dtype), grad_D, grad_state


def _forward_shapes(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    state: Tensor | None,
    reverse: int,
    keep: bool,
    segments: int,
) -> tuple[Tensor, Tensor, Tensor]:
    g, b, _, d = u.shape
    return u.new_empty(u.shape), A.new_empty(g, b, d, A.shape[2]), A.new_empty(_kept(u, A) if keep else 0)


def _backward_shapes(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    starts: Tensor,
    grad_y: Tensor,
    grad_last: Tensor | None,
    reverse: int,
    segments: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    g, b, _, d = u.shape
    made = [x.new_empty(x.shape) for x in (u, delta, A, B, C)]
    made += [A.new_empty(0 if D is None else D.shape), A.new_empty(g, b, d, A.shape[2])]
    return tuple(made)  # type: ignore[return-value]


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, state, ctx.reverse, _, ctx.segments = inputs
    ctx.has_state = state is not None
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors, output[2])
    ctx.mark_non_differentiable(output[2])


def _gradients(
    ctx: Any, grad_y: Tensor | None, grad_last: Tensor | None, _: Tensor | None
) -> tuple[Tensor | None, ...]:
    u, delta, A, B, C, D, starts = ctx.saved_tensors
    if grad_y is None and grad_last is None:
        return (None,) * 10
    if grad_y is None:
        grad_y = torch.zeros_like(u)
    *most, grad_D, grad_state = torch.ops.affuse.selective_scan_triton_backward(
        u, delta, A, B, C, D, starts, grad_y, grad_last, ctx.reverse, ctx.segments
    )
    return *most, (None if D is None else grad_D), (grad_state if ctx.has_state else None), None, None, None


def _no_second_derivative(ctx: Any, *_: Tensor | None) -> None:
    raise RuntimeError(
        "the selective scan in Triton can be differentiated once only; form='reference' any number of times"
    )


_OPERANDS = "Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D"
torch.library.define(
    "affuse::selective_scan_triton",
    f"({_OPERANDS}, Tensor? state, int reverse, bool keep, int segments) -> (Tensor, Tensor, Tensor)",
)
torch.library.define(
    "affuse::selective_scan_triton_backward",
    f"({_OPERANDS}, Tensor starts, Tensor grad_y, Tensor? grad_last, int reverse, int segments)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)
for device in ("cpu", "cuda"):  # on the CPU, in Triton's interpreter
    torch.library.impl("affuse::selective_scan_triton", device, _on_its_device(_forward))
    torch.library.impl("affuse::selective_scan_triton_backward", device, _on_its_device(_backward))
torch.library.register_fake("affuse::selective_scan_triton", _forward_shapes)
torch.library.register_fake("affuse::selective_scan_triton_backward", _backward_shapes)
torch.library.register_autograd("affuse::selective_scan_triton", _gradients, setup_context=_remember)
torch.library.register_autograd("affuse::selective_scan_triton_backward", _no_second_derivative)
