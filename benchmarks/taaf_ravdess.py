"""Does balancing help on real emotions? TAAF-SNN on RAVDESS (sound + action units), beside OGM-GE, PMR, AGM and joint training.

    python benchmarks/taaf_ravdess.py --root DIR [--seeds 11 12 13] [--out benchmarks/taaf_ravdess.json]

Five folds of test actors; validation actors choose the epoch, by UAR. Figures are the mean over the folds of the UAR of each,
then over the seeds. Intervals (95 %) resample the actors of each fold, the same ones for all rows, so that a difference is
one of paired answers. The recipe was settled on the validation actors of fold 0, seed 0.
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from repeated_runs import repeated_runs
from taaf_rows import BALANCED, alone, figures

HERE = Path(__file__).parent
SOURCE = HERE.parent / "recipes" / "taaf" / "ravdess.yaml"
FOLDS, CLASSES, DRAWS = 5, 6, 2000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[11, 12, 13])
    parser.add_argument("--out", type=Path, default=HERE / "taaf_ravdess.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = {**BALANCED, **alone(SOURCE)}
    times = {
        f"seed {seed}, fold {fold}": ["--training.seed", str(seed), "--data.fold", str(fold)]
        for seed in arguments.seeds
        for fold in range(FOLDS)
    }
    results = repeated_runs(SOURCE, rows, times, arguments.out, with_answers, ["--data.root", arguments.root])
    print_table(results, list(rows))


def with_answers(run: Path) -> dict[str, Any]:
    """The figures, and for each actor how often each emotion (row) was answered as which (column), also by each modality."""
    found = figures(run)
    counts: dict[str, dict[str, list[list[int]]]] = defaultdict(
        lambda: defaultdict(lambda: [[0] * CLASSES for _ in range(CLASSES)])
    )
    for line in (run / "predictions.jsonl").read_text().splitlines():
        record = json.loads(line)
        counts["fused"][record["subject"]][record["target"]][record["prediction"]] += 1
        for name, probabilities in record["unimodal"].items():
            if probabilities is not None:
                counts[name][record["subject"]][record["target"]][int(np.argmax(probabilities))] += 1
    return {**found, "confusion_by_actor": counts}


def print_table(results: Sequence[Mapping[str, Any]], names: Sequence[str]) -> None:
    drawn: dict[tuple[str, str], NDArray[np.float64]] = {}
    for name in names:
        of_row = [result for result in results if result["row"] == name]
        for answer in of_row[0]["confusion_by_actor"]:
            drawn[name, answer] = np.mean([resampled(r["confusion_by_actor"][answer], r["time"]) for r in of_row], 0)
    best = max((name for name in names if name.endswith(" alone")), key=lambda name: drawn[name, "fused"][0])
    columns = ["audio", "action_units"]
    print(f"\n| RAVDESS, UAR % | fused | over {best} | over joint | {' | '.join(f'its {c}' for c in columns)} |")
    print("|---|---|---|---|---|---|")
    for name in names:
        uar = drawn[name, "fused"]
        cells = [shown(uar), *(shown(uar - drawn[other, "fused"], "+") for other in (best, "joint"))]
        cells += [shown(drawn[name, column]) if (name, column) in drawn else "" for column in columns]
        print(f"| {name} | {' | '.join(cells)} |")


def resampled(by_actor: Mapping[str, Sequence[Sequence[int]]], time: str) -> NDArray[np.float64]:
    """UAR of one fold: of its actors as they are, then of `DRAWS` draws of as many of them, the same in every row and seed.

    Not every actor has clips of every emotion: a draw without one is the mean over the emotions that it has.
    """
    generator = np.random.default_rng(int(time.rsplit(" ", 1)[1]))
    actors = sorted(by_actor)
    counts = np.array([by_actor[actor] for actor in actors])  # a c c
    chosen = np.concatenate(
        [np.arange(len(actors))[None], generator.integers(0, len(actors), (DRAWS, len(actors)))]
    )  # n a
    confusion = counts[chosen].sum(1)  # n c c
    asked = confusion.sum(2)  # n c
    recall = np.divide(
        np.diagonal(confusion, axis1=1, axis2=2), asked, out=np.full(asked.shape, np.nan), where=asked > 0
    )
    return np.nanmean(recall, 1)


def shown(values: NDArray[np.float64], sign: str = "") -> str:
    low, high = np.percentile(100 * values[1:], [2.5, 97.5])
    return f"{100 * values[0]:{sign}.1f} ({low:{sign}.1f} to {high:{sign}.1f})"


if __name__ == "__main__":
    main()
