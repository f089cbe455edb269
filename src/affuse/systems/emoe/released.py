"""EMOE's trunk as the released code computes it (variant ``as_released``), in our own words.

Where it differs from the paper, and from trunk.py:

- The router reads no encoded features but the raw input: every modality padded to a fixed length, side by side and flattened,
  after the text encoder and before any dropout. Lengths that differ from the text's are first mapped to it by a linear map
  over time, for the router alone. Its hidden layer is an eighth as wide as that (4956 units and 197 million parameters on
  MOSI), and normalised to length 1 instead of by batch.
- The convolutions have no bias and no padding around the sequence; one encoder, a convolution of width 1, serves all.
- Padding is not masked: the causal transformer's last step is one of the padding, where there is any. Steps of nothing but
  zeros have no position.

And in system.py: concatenation is multiplied by the number of modalities, L_sim is the mean over modalities instead of their
sum, importance is the inverse error over its sum, distillation compares the heads' features.

An absent modality is answered for as in the paper's trunk, but that zeros stand in for it before the router.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from affuse.parts.sequences import TransformerEncoder, sinusoidal_positions, spread
from affuse.systems.emoe.config import EMOEConfig
from affuse.systems.emoe.trunk import Found, Sequences, equal_weights, masked_softmax
from affuse.types import AffuseError


class ReleasedTrunk(nn.Module):
    """From sequences to f'_m and W.

    Raises:
        AffuseError: a fixed length is shorter than the convolution over it.
    """

    def __init__(self, config: EMOEConfig, widths: Mapping[str, int]) -> None:
        super().__init__()
        self.modalities, self.lengths, d = config.modalities, config.released_lengths, config.d_model
        for name in self.modalities:
            if self.lengths[name] < config.kernel_of(name):
                raise AffuseError(
                    f"released_lengths of {name} is {self.lengths[name]}, shorter than its kernel {config.kernel_of(name)}"
                )
        self.drop = nn.ModuleDict({name: nn.Dropout(config.input_dropout.get(name, 0.0)) for name in self.modalities})
        self.convolution = nn.ModuleDict(
            {name: nn.Conv1d(widths[name], d, config.kernel_of(name), bias=False) for name in self.modalities}
        )
        self.encoder = nn.Linear(d, d, bias=False)
        self.router = ReleasedRouter(config, widths) if config.mome else None
        self.transformer = nn.ModuleDict(
            {
                name: ReleasedTransformer(
                    d,
                    config.heads,
                    config.layers,
                    attention_dropout=config.attention_dropout.get(name, 0.0),
                    embed_dropout=config.embed_dropout,
                    residual_dropout=config.residual_dropout,
                    causal=True,
                )
                for name in self.modalities
            }
        )

    def modality_parts(self, name: str) -> list[nn.Module]:
        return [self.convolution[name], self.transformer[name]]

    def forward(self, sequences: Mapping[str, Sequences], present: Bool[Tensor, "b m"]) -> Found:
        raw = {name: self._fixed(name, sequence) for name, sequence in sequences.items()}
        weights = equal_weights(present, torch.float32) if self.router is None else self.router(raw, present)
        features = {}
        for name, values in raw.items():
            x = self.convolution[name](self.drop[name](values).transpose(1, 2)).transpose(1, 2)  # r t d
            steps = self.transformer[name](self.encoder(x), torch.ones_like(x[:, :, 0], dtype=torch.bool))
            features[name] = steps[:, -1]
        return Found(features, weights)

    def _fixed(self, name: str, sequence: Sequences) -> Float[Tensor, "r t d"]:
        """Zeros in the padding, and as much padding as makes the fixed length."""
        values, mask, _ = sequence
        missing = self.lengths[name] - values.shape[1]
        if missing < 0:
            raise AffuseError(
                f"modality {name!r}: {values.shape[1]} steps, as_released was made for {self.lengths[name]}: "
                f"raise released_lengths"
            )
        return functional.pad(values.masked_fill(~mask[:, :, None], 0), (0, 0, 0, missing))


class ReleasedTransformer(TransformerEncoder):
    """One that gives no position to a step of nothing but zeros."""

    def _placed(self, values: Float[Tensor, "r t d"], mask: Bool[Tensor, "r t"]) -> Float[Tensor, "r t d"]:
        positions = sinusoidal_positions(values.shape[1], values.shape[2], values.device, values.dtype)
        return self.drop(self.scale * values + positions * (values != 0).any(2, keepdim=True))


class ReleasedRouter(nn.Module):
    """Over the raw input at fixed lengths."""

    def __init__(self, config: EMOEConfig, widths: Mapping[str, int]) -> None:
        super().__init__()
        self.modalities, self.widths, self.lengths = config.modalities, dict(widths), config.released_lengths
        self.temperature = config.temperature
        self.steps = self.lengths.get("text", self.lengths[self.modalities[0]])
        self.align = nn.ModuleDict(
            {
                name: nn.Linear(self.lengths[name], self.steps)
                for name in self.modalities
                if self.lengths[name] != self.steps
            }
        )
        inputs = self.steps * sum(widths[name] for name in self.modalities)
        self.hidden = nn.Linear(inputs, max(1, inputs // 8))
        self.out = nn.Linear(max(1, inputs // 8), len(self.modalities))

    def forward(self, raw: Mapping[str, Tensor], present: Bool[Tensor, "b m"]) -> Float[Tensor, "b m"]:
        """W; `raw` are (r, t, d) for the rows that have each modality."""
        parts = []
        for column, name in enumerate(self.modalities):
            if name not in raw:
                parts.append(torch.zeros(len(present), self.steps, self.widths[name], device=present.device))
                continue
            values = raw[name]
            if name in self.align:
                values = self.align[name](values.transpose(1, 2)).transpose(1, 2)
            parts.append(spread(values, present[:, column], 0.0))
        hidden = functional.relu(functional.normalize(self.hidden(torch.cat(parts, 2).flatten(1)), dim=1))
        return masked_softmax(self.out(hidden) / self.temperature, present)
