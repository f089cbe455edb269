"""ResNet-18 + LSTM and ResNet-18 + GRU: an image network for each frame, a recurrent one over the frames.

Papers: Kaiming He, Xiangyu Zhang, Shaoqing Ren, Jian Sun, "Deep Residual Learning for Image Recognition", CVPR 2016; Sepp
Hochreiter, Jürgen Schmidhuber, "Long Short-Term Memory", Neural Computation 1997; Junyoung Chung and others, "Empirical
Evaluation of Gated Recurrent Neural Networks on Sequence Modeling", 2014, arXiv 1412.3555.

The tables that print these two say neither how wide the recurrent network is nor what of it is read: `hidden`, `layers` and
`readout` are our readings. Lost frames are left out: the state passes over them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from affuse.parts.class_balance import ClassBalance
from affuse.parts.encoders import ImageEncoder
from affuse.parts.sequences import pooled
from affuse.systems.baselines.expressions.face_baseline import (
    Described,
    ExpressionBaseline,
    FaceClips,
    maps_of_frames,
)
from affuse.types import Task


@dataclass(frozen=True)
class ResNet18RecurrentConfig:
    """Settings.

    Args:
        encoder: ``small``, or a convolutional model of timm.
        pretrained: start from timm's published weights.
        widths: channels of the four stages of the ResNet (`ImageEncoder`); None: its own.
        hidden: width of the recurrent network.
        layers: of it.
        readout: ``last``, its state after the last frame with a face; ``mean``, over all of them.
        dropout: before the classifier, and between layers.
        loss: how the loss treats rare classes.
    """

    encoder: str = "resnet18"
    pretrained: bool = False
    widths: tuple[int, int, int, int] | None = None
    hidden: int = 512
    layers: int = 1
    readout: Literal["last", "mean"] = "last"
    dropout: float = 0.2
    loss: ClassBalance = field(default_factory=ClassBalance)


class ResNet18Recurrent(ExpressionBaseline):
    """What the two have in common (see the head of this file). The input is ``face`` (b, t, 3, h, w).

    `Output.weights` has ``time`` (b, t) where the readout is the mean.

    Raises:
        AffuseError: the encoder cannot be had, or not in these widths.
    """

    Config: ClassVar[type] = ResNet18RecurrentConfig
    config: ResNet18RecurrentConfig
    cell: ClassVar[type[nn.LSTM] | type[nn.GRU]]

    def __init__(self, config: ResNet18RecurrentConfig, task: Task) -> None:
        super().__init__(task, config.hidden, config.dropout, config.loss)
        self.config = config
        self.encoder = ImageEncoder(config.encoder, 3, config.pretrained, widths=config.widths)
        between = config.dropout if config.layers > 1 else 0.0
        self.recurrent = self.cell(self.encoder.width, config.hidden, config.layers, batch_first=True, dropout=between)

    def describe(self, clips: FaceClips, seen: Bool[Tensor, " q"]) -> Described:
        # A single clip stays one clip, since batch normalisation treats that apart.
        clip = 0 if int(seen.sum()) == 1 else 1
        maps = maps_of_frames(lambda x: self.encoder(x.unsqueeze(clip)).flatten(0, 1), clips.frames, clips.valid)
        vectors = self.maps(maps).mean((2, 3)).unflatten(0, clips.valid.shape)[seen]  # s t d
        valid = clips.valid[seen]
        states = states_at_valid(self.recurrent, vectors, valid)
        features = pooled(states, valid, self.config.readout)
        if self.config.readout == "last":
            return Described(features)
        return Described(features, (valid / valid.sum(1, keepdim=True)).to(features.dtype))

    def pretrained_parts(self) -> Sequence[nn.Module]:
        """The image encoder."""
        return [self.encoder] if self.config.pretrained else []


class ResNet18LSTM(ResNet18Recurrent):
    """With an LSTM."""

    cell = nn.LSTM


class ResNet18GRU(ResNet18Recurrent):
    """With gated recurrent units."""

    cell = nn.GRU


def states_at_valid(
    recurrent: nn.LSTM | nn.GRU, values: Float[Tensor, "s t d"], valid: Bool[Tensor, "s t"]
) -> Float[Tensor, "s t k"]:
    """The state after each valid step, as if the others were not there; zero at those. Each row needs a valid one."""
    order = (~valid).to(torch.uint8).argsort(dim=1, stable=True)  # s t: valid steps first, in their order
    row = torch.arange(len(values), device=values.device)[:, None]
    packed = pack_padded_sequence(values[row, order], valid.sum(1).cpu(), batch_first=True, enforce_sorted=False)
    states, _ = pad_packed_sequence(recurrent(packed)[0], batch_first=True, total_length=values.shape[1])
    found = torch.zeros_like(states)
    found[row, order] = states
    return found
