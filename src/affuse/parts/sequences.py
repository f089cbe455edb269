"""Sequences of different lengths side by side: masks, temporal convolution, transformer encoder, pooling.

Everywhere ``mask`` (r, t) is true at the steps of a row that are its own, and false at its padding. No padding reaches an
answer: a sequence gives the same alone and beside longer ones. A row must own at least one step.

``r`` counts the rows of a batch that have a modality (`present_rows`); `spread` brings their values back to all ``b``.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from affuse.types import AffuseError, Batch

Readout = Literal["last", "mean", "attention"]


def valid_steps(lengths: Int[Tensor, " r"], steps: int) -> Bool[Tensor, "r t"]:
    """The mask of sequences of these lengths, padded at the end to `steps`."""
    return torch.arange(steps, device=lengths.device) < lengths[:, None]


def present_rows(batch: Batch, modality: str) -> Bool[Tensor, " b"]:
    """Which rows have this modality; a sequence without a step is none."""
    has = batch.has(modality)
    if modality in batch.inputs and batch.inputs[modality].shape[1] == 0:
        return torch.zeros_like(has)
    return has & (batch.lengths[modality] > 0) if modality in batch.lengths else has


def sequences_of(
    batch: Batch, modality: str, width: int | None
) -> tuple[Tensor, Bool[Tensor, "r t"], Bool[Tensor, " b"]]:
    """The sequences of the rows that have a modality.

    Args:
        batch: the batch.
        modality: its name.
        width: features a step; None: token ids, integers (b, t).

    Returns:
        values (r, t, d), or token ids (r, t); their mask (r, t); which rows they are (b,).

    Raises:
        AffuseError: the input has another shape or kind.
    """
    rows = present_rows(batch, modality)
    if not rows.any():
        none = torch.zeros(0, 1, dtype=torch.long, device=rows.device)
        values = none if width is None else torch.zeros(0, 1, width, device=rows.device)
        return values, torch.zeros(0, 1, dtype=torch.bool, device=rows.device), rows
    values = batch.inputs[modality]
    tokens = values.ndim == 2 and not values.is_floating_point()
    if width is None and not tokens:
        raise AffuseError(
            f"modality {modality!r}: expected token ids, integers (b, t), got {values.dtype} {tuple(values.shape)}; "
            f"give token ids, or leave the text encoder out and give features"
        )
    if width is not None and (values.ndim != 3 or values.shape[2] != width):
        raise AffuseError(
            f"modality {modality!r}: expected (b, t, {width}), got {tuple(values.shape)}"
            + ("; token ids need a text encoder" if tokens else "; set its width or mend the data")
        )
    values = values[rows]
    if modality in batch.lengths:
        mask = valid_steps(batch.lengths[modality][rows], values.shape[1])
    else:
        mask = torch.ones(values.shape[:2], dtype=torch.bool, device=values.device)
    longest = int(mask.sum(1).max())  # rows that lack it may have been longer
    return values[:, :longest], mask[:, :longest], rows


def spread(
    values: Float[Tensor, "r ..."], rows: Bool[Tensor, " b"], fill: float | Float[Tensor, "..."]
) -> Float[Tensor, "b ..."]:
    """Values of some rows in all rows, with a fill (one number, or a tensor as large as a row) in the others."""
    if len(values) == len(rows):
        return values
    fill = torch.as_tensor(fill, dtype=values.dtype, device=values.device)
    full = fill.expand(len(rows), *values.shape[1:]).clone()
    full[rows] = values
    return full


def pooled(
    values: Float[Tensor, "r t d"], mask: Bool[Tensor, "r t"], how: Literal["last", "mean"]
) -> Float[Tensor, "r d"]:
    """The last own step of each row, or the mean over its own steps."""
    if how == "last":
        # The last true of the mask, wherever the padding stands.
        last = (mask * torch.arange(1, mask.shape[1] + 1, device=mask.device)).argmax(1)  # r
        return values[torch.arange(len(values), device=values.device), last]
    share = mask / mask.sum(1, keepdim=True)  # r t
    return torch.einsum("rtd,rt->rd", values.masked_fill(~mask[:, :, None], 0), share.to(values.dtype))


class SequencePool(nn.Module):
    """A sequence becomes one vector: its last own step, their mean, or a mean that learned attention weighs.

    Args:
        width: features a step (d).
        readout: which.
    """

    def __init__(self, width: int, readout: Readout) -> None:
        super().__init__()
        self.readout: Readout = readout
        # Without a bias: softmax would not see it.
        self.score = nn.Linear(width, 1, bias=False) if readout == "attention" else None

    def forward(self, values: Float[Tensor, "r t d"], mask: Bool[Tensor, "r t"]) -> Float[Tensor, "r d"]:
        if self.score is None:
            return pooled(values, mask, "last" if self.readout == "last" else "mean")
        share = self.score(values).squeeze(2).masked_fill(~mask, -torch.inf).softmax(1)  # r t
        return torch.einsum("rtd,rt->rd", values.masked_fill(~mask[:, :, None], 0), share)


class TemporalConvolution(nn.Module):
    """A convolution over time that keeps the length: zeros stand around a sequence as they stand in its padding.

    Args:
        width: features a step of the input (d).
        channels: features a step of the result (k).
        kernel: steps that it sees, centred; with an even number one more before than after.
        bias: whether it has one.
    """

    def __init__(self, width: int, channels: int, kernel: int, bias: bool = True) -> None:
        super().__init__()
        self.around = (kernel // 2, (kernel - 1) // 2)
        self.convolution = nn.Conv1d(width, channels, kernel, bias=bias)

    def forward(self, values: Float[Tensor, "r t d"], mask: Bool[Tensor, "r t"]) -> Float[Tensor, "r t k"]:
        clean = values.masked_fill(~mask[:, :, None], 0)
        found = self.convolution(functional.pad(clean.transpose(1, 2), self.around))  # r k t
        return found.transpose(1, 2)


def sinusoidal_positions(
    steps: int, width: int, device: torch.device | None = None, dtype: torch.dtype = torch.float32
) -> Float[Tensor, "t d"]:
    """Sines and cosines of the position (Vaswani et al., 2017, section 3.5), sines in the first half of the channels.

    An odd width has a last channel of zeros.
    """
    half = width // 2
    rate = torch.exp(torch.arange(half, device=device) * (-math.log(10_000) / max(half - 1, 1)))  # half
    angle = torch.arange(1, steps + 1, device=device)[:, None] * rate  # t half
    return functional.pad(torch.cat([angle.sin(), angle.cos()], 1), (0, width - 2 * half)).to(dtype)


class SequenceAttention(nn.Module):
    """Multi-head attention (Vaswani et al., 2017) from a sequence to itself or to another one.

    Args:
        width: features a step (d); a multiple of `heads`.
        heads: heads.
        dropout: of the attention weights.
        causal: a step asks no later one; only where a sequence asks itself.

    Raises:
        AffuseError: the heads do not divide the width.
    """

    def __init__(self, width: int, heads: int, dropout: float = 0.0, causal: bool = False) -> None:
        super().__init__()
        if width % heads:
            raise AffuseError(f"{heads} heads do not divide a width of {width}: change one of them")
        self.heads, self.dropout, self.causal = heads, dropout, causal
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width, bias=False)  # softmax cannot see a bias of the key
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(
        self, values: Float[Tensor, "r t d"], source: Float[Tensor, "r s d"], mask: Bool[Tensor, "r s"]
    ) -> Float[Tensor, "r t d"]:
        """`mask` is the source's."""
        query, key, value = (
            layer(x).unflatten(2, (self.heads, -1)).transpose(1, 2)  # r heads t d/heads
            for layer, x in ((self.query, values), (self.key, source), (self.value, source))
        )
        allowed = mask[:, None, None, :].expand(-1, 1, values.shape[1], -1)  # r 1 t s
        if self.causal:
            # A row's own first step is before all of them, so that every step has something to ask.
            allowed = (
                allowed & torch.ones(values.shape[1], source.shape[1], dtype=torch.bool, device=mask.device).tril()
            )
        dropout = self.dropout if self.training else 0.0
        answer = functional.scaled_dot_product_attention(query, key, value, allowed, dropout)
        return self.out(answer.transpose(1, 2).flatten(2))


