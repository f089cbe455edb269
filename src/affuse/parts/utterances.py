"""Utterances of several modalities: sequences beside each other, one vector from a sequence, and what a task loses.

For systems whose modalities are sequences of features (t, d). An absent modality is neutral: where a method needs a vector
of it, that is zero, which depends on no input. Masks and lengths are as in `parts/sequences.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pack_padded_sequence

from affuse.parts.sequences import pooled, present_rows, sequences_of, spread
from affuse.parts.supervision import known_rows, nothing_to_learn
from affuse.parts.text import TextEncoder
from affuse.types import AffuseError, Batch, Output, System, Task

Reading = Literal["lstm", "mean", "last", "first"]


def answered_rows(batch: Batch, modalities: Sequence[str]) -> Bool[Tensor, " b"]:
    """Rows that have any of the modalities."""
    return torch.stack([present_rows(batch, name) for name in modalities]).any(0)


def unanswered_as_nan(logits: Float[Tensor, "b c"], answered: Bool[Tensor, " b"]) -> Float[Tensor, "b c"]:
    """The logits, NaN in rows without an answer."""
    return logits.masked_fill(~answered[:, None], torch.nan)


def aligned(
    batch: Batch, widths: Mapping[str, int], resample: bool, kept: Int[Tensor, " b"] | None = None
) -> tuple[dict[str, Float[Tensor, "b t _"]], Int[Tensor, " b"]]:
    """All modalities step by step beside each other.

    Args:
        batch: the batch; at least one row must have one of the modalities.
        widths: features by modality, in order.
        resample: average every sequence of a row over as many equal parts as the row's shortest one has steps; otherwise
            sequences of different lengths are an error.
        kept: steps of each row that go before the shortest one's, those of a text for instance; 0 where there are none.

    Returns:
        Features (b, t, d) by modality, zero where absent and behind the end; and the steps of each row, 0 where it has
        nothing.

    Raises:
        AffuseError: as `sequences_of`; or a row's modalities differ in length and `resample` is off.
    """
    found = {name: sequences_of(batch, name, width) for name, width in widths.items()}
    longest = torch.iinfo(torch.int64).max
    shortest = torch.full((batch.size,), longest, device=batch.present.device)
    for _, mask, rows in found.values():
        shortest[rows] = torch.minimum(shortest[rows], mask.sum(1))
    if kept is not None:
        shortest = torch.where(kept > 0, kept, shortest)
    lengths = torch.where(shortest == longest, 0, shortest)  # b
    t = int(lengths.max())
    beside: dict[str, Tensor] = {}
    for name, (values, mask, rows) in found.items():
        own, wanted = mask.sum(1), lengths[rows]  # r
        if torch.equal(own, wanted):
            steps = values.masked_fill(~mask[..., None], 0.0)
        elif resample:
            steps = resampled(values.masked_fill(~mask[..., None], 0.0), own, wanted, t)
        else:
            row = int((wanted != own).nonzero()[0])
            raise AffuseError(
                f"modality {name!r} has {int(own[row])} steps where another of the same sample has "
                f"{int(wanted[row])}: give aligned sequences, or set align to resample"
            )
        beside[name] = spread(functional.pad(steps, (0, 0, 0, t - steps.shape[1])), rows, 0.0)
    return beside, lengths


def resampled(
    features: Float[Tensor, "r n d"], lengths: Int[Tensor, " r"], wanted: Int[Tensor, " r"], t: int
) -> Float[Tensor, "r t d"]:
    """Each row's own steps averaged over `wanted` equal parts; zero from `wanted` on.

    Part j of k covers steps floor(j n / k) to ceil((j + 1) n / k), the bounds of adaptive average pooling.
    """
    part = torch.arange(t, device=features.device)  # t
    inside = part < wanted[:, None]  # r t
    k, n = wanted[:, None].clamp(min=1), lengths[:, None]  # r 1
    start = torch.where(inside, part * n // k, 0)
    stop = torch.where(inside, -(-(part + 1) * n // k), 1)
    step = torch.arange(features.shape[1], device=features.device)  # n
    covers = (step >= start[..., None]) & (step < stop[..., None]) & inside[..., None]  # r t n
    share = covers.to(features.dtype) / (stop - start)[..., None]
    return share @ features


def final_states(lstm: nn.LSTM, values: Float[Tensor, "r t d"], lengths: Int[Tensor, " r"]) -> Float[Tensor, "r k"]:
    """The last layer's state after a row's last own step; of both directions side by side where there are two."""
    packed = pack_padded_sequence(values, lengths.cpu(), batch_first=True, enforce_sorted=False)
    _, (hidden, _) = lstm(packed)  # (layers * directions) r k
    return torch.cat(list(hidden[-2:] if lstm.bidirectional else hidden[-1:]), 1)


class RowNorm(nn.BatchNorm1d):
    """Batch normalisation over rows; a single row in training uses the running statistics and leaves them alone."""

    def forward(self, input: Tensor) -> Tensor:
        if self.training and len(input) == 1:
            return functional.batch_norm(
                input, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
            )
        return super().forward(input)


class Reader(nn.Module):
    """A sequence of features as one vector: the modality embedding subnetworks of TFN.

    ``lstm``: the final state of an LSTM, dropout, a linear map. ``mean``, ``last`` and ``first``: the average of the own steps,
    the last or the first one (BERT's [CLS]), batch normalisation, dropout, three linear maps with ReLU.

    Args:
        features: features a step.
        hidden: width inside.
        width: of the vector.
        reading: which of the above.
        dropout: its rate.

    Raises:
        AffuseError: there is no such reading.
    """

    def __init__(self, features: int, hidden: int, width: int, reading: Reading, dropout: float) -> None:
        super().__init__()
        self.reading = reading
        self.dropout = nn.Dropout(dropout)
        self.net: nn.Module
        if reading == "lstm":
            self.lstm = nn.LSTM(features, hidden, batch_first=True)
            self.net = nn.Sequential(self.dropout, nn.Linear(hidden, width))
        elif reading in ("mean", "last", "first"):
            maps = [nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU()]
            self.net = nn.Sequential(RowNorm(features), self.dropout, *maps, nn.Linear(hidden, width), nn.ReLU())
        else:
            raise AffuseError(f"no reading {reading!r} of a sequence; choose lstm, mean, last or first")

    def forward(self, values: Float[Tensor, "r t d"], mask: Bool[Tensor, "r t"]) -> Float[Tensor, "r k"]:
        if self.reading == "lstm":
            return self.net(final_states(self.lstm, values, mask.sum(1)))
        return self.net(step_or_mean(values, mask, self.reading))


def step_or_mean(values: Float[Tensor, "r t d"], mask: Bool[Tensor, "r t"], reading: Reading) -> Float[Tensor, "r d"]:
    """The first or last own step, or the mean of the own steps."""
    if reading == "first":
        return values[:, 0]
    return pooled(values, mask, "last" if reading == "last" else "mean")


def embedded(
    batch: Batch, modality: str, width: int, text: TextEncoder | None = None
) -> tuple[Float[Tensor, "r t d"], Bool[Tensor, "r t"], Bool[Tensor, " b"]]:
    """`sequences_of`; where the modality is called text and a text encoder is given, its vectors of the token ids."""
    if text is None or modality != "text":
        return sequences_of(batch, modality, width)
    tokens, mask, rows = sequences_of(batch, modality, None)
    return text(tokens, mask), mask, rows


def read_all(
    readers: nn.ModuleDict,
    batch: Batch,
    widths: Mapping[str, int],
    outputs: Mapping[str, int],
    text: TextEncoder | None = None,
) -> dict[str, Float[Tensor, "b _"]]:
    """Each modality's vector by a reader called with its values and mask; zero in rows that lack the modality.

    Args:
        readers: module by modality.
        batch: the batch.
        widths: features a step that the batch must have.
        outputs: width of each vector.
        text: the encoder of a modality ``text`` that comes as token ids.
    """
    some = next(readers.parameters())
    vectors: dict[str, Tensor] = {}
    for name, reader in readers.items():
        values, mask, rows = embedded(batch, name, widths[name], text)
        vector = reader(values, mask) if len(values) else some.new_zeros(0, outputs[name])
        vectors[name] = spread(vector, rows, 0.0)
    return vectors


def need(modalities: Sequence[str], widths: Mapping[str, int], least: int = 1, text_encoder: str | None = None) -> None:
    """Check the two settings that every system of feature sequences has.

    Raises:
        AffuseError: too few modalities, one named twice, one without a width, or a text encoder that no modality needs.
    """
    if len(set(modalities)) != len(modalities) or len(modalities) < least:
        raise AffuseError(f"modalities {list(modalities)}: at least {least} different names are needed")
    for name in modalities:
        if widths.get(name, 0) < 1:
            raise AffuseError(f"modality {name!r} has no width: set widths.{name} to its features a step")
    if text_encoder is not None and "text" not in modalities:
        raise AffuseError(f"text_encoder reads the modality text, which is not among {list(modalities)}")


def task_loss(logits: Float[Tensor, "r c"], target: Tensor, task: Task) -> Float[Tensor, ""]:
    """Cross-entropy of a classification; mean absolute error of a regression."""
    if task.kind == "classification":
        return functional.cross_entropy(logits, target)
    return functional.l1_loss(logits[:, 0], target.to(logits.dtype))


def supervised(system: System, output: Output, batch: Batch) -> dict[str, Tensor]:
    """`task_loss` over the rows that were answered and have a target.

    Raises:
        AffuseError: the batch has no targets.
    """
    rows = known_rows(output, batch, system.task)
    if batch.target is None or not rows.any():
        return nothing_to_learn(system)
    loss = task_loss(output.logits[rows], batch.target[rows], system.task)
    return {"cross_entropy" if system.task.kind == "classification" else "l1": loss, "total": loss}
