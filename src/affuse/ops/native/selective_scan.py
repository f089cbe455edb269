"""The native selective scan as custom operators, so that ``torch.compile`` and ``torch.export`` pass through it.

Mathematics, shapes and names are those of `affuse.ops.selective_scan`, which is the interface; the kernel is in
``scan_kernel.h``. Everything here is float32 on the CPU, forward or backward in time.

The forward operator keeps the state before each chunk of steps, and that only where a gradient will be asked for; the
backward operator computes the states of one chunk again at a time. Its memory is 1/`chunk_length` of the history
(b, t, d, n), and scratch that does not depend on t.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor

from affuse.ops import native

WIDEST = 16  # channels in the widest vector: what is kept is padded to it
# Products b * t * d * n from which threads pay: about 0.3 ms of work, against some 0.03 ms to make a thread.
ENOUGH_FORWARD, ENOUGH_BACKWARD = 2**20, 2**19


def chunk_length(n: int | torch.SymInt) -> Any:
    """Steps between two kept states: four arrays of (steps, n) vectors should stay near the first-level cache."""
    return max(8, min(64, 256 // max(n, 1)))


def _kept(u: Tensor, A: Tensor) -> tuple[Any, ...]:
    """Shape of the states before each chunk."""
    chunk = chunk_length(A.shape[1])
    return (u.shape[1] + chunk - 1) // chunk, u.shape[0], (u.shape[2] + WIDEST - 1) // WIDEST * WIDEST * A.shape[1]


def _rows(x: Tensor) -> Tensor:
    """`x`, copied only where its last axis is not dense."""
    return x if x.stride(2) == 1 or x.shape[2] == 1 else x.contiguous()


def _strides(*tensors: Tensor) -> Any:
    pairs = [stride for x in tensors for stride in x.stride()[:2]]
    return (ctypes.c_int64 * len(pairs))(*pairs)


def _optional(x: Tensor | None) -> int | None:
    return None if x is None else x.data_ptr()


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
) -> tuple[Tensor, Tensor, Tensor]:
    b, t, d = u.shape
    n = A.shape[1]
    u, delta, B, C, A = _rows(u), _rows(delta), _rows(B), _rows(C), A.contiguous()
    D = None if D is None else D.contiguous()
    state = None if state is None else state.contiguous()
    y, last = u.new_empty(b, t, d), u.new_empty(b, d, n)
    starts = u.new_empty(_kept(u, A) if keep else 0)
    out_of_memory = native.function("affuse_scan_forward", "i" * 6 + "p" * 11 + "i", "i")(
        *(b, t, d, n, chunk_length(n), reverse),
        *(u.data_ptr(), delta.data_ptr(), A.data_ptr(), B.data_ptr(), C.data_ptr(), _optional(D), _optional(state)),
        _strides(u, delta, B, C),
        *(y.data_ptr(), last.data_ptr(), starts.data_ptr() if keep else None),
        native.threads(b * t * d * n, ENOUGH_FORWARD),
    )
    if out_of_memory:
        raise MemoryError("selective scan: no memory for its scratch")
    return y, last, starts


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
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    b, t, d = u.shape
    n = A.shape[1]
    u, delta, B, C, grad_y, A = _rows(u), _rows(delta), _rows(B), _rows(C), _rows(grad_y), A.contiguous()
    D = None if D is None else D.contiguous()
    grad_last = None if grad_last is None else grad_last.contiguous()
    threads = native.threads(b * t * d * n, ENOUGH_BACKWARD)
    groups = native.function("affuse_scan_groups", "iii", "i")(b, d, threads)
    grad_u, grad_delta, grad_A = u.new_empty(b, t, d), u.new_empty(b, t, d), u.new_empty(d, n)
    grad_B, grad_C = u.new_empty(groups, b, t, n), u.new_empty(groups, b, t, n)
    grad_D, grad_state = u.new_empty(0 if D is None else d), u.new_empty(b, d, n)
    out_of_memory = native.function("affuse_scan_backward", "i" * 6 + "p" * 17 + "i", "i")(
        *(b, t, d, n, chunk_length(n), reverse),
        *(u.data_ptr(), delta.data_ptr(), A.data_ptr(), B.data_ptr(), C.data_ptr(), _optional(D)),
        *(starts.data_ptr(), grad_y.data_ptr(), _optional(grad_last), _strides(u, delta, B, C, grad_y)),
        *(grad_u.data_ptr(), grad_delta.data_ptr(), grad_A.data_ptr(), grad_B.data_ptr(), grad_C.data_ptr()),
        *(None if D is None else grad_D.data_ptr(), grad_state.data_ptr(), threads),
    )
    if out_of_memory:
        raise MemoryError("selective scan: no memory for its scratch")
    if groups == 1:
        return grad_u, grad_delta, grad_A, grad_B[0], grad_C[0], grad_D, grad_state
    return grad_u, grad_delta, grad_A, grad_B.sum(0), grad_C.sum(0), grad_D, grad_state


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
    return u.new_empty(b, t, d), u.new_empty(b, d, n), u.new_empty(_kept(u, A) if keep else 0)


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
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    made = [u.new_empty(x.shape) for x in (u, u, A, B, C)]
    made += [u.new_empty(0 if D is None else D.shape[0]), u.new_empty(u.shape[0], *A.shape)]
    return tuple(made)  # type: ignore[return-value]


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, _, ctx.reverse, _ = inputs
    ctx.has_state = inputs[6] is not None
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors, output[2])
    ctx.mark_non_differentiable(output[2])


def _gradients(
    ctx: Any, grad_y: Tensor | None, grad_last: Tensor | None, _: Tensor | None
) -> tuple[Tensor | None, ...]:
    u, delta, A, B, C, D, starts = ctx.saved_tensors
    if grad_y is None and grad_last is None:
        return (None,) * 9
    if grad_y is None:
        grad_y = torch.zeros_like(u)
    *most, grad_D, grad_state = torch.ops.affuse.selective_scan_native_backward(
        u, delta, A, B, C, D, starts, grad_y, grad_last, ctx.reverse
    )
    return *most, (None if D is None else grad_D), (grad_state if ctx.has_state else None), None, None


def _no_second_derivative(ctx: Any, *_: Tensor | None) -> None:
    raise RuntimeError(
        "the native selective scan can be differentiated once only; form='reference' any number of times"
    )


_OPERANDS = "Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D"
torch.library.define(
    "affuse::selective_scan_native",
    f"({_OPERANDS}, Tensor? state, bool reverse, bool keep) -> (Tensor, Tensor, Tensor)",
)
torch.library.define(
    "affuse::selective_scan_native_backward",
    f"({_OPERANDS}, Tensor starts, Tensor grad_y, Tensor? grad_last, bool reverse)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)
torch.library.impl("affuse::selective_scan_native", "CPU", _forward)
torch.library.impl("affuse::selective_scan_native_backward", "CPU", _backward)
torch.library.register_fake("affuse::selective_scan_native", _forward_shapes)
torch.library.register_fake("affuse::selective_scan_native_backward", _backward_shapes)
torch.library.register_autograd("affuse::selective_scan_native", _gradients, setup_context=_remember)
torch.library.register_autograd("affuse::selective_scan_native_backward", _no_second_derivative)
