"""The selective scan: a linear recurrence over time whose coefficients depend on the input.

With state h in R^(d, n) for each row, and for each step t::

    h_t = exp(delta_t A) * h_{t-1} + (delta_t u_t) B_t        (discretisation of Mamba: zero-order hold for A, Euler for B)
    y_t = <h_t, C_t> + D * u_t

Shape letters: ``b`` batch, ``t`` time, ``d`` channel, ``n`` state. Source: Gu and Dao, "Mamba: Linear-Time Sequence Modeling
with Selective State Spaces", 2023, Eq. 2 and Algorithm 2.

Four forms of the same mathematics: `selective_scan_reference` is the loop above, differentiated by autograd; the chunked
form, in pure PyTorch, keeps the states of one chunk only and recomputes them in its own backward pass; the native form does
the same in C++, where the extension is built (`affuse.ops.native`); the Triton form on an NVIDIA GPU (`affuse.ops.triton`).
None divides by a product of decays, so all are exact for any decay. The environment variable ``AFFUSE_SCAN`` chooses between
them where the caller leaves it open.
"""

from __future__ import annotations

import os
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from affuse.ops import chunked_scan, native, triton
from affuse.ops.chunked_scan import CHUNK as CHUNK
from affuse.ops.native import selective_scan as native_scan
from affuse.ops.triton import scan as triton_scan
from affuse.types import AffuseError

Form = Literal["auto", "reference", "chunked", "native", "triton"]
FORMS = ("reference", "chunked", "native", "triton")


def active_form(device: str = "cpu") -> tuple[str, str]:
    """The form that `selective_scan` takes where the caller leaves it open, and why.

    (Inside ``torch.func`` it is the reference: the others bring a backward pass of their own, which cannot be transformed.)

    The native form serves float32 (and bfloat16, computed as float32) on the CPU, the Triton form the same on an NVIDIA GPU;
    for float64 and on other devices their place is taken by the chunked one.

    Args:
        device: type of the device that holds the inputs.

    Raises:
        AffuseError: ``AFFUSE_SCAN`` names no form, or asks for one that cannot be had here.
    """
    chosen = os.environ.get("AFFUSE_SCAN", "auto")
    if chosen not in ("auto", *FORMS):
        raise AffuseError(f"AFFUSE_SCAN={chosen!r} is no form of the selective scan: use auto, {', '.join(FORMS)}")
    if chosen in ("reference", "chunked"):
        return chosen, f"AFFUSE_SCAN={chosen}"
    if chosen == "triton":
        ready, why = triton.available()
        if not ready:
            raise AffuseError(f"AFFUSE_SCAN=triton, but {why}")
        return chosen, "AFFUSE_SCAN=triton"
    built, why = native.available()
    if chosen == "native":
        if not built:
            raise AffuseError(f"AFFUSE_SCAN=native, but {why}")
        return chosen, "AFFUSE_SCAN=native"
    if device == "cuda":
        ready, why = triton.available()
        return ("triton" if ready else "chunked"), why
    return ("native" if built else "chunked"), why


def selective_scan(
    u: Float[Tensor, "b t d"],
    delta: Float[Tensor, "b t d"],
    A: Float[Tensor, "d n"],
    B: Float[Tensor, "b t n"],
    C: Float[Tensor, "b t n"],
    D: Float[Tensor, " d"] | None = None,
    state: Float[Tensor, "b d n"] | None = None,
    *,
    reverse: bool = False,
    form: Form = "auto",
) -> tuple[Float[Tensor, "b t d"], Float[Tensor, "b d n"]]:
    """Scan a sequence.

    Args:
        u: input.
        delta: step sizes, positive (softplus already applied).
        A: negative, so that the state decays.
        B: input coefficients.
        C: output coefficients.
        D: weight of the direct path; None for none.
        state: state before the first step; None for zeros.
        reverse: scan from the last step to the first; `state` then stands before the last step, and the state that comes
            back is the one after the first.
        form: ``auto`` follows `active_form`.

    Returns:
        The output, in the dtype of `u`, and the last state. States are float32, or float64 where an input is.

    Raises:
        AffuseError: shapes or devices do not fit together (nothing is broadcast), or there is no state (n = 0); `form` is
            ``native`` or ``triton``, which cannot run here or does not serve these inputs.
    """
    inputs = (u, delta, A, B, C, D, state)
    _check(*inputs)
    if not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active():
        if form not in ("auto", "reference"):
            raise AffuseError(f"form={form!r} cannot be transformed by torch.func: use form='reference'")
        form = "reference"
    dtype = torch.float64 if any(x is not None and x.dtype == torch.float64 for x in inputs) else torch.float32
    if _takes_triton(u, dtype, form):
        return triton_scan.selective_scan_triton(u, delta, A, B, C, D, state, reverse=reverse)
    if _takes_native(u, dtype, form):
        y, h = native_scan.scan(*(_cast(x, dtype) for x in inputs), reverse)  # type: ignore[call-arg]
        return _cast(y, u.dtype), h
    if form == "auto":
        form = active_form(u.device.type)[0]  # type: ignore[assignment]
    x, step, decay, into, out, h = (_cast(tensor, dtype) for tensor in (u, delta, A, B, C, state))
    with chunked_scan.without_autocast(u.device.type):
        if form == "reference":
            if reverse:
                x, step, into, out = (tensor.flip(1) for tensor in (x, step, into, out))
            y, h = selective_scan_reference(x, step, decay, into, out, None, h)
            if reverse:
                y = y.flip(1)
        else:
            y, h = chunked_scan.scan(x, step, decay, into, out, h, reverse)
        if D is not None:
            y = y + D.to(dtype) * u
    return _cast(y, u.dtype), h


