"""How many clips a second does MoME read at batch 1, and how much of that time do its experts' backbones take?

    python benchmarks/mome_speed.py [--threads 2] [--rounds 15] [--cases small:48 ...] [--out benchmarks/mome_speed.json]

A clip is 16 frames of three cameras (RGB, infrared, depth); random weights, random frames, inference with HTL's refinement and
the output-aware gate. ``backbones``: the image encoders of `small` and timm's experts, or the video transformers, over the same
frames alone. The goal is five clips a second with the small experts. ``processor time`` is that of all threads for one clip: it
suffers least where other programs run. Cases that are not measured keep their earlier rows.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from side_by_side import ratio, side_by_side, table, write
from torch import Tensor

from affuse.systems.mome import MoME, MoMEConfig
from affuse.systems.mome.experts import ConvStem, FrameExpert
from affuse.types import Batch, Task

FRAMES, CLASSES, GOAL = 16, 34, 5.0
CHANNELS = {"rgb": 3, "infrared": 1, "depth": 1}
# Expert, side of a frame: the default at the synthetic cabin's size and at the usual one, and larger backbones.
CASES = ("small:48", "small:112", "small:224", "resnet18:112", "timesformer:48")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--cases", nargs="+", default=list(CASES), metavar="EXPERT:SIDE")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    known = json.loads(arguments.out.read_text())["rows"] if arguments.out.is_file() else []
    found = {f"{row['expert']}:{row['size']}": row for row in known}
    for case in arguments.cases:
        expert, _, size = case.rpartition(":")
        found[case] = measured(expert, int(size), arguments.rounds)
    rows = list(found.values())
    write(arguments.out, rows)
    head = (
        "expert",
        "side, px",
        "parameters, million",
        "clips a second",
        "slow and fast quarter",
        "whole over backbones",
        "processor time, ms",
    )
    print(
        table(
            head,
            [
                (
                    row["expert"],
                    str(row["size"]),
                    f"{row['parameters'] / 1e6:.2f}",
                    f"{row['clips_a_second']:.1f}",
                    f"{row['slow']:.1f} to {row['fast']:.1f}",
                    row["whole_over_backbones"],
                    f"{1000 * row['processor_seconds']:.0f}",
                )
                for row in rows
            ],
        )
    )
    if CASES[0] in found:
        rate = found[CASES[0]]["clips_a_second"]
        print(f"\n{CASES[0]}: {rate:.1f} clips a second; goal {GOAL:g}: {'met' if rate >= GOAL else 'missed'}")


def measured(expert: str, size: int, rounds: int) -> dict[str, Any]:
    """Times of one set of experts."""
    torch.manual_seed(0)
    task = Task("classification", tuple(f"action {index}" for index in range(CLASSES)))
    model = MoME(MoMEConfig(expert=expert, size=size, frames=FRAMES), task).eval()
    inputs = {name: torch.randn(1, FRAMES, channels, size, size) for name, channels in CHANNELS.items()}
    batch = Batch(inputs, torch.ones(1, len(inputs), dtype=torch.bool))

    @torch.inference_mode()
    def whole() -> Tensor:
        return model(batch).logits

    @torch.inference_mode()
    def backbones() -> list[Tensor]:
        return [backbone(model, name, frames) for name, frames in inputs.items()]

    found = side_by_side({"whole": whole, "backbones": backbones}, rounds)
    start = time.process_time()
    for _ in range(rounds):
        whole()
    processor_seconds = (time.process_time() - start) / rounds
    rates = sorted(1 / seconds for seconds in found["whole"].seconds)
    return {
        "expert": expert,
        "size": size,
        "frames": FRAMES,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "threads": torch.get_num_threads(),
        "processor_seconds": processor_seconds,
        "clips_a_second": 1 / found["whole"].median,
        "slow": rates[len(rates) // 4],
        "fast": rates[-1 - len(rates) // 4],
        "backbones_clips_a_second": 1 / found["backbones"].median,
        "whole_over_backbones": str(ratio(found["whole"], found["backbones"])),
    }


def backbone(model: MoME, name: str, frames: Tensor) -> Tensor:
    """What the backbone of one camera makes of its frames."""
    expert: Any = model.experts[name]
    if not isinstance(expert, FrameExpert):
        return expert.model(pixel_values=frames).last_hidden_state
    return expert.stem(frames.flatten(0, 1) if isinstance(expert.stem, ConvStem) else frames)


if __name__ == "__main__":
    main()
