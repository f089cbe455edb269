"""The settings of FER-SSM. What the paper leaves open is a setting, its default our reading (ledger/fer_ssm.md)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from affuse.parts.class_balance import ClassBalance
from affuse.types import AffuseError

PAPER_LOSS = ClassBalance(loss="focal", gamma=2.0, weights="inverse")


@dataclass(frozen=True)
class FERSSMConfig:
    """Settings. "Silent" below means that the paper gives no value; rows are those of its Table 1.

    Args:
        modalities: ``face`` alone, or with it ``landmarks``, which samples may lack.
        encoder: the backbone of each frame (row 2): a convolutional model of timm, or ``small``. The paper: EfficientNetV2-S.
        pretrained: whether it starts from timm's published weights. The paper: true.
        encoder_weights: a safetensors file with the backbone's own weights.
        channel_attention: CBAM's channel attention (row 3, as all up to `enhancer`).
        reduction: of its hidden layer; silent, 16 in CBAM.
        regions: learned maps of the region attention; 0: none. The paper: 8.
        region_activation: whether the maps share each place (``softmax``) or not (``sigmoid``); silent.
        landmark_mask: whether landmarks hold each region's map to its region; needs eight.
        spatial_scales: kernel sizes of the spatial attention; none: it is left out. The paper: 3, 5, 7.
        landmark_attention: landmark-constrained attention.
        enhancer: the facial enhancement layer.
        frame_grid: a frame's map is averaged over a grid of this side (row 4); the paper: 1. The small encoder wants 3 or more,
            for its channels are too few to keep what stands where.
        d_model: width of the temporal model (row 6). The paper: 1280.
        blocks: Mamba blocks (row 7). The paper: 2.
        d_state: numbers of state a channel; silent, 16 in Mamba.
        d_conv: steps that a block's convolution sees; silent, 4 in Mamba.
        expand: inner channels of a block over `d_model`; silent, 2 in Mamba.
        pre_norm: layer normalisation before each block, before the attention and behind them all; silent, so in Mamba.
        residual: what blocks and attention find is added to what they read; silent, so in Mamba.
        block_dropout: of what joins these residual paths; silent.
        attention: temporal multi-head self-attention (row 8).
        heads: its heads; silent.
        classifier: widths of the hidden layers (row 10). The paper: 512, 256, 128.
        dropout: behind each of these layers; silent.
        causal: no frame reads a later one, so that the system streams step by step. The paper: false.
        attention_window: frames that the attention of a causal system looks back over, the present one among them.
        memory: valid frames that the pooling of a causal system remembers: each weighs 1 - 1 / memory of the one after it.
            None: all of them, alike (row 9).
        steps_weight: weight of the loss of the answers after each frame of a causal system.
        au_reweight: ``pooling``: frames weigh in the pooling as strongly as their action units show, where there are
            landmarks. ``none``: alike (row 9), action units are for interpretation only. Features are never changed by them.
        loss: of the answers. The paper: focal, gamma 2, smoothed inverse frequencies clipped to [0.1, 10].
    """

    modalities: tuple[str, ...] = ("face", "landmarks")
    encoder: str = "tf_efficientnetv2_s"
    pretrained: bool = False
    encoder_weights: str | None = None
    channel_attention: bool = True
    reduction: int = 16
    regions: int = 8
    region_activation: Literal["softmax", "sigmoid"] = "softmax"
    landmark_mask: bool = True
    spatial_scales: tuple[int, ...] = (3, 5, 7)
    landmark_attention: bool = True
    enhancer: bool = True
    frame_grid: int = 1
    d_model: int = 1280
    blocks: int = 2
    d_state: int = 16
    d_conv: int = 4
    expand: int = 2
    pre_norm: bool = True
    residual: bool = True
    block_dropout: float = 0.1
    attention: bool = True
    heads: int = 8
    classifier: tuple[int, ...] = (512, 256, 128)
    dropout: float = 0.3
    causal: bool = False
    attention_window: int = 16
    memory: float | None = None
    steps_weight: float = 0.0
    au_reweight: Literal["none", "pooling"] = "none"
    loss: ClassBalance = PAPER_LOSS

    def __post_init__(self) -> None:
        if self.modalities not in (("face",), ("face", "landmarks")):
            raise AffuseError(f"modalities are face, or face and landmarks; got {list(self.modalities)}")
        for name in ("reduction", "frame_grid", "d_model", "d_state", "d_conv", "expand", "heads", "attention_window"):
            if getattr(self, name) < 1:
                raise AffuseError(f"{name} must be at least 1; got {getattr(self, name)}")
        for name in ("regions", "blocks", "steps_weight"):
            if getattr(self, name) < 0:
                raise AffuseError(f"{name} must be at least 0; got {getattr(self, name)}")
        if any(width < 1 for width in self.classifier):
            raise AffuseError(f"classifier gives widths of at least 1; got {list(self.classifier)}")
        if self.attention and self.d_model % self.heads:
            raise AffuseError(f"heads must divide d_model; got {self.heads} and {self.d_model}")
        for name in ("dropout", "block_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise AffuseError(f"{name} must be at least 0 and below 1; got {getattr(self, name)}")
        if self.memory is not None and not 1 <= self.memory < float("inf"):
            raise AffuseError(f"memory is a number of frames of at least 1, or left out; got {self.memory}")
        if not self.causal and (self.memory is not None or self.steps_weight):
            raise AffuseError("memory and steps_weight are of answers after each frame: set causal, or leave them out")
        if self.landmark_mask and self.regions not in (0, 8) and "landmarks" in self.modalities:
            raise AffuseError(
                f"landmarks mask eight regions, not {self.regions}: set regions: 8 or landmark_mask: false"
            )
        if self.au_reweight == "pooling" and "landmarks" not in self.modalities:
            raise AffuseError("au_reweight: pooling reads landmarks: add them to modalities, or set none")
