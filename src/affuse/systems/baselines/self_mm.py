"""Self-MM: each modality also answers alone, and learns from a label of its own, which is the human label moved by how much
nearer the modality's features lie to one side than the fused ones do.

Paper: Wenmeng Yu, Hua Xu, Ziqi Yuan, Jiele Wu, "Learning Modality-Specific Representations with Self-Supervised Multi-Task
Learning for Multimodal Sentiment Analysis", AAAI 2021. Settings: MMSA (thuiar/MMSA), MOSI.

===========================  ================================  =======================
in the paper                 here                              shape
===========================  ================================  =======================
F_s, F_m*, F_s*              `vectors`, aux["fused"],          (b, width)
                             aux[f"features_{name}"]
C_i^p, C_i^n                 `Centres.positive`, `.negative`   (k, width)
alpha_i                      `Centres.relative_distance`       (r, k)
y_s                          `moved_label`                     (r, k)
W_s^i                        `weight` in the loss              (r,)
===========================  ================================  =======================

k is 1 in a regression: its positive side are the labels above 0, its negative side those below.

Deviations: the paper keeps a table with a label of every training sample and modality, moves each by a running average over
epochs, and takes the centres over the whole table after each epoch. Here nothing is kept by sample: the centres are
exponential averages over batches (buffers, so that a checkpoint holds them), sides are those of the human label, and labels
follow from the centres at each step, from `warmup_steps` on (the paper: from the second epoch on). Until then all labels are
human ones, and then weigh nothing. A classification is our extension: one side by class, its rows against all others, and
moved one-hot labels, clipped and normalised. Text features go through a reader; the paper's is BERT's [CLS]. An absent
modality is the vector 0 in the fusion and has no answer alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from affuse.parts.sequences import present_rows
from affuse.parts.supervision import known_rows, nothing_to_learn
from affuse.parts.text import TextEncoder
from affuse.parts.utterances import (
    Reader,
    Reading,
    answered_rows,
    need,
    read_all,
    supervised,
    unanswered_as_nan,
)
from affuse.types import Batch, Output, System, Task

EPSILON = 1e-8


@dataclass(frozen=True)
class SelfMMConfig:
    """Settings.

    Args:
        modalities: names.
        widths: features a step by modality.
        readings: how a sequence becomes a vector, by modality; ``lstm`` where none is named.
        text_encoder: a model of transformers that reads token ids of ``text``; its width goes before widths.text.
        pretrained: take the text encoder's published weights.
        finetune: whether the text encoder learns.
        hidden: width of a modality's vector; 32 where none is named.
        alone: width of a modality's features F_s* in its own task; 32 where none is named.
        fusion: width of the fused features F_m*.
        dropout: of the vectors.
        limit: largest absolute label of a regression (H).
        centre_momentum: how much of a centre stays at each step.
        warmup_steps: training steps before labels are moved.
    """

    modalities: tuple[str, ...] = ("text", "audio", "video")
    widths: dict[str, int] = field(default_factory=lambda: {"text": 768, "audio": 5, "video": 20})
    readings: dict[str, Reading] = field(default_factory=dict)
    text_encoder: str | None = None
    pretrained: bool = True
    finetune: bool = True
    hidden: dict[str, int] = field(default_factory=lambda: {"text": 128, "audio": 16, "video": 32})
    alone: dict[str, int] = field(default_factory=lambda: {"text": 32, "audio": 16, "video": 32})
    fusion: int = 128
    dropout: float = 0.1
    limit: float = 3.0
    centre_momentum: float = 0.9
    warmup_steps: int = 80


class Centres(nn.Module):
    """Where the positive and the negative rows of one representation lie, averaged over batches.

    Args:
        sides: k, pairs of sides.
        width: of the representation.
        momentum: how much stays at each step.
    """

    positive: Tensor
    negative: Tensor
    known: Tensor

    def __init__(self, sides: int, width: int, momentum: float) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("positive", torch.zeros(sides, width))
        self.register_buffer("negative", torch.zeros(sides, width))
        self.register_buffer("known", torch.zeros(sides, 2, dtype=torch.bool))

    @torch.no_grad()
    def update(self, features: Float[Tensor, "r d"], side: Float[Tensor, "r k"]) -> None:
        """Move towards the means of the rows whose side is above and below 0; a side's first mean is taken as it is."""
        for column, centre in enumerate((self.positive, self.negative)):
            rows = (side > 0 if column == 0 else side < 0).to(features.dtype)  # r k
            count = rows.sum(0)  # k
            mean = rows.T @ features / count.clamp(min=1)[:, None]  # k d
            share = torch.where(self.known[:, column], 1 - self.momentum, 1.0)
            centre += torch.where(count > 0, share, 0.0)[:, None] * (mean - centre)
            self.known[:, column] |= count > 0

    def relative_distance(self, features: Float[Tensor, "r d"]) -> Float[Tensor, "r k"]:
        """alpha: how much farther from the negative than from the positive centre; 0 where one is unknown."""
        scale = math.sqrt(features.shape[1])
        positive = (features[:, None] - self.positive).square().sum(2) / scale  # r k
        negative = (features[:, None] - self.negative).square().sum(2) / scale
        alpha = (negative - positive) / (positive + EPSILON)
        return alpha.masked_fill(~self.known.all(1), 0.0)


