"""EMOE on ICT-MMMO and YouTube, whose training text is really missing in part: what is left as ever more test text is lost?

    python benchmarks/emoe_missing_text.py --root DIR [--seeds 1 2 3 4 5] [--out benchmarks/emoe_missing_text.json]

DIR holds the folders mmmo and youtube. The recipe is recipes/emoe/mmmo.yaml: of the samples that have text, two fifths train,
one fifth chooses the epoch, two fifths are the test part, drawn anew by each seed; the other training samples have none. The
same trained system answers the test part with a growing share of its text taken away. Who speaks is not in the files, so a
speaker may stand on both sides. Accuracy of MMMO: above the middle of its scale (3) or not.
"""

import argparse
import dataclasses
import json
import statistics
import tempfile
from pathlib import Path

import torch

from affuse import metrics, runs
from affuse.evaluate import answers
from affuse.fit import fit
from affuse.recipe import load_recipe

ROOT = Path(__file__).parents[1]
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "emoe_missing_text.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = [
        row
        for dataset in ("mmmo", "youtube")
        for seed in arguments.seeds
        for row in measured(arguments.root / dataset, dataset, seed)
    ]
    arguments.out.write_text(json.dumps({"rows": rows}) + "\n")
    for dataset in ("mmmo", "youtube"):
        print(f"\n| {dataset}, share of test text missing | {' | '.join(f'{share:.0%}' for share in SHARES)} |")
        print("|---|" + "---|" * len(SHARES))
        for figure in ("accuracy", "majority", "mae", "text_weight"):
            cells = [
                [r[figure] for r in rows if r["dataset"] == dataset and r["share"] == share and r[figure] is not None]
                for share in SHARES
            ]
            if all(cells):
                print(
                    f"| {figure} | " + " | ".join(f"{statistics.mean(c):.3f} ± {spread(c):.3f}" for c in cells) + " |"
                )


def measured(root: Path, dataset: str, seed: int) -> list[dict]:
    changes = ["--data.root", str(root), "--data.dataset", dataset, "--training.seed", str(seed)]
    recipe = load_recipe(ROOT / "recipes" / "emoe" / "mmmo.yaml", changes)
    with tempfile.TemporaryDirectory() as folder:
        run = runs.load_run(fit(recipe, Path(folder) / "run", progress=False, with_report=False))
    rows = []
    for share in SHARES:
        splits = dataclasses.replace(recipe.data, text_missing_test=share).splits(seed)
        records = answers(run.system, splits.test, 64, "test")
        summary = metrics.summarise(records, splits.task, run.system.modalities)
        regression = splits.task.kind == "regression"
        if regression:
            pairs = [(r["target"] > 3, r["answered"] and r["value"] > 3) for r in records]
        else:
            pairs = [(r["target"], r["prediction"]) for r in records]
        truth = [target for target, _ in pairs]
        rows.append(
            {
                "dataset": dataset,
                "seed": seed,
                "share": share,
                "samples": len(records),
                "train": len(splits.train),
                "train_absent": splits.facts["absent"].get("train"),
                "unanswered": summary["unanswered"],
                "accuracy": statistics.mean(target == said for target, said in pairs),
                "majority": max(truth.count(value) for value in set(truth)) / len(truth),
                "mae": summary["mae"]["value"] if regression else None,
                "text_weight": summary["modality_weight"].get("text"),
            }
        )
        print(rows[-1], flush=True)
    return rows


def spread(values: list[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0


if __name__ == "__main__":
    main()
