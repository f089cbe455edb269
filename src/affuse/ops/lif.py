"""Leaky integrate-and-fire neurons over several time steps.

With membrane potential u, spikes s and the potential v that is left after the reset, each step t is::

    u_t = tau * v_(t-1) + x_t                  (TAAF-SNN Eq. 1)
    s_t = 1 where u_t > threshold, else 0      (Eq. 2)
    v_t = u_t (1 - s_t)                        (Eq. 3: hard reset, to zero)
    v_t = u_t - threshold s_t                  (soft reset, by subtraction)

Backward, the step of Eq. 2 is given the slope of a surrogate in z = u - threshold::

    triangle   max(alpha - |z|, 0) / alpha^2           (temporal efficient training, Deng et al., ICLR 2022)
    sigmoid    alpha S(alpha z) (1 - S(alpha z))       (S: the logistic function)
    arctan     (alpha / 2) / (1 + (pi alpha z / 2)^2)

Shape letters: ``t`` time (first, so that a step is one block of memory), ``neuron`` any further axes, batch among them.
Source: Shen et al., "Spiking Neural Networks with Temporal Attention-Guided Adaptive Fusion for imbalanced Multi-modal
Learning", 2025, arXiv 2505.14535. The paper says "exceeds the threshold", so a potential just at the threshold is silent.

Three forms of the same mathematics: `lif_reference` is a fold of `lif_step`, differentiated by autograd; the fused form
goes over blocks of neurons that fit the cache and computes potentials once more in its own backward pass, so that inputs
are all it keeps; the native form does that in C++. The environment variable ``AFFUSE_LIF`` chooses where the caller leaves
it open.
"""

from __future__ import annotations

import math
import os
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from affuse.ops import native
from affuse.types import AffuseError

Form = Literal["auto", "reference", "fused", "native"]
Reset = Literal["hard", "soft"]
Surrogate = Literal["triangle", "sigmoid", "arctan"]
SURROGATES = ("triangle", "sigmoid", "arctan")
FORMS = ("reference", "fused", "native")
BLOCK = 2**17  # elements (steps x neurons) that the fused form holds at once: what a core's second-level cache takes

_FORWARD, _BACKWARD = "ppppiiffii", "ppppppiiffiifii"  # arguments of the native functions
ENOUGH = 2**19  # elements from which on the native form takes more than one thread


def active_form() -> tuple[str, str]:
    """The form that `lif` takes of float32 on a CPU where the caller leaves it open, and why.

    Raises:
        AffuseError: ``AFFUSE_LIF`` names no form, or one that is not built.
    """
    chosen = _from_environment()
    built, why = native_is_built()
    if chosen == "auto":
        return ("native" if built else "fused"), why
    if chosen == "native" and not built:
        raise AffuseError(f"AFFUSE_LIF=native: {why}")
    return chosen, f"AFFUSE_LIF={chosen}"


def native_is_built() -> tuple[bool, str]:
    """Whether the native form can be called, and what was found or is missing."""
    built, why = native.available()
    if built:
        try:
            native.function("affuse_lif_forward", _FORWARD)
        except AffuseError as error:
            return False, str(error)
    return built, why


def _from_environment() -> str:
    chosen = os.environ.get("AFFUSE_LIF", "auto")
    if chosen not in ("auto", *FORMS):
        raise AffuseError(f"AFFUSE_LIF={chosen!r} is no form of the spiking neurons: use auto, {', '.join(FORMS)}")
    return chosen


