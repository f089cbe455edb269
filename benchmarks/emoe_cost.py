"""What EMOE costs beside the baselines: parameters, time of an inference and of a training step, memory, at MOSI's shapes.

    python benchmarks/emoe_cost.py [--shapes aligned unaligned] [--what inference "training step"] [--threads 1] [--rounds 5]
                                   [--out benchmarks/emoe_cost.json]

What is measured replaces the same rows of an earlier result; its other rows stay.

Random features in a batch of 16; text as features, so that no system's text encoder is counted. ``aligned``: 50 steps of each;
``unaligned``: text 50, audio 375, video 500 (EF-LSTM, MFN and MAG-BERT average these over the text's steps). Every system has
its default settings. Memory is the growth of the process's peak in one call, each in a process of its own. A training step is
forward, loss and backward, without the optimiser.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from side_by_side import peak_growth_mib, ratio, side_by_side, table, write

from affuse.systems import SYSTEMS
from affuse.types import Batch, System, Task

WIDTHS = {"text": 768, "audio": 5, "video": 20}
STEPS = {
    "aligned": {"text": 50, "audio": 50, "video": 50},
    "unaligned": {"text": 50, "audio": 375, "video": 500},
}
BATCH = 16
KINDS = ("inference", "training step")
RELEASED = "emoe, as released"
TASK = Task("regression", value_range=(-3.0, 3.0), units="sentiment")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--shapes", nargs="+", choices=STEPS, default=list(STEPS))
    parser.add_argument("--what", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--memory", nargs=3, help=argparse.SUPPRESS)  # shape, system, kind: in a process of its own
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.memory:
        shape, name, kind = arguments.memory
        print(json.dumps(peak_growth_mib(calls(made(name), shape)[kind])))
        return
    rows: list[dict[str, Any]] = []
    if arguments.out.is_file():
        known = json.loads(arguments.out.read_text())["rows"]
        rows = [row for row in known if row["shape"] not in arguments.shapes or row["what"] not in arguments.what]
    for shape in arguments.shapes:
        systems = {name: made(name) for name in names(shape)}
        for kind in arguments.what:
            found = side_by_side({n: calls(system, shape)[kind] for n, system in systems.items()}, arguments.rounds)
            for name, timing in found.items():
                rows.append(
                    {
                        "system": name,
                        "shape": shape,
                        "what": kind,
                        "parameters": sum(p.numel() for p in systems[name].parameters()),
                        "ms": 1e3 * timing.median,
                        "over_emoe": str(ratio(timing, found["emoe"])),
                        "peak_mib": apart(shape, name, kind, arguments.threads),
                    }
                )
                print(rows[-1], flush=True)
                write(arguments.out, rows)
    print(
        table(list(rows[0]), [[f"{v:.1f}" if isinstance(v, float) else str(v) for v in row.values()] for row in rows])
    )


def names(shape: str) -> list[str]:
    """EMOE, its released form where its router has a fixed size for the shape, and the baselines."""
    baselines = [n for n, s in SYSTEMS.items() if ".baselines." in s.__module__ and ".expressions." not in s.__module__]
    return ["emoe", *([RELEASED] if shape == "aligned" else []), *baselines]


def made(name: str) -> System:
    """A system with its default settings and random weights."""
    torch.manual_seed(0)
    cls = SYSTEMS[name.partition(",")[0]]
    config = cls.Config(variant="as_released") if name == RELEASED else cls.Config()
    if hasattr(config, "align"):
        config = dataclasses.replace(config, align="resample")
    return cls(config, TASK)


def calls(system: System, shape: str) -> dict[str, Callable[[], Any]]:
    """Inference and a training step over one batch."""
    generator = torch.Generator().manual_seed(0)
    inputs = {name: torch.randn(BATCH, t, WIDTHS[name], generator=generator) for name, t in STEPS[shape].items()}
    target = 6 * torch.rand(BATCH, generator=generator) - 3
    batch = Batch(inputs, torch.ones(BATCH, len(inputs), dtype=torch.bool), target=target)

    def infer() -> None:
        system.eval()
        with torch.no_grad():
            system(batch)

    def train() -> None:
        system.train().zero_grad()
        system.loss(system(batch), batch)["total"].backward()

    return {"inference": infer, "training step": train}


def apart(shape: str, name: str, kind: str, threads: int) -> float:
    """`peak_growth_mib` in a process of its own."""
    command = [sys.executable, __file__, "--threads", str(threads), "--memory", shape, name, kind]
    return float(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))


if __name__ == "__main__":
    main()
