"""Facial attention of FER-SSM: which channels, which regions of the face and which places of a frame count.

Paper: Pratama, Pandin and Hsieh, "Dynamic Facial Expression Recognition in the Wild using Mamba-Style Selective SSM and Facial
Attention Mechanism", row 3 of Table 1 ("CBAM + landmark attention + facial enhancer") and Section 3. It names the stages and
their cost, and gives no equation: the channel stage is that of CBAM (Woo, Park, Lee and Kweon, "CBAM: Convolutional Block
Attention Module", ECCV 2018, equation 2); the form of the others is our reading (ledger/fer_ssm.md).

===================================  ===========================  ==============
in the paper                         here                         shape
===================================  ===========================  ==============
global channel attention             `ChannelAttention`           (n, c)
facial-region attention, 8 maps      `RegionAttention`            (n, k, y, x)
landmark mask                        `landmark_mask`              (n, k, y, x)
multi-scale spatial attention        `MultiScaleSpatialAttention` (n, y, x)
landmark-constrained attention       `LandmarkAttention`          (n, y, x)
facial enhancement layer             `FacialEnhancer`             (n, c, y, x)
===================================  ===========================  ==============

``n`` are frames, each on its own; ``k`` regions of the face; ``y x`` the grid of the backbone's last map (H' W' in the paper).

A mask is 1 everywhere in frames without landmarks, so that such a frame is attended to by what was learned alone. Region and
landmark attention multiply by 1 plus what they found: where landmarks are wrong, a place is not stressed, but never put out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from affuse.types import AffuseError

POINTS = 68
REGIONS = ("left brow", "right brow", "left eye", "right eye", "nose", "mouth", "left cheek", "right cheek")
"""In the order of the masks. Left and right are of the picture, not of the person."""

# Each row is a place of its region: the mean of these points of iBUG 300-W. Means fill what the points leave empty: the middle
# of an eye and of the mouth, and the cheeks, which no point lies on.
_LEFT_CHEEK = ((2, 31), (3, 31), (4, 48), (1, 41), (2, 40, 31), (3, 48), (2, 41, 31))
_RIGHT_CHEEK = ((14, 35), (13, 35), (12, 54), (15, 46), (14, 47, 35), (13, 54), (14, 46, 35))
_PLACES: tuple[tuple[tuple[int, ...], ...], ...] = (
    tuple((point,) for point in range(17, 22)),
    tuple((point,) for point in range(22, 27)),
    (*((point,) for point in range(36, 42)), tuple(range(36, 42))),
    (*((point,) for point in range(42, 48)), tuple(range(42, 48))),
    tuple((point,) for point in range(27, 36)),
    (*((point,) for point in range(48, 68)), tuple(range(60, 68))),
    _LEFT_CHEEK,
    _RIGHT_CHEEK,
)
_EYES = (tuple(range(36, 42)), tuple(range(42, 48)))
_SMALLEST_SPREAD = 0.05  # of the picture's half side: landmarks that coincide still have a mask


def landmark_mask(
    landmarks: Float[Tensor, "n 68 2"], height: int, width: int, regions: int = 8, spread: float = 0.15
) -> Float[Tensor, "n k y x"]:
    """Soft masks of the eight facial regions, `REGIONS`, on the grid of a feature map (our reading of "landmark mask").

    A cell has exp(-d^2 / 2 s^2), d being the distance of its centre from the nearest place of the region, and s the larger of
    `spread` times the distance of the eyes and half a cell, so that a region is not lost between the cells of a coarse grid.

    Args:
        landmarks: x (right) and y (down) of the 68 points of iBUG 300-W in the crop, -1 to 1 from edge to edge. A frame with a
            value that is not finite has no landmarks.
        height: rows of the grid.
        width: columns of the grid.
        regions: how many maps there are to mask; there are masks for eight.
        spread: softness, in distances of the eyes.

    Returns:
        0 to 1; 1 everywhere in frames without landmarks.

    Raises:
        AffuseError: another number of regions.
    """
    if regions != len(REGIONS):
        raise AffuseError(f"there are landmark masks for {len(REGIONS)} regions, not for {regions}: set regions: 8")
    known = torch.isfinite(landmarks).flatten(1).all(1)  # n
    points = landmarks.masked_fill(~known[:, None, None], 0.0)
    x = (torch.arange(width, device=points.device, dtype=points.dtype) * 2 + 1) / width - 1
    y = (torch.arange(height, device=points.device, dtype=points.dtype) * 2 + 1) / height - 1
    left, right = (points[:, list(eye)].mean(1) for eye in _EYES)
    apart = (right - left).norm(dim=1)
    smallest = max(_SMALLEST_SPREAD, 1 / height, 1 / width)
    softness = (spread * apart).clamp_min(smallest)[:, None, None]  # n 1 1
    masks = []
    for region in _PLACES:
        places = torch.stack([points[:, list(place)].mean(1) for place in region], 1)  # n p 2
        across = (x - places[:, :, :1]) ** 2  # n p x
        down = (y - places[:, :, 1:]) ** 2  # n p y
        nearest = (down[..., :, None] + across[..., None, :]).amin(1)  # n y x
        masks.append(torch.exp(-nearest / (2 * softness**2)))
    return torch.stack(masks, 1).masked_fill(~known[:, None, None, None], 1.0)


def channel_pooled(maps: Float[Tensor, "n c y x"]) -> Float[Tensor, "n 2 y x"]:
    """Mean and largest value over channels: the "pooled 2-channel input (avg/max)" of the paper and CBAM's equation 3."""
    return torch.stack([maps.mean(1), maps.amax(1)], 1)


