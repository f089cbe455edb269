"""The settings of MoME + HTL. Of the paper only a summary was at hand: every default is our reading (ledger/mome.md)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from affuse.types import AffuseError

VIDEO_TRANSFORMERS = ("timesformer", "videomae", "vivit")


@dataclass(frozen=True)
class MoMEConfig:
    """Settings. Those by modality need to name only what differs, but `channels`, which names them all.

    Args:
        modalities: the cameras, any number of any names; the paper: RGB, infrared and depth.
        channels: channels of a frame by modality; depth has 1 (metric), 2 (with its mask) or 3 (normals or a colour map).
        size: side of a frame in pixels, of which an expert of transformers is made; the others take frames of any size.
        frames: most frames of a clip; a shorter one has the first positions in time.
        expert: ``small``; a convolutional backbone of timm by its name; ``timesformer``, ``videomae`` or ``vivit`` made from
            `width`, `layers`, `heads` and `patch`; or such a model of transformers by its name on the hub or its folder.
        expert_of: the same by modality, where it differs.
        pretrained: whether backbones start from published weights; an expert that is made from settings has none.
        width: width of the class token and the tokens (d); a model of transformers by name or folder has its own.
        layers: layers of the transformer over the tokens of all frames.
        heads: heads of its attention and of self-guidance.
        patch: side of the patches of a ``timesformer``, ``videomae`` or ``vivit`` that is made from settings.
        grid: tokens along each side of a frame of ``small`` and timm's.
        dropout: in the transformer of ``small`` and timm's, and before every classifier.
        gating: what the gate reads: the experts' ``output``; their ``input``; nothing, its weights being learned but the same
            for all samples (``plain``); or there is no gate, all weigh alike (``late``).
        gate_reads: of the output: ``class_tokens``, ``logits`` (as log-probabilities), or ``confidence`` (largest probability,
            margin to the next one, entropy).
        gate_width: units of the gate's hidden layer; 0: the gate is linear.
        gate_grid: the input gate sees each camera averaged over a grid with this many cells a side.
        gate_temperature: the weights are softmax(scores / temperature).
        gate_dropout: in training, the probability that the gate is told a camera is lost; at least one stays.
        gate_detached: whether the gate's own gradient stops at what it reads.
        top_k: how many experts count, those of the largest weights; None: all do.
        gate_entropy: weight of the entropy of the gate's weights: above 0 it becomes sharper, below 0 flatter.
        gate_balance: weight of the load balance: how far the mean weights of a batch are from even ones.
        fuse: what is weighed and added: the experts' ``logits``, their ``probabilities``, or their ``class_tokens``, which one
            more classifier then reads. In a regression probabilities are values, as logits are.
        own_weight: weight of the experts' own errors, averaged over experts.
        self_guidance: whether the class token is refined by its expert's tokens, and guides them.
        self_weight: weight of that guidance in the loss.
        self_temperature: temperature of the predictions in it.
        self_over: which tokens are guided: as the class token attends to them (``attention``), or ``all`` alike.
        mutual_guidance: whether the experts' class tokens are aligned with one another, each way.
        mutual_weight: weight of it.
        mutual_temperature: temperature of the predictions in it.
        mutual_align: what is aligned: ``predictions`` of the class tokens, or the class tokens by their ``cosine``.
        reliability: what a teacher's word counts: its ``correctness`` (probability of the true class), its ``confidence``
            (largest probability), or ``equal``.
    """

    modalities: tuple[str, ...] = ("rgb", "infrared", "depth")
    channels: dict[str, int] = field(default_factory=lambda: {"rgb": 3, "infrared": 1, "depth": 1})
    size: int = 48
    frames: int = 8
    expert: str = "small"
    expert_of: dict[str, str] = field(default_factory=dict)
    pretrained: bool = False
    width: int = 64
    layers: int = 2
    heads: int = 4
    patch: int = 16
    grid: int = 3
    dropout: float = 0.1
    gating: Literal["output", "input", "plain", "late"] = "output"
    gate_reads: Literal["class_tokens", "logits", "confidence"] = "class_tokens"
    gate_width: int = 64
    gate_grid: int = 4
    gate_temperature: float = 1.0
    gate_dropout: float = 0.2
    gate_detached: bool = False
    top_k: int | None = None
    gate_entropy: float = 0.0
    gate_balance: float = 0.01
    fuse: Literal["logits", "probabilities", "class_tokens"] = "logits"
    own_weight: float = 1.0
    self_guidance: bool = True
    self_weight: float = 0.1
    self_temperature: float = 2.0
    self_over: Literal["attention", "all"] = "attention"
    mutual_guidance: bool = True
    mutual_weight: float = 0.1
    mutual_temperature: float = 2.0
    mutual_align: Literal["predictions", "cosine"] = "predictions"
    reliability: Literal["correctness", "confidence", "equal"] = "correctness"

    def __post_init__(self) -> None:
        names = self.modalities
        if not names or len(set(names)) < len(names):
            raise AffuseError(f"modalities are at least one name, each once; got {list(names)}")
        if any(not name or "." in name for name in names):
            raise AffuseError(f"a modality's name is not empty and has no dot; got {list(names)}")
        missing = [name for name in names if self.channels.get(name, 0) < 1]
        if missing:
            raise AffuseError(f"channels has no number above 0 for {', '.join(missing)}: give one for each modality")
        strange = set(self.expert_of) - set(names)
        if strange:
            raise AffuseError(f"expert_of names {sorted(strange)}, which are not among the modalities {list(names)}")
        for name in ("size", "frames", "width", "layers", "heads", "patch", "grid", "gate_grid"):
            if getattr(self, name) < 1:
                raise AffuseError(f"{name} must be at least 1; got {getattr(self, name)}")
        if self.gate_width < 0:
            raise AffuseError(f"gate_width must be at least 0, where the gate is linear; got {self.gate_width}")
        if self.width % self.heads:
            raise AffuseError(f"heads must divide width; got {self.heads} and {self.width}")
        for name in ("dropout", "gate_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise AffuseError(f"{name} must be at least 0 and below 1; got {getattr(self, name)}")
        for name in ("gate_temperature", "self_temperature", "mutual_temperature"):
            if getattr(self, name) <= 0:
                raise AffuseError(f"{name} must be above 0; got {getattr(self, name)}")
        for name in ("own_weight", "self_weight", "mutual_weight", "gate_balance"):
            if getattr(self, name) < 0:
                raise AffuseError(f"{name} must be at least 0; got {getattr(self, name)}")
        if self.top_k is not None and not 1 <= self.top_k <= len(names):
            raise AffuseError(f"top_k is from 1 to the number of modalities, {len(names)}; got {self.top_k}")
        if self.pretrained and all(self.expert_for(name) in ("small", *VIDEO_TRANSFORMERS) for name in names):
            raise AffuseError(
                f"pretrained: no expert here has published weights ({self.expert}); name a model of timm or a hub's"
            )
        if self.top_k is not None and self.gating == "late":
            raise AffuseError("top_k needs a gate: with gating: late all experts weigh alike; leave top_k out")

    def expert_for(self, modality: str) -> str:
        """The expert of a modality."""
        return self.expert_of.get(modality, self.expert)
