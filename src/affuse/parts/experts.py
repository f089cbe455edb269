"""Heterogeneous experts over a sequence of tokens, and the router with attention that chooses among them.

Shape letters: ``b`` batch, ``t`` token, ``d`` channel, ``e`` expert, ``c`` class. Source: MCO-E Net, section 3.4, Eq. 14-19.
An answer about a clip is the mean over its tokens; the paper leaves the pooling open.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from affuse.ops.dispatch import dispatch, dispatch_dense, top_k_weights
from affuse.types import AffuseError

ExpertType = Literal["focal", "attention", "deep"]


class Attention(nn.Module):
    """Multi-head attention (MCO-E Net Eq. 6-8).

    The four projections are modules of their own. The key has no bias, for softmax cannot see one.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise AffuseError(f"a width of {width} does not divide into {heads} heads: change one of them")
        self.heads = heads
        self.query, self.value, self.out = (nn.Linear(width, width) for _ in range(3))
        self.key = nn.Linear(width, width, bias=False)
        for linear in (self.query, self.key, self.value, self.out):
            nn.init.xavier_uniform_(linear.weight)
            if linear.bias is not None:
                nn.init.zeros_(linear.bias)

    def forward(
        self, query: Float[Tensor, "b q d"], memory: Float[Tensor, "b t d"], causal: bool = False
    ) -> Float[Tensor, "b q d"]:
        q, k, v = (
            x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)  # b head t width
            for x in (self.query(query), self.key(memory), self.value(memory))
        )
        found = functional.scaled_dot_product_attention(q, k, v, is_causal=causal)
        return self.out(found.transpose(1, 2).flatten(2))


