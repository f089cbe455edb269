"""AGM: each modality's gradient is scaled by how far its own response is ahead of where it has been.

Paper: Hong Li, Xingyu Li, Pengbo Hu, Yinuo Lei, Chunxiao Li, Yi Zhou, "Boosting Multi-modal Model Performance with Adaptive
Gradient Modulation", ICCV 2023. Of a system f that answers from any subset S of the modalities M, with f(nothing) = 0::

    phi_m   = sum over S without m of |S|! (|M| - |S| - 1)! / |M|! (f(S and m) - f(S))       (its mono-modal response)
    s_m     = mean cross-entropy of phi_m at the label
    r_m     = exp(mean of the others' s - s_m)                                              (above 1: it is ahead)
    tau_m   = exp(mean of the others' s^ - s^_m),   s^ the running means of s over all batches before
    kappa_m = exp(-alpha (r_m - tau_m))
    g_m    <- kappa_m g_m

Readings. A subset is answered with the others absent (`Batch.without`), so any system that copes with absence will do; the
paper puts zeros in their place. These 2^|M| - 1 passes are made in evaluation mode and without gradients, so that dropout and
batch statistics do not feel them. The paper scales what flows back through phi_m; here it is the gradient of the modality's
own modules, for a system whose logits are no sum of responses. s^ is 0 before the first batch, and r - tau is at least -10,
as in the released code. Rows that lack a modality do not count in its score.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import combinations
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from affuse.balance.base import Balance, rows_with
from affuse.balance.settings import AGMSettings
from affuse.evaluation_mode import evaluating
from affuse.parts.supervision import known_rows
from affuse.types import Batch, Output, System

FARTHEST_BEHIND = -10.0


@torch.no_grad()
def mono_modal_responses(system: System, batch: Batch) -> dict[str, Float[Tensor, "b c"]]:
    """phi of each modality of the batch: Shapley values of the logits. They sum to the logits of the whole batch.

    A row without an answer, whether by nature or as a subset, counts as 0; so phi of an absent modality is 0.
    """
    names = [name for name in system.modalities if name in batch.inputs]
    answers: dict[frozenset[str], Tensor | float] = {frozenset(): 0.0}
    with evaluating(system), torch.random.fork_rng(devices=[]):
        for size in range(1, len(names) + 1):
            for subset in combinations(names, size):
                output = system(batch.without(*(name for name in names if name not in subset)))
                answers[frozenset(subset)] = torch.where(output.answered[:, None], output.logits.float(), 0.0)
    found = {}
    for name in names:
        others = [other for other in names if other != name]
        response: Tensor | float = 0.0
        for size in range(len(names)):
            weight = math.factorial(size) * math.factorial(len(others) - size) / math.factorial(len(names))
            for subset in combinations(others, size):
                response = response + weight * (answers[frozenset({*subset, name})] - answers[frozenset(subset)])
        assert isinstance(response, Tensor)
        found[name] = response
    return found


def ahead(scores: Mapping[str, float]) -> dict[str, float]:
    """r or tau: exp of the mean of the others' cross-entropies minus one's own. 1 where there is no other."""
    found = {}
    for name, score in scores.items():
        others = [other for its, other in scores.items() if its != name]
        found[name] = math.exp(min(sum(others) / len(others) - score, 50.0)) if others else 1.0
    return found


class AGM(Balance):
    """AGM (see the head of this file). Logs ``score/NAME`` (the cross-entropy), ``ratio/NAME`` and ``coefficient/NAME``."""

    title = "AGM"
    needs = frozenset({"parts"})

    def __init__(self, settings: AGMSettings) -> None:
        super().__init__(settings.starts, settings.ends)
        self.settings = settings
        self.means: dict[str, float] = {}  # s^
        self.batches: dict[str, int] = {}

    def loss(self, system: System, output: Output, batch: Batch) -> dict[str, Tensor]:
        self.coefficients, self.figures = {}, {}
        rows = known_rows(output, batch, system.task)
        if not self.active or not rows.any():
            return {}
        assert batch.target is not None
        scores = {}
        for name, response in mono_modal_responses(system, batch).items():
            own = rows & rows_with(output, batch, name)
            if own.any():
                scores[name] = float(functional.cross_entropy(response[own], batch.target[own]))
        reference = ahead({name: self.means.get(name, 0.0) for name in scores})
        for name, ratio in ahead(scores).items():
            difference = max(ratio - reference[name], FARTHEST_BEHIND)
            self.coefficients[name] = math.exp(-self.settings.alpha * difference)
            self.figures[f"score/{name}"] = scores[name]
            self.figures[f"ratio/{name}"] = ratio
            self.figures[f"coefficient/{name}"] = self.coefficients[name]
        for name, score in scores.items():
            self.batches[name] = self.batches.get(name, 0) + 1
            mean = self.means.get(name, 0.0)
            self.means[name] = mean + (score - mean) / self.batches[name]
        return {}

    def state_dict(self) -> dict[str, Any]:
        return {"means": dict(self.means), "batches": dict(self.batches)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.means, self.batches = dict(state_dict["means"]), dict(state_dict["batches"])
