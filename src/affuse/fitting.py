"""A system under training, as Lightning's Trainer wants it, and what it tells of every epoch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import torch

from affuse import metrics, runs
from affuse.curves import ValidationCurves
from affuse.evaluate import as_records
from affuse.recipe import Training
from affuse.types import AffuseError, Batch, System, Task, absent_value

if TYPE_CHECKING:
    from affuse.balance.base import Balance

SMALLER_IS_BETTER = ("loss", "mae")


def selection_metric(training: Training, task: Task) -> str:
    """The metric that chooses the epoch: a name of `metrics.scores`, ``loss``, or ``last``.

    Raises:
        AffuseError: `training.select` is of the other kind of task.
    """
    if training.select in ("loss", "last"):
        return training.select
    if task.kind == "classification":
        fitting = {"auto": "war", "war": "war", "uar": "uar", "f1": "macro_f1"}
    else:
        known = {"mae", "corr", "acc2_non0"} & set(metrics.measured(task.value_range))
        fitting = {"auto": "mae", **{name: name for name in sorted(known)}}
    if training.select not in fitting:
        names = ", ".join([*fitting, "loss", "last"])
        raise AffuseError(f"training.select is {training.select!r}, but the task is a {task.kind}: choose from {names}")
    return fitting[training.select]


class Fitting(pl.LightningModule):
    """A system under training: its loss, optimiser and schedule, and which epoch is kept.

    Args:
        system: the system.
        training: its settings.
        out: the run folder.
        announce: whether to print a line an epoch.
        balance: a balancing method, whose terms are added to the system's loss.
    """

    def __init__(
        self, system: System, training: Training, out: Path, announce: bool = False, balance: Balance | None = None
    ):
        super().__init__()
        self.announce = announce  # a line an epoch, where there is no progress bar
        self.system = system
        self.balance = balance
        self.training_settings = training
        self.out = out
        self.records: list[dict[str, Any]] = []
        self.losses: dict[str, list[float]] = {}
        self.curves = ValidationCurves(system.task)
        self.selected_by = selection_metric(training, system.task)
        self.plateau: torch.optim.lr_scheduler.ReduceLROnPlateau | None = None
        self.plateau_state: dict[str, Any] | None = None
        # Buffers, so that a resumed run knows what the interrupted one had found.
        self.register_buffer("best", torch.tensor(-torch.inf, dtype=torch.float64))
        self.register_buffer("stale", torch.tensor(0))  # epochs since the best one

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        return batch.to(device)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.plateau is not None:
            checkpoint["plateau"] = self.plateau.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.plateau_state = checkpoint.get("plateau")
        checkpoint["state_dict"].setdefault("stale", torch.tensor(0))  # not in checkpoints of version 0.1.0

    def on_train_start(self) -> None:
        self._stop_if_stale()  # interrupted after its last epoch

    def _stop_if_stale(self) -> None:
        patience = self.training_settings.patience
        assert isinstance(self.stale, torch.Tensor)
        if patience and int(self.stale) >= patience:
            self.trainer.should_stop = True

    def on_train_epoch_start(self) -> None:
        self.losses = {}
        self.system.begin_epoch(self.current_epoch)

    def training_step(self, batch: Batch, _: int) -> torch.Tensor:
        batch = drop_modalities(batch, self.training_settings.modality_dropout)
        output = self.system(batch)
        terms = self.system.loss(output, batch)
        figures: dict[str, float] = {}
        if self.balance is not None:
            extra = self.balance.loss(self.system, output, batch)
            terms = {**terms, **extra, "total": sum(extra.values(), terms["total"])}
            figures = self.balance.figures
        for name, value in {**{name: float(term.detach()) for name, term in terms.items()}, **figures}.items():
            self.losses.setdefault(f"train/{name}", []).append(value)
        self.log("loss", terms["total"], prog_bar=True, batch_size=batch.size)
        return terms["total"]

    def on_validation_epoch_start(self) -> None:
        self.records = []
        self.curves = ValidationCurves(self.system.task)

    def validation_step(self, batch: Batch, _: int) -> None:
        output = self.system(batch)
        terms = self.system.loss(output, batch)
        self.losses.setdefault("validation/total", []).append(float(terms["total"]))
        self.curves.add(output, batch, terms)
        self.records.extend(as_records(output, batch, "validation"))

    def on_validation_epoch_end(self) -> None:
        means = {name: _mean(values) for name, values in self.losses.items()}
        validation_loss = means.get("validation/total")
        if validation_loss is None:
            raise AffuseError(
                f"the loss is not a finite number after epoch {self.current_epoch + 1}: try a smaller --training.lr, "
                "or --training.clip_norm 1"
            )
        self.system.end_epoch(self.records)
        scores = metrics.scores(self.records, self.system.task)
        row = {
            "epoch": self.current_epoch,
            "lr": self.trainer.optimizers[0].param_groups[0]["lr"],
            **means,
            **{f"validation/{name}": _mean([value]) for name, value in scores.items()},
            **{f"validation/{name}": _mean([value]) for name, value in self.curves.columns(self.records).items()},
        }
        main = "war" if self.system.task.kind == "classification" else "mae"
        self.log(main, scores[main], prog_bar=True)
        if self.announce:
            loss, epochs = means.get("train/total"), self.training_settings.epochs
            shown = "unknown" if loss is None else f"{loss:.3f}"
            print(
                f"epoch {self.current_epoch + 1}/{epochs}: loss {shown}, {main.upper()} {scores[main]:.3f}", flush=True
            )
        found = {**scores, "loss": validation_loss, "last": float(self.current_epoch)}[self.selected_by]
        smaller = self.selected_by in SMALLER_IS_BETTER
        ranking = -float("inf") if found != found else -found if smaller else found
        assert isinstance(self.best, torch.Tensor) and isinstance(self.stale, torch.Tensor)
        self.stale.fill_(0 if ranking > float(self.best) else int(self.stale) + 1)
        if ranking >= float(self.best):  # of equals the later one, which has seen more and steps more gently
            self.best.fill_(ranking)
            runs.save_weights(self.system, self.out / runs.WEIGHTS)
        if self.plateau is not None:
            # Here and not by the trainer, which would do so only after it has written the checkpoint.
            self.plateau.step(found)
        self._stop_if_stale()
        history = [old for old in runs.read_lines(self.out / runs.HISTORY) if old["epoch"] < self.current_epoch]
        runs.write_lines(self.out / runs.HISTORY, [*history, row])

    def configure_optimizers(self) -> Any:
        settings = self.training_settings
        groups = self._parameter_groups()
        optimizer: torch.optim.Optimizer
        if settings.optimizer == "adamw":
            optimizer = torch.optim.AdamW(groups, settings.lr, weight_decay=settings.weight_decay)
        elif settings.optimizer == "adam":
            optimizer = torch.optim.Adam(groups, settings.lr, weight_decay=settings.weight_decay)
        else:
            optimizer = torch.optim.SGD(groups, settings.lr, momentum=0.9, weight_decay=settings.weight_decay)
        steps = int(self.trainer.estimated_stepping_batches)
        schedules = torch.optim.lr_scheduler
        if settings.schedule == "constant":
            return optimizer
        if settings.schedule == "plateau":
            mode = "min" if self.selected_by in SMALLER_IS_BETTER else "max"
            self.plateau = schedules.ReduceLROnPlateau(
                optimizer,
                mode,  # type: ignore[arg-type]
                settings.plateau_factor,
                settings.plateau_patience,
            )
            if self.plateau_state is not None:
                self.plateau.load_state_dict(self.plateau_state)
            return optimizer
        if settings.schedule == "exponential":
            return [optimizer], [schedules.ExponentialLR(optimizer, settings.gamma)]
        if settings.schedule == "cosine":
            schedule: Any = schedules.CosineAnnealingLR(optimizer, steps)
        else:
            schedule = schedules.OneCycleLR(optimizer, [group["lr"] for group in optimizer.param_groups], steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _parameter_groups(self) -> list[dict[str, Any]]:
        """The parameters that learn; those of pretrained parts apart where they have a rate of their own."""
        rate = self.training_settings.encoder_lr
        learning = [parameter for parameter in self.parameters() if parameter.requires_grad]
        if rate is None:
            return [{"params": learning}]
        pretrained = {id(p) for part in self.system.pretrained_parts() for p in part.parameters()}
        if not pretrained:
            raise AffuseError(
                f"training.encoder_lr is {rate}, but this {type(self.system).__name__} has no pretrained part: "
                "leave it out, or set it to null"
            )
        groups: list[dict[str, Any]] = [
            {"params": [p for p in learning if id(p) not in pretrained]},
            {"params": [p for p in learning if id(p) in pretrained], "lr": rate},
        ]
        return [group for group in groups if group["params"]]


def _mean(values: Sequence[float]) -> float | None:
    """Mean of what is known; None of nothing. A batch of which nothing was answered has no loss."""
    known = [value for value in values if math.isfinite(value)]
    return sum(known) / len(known) if known else None


def drop_modalities(batch: Batch, share: float) -> Batch:
    """Take one present modality, chosen at random, from this share of the rows that have several."""
    if share <= 0:
        return batch
    rows = (batch.present.sum(1) > 1) & (torch.rand(batch.size) < share).to(batch.present.device)  # b
    victim = torch.multinomial(batch.present.float() + 1e-9, 1)[:, 0]  # b
    inputs = dict(batch.inputs)
    present = batch.present.clone()
    for column, name in enumerate(batch.modalities):
        lost = rows & (victim == column)
        if lost.any():
            present[lost, column] = False
            inputs[name] = inputs[name].clone()
            inputs[name][lost] = absent_value(inputs[name].dtype)
    return Batch(inputs, present, batch.lengths, batch.times_us, batch.target, batch.meta)
