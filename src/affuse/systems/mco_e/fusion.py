"""MCIB: the two modalities question each other, and a gate weighs the answers (MCO-E Net section 3.3.2, Eq. 6-13).

Values of a modality are held only for the rows that have it: ``values[m]`` is (r, t, d) for the r rows where ``rows[m]``,
of shape (b,), is true. A modality that no row has is in neither mapping.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from affuse.parts.experts import Attention

Values = Mapping[str, Float[Tensor, "_ t d"]]
Rows = Mapping[str, Bool[Tensor, " b"]]


def placed(
    values: Float[Tensor, "r t d"], rows: Bool[Tensor, " b"], stand_in: Float[Tensor, " d"]
) -> Float[Tensor, "b t d"]:
    """A modality's values in all rows, with a stand-in that depends on no input in the rows that lack it."""
    if len(values) == len(rows):
        return values
    full = stand_in.to(values.dtype).expand(len(rows), values.shape[1], -1).clone()
    full[rows] = values
    return full


def kept(full: Float[Tensor, "b t d"], rows: Bool[Tensor, " b"], count: int) -> Float[Tensor, "r t d"]:
    """The reverse of `placed`: the values in the rows that have the modality, `count` of them."""
    return full if count == len(rows) else full[rows]


def lone_weight(rows: Rows, alpha: Float[Tensor, "b t"]) -> Float[Tensor, "b t"]:
    """The gate with its value forced where a modality is alone: 1 without events, 0 without frames."""
    if "rgb" not in rows:
        return torch.zeros_like(alpha)
    if "event" not in rows:
        return torch.ones_like(alpha)
    alpha = torch.where(rows["event"][:, None], alpha, torch.ones_like(alpha))
    return torch.where(rows["rgb"][:, None], alpha, torch.zeros_like(alpha))


class MCIB(nn.Module):
    """Multi-modal collaborative interaction block.

    Args:
        width: width of a token (d).
        heads: heads of both attentions.
        gate_scale: factor inside the sigmoid of Eq. 12; the paper has none, that is 1.
        causal: no token looks at a later one.
        residual: factor by which the sum of both modalities' values is added; the paper adds nothing, that is 0.
    """

    def __init__(self, width: int, heads: int, gate_scale: float, causal: bool, residual: float = 0.0) -> None:
        super().__init__()
        self.gate_scale, self.causal, self.residual = gate_scale, causal, residual
        self.attention = nn.ModuleDict({name: Attention(width, heads) for name in ("rgb", "event")})
        # What asks in the place of an absent partner.
        self.absent_query = nn.ParameterDict(
            {name: nn.Parameter(0.1 * torch.randn(width)) for name in ("rgb", "event")}
        )

    def forward(self, values: Values, rows: Rows) -> tuple[Float[Tensor, "b t d"], Float[Tensor, "b t"]]:
        """H and alpha."""
        some = next(iter(values.values()))
        b = len(next(iter(rows.values())))
        asked: dict[str, Tensor] = {}
        whole: dict[str, Tensor] = {}
        for name, stand_in in self.absent_query.items():
            if name in values:
                whole[name] = placed(values[name], rows[name], stand_in)
            else:
                whole[name] = stand_in.to(some.dtype).expand(b, some.shape[1], -1)
        for name, own in values.items():
            query = kept(whole["event" if name == "rgb" else "rgb"], rows[name], len(own))
            answer = self.attention[name](query, own, self.causal)  # Eq. 9-11
            asked[name] = placed(answer, rows[name], answer.new_zeros(answer.shape[2]))
        alpha = torch.sigmoid(self.gate_scale * (whole["rgb"] * whole["event"]).sum(2))  # b t, Eq. 12
        if any(len(values.get(name, ())) < b for name in whole):
            alpha = lone_weight(rows, alpha)
        weight = alpha[:, :, None]
        nothing = some.new_zeros(())
        fused = weight * asked.get("rgb", nothing) + (1 - weight) * asked.get("event", nothing)  # Eq. 13
        if self.residual:
            fused = fused + self.residual * _sum(values, rows)
        return fused, alpha


def added(values: Values, rows: Rows) -> tuple[Float[Tensor, "b t d"], Float[Tensor, "b t"]]:
    """Plain addition of what is there (Table 2 C and E), and the share of RGB in it: a half, or all, or nothing."""
    total = _sum(values, rows)
    return total, lone_weight(rows, total.new_full(total.shape[:2], 0.5))


def _sum(values: Values, rows: Rows) -> Float[Tensor, "b t d"]:
    parts = [placed(own, rows[name], own.new_zeros(own.shape[2])) for name, own in values.items()]
    return parts[0] if len(parts) == 1 else parts[0] + parts[1]
