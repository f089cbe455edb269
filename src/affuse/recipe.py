"""Recipes: a system, its data and its training as a YAML file. Pure data, never executed."""

from __future__ import annotations

import copy
import dataclasses
import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml
from jsonargparse import ArgumentError, ArgumentParser

from affuse.balance import METHODS, BalanceSettings
from affuse.data import DATASETS
from affuse.data.splits import DataConfig
from affuse.systems import SYSTEMS
from affuse.types import AffuseError

SEEDS = 2**32  # NumPy takes no larger ones for its global generator


@dataclass(frozen=True)
class Training:
    """How a system is trained.

    Args:
        epochs: passes over the training split.
        batch_size: samples a step.
        optimizer: ``adamw``, ``adam`` (its weight decay is part of the gradient) or ``sgd`` (momentum 0.9).
        lr: peak learning rate.
        encoder_lr: that of the system's pretrained parts, such as a text encoder; None: the same as the others'.
        weight_decay: of the optimiser.
        schedule: ``constant``; ``cosine`` to zero; ``onecycle``; ``exponential``: times `gamma` after each epoch;
            ``plateau``: times `plateau_factor` once what `select` looks at has not improved for more than `plateau_patience`
            epochs (torch's ReduceLROnPlateau).
        gamma: of the exponential schedule, above 0.
        plateau_factor: of the plateau schedule.
        plateau_patience: epochs, of the plateau schedule.
        patience: training ends after this many epochs in a row in which what `select` looks at has not improved; 0: never.
        accumulate: batches whose gradients are averaged before the optimiser steps. What is left of an epoch makes a last,
            smaller step.
        clip_norm: largest norm of the gradient; 0 leaves it alone.
        modality_dropout: share of training samples that lose one of their modalities, if they have several.
        select: what chooses the epoch that is kept: of a classification ``war``, ``uar`` or ``f1`` (macro), of a regression
            ``mae`` (the smallest), ``corr`` or ``acc2_non0``, of both ``loss`` (the smallest) or ``last``, which keeps the
            last. ``auto`` is ``war`` in a classification, ``mae`` in a regression.
        select_on: ``validation``; ``test`` exists to repeat published protocols, and marks the run.
        sampling: of an epoch's training samples: ``shuffled``, each once; ``balanced``, each class equally likely, or
            ``square_root``, in proportion to the square root of its count, both with replacement and as many as there are.
            Class weights beside it balance a second time.
        ema: decay, in [0, 1), of an exponential moving average of the weights, which is then what is validated, selected and
            saved (`affuse.ema.MovingAverage`); 0: the weights themselves.
        balance: a method that balances modalities, by its ``name`` with its settings: ``ogm_ge``, ``pmr`` or ``agm``
            (`affuse.balance`); None: plain joint training.
        seed: of weights, order, crops and split; below 2^32.
        workers: processes that load samples; 0 loads in the main one.
        accelerator: as Lightning names it.
        devices: 1; more of them, each a process of its own, would all write the run.
        precision: as Lightning names it.
    """

    epochs: int = 10
    batch_size: int = 32
    optimizer: Literal["adamw", "adam", "sgd"] = "adamw"
    lr: float = 1e-3
    encoder_lr: float | None = None
    weight_decay: float = 1e-3
    schedule: Literal["constant", "cosine", "onecycle", "exponential", "plateau"] = "cosine"
    gamma: float = 0.94
    plateau_factor: float = 0.5
    plateau_patience: int = 5
    patience: int = 0
    accumulate: int = 1
    clip_norm: float = 0.0
    modality_dropout: float = 0.0
    select: Literal["auto", "war", "uar", "f1", "mae", "corr", "acc2_non0", "loss", "last"] = "auto"
    select_on: Literal["validation", "test"] = "validation"
    sampling: Literal["shuffled", "balanced", "square_root"] = "shuffled"
    ema: float = 0.0
    balance: BalanceSettings | None = None
    seed: int = 0
    workers: int = 0
    accelerator: str = "cpu"
    devices: int = 1
    precision: str = "32-true"


