"""A moving average of a system's weights over its training, which is what is validated, selected and saved.

Lightning has such a callback, `EMAWeightAveraging`, but it averages the whole module and puts the live weights back before
the module's own end of validation. There `Fitting` chooses the epoch and saves its weights, and a system keeps in buffers
what it was told of the epoch: both would happen to the live weights, and the second be lost.
"""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor
from typing_extensions import override

from affuse.types import System

STATISTICS = ("running_mean", "running_var")  # of batch norms, as PyTorch names them


class MovingAverage(pl.Callback):
    """The exponential moving average a of a system's weights w, after each step of the optimiser a <- d a + (1 - d) w.

    In step n (from 1) d is min(`decay`, n / (n + 9)): the average begins as one of the latest few steps, so that the random
    weights of the start have left it after the first tens of steps, and then reaches further and further back. (TensorFlow's
    ``ExponentialMovingAverage`` does so with `num_updates`.)

    Averaged are all parameters and the running statistics of batch norms, in at least float32. Other buffers, such as what a
    system counts or was told, are not: there is one of each, as it stands. The average takes the place of the live weights
    from the start of a validation to its very end, and a checkpoint holds both.

    Args:
        decay: d once warmed up, in [0, 1).
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.seen_step = 0  # steps of the optimiser; fewer than batches where gradients accumulate
        self.average: dict[str, Tensor] = {}
        self.live: dict[str, Tensor] = {}  # the weights that train, while the average stands in their place

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # Only now the weights are on their device, and those of a resumed run are loaded.
        self.seen_step = trainer.global_step
        begun = self.average
        self.average = {
            name: begun.get(name, weight).detach().to(weight.device, _wide(weight), copy=True)
            for name, weight in averaged(pl_module.system).items()  # type: ignore[arg-type]
        }

    @override
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == self.seen_step:
            return
        self.seen_step = trainer.global_step
        self.updates += 1
        share = 1 - min(self.decay, self.updates / (self.updates + 9))
        with torch.no_grad():
            for name, weight in averaged(pl_module.system).items():  # type: ignore[arg-type]
                self.average[name].lerp_(weight.to(self.average[name].dtype), share)

    @override
    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        weights = averaged(pl_module.system)  # type: ignore[arg-type]
        self.live = {name: weight.detach().clone() for name, weight in weights.items()}
        _fill(weights, self.average)

    @override
    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # The module's own on_validation_epoch_end is over; the checkpoint's callback, which Lightning puts last, comes next.
        _fill(averaged(pl_module.system), self.live)  # type: ignore[arg-type]
        self.live = {}

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.updates, "average": self.average}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.updates, self.average = state_dict["updates"], dict(state_dict["average"])


def averaged(system: System) -> dict[str, Tensor]:
    """The tensors of a system that are averaged, themselves: its parameters, and the statistics of its batch norms."""
    statistics = {name: buffer for name, buffer in system.named_buffers() if name.rpartition(".")[2] in STATISTICS}
    return {**dict(system.named_parameters()), **statistics}


def _fill(weights: dict[str, Tensor], values: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for name, weight in weights.items():
            weight.copy_(values[name])


def _wide(weight: Tensor) -> torch.dtype:
    """A decay near 1 adds less than half precision can tell."""
    return torch.promote_types(weight.dtype, torch.float32)
