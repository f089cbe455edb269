"""The Mamba block: a selective state space model between two projections (Gu and Dao, "Mamba", 2023, section 3.4, Figure 3).

For an input x (b, t, d) of which ``e = expand * d`` inner channels are made::

    u, z     = in_proj(x)                                  u, z (b, t, e)
    u        = silu(conv1d(u))                             each channel's own filter over this and the d_conv - 1 steps before
    r, B, C  = x_proj(u)                                   r (b, t, dt_rank), B, C (b, t, n)
    delta    = softplus(dt_proj(r))                        delta (b, t, e)
    y        = selective_scan(u, delta, -exp(A_log), B, C, D)
    x        = out_proj(y * silu(z))                       (b, t, d)

Parameters have the names and shapes of state-spaces/mamba (Apache-2.0) and mambapy (MIT), so that their weights load. There is
no normalisation and no residual path inside.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from affuse.ops.selective_scan import selective_scan, selective_scan_step
from affuse.types import AffuseError

SMALLEST_STEP, LARGEST_STEP = 1e-3, 1e-1  # what softplus(dt_proj) starts between; Mamba, section 3.6


class MambaState(NamedTuple):
    """What a stream has behind it: the last inputs of the convolution (b, d_conv - 1, e), the state of the scan (b, e, n)."""

    inputs: Tensor
    scan: Tensor


class MambaBlock(nn.Module):
    """The block above, over sequences of which some steps may say nothing.

    A step that is not valid takes its time, but the convolution sees zeros there and delta is exactly 0, so that the state
    passes unchanged: what stands in the step has no influence, NaN included. The block gives zeros there.

    Args:
        d_model: features a step (d).
        d_state: numbers of state a channel (n).
        d_conv: steps that the convolution sees.
        expand: inner channels over features (e / d).

    Raises:
        AffuseError: one of them is below 1.
    """

    def __init__(self, d_model: int, d_state: int = 16, d_conv: int = 4, expand: int = 2) -> None:
        super().__init__()
        if min(d_model, d_state, d_conv, expand) < 1:
            raise AffuseError(
                f"d_model, d_state, d_conv and expand are at least 1; got {d_model}, {d_state}, {d_conv}, {expand}"
            )
        inner, self.d_state, self.d_conv = expand * d_model, d_state, d_conv
        self.dt_rank = math.ceil(d_model / 16)
        self.in_proj = nn.Linear(d_model, 2 * inner, bias=False)
        self.conv1d = nn.Conv1d(inner, inner, d_conv, groups=inner)
        self.x_proj = nn.Linear(inner, self.dt_rank + 2 * d_state, bias=False)
        self.dt_proj = _step_projection(self.dt_rank, inner)
        self.A_log = nn.Parameter(torch.arange(1.0, d_state + 1).log().repeat(inner, 1))  # S4D-real: A_n = -(n + 1)
        self.D = nn.Parameter(torch.ones(inner))
        self.out_proj = nn.Linear(inner, d_model, bias=False)

    def forward(self, x: Float[Tensor, "b t d"], valid: Bool[Tensor, "b t"] | None = None) -> Float[Tensor, "b t d"]:
        """The block over whole sequences; each step depends on itself and earlier ones.

        Args:
            x: the sequences.
            valid: which steps say something; None: all.
        """
        if valid is not None:
            x = x.masked_fill(~valid[:, :, None], 0.0)
        main, gate = self.in_proj(x).chunk(2, 2)  # b t e
        u = functional.silu(causal_convolution(main, self.conv1d.weight, self._bias))  # b t e
        delta, into, out = self._coefficients(u)
        if valid is not None:
            delta = delta.masked_fill(~valid[:, :, None], 0.0)
        y, _ = selective_scan(u, delta, -torch.exp(self.A_log), into, out, self.D)
        found = self.out_proj(y * functional.silu(gate))
        return found if valid is None else found.masked_fill(~valid[:, :, None], 0.0)

    def init_state(self, b: int) -> MambaState:
        """The state before the first step of `b` streams."""
        e, n = self.A_log.shape
        return MambaState(self.A_log.new_zeros(b, self.d_conv - 1, e), self.A_log.new_zeros(b, e, n))

    def step(
        self, x: Float[Tensor, "b d"], state: MambaState, valid: Bool[Tensor, " b"] | None = None
    ) -> tuple[Float[Tensor, "b d"], MambaState]:
        """One step: `forward` is a fold of it. Cost and state do not grow with the steps before."""
        if valid is not None:
            x = x.masked_fill(~valid[:, None], 0.0)
        main, gate = self.in_proj(x).chunk(2, 1)  # b e
        seen = torch.cat([state.inputs, main[:, None]], 1)  # b k e
        u = functional.silu(torch.einsum("bke,ek->be", seen, self.conv1d.weight.squeeze(1)) + self._bias)
        delta, into, out = self._coefficients(u)
        if valid is not None:
            delta = delta.masked_fill(~valid[:, None], 0.0)
        y, scan = selective_scan_step(u, delta, -torch.exp(self.A_log), into, out, self.D, state.scan)
        found = self.out_proj(y * functional.silu(gate))
        if valid is not None:
            found = found.masked_fill(~valid[:, None], 0.0)
        return found, MambaState(seen[:, 1:], scan)

    @property
    def _bias(self) -> Tensor:
        assert self.conv1d.bias is not None
        return self.conv1d.bias

    def _coefficients(
        self, u: Float[Tensor, "*steps e"]
    ) -> tuple[Float[Tensor, "*steps e"], Float[Tensor, "*steps n"], Float[Tensor, "*steps n"]]:
        """delta, B and C, which follow the input: what makes the scan selective."""
        rank, into, out = self.x_proj(u).split([self.dt_rank, self.d_state, self.d_state], -1)
        return functional.softplus(self.dt_proj(rank)), into, out


def causal_convolution(
    x: Float[Tensor, "b t e"], weight: Float[Tensor, "e 1 k"], bias: Float[Tensor, " e"]
) -> Float[Tensor, "b t e"]:
    """Each channel's own filter over this and the k - 1 tokens before: `nn.Conv1d` with a group a channel.

    A sum of k shifted products: a convolution takes longer to prepare than this takes, and moves the channels first.
    """
    length, k = x.shape[1], weight.shape[2]
    padded = functional.pad(x, (0, 0, k - 1, 0))
    y = bias.expand_as(x)
    for lag, tap in enumerate(weight.squeeze(1).unbind(1)):
        y = torch.addcmul(y, padded[:, lag : lag + length], tap)
    return y


@torch.no_grad()
def start_steps(projection: nn.Linear) -> None:
    """Set the bias of a projection to delta so that steps of an input of zero are log-uniform between the smallest and the
    largest."""
    steps = torch.empty_like(projection.bias).uniform_(math.log(SMALLEST_STEP), math.log(LARGEST_STEP)).exp()
    projection.bias.copy_(steps + torch.log(-torch.expm1(-steps)))  # inverse of softplus


def _step_projection(rank: int, inner: int) -> nn.Linear:
    """The projection to delta: with its bias alone, steps are log-uniform between the smallest and the largest."""
    projection = nn.Linear(rank, inner)
    nn.init.uniform_(projection.weight, -(rank**-0.5), rank**-0.5)
    start_steps(projection)
    return projection
