"""TAAF-SNN on real event-audio digits (N-MNIST x FSDD, 5 time steps), beside its non-spiking twin and other training.

    python benchmarks/taaf_digits.py --root DIR [--seeds 11 12 13 14 15] [--out benchmarks/taaf_digits.json]

DIR holds the folders nmnist and fsdd. Each seed draws splits, pairs and weights; no event recording and no take of a speaker
stands in two splits. The epoch is chosen on validation pairs. The recipe was settled on seed 0, which is not among these.
"""

import argparse
from pathlib import Path

import torch
from repeated_runs import described, repeated_runs
from taaf_rows import BALANCED, alone, figures

HERE = Path(__file__).parent
SOURCE = HERE.parent / "recipes" / "taaf" / "digits.yaml"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[11, 12, 13, 14, 15])
    parser.add_argument("--out", type=Path, default=HERE / "taaf_digits.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = {
        **{name: BALANCED[name] for name in ("TAAF-SNN", "joint", "OGM-GE")},
        "non-spiking twin": ["--system.neuron.kind", "relu"],
        **alone(SOURCE),
    }
    seeds = {f"seed {seed}": ["--training.seed", str(seed)] for seed in arguments.seeds}
    results = repeated_runs(SOURCE, rows, seeds, arguments.out, figures, ["--data.root", arguments.root])
    print(
        "\n| event-audio digits, WAR % | fused | event, of the same network | audio, of the same network |\n|---|---|---|---|"
    )
    for name in rows:
        found = [result for result in results if result["row"] == name]
        cells = [described([100 * result["war"] for result in found], 2)] if found else [""]
        for modality in ("event", "audio"):
            own = [100 * r["unimodal"][modality]["war"] for r in found if modality in r["unimodal"]]
            cells.append(described(own, 2) if own else "")
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
