"""The settings of MCO-E Net. Every row of the paper's Tables 2 to 6 is one (papers/mco_e.yaml)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from affuse.parts.experts import ExpertType
from affuse.types import AffuseError

NAMES = ("rgb", "event")
COEFFICIENTS = "ABCD"


@dataclass(frozen=True)
class MCOEConfig:
    """Settings of MCO-E Net. "Silent" below means that the paper gives no value.

    Args:
        modalities: sensors; the paper: both. One alone is row A or B of Table 2.
        rgb_channels: channels of a frame; the paper: 3.
        event_channels: channels of the event tensor; the paper: 3 (section 4.1).
        encoder: ``small`` (our own, for a CPU) or a convolutional model of timm; the paper: ``resnet18`` (section 3.2).
        pretrained: start from timm's published weights; silent, the released code does.
        encoder_weights: a safetensors file with weights for every encoder; read after `pretrained`.
        tokens: ``frame``: a frame is a token (M = m, section 3.2); ``spatial``: each position of each frame's map is one.
        frame_grid: a frame token sees its map averaged over a grid of this side; ResNet-18 in the paper: 1. The small
            encoder wants 4, for its channels are too few to keep what stands where.
        d_model: width of a token (E); silent.
        d_state: states a channel (N); silent, the released code has 16.
        d_conv: width of the causal convolution; silent, the released code has 4.
        expand: inner width over `d_model` (D / E); silent, the released code has 2.
        layers: MJOS Mamba layers; the paper draws one.
        pre_norm: layer normalisation before the Mamba, as a Mamba block has; Algorithm 1 has none, so the paper: false.
        activation: SiLU after the convolution and on the gate Z as in Mamba and the released code, or ``none`` as in
            Algorithm 1.
        causal: scan forward only, and let MCIB look at no later token; the paper: false.
        mamba: false removes the Mamba and leaves the encoders' tokens to the fusion; Table 2 D, and with `mcib` false C.
        mjos: false lets each modality scan alone; `interact` is then ignored.
        interact: coefficients that interact by Eq. 5, out of A, B, C and D; the paper: BC (Table 3 K); E to I are others.
        share: coefficients that both modalities share instead (Table 3 A to D); needs `interact` empty or `mjos` false.
        exchange: each modality scans with all four coefficients of the other (Table 3 J); needs the same.
        mamba_residual: a Mamba layer adds its input to its output, as in Mamba and the released code; the paper draws no such
            path: false.
        mcib: false fuses by plain addition (Table 2 E).
        mcib_residual: factor by which MCIB adds the sum of its inputs to H; the released code has 0.5, the paper none: 0.
        gate_scale: factor inside the sigmoid of Eq. 12; the paper: 1. A wide `d_model` saturates that gate: 1/sqrt(d_model)
            keeps it open.
        heads: heads of every attention; silent, the released router has 4.
        head: ``hce_moe``, ``linear`` (Table 2 F) or ``mlp`` (Table 4 A).
        expert_types: dealt out in turn over the experts (Table 2 G and H, Table 4 B to D).
        experts: N_e; the paper: 8 (section 4.1, Table 5).
        top_k: experts a sample uses; the paper: 2 (section 4.1, Table 6). With 1 the only weight is always 1, so that the
            router learns nothing but by `balance_weight`.
        deep_layers: blocks of a deep expert (L); silent, the released code has 5.
        dropout: in deep experts and the ``mlp`` head; silent, the released code has 0.5.
        balance_weight: weight of a load-balancing loss; the paper has none: 0.
        variant: ``as_released`` follows the released code's network instead (see released.py); of the settings above it reads
            the modalities, channels, encoder, experts and loss.
        released_outputs: as_released only: numbers an encoder gives for an image; the released code: 1000.
        released_width: as_released only: width of the fused vector; the released code: 1024.
    """

    modalities: tuple[Literal["rgb", "event"], ...] = ("rgb", "event")
    rgb_channels: int = 3
    event_channels: int = 3
    encoder: str = "small"
    pretrained: bool = False
    encoder_weights: str | None = None
    tokens: Literal["frame", "spatial"] = "frame"
    frame_grid: int = 1
    d_model: int = 64
    d_state: int = 16
    d_conv: int = 4
    expand: int = 2
    layers: int = 1
    pre_norm: bool = False
    activation: Literal["none", "silu"] = "none"
    causal: bool = False
    mamba: bool = True
    mamba_residual: bool = False
    mjos: bool = True
    interact: str = "BC"
    share: str = ""
    exchange: bool = False
    mcib: bool = True
    mcib_residual: float = 0.0
    gate_scale: float = 1.0
    heads: int = 4
    head: Literal["hce_moe", "linear", "mlp"] = "hce_moe"
    expert_types: tuple[ExpertType, ...] = ("focal", "attention", "deep")
    experts: int = 8
    top_k: int = 2
    deep_layers: int = 2
    dropout: float = 0.1
    balance_weight: float = 0.0
    variant: Literal["as_paper", "as_released"] = "as_paper"
    released_outputs: int = 1000
    released_width: int = 1024

    def __post_init__(self) -> None:
        if self.modalities not in (NAMES, NAMES[:1], NAMES[1:]):
            raise AffuseError(f"modalities must be rgb and event, in this order, or one of them; got {self.modalities}")
        for name in ("interact", "share"):
            letters = getattr(self, name)
            if set(letters) - set(COEFFICIENTS) or len(set(letters)) < len(letters):
                raise AffuseError(f"{name} is some of the letters A, B, C and D, each once; got {letters!r}")
        if (self.share or self.exchange) and self.interacting:
            raise AffuseError(
                f"share and exchange replace the interaction of {self.interacting!r}: set interact to '' or mjos to false"
            )
        if self.share and self.exchange:
            raise AffuseError("share and exchange exclude each other: set one of them")
        sizes = ("rgb_channels", "event_channels", "frame_grid", "d_model", "d_state", "d_conv", "expand", "layers")
        for name in (*sizes, "heads", "experts", "top_k", "deep_layers", "released_outputs", "released_width"):
            if getattr(self, name) < 1:
                raise AffuseError(f"{name} must be at least 1; got {getattr(self, name)}")
        if not 0 <= self.dropout < 1:
            raise AffuseError(f"dropout must be at least 0 and below 1; got {self.dropout}")

    @property
    def interacting(self) -> str:
        """The coefficients that interact, after `mjos`."""
        return self.interact if self.mjos else ""

    def channels(self, modality: str) -> int:
        """Channels of one image of this modality."""
        return self.rgb_channels if modality == "rgb" else self.event_channels
