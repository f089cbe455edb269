"""What FER-SSM costs beside the baselines of its Table 2: parameters, multiply-adds and time of a clip of 16 frames.

    python benchmarks/fer_cost.py [--threads 1] [--rounds 5] [--cases fer_ssm:224 ...] [--out benchmarks/fer_cost.json]

Every system has its default settings and random weights, and reads one clip (batch 1) without landmarks. Cases that are not
measured keep their earlier rows. Where other programs run, processor time suffers less than the clock.

Multiply-adds are those of convolutions, matrix products and attention as `torch.utils.flop_counter` counts them, which gives
two FLOPs for each: ``FLOPs`` here are twice the multiply-adds. Recurrent networks and attention run in their plain forms while
they are counted, since the counter does not see inside of the fused ones, and the selective scan, an operator of our own, is
added by its formula (`scan_multiply_adds`). Normalisation, activations, pooling and products of elements are not counted.

``published``: the column "FLOPs (G)" of Table 2, beside its WAR and UAR (%).
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from side_by_side import side_by_side, table, write
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from affuse.parts.mamba import MambaBlock
from affuse.systems.baselines.expressions.former_dfer import FormerDFER
from affuse.systems.baselines.expressions.r2plus1d_18 import R2Plus1D18
from affuse.systems.baselines.expressions.r3d_18 import R3D18
from affuse.systems.baselines.expressions.resnet18_recurrent import ResNet18GRU, ResNet18LSTM
from affuse.systems.fer_ssm import FERSSM
from affuse.types import Batch, System, Task

FRAMES = 16
EXPRESSIONS = Task("classification", ("happy", "sad", "neutral", "angry", "surprise", "disgust", "fear"))
PARTS = {"backbone": "encoder", "facial attention": "facial", "temporal": "temporal", "classifier": "classifier"}
SYSTEMS: dict[str, type[System]] = {
    "fer_ssm": FERSSM,
    "r2plus1d_18": R2Plus1D18,
    "r3d_18": R3D18,
    "r3d_18, plain stem": R3D18,
    "resnet18_lstm": ResNet18LSTM,
    "resnet18_gru": ResNet18GRU,
    "former_dfer": FormerDFER,
}
PUBLISHED = {  # G FLOPs, WAR, UAR
    "fer_ssm": (15.2, 66.81, 54.28),
    "r2plus1d_18": (42.36, 53.22, 42.79),
    "r3d_18": (8.32, 54.98, 44.73),
    "resnet18_lstm": (7.78, 43.08, 42.86),
    "resnet18_gru": (7.78, 64.02, 51.68),
    "former_dfer": (9.11, 65.70, 53.69),
}
CASES = ("fer_ssm:224", "fer_ssm:128", "fer_ssm:112", *(f"{name}:112" for name in SYSTEMS if name != "fer_ssm"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cases", nargs="+", default=list(CASES), metavar="SYSTEM:SIDE")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    known = json.loads(arguments.out.read_text())["rows"] if arguments.out.is_file() else []
    found = {f"{row['system']}:{row['size']}": row for row in known}
    models = {case: made(case.rpartition(":")[0]) for case in arguments.cases}
    batches = {case: clip(int(case.rpartition(":")[2])) for case in arguments.cases}
    spent: dict[str, list[float]] = {case: [] for case in arguments.cases}
    ways = {case: watched(call(models[case], batches[case]), spent[case]) for case in arguments.cases}
    timings = side_by_side(ways, arguments.rounds)
    for case, timing in timings.items():
        name, _, size = case.rpartition(":")
        row: dict[str, Any] = {"system": name, "size": int(size), "frames": FRAMES}
        row["parameters"] = sum(parameter.numel() for parameter in models[case].parameters())
        row |= counted(models[case], call(models[case], batches[case]))
        row |= {"seconds": timing.median, "fastest": min(timing.seconds), "slowest": max(timing.seconds)}
        row["processor_seconds"] = statistics.median(spent[case])
        row["published"] = PUBLISHED.get(name)
        if isinstance(models[case], FERSSM):
            row["parts"] = parts(models[case], batches[case], row["by_module"], arguments.rounds)
        del row["by_module"]
        found[case] = row
    rows = [found[case] for case in CASES if case in found]
    write(arguments.out, rows)
    show(rows)


def made(name: str) -> System:
    """A system with its default settings, in evaluation mode."""
    torch.manual_seed(0)
    cls = SYSTEMS[name]
    return cls(cls.Config(stem="plain") if "plain" in name else cls.Config(), EXPRESSIONS).eval()  # type: ignore[call-arg]


def clip(size: int) -> Batch:
    """One clip of random frames."""
    generator = torch.Generator().manual_seed(0)
    frames = torch.randn(1, FRAMES, 3, size, size, generator=generator)
    return Batch({"face": frames}, torch.ones(1, 1, dtype=torch.bool))


def call(model: System, batch: Batch) -> Callable[[], Tensor]:
    @torch.inference_mode()
    def run() -> Tensor:
        return model(batch).logits

    return run


def watched(run: Callable[[], Any], spent: list[float]) -> Callable[[], Any]:
    """`run`, which also notes the processor time of each call: on a busy machine it says more than the clock."""

    def noting() -> Any:
        start = time.process_time()
        found = run()
        spent.append(time.process_time() - start)
        return found

    return noting


def scan_multiply_adds(b: int, t: int, e: int, n: int) -> int:
    """Of a selective scan of e channels with n numbers of state: delta A, decay times state, plus (delta u) B, and C times
    state, for each number of state; delta u and D u for each channel. Exponentials are not counted."""
    return b * t * e * (4 * n + 2)


def counted(model: nn.Module, run: Callable[[], Any]) -> dict[str, Any]:
    """Multiply-adds of a call of `run`, all of them and by module of `model`."""
    scans: dict[str, int] = {}

    def scanned(name: str) -> Callable[..., None]:
        def hook(block: MambaBlock, inputs: tuple[Tensor, ...], _output: Tensor) -> None:
            b, t, _ = inputs[0].shape
            scans[name] = scan_multiply_adds(b, t, *block.A_log.shape)

        return hook

    hooks = [
        module.register_forward_hook(scanned(name))  # type: ignore[arg-type]
        for name, module in model.named_modules()
        if isinstance(module, MambaBlock)
    ]
    recurrent = any(isinstance(module, nn.RNNBase) for module in model.modules())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # leaving the flags as they were warns of Intel GPUs
        with (
            torch.backends.mkldnn.flags(enabled=not recurrent),
            sdpa_kernel(SDPBackend.MATH),
            FlopCounterMode(display=False) as counter,
        ):
            run()
    for hook in hooks:
        hook.remove()
    modules = {key.partition(".")[2]: sum(ops.values()) // 2 for key, ops in counter.get_flop_counts().items()}
    scan = sum(scans.values())
    return {"multiply_adds": counter.get_total_flops() // 2 + scan, "scan": scan, "by_module": modules}


def parts(model: FERSSM, batch: Batch, by_module: dict[str, int], rounds: int) -> list[dict[str, Any]]:
    """Parameters, multiply-adds and processor time of the parts of FER-SSM."""
    seconds: dict[str, list[float]] = {name: [] for name in PARTS}
    hooks = []
    for name, attribute in PARTS.items():
        module, began = getattr(model, attribute), []
        hooks.append(module.register_forward_pre_hook(lambda *_, began=began: began.append(time.process_time())))
        hooks.append(
            module.register_forward_hook(
                lambda *_, began=began, name=name: seconds[name].append(time.process_time() - began.pop())
            )
        )
    for _ in range(rounds):
        call(model, batch)()
    for hook in hooks:
        hook.remove()
    rows = []
    for name, attribute in PARTS.items():
        module = getattr(model, attribute)
        scans = [block for block in module.modules() if isinstance(block, MambaBlock)]
        scan = sum(scan_multiply_adds(1, FRAMES, *block.A_log.shape) for block in scans)
        rows.append(
            {
                "part": name,
                "parameters": sum(parameter.numel() for parameter in module.parameters()),
                "multiply_adds": by_module.get(attribute, 0) + scan,
                "processor_seconds": statistics.median(seconds[name]),
            }
        )
    return rows


def show(rows: list[dict[str, Any]]) -> None:
    """Print the tables."""
    head = (
        "system",
        "side, px",
        "parameters, million",
        "G multiply-adds",
        "G FLOPs",
        "published G",
        "published WAR, UAR",
    )
    cells = []
    for row in rows:
        published = row["published"]
        cells.append(
            (
                row["system"],
                str(row["size"]),
                f"{row['parameters'] / 1e6:.1f}",
                f"{row['multiply_adds'] / 1e9:.2f}",
                f"{2 * row['multiply_adds'] / 1e9:.2f}",
                "" if published is None else f"{published[0]:g}",
                "" if published is None else f"{published[1]:g}, {published[2]:g}",
                f"{1e3 * row['seconds']:.0f} ({1e3 * row['fastest']:.0f} to {1e3 * row['slowest']:.0f})",
                f"{1e3 * row['processor_seconds']:.0f}",
            )
        )
    print(table((*head, "ms a clip", "processor time, ms"), cells))
    for row in rows:
        if "parts" in row:
            print(f"\nParts of {row['system']} at {row['size']} px:\n")
            head = ("part", "parameters, million", "G multiply-adds", "processor time, ms")
            print(
                table(
                    head,
                    [
                        (
                            part["part"],
                            f"{part['parameters'] / 1e6:.2f}",
                            f"{part['multiply_adds'] / 1e9:.4f}",
                            f"{1e3 * part['processor_seconds']:.1f}",
                        )
                        for part in row["parts"]
                    ],
                )
            )


if __name__ == "__main__":
    main()
