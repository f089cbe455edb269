"""fit: train a system by its recipe, through Lightning's Trainer, and write a run."""

from __future__ import annotations

import logging
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
from affuse.evaluate import as_records, write_evaluation
from affuse.recipe import Recipe, Training, load_recipe
from affuse.systems import SYSTEMS
from affuse.types import AffuseError, Batch, Sample, System, absent_value


def fit(
    recipe: Recipe, out: Path, progress: bool = True, splits: Splits | None = None, command: str | None = None
) -> Path:
    """Train from the beginning and write a run to the folder `out`, which must not hold one yet.

    Args:
        recipe: the resolved recipe.
        out: the run folder.
        progress: whether to show a progress bar.
        splits: the data, if it is at hand already; by default made from the recipe.
        command: the command line that asked for this run, for its record.

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
        return _train(recipe, splits, system, info, out, None, progress)
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
    }
    for name, smallest in least.items():
        value = getattr(training, name)
        if not value >= smallest or value == float("inf"):
            raise AffuseError(f"training.{name} is {value}; it must be a number from {smallest} up")
    if not 0 <= training.modality_dropout <= 1:
        raise AffuseError(f"training.modality_dropout is {training.modality_dropout}; it is a share, from 0 to 1")


def _train(
    recipe: Recipe,
    splits: Splits,
    system: System,
    info: dict[str, Any],
    out: Path,
    checkpoint: Path | None,
    progress: bool,
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
    write_evaluation(out, system.cpu().eval(), splits, training.batch_size)
    info = {**info, "status": "complete", "seconds": round(time.monotonic() - started, 1)}
    info["manifest"] = runs.manifest_hash(runs.read_lines(out / runs.PREDICTIONS), splits.facts)
    runs.write_json(out / runs.RUN, info)
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
        # Buffers, so that a resumed run knows what the interrupted one had found.
        self.register_buffer("best", torch.tensor(-torch.inf, dtype=torch.float64))

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        return batch.to(device)

    def on_train_epoch_start(self) -> None:
        self.losses = {}

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
        row: dict[str, Any] = {name: sum(values) / len(values) for name, values in self.losses.items() if values}
        scores = metrics.scores(self.records, self.system.task)
        row |= {"epoch": self.current_epoch}
        row |= {f"validation/{name}": None if value != value else value for name, value in scores.items()}
        self.log("war", scores["war"], prog_bar=True)
        settings = self.training_settings
        if self.announce:
            loss = row.get("train/total", float("nan"))
            print(
                f"epoch {self.current_epoch + 1}/{settings.epochs}: loss {loss:.3f}, WAR {scores['war']:.3f}",
                flush=True,
            )
        ranking = {**scores, "loss": -row["validation/total"], "last": float(self.current_epoch)}[settings.select]
        assert isinstance(self.best, torch.Tensor)
        if ranking >= float(self.best):  # of equals the later one, which has seen more and steps more gently
            self.best.fill_(ranking)
            runs.save_weights(self.system, self.out / runs.WEIGHTS)
        history = [old for old in runs.read_lines(self.out / runs.HISTORY) if old["epoch"] < self.current_epoch]
        runs.write_lines(self.out / runs.HISTORY, [*history, row])

    def configure_optimizers(self) -> Any:
        settings = self.training_settings
        parameters = [parameter for parameter in self.parameters() if parameter.requires_grad]
        optimizer: torch.optim.Optimizer
        if settings.optimizer == "adamw":
            optimizer = torch.optim.AdamW(parameters, settings.lr, weight_decay=settings.weight_decay)
        else:
            optimizer = torch.optim.SGD(parameters, settings.lr, momentum=0.9, weight_decay=settings.weight_decay)
        steps = int(self.trainer.estimated_stepping_batches)
        schedules = torch.optim.lr_scheduler
        if settings.schedule == "constant":
            return optimizer
        if settings.schedule == "exponential":
            return [optimizer], [schedules.ExponentialLR(optimizer, settings.gamma)]
        if settings.schedule == "cosine":
            schedule: Any = schedules.CosineAnnealingLR(optimizer, steps)
        else:
            schedule = schedules.OneCycleLR(optimizer, settings.lr, steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


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
