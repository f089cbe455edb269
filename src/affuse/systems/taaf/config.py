"""The settings of TAAF-SNN. Every row of the paper's Tables 1 and 2 that is ours is one (papers/taaf.yaml)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from affuse.parts.fusion import FusionKind
from affuse.parts.spiking import Neuron
from affuse.types import AffuseError

RESERVED = ("fused", "total", "k")  # names of terms of the loss


@dataclass(frozen=True)
class Encoder:
    """The branch of one modality.

    Args:
        kind: ``conv`` and ``resnet18`` read images (t, channels, height, width), ``recurrent`` and ``mlp`` vectors
            (t, features). The paper: ResNet-18 on CREMA-D and AVE, convolutional for events and recurrent for sound on digits.
        channels: of the images.
        size: height and width of the images (conv).
        features: of the vectors.
        layers: widths of the layers before the last, whose width is the system's; of a ResNet-18 the one width of its
            first stage. None: the network's own (affuse.parts.spiking).
        stem: of a resnet18: ``7x7`` (stride 2, pooled) for large images, ``3x3`` (stride 1) for small ones.
        encoding: how values become the network's input. ``native``: as they are, a step an image or vector. Else each image or
            vector makes `steps` steps: ``direct``: it is given at each; ``rate``: random spikes in training, evenly
            spaced ones in evaluation; ``latency``: one spike, the earlier the larger the value. The latter two want values from
            0 to 1.
        steps: time steps that each image or vector gives; 1 with native.
    """

    kind: Literal["conv", "recurrent", "mlp", "resnet18"] = "mlp"
    channels: int = 1
    size: tuple[int, int] = (34, 34)
    features: int = 1
    layers: tuple[int, ...] | None = None
    stem: Literal["3x3", "7x7"] = "7x7"
    encoding: Literal["native", "direct", "rate", "latency"] = "native"
    steps: int = 1

    def __post_init__(self) -> None:
        layers = list(self.layers or ())
        if min(self.channels, self.features, self.steps, *self.size, *layers) < 1:
            raise AffuseError(
                f"channels, features, steps, size and layers of an encoder are at least 1; got {self.channels}, "
                f"{self.features}, {self.steps}, {list(self.size)}, {layers}"
            )
        if self.encoding == "native" and self.steps != 1:
            raise AffuseError(
                f"native input has a step an image or vector: steps is 1, not {self.steps}; or take direct"
            )
        if self.kind == "resnet18" and self.layers is not None and len(layers) != 1:
            raise AffuseError(f"layers of a resnet18 is the one width of its first stage, got {layers}")

    @property
    def images(self) -> bool:
        """Whether it reads images."""
        return self.kind in ("conv", "resnet18")


def crema_d() -> dict[str, Encoder]:
    """The branches of the paper's CREMA-D: ResNet-18 for the spectrogram and for a frame, 3 time steps."""
    return {
        "audio": Encoder("resnet18", channels=1, encoding="direct", steps=3),
        "visual": Encoder("resnet18", channels=3, encoding="direct", steps=3),
    }


