"""The selective scan in pure PyTorch, a chunk of steps at a time, as custom operators and without them in eager mode.

Mathematics, shapes and names are those of `affuse.ops.selective_scan`, which is the interface; here everything has one dtype,
the state's, and there is no direct path D. What does not depend on the step before is done for a whole chunk at once, in
buffers that stay in a CPU's cache; the recurrence itself takes one fused operation a step.

For the backward pass, a sequence that fits into one chunk keeps its decays and states. A longer one keeps the state before
each chunk, and computes the others again.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

CHUNK = 16  # most steps whose states are held at once
LEAST = 4  # steps in a chunk, however large the state is
CACHED = 2**16  # numbers in the states of the steps that are worked on at once, about: more leave the cache of a CPU
_PLAIN = {Tensor, torch.nn.Parameter, type(None)}


def scan(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor | None, reverse: bool
) -> tuple[Tensor, Tensor]:
    """Output, without the direct path, and last state; see `affuse.ops.selective_scan.selective_scan`."""
    inputs = (u, delta, A, B, C, state)
    keep = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in inputs)
    # A tracer shows itself, or hands in tensors of a class of its own.
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or not _are_plain(inputs):
        y, last, _ = torch.ops.affuse.selective_scan_chunked(u, delta, A, B, C, state, reverse, keep)
        return y, last
    if keep:
        return _Scan.apply(u, delta, A, B, C, state, reverse)
    return _forward(u, delta, A, B, C, state, reverse, False)[:2]


def without_autocast(device: str) -> AbstractContextManager[Any]:
    """The state stays in the dtype that was chosen for it; entering a context costs as much as a short step."""
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()


def _are_plain(tensors: Sequence[Tensor | None]) -> bool:
    return all(type(x) in _PLAIN for x in tensors)


def chunk_length(u: Tensor, A: Tensor) -> Any:
    """Steps between two kept states."""
    return torch.sym_max(LEAST, torch.sym_min(CHUNK, 4 * CACHED // torch.sym_max(_size(u, A), 1)))


def _size(u: Tensor, A: Tensor) -> Any:
    """Numbers in the state."""
    return u.shape[0] * A.shape[0] * A.shape[1]


def _kept(u: Tensor, A: Tensor) -> tuple[Any, ...]:
    """Shape of what is kept for the backward pass: decays and states of all steps, or the state before each later chunk."""
    b, t, d = u.shape
    if t <= CHUNK:
        return 2, t, b, d, A.shape[1]
    return (t - 1) // chunk_length(u, A), b, d, A.shape[1]


def _time_first(x: Tensor, reverse: bool) -> Tensor:
    x = x.transpose(0, 1)
    return x.flip(0) if reverse else x.contiguous()


def _batch_first(pieces: list[Tensor], reverse: bool) -> Tensor:
    x = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
    return (x.flip(0) if reverse else x).transpose(0, 1)


def _cut(part: slice, *tensors: Tensor) -> Sequence[Tensor]:
    """Steps of time-first tensors; they themselves where that is all, since each view costs as much as a short step."""
    return tensors if part.start == 0 and part.stop == len(tensors[0]) else [x[part] for x in tensors]


def _over_states(x: Tensor, weights: Tensor) -> Tensor:
    """Sum over n of (t, b, d, n) times (t, b, n). A row times a matrix takes a quarter of a matrix times a column."""
    return torch.matmul(weights.unsqueeze(2), x.transpose(2, 3)).squeeze(2)


def _fill(
    step: Tensor, driven: Tensor, A: Tensor, into: Tensor, state: Tensor | None, decays: Tensor, states: Tensor
) -> None:
    """Writes the decays and states of some steps, time first: (t, b, d, n) both; `driven` is delta * u."""
    torch.mul(driven.unsqueeze(-1), into.unsqueeze(2), out=states)
    if state is None:  # with nothing before it, the first step has nothing to decay
        if len(states) == 1:
            return
        step, decays, state, states = step[1:], decays[1:], states[0], states[1:]
    torch.mul(step.unsqueeze(-1), A, out=decays).exp_()
    for decay, h in zip(decays.unbind(0), states.unbind(0), strict=True):
        state = h.addcmul_(decay, state)


def _forward(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor | None, reverse: bool, keep: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    b, t, d = u.shape
    n = A.shape[1]
    if t == 0:
        kept = u.new_empty(_kept(u, A)) if keep else None
        return u.new_empty(b, t, d), u.new_zeros(b, d, n) if state is None else state.clone(), kept
    step, x, into, out = (_time_first(z, reverse) for z in (delta, u, B, C))  # t b .
    driven = step * x
    chunk = t if t <= CHUNK else chunk_length(u, A)
    at_once = min(chunk, max(1, CACHED // max(_size(u, A), 1)))  # steps of a chunk that the cache holds
    all_at_hand = keep and t <= CHUNK
    buffer = u.new_empty(2, t, b, d, n) if all_at_hand else u.new_empty(3, at_once, b, d, n)
    decays, *states = buffer.unbind(
        0
    )  # two buffers of states take turns: the one before ends in the state that goes on
    starts, outputs, h = [], [], state
    for start in range(0, t, chunk):
        if start and keep:
            starts.append(h.clone())  # type: ignore[union-attr]
        for i in range(start, min(start + chunk, t), at_once):
            part = slice(i, min(i + at_once, start + chunk, t))
            held = part if all_at_hand else slice(0, part.stop - part.start)
            found = states[0][held]
            step_, driven_, into_, out_ = _cut(part, step, driven, into, out)
            _fill(step_, driven_, A, into_, h, decays[held], found)
            outputs.append(_over_states(found, out_))  # t b d
            h = found[-1]
            states.reverse()
    kept = None
    if keep:
        kept = buffer if all_at_hand else torch.stack(starts)
    last = h.clone() if keep or t > 1 else h  # type: ignore[union-attr]  # no part of a buffer that is kept or large
    return _batch_first(outputs, reverse).contiguous(), last, kept  # type: ignore[return-value]


def _backward(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    state: Tensor | None,
    kept: Tensor,
    grad_y: Tensor | None,
    grad_last: Tensor | None,
    reverse: bool,
) -> tuple[Tensor | None, ...]:
    b, t, d = u.shape
    n = A.shape[1]
    grad_A, ones = torch.zeros_like(A), A.new_ones(n)
    carried = grad_last  # gradient of the state after the current step, from all later steps
    if t == 0:
        grads = [torch.zeros_like(z) for z in (u, delta, A, B, C)]
        return *grads, None if state is None else torch.zeros_like(state) if carried is None else carried.clone()
    step, x, into, out = (_time_first(z, reverse) for z in (delta, u, B, C))
    whole = (step, x, step * x, into, out, torch.zeros_like(x) if grad_y is None else _time_first(grad_y, reverse))
    all_at_hand = t <= CHUNK
    chunk = min(CHUNK, max(1, CACHED // max(_size(u, A), 1))) if all_at_hand else chunk_length(u, A)
    longest = min(chunk, t)
    grad_states, products, *again = u.new_empty(2 if all_at_hand else 4, longest, b, d, n).unbind(0)
    histories = kept.unbind(0) if all_at_hand else ()
    pieces: list[tuple[Tensor, ...]] = []
    for i in reversed(range(0, t, chunk)):
        part = slice(i, min(i + chunk, t))
        steps = part.stop - part.start
        step, x, driven, into, out, gy = _cut(part, *whole)
        if all_at_hand:
            decays, states = _cut(part, *histories)
            before = histories[1][i - 1] if i else state
        else:
            decays, states = again[0][:steps], again[1][:steps]
            before = kept[i // chunk - 1] if i else state
            _fill(step, driven, A, into, before, decays, states)
        grad_h, product = _cut(slice(0, steps), grad_states, products)  # gradient of each state; times its decay
        torch.mul(gy.unsqueeze(-1), out.unsqueeze(2), out=grad_h)
        first = 1 if before is None else 0
        for k in reversed(range(steps)):
            g = grad_h[k]
            if carried is not None:
                g.add_(carried)
            if k >= first:
                carried = torch.mul(g, decays[k], out=product[k])
        grad_out = torch.matmul(gy.unsqueeze(2), states).squeeze(2)  # t b n
        grad_into = torch.matmul(driven.unsqueeze(2), grad_h).squeeze(2)  # t b n
        grad_driven = _over_states(grad_h, into)  # t b d
        grad_step = grad_driven * x
        if first < steps:
            carried = carried.clone()  # type: ignore[union-attr]  # the products become the gradient of delta * A
            if before is not None:
                product[0].mul_(before)
            product[1:].mul_(states[:-1])
            exponent, scratch = product[first:], grad_h[first:]
            grad_step[first:] += torch.mul(exponent, A, out=scratch).view(-1, n).mv(ones).view(steps - first, b, d)
            grad_A += exponent.mul_(step[first:].unsqueeze(-1)).sum((0, 1))
        pieces.append((grad_driven * step, grad_step, grad_into, grad_out))
    grad_u, grad_delta, grad_B, grad_C = (
        _batch_first(list(parts), reverse) for parts in zip(*reversed(pieces), strict=True)
    )
    return grad_u, grad_delta, grad_A, grad_B, grad_C, None if state is None else carried


class _Scan(torch.autograd.Function):
    """The operators below without what PyTorch does around an operator."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        *tensors, reverse = inputs
        y, last, kept = _forward(*inputs, True)  # type: ignore[call-arg]
        ctx.reverse = reverse
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors, kept)
        return y, last

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        return _gradients(ctx, grads[0], grads[1], None)[:7]


