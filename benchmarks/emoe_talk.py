"""Does the router believe the modality that tells? EMOE on the synthetic talk world, with and without its two router losses.

    python benchmarks/emoe_talk.py [--seeds 11 12 13] [--threads 1] [--out benchmarks/emoe_talk.json]

Each seed draws its own world, speakers and weights; the systems of a seed see the same world. The epoch is chosen on
validation speakers, the figures are of test speakers. The world and the recipe were settled while looking at seed 0, which
is therefore not among these. Rows that --out already holds for the same recipe are not measured again. All figures are
synthetic.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from repeated_runs import described, repeated_runs

HERE = Path(__file__).parent
SOURCE = HERE.parent / "recipes" / "emoe" / "talk.yaml"
ROWS = {
    "EMOE": [],
    "without similarity": ["--system.similarity", "false"],
    "without entropy": ["--system.router_entropy", "false"],
    "without both": ["--system.similarity", "false", "--system.router_entropy", "false"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[11, 12, 13])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=HERE / "emoe_talk.json")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    seeds = {f"seed {seed}": ["--training.seed", str(seed)] for seed in arguments.seeds}
    results = repeated_runs(SOURCE, ROWS, seeds, arguments.out, figures)
    print("\n| synthetic talk | largest weight on the modality that tells, % | MAE |\n|---|---|---|")
    for name in ROWS:
        found = [result for result in results if result["row"] == name]
        hits = described([100 * result["router_on_informative"] for result in found])
        print(f"| {name} | {hits} | {described([result['mae'] for result in found], 3)} |")


def figures(run: Path) -> dict[str, Any]:
    """The mean error, and how often the router's largest weight lies on the modality that tells."""
    metrics = json.loads((run / "metrics.json").read_text())
    return {name: metrics[name]["value"] for name in ("mae", "router_on_informative")}


if __name__ == "__main__":
    main()
