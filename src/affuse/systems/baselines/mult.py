"""MulT, the multimodal transformer: every modality asks every other one by crossmodal attention, so that sequences need not be
aligned.

Paper: Yao-Hung Hubert Tsai et al., "Multimodal Transformer for Unaligned Multimodal Language Sequences", ACL 2019. Settings:
MMSA (thuiar/MMSA), MOSI.

===========================  ==============================  ==========================
in the paper                 here                            shape
===========================  ==============================  ==========================
X hat                        `sequences[name]`               (r, t, width)
Z_(beta -> alpha)            `crossmodal[f"{target}_{source}"]`  (r, t of target, width)
Z_alpha                      `own[name]`                     (r, t, (m - 1) width)
last elements                `vectors[name]`                 (b, (m - 1) width)
===========================  ==============================  ==========================

The crossmodal transformer is `TransformerEncoder` of `parts/sequences.py` with a source: queries of the target, keys and values
of the source's low-level features at every layer.

Deviations: any two or more modalities, all ordered pairs of them. Convolutions keep the length (the released code's shorten
it by their kernel less one). No attention mask of the future by default: the paper has none, the released code has one
(`causal`, of the self-attention only). Where a source is absent, the target asks itself; an absent target's vector is zero. A
regression is trained by L1.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from affuse.parts.sequences import TemporalConvolution, TransformerEncoder, pooled, sequences_of, spread
from affuse.parts.utterances import answered_rows, need, supervised, unanswered_as_nan
from affuse.types import Batch, Output, System, Task


@dataclass(frozen=True)
class MulTConfig:
    """Settings.

    Args:
        modalities: names; two at least.
        widths: features a step by modality.
        width: of the convolved sequences; a multiple of `heads`.
        heads: of every attention.
        layers: of the crossmodal transformers.
        own_layers: of the transformers that read a target's answers; at least 3 in the released code.
        kernels: of the temporal convolutions; 1 where none is named.
        causal: whether self-attention sees no later step.
        attention_dropout: of the attention weights.
        embed_dropout: of sequences that enter a transformer.
        text_dropout: of the features of text.
        output_dropout: in the head.
    """

    modalities: tuple[str, ...] = ("text", "audio", "video")
    widths: dict[str, int] = field(default_factory=lambda: {"text": 768, "audio": 5, "video": 20})
    width: int = 50
    heads: int = 10
    layers: int = 4
    own_layers: int = 4
    kernels: dict[str, int] = field(default_factory=lambda: {"text": 5, "audio": 5, "video": 5})
    causal: bool = False
    attention_dropout: float = 0.2
    embed_dropout: float = 0.2
    text_dropout: float = 0.5
    output_dropout: float = 0.5


class MulT(System):
    """MulT (see the head of this file). Inputs (b, t, d) by modality, each with its own t."""

    Config: ClassVar[type] = MulTConfig
    config: MulTConfig

    def __init__(self, config: MulTConfig, task: Task) -> None:
        super().__init__()
        self.config, self.task, self.modalities = config, task, tuple(config.modalities)
        need(self.modalities, config.widths, least=2)
        heard = len(self.modalities) - 1  # sources of each target
        self.convolutions, self.crossmodal, self.own = nn.ModuleDict(), nn.ModuleDict(), nn.ModuleDict()
        for name in self.modalities:
            kernel = config.kernels.get(name, 1)
            self.convolutions[name] = TemporalConvolution(config.widths[name], config.width, kernel, bias=False)
            for source in self.modalities:
                if source != name:
                    self.crossmodal[f"{name}_{source}"] = TransformerEncoder(
                        config.width, config.heads, config.layers, config.attention_dropout, config.embed_dropout
                    )
            self.own[name] = TransformerEncoder(
                heard * config.width, config.heads, config.own_layers, config.attention_dropout, causal=config.causal
            )
        together = len(self.modalities) * heard * config.width
        self.project = nn.Sequential(
            nn.Linear(together, together),
            nn.ReLU(),
            nn.Dropout(config.output_dropout),
            nn.Linear(together, together),
        )
        self.head = nn.Linear(together, task.outputs)

    def forward(self, batch: Batch) -> Output:
        answered = answered_rows(batch, self.modalities)  # b
        sequences: dict[str, Tensor] = {}
        masks: dict[str, Tensor] = {}
        rows: dict[str, Tensor] = {}
        for name, convolution in self.convolutions.items():
            values, masks[name], rows[name] = sequences_of(batch, name, self.config.widths[name])
            if name == "text":
                values = functional.dropout(values, self.config.text_dropout, self.training)
            sequences[name] = convolution(values, masks[name])  # r t width
        vectors = [self._vector(name, sequences, masks, rows) for name in self.modalities]
        together = torch.cat(vectors, 1)  # b (m (m - 1) width)
        logits = self.head(together + self.project(together))
        return Output(unanswered_as_nan(logits, answered), answered)

    def _vector(
        self, target: str, sequences: dict[str, Tensor], masks: dict[str, Tensor], rows: dict[str, Tensor]
    ) -> Tensor:
        """What a target heard from all others, at its last step: (b, (m - 1) width)."""
        own = rows[target]  # b
        width = (len(self.modalities) - 1) * self.config.width
        if not own.any():
            return sequences[target].new_zeros(len(own), width)
        heard = []
        for source in self.modalities:
            if source == target:
                continue
            pair = self.crossmodal[f"{target}_{source}"]
            both = rows[source][own], own[rows[source]]  # r of the target, r of the source: rows that have both
            answer = torch.zeros_like(sequences[target])  # r t width
            if both[0].any():
                asked = pair(
                    sequences[target][both[0]],
                    masks[target][both[0]],
                    sequences[source][both[1]],
                    masks[source][both[1]],
                )
                answer[both[0]] = asked.to(answer.dtype)  # autocast gives other dtypes back
            if not both[0].all():  # who has nobody to ask, asks itself
                answer[~both[0]] = pair(sequences[target][~both[0]], masks[target][~both[0]]).to(answer.dtype)
            heard.append(answer)
        read = self.own[target](torch.cat(heard, 2), masks[target])
        return spread(pooled(read, masks[target], "last"), own, 0.0)

    def modality_parts(self) -> dict[str, list[nn.Module]]:
        """Each modality's convolution: all that comes later sees the others."""
        return {name: [self.convolutions[name]] for name in self.modalities}

    def loss(self, output: Output, batch: Batch) -> dict[str, Tensor]:
        """Cross-entropy, or L1 in a regression."""
        return supervised(self, output, batch)
