"""How fast is the selective scan, and how much memory does it take, beside mambapy's parallel scan?

    python benchmarks/scan.py [--threads 1] [--rounds 7] [--part pairs|floor|length|threads|memory|all] [--out FILE]

Peer: mambapy (the extra ``bench``). Its ``pscan`` takes decays and driven inputs of shape (b, t, d, n); making them, and the
product with C, belong to the operation and are timed, written as in its own Mamba block. No direct path D, no first state.

Floor of the native forward pass: its vector operations, each charged as one multiply-add at the rate this processor reaches
with 12 of them in flight. For a vector of channels, a state takes 12 with AVX-512 (delta A, 8 for the exponential, B, the
recurrence, C) and 15 with AVX2, whose exponential has to bound and to scale by itself; a step takes 1 (delta u). Channels
count in whole vectors. Loads, stores and the memory itself are not in it.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch
from side_by_side import peak_growth_mib, ratio, side_by_side, table, write
from torch import Tensor

from affuse.ops import native
from affuse.ops.selective_scan import selective_scan

N = 16
SHORT = [(b, t, d) for b, d in ((1, 256), (1, 1024), (8, 512)) for t in (1, 2, 4, 8, 16)]
LENGTHS = (256, 512, 1024, 2048, 4096, 8192)
FLOORS = [  # b, t, d, n
    *((1, 256, 512, n) for n in (1, 4, 8, 12, 16, 24, 32)),
    *((1, 256, d, 16) for d in (67, 129, 1023)),
    (8, 64, 512, 16), (8, 256, 512, 16),
]  # fmt: skip
LONG = [(8, 64, 512), (8, 256, 512)]
FORMS = ["reference", "chunked", *(["native"] if native.available()[0] else [])]


def operands(b: int, t: int, d: int, dtype: torch.dtype = torch.float32, n: int = N) -> list[Tensor]:
    """u, delta, A, B, C."""
    generator = torch.Generator().manual_seed(0)
    made = lambda *shape: torch.randn(shape, generator=generator)  # noqa: E731
    delta = torch.nn.functional.softplus(made(b, t, d) - 2)
    return [x.to(dtype) for x in (made(b, t, d), delta, -torch.exp(made(d, n)), made(b, t, n), made(b, t, n))]


def mambapy_scan(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    from mambapy.pscan import pscan

    decays = torch.exp(delta.unsqueeze(-1) * A)
    states = pscan(decays, delta.unsqueeze(-1) * B.unsqueeze(2) * u.unsqueeze(-1))
    return (states @ C.unsqueeze(-1)).squeeze(3)


def way(name: str) -> Callable[..., Tensor]:
    return mambapy_scan if name == "mambapy" else lambda *inputs: selective_scan(*inputs, form=name)[0]


def call(name: str, inputs: list[Tensor], backward: bool) -> Callable[[], list[Tensor]]:
    """A call of one way; returns the output, and in training the gradients of all five operands."""
    scan = way(name)
    if not backward:

        def inferred() -> list[Tensor]:
            with torch.no_grad():
                return [scan(*inputs)]

        return inferred
    leaves = [x.clone().requires_grad_() for x in inputs]
    grad = torch.randn(inputs[0].shape, generator=torch.Generator().manual_seed(1)).to(inputs[0].dtype)

    def trained() -> list[Tensor]:
        y = scan(*leaves)
        return [y.detach(), *torch.autograd.grad(y, leaves, grad)]

    return trained


def check(names: list[str], shape: tuple[int, int, int], backward: bool) -> None:
    """Every way agrees with the float64 loop, or the benchmark ends here."""
    truth = call("reference", operands(*shape, torch.float64), backward)()
    for name in names:
        for ours, true in zip(call(name, operands(*shape), backward)(), truth, strict=True):
            error = float((ours - true).norm())
            if not error <= 1e-5 * float(true.norm()):  # both are 0 in the gradient of A where t is 1
                raise SystemExit(f"{name} is wrong by {error:.1e} at {shape}")


def pairs(rounds: int) -> list[dict[str, Any]]:
    rows = []
    for shape in (*SHORT, *LONG):
        for backward in (False, True):
            names = [*FORMS, "mambapy"]
            check(names, shape, backward)
            found = side_by_side({name: call(name, operands(*shape), backward) for name in names}, rounds)
            row: dict[str, Any] = {"part": "pairs", "shape": shape, "pass": "fwd+bwd" if backward else "fwd"}
            row |= {f"{name}_ms": 1e3 * found[name].median for name in names}
            row |= {f"mambapy/{name}": str(ratio(found["mambapy"], found[name])) for name in FORMS[1:]}
            row["loop/chunked"] = str(ratio(found["reference"], found["chunked"]))
            rows.append(row)
            print(row, flush=True)
    return rows


def _least(run: Callable[[], Any], rounds: int) -> float:
    """Seconds of this thread's own time that a call takes at least: a busy neighbour only ever adds."""
    found = []
    for _ in range(10 * rounds):
        start = time.thread_time()
        run()
        found.append(time.thread_time() - start)
    return min(found)


