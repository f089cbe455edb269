"""PMR: the modality that is behind is drawn to the prototypes of its own classes.

Paper: Yunfeng Fan, Wenchao Xu, Haozhao Wang, Junxiao Wang, Song Guo, "PMR: Prototypical Modal Rebalance for Multimodal
Learning", CVPR 2023. With features h_u of modality u and prototypes c_u, the mean features of each class::

    p_u    = softmax over classes of -|h_u - c_u|                          (Euclidean distance)
    rho_u  = mean of p_u at the label / the same of the other modality
    beta_u = clip(1 / rho_u - 1, 0, 1)                                      (above 0: u is behind)
    loss   = task's + alpha sum_u beta_u CE(p_u)                            (prototypical cross-entropy)
                    - mu sum_u clip(rho_u - 1, 0, 1) H(p_u)                 (in the first epochs: entropy of who is ahead)

Prototypes are estimated at the beginning of each epoch, from a share of the training batches and in evaluation mode; then
``c <- (1 - momentum) new + momentum c``.

Readings: with more than two modalities "the other" is the mean of the others. Rows that lack a modality count neither in its
prototypes nor in its terms, nor do rows of a class that has no prototype yet. The released code gives 1 to whichever is behind
(``coefficient: full``) and has no entropy term.
"""

from __future__ import annotations

import math
from typing import Any

import lightning.pytorch as pl
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from affuse.balance.base import Balance, rows_with
from affuse.balance.settings import PMRSettings
from affuse.evaluation_mode import evaluating
from affuse.parts.contribution import ratios
from affuse.parts.supervision import known_rows
from affuse.types import Batch, Output, System


def similarities(
    features: Float[Tensor, "r d"], prototypes: Float[Tensor, "c d"], known: Bool[Tensor, " c"]
) -> Float[Tensor, "r c"]:
    """Minus the Euclidean distance to each prototype; minus infinity to those that are not known."""
    distances = torch.cdist(features.float(), prototypes.float(), compute_mode="donot_use_mm_for_euclid_dist")
    return (-distances).masked_fill(~known, -torch.inf)


def entropy(logits: Float[Tensor, "r c"]) -> Float[Tensor, ""]:
    """Mean entropy of the softmax of the rows, in nats; classes at minus infinity have no part in it."""
    log = logits.log_softmax(1)
    return -(log.exp() * log.masked_fill(logits == -torch.inf, 0.0)).sum(1).mean()


class PMR(Balance):
    """PMR (see the head of this file). Logs ``ratio/NAME`` and ``coefficient/NAME``; adds ``prototype/NAME`` and
    ``prototype_entropy/NAME`` to the loss.
    """

    title = "PMR"
    needs = frozenset({"features"})

    def __init__(self, settings: PMRSettings) -> None:
        super().__init__(settings.starts, settings.ends)
        self.settings = settings
        self.prototypes: dict[str, Tensor] = {}  # c d
        self.known: dict[str, Tensor] = {}  # c

    def loss(self, system: System, output: Output, batch: Batch) -> dict[str, Tensor]:
        self.figures = {}
        rows = known_rows(output, batch, system.task)
        assert batch.target is not None
        near: dict[str, Tensor] = {}
        labels: dict[str, Tensor] = {}
        for name, prototypes in self.prototypes.items():
            known = self.known[name]
            own = rows & rows_with(output, batch, name) & known[batch.target.clamp_min(0)]
            if f"features/{name}" in output.aux and own.any():
                near[name] = similarities(output.aux[f"features/{name}"][own], prototypes, known)
                labels[name] = batch.target[own]
        scores = {name: float(near[name].detach().softmax(1).gather(1, labels[name][:, None]).mean()) for name in near}
        terms = {}
        for name, ratio in ratios(scores).items():
            behind = min(max(1 / ratio - 1, 0.0), 1.0)
            if self.settings.coefficient == "full":
                behind = math.ceil(behind)
            ahead = min(max(ratio - 1, 0.0), 1.0)
            if not self.active:
                behind = ahead = 0.0
            self.figures[f"ratio/{name}"] = ratio
            self.figures[f"coefficient/{name}"] = behind
            if behind:
                cost = functional.cross_entropy(near[name], labels[name])
                terms[f"prototype/{name}"] = self.settings.alpha * behind * cost
            if ahead and self.epoch < self.settings.entropy_epochs:
                terms[f"prototype_entropy/{name}"] = -self.settings.mu * ahead * entropy(near[name])
        return terms

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_train_epoch_start(trainer, pl_module)
        system: Any = pl_module.system
        loader: Any = trainer.train_dataloader
        batches = max(1, math.ceil(self.settings.share * len(loader)))
        # A pass of its own draws random numbers; those of the epoch are to stay what they are without it.
        with torch.random.fork_rng(devices=[]), trainer.precision_plugin.forward_context():
            estimates = self.estimate(system, (batch for batch, _ in zip(loader, range(batches), strict=False)))
        for name, (means, known) in estimates.items():
            if name not in self.prototypes:
                self.prototypes[name], self.known[name] = means, known
                continue
            old, was = self.prototypes[name].to(means), self.known[name].to(known.device)
            stays = self.settings.momentum
            blended = torch.where((known & was)[:, None], (1 - stays) * means + stays * old, means)
            self.prototypes[name] = torch.where(known[:, None], blended, old)
            self.known[name] = known | was

    @staticmethod
    @torch.no_grad()
    def estimate(system: System, batches: Any) -> dict[str, tuple[Float[Tensor, "c d"], Bool[Tensor, " c"]]]:
        """Mean features of each class by modality, and which classes were there."""
        device = next(system.parameters()).device
        sums: dict[str, Tensor] = {}
        counts: dict[str, Tensor] = {}
        with evaluating(system):
            for batch in batches:
                batch = batch.to(device)
                output = system(batch)
                rows = known_rows(output, batch, system.task)
                for name in system.modalities:
                    own = rows & rows_with(output, batch, name)
                    if f"features/{name}" not in output.aux or not own.any():
                        continue
                    features = output.aux[f"features/{name}"][own].float()  # r d
                    one_hot = functional.one_hot(batch.target[own], system.task.outputs).to(features)  # r c
                    sums[name] = sums.get(name, 0.0) + one_hot.T @ features
                    counts[name] = counts.get(name, 0.0) + one_hot.sum(0)
        return {name: (sums[name] / counts[name].clamp_min(1)[:, None], counts[name] > 0) for name in sums}

    def state_dict(self) -> dict[str, Any]:
        return {"prototypes": dict(self.prototypes), "known": dict(self.known)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.prototypes, self.known = dict(state_dict["prototypes"]), dict(state_dict["known"])
