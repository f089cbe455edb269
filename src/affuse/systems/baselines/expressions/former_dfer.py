"""Former-DFER: a transformer inside of a residual network for each frame, and one over the frames.

Paper: Zengqun Zhao, Qingshan Liu, "Former-DFER: Dynamic Facial Expression Recognition Transformer", ACM Multimedia 2021.

==================================  =================================  =====================
in the paper                        here                               shape
==================================  =================================  =====================
CS-Former, convolution blocks 1-4   `before`                           ((b t), 256, 7, 7)
spatial encoders                    `spatial`                          ((b t), 49, 256)
CS-Former, convolution block 5      `after`                            ((b t), 512, 4, 4)
T-Former, class token               `class_token`                      (512,)
T-Former, temporal encoders         `temporal`                         (b, 1 + t, 512)
==================================  =================================  =====================

Numbers of encoders, heads and widths are those of the released code (zengqunzhao/Former-DFER).

Deviations: any `widths`. Learned positions of a map of another size are interpolated. Lost frames and padding are neither read
by the convolutional spatial transformer nor asked by the temporal one; a frame keeps its own position. Positions and class
token start at a deviation of 0.02, not of 1; values and queries have a bias. Output: ``weights["time"]`` is how the class token
asks the frames in the last encoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, ClassVar

import timm
import torch
from jaxtyping import Bool, Float
from timm.models.resnet import BasicBlock
from torch import Tensor, nn
from torch.nn import functional

from affuse.parts.class_balance import ClassBalance
from affuse.parts.encoders import own_statistics
from affuse.parts.sequences import SequenceAttention
from affuse.systems.baselines.expressions.face_baseline import (
    Described,
    ExpressionBaseline,
    FaceClips,
    maps_of_frames,
)
from affuse.types import AffuseError, Task

WIDTHS = (64, 128, 256, 512)


@dataclass(frozen=True)
class FormerDFERConfig:
    """Settings.

    Args:
        widths: channels of the four layers of the residual network; its third is the width of the spatial encoders and its
            fourth of the temporal ones.
        pretrained: start the residual network from timm's weights of resnet18; the paper trains from scratch.
        frames: most frames of a clip.
        grid: side of the map at which positions are learned; 7 for frames of 112 pixels.
        spatial_layers: spatial encoders.
        spatial_heads: heads of their attention.
        spatial_hidden: width inside of their feed-forward networks.
        temporal_layers: temporal encoders.
        temporal_heads: heads of their attention.
        temporal_hidden: width inside of their feed-forward networks.
        dropout: in the encoders.
        loss: how the loss treats rare classes.
    """

    widths: tuple[int, int, int, int] = WIDTHS
    pretrained: bool = False
    frames: int = 16
    grid: int = 7
    spatial_layers: int = 1
    spatial_heads: int = 8
    spatial_hidden: int = 512
    temporal_layers: int = 3
    temporal_heads: int = 8
    temporal_hidden: int = 1024
    dropout: float = 0.0
    loss: ClassBalance = field(default_factory=ClassBalance)

    def __post_init__(self) -> None:
        if min(self.spatial_layers, self.temporal_layers, self.frames, self.grid) < 1:
            raise AffuseError("spatial_layers, temporal_layers, frames and grid must each be at least 1")


class Encoder(nn.Module):
    """Self-attention and a feed-forward network, each after a normalisation and around it a residual path."""

    def __init__(self, width: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = SequenceAttention(width, heads, 0.0, causal=False)
        self.feed_norm = nn.LayerNorm(width)
        self.feed = nn.Sequential(
            nn.Linear(width, hidden), nn.GELU("tanh"), nn.Dropout(dropout), nn.Linear(hidden, width)
        )
        self.drop = nn.Dropout(dropout)

    def forward(self, values: Float[Tensor, "n s d"], mask: Bool[Tensor, "n s"]) -> Float[Tensor, "n s d"]:
        own = self.attention_norm(values)
        values = values + self.drop(self.attention(own, own, mask))
        return values + self.drop(self.feed(self.feed_norm(values)))

    @torch.no_grad()
    def asked_by_first(self, values: Float[Tensor, "n s d"], mask: Bool[Tensor, "n s"]) -> Float[Tensor, "n s-1"]:
        """How the first token asks the others, mean over heads, shared out among those of the mask."""
        own, heads = self.attention_norm(values), self.attention.heads
        query = self.attention.query(own[:, :1]).unflatten(2, (heads, -1))  # n 1 heads d/heads
        key = self.attention.key(own[:, 1:]).unflatten(2, (heads, -1))  # n s-1 heads d/heads
        scores = torch.einsum("nqhd,nshd->nhs", query, key) / query.shape[3] ** 0.5
        return scores.masked_fill(~mask[:, None, 1:], -torch.inf).softmax(2).mean(1)


class FormerDFER(ExpressionBaseline):
    """Former-DFER (see the head of this file). Its input is ``face`` (b, t, 3, h, w).

    Raises:
        AffuseError: pretrained weights cannot be had, or are of other widths; heads do not divide a width.
    """

    Config: ClassVar[type] = FormerDFERConfig
    config: FormerDFERConfig

    def __init__(self, config: FormerDFERConfig, task: Task) -> None:
        space, time = config.widths[2:]
        super().__init__(task, time, config.dropout, config.loss)
        self.config = config
        self.before, self.after = _residual_network(config)
        self.places = nn.Parameter(0.02 * torch.randn(space, config.grid, config.grid))
        self.spatial = nn.ModuleList(
            Encoder(space, config.spatial_heads, config.spatial_hidden, config.dropout)
            for _ in range(config.spatial_layers)
        )
        self.class_token = nn.Parameter(0.02 * torch.randn(time))
        self.times = nn.Parameter(0.02 * torch.randn(config.frames, time))
        self.temporal = nn.ModuleList(
            Encoder(time, config.temporal_heads, config.temporal_hidden, config.dropout)
            for _ in range(config.temporal_layers)
        )

    def describe(self, clips: FaceClips, seen: Bool[Tensor, " q"]) -> Described:
        steps = clips.valid.shape[1]
        if steps > self.config.frames:
            raise AffuseError(
                f"a clip of {steps} frames, but frames is {self.config.frames}: set it higher, or sample fewer"
            )
        with own_statistics(self, learn=int(seen.sum()) != 1):
            maps = self.maps(maps_of_frames(self._map, clips.frames, clips.valid))  # (q t) d y x
        vectors = maps.mean((2, 3)).unflatten(0, clips.valid.shape)[seen] + self.times[:steps]  # s t d
        values = torch.cat([self.class_token.expand(len(vectors), 1, -1), vectors], 1)  # s 1+t d
        mask = functional.pad(clips.valid[seen], (1, 0), value=True)
        weights = values.new_zeros(0)
        for encoder in self.temporal:
            weights = encoder.asked_by_first(values, mask)  # type: ignore[operator]
            values = encoder(values, mask)
        return Described(values[:, 0], weights)

    def pretrained_parts(self) -> Sequence[nn.Module]:
        """The residual network."""
        return [self.before, self.after] if self.config.pretrained else []

    def _map(self, frames: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d y x"]:
        """The convolutional spatial transformer."""
        maps = self.before(frames)  # n k y x
        places: Tensor = self.places
        if maps.shape[1:] != places.shape:
            places = functional.interpolate(places[None], maps.shape[2:], mode="bilinear", align_corners=False)[0]
        tokens = (maps + places).flatten(2).transpose(1, 2)  # n (y x) k
        everywhere = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        for encoder in self.spatial:
            tokens = encoder(tokens, everywhere)
        return self.after(tokens.transpose(1, 2).unflatten(2, maps.shape[2:]))


def _residual_network(config: FormerDFERConfig) -> tuple[nn.Module, nn.Module]:
    """The residual network as convolution blocks 1 to 4, and 5."""
    widths = config.widths
    if not config.pretrained:
        stem = (nn.Conv2d(3, widths[0], 7, 2, 3, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU(inplace=True))
        layers = [_layer(before, width, 1 if before == 0 else 2) for before, width in pairwise((0, *widths))]
        blocks = nn.Sequential(*stem, nn.MaxPool2d(3, 2, 1), *layers)
        for module in blocks.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        return blocks[:-1], blocks[-1]
    if widths != WIDTHS:
        raise AffuseError(
            f"pretrained weights are of widths {list(WIDTHS)}, not {list(widths)}: set pretrained to false"
        )
    try:
        net: Any = timm.create_model("resnet18", pretrained=True)
    except (OSError, RuntimeError) as error:
        line = (str(error).splitlines() or [type(error).__name__])[0]
        raise AffuseError(f"weights of 'resnet18' could not be had from timm: {line}") from error
    return nn.Sequential(net.conv1, net.bn1, net.act1, net.maxpool, net.layer1, net.layer2, net.layer3), net.layer4


def _layer(before: int, width: int, stride: int) -> nn.Sequential:
    """Two basic blocks; the first layer, after the stem, keeps channels and size."""
    shortcut = None
    if before:
        shortcut = nn.Sequential(nn.Conv2d(before, width, 1, stride, bias=False), nn.BatchNorm2d(width))
    return nn.Sequential(BasicBlock(before or width, width, stride, shortcut), BasicBlock(width, width))