def check_training(training: Training) -> None:
    """Values that a type alone does not exclude; Lightning or PyTorch would stumble over them with a run half begun.

    Raises:
        AffuseError: a setting makes no sense.
    """
    least = {
        "epochs": 1,
        "batch_size": 1,
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
    if training.seed >= SEEDS:
        raise AffuseError(f"training.seed is {training.seed}; it must be a number below {SEEDS}")
    if training.devices != 1:
        raise AffuseError(
            f"training.devices is {training.devices}; it must be 1: each further device is a process of its own, and all of "
            "them would write the same run"
        )
    if not 0 < training.gamma < float("inf"):
        raise AffuseError(f"training.gamma is {training.gamma}; it must be a number above 0")
    if not 0 <= training.modality_dropout <= 1:
        raise AffuseError(f"training.modality_dropout is {training.modality_dropout}; it is a share, from 0 to 1")
    if not 0 <= training.ema < 1:
        raise AffuseError(f"training.ema is {training.ema}; it is a decay, from 0 (no average) to below 1")
    if not 0 < training.plateau_factor < 1:
        raise AffuseError(f"training.plateau_factor is {training.plateau_factor}; it must lie between 0 and 1")
    if training.precision in (
        "16-true",
        "bf16-true",
        "64-true",
        "64",
        "transformer-engine",
        "transformer-engine-float16",
    ):
        # Lightning would cast a whole batch, token ids and clocks too; a frozen `Batch` refuses.
        raise AffuseError(
            f"training.precision is {training.precision!r}; the weights stay in 32 bits: choose 32-true, bf16-mixed or "
            "16-mixed"
        )
    if training.select == "last" and (training.patience or training.schedule == "plateau"):
        raise AffuseError(
            "training.select 'last' looks at no metric, so patience 0 and another schedule than plateau belong to it"
        )


@dataclass(frozen=True)
class Recipe:
    """A resolved recipe; `settings` is the plain data it was made from, defaults not filled in."""

    system_name: str
    system: Any
    data_name: str
    data: DataConfig
    training: Training
    settings: dict[str, Any]

    def to_yaml(self) -> str:
        """Every setting, defaults filled in, as a recipe that gives this one again."""
        plain = {
            "system": {"name": self.system_name, **dataclasses.asdict(self.system)},
            "data": {"name": self.data_name, **dataclasses.asdict(self.data)},  # type: ignore[call-overload]
            "training": dataclasses.asdict(self.training),
        }
        return yaml.safe_dump(_plain(plain), sort_keys=False)


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read and validate a recipe.

    Args:
        path: the YAML file.
        overrides: ``--section.key value`` or ``--section.key=value``, as on the command line. A value is YAML; of a setting
            that is text it is taken as it stands, but for quotes around it, and for ``null`` where None is allowed.

    Raises:
        AffuseError: the file cannot be read, a key is unknown (the nearest one is named), a value is of a wrong type, or a
            training setting makes no sense.
    """
    path = Path(path)
    try:
        settings = yaml.safe_load(path.read_text())
    except OSError as error:
        raise AffuseError(f"{path}: cannot read this recipe ({error.strerror}); give the path of a YAML file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise AffuseError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(settings, dict):
        raise AffuseError(f"{path}: a recipe is a mapping with the sections system, data and training")
    return resolve(_overridden(settings, overrides), str(path))


def resolve(settings: dict[str, Any], where: str) -> Recipe:
    """Validate plain settings; `where` names their source in errors."""
    _check_keys(settings, ("system", "data", "training"), where, "")
    system_name, system_settings = _named(settings, "system", tuple(SYSTEMS), where)
    data_name, data_settings = _named(settings, "data", tuple(DATASETS), where)
    return Recipe(
        system_name,
        _validated(SYSTEMS[system_name].Config, system_settings, "system", where),
        data_name,
        _validated(DATASETS[data_name], data_settings, "data", where),
        _training(settings.get("training") or {}, where),
        settings,
    )


def _training(values: Any, where: str) -> Training:
    training = _validated_training(values, where)
    try:
        check_training(training)
    except AffuseError as error:
        raise AffuseError(f"{where}: {error}") from None
    return training


def _validated_training(values: Any, where: str) -> Training:
    """The training section; `balance` in it is a section of its own, whose name says which settings it has."""
    chosen = values.get("balance") if isinstance(values, dict) else None
    if chosen is None:
        training: Training = _validated(Training, values, "training", where)
        return training
    section = "training.balance"
    # A bare name is the method with its defaults.
    method = {"name": chosen} if isinstance(chosen, str) else chosen
    name, own = _named({section: method}, section, tuple(METHODS), where)
    balance = _validated(METHODS[name], own, section, where)
    training = _validated(
        Training, {key: value for key, value in values.items() if key != "balance"}, "training", where
    )
    return dataclasses.replace(training, balance=balance)


def _overridden(settings: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    settings = copy.deepcopy(settings)
    words = list(overrides)
    found: list[tuple[str, list[str], str]] = []
    while words:
        word = words.pop(0)
        if not word.startswith("--"):
            raise AffuseError(f"expected --section.key value, got {word!r}")
        key, equals, value = word[2:].partition("=")
        if not equals:
            if not words:
                raise AffuseError(f"--{key} needs a value")
            value = words.pop(0)
        section, *names = key.split(".")
        if not names:
            raise AffuseError(f"unknown option --{key}: settings are --section.key{_nearest_setting(key, settings)}")
        found.append((section, names, value))
    # Names first: of which type a setting is depends on what it is a setting of.
    for section, names, value in sorted(found, key=lambda one: one[1] != ["name"]):
        values: Any = settings.setdefault(section, {})
        for name in names[:-1]:
            values = values.setdefault(name, {}) if isinstance(values, dict) else None
        if not isinstance(values, dict):
            raise AffuseError(f"--{'.'.join([section, *names])}: the recipe has no mapping to set it in")
        values[names[-1]] = _read_word(value, _type_of(_config(settings, section), names))
    return settings


def _read_word(word: str, kind: Any) -> Any:
    """A word of the command line as YAML; where text is wanted as it stands, for a folder may be called 2024, on or null."""
    members = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    text = str in members and word[:1] not in ("'", '"') and all(member in (str, type(None)) for member in members)
    if text and not (type(None) in members and word in ("null", "~", "")):
        return word
    try:
        return yaml.safe_load(word)
    except yaml.YAMLError:
        return word


def _config(settings: dict[str, Any], section: str) -> Any:
    """What holds the settings of a section; None where it does not name it."""
    if section == "training":
        return Training
    values = settings.get(section)
    name = values.get("name") if isinstance(values, dict) else None
    known: dict[str, Any] = {}
    if section == "system":
        known = {key: system.Config for key, system in SYSTEMS.items()}
    elif section == "data":
        known = dict(DATASETS)
    return known.get(name) if isinstance(name, str) else None


def _type_of(config: Any, names: Sequence[str]) -> Any:
    """The type of a setting, of a nested one too; None where there is no such setting."""
    kind = config
    for name in names:
        members = [kind, *get_args(kind)]  # `X | None` holds the settings of X
        config = next((member for member in members if dataclasses.is_dataclass(member)), None)
        kind = None if config is None else get_type_hints(config).get(name)
    return kind


def _named(settings: dict[str, Any], section: str, names: tuple[str, ...], where: str) -> tuple[str, dict[str, Any]]:
    values = settings.get(section)
    if not isinstance(values, dict) or "name" not in values:
        raise AffuseError(f"{where}: section {section!r} needs a name, one of {', '.join(names)}")
    name = values["name"]
    if name not in names:
        raise AffuseError(f"{where}: unknown {section} {name!r}{_nearest(str(name), names)}")
    return name, {key: value for key, value in values.items() if key != "name"}


def _validated(config: Any, values: Any, section: str, where: str) -> Any:
    if not isinstance(values, dict):
        raise AffuseError(f"{where}: section {section!r} is a mapping of settings")
    fields = {field.name: field for field in dataclasses.fields(config)}
    _check_keys(values, tuple(fields), where, section + ".")
    values = dict(values)
    for name, field in fields.items():
        if name not in values and field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise AffuseError(
                f"{where}: {section}.{name} is not set; give it in the recipe or as --{section}.{name} VALUE"
            )
        default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        if dataclasses.is_dataclass(default) and not isinstance(default, type) and isinstance(values.get(name), dict):
            # A nested section changes single settings of its default.
            nested = dataclasses.asdict(default)
            _check_keys(values[name], tuple(nested), where, f"{section}.{name}.")
            values[name] = {**nested, **values[name]}
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(config)
    try:
        return config(**dict(parser.instantiate_classes(parser.parse_object(values)).items()))
    except AffuseError as error:
        raise AffuseError(f"{where}: {section}: {error}") from None
    except (ArgumentError, TypeError, ValueError, KeyError) as error:
        raise AffuseError(f"{where}: section {section!r}: {' '.join(str(error).split())}") from None


def _check_keys(values: dict[Any, Any], known: tuple[str, ...], where: str, prefix: str) -> None:
    for key in values:
        if key not in known:
            raise AffuseError(f"{where}: unknown key {prefix}{key}{_nearest(str(key), known)}")


def _nearest(word: str, known: tuple[str, ...]) -> str:
    close = difflib.get_close_matches(word, known, 1, 0.0)
    return f"; did you mean {close[0]!r}?" if close else ""


def _nearest_setting(key: str, settings: dict[str, Any]) -> str:
    """The setting of any section whose last word is nearest."""
    configs = {section: _config(settings, section) for section in ("training", "system", "data")}
    names = {
        field.name: f"--{section}.{field.name}"
        for section, config in configs.items()
        if config is not None
        for field in dataclasses.fields(config)
    }
    close = difflib.get_close_matches(key, names, 1, 0.0)
    return f"; did you mean {names[close[0]]}?" if close else ""


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
