"""Numbers as spikes over time: direct, rate and latency encoding.

What is encoded is between 0 and 1: the brightness of a pixel, the level of a band. Time comes first in the result, as in
`affuse.ops.lif`. Events need no encoding: they are spikes.

=========  =============  =============================================  =====================
encoding   at 0           between                                        at 1
=========  =============  =============================================  =====================
direct     0              the number at every step: currents, no spikes  1 at every step
rate       never a spike  a spike in a step with probability x           a spike at every step
latency    never a spike  one spike, the later the smaller x             one at the first step
=========  =============  =============================================  =====================

Sources: Rueckauer et al. 2017 (direct: analogue currents into the first layer); Adrian 1926 (rate); Thorpe et al. 2001
(latency: the strongest fires first).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from affuse.types import AffuseError


def direct(x: Float[Tensor, "*any"], steps: int) -> Float[Tensor, " t *any"]:
    """The same currents at every step, as a view of `x` that takes no memory; any finite numbers.

    A spiking layer weights such a view once, not `steps` times.

    Args:
        x: currents.
        steps: at least 1.

    Raises:
        AffuseError: fewer steps than one.
    """
    _check_steps(steps)
    return x.expand(steps, *x.shape)


def rate(
    x: Float[Tensor, "*any"], steps: int, generator: torch.Generator | None = None, *, regular: bool = False
) -> Float[Tensor, " t *any"]:
    """Spikes, 0 or 1, of which the share x is 1.

    Args:
        x: probability of a spike in a step, 0 to 1.
        steps: at least 1.
        generator: of the chances; None for the global one.
        regular: no chance: spikes stand at even distances, where floor(t x) grows, t = 1 ... steps; floor(steps x) in all.

    Raises:
        AffuseError: x outside of 0 to 1 or not a number, or fewer steps than one.
    """
    _check_steps(steps)
    _check_range(x, "rate")
    if not regular:
        chance = torch.rand((steps, *x.shape), generator=generator, dtype=x.dtype, device=x.device)
        return (chance < x).to(x.dtype)  # in [0, 1), so 0 never fires and 1 always
    # In double precision t x is exact for x of single precision; rounded, it could pass over a whole number.
    t = torch.arange(steps + 1, dtype=torch.float64, device=x.device).view(-1, *[1] * x.ndim)
    return ((t * x.double()).floor().diff(dim=0) > 0).to(x.dtype)


def latency(x: Float[Tensor, "*any"], steps: int) -> Float[Tensor, " t *any"]:
    """One spike for each number above 0, at the step floor((1 - x) steps), the last step at the latest.

    So the range is cut into `steps` equal parts: with four, x in (0.75, 1] fires at step 0 and x in (0, 0.25] at step 3.

    Args:
        x: strength, 0 to 1.
        steps: at least 1.

    Raises:
        AffuseError: x outside of 0 to 1 or not a number, or fewer steps than one.
    """
    _check_steps(steps)
    _check_range(x, "latency")
    step = ((1 - x.double()) * steps).floor().clamp(max=steps - 1)
    t = torch.arange(steps, dtype=step.dtype, device=x.device).view(-1, *[1] * x.ndim)
    return ((t == step) & (x > 0)).to(x.dtype)


def _check_steps(steps: int) -> None:
    if steps < 1:
        raise AffuseError(f"spikes need at least one time step, got {steps}")


def _check_range(x: Tensor, encoding: str) -> None:
    if not bool(((x >= 0) & (x <= 1)).all()):
        raise AffuseError(f"{encoding} encoding takes numbers from 0 to 1; scale the input, and leave absent rows out")