class TransformerLayer(nn.Module):
    """Attention and a feed-forward network four times as wide, each after a normalisation and around it a residual path."""

    def __init__(
        self,
        width: int,
        heads: int,
        attention_dropout: float,
        relu_dropout: float,
        residual_dropout: float,
        causal: bool,
    ) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = SequenceAttention(width, heads, attention_dropout, causal)
        self.feed_norm = nn.LayerNorm(width)
        self.feed = nn.Sequential(
            nn.Linear(width, 4 * width), nn.ReLU(), nn.Dropout(relu_dropout), nn.Linear(4 * width, width)
        )
        self.drop = nn.Dropout(residual_dropout)

    def forward(
        self, values: Float[Tensor, "r t d"], source: Float[Tensor, "r s d"] | None, mask: Bool[Tensor, "r s"]
    ) -> Float[Tensor, "r t d"]:
        own = self.attention_norm(values)
        asked = own if source is None else self.attention_norm(source)
        values = values + self.drop(self.attention(own, asked, mask))
        return values + self.drop(self.feed(self.feed_norm(values)))


class TransformerEncoder(nn.Module):
    """A transformer encoder over time with sinusoidal positions, normalised first, as MulT's (Tsai et al., ACL 2019, 3.2).

    With a `source` every layer asks that sequence instead of its own: MulT's crossmodal transformer, Z[source -> values].

    Args:
        width: features a step (d); a multiple of `heads`.
        heads: heads of every attention.
        layers: layers.
        attention_dropout: of attention weights.
        embed_dropout: of the scaled input with its positions.
        relu_dropout: inside of the feed-forward network.
        residual_dropout: of what joins the residual path.
        causal: no step sees a later one.

    Raises:
        AffuseError: the heads do not divide the width.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        layers: int,
        attention_dropout: float = 0.0,
        embed_dropout: float = 0.0,
        relu_dropout: float = 0.0,
        residual_dropout: float = 0.0,
        causal: bool = False,
    ) -> None:
        super().__init__()
        self.scale = math.sqrt(width)
        self.drop = nn.Dropout(embed_dropout)
        self.layers = nn.ModuleList(
            TransformerLayer(width, heads, attention_dropout, relu_dropout, residual_dropout, causal)
            for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)

    def forward(
        self,
        values: Float[Tensor, "r t d"],
        mask: Bool[Tensor, "r t"],
        source: Float[Tensor, "r s d"] | None = None,
        source_mask: Bool[Tensor, "r s"] | None = None,
    ) -> Float[Tensor, "r t d"]:
        """The encoded sequence; what stands at padded steps means nothing.

        Args:
            values: the sequence.
            mask: its own steps.
            source: the sequence that is asked instead, with its `source_mask`.
            source_mask: the own steps of `source`; by default all.
        """
        values = self._placed(values, mask)
        asked = mask
        if source is not None:
            whole = torch.ones(source.shape[:2], dtype=torch.bool, device=source.device)
            asked = whole if source_mask is None else source_mask
            source = self._placed(source, asked)
        for layer in self.layers:
            values = layer(values, source, asked)
        return self.norm(values)

    def _placed(self, values: Float[Tensor, "r t d"], mask: Bool[Tensor, "r t"]) -> Float[Tensor, "r t d"]:
        """Scaled, with positions, and nothing in the padding."""
        positions = sinusoidal_positions(values.shape[1], values.shape[2], values.device, values.dtype)
        return self.drop((self.scale * values + positions).masked_fill(~mask[:, :, None], 0))