def moved_label(
    label: Float[Tensor, "r k"], alpha_m: Float[Tensor, "r k"], alpha_s: Float[Tensor, "r k"]
) -> Float[Tensor, "r k"]:
    """y_s: the label of a modality, the mean of what ratio and difference of the alphas say; unmoved where alpha_m
    is 0.
    """
    delta = (alpha_s - alpha_m) / 2 * (label + alpha_m) / torch.where(alpha_m == 0, 1.0, alpha_m)
    return label + delta.masked_fill(alpha_m == 0, 0.0)


class SelfMM(System):
    """Self-MM (see the head of this file). Inputs (b, t, d) by modality, each with its own t; text may be token ids (b, t).

    `Output.unimodal` holds each modality's own answer. In training, `loss` moves the centres.

    Raises:
        AffuseError: the settings are impossible, or the text encoder cannot be had.
    """

    Config: ClassVar[type] = SelfMMConfig
    config: SelfMMConfig
    steps: Tensor

    def __init__(self, config: SelfMMConfig, task: Task) -> None:
        super().__init__()
        self.config, self.task, self.modalities = config, task, tuple(config.modalities)
        need(self.modalities, config.widths, text_encoder=config.text_encoder)
        self.text = None
        self.widths = {name: config.widths[name] for name in self.modalities}
        if config.text_encoder is not None:
            self.text = TextEncoder(config.text_encoder, config.pretrained, config.finetune)
            self.widths["text"] = self.text.width
        self.hidden = {name: config.hidden.get(name, 32) for name in self.modalities}
        self.readers, self.alone, self.alone_heads = nn.ModuleDict(), nn.ModuleDict(), nn.ModuleDict()
        self.alone_centres = nn.ModuleDict()
        for name, width in self.hidden.items():
            reading = config.readings.get(name, "lstm")
            self.readers[name] = Reader(self.widths[name], width, width, reading, config.dropout)
            own = config.alone.get(name, 32)
            self.alone[name] = nn.Sequential(nn.Dropout(config.dropout), nn.Linear(width, own), nn.ReLU())
            self.alone_heads[name] = nn.Linear(own, task.outputs)
            self.alone_centres[name] = Centres(task.outputs, own, config.centre_momentum)
        together = sum(self.hidden.values())
        self.fused = nn.Sequential(nn.Dropout(config.dropout), nn.Linear(together, config.fusion), nn.ReLU())
        self.fused_head = nn.Linear(config.fusion, task.outputs)
        self.fused_centres = Centres(task.outputs, config.fusion, config.centre_momentum)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, batch: Batch) -> Output:
        answered = answered_rows(batch, self.modalities)  # b
        vectors = read_all(self.readers, batch, self.widths, self.hidden, self.text)  # b width, each
        fused = self.fused(torch.cat([vectors[name] for name in self.modalities], 1))  # F_m*
        aux, unimodal = {"fused": fused}, {}
        for name in self.modalities:
            aux[f"features_{name}"] = self.alone[name](vectors[name])  # F_s*
            aux[f"features/{name}"] = vectors[name]
            logits = self.alone_heads[name](aux[f"features_{name}"])
            unimodal[name] = unanswered_as_nan(logits, present_rows(batch, name))
        return Output(unanswered_as_nan(self.fused_head(fused), answered), answered, unimodal=unimodal, aux=aux)

    def pretrained_parts(self) -> list[nn.Module]:
        """The text encoder, where there is one."""
        return [] if self.text is None else [self.text]

    def modality_parts(self) -> dict[str, list[nn.Module]]:
        """Each modality's reader, and the encoder of the text."""
        own: dict[str, list[nn.Module]] = {name: [self.readers[name]] for name in self.modalities}
        if self.text is not None:
            own["text"].append(self.text)
        return own

    def loss(self, output: Output, batch: Batch) -> dict[str, Tensor]:
        """The task's loss, and ``unimodal``: each modality's, from its own label, weighed by how far that lies
        from the human one.
        """
        terms = supervised(self, output, batch)
        rows = known_rows(output, batch, self.task)
        if batch.target is None or not rows.any():
            return nothing_to_learn(self)
        label, side = self._label(batch.target, rows)  # b k
        if self.training:
            self.steps += 1
            self.fused_centres.update(output.aux["fused"].detach()[rows], side[rows])
        total = terms["total"].new_zeros(())
        for name in self.modalities:
            own = rows & present_rows(batch, name)
            if not own.any():
                continue
            centres: Any = self.alone_centres[name]
            if self.training:
                centres.update(output.aux[f"features_{name}"].detach()[own], side[own])
            moved = self._moved(output, name, label, own)  # r k
            weight = torch.tanh((moved - label[own]).abs().sum(1))  # r
            if self.task.kind == "regression":
                each = (output.unimodal[name][own] - moved).abs().squeeze(1)
            else:
                each = -(moved * functional.log_softmax(output.unimodal[name][own], 1)).sum(1)
            total = total + (weight * each).sum() / rows.sum()
        return {**terms, "unimodal": total, "total": terms["total"] + total}

    def _label(self, target: Tensor, rows: Bool[Tensor, " b"]) -> tuple[Tensor, Tensor]:
        """The human labels (b, k), and on which side of each pair they are: above, below or at 0."""
        if self.task.kind == "regression":
            value = target.masked_fill(~rows, 0.0).to(self.fused_head.weight.dtype)[:, None]
            return value, value
        one_hot = functional.one_hot(target.masked_fill(~rows, 0), self.task.outputs).to(self.fused_head.weight.dtype)
        return one_hot, 2 * one_hot - 1

    @torch.no_grad()
    def _moved(self, output: Output, name: str, label: Tensor, rows: Tensor) -> Float[Tensor, "r k"]:
        """The labels of a modality."""
        if self.steps <= self.config.warmup_steps:
            return label[rows]
        alpha_m = self.fused_centres.relative_distance(output.aux["fused"][rows])
        centres: Any = self.alone_centres[name]
        alpha_s = centres.relative_distance(output.aux[f"features_{name}"][rows])
        moved = moved_label(label[rows], alpha_m, alpha_s)
        if self.task.kind == "regression":
            return moved.clamp(-self.config.limit, self.config.limit)
        moved = moved.clamp(0.0, 1.0)
        some = moved.sum(1, keepdim=True)
        return torch.where(some > 0, moved / some.clamp(min=EPSILON), label[rows])
