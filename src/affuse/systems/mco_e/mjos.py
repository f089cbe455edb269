"""Mamba with the multi-modal joint optimisation scheme, MJOS (MCO-E Net section 3.3.1, Algorithm 1, Eq. 1-5).

Values of a modality are held only for the rows that have it, as in fusion.py.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from affuse.ops.selective_scan import selective_scan
from affuse.parts.mamba import causal_convolution, start_steps
from affuse.systems.mco_e.config import MCOEConfig
from affuse.systems.mco_e.fusion import Rows, Values, kept, placed


class JointMamba(nn.Module):
    """Algorithm 1: each modality is scanned in both directions, with coefficients that know the other modality."""

    def __init__(self, config: MCOEConfig) -> None:
        super().__init__()
        inner = config.expand * config.d_model
        names = config.modalities
        self.silu = config.activation == "silu"
        self.residual = config.mamba_residual
        norm = (lambda: nn.LayerNorm(config.d_model)) if config.pre_norm else nn.Identity
        self.norm = nn.ModuleDict({name: norm() for name in names})
        self.into = nn.ModuleDict({name: nn.Linear(config.d_model, 2 * inner) for name in names})
        self.conv = nn.ModuleDict({name: nn.Conv1d(inner, inner, config.d_conv, groups=inner) for name in names})
        directions = ("scan_forward",) if config.causal else ("scan_forward", "scan_backward")
        self.scans = nn.ModuleDict({name: JointScan(config, inner, name == "scan_backward") for name in directions})
        self.out = nn.ModuleDict({name: nn.Linear(inner, config.d_model) for name in names})

    def forward(self, values: Values, rows: Rows) -> dict[str, Tensor]:
        x, z = {}, {}
        for name, tokens in values.items():
            main, z[name] = self.into[name](self.norm[name](tokens)).chunk(2, 2)  # r t inner
            conv = self.conv[name]
            x[name] = causal_convolution(main, conv.weight, conv.bias)  # type: ignore[arg-type]
            if self.silu:
                x[name], z[name] = functional.silu(x[name]), functional.silu(z[name])
        scanned = [scan(x, rows) for scan in self.scans.values()]
        found = {name: self.out[name](z[name] * sum(y[name] for y in scanned)) for name in values}
        return {name: found[name] + values[name] for name in values} if self.residual else found


class JointScan(nn.Module):
    """One direction of Algorithm 1.

    A and D are parameters; B and C follow the input. M (Eq. 5) acts on them before discretisation, as Algorithm 1 has it, and
    on log(-A) for A, whose sign a plain M could turn. The partner's B and C where the partner is absent are learned
    vectors that depend on no input.
    """

    def __init__(self, config: MCOEConfig, inner: int, backward: bool) -> None:
        super().__init__()
        self.backward_in_time = backward
        self.names, self.share = config.modalities, config.share
        both = len(self.names) == 2
        self.exchange = config.exchange and both
        self.interact = config.interacting if both else ""
        n = config.d_state
        self.A_log = nn.ParameterDict(
            {key: nn.Parameter(torch.arange(1.0, n + 1).log().repeat(inner, 1)) for key in self._keys("A")}
        )
        self.B = nn.ModuleDict({key: nn.Linear(inner, n, bias=False) for key in self._keys("B")})
        self.C = nn.ModuleDict({key: nn.Linear(inner, n, bias=False) for key in self._keys("C")})
        self.D = nn.ParameterDict({key: nn.Parameter(torch.ones(inner)) for key in self._keys("D")})
        self.delta = nn.ModuleDict({name: _step_projection(inner) for name in self.names})
        width = {"A": n, "B": n, "C": n, "D": inner}
        self.mix = nn.ModuleDict(
            {f"{k}_{name}": nn.Linear(2 * width[k], width[k]) for k in self.interact for name in self.names}
        )
        coupled = "BC" if self.exchange else self.interact
        self.absent = nn.ParameterDict(
            {f"{k}_{name}": nn.Parameter(0.1 * torch.randn(n)) for k in coupled if k in "BC" for name in self.names}
        )

    def _keys(self, coefficient: str) -> tuple[str, ...]:
        return ("shared",) if coefficient in self.share else self.names

    def _key(self, coefficient: str, name: str) -> str:
        return "shared" if coefficient in self.share else name

    def _partner(self, name: str) -> str:
        return self.names[1 - self.names.index(name)]

    def forward(self, x: Values, rows: Rows) -> dict[str, Tensor]:
        B, C = self._following("B", self.B, x, rows), self._following("C", self.C, x, rows)
        outputs = {}
        for name, own in x.items():
            A = -torch.exp(self._constant("A", self.A_log, name))
            D = self._constant("D", self.D, name)
            delta = functional.softplus(self.delta[name](own))
            outputs[name], _ = selective_scan(own, delta, A, B[name], C[name], D, reverse=self.backward_in_time)
        return outputs

    def _constant(self, k: str, held: nn.ParameterDict, name: str) -> Tensor:
        """A or D of one modality, after sharing, exchange or M."""
        if self.exchange:
            return held[self._partner(name)]
        own = held[self._key(k, name)]
        if k in self.interact:
            own = self.mix[f"{k}_{name}"](torch.cat([own, held[self._partner(name)]], -1)) + own  # Eq. 5
        return own

    def _following(self, k: str, lin: nn.ModuleDict, x: Values, rows: Rows) -> dict[str, Tensor]:
        """B or C of every modality, after sharing, exchange or M."""
        own = {name: lin[self._key(k, name)](value) for name, value in x.items()}  # r t n
        if not self.exchange and k not in self.interact:
            return own
        found = {}
        for name, value in own.items():
            other = self._partner(name)
            stand_in = self.absent[f"{k}_{other}"]
            if other in own:
                partner = kept(placed(own[other], rows[other], stand_in), rows[name], len(value))
            else:
                partner = stand_in.to(value.dtype).expand_as(value)
            if self.exchange:
                found[name] = partner
            else:
                found[name] = self.mix[f"{k}_{name}"](torch.cat([value, partner], 2)) + value  # Eq. 5
        return found


def _step_projection(inner: int) -> nn.Linear:
    """Lin and Param of Delta, which start as in Mamba."""
    lin = nn.Linear(inner, inner)
    start_steps(lin)
    return lin