def lif(
    inputs: Float[Tensor, " t *neuron"],
    state: Float[Tensor, "*neuron"] | None = None,
    *,
    tau: float = 0.5,
    threshold: float = 1.0,
    reset: Reset = "hard",
    surrogate: Surrogate = "triangle",
    alpha: float = 1.0,
    detach_reset: bool = False,
    form: Form = "auto",
) -> tuple[Float[Tensor, " t *neuron"], Float[Tensor, "*neuron"]]:
    """Run neurons over all steps of their input.

    Args:
        inputs: input currents, finite.
        state: potential v before the first step; None for zeros.
        tau: the share of v that is left one step later; 0.5 in the paper. (spikingjelly writes it as 1 - 1 / tau.)
        threshold: the potential above which a neuron fires; 1 in the papers.
        reset: what a spike does to the potential.
        surrogate: slope of the spike in the backward pass.
        alpha: its width (triangle) or steepness, positive. 1 in temporal efficient training; spikingjelly takes 4 for the
            sigmoid and 2 for the arctan.
        detach_reset: let no gradient through the s of Eq. 3.
        form: ``auto`` follows ``AFFUSE_LIF``; where that is not set, the native form for float32 on a CPU where it is
            built, else the fused one.

    Returns:
        The spikes, 0 or 1, in the dtype of `inputs`, and the potential v after the last step, float32, or float64 where
        an input is.

    Raises:
        AffuseError: a state of another shape, an unknown reset or surrogate, alpha not positive, or the native form
            where it is not built or not for these tensors.
    """
    _check(reset, surrogate, alpha)
    wide = inputs.dtype == torch.float64 or (state is not None and state.dtype == torch.float64)
    x = inputs.to(torch.float64 if wide else torch.float32)
    v = None if state is None else state.to(x.dtype)
    if v is not None and (v.shape != x.shape[1:] or v.device != x.device):
        raise AffuseError(
            f"inputs {tuple(x.shape)} on {x.device} need a state of shape {tuple(x.shape[1:])} there, not "
            f"{tuple(v.shape)} on {v.device}"
        )
    if form == "auto":
        form = _from_environment()  # type: ignore[assignment]
    if form == "reference":
        spikes, v = lif_reference(
            x, v, tau=tau, threshold=threshold, reset=reset, surrogate=surrogate, alpha=alpha, detach_reset=detach_reset
        )
    else:
        spikes, v = _lif(x, v, tau, threshold, reset == "soft", surrogate, alpha, detach_reset, form)
    return spikes.to(inputs.dtype), v


def lif_step(
    inputs_t: Float[Tensor, "*neuron"],
    state: Float[Tensor, "*neuron"],
    *,
    tau: float = 0.5,
    threshold: float = 1.0,
    reset: Reset = "hard",
    surrogate: Surrogate = "triangle",
    alpha: float = 1.0,
    detach_reset: bool = False,
) -> tuple[Float[Tensor, "*neuron"], Float[Tensor, "*neuron"]]:
    """One step: the spikes and the next potential. Arguments as in `lif`, without time."""
    _check(reset, surrogate, alpha)
    u = tau * state + inputs_t
    spikes: Tensor = _Spike.apply(u - threshold, surrogate, alpha)
    resets = spikes.detach() if detach_reset else spikes
    return spikes, (u * (1 - resets) if reset == "hard" else u - threshold * resets)


def lif_reference(
    inputs: Float[Tensor, " t *neuron"],
    state: Float[Tensor, "*neuron"] | None = None,
    **settings: Any,
) -> tuple[Float[Tensor, " t *neuron"], Float[Tensor, "*neuron"]]:
    """`lif` as a plain fold of `lif_step`, in the dtype it is given; keywords as there."""
    v = inputs.new_zeros(inputs.shape[1:]) if state is None else state.clone()
    spikes = []
    for x in inputs:
        s, v = lif_step(x, v, **settings)
        spikes.append(s)
    return (torch.stack(spikes) if spikes else inputs.clone()), v


def surrogate_slope(z: Float[Tensor, "*any"], surrogate: Surrogate, alpha: float) -> Float[Tensor, "*any"]:
    """The slope that a spike is given at the distance z = u - threshold; the formulas stand at the head of this file."""
    return _slope_in_place(z.clone(), surrogate, alpha)


