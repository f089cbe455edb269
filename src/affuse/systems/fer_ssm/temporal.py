"""FER-SSM over time: projection, Mamba blocks, temporal attention and pooling (rows 6 to 9 of Table 1).

Steps that are not valid say nothing anywhere: a block's state passes them by, no attention reads them, their share in the
pooling is 0. The forms for a whole clip and for one step at a time give the same, where nothing looks ahead.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from affuse.parts.mamba import MambaBlock, MambaState
from affuse.systems.fer_ssm.config import FERSSMConfig


class AttentionState(NamedTuple):
    """The window behind: keys and values (b, w - 1, d), and which of its steps are valid (b, w - 1)."""

    keys: Tensor
    values: Tensor
    valid: Tensor


class PoolState(NamedTuple):
    """The weighted mean so far (b, d), and the weight in it (b,), 0 before the first valid step."""

    mean: Tensor
    weight: Tensor


class TemporalState(NamedTuple):
    """What a stream has behind it; its size depends on no number of frames."""

    blocks: tuple[MambaState, ...]
    attention: AttentionState | None
    pool: PoolState


class Pooled(NamedTuple):
    """What is read of a clip: the pooled vector (b, d), the share (b, t) of each step in it, and, of a causal model, the vector
    that is pooled from the steps up to each one (b, t, d)."""

    vector: Tensor
    share: Tensor
    steps: Tensor | None


class TemporalAttention(nn.Module):
    """Multi-head self-attention over the valid steps (row 8), or over the last `window` of them up to now.

    Args:
        width: features a step (d); a multiple of `heads`.
        heads: heads.
        window: steps that a step looks back over, itself among them; None: over the whole clip, later ones too.
    """

    def __init__(self, width: int, heads: int, window: int | None) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width, bias=False)  # softmax cannot see a bias of the key
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Float[Tensor, "b t d"], valid: Bool[Tensor, "b t"]) -> Float[Tensor, "b t d"]:
        """What stands in a step that is not valid is not read; what is found for it means nothing."""
        step = torch.arange(x.shape[1], device=x.device)
        back = step[:, None] - step  # t s
        allowed = valid[:, None, :].expand(-1, x.shape[1], -1)  # b t s
        if self.window is not None:
            allowed = allowed & (back >= 0) & (back < self.window)
        # A step that is not valid may have none to ask: it asks itself, so that no softmax is over nothing.
        return self._asked(x, self.key(x), self.value(x), allowed | (back == 0))

    def init_state(self, b: int) -> AttentionState:
        """An empty window of `b` streams."""
        assert self.window is not None
        nothing = self.query.weight.new_zeros(b, self.window - 1, self.query.in_features)
        return AttentionState(nothing, nothing, torch.zeros(nothing.shape[:2], dtype=torch.bool, device=nothing.device))

    def step(
        self, x: Float[Tensor, "b d"], valid: Bool[Tensor, " b"], state: AttentionState
    ) -> tuple[Float[Tensor, "b d"], AttentionState]:
        """One step; the oldest one of the window leaves it."""
        keys = torch.cat([state.keys, self.key(x)[:, None]], 1)  # b w d
        values = torch.cat([state.values, self.value(x)[:, None]], 1)
        there = torch.cat([state.valid, valid[:, None]], 1)  # b w
        itself = torch.arange(there.shape[1], device=x.device) == there.shape[1] - 1
        found = self._asked(x[:, None], keys, values, (there | itself)[:, None])
        return found[:, 0], AttentionState(keys[:, 1:], values[:, 1:], there[:, 1:])

    def _asked(self, x: Tensor, keys: Tensor, values: Tensor, allowed: Tensor) -> Tensor:
        query, key, value = (y.unflatten(2, (self.heads, -1)).transpose(1, 2) for y in (self.query(x), keys, values))
        answer = functional.scaled_dot_product_attention(query, key, value, allowed[:, None])  # b heads t d/heads
        return self.out(answer.transpose(1, 2).flatten(2))


def pool_step(
    x: Float[Tensor, "b d"], score: Float[Tensor, " b"], state: PoolState, memory: float | None = None
) -> PoolState:
    """The running mean (row 9) after one more step: each step weighs as its score, older ones less where `memory` is given.

    m' = m + s / W' (x - m), with W' = W + s, or (1 - 1 / memory) W + s. A step of score 0 leaves both as they are.
    """
    kept = state.weight
    if memory is not None:
        kept = torch.where(score > 0, kept * (1 - 1 / memory), kept)
    weight = kept + score
    share = score / weight.clamp_min(torch.finfo(weight.dtype).tiny)
    return PoolState(state.mean + share[:, None] * (x - state.mean), weight)


def time_shares(score: Float[Tensor, "b t"], memory: float | None = None) -> Float[Tensor, "b t"]:
    """The share of each step in the mean that `pool_step` arrives at: rows sum to 1, or are 0 where all scores are."""
    if memory is not None:
        later = (score > 0).flip(1).cumsum(1).flip(1) - (score > 0).long()  # valid steps behind each
        score = score * (1 - 1 / memory) ** later
    return score / score.sum(1, keepdim=True).clamp_min(torch.finfo(score.dtype).tiny)


class TemporalModel(nn.Module):
    """Rows 6 to 9: from a vector a frame to one of the clip.

    Args:
        features: width of a frame's vector (f).
        config: settings.
    """

    def __init__(self, features: int, config: FERSSMConfig) -> None:
        super().__init__()
        d = config.d_model
        norm = (lambda: nn.LayerNorm(d)) if config.pre_norm else nn.Identity
        self.residual, self.causal, self.memory = config.residual, config.causal, config.memory
        self.project = nn.Linear(features, d)
        self.norms = nn.ModuleList(norm() for _ in range(config.blocks))
        self.blocks = nn.ModuleList(
            MambaBlock(d, config.d_state, config.d_conv, config.expand) for _ in range(config.blocks)
        )
        window = config.attention_window if config.causal else None
        self.attention_norm = norm() if config.attention else None
        self.attention = TemporalAttention(d, config.heads, window) if config.attention else None
        self.last_norm = norm()
        self.drop = nn.Dropout(config.block_dropout)

    def forward(
        self, frames: Float[Tensor, "b t f"], valid: Bool[Tensor, "b t"], score: Float[Tensor, "b t"]
    ) -> Pooled:
        """A whole clip.

        Args:
            frames: finite also where not valid.
            valid: which frames are there.
            score: how much each weighs in the pooling: above 0 where valid, 0 elsewhere.
        """
        x = self.project(frames)  # b t d, row 6
        for norm, block in zip(self.norms, self.blocks, strict=True):  # row 7
            x = self._joined(x, block(norm(x), valid))
        if self.attention is not None and self.attention_norm is not None:  # row 8
            x = self._joined(x, self.attention(self.attention_norm(x), valid))
        x = self.last_norm(x)
        share = time_shares(score, self.memory)
        if not self.causal:
            return Pooled(torch.einsum("btd,bt->bd", x, share), share, None)  # row 9
        state, steps = self._empty_pool(len(x)), []
        for x_t, score_t in zip(x.unbind(1), score.unbind(1), strict=True):
            state = pool_step(x_t, score_t, state, self.memory)
            steps.append(state.mean)
        return Pooled(state.mean, share, torch.stack(steps, 1))

    def init_state(self, b: int) -> TemporalState:
        """The state before the first frame of `b` streams."""
        blocks = tuple(block.init_state(b) for block in self._blocks())
        attention = None if self.attention is None else self.attention.init_state(b)
        return TemporalState(blocks, attention, self._empty_pool(b))

    def step(
        self,
        frame: Float[Tensor, "b f"],
        valid: Bool[Tensor, " b"],
        score: Float[Tensor, " b"],
        state: TemporalState,
    ) -> tuple[Float[Tensor, "b d"], TemporalState]:
        """One frame, and back the vector that is pooled so far. Of a causal model `forward` is a fold of it."""
        x, blocks = self.project(frame), []
        for norm, block, behind in zip(self.norms, self._blocks(), state.blocks, strict=True):
            found, following = block.step(norm(x), behind, valid)
            x = self._joined(x, found)
            blocks.append(following)
        attention = state.attention
        if self.attention is not None and self.attention_norm is not None and attention is not None:
            found, attention = self.attention.step(self.attention_norm(x), valid, attention)
            x = self._joined(x, found)
        pool = pool_step(self.last_norm(x), score, state.pool, self.memory)
        return pool.mean, TemporalState(tuple(blocks), attention, pool)

    def _joined(self, x: Tensor, found: Tensor) -> Tensor:
        return x + self.drop(found) if self.residual else found

    def _empty_pool(self, b: int) -> PoolState:
        some = self.project.weight
        return PoolState(some.new_zeros(b, self.project.out_features), some.new_zeros(b))

    def _blocks(self) -> list[MambaBlock]:
        return [block for block in self.blocks if isinstance(block, MambaBlock)]
