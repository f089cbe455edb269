"""Does the cost of FER-SSM over time grow linearly with the number of frames, and does a streamed frame cost the same always?

    python benchmarks/fer_linear.py [--threads 1] [--rounds 9] [--widths 256 1280] [--out benchmarks/fer_linear.json]

``ssm blocks``: the two Mamba blocks (row 7 of the paper's Table 1); ``attention``: its temporal self-attention (row 8), eight
heads; ``attention, core``: the attention alone, without its four projections, which are linear in t and the larger part of the
cost where t is below about twice the width. One sequence of vectors (b = 1, 1280 is the paper's width), inference, random
weights. All lengths and ways run in turns; time is the processor's, the median over calls, which suffers less where other
programs run. The exponent is the slope of log cost over log t: 1 is linear, 2 quadratic.
Multiply-adds are counted as in fer_cost.py. Memory is how far the process's peak rises, each way in a process of its own.

Streaming: a causal model's `step` after 1, 100 and 1000 frames, for rows 6 to 9 of Table 1 and for the whole system with its
backbone at 224 pixels, and the bytes of its state.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from fer_cost import EXPRESSIONS, counted, watched
from side_by_side import peak_growth_mib, side_by_side, table, write
from torch import Tensor, nn
from torch.nn import functional

from affuse.ops.selective_scan import active_form
from affuse.parts.mamba import MambaBlock
from affuse.systems.fer_ssm import FERSSM, FERSSMConfig
from affuse.systems.fer_ssm.temporal import TemporalAttention, TemporalModel, TemporalState

LENGTHS = (16, 32, 64, 128, 256, 512, 1024)
WIDTHS = (256, 1280)
HEADS = 8
SEEN = (1, 100, 1000)
SIDE = 224


class Blocks(nn.Module):
    """Two Mamba blocks."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(MambaBlock(width) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


class Attention(nn.Module):
    """Temporal self-attention over all frames."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attention = TemporalAttention(width, HEADS, None)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, torch.ones(x.shape[:2], dtype=torch.bool))


class Core(nn.Module):
    """The product of queries, keys and values alone."""

    def __init__(self, _width: int) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        heads = x.unflatten(2, (HEADS, -1)).transpose(1, 2)
        return functional.scaled_dot_product_attention(heads, heads, heads)


WAYS: dict[str, type[Blocks | Attention | Core]] = {
    "ssm blocks": Blocks,
    "attention": Attention,
    "attention, core": Core,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--widths", type=int, nargs="+", default=list(WIDTHS))
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--memory", nargs=2, help=argparse.SUPPRESS)  # way, width: in a process of its own
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.memory:
        print(json.dumps(peaks(arguments.memory[0], int(arguments.memory[1]))))
        return
    rows: list[dict[str, Any]] = []
    for width in arguments.widths:
        rows += over_time(width, arguments.rounds, arguments.threads)
        write(arguments.out, rows)
    rows += streamed(arguments.rounds)
    write(arguments.out, rows)
    show(rows)


def call(way: nn.Module, t: int, width: int) -> Callable[[], Tensor]:
    x = torch.randn(1, t, width, generator=torch.Generator().manual_seed(t))

    @torch.inference_mode()
    def run() -> Tensor:
        return way(x)

    return run


def over_time(width: int, rounds: int, threads: int) -> list[dict[str, Any]]:
    """Time, multiply-adds and peak memory of each way by length, and their exponents."""
    torch.manual_seed(0)
    ways = {name: made(width).eval() for name, made in WAYS.items()}
    calls = {(name, t): call(way, t, width) for name, way in ways.items() for t in LENGTHS}
    spent: dict[tuple[str, int], list[float]] = {key: [] for key in calls}
    side_by_side({f"{name}|{t}": watched(run, spent[name, t]) for (name, t), run in calls.items()}, rounds)
    rows = []
    for name, way in ways.items():
        seconds = [statistics.median(spent[name, t]) for t in LENGTHS]
        cost = [counted(way, calls[name, t])["multiply_adds"] for t in LENGTHS]
        command = [sys.executable, __file__, "--threads", str(threads), "--memory", name, str(width)]
        memory = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        rows.append(
            {
                "part": "frames",
                "way": name,
                "width": width,
                "frames": list(LENGTHS),
                "processor_seconds": seconds,
                "multiply_adds": cost,
                "peak_mib": memory,
                "scan": active_form()[0],
                "exponent of time": slope(LENGTHS, seconds),
                "exponent of time, 128 frames and more": slope(LENGTHS[3:], seconds[3:]),
                "exponent of multiply-adds": slope(LENGTHS, cost),
            }
        )
    return rows


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Least-squares slope of log y over log x."""
    across, up = [math.log(value) for value in x], [math.log(value) for value in y]
    middle = sum(across) / len(across)
    return sum((a - middle) * b for a, b in zip(across, up, strict=True)) / sum((a - middle) ** 2 for a in across)


