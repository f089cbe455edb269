"""LMF, low-rank multimodal fusion: TFN's linear map of the outer product, without ever making the product.

Paper: Zhun Liu et al., "Efficient Low-rank Multimodal Fusion with Modality-Specific Factors", ACL 2018. Settings: MMSA
(thuiar/MMSA), MOSI.

=======================  ======================  ==================================
in the paper             here                    shape
=======================  ======================  ==================================
z_m, with a 1 appended   `vectors`               (b, k_m), (b, k_m + 1)
w_m^(i)                  `factors[name]`         (rank, k_m + 1, c)
h                        `low_rank_fusion`       (b, c)
=======================  ======================  ==================================

Deviations: any modalities. The rank's terms are added with learned weights, as MMSA and the authors' code do (the paper adds
them plainly; the weights can go into the factors). An absent modality is the vector 0: of its factor only the row of the
appended 1 is left. A regression is trained by L1 and not bounded, as in MMSA.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from affuse.parts.utterances import Reader, Reading, answered_rows, need, read_all, supervised, unanswered_as_nan
from affuse.types import Batch, Output, System, Task


@dataclass(frozen=True)
class LMFConfig:
    """Settings.

    Args:
        modalities: names.
        widths: features a step by modality.
        readings: how a sequence becomes a vector, by modality; ``mean`` where none is named.
        hidden: width inside a modality's subnetwork; 32 where none is named.
        outputs: width of a modality's vector; as `hidden` where none is named.
        rank: terms of the decomposition.
        dropout: in the subnetworks.
    """

    modalities: tuple[str, ...] = ("text", "audio", "video")
    widths: dict[str, int] = field(default_factory=lambda: {"text": 768, "audio": 5, "video": 20})
    readings: dict[str, Reading] = field(default_factory=lambda: {"text": "lstm"})
    hidden: dict[str, int] = field(default_factory=lambda: {"text": 128, "audio": 16, "video": 128})
    outputs: dict[str, int] = field(default_factory=lambda: {"text": 64})
    rank: int = 3
    dropout: float = 0.3


def low_rank_fusion(
    vectors: Sequence[Float[Tensor, "b _"]],
    factors: Sequence[Float[Tensor, "rank _ c"]],
    weights: Float[Tensor, " rank"],
) -> Float[Tensor, "b c"]:
    """h: the sum over the rank of the product over modalities of [z_m; 1] w_m^(i)."""
    product = vectors[0].new_ones(1, 1, 1)
    for vector, factor in zip(vectors, factors, strict=True):
        product = product * torch.einsum("bk,ikc->ibc", functional.pad(vector, (0, 1), value=1.0), factor)
    return torch.einsum("ibc,i->bc", product, weights)


class LMF(System):
    """Low-rank multimodal fusion (see the head of this file). Inputs (b, t, d) by modality, each with its own t."""

    Config: ClassVar[type] = LMFConfig
    config: LMFConfig

    def __init__(self, config: LMFConfig, task: Task) -> None:
        super().__init__()
        self.config, self.task, self.modalities = config, task, tuple(config.modalities)
        need(self.modalities, config.widths)
        hidden = {name: config.hidden.get(name, 32) for name in self.modalities}
        self.widths = {name: config.outputs.get(name, hidden[name]) for name in self.modalities}
        self.readers, self.factors = nn.ModuleDict(), nn.ParameterDict()
        for name, width in self.widths.items():
            reading = config.readings.get(name, "mean")
            self.readers[name] = Reader(config.widths[name], hidden[name], width, reading, config.dropout)
            factor = torch.empty(config.rank, width + 1, task.outputs)
            self.factors[name] = nn.Parameter(nn.init.xavier_normal_(factor))
        self.weights = nn.Parameter(torch.randn(config.rank) * (2.0 / (1 + config.rank)) ** 0.5)
        self.bias = nn.Parameter(torch.zeros(task.outputs))

    def forward(self, batch: Batch) -> Output:
        answered = answered_rows(batch, self.modalities)  # b
        vectors = read_all(self.readers, batch, self.config.widths, self.widths)  # b k, each
        names = self.modalities
        fused = low_rank_fusion([vectors[n] for n in names], [self.factors[n] for n in names], self.weights)  # b c
        aux = {f"features/{name}": vector for name, vector in vectors.items()}
        return Output(unanswered_as_nan(fused + self.bias, answered), answered, aux=aux)

    def modality_parts(self) -> dict[str, list[nn.Module]]:
        """Each modality's reader; its factors multiply those of the others, and are shared work."""
        return {name: [self.readers[name]] for name in self.modalities}

    def loss(self, output: Output, batch: Batch) -> dict[str, Tensor]:
        """Cross-entropy, or L1 in a regression."""
        return supervised(self, output, batch)
