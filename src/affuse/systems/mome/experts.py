"""Experts: the frames of one camera in, a class token and spatio-temporal tokens out.

Frames that are lost have exactly no influence: the image encoder runs over the others alone, and no attention asks them.
"""

from __future__ import annotations

import itertools

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from affuse.parts.encoders import ImageEncoder, own_statistics
from affuse.parts.sequences import TransformerLayer
from affuse.systems.mome.config import VIDEO_TRANSFORMERS, MoMEConfig
from affuse.systems.mome.tokens import Tokens
from affuse.systems.mome.video_transformers import VideoTransformerExpert, is_folder_or_hub_name
from affuse.types import AffuseError


class ConvStem(nn.Module):
    """Four overlapping convolutions, each halving the frame: a map at a sixteenth of the side, 48 pixels become 3.

    About 1.7 million multiply-adds for an RGB frame of 48 x 48. Batch normalisation makes it learn in fewer epochs than
    normalisation by group; where only one clip is given in training, it uses its running statistics and leaves them alone: the
    frames of one clip are no sample of the population.

    Args:
        channels: channels of a frame.
        width: channels of the map.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        widths = (channels, 16, 32, 48)
        halvings = [
            nn.Sequential(nn.Conv2d(before, after, 3, 2, 1, bias=False), nn.BatchNorm2d(after), nn.GELU())
            for before, after in itertools.pairwise(widths)
        ]
        self.blocks = nn.Sequential(*halvings, nn.Conv2d(widths[-1], width, 3, 2, 1))

    def forward(self, frames: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d y x"]:
        return self.blocks(frames)


class FrameExpert(nn.Module):
    """An image encoder for each frame, and a transformer over the tokens of all frames with a class token.

    Args:
        name: ``small`` (`ConvStem`) or a convolutional backbone of timm.
        channels: channels of a frame.
        config: settings.
    """

    def __init__(self, name: str, channels: int, config: MoMEConfig) -> None:
        super().__init__()
        width = config.width
        self.width, self.frames, self.grid = width, config.frames, config.grid
        self.stem: ConvStem | ImageEncoder
        if name == "small":
            self.stem, features = ConvStem(channels, width), width
        else:
            self.stem = ImageEncoder(name, channels, config.pretrained)
            features = self.stem.width
        self.pretrained = name != "small" and config.pretrained
        self.maps = nn.Identity()  # the last map of each frame passes here, for Grad-CAM
        self.norm = nn.LayerNorm(features)
        self.project = nn.Linear(features, width)
        self.class_token = nn.Parameter(0.02 * torch.randn(width))
        self.space = nn.Parameter(0.02 * torch.randn(config.grid**2, width))
        self.time = nn.Parameter(0.02 * torch.randn(config.frames, width))
        self.drop = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(
            TransformerLayer(width, config.heads, 0.0, 0.0, config.dropout, causal=False) for _ in range(config.layers)
        )
        self.last_norm = nn.LayerNorm(width)

    @property
    def backbone(self) -> list[nn.Module]:
        """What starts from published weights."""
        return [self.stem] if self.pretrained else []

    def has_tokens(self, valid: Bool[Tensor, "r t"]) -> Bool[Tensor, " r"]:
        """Which clips have at least one frame."""
        return valid.any(1)

    def forward(self, clips: Float[Tensor, "r t c h w"], valid: Bool[Tensor, "r t"]) -> Tokens:
        """Tokens of clips; what stands in frames that are not valid is not read."""
        r, t = valid.shape
        maps = self.maps(self._maps(clips, valid))  # (r t) k y x
        if maps.shape[2:] != (self.grid, self.grid):
            maps = functional.adaptive_avg_pool2d(maps, self.grid)
        cells = maps.flatten(2).transpose(1, 2).unflatten(0, (r, t))  # r t (y x) k
        placed = self.project(self.norm(cells)) + self.space + self.time[:t, None]  # r t (y x) d
        values = torch.cat([self.class_token.expand(r, 1, -1), placed.flatten(1, 2)], 1)  # r 1+n d
        valid = valid.repeat_interleave(self.grid**2, 1)  # r n
        mask = torch.cat([valid.new_ones(r, 1), valid], 1)  # r 1+n
        values = self.drop(values)
        attention = None
        for number, layer in enumerate(self.layers, 1):
            assert isinstance(layer, TransformerLayer)
            if number == len(self.layers):
                attention = class_attention(layer, values, valid)
            values = layer(values, None, mask)
        values = self.last_norm(values)
        return Tokens(values[:, 0], values[:, 1:], valid, (t, self.grid, self.grid), attention)

    def _maps(self, clips: Tensor, valid: Tensor) -> Float[Tensor, "n k y x"]:
        """The map of each frame (r t); zeros for those that are lost, which the encoder does not see."""
        whole = bool(valid.all())
        if isinstance(self.stem, ConvStem):
            with own_statistics(self.stem, learn=len(clips) > 1):
                found = self.stem(clips.flatten(0, 1) if whole else clips[valid])
        elif whole:
            found = self.stem(clips).flatten(0, 1)
        else:  # a single clip stays one clip, since batch normalisation treats that apart
            found = self.stem(clips[valid].unsqueeze(0 if len(clips) == 1 else 1)).flatten(0, 1)
        if whole:
            return found
        maps = found.new_zeros(valid.numel(), *found.shape[1:])
        maps[valid.flatten()] = found
        return maps


@torch.no_grad()
def class_attention(
    layer: TransformerLayer, values: Float[Tensor, "r s d"], valid: Bool[Tensor, "r n"]
) -> Float[Tensor, "r n"]:
    """How the first token asks the others in a layer, mean over heads, shared out among the valid ones."""
    own = layer.attention_norm(values)
    heads = layer.attention.heads
    query = layer.attention.query(own[:, :1]).unflatten(2, (heads, -1))  # r 1 heads d/heads
    key = layer.attention.key(own[:, 1:]).unflatten(2, (heads, -1))  # r n heads d/heads
    scores = torch.einsum("rqhd,rnhd->rhn", query, key) / query.shape[3] ** 0.5
    return scores.masked_fill(~valid[:, None], -torch.inf).softmax(2).mean(1)


Expert = FrameExpert | VideoTransformerExpert


def expert_named(name: str, channels: int, config: MoMEConfig) -> Expert:
    """The expert of this name.

    Raises:
        AffuseError: there is none, or its library is not installed.
    """
    if name in VIDEO_TRANSFORMERS or is_folder_or_hub_name(name):
        return VideoTransformerExpert(name, channels, config)
    try:
        return FrameExpert(name, channels, config)
    except AffuseError as error:
        if name == "small" or "neither" not in str(error):
            raise
        known = ", ".join(VIDEO_TRANSFORMERS)
        raise AffuseError(f"{error}; an expert may also be {known}, or a folder of such a model") from None