class AttentionNorm(nn.Module):
    """LN(MHA(H) + H): the first half of the router (Eq. 14) and of the attention expert (Eq. 17)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention = Attention(width, heads)
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: Float[Tensor, "b t d"]) -> Float[Tensor, "b t d"]:
        return self.norm(self.attention(tokens, tokens) + tokens)


class Router(nn.Module):
    """H' = P2(gelu(P1(LN(MHA(H) + H)))), mean over tokens, softmax (Eq. 14, 15)."""

    def __init__(self, width: int, experts: int, heads: int) -> None:
        super().__init__()
        self.context = AttentionNorm(width, heads)
        self.mlp = nn.Sequential(nn.Linear(width, width // 2), nn.GELU(), nn.Linear(width // 2, experts))

    def forward(self, tokens: Float[Tensor, "b t d"]) -> Float[Tensor, "b e"]:
        return self.mlp(self.context(tokens)).mean(1).softmax(1)


class FocalExpert(nn.Module):
    """C1(gelu(C3(H))): convolutions of width 3 and 1 along the tokens (Eq. 18).

    A clip has few tokens, for which a convolution takes longer to prepare than to compute: both are written as the matrix
    products that they are. The mean over tokens comes before C1, which is linear.
    """

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.local = nn.Conv1d(width, width // 2, 3, padding=1)
        self.out = nn.Conv1d(width // 2, outputs, 1)

    def forward(self, tokens: Float[Tensor, "b t d"]) -> Float[Tensor, "b c"]:
        near = functional.pad(tokens, (0, 0, 1, 1)).unfold(1, 3, 1)  # b t d 3
        local = functional.linear(near.flatten(2), self.local.weight.flatten(1), self.local.bias)  # b t d/2
        return functional.linear(functional.gelu(local).mean(1), self.out.weight.squeeze(2), self.out.bias)


class AttentionExpert(nn.Module):
    """P(LN(MHA(H) + H)) (Eq. 17)."""

    def __init__(self, width: int, outputs: int, heads: int) -> None:
        super().__init__()
        self.context = AttentionNorm(width, heads)
        self.out = nn.Linear(width, outputs)

    def forward(self, tokens: Float[Tensor, "b t d"]) -> Float[Tensor, "b c"]:
        return self.out(self.context(tokens).mean(1))


class DeepExpert(nn.Module):
    """P3 after `layers` blocks of [d -> 4d, dropout, 4d -> d] (Eq. 16).

    The equation has no activation between the projections, and neither has this. As all of it is then linear, the weights
    start with the variance that keeps the size of a signal through any depth.

    Args:
        residual: the first value of a learned factor by which each block adds its input, as the released code does; None for
            Eq. 16, which adds nothing.
    """

    def __init__(self, width: int, outputs: int, layers: int, dropout: float, residual: float | None = None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 4 * width), nn.Dropout(dropout), nn.Linear(4 * width, width))
            for _ in range(layers)
        )
        for module in self.blocks.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=module.in_features**-0.5)
                nn.init.zeros_(module.bias)
        self.out = nn.Linear(width, outputs)
        self.residual = None if residual is None else nn.Parameter(torch.tensor(residual))

    def forward(self, tokens: Float[Tensor, "b t d"]) -> Float[Tensor, "b c"]:
        if not self.training:  # without dropout all is linear, so that the mean may come first
            tokens = tokens.mean(1, keepdim=True)
        for block in self.blocks:
            tokens = block(tokens) if self.residual is None else block(tokens) + self.residual * tokens
        return self.out(tokens.mean(1))

    @torch.no_grad()
    def as_one_layer(self) -> MeanLinear:
        """What this computes without dropout, as one layer: a product of all of its weights."""
        weight: Tensor = self.out.weight
        bias: Tensor = self.out.bias
        for block in reversed(list(self.blocks)):
            assert isinstance(block, nn.Sequential)
            widen, _, narrow = block
            assert isinstance(widen, nn.Linear) and isinstance(narrow, nn.Linear)
            inner = weight @ narrow.weight  # c 4d
            bias = bias + weight @ narrow.bias + inner @ widen.bias
            weight = inner @ widen.weight if self.residual is None else inner @ widen.weight + self.residual * weight
        return MeanLinear(weight, bias)


class MeanLinear(nn.Module):
    """The mean over tokens, and a linear layer with these weights.

    Args:
        weight: of each input for each output.
        bias: of each output.
    """

    def __init__(self, weight: Float[Tensor, "c d"], bias: Float[Tensor, " c"]) -> None:
        super().__init__()
        self.out = nn.Linear(weight.shape[1], len(weight), device="meta")
        self.out.weight, self.out.bias = nn.Parameter(weight.detach()), nn.Parameter(bias.detach())

    def forward(self, tokens: Float[Tensor, "b t d"]) -> Float[Tensor, "b c"]:
        return self.out(tokens.mean(1))


@dataclass(frozen=True)
class Routing:
    """What the router decided: all probabilities, and those of the chosen experts scaled to sum to 1 (zero elsewhere)."""

    probabilities: Float[Tensor, "b e"]
    weights: Float[Tensor, "b e"]


class HeterogeneousExperts(nn.Module):
    """HCE-MoE: experts of several types in turn, of which each sample uses the `top_k` its router prefers (Eq. 14-19).

    Args:
        width: width of a token (d).
        outputs: width of the answer (c).
        types: the types, dealt out in turn over the experts.
        experts: number of experts.
        top_k: experts a sample uses.
        heads: attention heads of the router and, unless `expert_heads` is given, of the attention experts.
        deep_layers, dropout, residual: of the deep experts.

    Raises:
        AffuseError: `types` is empty, or `top_k` is not between 1 and `experts`.
    """

    def __init__(
        self,
        width: int,
        outputs: int,
        types: Sequence[ExpertType],
        experts: int,
        top_k: int,
        heads: int,
        deep_layers: int,
        dropout: float,
        residual: float | None = None,
        expert_heads: int | None = None,
    ) -> None:
        super().__init__()
        if not types:
            raise AffuseError("expert_types is empty: name at least one of focal, attention, deep")
        if not 1 <= top_k <= experts:
            raise AffuseError(f"top_k must be between 1 and the number of experts, {experts}; got {top_k}")
        self.outputs, self.top_k = outputs, top_k
        self.router = Router(width, experts, heads)
        self.experts = nn.ModuleList()
        for number in range(experts):
            kind = types[number % len(types)]
            if kind == "focal":
                self.experts.append(FocalExpert(width, outputs))
            elif kind == "attention":
                self.experts.append(AttentionExpert(width, outputs, expert_heads or heads))
            else:
                self.experts.append(DeepExpert(width, outputs, deep_layers, dropout, residual))

    def forward(self, tokens: Float[Tensor, "b t d"], dense: bool = False) -> tuple[Float[Tensor, "b c"], Routing]:
        """Logits and routing. `dense` runs every expert on every row, as an exported graph must."""
        probabilities = self.router(tokens)
        weights = top_k_weights(probabilities, self.top_k)
        if dense:
            logits = dispatch_dense(tokens, weights, list(self.experts))
        else:
            logits = dispatch(tokens, weights, list(self.experts), self.outputs)
        return logits, Routing(probabilities, weights)


def balance_loss(routing: Routing) -> Float[Tensor, ""]:
    """e * sum(share of samples that use an expert * its mean probability): 1 where all experts are used alike.

    Source: Fedus et al., "Switch Transformers", 2021, Eq. 4, with the share counted over all chosen experts.
    """
    chosen = (routing.weights > 0).float()
    share = chosen.mean(0) / chosen.sum(1).mean()
    return len(share) * (share.detach() * routing.probabilities.mean(0)).sum()
