"""How fast is the selective scan in Triton, beside mamba-ssm's kernel and the bound that the device's memory sets?

    python benchmarks/scan_gpu.py [--shape 8 2048 2048 16] [--rounds 15] [--out benchmarks/scan_gpu.json]

The bound is the time in which the device copies as many bytes as the operation must move at least once: forward reads u,
delta, B and C and writes y; backward reads those and the gradient of y, and writes the gradients of u, delta, B and C. The
peer is timed where ``mamba_ssm`` can be imported; its layout is (b, d, t), and it is given tensors that lie so. Inputs are
bfloat16, A and D float32. Without a GPU nothing is measured.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from side_by_side import Timing, ratio, table, write
from torch import Tensor

from affuse.ops import triton
from affuse.ops.selective_scan import selective_scan
from affuse.ops.triton.scan import selective_scan_triton

Call = Callable[[], Any]


def timed(ways: dict[str, Call], rounds: int) -> dict[str, Timing]:
    """Seconds of the device by way and round, in an order that changes by round, after three calls to compile and warm up."""
    for way in ways.values():
        for _ in range(3):
            way()
    found: dict[str, list[float]] = {name: [] for name in ways}
    order = random.Random(0)
    for _ in range(rounds):
        for name in order.sample(list(ways), len(ways)):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda.synchronize()
            start.record()
            for _ in range(10):
                ways[name]()
            end.record()
            torch.cuda.synchronize()
            found[name].append(start.elapsed_time(end) / 1e4)
    return {name: Timing(tuple(seconds)) for name, seconds in found.items()}


def operands(b: int, t: int, d: int, n: int) -> list[Tensor]:
    """u, delta, A, B, C, D."""
    generator = torch.Generator("cuda").manual_seed(0)
    made = lambda *shape: torch.randn(shape, generator=generator, device="cuda")  # noqa: E731
    delta = torch.nn.functional.softplus(made(b, t, d) - 2)
    u, B, C = made(b, t, d), made(b, t, n), made(b, t, n)
    return [u.bfloat16(), delta.bfloat16(), -torch.exp(made(d, n)), B.bfloat16(), C.bfloat16(), made(d)]


def call(scan: Callable[..., Tensor], inputs: list[Tensor], grad: Tensor, backward: bool) -> Call:
    """The forward pass alone, or with the gradients of all inputs."""
    if not backward:
        return torch.no_grad()(lambda: [scan(*inputs)])
    leaves = [x.detach().requires_grad_() for x in inputs]

    def trained() -> list[Tensor]:
        y = scan(*leaves)
        return [y.detach(), *torch.autograd.grad(y, leaves, grad)]

    return trained


def peer() -> Callable[..., Tensor] | None:
    """mamba-ssm's kernel, over its own layout."""
    try:
        from mamba_ssm.ops.selective_scan_interface import selective_scan_fn
    except ImportError:
        return None
    return lambda u, delta, A, B, C, D: selective_scan_fn(u, delta, A, B, C, D)


def as_peer(inputs: list[Tensor]) -> list[Tensor]:
    """The same inputs with time last."""
    return [x.transpose(1, 2).contiguous() if x.dim() == 3 else x for x in inputs]


def check(way: str, found: list[Tensor], true: list[Tensor]) -> None:
    """Every tensor is right to what bfloat16 rounds, or the benchmark ends here."""
    for ours, wanted in zip(found, true, strict=True):
        error = float((ours.float() - wanted.float()).norm() / wanted.float().norm())
        if not error < 2**-7:
            raise SystemExit(f"{way} is wrong by {error:.1e}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=int, nargs=4, default=(8, 2048, 2048, 16), metavar=("B", "T", "D", "N"))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    ready, why = triton.available()
    if not torch.cuda.is_available() or not ready:
        print(f"not measured: no GPU for Triton here ({why})")
        return
    b, t, d, n = options.shape
    inputs = operands(b, t, d, n)
    grad = torch.randn(b, t, d, device="cuda").bfloat16()
    other = peer()
    wide, narrow = 2 * b * t * d, 2 * b * t * n  # bytes of one tensor of each kind
    rows, record = [], []
    for backward, size in ((False, 3 * wide + 2 * narrow), (True, 8 * wide + 6 * narrow)):
        ours = call(lambda *x: selective_scan_triton(*x)[0], inputs, grad, backward)
        truth = call(
            lambda *x: selective_scan(*x, form="chunked")[0], [x.float() for x in inputs], grad.float(), backward
        )
        true = truth()
        check("Triton", ours(), true)
        source = torch.empty(size // 4, dtype=torch.int16, device="cuda")  # a copy of it moves `size` bytes
        target = torch.empty_like(source)
        ways: dict[str, Call] = {"Triton": ours, "copy": lambda s=source, t=target: t.copy_(s)}
        if other is not None:
            ways["mamba-ssm"] = call(other, as_peer(inputs), grad.transpose(1, 2).contiguous(), backward)
            check("mamba-ssm", as_peer(ways["mamba-ssm"]()), true)
        times = timed(ways, options.rounds)
        kind = "forward + backward" if backward else "forward"
        for name, timing in times.items():
            against = ratio(timing, times["Triton"])
            rows.append([kind, name, f"{1e3 * timing.median:.3f}", str(against)])
            seconds = {"median": timing.median, "all": timing.seconds}
            record.append({"pass": kind, "way": name, "seconds": seconds, "over Triton": vars(against), "bytes": size})
    print(f"{torch.cuda.get_device_name()}; b {b}, t {t}, d {d}, n {n}, bfloat16")
    print(table(["pass", "way", "ms", "time over Triton's"], rows))
    if options.out:
        write(options.out, [{"device": torch.cuda.get_device_name(), "shape": [b, t, d, n], **row} for row in record])


if __name__ == "__main__":
    main()