def _check(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, state: Tensor | None) -> None:
    """Compiled forms read memory by these shapes, and nobody else compares them where types are not checked."""
    steps, channels = u.shape, A.shape
    if len(steps) != 3 or len(channels) != 2 or channels[1] == 0:
        raise AffuseError(
            f"selective scan: u {tuple(steps)} and A {tuple(channels)} are not (b, t, d) and (d, n) with n above 0"
        )
    (b, t, d), n, device = steps, channels[1], u.device
    # Every view of a shape costs a tenth of a microsecond, of which a short scan has few: no loop over names here.
    if (
        (delta.shape == steps and channels[0] == d and B.shape == C.shape == (b, t, n))
        and (D is None or (D.shape == (d,) and D.device == device))
        and (state is None or (state.shape == (b, d, n) and state.device == device))
        and delta.device == A.device == B.device == C.device == device
    ):
        return
    named = {"delta": (delta, steps), "A": (A, (d, n)), "B": (B, (b, t, n)), "C": (C, (b, t, n))}
    named |= {"D": (D, (d,)), "state": (state, (b, d, n))}  # type: ignore[dict-item]
    for name, (x, shape) in named.items():
        if x is not None and x.shape != shape:
            raise AffuseError(
                f"selective scan: {name} is {tuple(x.shape)}, not {tuple(shape)}, beside u {tuple(steps)} and A "
                f"{tuple(channels)}: nothing is broadcast"
            )
    raise AffuseError(f"selective scan: not everything is on {device}, where u is: move it there")


def _cast(x: Any, dtype: torch.dtype) -> Any:
    """`x` in `dtype`, None where it is None; calls nothing where there is nothing to do."""
    return x if x is None or x.dtype == dtype else x.to(dtype)


def _takes_triton(u: Tensor, dtype: torch.dtype, form: Form) -> bool:
    """Whether the Triton form serves this call; asked for by name, it does, or raises."""
    if form != "auto":
        return form == "triton"
    asked = os.environ.get("AFFUSE_SCAN", "auto")
    return asked == "triton" or (
        dtype == torch.float32 and u.device.type == "cuda" and active_form("cuda")[0] == "triton"
    )


def _takes_native(u: Tensor, dtype: torch.dtype, form: Form) -> bool:
    """Whether the native form serves this call."""
    serves = dtype == torch.float32 and u.device.type == "cpu"
    if form == "native":
        built, why = native.available()
        if not built:
            raise AffuseError(f"form='native', but {why}")
        if not serves:
            raise AffuseError(f"form='native' serves float32 on the CPU, not {dtype} on {u.device}: use form='chunked'")
    return serves and (form == "native" or (form == "auto" and active_form()[0] == "native"))


def selective_scan_step(
    u_t: Float[Tensor, "b d"],
    delta_t: Float[Tensor, "b d"],
    A: Float[Tensor, "d n"],
    B_t: Float[Tensor, "b n"],
    C_t: Float[Tensor, "b n"],
    D: Float[Tensor, " d"] | None,
    state: Float[Tensor, "b d n"],
) -> tuple[Float[Tensor, "b d"], Float[Tensor, "b d n"]]:
    """One step of the recurrence: the output and the next state. Arguments as in `selective_scan`, without time."""
    decay = torch.exp(delta_t[:, :, None] * A)  # b d n
    state = decay * state + (delta_t * u_t)[:, :, None] * B_t[:, None, :]
    y = (state * C_t[:, None, :]).sum(2)  # b d
    return (y if D is None else y + D * u_t), state


def selective_scan_reference(
    u: Float[Tensor, "b t d"],
    delta: Float[Tensor, "b t d"],
    A: Float[Tensor, "d n"],
    B: Float[Tensor, "b t n"],
    C: Float[Tensor, "b t n"],
    D: Float[Tensor, " d"] | None = None,
    state: Float[Tensor, "b d n"] | None = None,
) -> tuple[Float[Tensor, "b t d"], Float[Tensor, "b d n"]]:
    """`selective_scan` forward in time as a plain fold of `selective_scan_step`, in the dtype it is given."""
    h = u.new_zeros(u.shape[0], *A.shape) if state is None else state
    outputs = []
    for u_t, delta_t, B_t, C_t in zip(*(x.unbind(1) for x in (u, delta, B, C)), strict=True):
        y, h = selective_scan_step(u_t, delta_t, A, B_t, C_t, D, h)
        outputs.append(y)
    return torch.stack(outputs, 1), h
