"""Rare expressions: FER-SSM on the synthetic faces beside its five baselines, and with each way of balancing classes.

    python benchmarks/fer_faces.py [--seeds 11 12 13 14 15] [--only ROW ...] [--out benchmarks/fer_faces.json]
    python benchmarks/fer_faces.py --smoke

Each seed draws its own world, people and weights; the systems of a seed see the same world, as imbalanced as DFEW. The epoch is
chosen on validation people, the figures are of test people. The first row is the recipe as it stands: logits adjusted by how
common a class is, and weights of effective numbers. The baselines are trained as it is, with its loss: what differs is the
network. The other rows differ from the first in how they treat rare classes, and the last in that it sees landmarks too.
Rows that --out already holds for the same recipe are not measured again. --smoke runs every row for an epoch on a tiny world,
to see that it does, and keeps nothing. All figures are synthetic.
"""

import argparse
import json
import math
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from repeated_runs import repeated_runs
from scipy.stats import t as student

HERE = Path(__file__).parent
SOURCE = HERE.parent / "recipes" / "fer_ssm" / "faces.yaml"


def loss(form: str, weights: str = "none", logit_adjustment: float = 0.0) -> list[str]:
    """Changes to the loss of the system."""
    changes = {"loss": form, "weights": weights, "logit_adjustment": logit_adjustment}
    return [word for name, value in changes.items() for word in (f"--system.loss.{name}", str(value))]


PLAIN = loss("cross_entropy")
ROWS: dict[str, list[str]] = {
    "FER-SSM": [],
    "cross-entropy": PLAIN,
    "R(2+1)D-18": [],
    "3D ResNet-18": [],
    "ResNet-18 + LSTM": [],
    "ResNet-18 + GRU": [],
    "Former-DFER": [],
    "the paper's loss": loss("focal", "inverse"),
    "logit adjustment alone": loss("cross_entropy", logit_adjustment=1.0),
    "balanced sampling": [*PLAIN, "--training.sampling", "balanced"],
    "square-root sampling": [*PLAIN, "--training.sampling", "square_root"],
    "with landmarks": ["--system.modalities", "[face, landmarks]", "--data.input.landmarks", "true"],
}
# Deep as they are, and narrow: for a CPU and pictures of 48 pixels, with about as many parameters as the system.
WIDTHS = [8, 16, 32, 64]
BASELINES: dict[str, dict[str, Any]] = {
    "R(2+1)D-18": {"name": "r2plus1d_18", "widths": WIDTHS, "frames": 8},
    "3D ResNet-18": {"name": "r3d_18", "widths": WIDTHS, "frames": 8},
    "ResNet-18 + LSTM": {"name": "resnet18_lstm", "widths": WIDTHS, "hidden": 128},
    "ResNet-18 + GRU": {"name": "resnet18_gru", "widths": WIDTHS, "hidden": 128},
    "Former-DFER": {
        "name": "former_dfer",
        "widths": WIDTHS,
        "grid": 3,
        "spatial_heads": 4,
        "spatial_hidden": 128,
        "temporal_heads": 4,
        "temporal_hidden": 256,
    },
}
TINY = {
    "data.train_clips": "30",
    "data.validation_clips": "14",
    "data.test_clips": "14",
    "data.least_test_per_class": "1",
    "data.train_subjects": "3",
    "data.validation_subjects": "2",
    "data.test_subjects": "2",
    "data.input.frames": "4",
    "training.epochs": "1",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[11, 12, 13, 14, 15])
    parser.add_argument("--only", nargs="+", default=[], choices=ROWS, help="rows to measure now", metavar="ROW")
    parser.add_argument("--out", type=Path, default=HERE / "fer_faces.json")
    parser.add_argument("--smoke", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    measured = {"seeds": arguments.seeds, "out": arguments.out, "fixed": []}
    with tempfile.TemporaryDirectory() as folder:
        if arguments.smoke:
            fixed = [word for name, value in TINY.items() for word in (f"--{name}", value)]
            measured = {"seeds": arguments.seeds[:1], "out": Path(folder) / "smoke.json", "fixed": fixed}
        results = repeated_runs(
            SOURCE,
            ROWS,
            {f"seed {seed}": ["--training.seed", str(seed)] for seed in measured["seeds"]},
            measured["out"],
            figures,
            fixed=measured["fixed"],
            only=arguments.only,
            systems=baselines(),
        )
    print_table(results)


def baselines() -> dict[str, dict[str, Any]]:
    """The sections of the baselines, with the loss of the recipe."""
    own = yaml.safe_load(SOURCE.read_text())["system"]["loss"]
    return {name: {**section, "loss": own} for name, section in BASELINES.items()}


def figures(run: Path) -> dict[str, Any]:
    """UAR, WAR, and the recall of each class; the rarest in training by name; epochs, seconds and parameters."""
    metrics, info = (json.loads((run / name).read_text()) for name in ("metrics.json", "run.json"))
    history = (run / "history.jsonl").read_text().splitlines()
    counts: dict[str, int] = info["class_counts"]
    return {
        "uar": metrics["uar"]["value"],
        "war": metrics["war"]["value"],
        "recall": {name: part["value"] for name, part in metrics["per_class"].items()},
        "rarest": min(counts, key=lambda name: counts[name]),
        "parameters": info["parameters"],
        "epochs": len(history),
        "seconds": info["seconds"],
    }


def print_table(results: Sequence[dict[str, Any]]) -> None:
    """Means over the seeds with 95 % intervals, and without them the recalls of the other classes."""
    if not results:
        return
    classes, rarest = list(results[0]["recall"]), results[0]["rarest"]
    others = [name for name in classes if name != rarest]
    print(f"\n| synthetic faces, % | parameters | UAR | WAR | {rarest} (rarest) | {' | '.join(others)} |")
    print("|---|" + "---|" * (4 + len(others)))
    for row in ROWS:
        found = [result for result in results if result["row"] == row]
        if not found:
            continue
        cells = [interval([100 * result[name] for result in found]) for name in ("uar", "war")]
        cells.append(interval([100 * result["recall"][rarest] for result in found]))
        cells += [f"{statistics.mean(100 * result['recall'][name] for result in found):.1f}" for name in others]
        print(f"| {row} | {found[0]['parameters']:,} | {' | '.join(cells)} |")


def interval(values: Sequence[float]) -> str:
    """Mean and the half width of its 95 % interval (Student's t over the seeds)."""
    if len(values) < 2:
        return f"{values[0]:.1f}"
    half = float(student.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))
    return f"{statistics.mean(values):.1f} ± {half:.1f}"


if __name__ == "__main__":
    main()
