"""Does the cost of sparse experts follow the experts chosen? Eight deep experts, two a row, against all eight evaluated.

    python benchmarks/experts.py [--threads 1] [--out benchmarks/experts.json]

MCO-E Net's experts at the width of its paper's recipe (d 512, one token a row); routing is drawn at random.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from side_by_side import ratio, side_by_side, table, write

from affuse.ops.dispatch import dispatch, dispatch_dense, top_k_weights
from affuse.parts.experts import DeepExpert

WIDTH, CLASSES, EXPERTS, CHOSEN, LAYERS = 512, 7, 8, 2, 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    experts = [DeepExpert(WIDTH, CLASSES, LAYERS, 0.0) for _ in range(EXPERTS)]
    rows: list[dict[str, Any]] = []
    for backward in (False, True):
        for batch in (1, 4, 16, 64, 256, 1024):
            rows.append(measure(experts, batch, backward, arguments.rounds))
            print(rows[-1], flush=True)
            write(arguments.out, rows)
    head = ("pass", "batch", "sparse, ms", "dense, ms", "dense / sparse")
    cells = [(r["pass"], str(r["batch"]), f"{r['sparse_ms']:.2f}", f"{r['dense_ms']:.2f}", r["ratio"]) for r in rows]
    print(table(head, cells))


def measure(experts: list[DeepExpert], batch: int, backward: bool, rounds: int) -> dict[str, Any]:
    tokens = torch.randn(batch, 1, WIDTH)
    weights = top_k_weights(torch.rand(batch, EXPERTS).softmax(1), CHOSEN)
    runs = {
        "sparse": lambda: dispatch(tokens, weights, experts, CLASSES),
        "dense": lambda: dispatch_dense(tokens, weights, experts),
    }
    torch.testing.assert_close(runs["sparse"](), runs["dense"](), rtol=1e-4, atol=1e-4)

    def trained(run: Any) -> None:
        for expert in experts:
            expert.zero_grad()
        run().sum().backward()

    def inferred(run: Any) -> None:
        with torch.no_grad():
            run()

    through = trained if backward else inferred
    found = side_by_side({name: lambda run=run: through(run) for name, run in runs.items()}, rounds)
    return {
        "pass": "forward + backward" if backward else "forward",
        "batch": batch,
        "sparse_ms": 1e3 * found["sparse"].median,
        "dense_ms": 1e3 * found["dense"].median,
        "ratio": str(ratio(found["dense"], found["sparse"])),
    }


if __name__ == "__main__":
    main()
