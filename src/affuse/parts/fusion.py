"""Late fusions of several modalities step by step: concatenation, summation, FiLM and gating, with the answer of each alone.

Every fusion reads features (t, b, d) of any number of modalities, all of one width, by name. A modality that is absent is
given as zeros, or left out: no spikes. It gives logits O_f(t) (t, b, c) and the joint features that they are read from;
`Fusion.alone` gives O_u(t), what the same parameters answer from one modality by itself.

With features h_u, m modalities, W and b of one classifier::

    concat     O_f = W [h_1, ..., h_m] + b                          O_u = W_u h_u + b / m       (TAAF-SNN Eq. 4)
    sum        O_f = W sum_u a_u h_u + b                            O_u = a_u W h_u + b / m
    logit_sum  O_f = sum_u (W_u h_u + b_u)                          O_u = W_u h_u + b_u
    film       O_f = W (gamma(h_1) * sum_(u>1) h_u + beta(h_1)) + b  O_u: as if all others were silent
    gated      O_f = W (sigmoid(V_1 h_1) * sum_(u>1) V_u h_u) + b    O_u: as if all others were silent

Sources: Shen et al., arXiv 2505.14535, section 3.1 (concat; "weighted summation", which has no equation: the a_u are learned
and start at 1); Peng et al., "Balanced Multimodal Learning via On-the-fly Gradient Modulation", CVPR 2022, whose summation
is ``logit_sum``; Perez et al., "FiLM", AAAI 2018; Kiela et al., "Efficient large-scale multi-modal classification", AAAI
2018. FiLM and gating are published for two modalities, of which the first modulates the second; with more, it modulates
the sum of the others, our reading. gamma starts around 1, so that a silent first modality leaves the others as they are.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from affuse.types import AffuseError

FusionKind = Literal["concat", "sum", "logit_sum", "film", "gated"]


class Fusion(nn.Module, ABC):
    """A fusion and its classifier (see the head of this file).

    Args:
        modalities: names, in order; the first is the one that modulates in FiLM and gating.
        width: features of each (d).
        outputs: logits (c).
    """

    def __init__(self, modalities: Sequence[str], width: int, outputs: int) -> None:
        super().__init__()
        self.modalities, self.width, self.outputs = tuple(modalities), width, outputs

    @property
    @abstractmethod
    def joint_width(self) -> int:
        """Width of the joint features (k)."""

    @abstractmethod
    def _fused(self, features: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Logits and joint features; every modality is given."""

    def forward(
        self, features: Mapping[str, Float[Tensor, "t b d"]]
    ) -> tuple[Float[Tensor, "t b c"], Float[Tensor, "t b k"]]:
        """Logits O_f and the joint features; a modality that is left out is silent.

        Raises:
            AffuseError: no modality is given, one is not known, or one has another width.
        """
        return self._fused(self._whole(features))

    def alone(self, features: Float[Tensor, "t b d"], modality: str) -> Float[Tensor, "t b c"]:
        """Logits O_u of one modality by itself.

        Raises:
            AffuseError: the modality is not known, or has another width.
        """
        return self._fused(self._whole({modality: features}))[0]

    def _whole(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        strange = [name for name in features if name not in self.modalities]
        if strange or not features:
            raise AffuseError(f"this fusion reads {', '.join(self.modalities)}; got {', '.join(features) or 'nothing'}")
        for name, held in features.items():
            if held.shape[-1] != self.width:
                raise AffuseError(
                    f"modality {name!r}: this fusion reads features of width {self.width}, got {held.shape[-1]}"
                )
        silent = torch.zeros_like(next(iter(features.values())))
        return {name: features.get(name, silent) for name in self.modalities}


class ConcatFusion(Fusion):
    """Features side by side, one classifier; its columns are the classifiers of the modalities."""

    def __init__(self, modalities: Sequence[str], width: int, outputs: int) -> None:
        super().__init__(modalities, width, outputs)
        self.classifier = nn.Linear(width * len(self.modalities), outputs)

    @property
    def joint_width(self) -> int:
        return self.width * len(self.modalities)

    def _fused(self, features: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        joint = torch.cat(list(features.values()), 2)  # t b (m d)
        return self.classifier(joint), joint

    def alone(self, features: Float[Tensor, "t b d"], modality: str) -> Float[Tensor, "t b c"]:
        self._whole({modality: features})
        column = self.modalities.index(modality) * self.width
        weight = self.classifier.weight[:, column : column + self.width]  # c d, W_u
        return nn.functional.linear(features, weight, self.classifier.bias / len(self.modalities))


class SumFusion(Fusion):
    """The weighted sum of the features, one classifier that all modalities share."""

    def __init__(self, modalities: Sequence[str], width: int, outputs: int) -> None:
        super().__init__(modalities, width, outputs)
        self.share = nn.Parameter(torch.ones(len(self.modalities)))
        self.classifier = nn.Linear(width, outputs)

    @property
    def joint_width(self) -> int:
        return self.width

    def _fused(self, features: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        joint = torch.einsum("mtbd,m->tbd", torch.stack(list(features.values())), self.share)
        return self.classifier(joint), joint

    def alone(self, features: Float[Tensor, "t b d"], modality: str) -> Float[Tensor, "t b c"]:
        self._whole({modality: features})
        scaled = self.share[self.modalities.index(modality)] * features
        return nn.functional.linear(scaled, self.classifier.weight, self.classifier.bias / len(self.modalities))


class LogitSumFusion(Fusion):
    """A classifier for each modality; their logits are added."""

    def __init__(self, modalities: Sequence[str], width: int, outputs: int) -> None:
        super().__init__(modalities, width, outputs)
        self.classifiers = nn.ModuleList([nn.Linear(width, outputs) for _ in self.modalities])

    @property
    def joint_width(self) -> int:
        return self.width * len(self.modalities)

    def _fused(self, features: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        held = list(features.values())
        logits = torch.stack([own(h) for own, h in zip(self.classifiers, held, strict=True)]).sum(0)
        return logits, torch.cat(held, 2)

    def alone(self, features: Float[Tensor, "t b d"], modality: str) -> Float[Tensor, "t b c"]:
        self._whole({modality: features})
        return self.classifiers[self.modalities.index(modality)](features)


class FiLMFusion(Fusion):
    """The first modality scales and shifts what the others say, feature by feature."""

    def __init__(self, modalities: Sequence[str], width: int, outputs: int) -> None:
        super().__init__(modalities, width, outputs)
        _several("film", self.modalities)
        self.modulation = nn.Linear(width, 2 * width)
        with torch.no_grad():
            self.modulation.bias[:width] += 1
        self.classifier = nn.Linear(width, outputs)

    @property
    def joint_width(self) -> int:
        return self.width

    def _fused(self, features: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        first, *others = features.values()
        gamma, beta = self.modulation(first).chunk(2, 2)  # t b d each
        joint = gamma * torch.stack(others).sum(0) + beta
        return self.classifier(joint), joint


class GatedFusion(Fusion):
    """The first modality opens and closes what the others say, feature by feature."""

    def __init__(self, modalities: Sequence[str], width: int, outputs: int) -> None:
        super().__init__(modalities, width, outputs)
        _several("gated", self.modalities)
        self.maps = nn.ModuleList([nn.Linear(width, width) for _ in self.modalities])
        self.classifier = nn.Linear(width, outputs)

    @property
    def joint_width(self) -> int:
        return self.width

    def _fused(self, features: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        first, *others = (own(h) for own, h in zip(self.maps, features.values(), strict=True))
        joint = torch.sigmoid(first) * torch.stack(others).sum(0)
        return self.classifier(joint), joint


def fusion_of(kind: FusionKind, modalities: Sequence[str], width: int, outputs: int) -> Fusion:
    """The fusion of this kind.

    Raises:
        AffuseError: there is no such fusion, no modality, or only one for FiLM or gating.
    """
    if not modalities:
        raise AffuseError("a fusion needs at least one modality")
    kinds: dict[str, type[Fusion]] = {
        "concat": ConcatFusion,
        "sum": SumFusion,
        "logit_sum": LogitSumFusion,
        "film": FiLMFusion,
        "gated": GatedFusion,
    }
    if kind not in kinds:
        raise AffuseError(f"there is no fusion {kind!r}: use {', '.join(kinds)}")
    return kinds[kind](modalities, width, outputs)


def _several(kind: str, modalities: tuple[str, ...]) -> None:
    if len(modalities) < 2:
        raise AffuseError(f"fusion {kind} needs two modalities or more, got {list(modalities)}: use concat")
