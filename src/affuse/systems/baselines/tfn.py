"""TFN, the tensor fusion network: the outer product of the modalities' vectors, each with a 1 appended, so that the tensor
holds every modality alone, every pair and all together.

Paper: Amir Zadeh et al., "Tensor Fusion Network for Multimodal Sentiment Analysis", EMNLP 2017. Settings: MMSA (thuiar/MMSA),
MOSI.

=======================  ======================  ==================================
in the paper             here                    shape
=======================  ======================  ==================================
z^l, z^v, z^a            `vectors`               (b, k_m)
z^m = [z^l;1] x ...      `tensor_fusion`         (b, product of (k_m + 1))
=======================  ======================  ==================================

Deviations: any modalities. An absent modality is the vector 0, so that of its factor [0; 1] only the 1 is left: the tensor
holds what the others have among themselves. A regression whose task has a range is bounded to it by a sigmoid, as in the
paper's sentiment inference subnetwork, and trained by L1.
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
class TFNConfig:
    """Settings.

    Args:
        modalities: names.
        widths: features a step by modality.
        readings: how a sequence becomes a vector, by modality; ``mean`` where none is named.
        hidden: width inside a modality's subnetwork; 32 where none is named.
        outputs: width of a modality's vector; as `hidden` where none is named.
        fusion: width of the two layers after fusion.
        dropout: in the subnetworks.
        fusion_dropout: of the tensor.
    """

    modalities: tuple[str, ...] = ("text", "audio", "video")
    widths: dict[str, int] = field(default_factory=lambda: {"text": 768, "audio": 5, "video": 20})
    readings: dict[str, Reading] = field(default_factory=lambda: {"text": "lstm"})
    hidden: dict[str, int] = field(default_factory=lambda: {"text": 128, "audio": 32, "video": 128})
    outputs: dict[str, int] = field(default_factory=lambda: {"text": 32})
    fusion: int = 64
    dropout: float = 0.3
    fusion_dropout: float = 0.5


def tensor_fusion(vectors: Sequence[Float[Tensor, "b _"]]) -> Float[Tensor, "b f"]:
    """The tensor fusion layer: the outer product of the vectors, each with a 1 appended, the last varying fastest."""
    product = vectors[0].new_ones(len(vectors[0]), 1)
    for vector in vectors:
        factor = functional.pad(vector, (0, 1), value=1.0)  # b (k + 1)
        product = torch.einsum("bf,bk->bfk", product, factor).flatten(1)
    return product


class TFN(System):
    """The tensor fusion network (see the head of this file). Inputs (b, t, d) by modality, each with its own t."""

    Config: ClassVar[type] = TFNConfig
    config: TFNConfig

    def __init__(self, config: TFNConfig, task: Task) -> None:
        super().__init__()
        self.config, self.task, self.modalities = config, task, tuple(config.modalities)
        need(self.modalities, config.widths)
        hidden = {name: config.hidden.get(name, 32) for name in self.modalities}
        self.widths = {name: config.outputs.get(name, hidden[name]) for name in self.modalities}
        self.readers = nn.ModuleDict()
        cells = 1
        for name, width in self.widths.items():
            reading = config.readings.get(name, "mean")
            self.readers[name] = Reader(config.widths[name], hidden[name], width, reading, config.dropout)
            cells *= width + 1
        self.head = nn.Sequential(
            nn.Dropout(config.fusion_dropout),
            nn.Linear(cells, config.fusion),
            nn.ReLU(),
            nn.Linear(config.fusion, config.fusion),
            nn.ReLU(),
            nn.Linear(config.fusion, task.outputs),
        )

    def forward(self, batch: Batch) -> Output:
        answered = answered_rows(batch, self.modalities)  # b
        vectors = read_all(self.readers, batch, self.config.widths, self.widths)  # b k, each
        logits = self.head(tensor_fusion([vectors[name] for name in self.modalities]))
        if self.task.kind == "regression" and self.task.value_range is not None:
            low, high = self.task.value_range
            logits = low + (high - low) * torch.sigmoid(logits)
        aux = {f"features/{name}": vector for name, vector in vectors.items()}
        return Output(unanswered_as_nan(logits, answered), answered, aux=aux)

    def modality_parts(self) -> dict[str, list[nn.Module]]:
        """Each modality's reader."""
        return {name: [self.readers[name]] for name in self.modalities}

    def loss(self, output: Output, batch: Batch) -> dict[str, Tensor]:
        """Cross-entropy, or L1 in a regression."""
        return supervised(self, output, batch)
