"""Time several ways to do one thing in one process, in turns, so that a busy machine slows all of them alike.

What is quoted is a ratio: each round times every way once, and its ratios are taken within the round.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import platform
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

LEAST_SECONDS = 0.005  # a round repeats a fast call until it takes about this long


@dataclass(frozen=True)
class Timing:
    """Seconds a call, by round."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


@dataclass(frozen=True)
class Ratio:
    """How many times as long the other takes: median over rounds, and the quartiles."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f} to {self.high:.2f})"


def side_by_side(ways: Mapping[str, Callable[[], Any]], rounds: int = 15) -> dict[str, Timing]:
    """Time each way in every round, in an order that changes by round.

    A call that is not timed comes before, so that none pays for the memory and the caches that another left behind.
    """
    loops = {}
    for name, way in ways.items():
        way()
        start = time.perf_counter()
        way()
        loops[name] = max(1, round(LEAST_SECONDS / max(time.perf_counter() - start, 1e-7)))
    found: dict[str, list[float]] = {name: [] for name in ways}
    order = random.Random(0)
    for _ in range(rounds):
        for name in order.sample(list(ways), len(ways)):
            ways[name]()
            start = time.perf_counter()
            for _ in range(loops[name]):
                ways[name]()
            found[name].append((time.perf_counter() - start) / loops[name])
    return {name: Timing(tuple(values)) for name, values in found.items()}


def ratio(other: Timing, ours: Timing) -> Ratio:
    """Time of the other over ours, round by round."""
    values = sorted(a / b for a, b in zip(other.seconds, ours.seconds, strict=True))
    low, median, high = statistics.quantiles(values, n=4) if len(values) > 1 else (values * 3)
    return Ratio(median, low, high)


def peak_growth_mib(run: Callable[[], Any]) -> float:
    """How far one call raises this process's peak memory, MiB. To mean something it must be the process's first such call.

    Memory that was freed goes back to the system first, and the peak down to what is in use, where that can be had (Linux).
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    before = _high_water_kib()
    run()
    return (_high_water_kib() - before) / 1024


def _high_water_kib() -> int:
    status = Path("/proc/self/status").read_text()  # Linux; the resource module's figure stays 0 in some sandboxes
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]
    return "\n".join(lines)


def write(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as JSON, with what they were measured on."""
    machine = {
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    path.write_text(json.dumps({"machine": machine, "rows": list(rows)}, indent=1) + "\n")


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    return f"{name}, {torch.backends.cpu.get_cpu_capability()}"
