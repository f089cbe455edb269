"""EMOE's trunk by the paper (section 3.2): convolutions, encoders, router, transformers.

Sequences of a modality are held only for the rows that have it: ``values`` (r, t, d) and ``mask`` (r, t) for the r rows where
``rows`` (b,) is true. A modality that no row has is not in the mapping.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from affuse.parts.sequences import SequencePool, TemporalConvolution, TransformerEncoder, pooled, spread
from affuse.parts.utterances import RowNorm
from affuse.systems.emoe.config import EMOEConfig


class Sequences(NamedTuple):
    """The sequences of one modality."""

    values: Float[Tensor, "r t d"]
    mask: Bool[Tensor, "r t"]
    rows: Bool[Tensor, " b"]


class Found(NamedTuple):
    """What a trunk finds: f'_m (r, d) by modality, and W (b, m), zero where absent."""

    features: dict[str, Tensor]
    weights: Float[Tensor, "b m"]


class Router(nn.Module):
    """G of Eq. 1, over f_m averaged over its own steps, so that any length will do and the router stays small."""

    def __init__(self, config: EMOEConfig) -> None:
        super().__init__()
        self.modalities, self.temperature = config.modalities, config.temperature
        # What stands in f for a modality that is not there.
        self.stand_in = nn.ParameterDict(
            {name: nn.Parameter(0.1 * torch.randn(config.d_model)) for name in config.modalities}
        )
        layers: list[nn.Module] = []
        width = len(config.modalities) * config.d_model
        for _ in range(config.router_layers - 1):
            # Normalisation takes a bias away.
            layers += [nn.Linear(width, config.router_width, bias=False), RowNorm(config.router_width), nn.ReLU()]
            width = config.router_width
        self.layers = nn.Sequential(*layers, nn.Linear(width, len(config.modalities)))

    def forward(self, pooled_features: Mapping[str, Tensor], present: Bool[Tensor, "b m"]) -> Float[Tensor, "b m"]:
        """W, over the modalities that a row has; `pooled_features` are (r, d) for the rows that have each."""
        parts = []
        for column, name in enumerate(self.modalities):
            stand_in = self.stand_in[name]
            if name in pooled_features:
                parts.append(spread(pooled_features[name], present[:, column], stand_in))
            else:
                parts.append(stand_in.expand(len(present), -1))
        return masked_softmax(self.layers(torch.cat(parts, 1)) / self.temperature, present)  # Eq. 1


def masked_softmax(scores: Float[Tensor, "b m"], present: Bool[Tensor, "b m"]) -> Float[Tensor, "b m"]:
    """Softmax over what is present, of which every row has something."""
    return scores.float().masked_fill(~present, -torch.inf).softmax(1).to(scores.dtype)


def equal_weights(present: Bool[Tensor, "b m"], dtype: torch.dtype) -> Float[Tensor, "b m"]:
    """The same weight for each modality that a row has (Table 4 without MoME)."""
    return (present / present.sum(1, keepdim=True)).to(dtype)


class PaperTrunk(nn.Module):
    """From sequences to f'_m and W."""

    def __init__(self, config: EMOEConfig, widths: Mapping[str, int]) -> None:
        super().__init__()
        self.modalities, d = config.modalities, config.d_model
        self.drop = nn.ModuleDict({name: nn.Dropout(config.input_dropout.get(name, 0.0)) for name in self.modalities})
        self.convolution = nn.ModuleDict(
            {name: TemporalConvolution(widths[name], d, config.kernel_of(name)) for name in self.modalities}
        )
        self.encoder = nn.ModuleDict({name: nn.Sequential(nn.ReLU(), nn.Linear(d, d)) for name in self.modalities})
        self.router = Router(config) if config.mome else None
        self.transformer = nn.ModuleDict(
            {
                name: TransformerEncoder(
                    d,
                    config.heads,
                    config.layers,
                    attention_dropout=config.attention_dropout.get(name, 0.0),
                    embed_dropout=config.embed_dropout,
                    residual_dropout=config.residual_dropout,
                    causal=config.causal,
                )
                for name in self.modalities
            }
        )
        self.pool = nn.ModuleDict({name: SequencePool(d, config.readout) for name in self.modalities})

    def modality_parts(self, name: str) -> list[nn.Module]:
        return [self.convolution[name], self.encoder[name], self.transformer[name], self.pool[name]]

    def forward(self, sequences: Mapping[str, Sequences], present: Bool[Tensor, "b m"]) -> Found:
        low: dict[str, Tensor] = {}
        for name, (values, mask, _) in sequences.items():
            x = self.convolution[name](self.drop[name](values), mask)  # X_m: r t d
            low[name] = self.encoder[name](x)  # f_m = E_m(X_m): r t d
        if self.router is None:
            weights = equal_weights(present, next(iter(low.values())).dtype)
        else:
            weights = self.router({n: pooled(f, sequences[n].mask, "mean") for n, f in low.items()}, present)
        high = {}
        for name, f in low.items():
            mask = sequences[name].mask
            high[name] = self.pool[name](self.transformer[name](f, mask), mask)  # f'_m: r d
        return Found(high, weights)