class ChannelAttention(nn.Module):
    """CBAM's channel attention: sigmoid(MLP(mean over places) + MLP(largest over places)), one MLP for both.

    Args:
        channels: width of the maps.
        reduction: the MLP's hidden width is channels / reduction, at least 1; CBAM has 16.
    """

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        hidden = max(channels // reduction, 1)
        self.mlp = nn.Sequential(
            nn.Linear(channels, hidden, bias=False), nn.ReLU(), nn.Linear(hidden, channels, bias=False)
        )

    def forward(self, maps: Float[Tensor, "n c y x"]) -> Float[Tensor, "n c"]:
        """The factor of each channel, 0 to 1."""
        return torch.sigmoid(self.mlp(maps.mean((2, 3))) + self.mlp(maps.amax((2, 3))))


class RegionAttention(nn.Module):
    """Facial-region attention over learned maps, each held to its region by the landmark mask, each weighed frame by frame.

    a_k = softmax_k or sigmoid (conv1x1(f))_k * mask_k says where region k is; the mean of f under a_k says what is there, and
    from it a sigmoid, w_k, how much region k counts in this frame. The region's map is r_k = w_k a_k, and a place is stressed
    by any region that claims it: 1 - prod_k (1 - r_k).

    Args:
        channels: width of the maps.
        regions: how many maps are learned; the paper has eight.
        activation: ``softmax``: the regions share each place; ``sigmoid``: each map is its own.
    """

    def __init__(self, channels: int, regions: int = 8, activation: Literal["softmax", "sigmoid"] = "softmax") -> None:
        super().__init__()
        self.activation = activation
        self.maps = nn.Conv2d(channels, regions, 1)
        self.importance = nn.Linear(channels, 1, bias=False)
        self.region_bias = nn.Parameter(torch.zeros(regions))

    def forward(
        self, maps: Float[Tensor, "n c y x"], mask: Float[Tensor, "n k y x"] | None = None
    ) -> tuple[Float[Tensor, "n y x"], Float[Tensor, "n k y x"]]:
        """How far each place is stressed, 0 to 1, and the map r_k of each region, 0 to 1."""
        scores = self.maps(maps)  # n k y x
        where = scores.softmax(1) if self.activation == "softmax" else torch.sigmoid(scores)
        if mask is not None:
            where = where * mask.to(where.dtype)
        flat = where.flatten(2)  # n k (y x)
        mass = flat.sum(2, keepdim=True).clamp_min(1e-6)
        what = torch.bmm(flat / mass, rearrange(maps, "n c y x -> n (y x) c"))  # n k c
        weight = torch.sigmoid(self.importance(what)[..., 0] + self.region_bias)  # n k
        regions = weight[:, :, None, None] * where
        return 1 - (1 - regions).prod(1), regions


class MultiScaleSpatialAttention(nn.Module):
    """CBAM's spatial attention at several scales: a weighted mean of sigmoid(conv_k(mean, largest)) over kernel sizes k.

    The sigmoid comes before the mean: a sum of convolutions alone would be one convolution of the largest size.

    Args:
        scales: kernel sizes, odd; the paper has 3, 5 and 7.
    """

    def __init__(self, scales: Sequence[int] = (3, 5, 7)) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(nn.Conv2d(2, 1, size, padding=size // 2) for size in scales)
        self.scale_logits = nn.Parameter(torch.zeros(len(scales)))

    def forward(self, maps: Float[Tensor, "n c y x"]) -> Float[Tensor, "n y x"]:
        """The factor of each place, 0 to 1."""
        pooled = channel_pooled(maps)
        seen = torch.cat([convolution(pooled) for convolution in self.convolutions], 1)  # n s y x
        return torch.einsum("nsyx,s->nyx", torch.sigmoid(seen), self.scale_logits.softmax(0))


class LandmarkAttention(nn.Module):
    """Landmark-constrained attention: sigmoid(conv3x3(mean, largest)), held to the union of the facial regions."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(2, 1, 3, padding=1)

    def forward(
        self, maps: Float[Tensor, "n c y x"], mask: Float[Tensor, "n k y x"] | None = None
    ) -> Float[Tensor, "n y x"]:
        """How far each place is stressed, 0 to 1: 0 off the face, where landmarks say where the face is."""
        found = torch.sigmoid(self.convolution(channel_pooled(maps)))[:, 0]
        return found if mask is None else found * mask.amax(1).to(found.dtype)


class FacialEnhancer(nn.Module):
    """Facial enhancement: f + scale * attention * SiLU(norm(depthwise conv3x3(f))), fine detail added where the face counts.

    It is depthwise because a full convolution would cost C^2 H'W', which the paper's O(C H'W' + k^2 H'W') rules out.

    Args:
        channels: width of the maps.
        start: what the learned scale of each channel starts from; small, so that pretrained features come through at first.
    """

    def __init__(self, channels: int, start: float = 0.1) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.norm = nn.GroupNorm(1, channels)
        self.scale = nn.Parameter(torch.full((channels, 1, 1), start))

    def forward(self, maps: Float[Tensor, "n c y x"], attention: Float[Tensor, "n y x"]) -> Float[Tensor, "n c y x"]:
        """The enhanced maps; attention is 0 to 1."""
        detail = nn.functional.silu(self.norm(self.depthwise(maps)))
        return maps + self.scale * attention[:, None] * detail


class FacialAttended(NamedTuple):
    """What facial attention gives.

    Args:
        maps: refined maps (n, c, y, x).
        regions: map of each region (n, k, y, x), 0 to 1; k is 0 where region attention is off.
        spatial: the factor that each place was multiplied by (n, y, x), over all stages; 1 where none of them is on.
    """

    maps: Tensor
    regions: Tensor
    spatial: Tensor


class FacialAttention(nn.Module):
    """Row 3 of Table 1, in the order of the paper: channels, regions, places, landmarks, enhancement. Each stage is a switch.

    Args:
        channels: width of the backbone's maps (1280 in the paper).
        regions: learned region maps; 0 leaves the stage out.
        channel: channel attention.
        reduction: of the channel attention's MLP.
        activation: of the region maps, see `RegionAttention`.
        landmark_mask: region maps are held to the landmark mask, where there is one.
        scales: kernel sizes of the spatial attention, odd; empty leaves the stage out.
        landmark_attention: landmark-constrained attention.
        enhancer: facial enhancement.

    Raises:
        AffuseError: a size that is impossible, or a mask for eight regions beside another number of maps.
    """

    def __init__(
        self,
        channels: int,
        regions: int = 8,
        *,
        channel: bool = True,
        reduction: int = 16,
        activation: Literal["softmax", "sigmoid"] = "softmax",
        landmark_mask: bool = True,
        scales: Sequence[int] = (3, 5, 7),
        landmark_attention: bool = True,
        enhancer: bool = True,
    ) -> None:
        super().__init__()
        if channels < 1 or reduction < 1 or regions < 0:
            raise AffuseError(
                f"facial attention needs channels and reduction of at least 1, and regions of at least 0: got {channels}, "
                f"{reduction} and {regions}"
            )
        if any(size < 1 or size % 2 == 0 for size in scales):
            raise AffuseError(
                f"scales of the spatial attention are odd kernel sizes, such as 3, 5, 7: got {list(scales)}"
            )
        self.channel = ChannelAttention(channels, reduction) if channel else None
        self.region = RegionAttention(channels, regions, activation) if regions else None
        self.masked = landmark_mask
        self.spatial = MultiScaleSpatialAttention(scales) if scales else None
        self.landmark = LandmarkAttention() if landmark_attention else None
        self.enhancer = FacialEnhancer(channels) if enhancer else None

    def forward(self, maps: Float[Tensor, "n c y x"], mask: Float[Tensor, "n m y x"] | None = None) -> FacialAttended:
        """Refine the maps of frames.

        Args:
            maps: of the backbone.
            mask: of `landmark_mask`; None: no frame has landmarks, which is the same as a mask of 1.

        Raises:
            AffuseError: the mask has another number of regions than the learned maps.
        """
        factor = maps.new_ones(len(maps), *maps.shape[2:])  # n y x
        regions = maps.new_zeros(len(maps), 0, *maps.shape[2:])
        if self.channel is not None:
            maps = maps * self.channel(maps)[:, :, None, None]
        if self.region is not None:
            if self.masked and mask is not None and mask.shape[1] != len(self.region.region_bias):
                raise AffuseError(
                    f"a landmark mask of {mask.shape[1]} regions cannot hold {len(self.region.region_bias)} region maps: set "
                    f"regions: {mask.shape[1]}, or landmark_mask: false"
                )
            stressed, regions = self.region(maps, mask if self.masked else None)
            maps, factor = self._applied(maps, factor, 1 + stressed)
        if self.spatial is not None:
            maps, factor = self._applied(maps, factor, self.spatial(maps))
        if self.landmark is not None:
            maps, factor = self._applied(maps, factor, 1 + self.landmark(maps, mask))
        if self.enhancer is not None:
            maps = self.enhancer(maps, factor / factor.amax((1, 2), keepdim=True))
        return FacialAttended(maps, regions, factor)

    @staticmethod
    def _applied(maps: Tensor, factor: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        return maps * places[:, None], factor * places
