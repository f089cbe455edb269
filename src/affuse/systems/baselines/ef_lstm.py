"""EF-LSTM: early fusion. The features of all modalities side by side at every step, read by one LSTM.

Paper: Jennifer Williams et al., "Recognizing Emotions in Video Using Multimodal DNN Feature Fusion", Grand Challenge and
Workshop on Human Multimodal Language, 2018. Settings: MMSA (thuiar/MMSA), MOSI.

====================  ======================  =================
in the paper          here                    shape
====================  ======================  =================
x_t = [l; a; v]       `x`                     (r, t, sum of d)
h_T                   `state`                 (r, hidden)
====================  ======================  =================

Deviations: MMSA normalises each of 50 fixed steps over the batch; sequences of any length have no such step, so features
are taken as the data gives them (standardised). An absent modality is zeros. Sequences of one sample must be equally long,
or are resampled where `align` says so. A regression is trained by L1.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from affuse.parts.sequences import spread
from affuse.parts.utterances import (
    aligned,
    answered_rows,
    final_states,
    need,
    supervised,
)
from affuse.types import Batch, Output, System, Task


@dataclass(frozen=True)
class EFLSTMConfig:
    """Settings.

    Args:
        modalities: names.
        widths: features a step by modality.
        hidden: width of the LSTM.
        layers: of the LSTM.
        dropout: between layers and in the head.
        align: what to do with sequences of different lengths.
    """

    modalities: tuple[str, ...] = ("text", "audio", "video")
    widths: dict[str, int] = field(default_factory=lambda: {"text": 768, "audio": 5, "video": 20})
    hidden: int = 128
    layers: int = 4
    dropout: float = 0.5
    align: Literal["refuse", "resample"] = "refuse"


class EFLSTM(System):
    """EF-LSTM (see the head of this file). Inputs (b, t, d) by modality, the same t within a sample."""

    Config: ClassVar[type] = EFLSTMConfig
    config: EFLSTMConfig

    def __init__(self, config: EFLSTMConfig, task: Task) -> None:
        super().__init__()
        self.config, self.task, self.modalities = config, task, tuple(config.modalities)
        need(self.modalities, config.widths)
        self.widths = {name: config.widths[name] for name in self.modalities}
        between = config.dropout if config.layers > 1 else 0.0
        self.lstm = nn.LSTM(sum(self.widths.values()), config.hidden, config.layers, batch_first=True, dropout=between)
        self.head = nn.Sequential(
            nn.Dropout(config.dropout),
            nn.Linear(config.hidden, config.hidden),
            nn.ReLU(),
            nn.Dropout(config.dropout),
            nn.Linear(config.hidden, task.outputs),
        )

    def forward(self, batch: Batch) -> Output:
        answered = answered_rows(batch, self.modalities)  # b
        if not answered.any():
            nothing = next(self.parameters()).new_full((batch.size, self.task.outputs), torch.nan)
            return Output(nothing.detach(), answered)
        beside, lengths = aligned(batch, self.widths, self.config.align == "resample")
        x = torch.cat([beside[name] for name in self.modalities], 2)[answered]  # r t (sum of d)
        state = final_states(self.lstm, x, lengths[answered])  # r hidden
        return Output(spread(self.head(state), answered, torch.nan), answered)

    def loss(self, output: Output, batch: Batch) -> dict[str, Tensor]:
        """Cross-entropy, or L1 in a regression."""
        return supervised(self, output, batch)
