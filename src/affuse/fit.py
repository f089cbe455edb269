"""fit: train a system by its recipe, through Lightning's Trainer, and write a run."""

from __future__ import annotations

import dataclasses
import logging
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import LambdaCallback, ModelCheckpoint, RichProgressBar
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from safetensors.torch import load_file
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from affuse import doctor, runs
from affuse.balance import balancing
from affuse.data.splits import Splits
from affuse.ema import MovingAverage
from affuse.evaluate import check_task, write_evidence, write_metrics
from affuse.fitting import Fitting, drop_modalities, selection_metric
from affuse.recipe import Recipe, Training, check_training, load_recipe
from affuse.sampling import Shuffled, class_counts, class_targets, sampling_chances
from affuse.systems import SYSTEMS
from affuse.types import AffuseError, Batch, Sample, System

__all__ = ["Fitting", "Shuffled", "drop_modalities", "fit", "resume", "selection_metric"]

PROBED = 4  # samples that a system answers to show whether a balancing method can train it

# What of its recipe a run with a checkpoint may change. All else is in the checkpoint, which would keep it whatever the recipe
# says, or decides what the run's figures mean.
FREE = ("workers", "accelerator", "precision", "patience", "ema", "clip_norm", "modality_dropout")
STEPS = (
    "epochs",
    "batch_size",
    "accumulate",
)  # too, but for a schedule that is laid out over the steps of the whole run
PLACES = (
    "root",
    "cache",
    "annotations",
    "lists",
    "event_folder",
    "audio_folder",
    "processes",
)  # of the data: the same elsewhere


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
    check_training(recipe.training)
    if (out / runs.RUN).exists():
        raise AffuseError(f"{out}: already holds a run; choose another folder with --out, or continue it with --resume")
    pl.seed_everything(recipe.training.seed, verbose=False)
    splits = splits or recipe.data.splits(recipe.training.seed)
    selection_metric(recipe.training, splits.task)
    system = SYSTEMS[recipe.system_name](recipe.system, splits.task)
    _check_balance(recipe.training, splits, system)
    targets = _training_targets(recipe.training, splits, system)
    info: dict[str, Any] = {
        **_described(recipe, splits, system, targets),
        "status": "running",
        "seconds": 0.0,
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
        return _train(recipe, splits, system, targets, out, None, progress, with_report)
    except Exception:
        if not (out / runs.CHECKPOINT).is_file():  # nothing that could be resumed
            for name in (runs.RUN, runs.RECIPE, runs.HISTORY, runs.WEIGHTS):
                (out / name).unlink(missing_ok=True)
            if not existed:
                out.rmdir()
        raise


def resume(out: Path, overrides: Sequence[str] = (), progress: bool = True, command: str | None = None) -> Path:
    """Continue a run that was interrupted, from its last whole epoch; it ends where the uninterrupted one would.

    Overrides become part of the run's recipe, and `command` then of its record, once training goes on. Before its first
    whole epoch a run may change all but its system; after it the settings in `FREE`, those in `STEPS` where the schedule
    does not depend on them, and the places of its data.

    Raises:
        AffuseError: the folder is not a run, the run is complete, its checkpoint is broken, the data asks something else, or
            the overrides change what a begun run keeps. The run is then as it was.
    """
    info = runs.read_info(out)
    if info["status"] == "complete":
        raise AffuseError(f"{out}: this run is complete; there is nothing to resume")
    recipe = load_recipe(out / runs.RECIPE, list(overrides))
    before = load_recipe(out / runs.RECIPE)
    if (before.system_name, before.system) != (recipe.system_name, recipe.system):
        raise AffuseError(f"{out}: a resumed run keeps its system; for another one, begin a new run")
    checkpoint = out / runs.CHECKPOINT
    begun, done = checkpoint.is_file(), 0
    if begun:
        try:
            saved = torch.load(checkpoint, map_location="cpu", weights_only=True)
            done = int(saved["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"])
        except Exception:  # a broken archive shows itself in many ways
            raise AffuseError(f"{checkpoint}: broken; delete it, and the run resumes from its beginning") from None
        _check_kept(out, before, recipe)
        if recipe.training.epochs < done:
            raise AffuseError(
                f"{out}: training.epochs is {recipe.training.epochs}, but {done} epochs are done: give {done} or more"
            )
    pl.seed_everything(recipe.training.seed, verbose=False)
    splits = recipe.data.splits(recipe.training.seed)
    if begun:
        check_task(out, runs.task_of(info), splits.task)
    selection_metric(recipe.training, splits.task)
    system = SYSTEMS[recipe.system_name](
        runs.without_pretrained(recipe.system) if begun else recipe.system, splits.task
    )
    _check_balance(recipe.training, splits, system)
    targets = _training_targets(recipe.training, splits, system)
    info.pop("class_counts", None)
    info |= _described(recipe, splits, system, targets)
    if overrides and command is not None and "command" in info:
        info["command"] += f"\n{command}"

    def record() -> None:
        if overrides:
            runs.write_text(out / runs.RECIPE, recipe.to_yaml())
        runs.write_json(out / runs.RUN, info)

    begins = checkpoint if begun else None
    return _train(recipe, splits, system, targets, out, begins, progress, epochs_done=done, when_it_trains=record)


def _described(recipe: Recipe, splits: Splits, system: System, targets: Tensor | None) -> dict[str, Any]:
    """What `run.json` says of the system, the data and the training."""
    info: dict[str, Any] = {
        "system": recipe.system_name,
        "modalities": list(system.modalities),
        "task": runs.task_info(splits.task),
        "synthetic": splits.synthetic,
        "facts": dict(splits.facts),
        "seed": recipe.training.seed,
        "selected_on": recipe.training.select_on,
        "parameters": sum(parameter.numel() for parameter in system.parameters()),
    }
    if targets is not None:
        counts = class_counts(targets, splits.task).tolist()
        info["class_counts"] = dict(zip(splits.task.classes, counts, strict=True))
    return info


def _check_kept(out: Path, before: Recipe, now: Recipe) -> None:
    """Whether a run that has a checkpoint can go on by this recipe."""
    spread = before.training.schedule in ("cosine", "onecycle")
    free = FREE if spread else (*FREE, *STEPS)
    changed = ["data.name"] if before.data_name != now.data_name else []
    for section, one, other, may in (
        ("training", before.training, now.training, free),
        ("data", before.data, now.data, PLACES),
    ):
        if type(one) is type(other):
            names = [field.name for field in dataclasses.fields(one) if field.name not in may]  # type: ignore[arg-type]
            changed += [f"{section}.{name}" for name in names if getattr(one, name) != getattr(other, name)]
    if changed:
        steps = " (the schedule is laid out over its steps)" if spread and changed[0][9:] in STEPS else ""
        raise AffuseError(
            f"{out}: a run that has begun keeps its {', '.join(changed)}{steps}; for another value, begin a new run"
        )


def _check_balance(training: Training, splits: Splits, system: System) -> None:
    """Whether the balancing method finds what it needs in this system; looks at a few samples and draws no numbers."""
    if training.balance is None:
        return
    with torch.random.fork_rng(devices=[]):
        samples = [splits.train[index] for index in range(min(len(splits.train), PROBED))]
        balancing(training.balance).check(system, Batch.collate(samples, system.modalities))


def _training_targets(training: Training, splits: Splits, system: System) -> Tensor | None:
    """The class (n,) of each training sample, where something needs it or it costs nothing; the system is told how many."""
    # A source without `targets` has to make each of its samples to tell, so it is asked only where that changes the training.
    counting = type(system).know_classes is not System.know_classes
    drawing = training.sampling != "shuffled"
    if splits.task.kind != "classification":
        if drawing:
            raise AffuseError(
                f"training.sampling is {training.sampling!r}, but a regression has no classes: choose 'shuffled'"
            )
        return None
    if not (counting or drawing or hasattr(splits.train, "targets")):
        return None
    targets = class_targets(splits.train)
    if drawing:
        sampling_chances(targets, splits.task, training.sampling)  # for its error, before a run is begun
    if counting:
        system.know_classes(class_counts(targets, splits.task))
    return targets


def _train(
    recipe: Recipe,
    splits: Splits,
    system: System,
    targets: Tensor | None,
    out: Path,
    checkpoint: Path | None,
    progress: bool,
    with_report: bool = True,
    epochs_done: int = 0,
    when_it_trains: Callable[[], None] = lambda: None,
) -> Path:
    training = recipe.training
    started = time.monotonic() - runs.read_info(out)["seconds"]
    balance = None if training.balance is None else balancing(training.balance)
    module = Fitting(system, training, out, announce=not progress, balance=balance)
    last = ModelCheckpoint(out, filename=Path(runs.CHECKPOINT).stem, save_top_k=1, enable_version_counter=False)
    callbacks: list[Any] = [last, *([RichProgressBar(leave=False)] if progress else [])]
    callbacks += [] if balance is None else [balance]
    callbacks += [MovingAverage(training.ema)] if training.ema else []
    # Then optimisers are made and the checkpoint is loaded: there is nothing left that could refuse the settings.
    callbacks += [LambdaCallback(on_train_start=lambda *_: when_it_trains())]
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
        chances = None if targets is None else sampling_chances(targets, splits.task, training.sampling)
        order = Shuffled(len(splits.train), training.seed, chances)
        order.set_epoch(epochs_done)  # a loader's workers begin before Lightning tells the sampler which epoch it is
        try:
            trainer.fit(
                module,
                loader(_Indexed(splits.train), sampler=order, collate_fn=collate, generator=order.generator),
                loader(_Indexed(selection), collate_fn=collate),
                ckpt_path=checkpoint,
                weights_only=True,
            )
        except (KeyboardInterrupt, SystemExit):
            # Lightning turns Ctrl-C into SystemExit once it has torn down.
            seconds = time.monotonic() - started
            runs.write_json(out / runs.RUN, {**runs.read_info(out), "status": "interrupted", "seconds": seconds})
            raise KeyboardInterrupt from None
    when_it_trains()  # where all epochs were done, none was trained
    if (out / runs.WEIGHTS).is_file():
        system.load_state_dict(load_file(out / runs.WEIGHTS))
    about = {"selected_on": training.select_on}
    _, features = write_metrics(out, system.cpu().eval(), splits, training.batch_size, about)
    info = {**runs.read_info(out), "status": "complete", "seconds": round(time.monotonic() - started, 1)}
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
