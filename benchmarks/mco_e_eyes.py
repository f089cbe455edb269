"""Does fusing help where light is bad? MCO-E Net on the synthetic eye world: fused, RGB only, event only; five seeds.

    python benchmarks/mco_e_eyes.py [--seeds 11 12 13 14 15] [--threads 1] [--out benchmarks/mco_e_eyes.json]

Each seed draws its own world, subjects and weights; the three systems of a seed see the same world. The epoch is chosen
on validation subjects, the figures are of test subjects. It is the demo's recipe. The world's lights and the recipe were
settled while looking at seeds 0 to 4, which are therefore not among these. Rows that --out already holds for the same
recipe are not measured again. All figures are synthetic.
"""

import argparse
import json
import statistics
import tempfile
from pathlib import Path

import torch
import yaml

from affuse.fit import fit
from affuse.recipe import load_recipe

ROOT = Path(__file__).parents[1]
SETTINGS = {"fused": "[rgb, event]", "rgb only": "[rgb]", "event only": "[event]"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[11, 12, 13, 14, 15])
    parser.add_argument("--systems", nargs="+", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "mco_e_eyes.json")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    source = ROOT / "recipes" / "mco_e" / "eyes.yaml"
    settings = yaml.safe_load(source.read_text())
    before = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    rows: list[dict] = before["rows"] if before.get("recipe") == settings else []
    for seed in arguments.seeds:
        splits = None
        for name, modalities in SETTINGS.items():
            if name not in arguments.systems or any(row["seed"] == seed and row["system"] == name for row in rows):
                continue
            recipe = load_recipe(source, ["--training.seed", str(seed), "--system.modalities", modalities])
            splits = splits or recipe.data.splits(seed)
            with tempfile.TemporaryDirectory() as folder:
                run = fit(recipe, Path(folder) / "run", progress=False, splits=splits)
                metrics = json.loads((run / "metrics.json").read_text())
            rows.append({"seed": seed, "system": name, "metrics": metrics})
            print(seed, name, metrics["war"]["value"], flush=True)
            arguments.out.write_text(json.dumps({"synthetic": True, "recipe": settings, "rows": rows}) + "\n")
    print_table(rows)


def print_table(rows: list[dict]) -> None:
    conditions = list(rows[0]["metrics"]["per_condition"])
    print(f"\n| synthetic eyes, WAR % | all | {' | '.join(conditions)} |")
    print("|---|" + "---|" * (len(conditions) + 1))
    for name in SETTINGS:
        of_name = [row["metrics"] for row in rows if row["system"] == name]
        cells = [[m["war"]["value"] for m in of_name]]
        cells += [[m["per_condition"][condition]["value"] for m in of_name] for condition in conditions]
        print(
            f"| {name} | " + " | ".join(f"{100 * statistics.mean(c):.1f} ± {100 * spread(c):.1f}" for c in cells) + " |"
        )
    fused = [row["metrics"] for row in rows if row["system"] == "fused"]
    correlations = [m["event_weight_vs_rgb_lost"] for m in fused]
    print(f"\nrank correlation of the event weight with the signal RGB lost, by seed: {correlations}")


def spread(values: list[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0


if __name__ == "__main__":
    main()