def _gradients(
    ctx: Any, grad_y: Tensor | None, grad_last: Tensor | None, _: Tensor | None
) -> tuple[Tensor | None, ...]:
    saved = ctx.saved_tensors
    if grad_y is None and grad_last is None:
        return (None,) * 8
    inputs = (*saved, grad_y, grad_last)
    # Where gradients will be differentiated again, or are traced, the operator speaks for itself.
    if torch.is_grad_enabled() or torch.compiler.is_compiling() or not _are_plain(inputs):
        found = torch.ops.affuse.selective_scan_chunked_backward(*inputs, ctx.reverse)
        found = *found[:5], None if saved[5] is None else found[5]
    else:
        with without_autocast(saved[0].device.type):
            found = _backward(*inputs, ctx.reverse)  # type: ignore[call-arg]
    return *found, None, None


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, ctx.reverse, _ = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors, output[2])
    ctx.mark_non_differentiable(output[2])


def _no_second_derivative(ctx: Any, *_: Tensor | None) -> None:
    raise RuntimeError(
        "the chunked selective scan can be differentiated once only; form='reference' any number of times"
    )


def _operator_forward(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor | None, reverse: bool, keep: bool
) -> tuple[Tensor, Tensor, Tensor]:
    with without_autocast(u.device.type):
        y, last, kept = _forward(u, delta, A, B, C, state, reverse, keep)
    if kept is None:
        kept = u.new_empty(0)
    elif state is None and 0 < u.shape[1] <= CHUNK:
        kept[0, 0] = 0  # the decay that was never asked for: what an operator gives back is the same from call to call
    return y, last, kept


