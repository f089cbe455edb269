"""What a whole system costs beside its backbones alone: inference and training step, at the paper's shapes and the demo's.

    python benchmarks/systems.py [--threads 1] [--out benchmarks/systems.json]

Weights are random. Memory is the growth of the process's peak in one call, each in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from side_by_side import peak_growth_mib, ratio, side_by_side, table, write
from torch import nn

from affuse.recipe import load_recipe
from affuse.systems import SYSTEMS
from affuse.types import Batch, System, Task

ROOT = Path(__file__).parents[1]
# Recipe, and the shapes of one sample.
SHAPES: dict[str, tuple[str, str, dict[str, tuple[int, ...]]]] = {
    "mco_e, paper": ("mco_e", "see", {"rgb": (2, 3, 100, 100), "event": (2, 3, 100, 100)}),
    "mco_e, demo": ("mco_e", "eyes", {"rgb": (4, 3, 48, 48), "event": (4, 3, 48, 48)}),
}
BATCHES = (1, 32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument(
        "--memory", nargs=4, help=argparse.SUPPRESS
    )  # shape, batch, pass, what: in a process of its own
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.memory:
        shape, batch, kind, what = arguments.memory
        print(json.dumps(peak_growth_mib(runs(shape, int(batch))[kind, what])))
        return
    rows: list[dict[str, Any]] = []
    for shape in SHAPES:
        for batch in BATCHES:
            made = runs(shape, batch)
            for kind in ("inference", "training step"):
                found = side_by_side({what: made[kind, what] for what in ("whole", "backbones")}, arguments.rounds)
                rest = ratio(found["whole"], found["backbones"])
                rows.append(
                    {
                        "system": shape,
                        "batch": batch,
                        "what": kind,
                        "whole_ms": 1e3 * found["whole"].median,
                        "backbones_ms": 1e3 * found["backbones"].median,
                        "whole_over_backbones": str(rest),
                        "peak_mib": apart(shape, batch, kind, "whole", arguments.threads),
                        "backbones_peak_mib": apart(shape, batch, kind, "backbones", arguments.threads),
                    }
                )
                print(rows[-1], flush=True)
                write(arguments.out, rows)
    print(
        table(list(rows[0]), [[f"{v:.1f}" if isinstance(v, float) else str(v) for v in row.values()] for row in rows])
    )


def runs(shape: str, batch: int) -> dict[tuple[str, str], Callable[[], Any]]:
    """Inference and training step, of the whole system and of its backbones with a mean as their loss."""
    name, data, sizes = SHAPES[shape]
    overrides = ["--system.pretrained", "false"] if data == "see" else []
    if data == "see":
        overrides += ["--data.root", "."]
    recipe = load_recipe(ROOT / "recipes" / name / f"{data}.yaml", overrides)
    torch.manual_seed(0)
    system: System = SYSTEMS[name](recipe.system, Task("classification", tuple("abcdefg")))
    inputs = {key: torch.randn(batch, *size) for key, size in sizes.items()}
    present = torch.ones(batch, len(sizes), dtype=torch.bool)
    data_batch = Batch(inputs, present, target=torch.zeros(batch, dtype=torch.long))
    trunk: Any = system.trunk

    def backbones() -> torch.Tensor:
        return torch.stack([trunk.encoders[key](clip).mean() for key, clip in inputs.items()]).sum()

    def whole() -> torch.Tensor:
        return system.loss(system(data_batch), data_batch)["total"]

    def infer(run: Callable[[], Any]) -> None:
        if system.training:  # a walk over all modules, which is no part of an answer
            system.eval()
        with torch.no_grad():
            run()

    def train(run: Callable[[], torch.Tensor], learning: nn.Module) -> None:
        if not system.training:
            system.train()
        learning.zero_grad()
        run().backward()

    learning: dict[str, nn.Module] = {"whole": system, "backbones": trunk.encoders}
    ways: dict[str, Callable[[], Any]] = {"whole": whole, "backbones": backbones}
    answering: dict[str, Callable[[], Any]] = {"whole": lambda: system(data_batch), "backbones": backbones}
    return {
        **{("inference", what): (lambda run=run: infer(run)) for what, run in answering.items()},
        **{
            ("training step", what): (lambda run=run, own=learning[what]: train(run, own)) for what, run in ways.items()
        },
    }


def apart(shape: str, batch: int, kind: str, what: str, threads: int) -> float:
    """`peak_growth_mib` in a process of its own."""
    command = [sys.executable, __file__, "--threads", str(threads), "--memory", shape, str(batch), kind, what]
    return float(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))


if __name__ == "__main__":
    main()
