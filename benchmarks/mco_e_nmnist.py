"""The event side alone on real events: MCO-E Net on N-MNIST, a tenth held out, three seeds.

    python benchmarks/mco_e_nmnist.py --root DIR [--seeds 1 2 3] [--threads 1] [--out benchmarks/mco_e_nmnist.json]

The seed draws split and weights; the epoch is chosen on validation recordings.
"""

import argparse
import json
import statistics
import tempfile
from pathlib import Path

import torch

from affuse.fit import fit
from affuse.recipe import load_recipe

ROOT = Path(__file__).parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "mco_e_nmnist.json")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows = []
    for seed in arguments.seeds:
        overrides = ["--data.root", str(arguments.root), "--training.seed", str(seed)]
        recipe = load_recipe(ROOT / "recipes" / "mco_e" / "nmnist.yaml", overrides)
        with tempfile.TemporaryDirectory() as folder:
            run = fit(recipe, Path(folder) / "run", progress=False)
            metrics = json.loads((run / "metrics.json").read_text())
        rows.append({"seed": seed, "war": metrics["war"], "uar": metrics["uar"], "samples": metrics["samples"]})
        print(rows[-1], flush=True)
        arguments.out.write_text(json.dumps({"synthetic": False, "rows": rows}, indent=1) + "\n")
    print(f"mean WAR over {len(rows)} seeds: {100 * statistics.mean(row['war']['value'] for row in rows):.1f} %")


if __name__ == "__main__":
    main()