def peaks(name: str, width: int) -> list[float]:
    """How far the peak of this process has risen after each length, MiB: lengths grow, and so does what they need."""
    torch.manual_seed(0)
    way = WAYS[name](width).eval()
    call(way, 2, width)()  # loads code, whose pages are not the operation's
    found: list[float] = []
    for t in LENGTHS:
        found.append(peak_growth_mib(call(way, t, width)) + (found[-1] if found else 0.0))
    return found


def streamed(rounds: int) -> list[dict[str, Any]]:
    """Time of one step after 1, 100 and 1000 frames, and the size of the state."""
    torch.manual_seed(0)
    system = FERSSM(FERSSMConfig(modalities=("face",), causal=True), EXPRESSIONS).eval()
    model = system.temporal
    states = {seen: state_after(model, seen) for seen in SEEN}
    vector, yes, score = torch.randn(1, model.project.in_features), torch.ones(1, dtype=torch.bool), torch.ones(1)
    frame = {"face": torch.randn(1, 3, SIDE, SIDE)}

    def step(state: TemporalState) -> Callable[[], Any]:
        return torch.inference_mode()(lambda: model.step(vector, yes, score, state))

    def whole(state: TemporalState) -> Callable[[], Any]:
        return torch.inference_mode()(lambda: system.step(frame, state))

    rows = []
    for name, way in (("rows 6 to 9", step), (f"whole system, {SIDE} px", whole)):
        spent: dict[int, list[float]] = {seen: [] for seen in SEEN}
        side_by_side({str(seen): watched(way(states[seen]), spent[seen]) for seen in SEEN}, rounds)
        for seen in SEEN:
            rows.append(
                {
                    "part": "streaming",
                    "way": name,
                    "width": model.project.out_features,
                    "frames before": seen,
                    "processor_seconds": statistics.median(spent[seen]),
                    "state_bytes": bytes_of(states[seen]),
                }
            )
    return rows


@torch.inference_mode()
def state_after(model: TemporalModel, frames: int) -> TemporalState:
    """The state after so many random frames."""
    generator = torch.Generator().manual_seed(0)
    state, yes, score = model.init_state(1), torch.ones(1, dtype=torch.bool), torch.ones(1)
    for _ in range(frames):
        _, state = model.step(torch.randn(1, model.project.in_features, generator=generator), yes, score, state)
    return state


def bytes_of(state: Any) -> int:
    """Bytes of all tensors of a nested tuple."""
    if isinstance(state, Tensor):
        return state.numel() * state.element_size()
    return 0 if state is None else sum(bytes_of(part) for part in state)


def show(rows: Sequence[dict[str, Any]]) -> None:
    """Print the tables."""
    over = [row for row in rows if row["part"] == "frames"]
    for key, unit, scale in (
        ("processor_seconds", "ms", 1e3),
        ("multiply_adds", "G multiply-adds", 1e-9),
        ("peak_mib", "MiB", 1),
    ):
        print(f"\n{unit} by number of frames:\n")
        cells = [
            (row["way"], str(row["width"]), *(f"{scale * value:.3g}" for value in row[key])) for row in over
        ]  # fmt: skip
        print(table(("way", "width", *(str(t) for t in LENGTHS)), cells))
    print("\nExponents:\n")
    names = [key for key in over[0] if key.startswith("exponent")]
    print(table(("way", "width", *names), [(r["way"], str(r["width"]), *(f"{r[n]:.2f}" for n in names)) for r in over]))
    print("\nStreaming:\n")
    cells = [
        (row["way"], str(row["frames before"]), f"{1e3 * row['processor_seconds']:.2f}", str(row["state_bytes"]))
        for row in rows
        if row["part"] == "streaming"
    ]
    print(table(("what", "frames before", "ms a step", "bytes of state"), cells))


if __name__ == "__main__":
    main()
