"""OGM-GE: the modality that is ahead learns more slowly, and gradients get noise.

Paper: Xiaokang Peng, Yake Wei, Andong Deng, Dong Wang, Di Hu, "Balanced Multimodal Learning via On-the-fly Gradient
Modulation", CVPR 2022. For modality u and batch B::

    s_u   = mean over B of softmax(logits_u) at the label
    rho_u = s_u / s_v
    k_u   = 1 - tanh(alpha rho_u)   where rho_u > 1, else 1
    g_u  <- k_u g_u + h,   h ~ N(0, std(g_u)^2)

Readings: with more than two modalities s_v is the mean of the others' scores. Rows that lack a modality do not count in its
score, which is why scores are means and not the paper's sums; a modality that no row has is left alone. The noise has one
standard deviation a parameter tensor, as in the released code, and goes to every modality, also one that is not slowed.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from affuse.balance.base import Balance
from affuse.balance.settings import OGMGESettings
from affuse.parts.contribution import modulation_factors, ratios, scored_rows
from affuse.parts.supervision import known_rows
from affuse.types import AffuseError, Batch, Output, System


class OGMGE(Balance):
    """OGM-GE (see the head of this file). Logs ``ratio/NAME`` and ``coefficient/NAME``."""

    title = "OGM-GE"
    needs = frozenset({"parts", "unimodal"})

    def __init__(self, settings: OGMGESettings) -> None:
        super().__init__(settings.starts, settings.ends)
        self.settings = settings

    def loss(self, system: System, output: Output, batch: Batch) -> dict[str, Tensor]:
        self.coefficients, self.figures = {}, {}
        rows = known_rows(output, batch, system.task)
        assert batch.target is not None
        scores = {}
        for name, logits in output.unimodal.items():
            own = scored_rows(logits.detach(), batch.target, rows & batch.has(name))
            if len(own):
                scores[name] = float(own.mean())
        found = ratios(scores)
        held = torch.tensor(list(found.values()), dtype=torch.float64)  # m
        factors = modulation_factors(held, torch.full_like(held, self.settings.alpha)).tolist()
        for (name, ratio), factor in zip(found.items(), factors, strict=True):
            self.coefficients[name] = factor if self.active else 1.0
            self.figures[f"ratio/{name}"] = ratio
            self.figures[f"coefficient/{name}"] = self.coefficients[name]
        return {}

    def modulated(self, gradient: Tensor, name: str) -> Tensor:
        scaled = super().modulated(gradient, name)
        if not self.settings.noise or name not in self.coefficients or gradient.numel() < 2:
            return scaled
        return scaled + torch.randn_like(gradient) * gradient.std()

    def hooked(self, system: System) -> dict[str, list[nn.Parameter]]:
        own = self.parameters_of(system)
        if self.settings.parameters == "convolutions":
            own = {name: [p for p in parameters if p.dim() == 4] for name, parameters in own.items()}
        return own

    def check(self, system: System, batch: Batch) -> None:
        super().check(system, batch)
        lacking = [name for name, parameters in self.hooked(system).items() if not parameters]
        if lacking:
            raise AffuseError(
                f"training.balance: parameters is 'convolutions', but {type(system).__name__} has no 2-D convolutions of "
                f"its own for {', '.join(lacking)}; set it to all"
            )