def floor(rounds: int) -> list[dict[str, Any]]:
    """How many times its floor of vector operations the native forward pass takes."""
    rows: list[dict[str, Any]] = []
    before = os.environ.get("AFFUSE_VECTORS")
    for name, of_state in (("avx512", 12), ("avx2", 15)) if "native" in FORMS else ():
        os.environ["AFFUSE_VECTORS"] = name  # read by the library at each call
        if native.instructions() != name:
            continue
        multiply_add = native.function("affuse_scan_multiply_add", "if", "i")
        lanes, many = multiply_add(1, 0.5), 10000
        for b, t, d, n in FLOORS:
            run = call("native", operands(b, t, d, n=n), False)
            operations = b * t * -(-d // lanes) * (of_state * n + 1)
            least, peak = _least(run, rounds), _least(partial(multiply_add, many, 0.5), rounds) / (12 * many)
            row = {"part": "floor", "instructions": name, "shape": (b, t, d, n), "us": 1e6 * least}
            rows.append(row | {"Gvectors/s at peak": 1e-9 / peak, "times the floor": least / (operations * peak)})
            print(rows[-1], flush=True)
    os.environ.pop("AFFUSE_VECTORS")
    if before is not None:
        os.environ["AFFUSE_VECTORS"] = before
    return rows


def length(rounds: int) -> list[dict[str, Any]]:
    """Microseconds and peak memory a step, as t grows; all lengths in one run, so that a busy machine slows all alike."""
    rows: list[dict[str, Any]] = []
    for name in FORMS[1:]:
        found = side_by_side({str(t): call(name, operands(1, t, 256), True) for t in LENGTHS}, rounds)
        shortest = min(found[str(LENGTHS[0])].seconds) / LENGTHS[0]
        for t in LENGTHS:
            row: dict[str, Any] = {"part": "length", "form": name, "shape": (1, t, 256)}
            row["us_a_step"] = 1e6 * min(found[str(t)].seconds) / t
            row["over_t_256"] = row["us_a_step"] / (1e6 * shortest)
            row["kib_a_step"] = 1024 * _peak_of(name, (1, t, 256)) / t
            rows.append(row)
            print(row, flush=True)
    return rows


def with_threads(count: int, run: Callable[[], Any]) -> Callable[[], None]:
    def limited() -> None:
        torch.set_num_threads(count)
        run()

    return limited


def two_threads(rounds: int) -> list[dict[str, Any]]:
    before, rows = torch.get_num_threads(), []
    for shape in ((8, 256, 512), (1, 256, 1024), (1, 16, 256)) if "native" in FORMS else ():
        run = call("native", operands(*shape), True)
        found = side_by_side({str(count): with_threads(count, run) for count in (1, 2)}, rounds)
        rows.append({"part": "threads", "shape": shape, "one/two": str(ratio(found["1"], found["2"]))})
        print(rows[-1], flush=True)
    torch.set_num_threads(before)
    if "native" in FORMS:
        # What the machine itself gains: the same loop of multiply-adds twice, one after the other and side by side.
        loop = partial(native.function("affuse_scan_multiply_add", "if", "i"), 500_000, 0.5)
        with ThreadPoolExecutor(2) as pool:
            ways = {"1": lambda: [loop(), loop()], "2": lambda: [x.result() for x in [pool.submit(loop) for _ in "ab"]]}
            found = side_by_side(ways, rounds)
        rows.append({"part": "threads", "shape": "multiply-adds", "one/two": str(ratio(found["1"], found["2"]))})
        print(rows[-1], flush=True)
    return rows


def _peak_of(name: str, shape: tuple[int, int, int]) -> float:
    command = [sys.executable, __file__, "--peak", name, *(str(x) for x in shape)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def memory() -> list[dict[str, Any]]:
    """Growth of peak memory by the first training call of a process: outputs and gradients are in it."""
    rows = []
    for shape in LONG:
        row: dict[str, Any] = {"part": "memory", "shape": shape}
        for name in (*FORMS, "mambapy"):
            row[f"{name}_mib"] = _peak_of(name, shape)
        rows.append(row)
        print(row, flush=True)
    return rows


def peak(name: str, shape: tuple[int, int, int]) -> None:
    torch.set_num_threads(1)
    call(name, operands(1, 2, 16), True)()  # loads code, whose pages are not the operation's
    run = call(name, operands(*shape), True)
    print(peak_growth_mib(run))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--part", choices=("pairs", "floor", "length", "threads", "memory", "all"), default="all")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--peak", nargs=4, metavar=("FORM", "B", "T", "D"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peak:
        name, b, t, d = arguments.peak
        peak(name, (int(b), int(t), int(d)))
        return
    torch.set_num_threads(arguments.threads)
    parts = {
        "memory": memory,
        "pairs": lambda: pairs(arguments.rounds),
        "floor": lambda: floor(arguments.rounds),
        "length": lambda: length(arguments.rounds),
        "threads": lambda: two_threads(arguments.rounds),
    }
    rows: list[dict[str, Any]] = []
    for name, part in parts.items():
        if arguments.part in (name, "all"):
            rows += part()
            write(arguments.out, rows)
    print(f"n {N}, float32, {arguments.threads} thread(s); native: {native.available()[1]}")
    for name in parts:
        mine = [row for row in rows if row["part"] == name]
        if mine:
            head = [key for key in mine[0] if key != "part"]
            cells = [[f"{row[k]:.3g}" if isinstance(row[k], float) else str(row[k]) for k in head] for row in mine]
            print(table(head, cells))


if __name__ == "__main__":
    main()
