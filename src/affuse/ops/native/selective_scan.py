"""The native selective scan, as custom operators for ``torch.compile`` and ``torch.export`` and without them in eager mode.

Mathematics, shapes and names are those of `affuse.ops.selective_scan`, which is the interface; the kernel is in
``scan_kernel.h``. Everything here is float32 on the CPU, forward or backward in time.

Forward keeps the state before each chunk of steps but the first, and that only where a gradient will be asked for; backward
computes the states of one chunk again at a time. Its memory is 1/`chunk_length` of the history (b, t, d, n), and scratch
that does not depend on t.

A short scan takes a few microseconds, less than PyTorch needs to find an operator that is written in Python. So `scan` calls
the C functions itself where nothing traces it.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from affuse.ops import native

WIDEST = 16  # channels in the widest vector: what is kept is padded to it
# Products b * t * d * n from which threads pay: about 0.3 ms of work, against some 0.03 ms to make a thread.
ENOUGH_FORWARD, ENOUGH_BACKWARD = 2**20, 2**19
_FORWARD, _BACKWARD = struct.Struct("25q"), struct.Struct("34q")
_PLAIN = {Tensor, torch.nn.Parameter, type(None)}


def scan(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, state: Tensor | None, reverse: bool
) -> tuple[Tensor, Tensor]:
    """Output and last state of `affuse.ops.selective_scan.selective_scan`; everything is float32 on the CPU."""
    inputs = (u, delta, A, B, C, D, state)
    keep = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in inputs)
    # A tracer shows itself, or hands in tensors of a class of its own.
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or not _are_plain(inputs):
        y, last, _ = torch.ops.affuse.selective_scan_native(*inputs, reverse, keep)
        return y, last
    if keep:
        return _Scan.apply(*inputs, reverse)
    return _forward(*inputs, reverse, False)[:2]


def _are_plain(tensors: Sequence[Tensor | None]) -> bool:
    return all(type(x) in _PLAIN for x in tensors)


def chunk_length(n: int | torch.SymInt) -> Any:
    """Steps between two kept states: four arrays of (steps, n) vectors should stay near the first-level cache."""
    return max(8, min(64, 256 // max(n, 1)))


def _kept(u: Tensor, A: Tensor) -> tuple[Any, ...]:
    """Shape of the states before each chunk but the first."""
    chunk = chunk_length(A.shape[1])
    return max(u.shape[1] - 1, 0) // chunk, u.shape[0], (u.shape[2] + WIDEST - 1) // WIDEST * WIDEST * A.shape[1]


def _rows(x: Tensor) -> tuple[Tensor, int, int]:
    """`x`, copied only where its last axis is not dense, and its strides of batch and time."""
    batch, time, last = x.stride()
    if last != 1 and x.shape[2] != 1:
        x = x.contiguous()
        batch, time, _ = x.stride()
    return x, batch, time


def _call(name: str, layout: struct.Struct, *arguments: int) -> None:
    if native.function(name, "p", "i")(layout.pack(*arguments)):
        raise MemoryError("selective scan: no memory for its scratch")


def _address(x: Tensor | None) -> int:
    return 0 if x is None else x.data_ptr()


def _dense(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.contiguous()


def _forward(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    state: Tensor | None,
    reverse: bool,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor | None]:
    b, t, d = u.shape
    n = A.shape[1]
    chunk = chunk_length(n)
    y, last = u.new_empty(b, t, d), u.new_empty(b, d, n)
    starts = u.new_empty(_kept(u, A)) if keep and t > chunk else None
    u, u_batch, u_step = _rows(u)
    delta, delta_batch, delta_step = _rows(delta)
    B, B_batch, B_step = _rows(B)
    C, C_batch, C_step = _rows(C)
    A, D, state = A.contiguous(), _dense(D), _dense(state)
    _call(
        *("affuse_scan_forward", _FORWARD, native.threads(b * t * d * n, ENOUGH_FORWARD)),
        *(b, t, d, n, chunk, reverse),
        *(u.data_ptr(), u_batch, u_step, delta.data_ptr(), delta_batch, delta_step),
        *(B.data_ptr(), B_batch, B_step, C.data_ptr(), C_batch, C_step),
        *(A.data_ptr(), _address(D), _address(state)),
        *(y.data_ptr(), last.data_ptr(), _address(starts)),
    )
    return y, last, starts


def _backward(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    state: Tensor | None,
    starts: Tensor | None,
    grad_y: Tensor,
    grad_last: Tensor | None,
    reverse: bool,
) -> tuple[Tensor | None, ...]:
    b, t, d = u.shape
    n = A.shape[1]
    chunk = chunk_length(n)
    threads = native.threads(b * t * d * n, ENOUGH_BACKWARD)
    groups = 1 if threads == 1 else native.function("affuse_scan_groups", "iii", "i")(b, d, threads)
    grad_u, grad_delta, grad_A = u.new_empty(b, t, d), u.new_empty(b, t, d), u.new_empty(d, n)
    many = () if groups == 1 else (groups,)
    grad_B, grad_C = u.new_empty(*many, b, t, n), u.new_empty(*many, b, t, n)
    grad_D, grad_state = None if D is None else u.new_empty(d), None if state is None else u.new_empty(b, d, n)
    u, u_batch, u_step = _rows(u)
    delta, delta_batch, delta_step = _rows(delta)
    B, B_batch, B_step = _rows(B)
    C, C_batch, C_step = _rows(C)
    grad_y, y_batch, y_step = _rows(grad_y)
    A, D, state, grad_last = A.contiguous(), _dense(D), _dense(state), _dense(grad_last)
    _call(
        *("affuse_scan_backward", _BACKWARD, threads),
        *(b, t, d, n, chunk, reverse),
        *(u.data_ptr(), u_batch, u_step, delta.data_ptr(), delta_batch, delta_step),
        *(B.data_ptr(), B_batch, B_step, C.data_ptr(), C_batch, C_step),
        *(A.data_ptr(), _address(D), _address(state)),
        *(grad_y.data_ptr(), y_batch, y_step, _address(starts), _address(grad_last)),
        *(grad_u.data_ptr(), grad_delta.data_ptr(), grad_A.data_ptr(), grad_B.data_ptr(), grad_C.data_ptr()),
        *(_address(grad_D), _address(grad_state)),
    )
    if groups > 1:
        grad_B, grad_C = grad_B.sum(0), grad_C.sum(0)
    return grad_u, grad_delta, grad_A, grad_B, grad_C, grad_D, grad_state


class _Scan(torch.autograd.Function):
    """The operators below without what PyTorch does around an operator."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        y, last, starts = _forward(*inputs, True)  # type: ignore[call-arg]
        ctx.reverse = inputs[7]
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs[:7], starts)
        return y, last

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        return _gradients(ctx, grads[0], grads[1], None)[:8]


