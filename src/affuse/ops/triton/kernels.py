"""The selective scan in Triton: kernels. `affuse.ops.triton.scan` launches them; this module alone imports Triton.

A program holds the states of P * L channels as a tile (P, N, L), N states each (padded to a power of two), in one warp, and
walks through its part of the sequence. Triton spreads a tile over the lanes from its last axis back, so that with L = 8 a
sum over states takes few shuffles (4 lanes), and so does one over channels (8 lanes), which the backward pass needs for
the gradients of B and C at every step.

A grid is (blocks of channels, segments of time, rows); a row is one sequence of one group (a modality in one direction).
A group whose bit is set in `reverse` walks from its last step to its first: step i then stands at t - 1 - i. Steps beyond
the end read as 0, for which a step changes nothing: the decay is exp(0) and nothing is added.

Arguments: `stride_*_g`, `_b` and `_t` are strides over group, batch and time; the last axis is dense. A, D and whatever
has an axis of states lie dense with channels last, (g, n, d) and so on. A is A log2(e), since exp2 is the instruction. No
function here is type-checked: their arguments are Triton's.
"""

from __future__ import annotations

from typing import no_type_check

import triton
import triton.language as tl

# Sizes, strides and the scratch stay unknown to the compiler: one compiled kernel serves all shapes, and no load or store is
# widened at the cost of the layout above, which the loads would otherwise decide.
_SIZES = ["b", "t", "d", "n", "reverse", "segment", "segments", "chunk", "scratch"]
_STRIDES = [f"stride_{x}_{axis}" for x in ("x", "delta", "into", "u", "B", "C", "grad") for axis in "gbt"]
UNKNOWN = _SIZES + _STRIDES


@triton.jit
@no_type_check
def _channels(P: tl.constexpr, L: tl.constexpr):
    """Channels of a program: (P, L)."""
    return tl.program_id(0) * (P * L) + tl.arange(0, P)[:, None] * L + tl.arange(0, L)[None, :]


@triton.jit
@no_type_check
def _walk(x, group, member, turned, t, stride_g, stride_b, stride_t):
    """Where step 0 of a row stands, and how far it is from a step to the next."""
    x += group.to(tl.int64) * stride_g + member.to(tl.int64) * stride_b
    stride = tl.zeros((), tl.int64) + stride_t
    return x + tl.where(turned, (t - 1) * stride, 0), tl.where(turned, -stride, stride)


@triton.jit(do_not_specialize=UNKNOWN)
@no_type_check
def segment_states(
    x, delta, A, into, ends, sums,
    b, t, d, n, reverse, segment,
    stride_x_g, stride_x_b, stride_x_t, stride_delta_g, stride_delta_b, stride_delta_t,
    stride_into_g, stride_into_b, stride_into_t,
    BACKWARD: tl.constexpr, P: tl.constexpr, N: tl.constexpr, L: tl.constexpr, R: tl.constexpr,
):  # fmt: skip
    """What each segment adds to the state that enters it, and the sum of its step sizes.

    BACKWARD: x is the gradient of y and `into` is C; what is carried is the gradient of the state, from the segment's end
    to its start. ends: (rows, segments, n, d); sums: (rows, segments, d).
    """
    part, row = tl.program_id(1), tl.program_id(2)
    group, member = row // b, row % b
    turned = ((reverse >> group) & 1) != 0
    channel, k = _channels(P, L), tl.arange(0, N)
    valid = channel < d
    both = valid[:, None, :] & (k < n)[None, :, None]
    inner = k[None, :, None] * d + channel[:, None, :]  # of (n, d)
    rates = tl.load(A + group * n * d + inner, mask=both, other=0.0)
    x, x_t = _walk(x, group, member, turned, t, stride_x_g, stride_x_b, stride_x_t)
    delta, delta_t = _walk(delta, group, member, turned, t, stride_delta_g, stride_delta_b, stride_delta_t)
    into, into_t = _walk(into, group, member, turned, t, stride_into_g, stride_into_b, stride_into_t)
    begin = part * segment
    end = tl.minimum(begin + segment, t)
    h = tl.zeros((P, N, L), tl.float32)
    total = tl.zeros((P, L), tl.float32)
    for j in range(tl.cdiv(end - begin, R)):
        first = begin + j * R
        if BACKWARD:
            first = begin + (tl.cdiv(end - begin, R) - 1 - j) * R
        xs, steps, intos = (), (), ()
        for r in tl.static_range(R):
            i = first + r
            xs += (tl.load(x + i * x_t + channel, mask=valid & (i < end), other=0.0).to(tl.float32),)
            steps += (tl.load(delta + i * delta_t + channel, mask=valid & (i < end), other=0.0).to(tl.float32),)
            intos += (tl.load(into + i * into_t + k, mask=(k < n) & (i < end), other=0.0).to(tl.float32),)
        for r in tl.static_range(R):
            if BACKWARD:
                h += xs[R - 1 - r][:, None, :] * intos[R - 1 - r][None, :, None]
                h *= tl.exp2(steps[R - 1 - r][:, None, :] * rates)
            else:
                h = tl.exp2(steps[r][:, None, :] * rates) * h
                h += (steps[r] * xs[r])[:, None, :] * intos[r][None, :, None]
            total += steps[r]
    place = (row * tl.num_programs(1) + part).to(tl.int64)
    tl.store(ends + place * n * d + inner, h, mask=both)
    tl.store(sums + place * d + channel, total, mask=valid)


