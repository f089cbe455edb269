"""How fast is the selective scan, and how much memory does it take, beside mambapy's parallel scan?

    python benchmarks/scan.py [--threads 1] [--rounds 7] [--part pairs|length|threads|memory|all] [--out benchmarks/scan.json]

Peer: mambapy (the extra ``bench``). Its ``pscan`` takes decays and driven inputs of shape (b, t, d, n); making them, and the
product with C, belong to the operation and are timed, written as in its own Mamba block. No direct path D, no first state.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from side_by_side import peak_growth_mib, ratio, side_by_side, table, write
from torch import Tensor

from affuse.ops import native
from affuse.ops.selective_scan import selective_scan

N = 16
SHORT = [(b, t, d) for b, d in ((1, 256), (1, 1024), (8, 512)) for t in (1, 2, 4, 8, 16)]
LONG = [(8, 64, 512), (8, 256, 512)]
FORMS = ["reference", "chunked", *(["native"] if native.available()[0] else [])]


def operands(b: int, t: int, d: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """u, delta, A, B, C."""
    generator = torch.Generator().manual_seed(0)
    made = lambda *shape: torch.randn(shape, generator=generator)  # noqa: E731
    delta = torch.nn.functional.softplus(made(b, t, d) - 2)
    return [x.to(dtype) for x in (made(b, t, d), delta, -torch.exp(made(d, N)), made(b, t, N), made(b, t, N))]


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


def length(rounds: int) -> list[dict[str, Any]]:
    """Microseconds a step, as t grows."""
    rows = []
    for t in (256, 1024, 8192):
        shape = (1, t, 256)
        names = FORMS[1:]
        found = side_by_side({name: call(name, operands(*shape), True) for name in names}, rounds)
        rows.append({"part": "length", "shape": shape} | {f"{k}_us_a_step": 1e6 * found[k].median / t for k in names})
        print(rows[-1], flush=True)
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
    return rows


def memory() -> list[dict[str, Any]]:
    """Growth of peak memory by the first training call of a process: outputs and gradients are in it."""
    rows = []
    for shape in LONG:
        row: dict[str, Any] = {"part": "memory", "shape": shape}
        for name in (*FORMS, "mambapy"):
            size = [str(x) for x in shape]
            command = [sys.executable, __file__, "--peak", name, *size]
            row[f"{name}_mib"] = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
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
    parser.add_argument("--part", choices=("pairs", "length", "threads", "memory", "all"), default="all")
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
