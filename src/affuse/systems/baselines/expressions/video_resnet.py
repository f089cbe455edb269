"""An 18-layer residual network over space and time, from torchvision's blocks, in any width; and what it reads.

A convolution over time needs something at every step. A clip is therefore laid on a fixed number of steps: where it has more or
fewer frames of its own, each step takes the one at its place (`floor((i + 1/2) n / steps)`), and where that frame is lost, the
nearest valid one, the earlier of two. So a clip is read the same alone and beside longer ones.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from affuse.parts.class_balance import ClassBalance
from affuse.parts.encoders import own_statistics
from affuse.parts.sequences import spread
from affuse.systems.baselines.expressions.face_baseline import (
    Described,
    ExpressionBaseline,
    FaceClips,
)
from affuse.types import AffuseError, Task

WIDTHS = (64, 128, 256, 512)
Stem = Literal["plain", "pooled", "2plus1"]


class VideoResNet(nn.Module):
    """Stem and four layers of two basic blocks each, the last three at half the size in time and space.

    With the widths of the papers and the stems ``plain`` and ``2plus1`` it is torchvision's r3d_18 and r2plus1d_18 less pooling
    and classifier, with the same names of the weights.

    Args:
        widths: channels of the four layers.
        factorised: (2+1)D convolutions: one over space, then one over time.
        stem: ``plain``, 3 x 7 x 7, half the size in space; ``pooled``, 7 x 7 x 7 and a max pooling that halves all three;
            ``2plus1``, 1 x 7 x 7 and 3 x 1 x 1.
    """

    def __init__(self, widths: tuple[int, ...], factorised: bool, stem: Stem) -> None:
        super().__init__()
        from torchvision.models.video.resnet import BasicBlock, Conv2Plus1D, Conv3DSimple

        convolution: Any = Conv2Plus1D if factorised else Conv3DSimple
        self.width = widths[-1]
        self.stem = _stem(stem, widths[0])
        before = widths[0]
        for number, width in enumerate(widths, 1):
            stride = 1 if number == 1 else 2
            shortcut = None
            if stride > 1 or before != width:
                shortcut = nn.Sequential(nn.Conv3d(before, width, 1, stride, bias=False), nn.BatchNorm3d(width))
            first = BasicBlock(before, width, convolution, stride, shortcut)
            setattr(self, f"layer{number}", nn.Sequential(first, BasicBlock(width, width, convolution)))
            before = width
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, clips: Float[Tensor, "s c t h w"]) -> Float[Tensor, "s d k y x"]:
        for part in (self.stem, self.layer1, self.layer2, self.layer3, self.layer4):
            clips = part(clips)  # type: ignore[operator]
        return clips


def _stem(kind: Stem, width: int) -> nn.Sequential:
    if kind == "2plus1":
        # 45 channels between the two for a width of 64: as many weights as one convolution over both has.
        between = max(1, 45 * width // 64)
        return nn.Sequential(
            nn.Conv3d(3, between, (1, 7, 7), (1, 2, 2), (0, 3, 3), bias=False),
            nn.BatchNorm3d(between),
            nn.ReLU(inplace=True),
            nn.Conv3d(between, width, (3, 1, 1), 1, (1, 0, 0), bias=False),
            nn.BatchNorm3d(width),
            nn.ReLU(inplace=True),
        )
    deep = 7 if kind == "pooled" else 3
    stem = nn.Sequential(
        nn.Conv3d(3, width, (deep, 7, 7), (1, 2, 2), (deep // 2, 3, 3), bias=False),
        nn.BatchNorm3d(width),
        nn.ReLU(inplace=True),
    )
    return stem.append(nn.MaxPool3d(3, 2, 1)) if kind == "pooled" else stem


def frames_at_steps(valid: Bool[Tensor, "s t"], own: Bool[Tensor, "s t"], steps: int) -> Int[Tensor, "s steps"]:
    """The frame that each of `steps` steps takes from a clip (see the head of this file); each has a valid one.

    Args:
        valid: frames with a face.
        own: frames that are no padding, the first ones of each clip.
        steps: how many.
    """
    t = valid.shape[1]
    n = own.sum(1, keepdim=True)  # s 1
    place = ((2 * torch.arange(steps, device=valid.device) + 1) * n).div(2 * steps, rounding_mode="floor")  # s steps
    frames = torch.arange(t, device=valid.device)
    apart = 2 * (frames - place[:, :, None]).abs() + (frames > place[:, :, None])  # s steps t: the earlier of two wins
    return apart.masked_fill(~valid[:, None], 2 * t + 1).argmin(2)


def shares_of_slices(own: Bool[Tensor, "s t"], slices: int) -> Float[Tensor, "s t k"]:
    """How much of each frame's time falls into each of `slices` equal parts of its clip; a row of an own frame sums to 1.

    The mean over a clip's own frames of what they hold so is the mean over its slices.
    """
    n = own.sum(1)[:, None, None].clamp_min(1)  # s 1 1
    frame = torch.arange(own.shape[1], device=own.device)[:, None]
    part = torch.arange(slices, device=own.device)
    # In units of 1 / (n slices) of the clip, so that all are whole numbers.
    end = torch.minimum((frame + 1) * slices, (part + 1) * n)
    start = torch.maximum(frame * slices, part * n)
    return (end - start).clamp_min(0) * own[:, :, None] / slices


class VideoBaseline(ExpressionBaseline):
    """A `VideoResNet`, averaged over space and time, and a classifier.

    The map of each frame, for Grad-CAM, is that of the part of the clip in which it lies.

    Args:
        task: what is predicted.
        body: the network.
        steps: frames that it reads.
        dropout: before the classifier.
        balance: how the loss treats rare classes.
    """

    def __init__(self, task: Task, body: VideoResNet, steps: int, dropout: float, balance: ClassBalance) -> None:
        super().__init__(task, body.width, dropout, balance)
        self.body, self.steps = body, steps

    def describe(self, clips: FaceClips, seen: Bool[Tensor, " q"]) -> Described:
        frames, own = clips.frames[seen], clips.own[seen]  # s t 3 h w
        index = frames_at_steps(clips.valid[seen], own, self.steps)
        read = frames[torch.arange(len(frames), device=frames.device)[:, None], index].transpose(1, 2)  # s 3 steps h w
        # PyTorch's three-dimensional convolutions in bfloat16 corrupt memory on a CPU (2.13).
        whole = torch.autocast("cpu", enabled=False) if read.device.type == "cpu" else nullcontext()
        with own_statistics(self.body, learn=len(read) != 1), whole:
            # The same numbers; a convolution over space or time alone is a quarter faster on a CPU with channels innermost.
            found = self.body(read.contiguous(memory_format=torch.channels_last_3d))  # s d k y x
        shares = shares_of_slices(own, found.shape[2]).to(found.dtype)
        by_frame = torch.einsum("sdkyx,stk->stdyx", found, shares)
        maps = self.maps(spread(by_frame, seen, 0.0).flatten(0, 1)).unflatten(0, clips.valid.shape)  # q t d y x
        return Described(maps[seen].mean((3, 4)).sum(1) / own.sum(1, keepdim=True))


def load_kinetics(body: VideoResNet, name: str, widths: tuple[int, ...]) -> None:
    """Put torchvision's weights for Kinetics-400, which it downloads at first use, into a network.

    Raises:
        AffuseError: the network is not torchvision's, or the weights cannot be had.
    """
    if widths != WIDTHS:
        raise AffuseError(
            f"pretrained weights are of widths {list(WIDTHS)}, not {list(widths)}: set pretrained to false"
        )
    from torchvision.models import video

    try:
        published = getattr(video, name)(weights="KINETICS400_V1").state_dict()
    except (OSError, RuntimeError) as error:
        line = (str(error).splitlines() or [type(error).__name__])[0]
        raise AffuseError(f"weights of {name!r} could not be had from torchvision: {line}") from error
    body.load_state_dict({key: value for key, value in published.items() if not key.startswith("fc.")})
