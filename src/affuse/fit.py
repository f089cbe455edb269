"""fit: train a system by its recipe, through Lightning's Trainer, and write a run."""

from __future__ import annotations

import logging
import math
import time
import warnings
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import ModelCheckpoint, RichProgressBar
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from safetensors.torch import load_file
from torch.utils.data import DataLoader, Dataset, Sampler

from affuse import doctor, metrics, runs
from affuse.data.splits import Splits
from affuse.evaluate import as_records, write_evidence, write_metrics
from affuse.recipe import Recipe, Training, load_recipe
from affuse.systems import SYSTEMS
from affuse.types import AffuseError, Batch, Sample, System, Task, absent_value

SMALLER_IS_BETTER = ("loss", "mae")


def fit(
    recipe: Recipe,
    out: Path,
    progress: bool = True,
    splits: Splits | None = None,
    command: str | None = None,
    with_report: bool = True,
) -> Path:
    """Train from the beginning and write a run to the folder `out`, which must not hold one yet.

    Args:
        recipe: the resolved recipe.
        out: the run folder.
        progress: whether to show a progress bar.
        splits: the data, if it is at hand already; by default made from the recipe.
        command: the command line that asked for this run, for its record.
        with_report: whether to write examples and the report too, which takes longer than a small training.

    Raises:
        AffuseError: the data cannot be read, a training setting makes no sense, or `out` is taken or cannot be written. A
            fit that fails before its first whole epoch leaves nothing behind.
        KeyboardInterrupt: interrupted; the run can be resumed.
    """
    _check(recipe.training)
    if (out / runs.RUN).exists():
        raise AffuseError(f"{out}: already holds a run; choose another folder with --out, or continue it with --resume")
    pl.seed_everything(recipe.training.seed, verbose=False)
    splits = splits or recipe.data.splits(recipe.training.seed)
    selection_metric(recipe.training, splits.task)
    system = SYSTEMS[recipe.system_name](recipe.system, splits.task)
    info = {
        "system": recipe.system_name,
        "modalities": list(system.modalities),
        "task": runs.task_info(splits.task),
        "synthetic": splits.synthetic,
        "facts": dict(splits.facts),
        "seed": recipe.training.seed,
        "selected_on": recipe.training.select_on,
        "status": "running",
        "seconds": 0.0,
        "parameters": sum(parameter.numel() for parameter in system.parameters()),
        "environment": runs.environment(),
        "forms": doctor.active_forms(),
    }
    if command is not None:
        info["command"] = command
    existed = out.is_dir()
    try:
        out.mkdir(parents=True, exist_ok=True)
        runs.write_text(out / runs.RECIPE, recipe.to_yaml())
        runs.write_json(out / runs.RUN, info)
    except OSError as error:
        raise AffuseError(
            f"{out}: cannot write a run there ({error.strerror}); choose another folder with --out"
        ) from None
    try:
        return _train(recipe, splits, system, info, out, None, progress, with_report)
    except Exception:
        if not (out / runs.CHECKPOINT).is_file():  # nothing that could be resumed
            for name in (runs.RUN, runs.RECIPE, runs.HISTORY, runs.WEIGHTS):
                (out / name).unlink(missing_ok=True)
            if not existed:
                out.rmdir()
        raise


def resume(out: Path, overrides: Sequence[str] = (), progress: bool = True, command: str | None = None) -> Path:
    """Continue a run that was interrupted, from its last whole epoch; it ends where the uninterrupted one would.

    Overrides of data and training become part of the run's recipe, and `command` then of its record.

    Raises:
        AffuseError: the folder is not a run, the run is complete, its checkpoint is broken, or the overrides change the
            system.
    """
    info = runs.read_info(out)
    if info["status"] == "complete":
        raise AffuseError(f"{out}: this run is complete; there is nothing to resume")
    recipe = load_recipe(out / runs.RECIPE, list(overrides))
    _check(recipe.training)
    if overrides:
        before = load_recipe(out / runs.RECIPE)
        if (before.system_name, before.system) != (recipe.system_name, recipe.system):
            raise AffuseError(f"{out}: a resumed run keeps its system; for another one, begin a new run")
    checkpoint = out / runs.CHECKPOINT
    begun = checkpoint.is_file()
    if begun:
        try:
            torch.load(checkpoint, map_location="cpu", weights_only=True)
        except Exception:  # a broken archive shows itself in many ways
            raise AffuseError(f"{checkpoint}: broken; delete it, and the run resumes from its beginning") from None
    pl.seed_everything(recipe.training.seed, verbose=False)
    splits = recipe.data.splits(recipe.training.seed)
    selection_metric(recipe.training, splits.task)
    system = SYSTEMS[recipe.system_name](
        runs.without_pretrained(recipe.system) if begun else recipe.system, splits.task
    )
    if overrides:
        runs.write_text(out / runs.RECIPE, recipe.to_yaml())
        if command is not None and "command" in info:
            info["command"] += f"\n{command}"
        runs.write_json(out / runs.RUN, info)
    return _train(recipe, splits, system, info, out, checkpoint if begun else None, progress)


