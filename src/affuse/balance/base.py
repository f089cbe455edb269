"""What every balancing method is: a callback of the trainer, told of each training batch before its backward pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import lightning.pytorch as pl
import torch
from jaxtyping import Bool
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from affuse.evaluation_mode import evaluating
from affuse.parts.sequences import present_rows
from affuse.types import AffuseError, Batch, Output, System


def rows_with(output: Output, batch: Batch, name: str) -> Bool[Tensor, " b"]:
    """Rows in which the system has this modality: of a camera all frames of a clip may be lost."""
    alone = output.unimodal.get(name)
    return present_rows(batch, name) if alone is None else alone.isfinite().all(-1)


class Balance(pl.Callback):
    """A balancing method.

    `loss` is called once a training batch, with the answer that the system's own loss was taken of; the terms it gives are
    added to the total. A method that modulates gradients sets `coefficients` there; hooks on the parameters of each modality
    then scale what the batch adds to their gradients. So batches whose gradients are accumulated are each scaled by their own
    coefficient, and a scaled loss (mixed precision) changes nothing.

    State that outlives an epoch is in `state_dict`: plain numbers and tensors.
    """

    title: ClassVar[str]
    needs: ClassVar[frozenset[Literal["unimodal", "features", "parts"]]]

    def __init__(self, starts: int, ends: int | None) -> None:
        self.starts, self.ends = starts, ends
        self.epoch = 0
        self.coefficients: dict[str, float] = {}
        self.figures: dict[str, float] = {}  # of the last batch, for the history
        self.handles: list[RemovableHandle] = []

    @property
    def active(self) -> bool:
        """Whether the method is at work in this epoch."""
        return self.starts <= self.epoch and (self.ends is None or self.epoch <= self.ends)

    def loss(self, system: System, output: Output, batch: Batch) -> dict[str, Tensor]:
        """Extra terms of the loss, by name, each with its weight; and what the backward pass of this batch needs."""
        return {}

    def modulated(self, gradient: Tensor, name: str) -> Tensor:
        """The gradient of a parameter of this modality, changed."""
        return gradient * self.coefficients.get(name, 1.0)

    def parameters_of(self, system: System) -> dict[str, list[nn.Parameter]]:
        """The parameters that learn and belong to one modality alone, by modality."""
        own = {
            name: list({id(p): p for part in parts for p in part.parameters() if p.requires_grad}.values())
            for name, parts in system.modality_parts().items()
        }
        shared = Counter(id(p) for parameters in own.values() for p in parameters)
        return {name: [p for p in parameters if shared[id(p)] == 1] for name, parameters in own.items()}

    def check(self, system: System, batch: Batch) -> None:
        """Whether the system gives what the method needs; told from its answer to a batch, which changes nothing.

        Raises:
            AffuseError: it does not; the message names the system and what is missing.
        """
        what = f"training.balance: {self.title} cannot train {type(system).__name__}"
        remedy = "take another method or system, or leave balance out"
        if len(system.modalities) < 2:
            raise AffuseError(f"{what}: it reads one modality, and there is nothing to balance; leave balance out")
        if system.task.kind != "classification":
            raise AffuseError(f"{what}: the task is a regression, the method needs classes; leave balance out")
        missing = []
        if "parts" in self.needs:
            own = self.parameters_of(system)
            lacking = [name for name in system.modalities if not own.get(name)]
            missing += [f"modules of its own for {', '.join(lacking)} (modality_parts)"] if lacking else []
        if self.needs & {"unimodal", "features"}:
            with torch.random.fork_rng(devices=[]), torch.no_grad(), evaluating(system):
                output = system(batch)
            there = [name for name in system.modalities if bool(batch.has(name).any())]
            if "unimodal" in self.needs:
                lacking = [name for name in there if name not in output.unimodal]
                missing += [f"logits of {', '.join(lacking)} alone (Output.unimodal)"] if lacking else []
            if "features" in self.needs:
                lacking = [name for name in there if f"features/{name}" not in output.aux]
                missing += [f"features of {', '.join(lacking)} alone (aux features/NAME)"] if lacking else []
        if missing:
            raise AffuseError(f"{what}, which gives no {' and no '.join(missing)}; {remedy}")

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.epoch = trainer.current_epoch
        self.coefficients, self.figures = {}, {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if "parts" in self.needs:
            system: Any = pl_module.system
            for name, parameters in self.hooked(system).items():
                self.handles += [p.register_hook(self._hook(name)) for p in parameters]

    def hooked(self, system: System) -> dict[str, list[nn.Parameter]]:
        """The parameters whose gradients are modulated, by modality."""
        return self.parameters_of(system)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        for handle in self.handles:
            handle.remove()
        self.handles = []

    def _hook(self, name: str) -> Callable[[Tensor], Tensor | None]:
        def hook(gradient: Tensor) -> Tensor | None:
            return self.modulated(gradient, name) if self.active else None

        return hook
