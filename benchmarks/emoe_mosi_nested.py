"""EMOE on real CMU-MOSI utterances with its size, context and length of training chosen on the other half of the videos.

    python benchmarks/emoe_mosi_nested.py --root DIR [--halves 0 1] [--out benchmarks/emoe_mosi_nested.json]

emoe_mosi.py takes EMOE's settings from a recipe that was looked for on all `dev` videos. Here a small grid around it is
trained; one half of the videos chooses from the grid by mean accuracy over five seeds, and the other half is measured, both
ways. What stands outside of the grid (one layer, dropout, SGD) still comes from that search.
"""

import argparse
import itertools
import json
import statistics
import tempfile
from pathlib import Path

import torch
import yaml
from emoe_mosi import COMMON, ROOT

from affuse.fit import fit
from affuse.recipe import resolve

SEEDS = (1, 2, 3, 4, 5)
GRID = list(itertools.product((32, 64, 128), (2, 3), (3, 5, 8)))  # d_model, neighbours on each side, epochs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", required=True)
    parser.add_argument("--halves", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "emoe_mosi_nested.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict] = json.loads(arguments.out.read_text())["rows"] if arguments.out.exists() else []
    done = {(*row["setting"], row["half"], row["seed"]) for row in rows}
    for half, setting, seed in itertools.product(arguments.halves, GRID, SEEDS):
        if (*setting, half, seed) not in done:
            rows.append(measured(arguments.root, setting, half, seed))
            arguments.out.write_text(json.dumps({"rows": rows}) + "\n")
    tested = []
    for half in sorted({row["half"] for row in rows}):
        of_half = [row for row in rows if row["half"] == half]
        chosen = max(
            GRID, key=lambda s: statistics.mean(r["validation_war"] for r in of_half if tuple(r["setting"]) == s)
        )
        kept = [row for row in of_half if tuple(row["setting"]) == chosen]
        war, uar = (statistics.mean(row[key] for row in kept) for key in ("test_war", "test_uar"))
        tested.append((kept[0]["samples"], war, uar))
        print(f"half {half}: chosen {chosen}, accuracy {100 * war:.1f} %, balanced {100 * uar:.1f} %")
    total = sum(samples for samples, _, _ in tested)
    war, uar = (sum(row[0] * row[column] for row in tested) / total for column in (1, 2))
    print(f"both halves: accuracy {100 * war:.1f} %, balanced {100 * uar:.1f} %")


def measured(root: str, setting: tuple[int, int, int], half: int, seed: int) -> dict:
    width, context, epochs = setting
    system = yaml.safe_load((ROOT / "recipes" / "emoe" / "mosi_utterances.yaml").read_text())["system"]
    recipe = resolve(
        {
            # A kernel that sees all neighbours from the last step.
            "system": {**system, "d_model": width, "kernel": 4 * context + 1},
            "data": {"name": "mosi_utterances", "root": root, "context": context, "half": half},
            "training": {**COMMON, "optimizer": "sgd", "lr": 1e-2, "epochs": epochs, "seed": seed},
        },
        "benchmark",
    )
    with tempfile.TemporaryDirectory() as folder:
        run = fit(recipe, Path(folder) / "run", progress=False, with_report=False)
        history = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
        metrics = json.loads((run / "metrics.json").read_text())
    return {
        "setting": setting,
        "half": half,
        "seed": seed,
        "validation_war": history[-1]["validation/war"],
        "test_war": metrics["war"]["value"],
        "test_uar": metrics["uar"]["value"],
        "samples": metrics["samples"],
    }


if __name__ == "__main__":
    main()
