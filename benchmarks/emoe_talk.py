"""Does the router believe the modality that tells? EMOE on the synthetic talk world, with and without its two router losses.

    python benchmarks/emoe_talk.py [--seeds 11 12 13] [--threads 1] [--out benchmarks/emoe_talk.json]

Each seed draws its own world, speakers and weights; the systems of a seed see the same world. The epoch is chosen on
validation speakers, the figures are of test speakers. The world and the recipe were settled while looking at seed 0, which
is therefore not among these. Rows that --out already holds for the same recipe are not measured again. All figures are
synthetic.
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
SETTINGS = {
    "EMOE": [],
    "without similarity": ["--system.similarity", "false"],
    "without entropy": ["--system.router_entropy", "false"],
    "without both": ["--system.similarity", "false", "--system.router_entropy", "false"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[11, 12, 13])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "emoe_talk.json")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    source = ROOT / "recipes" / "emoe" / "talk.yaml"
    settings = yaml.safe_load(source.read_text())
    before = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    rows: list[dict] = before["rows"] if before.get("recipe") == settings else []
    for seed in arguments.seeds:
        splits = None
        for name, changes in SETTINGS.items():
            if any(row["seed"] == seed and row["system"] == name for row in rows):
                continue
            recipe = load_recipe(source, ["--training.seed", str(seed), *changes])
            splits = splits or recipe.data.splits(seed)
            with tempfile.TemporaryDirectory() as folder:
                run = fit(recipe, Path(folder) / "run", progress=False, splits=splits)
                metrics = json.loads((run / "metrics.json").read_text())
            figures = {
                "mae": metrics["mae"]["value"],
                "router_on_informative": metrics["router_on_informative"]["value"],
            }
            rows.append({"seed": seed, "system": name, **figures})
            print(seed, name, figures, flush=True)
            arguments.out.write_text(json.dumps({"synthetic": True, "recipe": settings, "rows": rows}) + "\n")
    print("\n| synthetic talk | largest weight on the modality that tells, % | MAE |\n|---|---|---|")
    for name in SETTINGS:
        of_name = [row for row in rows if row["system"] == name]
        if of_name:
            hits = described([100 * row["router_on_informative"] for row in of_name], 1)
            print(f"| {name} | {hits} | {described([row['mae'] for row in of_name], 3)} |")


def described(values: list[float], digits: int) -> str:
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.{digits}f} ± {spread:.{digits}f}"


if __name__ == "__main__":
    main()
