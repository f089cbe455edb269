"""MISA: each modality in two subspaces, one shared by all and one of its own, kept apart by orthogonality and together by
central moments; a small transformer reads all of them.

Paper: Devamanyu Hazarika, Roger Zimmermann, Soujanya Poria, "MISA: Modality-Invariant and -Specific Representations for
Multimodal Sentiment Analysis", ACM Multimedia 2020. Settings: MMSA (thuiar/MMSA), MOSI.

=========================  ==============================  =========================
in the paper               here                            shape
=========================  ==============================  =========================
u_m                        aux[f"utterance_{name}"]        (b, hidden)
h_m^c, h_m^p               aux[f"shared_{name}"],          (b, hidden)
                           aux[f"private_{name}"]
u_m hat                    aux[f"rebuilt_{name}"]          (b, hidden)
L_sim (CMD)                `central_moment_discrepancy`    ()
L_diff                     `difference`                    ()
=========================  ==============================  =========================

Deviations: any modalities; the three losses run over the rows that have the modalities in question. The square in L_diff is
averaged over its cells, as in the released code (the paper sums). The stacked LSTM is read at its last layer. Absent
modalities are masked from the transformer, and zero where its answers are laid side by side. A regression is trained by L1
(the paper: squared error).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import combinations
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from affuse.parts.sequences import present_rows, spread
from affuse.parts.supervision import known_rows, nothing_to_learn
from affuse.parts.text import TextEncoder
from affuse.parts.utterances import (
    Reading,
    answered_rows,
    embedded,
    final_states,
    need,
    step_or_mean,
    supervised,
)
from affuse.types import AffuseError, Batch, Output, System, Task


@dataclass(frozen=True)
class MISAConfig:
    """Settings.

    Args:
        modalities: names.
        widths: features a step by modality.
        readings: how a sequence becomes a vector, by modality: ``lstm`` (two layers, both directions) where none is named,
            otherwise its ``mean`` (the paper's, of BERT), ``last`` or ``first`` step.
        text_encoder: a model of transformers that reads token ids of ``text``; its width goes before widths.text.
        pretrained: take the text encoder's published weights.
        finetune: whether the text encoder learns.
        hidden: width of every representation; a multiple of 2.
        dropout: in the head and in the transformer.
        difference_weight: of L_diff.
        similarity_weight: of L_sim.
        reconstruction_weight: of L_recon.
    """

    modalities: tuple[str, ...] = ("text", "audio", "video")
    widths: dict[str, int] = field(default_factory=lambda: {"text": 768, "audio": 5, "video": 20})
    readings: dict[str, Reading] = field(default_factory=dict)
    text_encoder: str | None = None
    pretrained: bool = True
    finetune: bool = True
    hidden: int = 128
    dropout: float = 0.2
    difference_weight: float = 0.1
    similarity_weight: float = 0.3
    reconstruction_weight: float = 1.0


def central_moment_discrepancy(a: Float[Tensor, "r d"], b: Float[Tensor, "n d"], moments: int = 5) -> Float[Tensor, ""]:
    """CMD: the distance of the means and of the central moments up to order K, of values in [0, 1]."""
    # vector_norm's gradient at 0 is 0: one row has no central moments.
    total = torch.linalg.vector_norm(a.mean(0) - b.mean(0))
    a, b = a - a.mean(0), b - b.mean(0)
    for order in range(2, moments + 1):
        total = total + torch.linalg.vector_norm((a**order).mean(0) - (b**order).mean(0))
    return total


def difference(a: Float[Tensor, "r d"], b: Float[Tensor, "r d"]) -> Float[Tensor, ""]:
    """L_diff of one pair: the squared products of the columns of two matrices, their rows centred and then of unit length."""
    a = functional.normalize(a - a.mean(0), dim=1, eps=1e-6)
    b = functional.normalize(b - b.mean(0), dim=1, eps=1e-6)
    return (a.T @ b).square().mean()


class Utterance(nn.Module):
    """A sequence as u_m: a stacked bidirectional LSTM or a step or mean, a linear map, ReLU, normalisation."""

    def __init__(self, features: int, hidden: int, reading: Reading) -> None:
        super().__init__()
        self.reading = reading
        self.lstm = nn.LSTM(features, hidden, 2, batch_first=True, bidirectional=True) if reading == "lstm" else None
        before = 2 * hidden if reading == "lstm" else features
        self.project = nn.Sequential(nn.Linear(before, hidden), nn.ReLU(), nn.LayerNorm(hidden))

    def forward(self, values: Float[Tensor, "r t d"], mask: Bool[Tensor, "r t"]) -> Float[Tensor, "r k"]:
        if self.lstm is None:
            return self.project(step_or_mean(values, mask, self.reading))
        return self.project(final_states(self.lstm, values, mask.sum(1)))


class MISA(System):
    """MISA (see the head of this file). Inputs (b, t, d) by modality, each with its own t; text may be token ids (b, t).

    Raises:
        AffuseError: the settings are impossible, or the text encoder cannot be had.
    """

    Config: ClassVar[type] = MISAConfig
    config: MISAConfig

    def __init__(self, config: MISAConfig, task: Task) -> None:
        super().__init__()
        self.config, self.task, self.modalities = config, task, tuple(config.modalities)
        need(self.modalities, config.widths, text_encoder=config.text_encoder)
        hidden, names = config.hidden, self.modalities
        if hidden < 2 or hidden % 2:
            raise AffuseError(f"hidden is shared out among 2 heads of attention: make it even; got {hidden}")
        self.text = None
        self.widths = {name: config.widths[name] for name in names}
        if config.text_encoder is not None:
            self.text = TextEncoder(config.text_encoder, config.pretrained, config.finetune)
            self.widths["text"] = self.text.width
        self.utterances = nn.ModuleDict(
            {name: Utterance(self.widths[name], hidden, config.readings.get(name, "lstm")) for name in names}
        )
        self.private = nn.ModuleDict({name: nn.Sequential(nn.Linear(hidden, hidden), nn.Sigmoid()) for name in names})
        self.shared = nn.Sequential(nn.Linear(hidden, hidden), nn.Sigmoid())
        self.rebuild = nn.ModuleDict({name: nn.Linear(hidden, hidden) for name in names})
        self.fusion = nn.TransformerEncoderLayer(hidden, 2, 4 * hidden, config.dropout, batch_first=True)
        together = 2 * len(names) * hidden
        self.head = nn.Sequential(
            nn.Linear(together, together // 2),
            nn.Dropout(config.dropout),
            nn.ReLU(),
            nn.Linear(together // 2, task.outputs),
        )

    def forward(self, batch: Batch) -> Output:
        answered = answered_rows(batch, self.modalities)  # b
        if not answered.any():
            nothing = next(self.head.parameters()).new_full((batch.size, self.task.outputs), torch.nan)
            return Output(nothing.detach(), answered)
        aux: dict[str, Tensor] = {}
        has = torch.stack([present_rows(batch, name) for name in self.modalities], 1)  # b m
        for name in self.modalities:
            values, mask, rows = embedded(batch, name, self.widths[name], self.text)
            if len(values):
                u = self.utterances[name](values, mask)  # r hidden
                found = {"utterance": u, "shared": self.shared(u), "private": self.private[name](u)}
                found["rebuilt"] = self.rebuild[name](found["shared"] + found["private"])
            else:
                none = next(self.head.parameters()).new_zeros(0, self.config.hidden)
                found = dict.fromkeys(("utterance", "shared", "private", "rebuilt"), none)
            aux |= {f"{kind}_{name}": spread(value, rows, 0.0) for kind, value in found.items()}
            aux[f"features/{name}"] = torch.cat([aux[f"private_{name}"], aux[f"shared_{name}"]], 1)  # b (2 hidden)
        tokens = [aux[f"{kind}_{name}"] for kind in ("private", "shared") for name in self.modalities]
        there = has[answered].repeat(1, 2)  # r (2 m)
        read = self.fusion(torch.stack(tokens, 1)[answered], src_key_padding_mask=~there)  # r (2 m) hidden
        read = read.masked_fill(~there[..., None], 0.0)
        return Output(spread(self.head(read.flatten(1)), answered, torch.nan), answered, aux=aux)

    def pretrained_parts(self) -> list[nn.Module]:
        """The text encoder, where there is one."""
        return [] if self.text is None else [self.text]

    def modality_parts(self) -> dict[str, list[nn.Module]]:
        """Each modality's utterance network, its private subspace, its reconstruction, and the encoder of the text."""
        own: dict[str, list[nn.Module]] = {
            name: [self.utterances[name], self.private[name], self.rebuild[name]] for name in self.modalities
        }
        if self.text is not None:
            own["text"].append(self.text)
        return own

    def loss(self, output: Output, batch: Batch) -> dict[str, Tensor]:
        """The task's loss (cross-entropy, or L1 in a regression), ``difference``, ``similarity`` and ``reconstruction``."""
        terms = supervised(self, output, batch)
        rows = known_rows(output, batch, self.task)
        if not rows.any():
            return nothing_to_learn(self)
        has = {name: rows & present_rows(batch, name) for name in self.modalities}
        aux, zero = output.aux, terms["total"].new_zeros(())
        own = [name for name in self.modalities if has[name].any()]
        pairs = [(a, b) for a, b in combinations(self.modalities, 2) if (has[a] & has[b]).any()]
        apart = [difference(aux[f"shared_{a}"][has[a]], aux[f"private_{a}"][has[a]]) for a in own]
        together, rebuilt = [], []
        for a, b in pairs:
            both = has[a] & has[b]
            apart.append(difference(aux[f"private_{a}"][both], aux[f"private_{b}"][both]))
            together.append(central_moment_discrepancy(aux[f"shared_{a}"][both], aux[f"shared_{b}"][both]))
        for a in own:
            rebuilt.append(functional.mse_loss(aux[f"rebuilt_{a}"][has[a]], aux[f"utterance_{a}"][has[a]]))
        terms["difference"] = sum(apart, zero)
        terms["similarity"] = sum(together, zero) / max(1, len(together))
        terms["reconstruction"] = sum(rebuilt, zero) / max(1, len(rebuilt))
        terms["total"] = (
            terms["total"]
            + self.config.difference_weight * terms["difference"]
            + self.config.similarity_weight * terms["similarity"]
            + self.config.reconstruction_weight * terms["reconstruction"]
        )
        return terms
