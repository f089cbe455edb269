"""LF-DNN: late fusion. Each modality becomes one vector on its own; a small network reads the vectors side by side.

Paper: Erik Cambria et al., "Benchmarking Multimodal Sentiment Analysis", CICLing 2017, and as MMSA (thuiar/MMSA) has it;
its settings for MOSI. The vectors come from the embedding subnetworks of TFN (`parts/utterances.py`).

====================  ======================  =================
in MMSA               here                    shape
====================  ======================  =================
text_h, audio_h, ...  `vectors`               (b, hidden) each
fusion_h              their concatenation     (b, sum of hidden)
====================  ======================  =================

Deviations: any modalities, averages and last states over the valid steps only. An absent modality is a vector of zeros.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from affuse.parts.utterances import Reader, Reading, answered_rows, need, read_all, supervised, unanswered_as_nan
from affuse.types import Batch, Output, System, Task


@dataclass(frozen=True)
class LFDNNConfig:
    """Settings.

    Args:
        modalities: names.
        widths: features a step by modality.
        readings: how a sequence becomes a vector, by modality; ``mean`` where none is named.
        hidden: width of a modality's vector; 64 where none is named.
        fusion: width after fusion.
        dropout: in the subnetworks and after fusion.
    """

    modalities: tuple[str, ...] = ("text", "audio", "video")
    widths: dict[str, int] = field(default_factory=lambda: {"text": 768, "audio": 5, "video": 20})
    readings: dict[str, Reading] = field(default_factory=lambda: {"text": "lstm"})
    hidden: dict[str, int] = field(default_factory=lambda: {"text": 128, "audio": 16, "video": 128})
    fusion: int = 128
    dropout: float = 0.2


class LFDNN(System):
    """LF-DNN (see the head of this file). Inputs (b, t, d) by modality, each with its own t."""

    Config: ClassVar[type] = LFDNNConfig
    config: LFDNNConfig

    def __init__(self, config: LFDNNConfig, task: Task) -> None:
        super().__init__()
        self.config, self.task, self.modalities = config, task, tuple(config.modalities)
        need(self.modalities, config.widths)
        self.widths = {name: config.hidden.get(name, 64) for name in self.modalities}
        self.readers = nn.ModuleDict()
        for name, width in self.widths.items():
            reading = config.readings.get(name, "mean")
            self.readers[name] = Reader(config.widths[name], width, width, reading, config.dropout)
        self.head = nn.Sequential(
            nn.Dropout(config.dropout),
            nn.Linear(sum(self.widths.values()), config.fusion),
            nn.ReLU(),
            nn.Linear(config.fusion, config.fusion),
            nn.ReLU(),
            nn.Linear(config.fusion, task.outputs),
        )

    def forward(self, batch: Batch) -> Output:
        answered = answered_rows(batch, self.modalities)  # b
        vectors = read_all(self.readers, batch, self.config.widths, self.widths)  # b hidden, each
        logits = self.head(torch.cat([vectors[name] for name in self.modalities], 1))
        aux = {f"features/{name}": vector for name, vector in vectors.items()}
        return Output(unanswered_as_nan(logits, answered), answered, aux=aux)

    def modality_parts(self) -> dict[str, list[nn.Module]]:
        """Each modality's reader."""
        return {name: [self.readers[name]] for name in self.modalities}

    def loss(self, output: Output, batch: Batch) -> dict[str, Tensor]:
        """Cross-entropy, or L1 in a regression."""
        return supervised(self, output, batch)