class _Spike(torch.autograd.Function):
    """Heaviside step of z = u - threshold, with the slope of a surrogate."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, surrogate: Surrogate, alpha: float) -> Tensor:
        ctx.save_for_backward(z)
        ctx.settings = surrogate, alpha
        return (z > 0).to(z.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (z,) = ctx.saved_tensors
        return grads[0] * surrogate_slope(z, *ctx.settings), None, None


def _check(reset: str, surrogate: str, alpha: float) -> None:
    if reset not in ("hard", "soft"):
        raise AffuseError(f"reset {reset!r} of a spiking neuron: use hard or soft")
    if surrogate not in SURROGATES:
        raise AffuseError(f"surrogate {surrogate!r} of a spiking neuron: use triangle, sigmoid or arctan")
    if not alpha > 0:
        raise AffuseError(f"alpha of a surrogate must be positive, got {alpha}")


# Operators of their own, so that torch.compile and torch.export take them as one node.


_SETTINGS = "float tau, float threshold, bool soft, str surrogate, float alpha, bool detach_reset, str form"


@torch.library.custom_op(
    "affuse::lif", mutates_args=(), schema=f"(Tensor inputs, Tensor? state, {_SETTINGS}) -> (Tensor, Tensor)"
)
def _lif(
    inputs: Tensor,
    state: Tensor | None,
    tau: float,
    threshold: float,
    soft: bool,
    surrogate: str,
    alpha: float,
    detach_reset: bool,
    form: str,
) -> tuple[Tensor, Tensor]:
    """Spikes and the last potential, for inputs (t, ...) and state (...) of one dtype."""
    x = _flat(inputs)
    start = None if state is None else state.contiguous()
    v = torch.empty(inputs.shape[1:], dtype=inputs.dtype, device=inputs.device)
    spikes = torch.empty(inputs.shape, dtype=inputs.dtype, device=inputs.device)
    if _takes_native(form, x) and len(x):
        call = native.function("affuse_lif_forward", _FORWARD)
        pointers = (_pointer(tensor) for tensor in (x, start, v, spikes))
        call(*pointers, *x.shape, tau, threshold, soft, native.threads(x.numel(), ENOUGH))
    else:
        v.copy_(start) if start is not None else v.zero_()
        _fused_forward(x, v.view(-1), spikes.view(x.shape), tau, threshold, soft)
    return spikes, v


@_lif.register_fake
def _(inputs: Tensor, state: Tensor | None, *settings: Any) -> tuple[Tensor, Tensor]:
    return inputs.new_empty(inputs.shape), inputs.new_empty(inputs.shape[1:])


@torch.library.custom_op(
    "affuse::lif_backward",
    mutates_args=(),
    schema=f"(Tensor? grad_spikes, Tensor? grad_last, Tensor inputs, Tensor? state, {_SETTINGS}) -> (Tensor, Tensor)",
)
def _lif_backward(
    grad_spikes: Tensor | None,
    grad_last: Tensor | None,
    inputs: Tensor,
    state: Tensor | None,
    tau: float,
    threshold: float,
    soft: bool,
    surrogate: str,
    alpha: float,
    detach_reset: bool,
    form: str,
) -> tuple[Tensor, Tensor]:
    """Gradients of inputs and of the first state, which is empty where there was none."""
    x = _flat(inputs)
    direct = torch.zeros_like(x) if grad_spikes is None else _flat(grad_spikes)
    start, last = (None if tensor is None else tensor.contiguous().view(-1) for tensor in (state, grad_last))
    grad_x = torch.empty(inputs.shape, dtype=inputs.dtype, device=inputs.device)
    native_form = _takes_native(form, x) and len(x) > 0
    grad_state = x.new_empty(0 if state is None and native_form else x.shape[1])
    if native_form:
        call = native.function("affuse_lif_backward", _BACKWARD, "i")
        asked = None if state is None else grad_state
        pointers = (_pointer(tensor) for tensor in (direct, last, x, start, grad_x, asked))
        numbers = tau, threshold, soft, SURROGATES.index(surrogate), alpha, detach_reset
        if not call(*pointers, *x.shape, *numbers, native.threads(x.numel(), ENOUGH)):
            raise MemoryError("no memory for the potentials of spiking neurons")
    else:
        grad_state.copy_(last) if last is not None else grad_state.zero_()
        first = torch.zeros_like(grad_state) if start is None else start
        grads = grad_x.view(x.shape)
        _fused_backward(direct, grad_state, x, first, grads, tau, threshold, soft, surrogate, alpha, detach_reset)
    return grad_x, x.new_empty(0) if state is None else grad_state.view(state.shape)


@_lif_backward.register_fake
def _(
    grad_spikes: Tensor | None, grad_last: Tensor | None, inputs: Tensor, state: Tensor | None, *settings: Any
) -> tuple[Tensor, Tensor]:
    return inputs.new_empty(inputs.shape), inputs.new_empty(0 if state is None else state.shape)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(inputs[0], inputs[1])
    ctx.settings = inputs[2:]
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, grad_spikes: Tensor | None, grad_last: Tensor | None) -> tuple[Tensor | None, ...]:
    inputs, state = ctx.saved_tensors
    grad_x, grad_state = _lif_backward(grad_spikes, grad_last, inputs, state, *ctx.settings)
    return (grad_x, None if state is None else grad_state, *[None] * len(ctx.settings))


torch.library.register_autograd("affuse::lif", _differentiate, setup_context=_keep)


def _pointer(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _takes_native(form: str, x: Tensor) -> bool:
    """Asked by the operator itself, so that an exported graph goes where it is run."""
    fits = x.device.type == "cpu" and x.dtype == torch.float32
    if form == "auto":
        return fits and native_is_built()[0]
    if form == "native" and not fits:
        raise AffuseError(f"the native spiking neurons are for float32 on a CPU, not {x.dtype} on {x.device}: use auto")
    return form == "native"


def _flat(steps: Tensor) -> Tensor:
    """(t, n) from (t, ...), a view where it can be."""
    return steps.contiguous().view(len(steps), math.prod(steps.shape[1:]))


def _blocks(steps: int, neurons: int) -> list[slice]:
    size = max(BLOCK // max(steps, 1), 1024)
    return [slice(i, i + size) for i in range(0, neurons, size)]


def _step_in_place(x: Tensor, v: Tensor, u: Tensor, spikes: Tensor, tau: float, threshold: float, soft: bool) -> None:
    """u, spikes and v of one step, rounded as in `lif_step`, so that values are equal bit for bit."""
    torch.mul(v, tau, out=u)
    u += x
    torch.gt(u, threshold, out=spikes)
    if soft:
        torch.add(u, spikes, alpha=-threshold, out=v)
    else:
        torch.addcmul(u, u, spikes, value=-1, out=v)


def _fused_forward(x: Tensor, v: Tensor, spikes: Tensor, tau: float, threshold: float, soft: bool) -> None:
    """Fill spikes (t, n) and take v (n) from the first state to the last."""
    for part in _blocks(*x.shape):
        u = torch.empty_like(v[part])
        for x_t, s_t in zip(x[:, part], spikes[:, part], strict=True):
            _step_in_place(x_t, v[part], u, s_t, tau, threshold, soft)


def _fused_backward(
    grad_spikes: Tensor,
    grad_v: Tensor,
    x: Tensor,
    start: Tensor,
    grad_x: Tensor,
    tau: float,
    threshold: float,
    soft: bool,
    surrogate: str,
    alpha: float,
    detach_reset: bool,
) -> None:
    """Fill grad_x (t, n) and take grad_v (n) from the last state to the first.

    By the chain rule the gradient of u is  g_t = grad_s slope + g_v q,  with q = dv/du including the reset's own slope
    where it is not detached, and g_v = tau g_(t+1): linear in what comes from later, so slopes are computed at once.
    """
    if not len(x):
        return
    for part in _blocks(*x.shape):
        steps = x[:, part]
        u, slope, q = (torch.empty_like(steps, memory_format=torch.contiguous_format) for _ in range(3))
        v = start[part].clone()
        for x_t, u_t, q_t in zip(steps, u, q, strict=True):
            _step_in_place(x_t, v, u_t, q_t, tau, threshold, soft)
        _slope_in_place(torch.sub(u, threshold, out=slope), surrogate, alpha)
        if soft:
            q.fill_(1)
            if not detach_reset:
                q.add_(slope, alpha=-threshold)
        else:
            torch.le(u, threshold, out=q)
            if not detach_reset:
                q.addcmul_(u, slope, value=-1)
        slope *= grad_spikes[:, part]
        carried, weight = grad_v[part], 1.0
        for direct, q_t, grad in zip(*(tensor.unbind()[::-1] for tensor in (slope, q, grad_x[:, part])), strict=True):
            carried = torch.addcmul(direct, carried, q_t, value=weight, out=grad)
            weight = tau
        torch.mul(carried, tau, out=grad_v[part])


def _slope_in_place(z: Tensor, surrogate: str, alpha: float) -> Tensor:
    if surrogate == "triangle":
        return z.abs_().sub_(alpha).clamp_(max=0).mul_(-1 / alpha**2)
    if surrogate == "sigmoid":
        z.abs_().mul_(-alpha).sigmoid_()  # symmetric: on this side nothing is lost next to 1
        return z.addcmul_(z, z, value=-1).mul_(alpha)
    return z.mul_(math.pi / 2 * alpha).square_().add_(1).reciprocal_().mul_(alpha / 2)
