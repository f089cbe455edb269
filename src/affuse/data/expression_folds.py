"""The score of several folds: each fold's, their mean, and that of all test clips taken together."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from affuse.data.run_protocol import differing, protocol_of
from affuse.types import AffuseError

_FREE = ("root", "lists", "fold", "cache")  # of the data, what may differ between the runs of two folds


@dataclass(frozen=True)
class _FoldRun:
    path: Path
    fold: int
    folds: int
    classes: tuple[str, ...]
    settings: dict[str, Any]
    selected_on: str
    targets: dict[str, int]
    right: dict[str, bool]


def pooled_over_folds(runs: Sequence[str | Path]) -> dict[str, Any]:
    """WAR and UAR of runs on different folds of one data set: per fold, their mean, and pooled.

    A test clip that was not answered counts as wrong. The mean recall of a fold is over the classes that its test part has.

    Args:
        runs: folders that ``affuse fit`` wrote, one a fold, in any order.

    Returns:
        ``war`` and ``uar``, each a share from 0 to 1 with ``mean`` (over the folds: the published score), ``pooled`` (all test
        clips as one) and ``by_fold``; ``recall`` of each class, pooled; ``counts`` of the test clips of each fold;
        ``selected_on``; and ``folds``, which says whether all folds are there as ``complete``.

    Raises:
        AffuseError: not runs on folds, a fold twice, a clip in the test part of two, or runs whose settings differ.
    """
    if not runs:
        raise AffuseError("no run is given; give one for each fold")
    found: dict[int, _FoldRun] = {}
    for path in map(Path, runs):
        run = _read(path)
        if run.fold in found:
            raise AffuseError(f"{path}: fold {run.fold} is there twice; give one run a fold")
        found[run.fold] = run
    first, *others = found.values()
    for other in others:
        unlike = differing(first.settings, other.settings) + (["classes"] if first.classes != other.classes else [])
        if unlike:
            raise AffuseError(f"{first.path} and {other.path} differ in {', '.join(unlike)[:200]}; train them alike")
        shared = set(first.targets) & set(other.targets)
        if shared:
            raise AffuseError(f"{first.path} and {other.path} were tested on the same clip ({min(shared)})")
    folds = sorted(found)
    names = range(len(first.classes))
    war, uar = {}, {}
    everything = [pair for fold in folds for pair in _answers(found[fold])]
    for fold in folds:
        war[fold], uar[fold] = _scores(_answers(found[fold]))
    pooled = _scores(everything)
    recalls = {first.classes[index]: [right for target, right in everything if target == index] for index in names}
    return {
        "war": {"mean": sum(war.values()) / len(war), "pooled": pooled[0], "by_fold": {str(f): war[f] for f in folds}},
        "uar": {"mean": sum(uar.values()) / len(uar), "pooled": pooled[1], "by_fold": {str(f): uar[f] for f in folds}},
        "recall": {name: sum(right) / len(right) if right else None for name, right in recalls.items()},
        "counts": {str(fold): len(found[fold].targets) for fold in folds},
        "selected_on": first.selected_on,
        "folds": {"there": folds, "complete": len(folds) == first.folds},
    }


def _answers(run: _FoldRun) -> list[tuple[int, bool]]:
    return [(target, run.right[name]) for name, target in run.targets.items()]


def _scores(answers: Sequence[tuple[int, bool]]) -> tuple[float, float]:
    """WAR and UAR of (target, whether right)."""
    by_class: dict[int, list[bool]] = {}
    for target, right in answers:
        by_class.setdefault(target, []).append(right)
    recalls = [sum(right) / len(right) for right in by_class.values()]
    return sum(right for _, right in answers) / len(answers), sum(recalls) / len(recalls)


def _read(path: Path) -> _FoldRun:
    predictions = path / "predictions.jsonl"
    try:
        settings, info = protocol_of(path, _FREE)
        rows = [json.loads(line) for line in predictions.read_text().splitlines()]
        tested = [row for row in rows if row["split"] == "test"]
        targets = {str(row["id"]): int(row["target"]) for row in tested}
        right = {str(row["id"]): row["prediction"] == row["target"] for row in tested}
        run = _FoldRun(
            path,
            int(info["facts"]["fold"]),
            int(info["facts"]["folds"]),
            tuple(map(str, info["task"]["classes"])),
            settings,
            str(info["selected_on"]),
            targets,
            right,
        )
    except OSError as error:
        raise AffuseError(f"{error.filename}: no such file; give folders that affuse fit wrote") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, yaml.YAMLError):
        raise AffuseError(
            f"{path}: not a finished run on a fold of a data set that has folds; run affuse evaluate on it"
        ) from None
    if not targets or len(targets) < len(tested):
        raise AffuseError(f"{predictions}: no test clip, or one of them twice; run affuse evaluate on {path}")
    return run
