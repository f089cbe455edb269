"""R(2+1)D-18: an 18-layer residual network whose convolutions are split into one over space and one over time.

Paper: Du Tran, Heng Wang, Lorenzo Torresani, Jamie Ray, Yann LeCun, Manohar Paluri, "A Closer Look at Spatiotemporal
Convolutions for Action Recognition", CVPR 2018. Network: torchvision's blocks, and its weights where `pretrained`.

Deviations: any `widths`; the clip is laid on `frames` steps (`video_resnet.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from torch import nn

from affuse.parts.class_balance import ClassBalance
from affuse.systems.baselines.expressions.video_resnet import WIDTHS, VideoBaseline, VideoResNet, load_kinetics
from affuse.types import Task


@dataclass(frozen=True)
class R2Plus1D18Config:
    """Settings.

    Args:
        widths: channels of the four layers.
        frames: steps that a clip is laid on.
        pretrained: start from torchvision's weights for Kinetics-400.
        dropout: before the classifier.
        loss: how the loss treats rare classes.
    """

    widths: tuple[int, int, int, int] = WIDTHS
    frames: int = 16
    pretrained: bool = False
    dropout: float = 0.0
    loss: ClassBalance = field(default_factory=ClassBalance)


class R2Plus1D18(VideoBaseline):
    """R(2+1)D-18 (see the head of this file). Its input is ``face`` (b, t, 3, h, w).

    Raises:
        AffuseError: pretrained weights cannot be had, or are of other widths.
    """

    Config: ClassVar[type] = R2Plus1D18Config
    config: R2Plus1D18Config

    def __init__(self, config: R2Plus1D18Config, task: Task) -> None:
        body = VideoResNet(config.widths, factorised=True, stem="2plus1")
        super().__init__(task, body, config.frames, config.dropout, config.loss)
        self.config = config
        if config.pretrained:
            load_kinetics(body, "r2plus1d_18", config.widths)

    def pretrained_parts(self) -> Sequence[nn.Module]:
        """All but the classifier."""
        return [self.body] if self.config.pretrained else []
