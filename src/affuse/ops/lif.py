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

from affuse.types import AffuseError

Form = Literal["auto", "reference", "fused", "native"]
Reset = Literal["hard", "soft"]
Surrogate = Literal["triangle", "sigmoid", "arctan"]
FORMS = ("reference", "fused", "native")
BLOCK = 2**17  # elements (steps x neurons) that the fused form holds at once: what a core's second-level cache takes


def native_is_built() -> bool:
    """Whether the native form is there."""
    return False


def active_form() -> tuple[str, str]:
    """The form that `lif` takes where the caller leaves it open, and why.

    Raises:
        AffuseError: ``AFFUSE_LIF`` names no form, or one that is not built.
    """
    chosen = os.environ.get("AFFUSE_LIF", "auto")
    if chosen == "auto":
        return "fused", "the default"
    if chosen not in FORMS:
        raise AffuseError(f"AFFUSE_LIF={chosen!r} is no form of the spiking neurons: use auto, {', '.join(FORMS)}")
    if chosen == "native":
        _need_native()
    return chosen, f"AFFUSE_LIF={chosen}"


def _need_native() -> None:
    if not native_is_built():
        raise AffuseError("the native form of the spiking neurons is not built here: use auto, fused or reference")


def lif(
    inputs: Float[Tensor, "t *neuron"],
    state: Float[Tensor, "*neuron"] | None = None,
    *,
    tau: float = 0.5,
    threshold: float = 1.0,
    reset: Reset = "hard",
    surrogate: Surrogate = "triangle",
    alpha: float = 1.0,
    detach_reset: bool = False,
    form: Form = "auto",
) -> tuple[Float[Tensor, "t *neuron"], Float[Tensor, "*neuron"]]:
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
        form: ``auto`` follows `active_form`.

    Returns:
        The spikes, 0 or 1, in the dtype of `inputs`, and the potential v after the last step, float32, or float64 where
        an input is.

    Raises:
        AffuseError: an unknown reset or surrogate, alpha not positive, or the native form where it is not built.
    """
    _check(reset, surrogate, alpha)
    wide = inputs.dtype == torch.float64 or (state is not None and state.dtype == torch.float64)
    x = inputs.to(torch.float64 if wide else torch.float32)
    v = x.new_zeros(x.shape[1:]) if state is None else state.to(x.dtype)
    if form == "auto":
        form = active_form()[0]  # type: ignore[assignment]
    if form == "native":
        _need_native()
    if form == "reference":
        spikes, v = lif_reference(
            x, v, tau=tau, threshold=threshold, reset=reset, surrogate=surrogate, alpha=alpha, detach_reset=detach_reset
        )
    else:
        spikes, v = _lif(x, v, tau, threshold, reset == "soft", surrogate, alpha, detach_reset, form == "native")
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
    inputs: Float[Tensor, "t *neuron"],
    state: Float[Tensor, "*neuron"] | None = None,
    **settings: Any,
) -> tuple[Float[Tensor, "t *neuron"], Float[Tensor, "*neuron"]]:
    """`lif` as a plain fold of `lif_step`, in the dtype it is given; keywords as there."""
    v = inputs.new_zeros(inputs.shape[1:]) if state is None else state.clone()
    spikes = []
    for x in inputs:
        s, v = lif_step(x, v, **settings)
        spikes.append(s)
    return (torch.stack(spikes) if spikes else inputs.clone()), v


def surrogate_slope(z: Float[Tensor, "*any"], surrogate: Surrogate, alpha: float) -> Float[Tensor, "*any"]:
    """The slope that a spike is given at the distance z = u - threshold; the formulas stand at the head of this file."""
    if surrogate == "triangle":
        return (alpha - z.abs()).clamp_(min=0).mul_(1 / alpha**2)
    if surrogate == "sigmoid":
        spread = torch.sigmoid(alpha * z)
        return (1 - spread).mul_(spread).mul_(alpha)
    return (z * (math.pi / 2 * alpha)).square_().add_(1).reciprocal_().mul_(alpha / 2)


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
    if surrogate not in ("triangle", "sigmoid", "arctan"):
        raise AffuseError(f"surrogate {surrogate!r} of a spiking neuron: use triangle, sigmoid or arctan")
    if not alpha > 0:
        raise AffuseError(f"alpha of a surrogate must be positive, got {alpha}")


# Operators of their own, so that torch.compile and torch.export take them as one node.


_SETTINGS = "float tau, float threshold, bool soft, str surrogate, float alpha, bool detach_reset, bool native"


@torch.library.custom_op(
    "affuse::lif", mutates_args=(), schema=f"(Tensor inputs, Tensor state, {_SETTINGS}) -> (Tensor, Tensor)"
)
def _lif(
    inputs: Tensor,
    state: Tensor,
    tau: float,
    threshold: float,
    soft: bool,
    surrogate: str,
    alpha: float,
    detach_reset: bool,
    native: bool,
) -> tuple[Tensor, Tensor]:
    """Spikes and the last potential, for inputs (t, ...) and state (...) of one dtype."""
    x = _flat(inputs)
    v = state.clone(memory_format=torch.contiguous_format)
    spikes = torch.empty(inputs.shape, dtype=inputs.dtype, device=inputs.device)
    _fused_forward(x, v.view(-1), spikes.view(x.shape), tau, threshold, soft)
    return spikes, v


@_lif.register_fake
def _(inputs: Tensor, state: Tensor, *settings: Any) -> tuple[Tensor, Tensor]:
    return inputs.new_empty(inputs.shape), state.new_empty(state.shape)


@torch.library.custom_op(
    "affuse::lif_backward",
    mutates_args=(),
    schema=f"(Tensor grad_spikes, Tensor grad_last, Tensor inputs, Tensor state, {_SETTINGS}) -> (Tensor, Tensor)",
)
def _lif_backward(
    grad_spikes: Tensor,
    grad_last: Tensor,
    inputs: Tensor,
    state: Tensor,
    tau: float,
    threshold: float,
    soft: bool,
    surrogate: str,
    alpha: float,
    detach_reset: bool,
    native: bool,
) -> tuple[Tensor, Tensor]:
    """Gradients of inputs and of the first state."""
    x = _flat(inputs)
    start = state.contiguous().view(-1)
    grad_v = grad_last.clone(memory_format=torch.contiguous_format)
    grad_x = torch.empty(inputs.shape, dtype=inputs.dtype, device=inputs.device)
    _fused_backward(
        grad_spikes.contiguous().view(x.shape),
        grad_v.view(-1),
        x,
        start,
        grad_x.view(x.shape),
        tau,
        threshold,
        soft,
        surrogate,  # type: ignore[arg-type]
        alpha,
        detach_reset,
    )
    return grad_x, grad_v


@_lif_backward.register_fake
def _(grad_spikes: Tensor, grad_last: Tensor, inputs: Tensor, state: Tensor, *settings: Any) -> tuple[Tensor, Tensor]:
    return inputs.new_empty(inputs.shape), state.new_empty(state.shape)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(inputs[0], inputs[1])
    ctx.settings = inputs[2:]


def _differentiate(ctx: Any, grad_spikes: Tensor, grad_last: Tensor) -> tuple[Tensor | None, ...]:
    grads = _lif_backward(grad_spikes, grad_last, *ctx.saved_tensors, *ctx.settings)
    return (*grads, *[None] * len(ctx.settings))


torch.library.register_autograd("affuse::lif", _differentiate, setup_context=_keep)


def _flat(steps: Tensor) -> Tensor:
    """(t, n) from (t, ...), a view where it can be."""
    return steps.contiguous().view(len(steps), math.prod(steps.shape[1:]))


def _blocks(steps: int, neurons: int) -> list[slice]:
    size = max(BLOCK // max(steps, 1), 1024)
    return [slice(i, i + size) for i in range(0, neurons, size)]


def _step_in_place(x: Tensor, v: Tensor, u: Tensor, fired: Tensor, tau: float, threshold: float, soft: bool) -> None:
    """u, fired and v of one step, in the order of operations of `lif_step`, so that values are equal bit for bit."""
    torch.mul(v, tau, out=u)
    u += x
    torch.gt(u, threshold, out=fired)
    if soft:
        torch.mul(fired, -threshold, out=v)
        v += u
    else:
        torch.mul(u, fired.logical_not(), out=v)


def _fused_forward(x: Tensor, v: Tensor, spikes: Tensor, tau: float, threshold: float, soft: bool) -> None:
    """Fill spikes (t, n) and take v (n) from the first state to the last."""
    for part in _blocks(*x.shape):
        left = v[part]
        u, fired = torch.empty_like(left), torch.empty_like(left, dtype=torch.bool)
        for x_t, s_t in zip(x[:, part], spikes[:, part], strict=True):
            _step_in_place(x_t, left, u, fired, tau, threshold, soft)
            s_t.copy_(fired)


def _fused_backward(
    grad_spikes: Tensor,
    grad_v: Tensor,
    x: Tensor,
    start: Tensor,
    grad_x: Tensor,
    tau: float,
    threshold: float,
    soft: bool,
    surrogate: Surrogate,
    alpha: float,
    detach_reset: bool,
) -> None:
    """Fill grad_x (t, n) and take grad_v (n) from the last state to the first.

    By the chain rule the gradient of u is  g_t = grad_s slope + g_v q,  with q = dv/du including the reset's own slope
    where it is not detached, and g_v = tau g_(t+1): linear in what comes from later, so slopes are computed at once.
    """
    for part in _blocks(*x.shape):
        xs = x[:, part]
        u, fired = torch.empty_like(xs), torch.empty_like(xs, dtype=torch.bool)
        v = start[part].clone()
        for t in range(len(xs)):
            _step_in_place(xs[t], v, u[t], fired[t], tau, threshold, soft)
        slope = surrogate_slope(u - threshold, surrogate, alpha)
        q = torch.ones_like(u) if soft else fired.logical_not().to(u.dtype)
        if not detach_reset:
            q.addcmul_(slope, u if not soft else torch.full_like(u[:1], threshold), value=-1)
        from_spikes = slope.mul_(grad_spikes[:, part])
        carried, grads = grad_v[part], grad_x[:, part]
        for t in reversed(range(len(xs))):
            torch.addcmul(from_spikes[t], carried, q[t], out=grads[t])
            torch.mul(grads[t], tau, out=carried)