@triton.jit(do_not_specialize=UNKNOWN)
@no_type_check
def join_segments(
    A, ends, sums, entry,
    b, d, n, segments,
    HAS_ENTRY: tl.constexpr, BACKWARD: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Turn what each segment adds (`ends`) into what enters it, in place. entry: what enters the first, (rows, n, d)."""
    row = tl.program_id(1)
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = i < n * d
    rates = tl.load(A + (row // b) * n * d + i, mask=inside, other=0.0)
    h = tl.zeros((BLOCK,), tl.float32)
    if HAS_ENTRY:
        h = tl.load(entry + row.to(tl.int64) * n * d + i, mask=inside, other=0.0)
    for j in range(segments):
        part = j
        if BACKWARD:
            part = segments - 1 - j
        place = (row * segments + part).to(tl.int64)
        added = tl.load(ends + place * n * d + i, mask=inside, other=0.0)
        total = tl.load(sums + place * d + i % d, mask=inside, other=0.0)
        tl.store(ends + place * n * d + i, h, mask=inside)
        h = tl.exp2(rates * total) * h + added


@triton.jit(do_not_specialize=UNKNOWN)
@no_type_check
def forward(
    u, delta, A, B, C, D, entry, y, last, starts,
    b, t, d, n, reverse, segment, chunk,
    stride_u_g, stride_u_b, stride_u_t, stride_delta_g, stride_delta_b, stride_delta_t,
    stride_B_g, stride_B_b, stride_B_t, stride_C_g, stride_C_b, stride_C_t,
    HAS_D: tl.constexpr, HAS_ENTRY: tl.constexpr, KEEP: tl.constexpr,
    P: tl.constexpr, N: tl.constexpr, L: tl.constexpr, R: tl.constexpr,
):  # fmt: skip
    """Outputs, the last state (rows, n, d) and, with KEEP, the state before each chunk (rows, chunks, n, d)."""
    part, row = tl.program_id(1), tl.program_id(2)
    group, member = row // b, row % b
    turned = ((reverse >> group) & 1) != 0
    channel, k = _channels(P, L), tl.arange(0, N)
    valid = channel < d
    both = valid[:, None, :] & (k < n)[None, :, None]
    inner = k[None, :, None] * d + channel[:, None, :]  # of (n, d)
    rates = tl.load(A + group * n * d + inner, mask=both, other=0.0)
    u, u_t = _walk(u, group, member, turned, t, stride_u_g, stride_u_b, stride_u_t)
    delta, delta_t = _walk(delta, group, member, turned, t, stride_delta_g, stride_delta_b, stride_delta_t)
    B, B_t = _walk(B, group, member, turned, t, stride_B_g, stride_B_b, stride_B_t)
    C, C_t = _walk(C, group, member, turned, t, stride_C_g, stride_C_b, stride_C_t)
    y, y_t = _walk(y + row.to(tl.int64) * t * d, group, member, turned, t, 0, 0, d)
    h = tl.zeros((P, N, L), tl.float32)
    if HAS_ENTRY:
        h = tl.load(entry + (row * tl.num_programs(1) + part).to(tl.int64) * n * d + inner, mask=both, other=0.0)
    direct = tl.zeros((P, L), tl.float32)
    if HAS_D:
        direct = tl.load(D + group * d + channel, mask=valid, other=0.0)
    begin = part * segment
    end = tl.minimum(begin + segment, t)
    for start in range(begin, end, chunk):
        if KEEP:
            place = (row * tl.cdiv(t, chunk) + start // chunk).to(tl.int64)
            tl.store(starts + place * n * d + inner, h, mask=both)
        for first in range(start, tl.minimum(start + chunk, end), R):
            us, steps, Bs, Cs = (), (), (), ()
            for r in tl.static_range(R):
                i = first + r
                us += (tl.load(u + i * u_t + channel, mask=valid & (i < end), other=0.0).to(tl.float32),)
                steps += (tl.load(delta + i * delta_t + channel, mask=valid & (i < end), other=0.0).to(tl.float32),)
                Bs += (tl.load(B + i * B_t + k, mask=(k < n) & (i < end), other=0.0).to(tl.float32),)
                Cs += (tl.load(C + i * C_t + k, mask=(k < n) & (i < end), other=0.0).to(tl.float32),)
            for r in tl.static_range(R):
                h = tl.exp2(steps[r][:, None, :] * rates) * h
                h += (steps[r] * us[r])[:, None, :] * Bs[r][None, :, None]
                out = tl.sum(h * Cs[r][None, :, None], 1) + direct * us[r]
                at = y + (first + r) * y_t + channel
                tl.store(at, out.to(y.dtype.element_ty), mask=valid & (first + r < end))
    if part == tl.num_programs(1) - 1:
        tl.store(last + row.to(tl.int64) * n * d + inner, h, mask=both)


@triton.jit(do_not_specialize=UNKNOWN)
@no_type_check
def backward(
    u, delta, A, B, C, D, starts, grad_y, entry, scratch,
    grad_u, grad_delta, grad_A, grad_B, grad_C, grad_D, grad_state,
    b, t, d, n, reverse, segment, chunk,
    stride_u_g, stride_u_b, stride_u_t, stride_delta_g, stride_delta_b, stride_delta_t,
    stride_B_g, stride_B_b, stride_B_t, stride_C_g, stride_C_b, stride_C_t,
    stride_grad_g, stride_grad_b, stride_grad_t,
    HAS_D: tl.constexpr, HAS_ENTRY: tl.constexpr,
    P: tl.constexpr, N: tl.constexpr, L: tl.constexpr, R: tl.constexpr,
):  # fmt: skip
    """All gradients, chunk by chunk from the last; those that sum over programs as one part from each.

    In a chunk the states are computed again from the kept one, first only every R-th, into `scratch` (a program's own),
    then, R steps at a time from the last, all R of them in registers.

    entry: gradient of the state that leaves each segment. grad_A: (rows, segments, n, d). grad_B, grad_C: (blocks of
    channels, rows, t, n). grad_D: (rows, segments, d). grad_state: (rows, n, d).
    """
    block, part, row = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    parts, rows = tl.num_programs(1), tl.num_programs(2)
    group, member = row // b, row % b
    turned = ((reverse >> group) & 1) != 0
    channel, k = _channels(P, L), tl.arange(0, N)
    valid = channel < d
    both = valid[:, None, :] & (k < n)[None, :, None]
    inner = k[None, :, None] * d + channel[:, None, :]  # of (n, d)
    rates = tl.load(A + group * n * d + inner, mask=both, other=0.0)
    u, u_t = _walk(u, group, member, turned, t, stride_u_g, stride_u_b, stride_u_t)
    delta, delta_t = _walk(delta, group, member, turned, t, stride_delta_g, stride_delta_b, stride_delta_t)
    B, B_t = _walk(B, group, member, turned, t, stride_B_g, stride_B_b, stride_B_t)
    C, C_t = _walk(C, group, member, turned, t, stride_C_g, stride_C_b, stride_C_t)
    grad_y, grad_t = _walk(grad_y, group, member, turned, t, stride_grad_g, stride_grad_b, stride_grad_t)
    grad_u, out_t = _walk(grad_u + row.to(tl.int64) * t * d, group, member, turned, t, 0, 0, d)
    grad_delta, _ = _walk(grad_delta + row.to(tl.int64) * t * d, group, member, turned, t, 0, 0, d)
    at = (block * rows + row).to(tl.int64) * t * n
    grad_B, narrow_t = _walk(grad_B + at, group, member, turned, t, 0, 0, n)
    grad_C, _ = _walk(grad_C + at, group, member, turned, t, 0, 0, n)
    own = tl.arange(0, P)[:, None, None] * (N * L) + k[None, :, None] * L + tl.arange(0, L)[None, None, :]
    program = ((row * parts + part) * tl.num_programs(0) + block).to(tl.int64)
    scratch += program * tl.cdiv(chunk, R) * (P * N * L)
    carried = tl.zeros((P, N, L), tl.float32)  # gradient of the state after the current step, from all later steps
    if HAS_ENTRY:
        carried = tl.load(entry + (row * parts + part).to(tl.int64) * n * d + inner, mask=both, other=0.0)
    direct = tl.zeros((P, L), tl.float32)
    if HAS_D:
        direct = tl.load(D + group * d + channel, mask=valid, other=0.0)
    sum_A = tl.zeros((P, N, L), tl.float32)
    sum_D = tl.zeros((P, L), tl.float32)
    begin = part * segment
    stop = tl.minimum(begin + segment, t)
    chunks = tl.cdiv(stop - begin, chunk)
    for j in range(chunks):
        start = begin + (chunks - 1 - j) * chunk
        end = tl.minimum(start + chunk, stop)
        pieces = tl.cdiv(end - start, R)
        place = (row * tl.cdiv(t, chunk) + start // chunk).to(tl.int64)
        h = tl.load(starts + place * n * d + inner, mask=both, other=0.0)
        for piece in range(pieces):
            tl.store(scratch + piece * (P * N * L) + own, h)
            first = start + piece * R
            us, steps, Bs = (), (), ()
            for r in tl.static_range(R):
                i = first + r
                us += (tl.load(u + i * u_t + channel, mask=valid & (i < end), other=0.0).to(tl.float32),)
                steps += (tl.load(delta + i * delta_t + channel, mask=valid & (i < end), other=0.0).to(tl.float32),)
                Bs += (tl.load(B + i * B_t + k, mask=(k < n) & (i < end), other=0.0).to(tl.float32),)
            for r in tl.static_range(R):
                h = tl.exp2(steps[r][:, None, :] * rates) * h
                h += (steps[r] * us[r])[:, None, :] * Bs[r][None, :, None]
        tl.debug_barrier()  # a lane may read what another wrote
        for piece in range(pieces):
            first = start + (pieces - 1 - piece) * R
            us, steps, grads, Bs, Cs = (), (), (), (), ()
            for r in tl.static_range(R):
                i = first + r
                us += (tl.load(u + i * u_t + channel, mask=valid & (i < end), other=0.0).to(tl.float32),)
                steps += (tl.load(delta + i * delta_t + channel, mask=valid & (i < end), other=0.0).to(tl.float32),)
                grads += (tl.load(grad_y + i * grad_t + channel, mask=valid & (i < end), other=0.0).to(tl.float32),)
                Bs += (tl.load(B + i * B_t + k, mask=(k < n) & (i < end), other=0.0).to(tl.float32),)
                Cs += (tl.load(C + i * C_t + k, mask=(k < n) & (i < end), other=0.0).to(tl.float32),)
            states = (tl.load(scratch + (pieces - 1 - piece) * (P * N * L) + own),)
            for r in tl.static_range(R):
                h = tl.exp2(steps[r][:, None, :] * rates) * states[r]
                states += (h + (steps[r] * us[r])[:, None, :] * Bs[r][None, :, None],)
            for r in tl.static_range(R - 1, -1, -1):
                grad_h = carried + grads[r][:, None, :] * Cs[r][None, :, None]
                into_C = tl.sum(tl.sum(grads[r][:, None, :] * states[r + 1], 0), 1)
                into_B = tl.sum(tl.sum((steps[r] * us[r])[:, None, :] * grad_h, 0), 1)
                driven = tl.sum(grad_h * Bs[r][None, :, None], 1)  # gradient of delta * u
                carried = grad_h * tl.exp2(steps[r][:, None, :] * rates)
                exponent = carried * states[r]  # gradient of delta * A
                sum_A += exponent * steps[r][:, None, :]
                sum_D += grads[r] * us[r]
                # rates are A log2(e): the factor is taken out of the sum again.
                into_delta = tl.sum(exponent * rates, 1) * 0.6931471805599453 + driven * us[r]
                into_u = driven * steps[r] + direct * grads[r]
                i = first + r
                there, here = valid & (i < end), (k < n) & (i < end)
                tl.store(grad_u + i * out_t + channel, into_u.to(grad_u.dtype.element_ty), mask=there)
                tl.store(grad_delta + i * out_t + channel, into_delta.to(grad_delta.dtype.element_ty), mask=there)
                tl.store(grad_B + i * narrow_t + k, into_B, mask=here)
                tl.store(grad_C + i * narrow_t + k, into_C, mask=here)
        tl.debug_barrier()  # before the next chunk overwrites the scratch
    place = (row * parts + part).to(tl.int64)
    tl.store(grad_A + place * n * d + inner, sum_A, mask=both)
    if HAS_D:
        tl.store(grad_D + place * d + channel, sum_D, mask=valid)
    if part == 0:
        tl.store(grad_state + row.to(tl.int64) * n * d + inner, carried, mask=both)
