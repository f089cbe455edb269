"""One modality alone: what a table of fusion needs beside it.

No paper has it; it is LF-DNN (`lf_dnn.py`) with a single modality: the same reader, the same head. In a sample that lacks the
modality it has no answer, whatever else is there.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor, nn

from affuse.parts.sequences import present_rows
from affuse.parts.utterances import Reader, Reading, need, read_all, supervised, unanswered_as_nan
from affuse.types import Batch, Output, System, Task


@dataclass(frozen=True)
class UnimodalConfig:
    """Settings.

    Args:
        modality: the one that is read.
        widths: features a step by modality; those of the others do not matter.
        reading: how its sequence becomes a vector.
        hidden: width of the vector.
        fusion: width of the head.
        dropout: in the reader and in the head.
    """

    modality: str = "text"
    widths: dict[str, int] = field(default_factory=lambda: {"text": 768, "audio": 5, "video": 20})
    reading: Reading = "lstm"
    hidden: int = 128
    fusion: int = 128
    dropout: float = 0.2


class Unimodal(System):
    """One modality alone (see the head of this file). Its input is (b, t, d)."""

    Config: ClassVar[type] = UnimodalConfig
    config: UnimodalConfig

    def __init__(self, config: UnimodalConfig, task: Task) -> None:
        super().__init__()
        self.config, self.task, self.modalities = config, task, (config.modality,)
        need(self.modalities, config.widths)
        features = config.widths[config.modality]
        reader = Reader(features, config.hidden, config.hidden, config.reading, config.dropout)
        self.readers = nn.ModuleDict({config.modality: reader})
        self.head = nn.Sequential(
            nn.Dropout(config.dropout),
            nn.Linear(config.hidden, config.fusion),
            nn.ReLU(),
            nn.Linear(config.fusion, config.fusion),
            nn.ReLU(),
            nn.Linear(config.fusion, task.outputs),
        )

    def forward(self, batch: Batch) -> Output:
        name = self.config.modality
        answered = present_rows(batch, name)  # b
        vector = read_all(self.readers, batch, self.config.widths, {name: self.config.hidden})[name]  # b hidden
        logits = unanswered_as_nan(self.head(vector), answered)
        return Output(logits, answered, {"modality": answered[:, None].to(logits.dtype)}, {name: logits})

    def loss(self, output: Output, batch: Batch) -> dict[str, Tensor]:
        """Cross-entropy, or L1 in a regression."""
        return supervised(self, output, batch)
