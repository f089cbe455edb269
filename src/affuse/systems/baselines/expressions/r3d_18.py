"""3D ResNet-18: an 18-layer residual network with convolutions over space and time.

Paper: Kensho Hara, Hirokatsu Kataoka, Yutaka Satoh, "Can Spatiotemporal 3D CNNs Retrace the History of 2D CNNs and ImageNet?",
CVPR 2018. Its first convolution is 7 x 7 x 7 and a max pooling follows (`stem`: pooled, the default). torchvision's network of
this name (`stem`: plain), for which it has weights, has 3 x 7 x 7 and no pooling, and so four to five times the cost.

Deviations: shortcuts that change the size are 1 x 1 x 1 convolutions, torchvision's (the paper's basic blocks have zeros for
the new channels); any `widths`; the clip is laid on `frames` steps (`video_resnet.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from torch import nn

from affuse.parts.class_balance import ClassBalance
from affuse.systems.baselines.expressions.video_resnet import WIDTHS, VideoBaseline, VideoResNet, load_kinetics
from affuse.types import AffuseError, Task


@dataclass(frozen=True)
class R3D18Config:
    """Settings.

    Args:
        widths: channels of the four layers.
        frames: steps that a clip is laid on.
        stem: ``pooled``, the paper's; ``plain``, torchvision's.
        pretrained: start from torchvision's weights for Kinetics-400; they have the plain stem.
        dropout: before the classifier.
        loss: how the loss treats rare classes.
    """

    widths: tuple[int, int, int, int] = WIDTHS
    frames: int = 16
    stem: Literal["pooled", "plain"] = "pooled"
    pretrained: bool = False
    dropout: float = 0.0
    loss: ClassBalance = field(default_factory=ClassBalance)


class R3D18(VideoBaseline):
    """3D ResNet-18 (see the head of this file). Its input is ``face`` (b, t, 3, h, w).

    Raises:
        AffuseError: pretrained weights cannot be had, or are of another stem or other widths.
    """

    Config: ClassVar[type] = R3D18Config
    config: R3D18Config

    def __init__(self, config: R3D18Config, task: Task) -> None:
        if config.pretrained and config.stem != "plain":
            raise AffuseError(
                "torchvision's weights of r3d_18 have its plain stem: set stem to plain, or pretrained to false"
            )
        body = VideoResNet(config.widths, factorised=False, stem=config.stem)
        super().__init__(task, body, config.frames, config.dropout, config.loss)
        self.config = config
        if config.pretrained:
            load_kinetics(body, "r3d_18", config.widths)

    def pretrained_parts(self) -> Sequence[nn.Module]:
        """All but the classifier."""
        return [self.body] if self.config.pretrained else []
