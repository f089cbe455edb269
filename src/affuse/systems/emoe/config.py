"""The settings of EMOE. Every row of the paper's Tables 4 to 6 and every axis of its Figure 4 is one (papers/emoe.yaml)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from affuse.parts.sequences import Readout
from affuse.types import AffuseError


@dataclass(frozen=True)
class EMOEConfig:
    """Settings of EMOE. "Silent" below means that the paper gives no value; the defaults are then the released code's on
    MOSI, unless said otherwise. Settings by modality need to name only those that differ.

    Args:
        modalities: any number of any names; the paper: text (language), audio and video (vision).
        widths: features a step, by modality; MMSA's MOSI: 768, 5 and 20. Text that a `text_encoder` reads has the encoder's.
        text_encoder: a model of transformers, by name or folder, that reads token ids of the modality ``text``; None: text
            comes as features. The released code: ``bert-base-uncased``.
        pretrained: whether the text encoder starts from published weights.
        finetune_text: whether the text encoder learns.
        d_model: width of X, f and f'; silent.
        kernel: steps that a modality's temporal convolution sees; silent.
        kernels: the same by modality, where it differs.
        layers: layers of each modality's transformer; silent.
        heads: heads of its attention; silent.
        causal: no step of a transformer sees a later one; silent.
        readout: how a transformer's steps become f'_m: the ``last`` of its own, their ``mean``, or by ``attention``; silent.
        input_dropout: dropout of a modality's features, by modality, elsewhere none; silent, released: text 0.5.
        attention_dropout: dropout of attention weights, by modality, elsewhere none; silent, released: text 0.3, audio 0.2.
        embed_dropout: dropout of a transformer's input; silent.
        residual_dropout: dropout of what joins a transformer's residual path; silent.
        head_dropout: dropout in every prediction head; silent.
        mome: false weighs all modalities alike, without a router and its losses (Table 4).
        router_width: units of the router's hidden layers; silent, ours.
        router_layers: its linear layers ("multiple"); silent, released: 2.
        temperature: t of Eq. 1; the paper: 0.1 (section 4, Figure 4).
        fusion: ``sum`` (Eq. 2) or ``concat`` (Eq. 3); the paper: sum (Table 6).
        router_entropy: Eq. 7 is part of the loss (Table 5, RE).
        similarity: Eq. 6 is part of the loss (Table 5, WIS).
        similarity_measure: S of Eq. 6: the ``squared`` difference (silent, as released) or ``cosine`` distance.
        importance: Eq. 5 by ``softmax``, as the paper, or the ``inverse`` errors over their sum, as the released code.
        importance_eps: epsilon of Eq. 5; None: 1e-8 with softmax ("very small"), 0.1 with inverse (released).
        ud: unimodal distillation, Eq. 10 and 11, is part of the loss (Table 4).
        distill: on ``logits``, as the paper, or on the heads' ``features``, as the released code.
        alpha: weight of Eq. 6 in Eq. 8; the paper: 0.1 (Figure 4).
        lambda1: weight of Eq. 8 in Eq. 12; the paper: 0.1 (Figure 4).
        lambda2: weight of Eq. 11 in Eq. 12; the paper: 0.1 (Figure 4).
        variant: ``as_released`` follows the released code's network and losses instead (see released.py).
        released_lengths: as_released only: steps that each modality is padded to; silent, released: 50, 50 and 50 (aligned).
    """

    modalities: tuple[str, ...] = ("text", "audio", "video")
    widths: dict[str, int] = field(default_factory=lambda: {"text": 768, "audio": 5, "video": 20})
    text_encoder: str | None = None
    pretrained: bool = True
    finetune_text: bool = True
    d_model: int = 256
    kernel: int = 5
    kernels: dict[str, int] = field(default_factory=dict)
    layers: int = 4
    heads: int = 8
    causal: bool = True
    readout: Readout = "last"
    input_dropout: dict[str, float] = field(default_factory=dict)
    attention_dropout: dict[str, float] = field(default_factory=dict)
    embed_dropout: float = 0.2
    residual_dropout: float = 0.0
    head_dropout: float = 0.5
    mome: bool = True
    router_width: int = 128
    router_layers: int = 2
    temperature: float = 0.1
    fusion: Literal["sum", "concat"] = "sum"
    router_entropy: bool = True
    similarity: bool = True
    similarity_measure: Literal["squared", "cosine"] = "squared"
    importance: Literal["softmax", "inverse"] = "softmax"
    importance_eps: float | None = None
    ud: bool = True
    distill: Literal["logits", "features"] = "logits"
    alpha: float = 0.1
    lambda1: float = 0.1
    lambda2: float = 0.1
    variant: Literal["as_paper", "as_released"] = "as_paper"
    released_lengths: dict[str, int] = field(default_factory=lambda: {"text": 50, "audio": 50, "video": 50})

    def __post_init__(self) -> None:
        names = self.modalities
        if not names or len(set(names)) < len(names):
            raise AffuseError(f"modalities are at least one name, each once; got {list(names)}")
        if any(not name or "." in name for name in names):
            raise AffuseError(f"a modality's name is not empty and has no dot; got {list(names)}")
        if self.text_encoder is not None and "text" not in names:
            raise AffuseError(f"text_encoder reads the modality text, which is not among {list(names)}")
        needed = {"widths": [name for name in names if not self.encodes(name)]}
        if self.variant == "as_released":
            needed["released_lengths"] = list(names)
        for setting, who in needed.items():
            missing = [name for name in who if name not in getattr(self, setting)]
            if missing:
                raise AffuseError(f"{setting} has no {', '.join(missing)}: give a number for each modality")
        for name in ("d_model", "kernel", "layers", "heads", "router_width", "router_layers"):
            if getattr(self, name) < 1:
                raise AffuseError(f"{name} must be at least 1; got {getattr(self, name)}")
        for name in ("widths", "kernels", "released_lengths"):
            if any(value < 1 for value in getattr(self, name).values()):
                raise AffuseError(f"{name} must be at least 1; got {getattr(self, name)}")
        if self.d_model % self.heads:
            raise AffuseError(f"heads must divide d_model; got {self.heads} and {self.d_model}")
        for name in ("embed_dropout", "residual_dropout", "head_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise AffuseError(f"{name} must be at least 0 and below 1; got {getattr(self, name)}")
        for name in ("input_dropout", "attention_dropout"):
            if any(not 0 <= value < 1 for value in getattr(self, name).values()):
                raise AffuseError(f"{name} must be at least 0 and below 1; got {getattr(self, name)}")
        for name in ("kernels", "input_dropout", "attention_dropout"):
            strange = set(getattr(self, name)) - set(names)
            if strange:
                raise AffuseError(f"{name} names {sorted(strange)}, which are not among the modalities {list(names)}")
        if self.temperature <= 0 or (self.importance_eps is not None and self.importance_eps <= 0):
            raise AffuseError(
                f"temperature and importance_eps must be positive: {self.temperature}, {self.importance_eps}"
            )
        if min(self.alpha, self.lambda1, self.lambda2) < 0:
            raise AffuseError(f"weights of losses are not negative: {self.alpha}, {self.lambda1}, {self.lambda2}")

    @property
    def released(self) -> bool:
        """Whether the released code is followed."""
        return self.variant == "as_released"

    @property
    def distils_features(self) -> bool:
        """Whether Eq. 11 compares the heads' features: as set, or as released."""
        return self.ud and (self.released or self.distill == "features")

    def encodes(self, modality: str) -> bool:
        """Whether this modality comes as token ids for the text encoder."""
        return self.text_encoder is not None and modality == "text"

    def kernel_of(self, modality: str) -> int:
        """Steps that the convolution of this modality sees."""
        return self.kernels.get(modality, self.kernel)