def _operator_backward(*inputs: Any) -> tuple[Tensor, ...]:
    with without_autocast(inputs[0].device.type):
        grads = _backward(*inputs)
    # What an operator gives back is dense, never None, and none of its inputs.
    made = (inputs[0].new_empty(0) if x is None else x.contiguous() for x in grads)
    return tuple(x.clone() if x is inputs[8] else x for x in made)


def _forward_shapes(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor | None, reverse: bool, keep: bool
) -> tuple[Tensor, Tensor, Tensor]:
    b, t, d = u.shape
    return u.new_empty(b, t, d), u.new_empty(b, d, A.shape[1]), u.new_empty(_kept(u, A) if keep else 0)


def _backward_shapes(*inputs: Any) -> tuple[Tensor, ...]:
    like = inputs[0]
    return tuple(like.new_empty(0 if x is None else x.shape) for x in (like, like, *inputs[2:6]))


_OPERANDS = "Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? state"
torch.library.define(
    "affuse::selective_scan_chunked", f"({_OPERANDS}, bool reverse, bool keep) -> (Tensor, Tensor, Tensor)"
)
torch.library.define(
    "affuse::selective_scan_chunked_backward",
    f"({_OPERANDS}, Tensor kept, Tensor? grad_y, Tensor? grad_last, bool reverse)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)
torch.library.impl("affuse::selective_scan_chunked", "CompositeExplicitAutograd", _operator_forward)
torch.library.impl("affuse::selective_scan_chunked_backward", "CompositeExplicitAutograd", _operator_backward)
torch.library.register_fake("affuse::selective_scan_chunked", _forward_shapes)
torch.library.register_fake("affuse::selective_scan_chunked_backward", _backward_shapes)
torch.library.register_autograd("affuse::selective_scan_chunked", _gradients, setup_context=_remember)
torch.library.register_autograd("affuse::selective_scan_chunked_backward", _no_second_derivative)
