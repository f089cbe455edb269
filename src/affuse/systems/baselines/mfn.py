"""MFN, the memory fusion network: an LSTM for each modality, an attention over what their memories changed from one step to
the next, and a gated memory that stores what it finds across modalities.

Paper: Amir Zadeh et al., "Memory Fusion Network for Multi-view Sequential Learning", AAAI 2018. Settings: MMSA (thuiar/MMSA),
MOSI.

=======================  ==========================  ===========================
in the paper             here                        shape
=======================  ==========================  ===========================
c_n^[t]                  `cells[name]`               (b, hidden of the modality)
c^[t-1, t]               `change`                    (b, 2 sum of hidden)
a^[t-1, t], c hat        `share`, `attended`         (b, 2 sum of hidden)
u hat, u^[t]             `proposal`, `memory`        (b, memory)
gamma_1, gamma_2         `keep`, `write`             (b, memory)
=======================  ==========================  ===========================

Deviations: any modalities. The released code's gates also see the memory; the paper's see only what is attended, which is the
default (`gates_see_memory`). Padded steps change nothing. An absent modality's LSTM rests at zero. Sequences must be aligned,
or are resampled where `align` says so. A regression is trained by L1.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from affuse.parts.sequences import present_rows
from affuse.parts.utterances import aligned, answered_rows, need, supervised, unanswered_as_nan
from affuse.types import Batch, Output, System, Task


@dataclass(frozen=True)
class MFNConfig:
    """Settings.

    Args:
        modalities: names.
        widths: features a step by modality.
        hidden: width of each LSTM; 32 where none is named.
        memory: width of the multi-view memory u.
        attention: width inside the attention network D_a.
        proposal: width inside the network of the proposed memory D_u.
        gates: widths inside the networks of the two gates.
        output: width inside the head.
        attention_dropout: in D_a.
        gate_dropouts: in the two gates.
        gates_see_memory: whether the gates also see the memory, as in the released code.
        align: what to do with sequences of different lengths.
    """

    modalities: tuple[str, ...] = ("text", "audio", "video")
    widths: dict[str, int] = field(default_factory=lambda: {"text": 768, "audio": 5, "video": 20})
    hidden: dict[str, int] = field(default_factory=lambda: {"text": 256, "audio": 32, "video": 256})
    memory: int = 400
    attention: int = 32
    proposal: int = 64
    gates: tuple[int, int] = (256, 32)
    output: int = 128
    attention_dropout: float = 0.2
    gate_dropouts: tuple[float, float] = (0.7, 0.5)
    gates_see_memory: bool = False
    align: Literal["refuse", "resample"] = "refuse"


class DeltaMemory(nn.Module):
    """Sections "Delta-memory attention network" and "Multi-view gated memory": one step of the memory.

    Args:
        width: of the LSTM memories of both steps together.
        config: settings.
    """

    def __init__(self, width: int, config: MFNConfig) -> None:
        super().__init__()

        def network(inside: int, before: int, after: int, dropout: float) -> nn.Sequential:
            return nn.Sequential(nn.Linear(before, inside), nn.ReLU(), nn.Dropout(dropout), nn.Linear(inside, after))

        self.sees_memory = config.gates_see_memory
        seen = width + (config.memory if self.sees_memory else 0)
        self.attend = network(config.attention, width, width, config.attention_dropout)  # D_a
        self.propose = network(config.proposal, width, config.memory, 0.0)  # D_u
        self.keep = network(config.gates[0], seen, config.memory, config.gate_dropouts[0])  # D_gamma1
        self.write = network(config.gates[1], seen, config.memory, config.gate_dropouts[1])  # D_gamma2

    def forward(self, change: Float[Tensor, "b d"], memory: Float[Tensor, "b n"]) -> Float[Tensor, "b n"]:
        """The memory after a step, from the LSTM memories before and after it side by side."""
        share = self.attend(change).softmax(1)  # a
        attended = change * share  # c hat
        proposal = torch.tanh(self.propose(attended))  # u hat
        seen = torch.cat([attended, memory], 1) if self.sees_memory else attended
        keep, write = torch.sigmoid(self.keep(seen)), torch.sigmoid(self.write(seen))
        return keep * memory + write * proposal


class MFN(System):
    """The memory fusion network (see the head of this file). Inputs (b, t, d) by modality, the same t within a sample."""

    Config: ClassVar[type] = MFNConfig
    config: MFNConfig

    def __init__(self, config: MFNConfig, task: Task) -> None:
        super().__init__()
        self.config, self.task, self.modalities = config, task, tuple(config.modalities)
        need(self.modalities, config.widths)
        self.widths = {name: config.widths[name] for name in self.modalities}
        self.hidden = {name: config.hidden.get(name, 32) for name in self.modalities}
        self.lstms = nn.ModuleDict(
            {name: nn.LSTMCell(self.widths[name], self.hidden[name]) for name in self.modalities}
        )
        together = sum(self.hidden.values())
        self.delta = DeltaMemory(2 * together, config)
        self.head = nn.Sequential(
            nn.Linear(together + config.memory, config.output), nn.ReLU(), nn.Linear(config.output, task.outputs)
        )

    def forward(self, batch: Batch) -> Output:
        answered = answered_rows(batch, self.modalities)  # b
        if not answered.any():
            nothing = next(self.parameters()).new_full((batch.size, self.task.outputs), torch.nan)
            return Output(nothing.detach(), answered)
        beside, lengths = aligned(batch, self.widths, self.config.align == "resample")
        has = {name: present_rows(batch, name) for name in self.modalities}
        b = batch.size
        some = next(iter(beside.values()))
        states = {name: some.new_zeros(b, width) for name, width in self.hidden.items()}
        cells = {name: some.new_zeros(b, width) for name, width in self.hidden.items()}
        memory = some.new_zeros(b, self.config.memory)
        for t in range(some.shape[1]):
            goes_on = t < lengths  # b
            before = torch.cat(list(cells.values()), 1)
            for name, lstm in self.lstms.items():
                state, cell = lstm(beside[name][:, t], (states[name], cells[name]))
                states[name] = _where(goes_on & has[name], state, states[name])
                cells[name] = _where(goes_on & has[name], cell, cells[name])
            change = torch.cat([before, *cells.values()], 1)  # c^[t-1, t]
            memory = _where(goes_on, self.delta(change, memory), memory)
        logits = self.head(torch.cat([*states.values(), memory], 1))
        aux = {f"features/{name}": state for name, state in states.items()}
        return Output(unanswered_as_nan(logits, answered), answered, aux=aux)

    def modality_parts(self) -> dict[str, list[nn.Module]]:
        """Each modality's LSTM."""
        return {name: [self.lstms[name]] for name in self.modalities}

    def loss(self, output: Output, batch: Batch) -> dict[str, Tensor]:
        """Cross-entropy, or L1 in a regression."""
        return supervised(self, output, batch)


def _where(rows: Bool[Tensor, " b"], new: Float[Tensor, "b d"], old: Float[Tensor, "b d"]) -> Float[Tensor, "b d"]:
    return torch.where(rows[:, None], new, old)