def _check(training: Training) -> None:
    """Values that a type alone does not exclude; Lightning or PyTorch would stumble over them with a run half begun."""
    least = {
        "epochs": 1,
        "batch_size": 1,
        "devices": 1,
        "lr": 0,
        "weight_decay": 0,
        "clip_norm": 0,
        "workers": 0,
        "seed": 0,
        "encoder_lr": 0,
        "accumulate": 1,
        "patience": 0,
        "plateau_patience": 0,
    }
    for name, smallest in least.items():
        value = getattr(training, name)
        if value is None:  # a rate that is not set
            continue
        if not value >= smallest or value == float("inf"):
            raise AffuseError(f"training.{name} is {value}; it must be a number from {smallest} up")
    if not 0 <= training.modality_dropout <= 1:
        raise AffuseError(f"training.modality_dropout is {training.modality_dropout}; it is a share, from 0 to 1")
    if not 0 < training.plateau_factor < 1:
        raise AffuseError(f"training.plateau_factor is {training.plateau_factor}; it must lie between 0 and 1")
    if training.select == "last" and (training.patience or training.schedule == "plateau"):
        raise AffuseError(
            "training.select 'last' looks at no metric, so patience 0 and another schedule than plateau belong to it"
        )


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


def _train(
    recipe: Recipe,
    splits: Splits,
    system: System,
    info: dict[str, Any],
    out: Path,
    checkpoint: Path | None,
    progress: bool,
    with_report: bool = True,
) -> Path:
    training = recipe.training
    started = time.monotonic() - info["seconds"]
    module = Fitting(system, training, out, announce=not progress)
    last = ModelCheckpoint(out, filename=Path(runs.CHECKPOINT).stem, save_top_k=1, enable_version_counter=False)
    callbacks: list[Any] = [last, *([RichProgressBar(leave=False)] if progress else [])]
    with warnings.catch_warnings():
        # Lightning's hints about worker counts and log intervals are not the user's business here.
        warnings.filterwarnings("ignore", category=UserWarning, module="lightning")
        logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", category=FutureWarning)
        try:
            trainer = pl.Trainer(
                max_epochs=training.epochs,
                accelerator=training.accelerator,
                devices=training.devices,
                precision=training.precision,  # type: ignore[arg-type]
                gradient_clip_val=training.clip_norm or None,
                accumulate_grad_batches=training.accumulate,
                callbacks=callbacks,
                logger=False,
                num_sanity_val_steps=0,
                enable_model_summary=False,
                enable_progress_bar=progress,
                default_root_dir=out,
            )
        except (MisconfigurationException, ValueError, TypeError) as error:
            # Which accelerators and precisions there are is Lightning's to know, and differs by machine.
            chosen = (
                f"accelerator {training.accelerator!r}, devices {training.devices}, precision {training.precision!r}"
            )
            reason = " ".join(str(error).split())[:200]
            raise AffuseError(f"training settings: {chosen} do not work here: {reason}") from None
        loader = partial(DataLoader, batch_size=training.batch_size, num_workers=training.workers)
        collate = partial(Batch.collate, modalities=system.modalities)
        selection = splits.validation if training.select_on == "validation" else splits.test
        try:
            trainer.fit(
                module,
                loader(_Indexed(splits.train), sampler=Shuffled(len(splits.train), training.seed), collate_fn=collate),
                loader(_Indexed(selection), collate_fn=collate),
                ckpt_path=checkpoint,
                weights_only=True,
            )
        except (KeyboardInterrupt, SystemExit):
            # Lightning turns Ctrl-C into SystemExit once it has torn down.
            runs.write_json(out / runs.RUN, {**info, "status": "interrupted", "seconds": time.monotonic() - started})
            raise KeyboardInterrupt from None
    if (out / runs.WEIGHTS).is_file():
        system.load_state_dict(load_file(out / runs.WEIGHTS))
    _, features = write_metrics(out, system.cpu().eval(), splits, training.batch_size)
    info = {**info, "status": "complete", "seconds": round(time.monotonic() - started, 1)}
    info["manifest"] = runs.manifest_hash(runs.read_lines(out / runs.PREDICTIONS), splits.facts)
    runs.write_json(out / runs.RUN, info)
    if with_report:  # last, for it shows the facts of the whole run
        write_evidence(out, system, splits, features)
    return out


class _Indexed(Dataset[Sample]):
    """A sample source as the data set that a DataLoader expects."""

    def __init__(self, source: Any):
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Sample:
        return self.source[index]


class Shuffled(Sampler[int]):
    """A new order each epoch. All randomness of an epoch (order, crops, dropout) follows from the seed and its number, so
    that a resumed run repeats it exactly; hence the seeding at the moment when an epoch's first sample is asked for.
    """

    def __init__(self, n: int, seed: int):
        self.n, self.seed, self.epoch = n, seed, 0

    def __len__(self) -> int:
        return self.n

    def set_epoch(self, epoch: int) -> None:
        """Lightning's trainer calls this before each epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        torch.manual_seed(self.seed * 100_003 + self.epoch)
        return iter(torch.randperm(self.n).tolist())


class Fitting(pl.LightningModule):
    """A system under training: its loss, optimiser and schedule, and which epoch is kept."""

    def __init__(self, system: System, training: Training, out: Path, announce: bool = False):
        super().__init__()
        self.announce = announce  # a line an epoch, where there is no progress bar
        self.system = system
        self.training_settings = training
        self.out = out
        self.records: list[dict[str, Any]] = []
        self.losses: dict[str, list[float]] = {}
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
        terms = self.system.loss(self.system(batch), batch)
        for name, term in terms.items():
            self.losses.setdefault(f"train/{name}", []).append(float(term.detach()))
        self.log("loss", terms["total"], prog_bar=True, batch_size=batch.size)
        return terms["total"]

    def on_validation_epoch_start(self) -> None:
        self.records = []

    def validation_step(self, batch: Batch, _: int) -> None:
        output = self.system(batch)
        self.losses.setdefault("validation/total", []).append(float(self.system.loss(output, batch)["total"]))
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
