"""The branch of one modality: encoding, spiking network, time alignment."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from affuse.ops.spike_encoding import direct, latency, rate
from affuse.parts.spiking import Neuron, SpikingConvNet, SpikingMLP, SpikingRecurrentNet, SpikingResNet18
from affuse.systems.taaf.alignment import TimeAlignment, resample
from affuse.systems.taaf.config import Encoder, TAAFConfig
from affuse.types import AffuseError


class BranchState(NamedTuple):
    """Potentials of the network and what the alignment holds; None before the first step."""

    network: Any = None
    alignment: Any = None


class Branch(nn.Module):
    """From what a sensor gave to the spikes h_u that are fused.

    Args:
        name: of the modality, for errors.
        config: settings of the system.
    """

    def __init__(self, name: str, config: TAAFConfig) -> None:
        super().__init__()
        self.name, self.encoder, self.steps, self.width = name, config.encoders[name], config.steps, config.width
        self.network = network_of(self.encoder, config.width, config.neuron)
        self.alignment = (
            TimeAlignment(config.width, config.align_kernel, config.align_causal, config.neuron)
            if config.align
            else None
        )

    def forward(
        self, values: Float[Tensor, "b n ..."], state: BranchState | None = None
    ) -> tuple[Float[Tensor, "t b d"], BranchState]:
        """Features of n images or vectors of each row, t steps, and the state after the last.

        Raises:
            AffuseError: the values have another shape than the encoder reads.
        """
        state = BranchState() if state is None else state
        features, network = self.network(self.encoded(values), state.network)
        if self.alignment is None:
            return features, BranchState(network)
        if self.steps is not None:
            features = resample(features, self.steps)
        features, alignment = self.alignment(features, state.alignment)
        return features, BranchState(network, alignment)

    def silent(self, steps: int, b: int, state: BranchState) -> tuple[Float[Tensor, "t b d"], BranchState]:
        """The same for steps in which the sensor gave nothing: what the alignment holds back goes on, the network waits."""
        nothing = next(self.parameters()).new_zeros(steps, b, self.width)
        if self.alignment is None or state.alignment is None:
            return nothing, state
        features, alignment = self.alignment(nothing, state.alignment)
        return features, BranchState(state.network, alignment)

    def encoded(self, values: Float[Tensor, "b n ..."]) -> Float[Tensor, "t b ..."]:
        """Values as the input of the network, time first."""
        encoder = self.encoder
        # The width of an image is what the network checks; channels and features are told here, by name.
        wanted = (encoder.channels,) if encoder.images else (encoder.features,)
        if values.ndim != (5 if encoder.images else 3) or values.shape[2:3] != wanted:
            shape = f"(b, t, {encoder.channels}, h, w)" if encoder.images else f"(b, t, {encoder.features})"
            raise AffuseError(
                f"modality {self.name!r}: expected {shape}, got {tuple(values.shape)}; set its encoder's "
                f"{'channels' if encoder.images else 'features'}, or mend the data"
            )
        x = values.transpose(0, 1)  # n b ...
        if encoder.encoding == "native":
            return x
        if encoder.encoding == "direct":
            spikes = direct(x, encoder.steps)  # s n b ...
        elif encoder.encoding == "rate":
            spikes = rate(x, encoder.steps, regular=not self.training)
        else:
            spikes = latency(x, encoder.steps)
        # A single image stays the view that `direct` gives: a network weights it once for all steps.
        return spikes[:, 0] if len(x) == 1 else rearrange(spikes, "s n b ... -> (n s) b ...")


def network_of(encoder: Encoder, width: int, neuron: Neuron) -> nn.Module:
    """The spiking network of an encoder."""
    layers: dict[str, Any] = {}
    if encoder.kind == "conv":
        if encoder.layers is not None:
            layers["channels_by_layer"] = encoder.layers
        return SpikingConvNet(encoder.channels, encoder.size, width, neuron, **layers)
    if encoder.kind == "recurrent":
        if encoder.layers is not None:
            layers["layers"] = encoder.layers
        return SpikingRecurrentNet(encoder.features, width, neuron, **layers)
    if encoder.kind == "mlp":
        if encoder.layers is not None:
            layers["hidden"] = encoder.layers
        return SpikingMLP(encoder.features, width, neuron, **layers)
    if encoder.layers is not None:
        layers["base"] = encoder.layers[0]
    return SpikingResNet18(encoder.channels, width, neuron, stem=encoder.stem, **layers)


def held_in(features: Float[Tensor, "t r d"], rows: Tensor) -> Float[Tensor, "t b d"]:
    """Features of some rows in all rows, silent in the others."""
    if bool(rows.all()):
        return features
    full = features.new_zeros(features.shape[0], len(rows), features.shape[2])
    return full.index_copy(1, rows.nonzero().squeeze(1), features)


def cut(values: Tensor, lengths: Tensor | None, name: str) -> Tensor:
    """The own steps of rows that must have equally many.

    Raises:
        AffuseError: they have not.
    """
    if lengths is None:
        return values
    steps = torch.unique(lengths)
    if len(steps) > 1:
        raise AffuseError(
            f"modality {name!r}: samples of one batch have {int(steps[0])} to {int(steps[-1])} time steps; give all the same"
        )
    return values[:, : int(steps[0])]