def _present(*tensors: Tensor | None) -> Any:
    """An operator's outputs cannot be None: what is absent is empty."""
    like = next(x for x in tensors if x is not None)
    return tuple(like.new_empty(0) if x is None else x for x in tensors)


def _forward_shapes(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    state: Tensor | None,
    reverse: bool,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    b, t, d = u.shape
    n = A.shape[1]
    return u.new_empty(b, t, d), u.new_empty(b, d, n), u.new_empty(_kept(u, A) if keep and t > chunk_length(n) else 0)


def _backward_shapes(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    state: Tensor | None,
    starts: Tensor,
    grad_y: Tensor,
    grad_last: Tensor | None,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    made = [u.new_empty(x.shape) for x in (u, u, A, B, C)]
    made += [u.new_empty(0 if x is None else x.shape) for x in (D, state)]
    return tuple(made)  # type: ignore[return-value]


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, ctx.reverse, _ = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors, output[2])
    ctx.mark_non_differentiable(output[2])


def _gradients(
    ctx: Any, grad_y: Tensor | None, grad_last: Tensor | None, _: Tensor | None
) -> tuple[Tensor | None, ...]:
    saved = ctx.saved_tensors
    if grad_y is None and grad_last is None:
        return (None,) * 9
    if grad_y is None:
        grad_y = torch.zeros_like(saved[0])
    inputs = (*saved, grad_y, grad_last)
    # Where gradients will be differentiated again, or are traced, the operator speaks for itself.
    if torch.is_grad_enabled() or torch.compiler.is_compiling() or not _are_plain(inputs):
        if saved[7] is None:
            inputs = (*saved[:7], grad_y.new_empty(0), grad_y, grad_last)
        found = torch.ops.affuse.selective_scan_native_backward(*inputs, ctx.reverse)
        found = *found[:5], (None if saved[5] is None else found[5]), (None if saved[6] is None else found[6])
    else:
        found = _backward(*inputs, ctx.reverse)  # type: ignore[call-arg]
    return *found, None, None


def _no_second_derivative(ctx: Any, *_: Tensor | None) -> None:
    raise RuntimeError(
        "the native selective scan can be differentiated once only; form='reference' any number of times"
    )


_OPERANDS = "Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? state"
torch.library.define(
    "affuse::selective_scan_native",
    f"({_OPERANDS}, bool reverse, bool keep) -> (Tensor, Tensor, Tensor)",
)
torch.library.define(
    "affuse::selective_scan_native_backward",
    f"({_OPERANDS}, Tensor starts, Tensor grad_y, Tensor? grad_last, bool reverse)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)
torch.library.impl("affuse::selective_scan_native", "CPU", lambda *inputs: _present(*_forward(*inputs)))
torch.library.impl("affuse::selective_scan_native_backward", "CPU", lambda *inputs: _present(*_backward(*inputs)))
torch.library.register_fake("affuse::selective_scan_native", _forward_shapes)
torch.library.register_fake("affuse::selective_scan_native_backward", _backward_shapes)
torch.library.register_autograd("affuse::selective_scan_native", _gradients, setup_context=_remember)
torch.library.register_autograd("affuse::selective_scan_native_backward", _no_second_derivative)