@dataclass(frozen=True)
class TAAFConfig:
    """Settings of TAAF-SNN. "Silent" below means that the paper gives no value.

    Args:
        encoders: the branch of each modality, any number of any names; the paper: two.
        width: features of each branch, spikes; the paper: 128 (a 256-class classifier, section 3.1); its ResNet-18 has 512.
        neuron: of all layers; the paper: tau 0.5, reset to 0 (Eq. 1-3); the threshold is silent, 1 in TET, and so is
            the surrogate. ``kind: relu`` is the non-spiking twin of the same layers.
        fusion: ``concat`` (Eq. 4), ``sum``, ``film``, ``gated`` (Tables 1 and 2), or ``logit_sum``, OGM-GE's summation.
        align: time alignment (Table 2: TA).
        align_kernel: steps that its kernel covers; silent.
        align_causal: it looks only back, so that the system streams step by step.
        steps: time steps that all modalities are resampled to before they are aligned; None: they have equally many. The paper:
            3 on CREMA-D, "4-3" on AVE, 5 on digits.
        attention: temporal attention (Table 2; false: 1/T for every step, which is temporal efficient training).
        attend_on: what it reads, the ``outputs`` O_u (Eq. 5) or the ``features`` ("feature outputs").
        attention_width: columns of W^Q and W^K; None: as many as classes (C of Eq. 5).
        read_out: how the answer is read from the steps: their ``mean``, or weighed by ``attention``, which is how we read that
            the scores modulate the fused features (section 3, Figure 1); it has no equation.
        lambda_mse: lambda of Eq. 9; silent, 1e-3 in TET.
        phi: Phi of Eq. 9; silent, 1 in TET.
        beta: beta of Eq. 10; silent.
        modulation: what the factors k follow: the ``batch`` (section 3.2), the last ``epoch``'s validation (Algorithm 1, line
            11), or ``none``: they are 1.
        suppression: alpha_u of k; silent, OGM-GE's 0.8 for CREMA-D.
        suppressions: the same by modality, where it differs.
        modulation_end: epochs after which k is 1; None: never. The paper: 180 on CREMA-D (Figure 2), 70 on AVE.
        after_modulation: then the unimodal losses go on ``unmodulated``, or only L_f is left (``fused_only``); silent.
        window: in a stream, the steps back that the answer is read from; None: all since its beginning.
    """

    encoders: dict[str, Encoder] = field(default_factory=crema_d)
    width: int = 128
    neuron: Neuron = Neuron()
    fusion: FusionKind = "concat"
    align: bool = True
    align_kernel: int = 3
    align_causal: bool = False
    steps: int | None = None
    attention: bool = True
    attend_on: Literal["outputs", "features"] = "outputs"
    attention_width: int | None = None
    read_out: Literal["mean", "attention"] = "attention"
    lambda_mse: float = 1e-3
    phi: float = 1.0
    beta: float = 1.0
    modulation: Literal["none", "batch", "epoch"] = "batch"
    suppression: float = 0.8
    suppressions: dict[str, float] = field(default_factory=dict)
    modulation_end: int | None = None
    after_modulation: Literal["unmodulated", "fused_only"] = "unmodulated"
    window: int | None = None

    def __post_init__(self) -> None:
        names = list(self.encoders)
        if not names:
            raise AffuseError("encoders name at least one modality")
        if any(not name or "." in name or "/" in name or name in RESERVED for name in names):
            raise AffuseError(
                f"a modality's name is not empty, has no dot or slash and is none of {', '.join(RESERVED)}; got {names}"
            )
        strange = set(self.suppressions) - set(names)
        if strange:
            raise AffuseError(f"suppressions names {sorted(strange)}, which are not among the modalities {names}")
        if self.fusion in ("film", "gated") and len(names) < 2:
            raise AffuseError(f"fusion {self.fusion} needs two modalities or more, got {names}: use concat")
        if self.width < 1 or self.align_kernel < 1:
            raise AffuseError(f"width and align_kernel must be at least 1; got {self.width} and {self.align_kernel}")
        if self.align and not self.align_causal and self.align_kernel % 2 == 0:
            raise AffuseError(f"align_kernel is centred and so odd, unless align_causal; got {self.align_kernel}")
        if self.steps is not None and not self.align:
            raise AffuseError("steps are resampled by the time alignment: set align, or leave steps out")
        for name in ("steps", "attention_width", "window"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise AffuseError(f"{name} must be at least 1, or left out; got {value}")
        if self.modulation_end is not None and self.modulation_end < 0:
            raise AffuseError(f"modulation_end is a number of epochs, or left out; got {self.modulation_end}")
        if not 0 <= self.lambda_mse <= 1:
            raise AffuseError(f"lambda_mse is from 0 to 1; got {self.lambda_mse}")
        if min(self.beta, self.suppression, *self.suppressions.values()) < 0:
            raise AffuseError(f"beta and suppression are not negative; got {self.beta}, {self.suppression}")

    @property
    def modalities(self) -> tuple[str, ...]:
        return tuple(self.encoders)
