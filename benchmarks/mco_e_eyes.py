"""Does fusing help where light is bad? MCO-E Net on the synthetic eye world: fused, RGB only, event only; five seeds.

    python benchmarks/mco_e_eyes.py [--seeds 16 17 18 19 20] [--only ROW ...] [--out benchmarks/mco_e_eyes.json]

Each seed draws its own world, subjects and weights; the three systems of a seed see the same world. The epoch is chosen on
validation subjects, the figures are of test subjects. It is the demo's recipe (the demo stops at 15 epochs). The world's lights
and the recipe were settled while looking at seeds 0 to 4, and seeds 11 to 15 were measured before its last change, so none of
these is among them. Rows that --out already holds for the same recipe are not measured again. All figures are synthetic.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from repeated_runs import described, repeated_runs

HERE = Path(__file__).parent
SOURCE = HERE.parent / "recipes" / "mco_e" / "eyes.yaml"
ROWS = {
    "fused": ["--system.modalities", "[rgb, event]"],
    "rgb only": ["--system.modalities", "[rgb]"],
    "event only": ["--system.modalities", "[event]"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[16, 17, 18, 19, 20])
    parser.add_argument("--only", nargs="+", default=[], choices=ROWS, help="rows to measure now", metavar="ROW")
    parser.add_argument("--out", type=Path, default=HERE / "mco_e_eyes.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    seeds = {f"seed {seed}": ["--training.seed", str(seed)] for seed in arguments.seeds}
    print_table(repeated_runs(SOURCE, ROWS, seeds, arguments.out, figures, only=arguments.only))


def figures(run: Path) -> dict[str, Any]:
    """WAR of all and by light; how far the event weight follows what RGB lost (fused alone)."""
    metrics = json.loads((run / "metrics.json").read_text())
    return {
        "war": metrics["war"]["value"],
        "by_light": {light: part["value"] for light, part in metrics["per_condition"].items()},
        "event_weight_vs_rgb_lost": metrics["event_weight_vs_rgb_lost"],
    }


def print_table(results: list[dict[str, Any]]) -> None:
    lights = list(results[0]["by_light"]) if results else []
    print(f"\n| synthetic eyes, WAR % | all | {' | '.join(lights)} |")
    print("|---|" + "---|" * (len(lights) + 1))
    for name in ROWS:
        found = [result for result in results if result["row"] == name]
        if found:
            cells = [[result["war"] for result in found]]
            cells += [[result["by_light"][light] for result in found] for light in lights]
            print(f"| {name} | {' | '.join(described([100 * value for value in cell]) for cell in cells)} |")
    correlations = [result["event_weight_vs_rgb_lost"] for result in results if result["row"] == "fused"]
    print(f"\nrank correlation of the event weight with the signal RGB lost, by seed: {correlations}")


if __name__ == "__main__":
    main()
