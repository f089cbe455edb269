"""MAG-BERT: sound and video shift the vectors of words inside a pretrained transformer, by a multimodal adaptation gate.

Paper: Wasifur Rahman et al., "Integrating Multimodal Information in Large Pretrained Transformers", ACL 2020. Settings: MMSA
(thuiar/MMSA), MOSI.

=======================  ==========================  ===========================
in the paper             here                        shape
=======================  ==========================  ===========================
Z_i                      `words`                     (r, t, d)
A_i, V_i                 `others[name]`              (r, t, width)
g_i^v, g_i^a             `gate` in `AdaptationGate`  (r, t, d)
H_i                      `shift`                     (r, t, d)
alpha                    `share`                     (r, t, 1)
=======================  ==========================  ===========================

Text comes as token ids where `text_encoder` names a BERT-like model of transformers; the gate then stands behind its
embeddings, as in the released code (the paper: before any layer). Otherwise text comes as features, and a transformer of our
own reads them, of `text_width`.

Deviations: any modalities beside the text. These must be aligned with its steps, or are resampled to them where `align` says
so. An absent modality shifts nothing; an absent text is a learned vector at every step, so that there is something to shift.
With token ids the answer is read from the vector that `pool` says. A regression is trained by L1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from affuse.parts.sequences import TransformerEncoder, present_rows, sequences_of, spread, valid_steps
from affuse.parts.text import TextEncoder
from affuse.parts.utterances import aligned, answered_rows, need, step_or_mean, supervised
from affuse.types import AffuseError, Batch, Output, System, Task


@dataclass(frozen=True)
class MAGBERTConfig:
    """Settings.

    Args:
        modalities: names; the first one is the text.
        widths: features a step by modality.
        text_encoder: a BERT-like model of transformers that reads token ids; None: text comes as features.
        pretrained: take the text encoder's published weights.
        text_width: width of our own transformer, without `text_encoder`; a multiple of `heads`.
        heads: of its attention.
        layers: of it.
        beta: longest shift, as a share of the word vector's length.
        dropout: behind the gate and in the head.
        pool: which vector is read: the ``first`` ([CLS]), the ``last``, or the ``mean``.
        align: what to do with sequences of different lengths.
    """

    modalities: tuple[str, ...] = ("text", "audio", "video")
    widths: dict[str, int] = field(default_factory=lambda: {"text": 768, "audio": 5, "video": 20})
    text_encoder: str | None = None
    pretrained: bool = True
    text_width: int = 64
    heads: int = 4
    layers: int = 2
    beta: float = 1.0
    dropout: float = 0.3
    pool: Literal["first", "last", "mean"] = "first"
    align: Literal["refuse", "resample"] = "refuse"


class AdaptationGate(nn.Module):
    """The multimodal adaptation gate (MAG).

    Args:
        width: of the words.
        widths: features of the other modalities.
        beta: longest shift, as a share of the word's length.
        dropout: behind the normalisation.
    """

    def __init__(self, width: int, widths: Mapping[str, int], beta: float, dropout: float) -> None:
        super().__init__()
        self.beta = beta
        self.gates = nn.ModuleDict({name: nn.Linear(width + features, width) for name, features in widths.items()})
        self.maps = nn.ModuleDict({name: nn.Linear(features, width, bias=False) for name, features in widths.items()})
        self.bias = nn.Parameter(torch.zeros(width))
        self.norm = nn.LayerNorm(width)
        self.drop = nn.Dropout(dropout)

    def shift(
        self, words: Float[Tensor, "r t d"], others: Mapping[str, Tensor], has: Mapping[str, Tensor]
    ) -> Float[Tensor, "r t d"]:
        """alpha H, at most beta times as long as the word. Rows without any other modality are not shifted."""
        shift = self.bias.expand_as(words)
        some = torch.zeros(len(words), dtype=torch.bool, device=words.device)
        for name, values in others.items():
            gate = torch.relu(self.gates[name](torch.cat([words, values], 2)))
            shift = shift + torch.where(has[name][:, None, None], gate * self.maps[name](values), 0.0)
            some = some | has[name]
        length = torch.linalg.vector_norm(shift, dim=2, keepdim=True).clamp(min=1e-6)
        share = (self.beta * torch.linalg.vector_norm(words, dim=2, keepdim=True) / length).clamp(max=1.0)
        return torch.where(some[:, None, None], share * shift, 0.0)

    def forward(
        self, words: Float[Tensor, "r t d"], others: Mapping[str, Tensor], has: Mapping[str, Tensor]
    ) -> Float[Tensor, "r t d"]:
        return self.drop(self.norm(words + self.shift(words, others, has)))


class MAGBERT(System):
    """MAG-BERT (see the head of this file). Inputs (b, t, d) by modality, the same t within a sample; text may be token ids.

    Raises:
        AffuseError: the settings are impossible, or the text encoder cannot be had or has no embeddings to stand behind.
    """

    Config: ClassVar[type] = MAGBERTConfig
    config: MAGBERTConfig

    def __init__(self, config: MAGBERTConfig, task: Task) -> None:
        super().__init__()
        self.config, self.task, self.modalities = config, task, tuple(config.modalities)
        need(self.modalities, config.widths)
        self.word, *others = self.modalities
        self.widths = {name: config.widths[name] for name in others}
        self.bert: TextEncoder | None = None
        if config.text_encoder is not None:
            self.bert = TextEncoder(config.text_encoder, config.pretrained)
            if not hasattr(self.bert.model, "embeddings"):
                raise AffuseError(
                    f"text_encoder {config.text_encoder!r} has no embeddings to stand behind: take a BERT"
                )
            width = self.bert.width
        else:
            width = config.text_width
            self.project = nn.Linear(config.widths[self.word], width)
            self.encoder = TransformerEncoder(width, config.heads, config.layers, embed_dropout=config.dropout)
        self.stand_in = nn.Parameter(torch.randn(width) * 0.02)  # BERT's own scale of embeddings
        self.gate = AdaptationGate(width, self.widths, config.beta, config.dropout)
        self.head = nn.Sequential(nn.Dropout(config.dropout), nn.Linear(width, task.outputs))

    def forward(self, batch: Batch) -> Output:
        answered = answered_rows(batch, self.modalities)  # b
        if not answered.any():
            nothing = next(self.head.parameters()).new_full((batch.size, self.task.outputs), torch.nan)
            return Output(nothing.detach(), answered)
        width = self.config.widths[self.word] if self.bert is None else None
        text, text_mask, has_text = sequences_of(batch, self.word, width)
        kept = torch.zeros(batch.size, dtype=torch.int64, device=answered.device)
        kept[has_text] = text_mask.sum(1)
        others, lengths = aligned(batch, self.widths, self.config.align == "resample", kept)
        others = {name: values[answered] for name, values in others.items()}  # r t width
        has = {name: present_rows(batch, name)[answered] for name in self.widths}
        t = int(lengths.max())
        mask = valid_steps(lengths, t)[answered]  # r t

        def shifted(words: Float[Tensor, "r t d"]) -> Float[Tensor, "r t d"]:
            words = torch.where(has_text[answered][:, None, None], words, self.stand_in)
            return self.gate(words, others, has)

        known = text_mask if text.ndim == 2 else text_mask[..., None]
        full = text.new_zeros(batch.size, t, *text.shape[2:])
        full[has_text, : text.shape[1]] = text.masked_fill(~known, 0)
        if self.bert is None:
            read = self.encoder(shifted(self.project(full[answered])), mask)  # r t d
        else:
            read = self._read_tokens(self.bert, full[answered], mask, shifted)
        vector = step_or_mean(read, mask, self.config.pool)  # r d
        return Output(spread(self.head(vector), answered, torch.nan), answered)

    @staticmethod
    def _read_tokens(bert: TextEncoder, tokens: Tensor, mask: Bool[Tensor, "r t"], shifted: Any) -> Tensor:
        """What BERT makes of its embeddings once they are shifted. The hook lives as long as this call."""
        hook = bert.model.embeddings.register_forward_hook(lambda module, inputs, words: shifted(words))
        try:
            return bert(tokens, mask)
        finally:
            hook.remove()

    def pretrained_parts(self) -> list[nn.Module]:
        """The BERT, where there is one."""
        return [] if self.bert is None else [self.bert]

    def modality_parts(self) -> dict[str, list[nn.Module]]:
        """The map of the features of the text, or its embeddings, and the other modalities' maps in the gate."""
        word = self.project if self.bert is None else self.bert.model.embeddings
        return {self.word: [word], **{name: [self.gate.maps[name]] for name in self.widths}}

    def loss(self, output: Output, batch: Batch) -> dict[str, Tensor]:
        """Cross-entropy, or L1 in a regression."""
        return supervised(self, output, batch)
