"""Runs: the folder that `fit` writes and every other verb reads."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from affuse.folding import fold
from affuse.recipe import Recipe, load_recipe
from affuse.systems import SYSTEMS
from affuse.types import AffuseError, System, Task

RECIPE, RUN, WEIGHTS, HISTORY = "recipe.yaml", "run.json", "weights.safetensors", "history.jsonl"
STATUS = ("running", "interrupted", "complete")
METRICS, PREDICTIONS, EXAMPLES, CHECKPOINT = "metrics.json", "predictions.jsonl", "examples.safetensors", "last.ckpt"
FEATURES = "features.safetensors"


@dataclass(frozen=True)
class Run:
    """A run as it stands on disk: its folder, recipe, facts, and the trained system in evaluation mode."""

    path: Path
    recipe: Recipe
    info: dict[str, Any]
    system: System


def load_run(path: str | Path, overrides: Iterable[str] = ()) -> Run:
    """Read a run.

    Raises:
        AffuseError: the folder is not a run, or its weights are missing, broken or of another architecture.
    """
    path = Path(path)
    info = read_info(path)
    recipe = load_recipe(path / RECIPE, list(overrides))
    system = SYSTEMS[recipe.system_name](without_pretrained(recipe.system), task_of(info))
    weights = path / WEIGHTS
    if not weights.is_file():
        status = info["status"]
        remedy = "copy the file again or train again" if status == "complete" else f"affuse fit --resume {path}"
        raise AffuseError(f"{weights}: no such file, and the run is {status}: {remedy}")
    try:
        system.load_state_dict(load_file(weights))
    except (SafetensorError, OSError) as error:
        raise AffuseError(f"{weights}: cannot be read ({error}); copy it again or train again") from None
    except RuntimeError as error:
        raise AffuseError(
            f"{weights}: does not fit the recipe beside it: {' '.join(str(error).split())[:300]}"
        ) from None
    return Run(path, recipe, info, system.eval())


def load_to_answer(path: str | Path, overrides: Iterable[str] = ()) -> Run:
    """`load_run` with the system folded: it gives the same answers but for rounding, in less time, and cannot train.

    Raises:
        AffuseError: as `load_run`.
    """
    run = load_run(path, overrides)
    fold(run.system)
    return run


def without_pretrained(config: Any) -> Any:
    """The configuration as it is rebuilt around saved weights: nothing is fetched again."""
    import dataclasses

    fetched = {"pretrained": False, "encoder_weights": None}
    known = {field.name for field in dataclasses.fields(config)}
    return dataclasses.replace(config, **{key: value for key, value in fetched.items() if key in known})


def task_info(task: Task) -> dict[str, Any]:
    """A task as `run.json` keeps it."""
    value_range = None if task.value_range is None else list(task.value_range)
    return {"kind": task.kind, "classes": list(task.classes), "value_range": value_range, "units": task.units}


def task_of(info: Mapping[str, Any]) -> Task:
    """The task that `run.json` holds."""
    task = info["task"]
    value_range = task.get("value_range")  # not in the runs of version 0.1.0
    scale = None if value_range is None else (float(value_range[0]), float(value_range[1]))
    return Task(task["kind"], tuple(task["classes"]), scale, str(task.get("units", "")))


def read_info(path: Path) -> dict[str, Any]:
    """What `run.json` says."""
    if not (path / RUN).is_file() or not (path / RECIPE).is_file():
        raise AffuseError(f"{path}: not a run folder (it has no {RUN} and {RECIPE}); affuse fit writes one")
    try:
        info = json.loads((path / RUN).read_text())
        info["task"]["classes"] = list(info["task"]["classes"])
        if info["task"]["kind"] not in ("classification", "regression") or info["status"] not in STATUS:
            raise ValueError
        task_of(info)
        info["seconds"] = float(info["seconds"])
    except (ValueError, KeyError, TypeError, IndexError, RecursionError, AffuseError):
        raise AffuseError(f"{path / RUN}: broken; train again or restore the file") from None
    return info


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text)
    os.replace(temporary, path)


def write_json(path: Path, value: Any) -> None:
    """Write JSON whole or not at all."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON line a row, whole or not at all."""
    write_text(path, "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows))


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read JSON lines; an absent file has none."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def save_weights(system: System, path: Path) -> None:
    """Weights as safetensors, whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    save_file({name: tensor.contiguous().clone() for name, tensor in system.state_dict().items()}, temporary)
    os.replace(temporary, path)


def write_features(features: Mapping[str, Tensor], path: Path) -> None:
    """Feature vectors as safetensors, whole or not at all; where there are none, an old file goes."""
    if not features:
        path.unlink(missing_ok=True)
        return
    temporary = path.with_name(path.name + ".tmp")
    save_file({name: tensor.contiguous() for name, tensor in features.items()}, temporary)
    os.replace(temporary, path)


def manifest_hash(rows: Iterable[Mapping[str, Any]], facts: Mapping[str, Any]) -> str:
    """SHA-256 over what was in the data: the facts, and id and target of every test sample."""
    content = [dict(facts), sorted((str(row["id"]), int(row.get("crop") or 0), row["target"]) for row in rows)]
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def environment() -> dict[str, Any]:
    """Versions and hardware that a number depends on."""
    packages = ("affuse", "torch", "torchvision", "lightning", "timm", "numpy")
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "packages": {name: metadata.version(name) for name in packages},
    }
