"""What the image encoders themselves cost at batch 1: eager, folded and channels-last, and in ONNX Runtime.

    python benchmarks/backbones.py [--threads 1] [--out benchmarks/backbones.json]

One call is a pair of clips, one for each sensor, through two encoders with random weights. int8 is calibrated with random
images, so its distance from eager says that the graph is right, and nothing about the accuracy of a trained network.
Needs onnx, onnxscript and onnxruntime (the extra ``export``).
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from side_by_side import ratio, side_by_side, table, write
from torch import Tensor, nn

from affuse.folding import fold_batch_norm
from affuse.parts.encoders import ImageEncoder

# Encoder, and the frames of one sensor's clip.
CASES = {
    "resnet18, 2 frames of 100 px": ("resnet18", (2, 3, 100, 100)),
    "resnet18, 2 frames of 128 px": ("resnet18", (2, 3, 128, 128)),
    "resnet18, 2 frames of 224 px": ("resnet18", (2, 3, 224, 224)),
    "small (demo), 4 frames of 48 px": ("small", (4, 3, 48, 48)),
}
SENSORS = 2
CALIBRATION = 16  # clips
# Largest difference from eager, as a share of its largest value: rounding, and eight bits through many layers.
ALLOWED = {"folded, channels-last": 1e-4, "ONNX Runtime float32": 1e-4, "ONNX Runtime int8": 0.2}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    rows: list[dict[str, Any]] = []
    for case, (name, shape) in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            ways = made(name, shape, Path(folder), arguments.threads)
            expected = ways["eager"]()
            distances = {way: distance(run(), expected) for way, run in ways.items()}
            for way, (worst, cosine) in distances.items():
                print(f"{case}, {way}: largest difference {worst:.1e} of the largest value, cosine {cosine:.6f}")
                if worst > ALLOWED.get(way, 0.0):
                    raise SystemExit(f"{case}: {way} does not compute what eager does")
            found = side_by_side(ways, arguments.rounds)
        for way, timing in found.items():
            worst, cosine = distances[way]
            faster = str(ratio(found["eager"], timing))
            rows.append(
                {
                    "case": case,
                    "way": way,
                    "ms": 1e3 * timing.median,
                    "eager_over_this": faster,
                    "largest_difference": worst,
                    "cosine": cosine,
                }
            )
        write(arguments.out, rows)
    cells = [
        [r["case"], r["way"], f"{r['ms']:.2f}", r["eager_over_this"], f"{r['largest_difference']:.0e}"] for r in rows
    ]
    print(table(("two clips", "way", "ms", "eager / this", "difference"), cells))


def made(name: str, shape: tuple[int, ...], folder: Path, threads: int) -> dict[str, Callable[[], list[Tensor]]]:
    """Each way to run the encoders of all sensors on their clips."""
    nets = [trained_like(ImageEncoder(name, shape[1]).net) for _ in range(SENSORS)]
    clips = [torch.randn(shape) for _ in nets]
    folded = [fold_batch_norm(net) for net in nets]
    last = [clip.to(memory_format=torch.channels_last) for clip in clips]
    sessions: dict[str, list[onnxruntime.InferenceSession]] = {"float32": [], "int8": []}
    for number, net in enumerate(nets):
        paths = exported(net, shape, folder / str(number))
        for kind, path in paths.items():
            sessions[kind].append(session(path, threads))

    def eager(all_nets: list[nn.Module], inputs: list[Tensor]) -> list[Tensor]:
        with torch.inference_mode():
            return [net(clip) for net, clip in zip(all_nets, inputs, strict=True)]

    def runtime(kind: str) -> list[Tensor]:
        pairs = zip(sessions[kind], clips, strict=True)
        return [torch.from_numpy(own.run(None, {"images": clip.numpy()})[0]) for own, clip in pairs]

    return {
        "eager": lambda: eager(nets, clips),
        "folded, channels-last": lambda: eager(folded, last),
        "ONNX Runtime float32": lambda: runtime("float32"),
        "ONNX Runtime int8": lambda: runtime("int8"),
    }


def trained_like(net: nn.Module) -> nn.Module:
    """Normalisation that is not the identity, as after training, so that a wrong folding would show."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
    return net.eval()


def exported(net: nn.Module, shape: tuple[int, ...], folder: Path) -> dict[str, Path]:
    """The network as float32 and as int8 (static, a scale for each output channel, in QDQ form)."""
    folder.mkdir()
    paths = {kind: folder / f"{kind}.onnx" for kind in ("float32", "prepared", "int8")}
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            images = (torch.randn(shape),)
            torch.onnx.export(
                net, images, str(paths["float32"]), input_names=["images"], dynamo=True, external_data=False
            )
            quant_pre_process(str(paths["float32"]), str(paths["prepared"]))
            settings = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
            quantize_static(
                str(paths["prepared"]),
                str(paths["int8"]),
                Images(shape),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                **settings,
            )
    finally:
        logging.disable(logging.NOTSET)
    return {kind: paths[kind] for kind in ("float32", "int8")}


class Images(CalibrationDataReader):
    """Random clips, from which the range of every activation is taken."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        random = torch.Generator().manual_seed(1)
        self.clips: Iterator[Tensor] = iter([torch.randn(shape, generator=random) for _ in range(CALIBRATION)])

    def get_next(self) -> dict[str, Any] | None:
        clip = next(self.clips, None)
        return None if clip is None else {"images": clip.numpy()}


def session(path: Path, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])


def distance(outputs: list[Tensor], expected: list[Tensor]) -> tuple[float, float]:
    """Largest difference as a share of the largest value, and the cosine, over all outputs."""
    ours, theirs = (torch.cat([x.flatten() for x in xs]).double() for xs in (outputs, expected))
    worst = (ours - theirs).abs().max() / theirs.abs().max()
    return worst.item(), torch.nn.functional.cosine_similarity(ours, theirs, dim=0).item()


if __name__ == "__main__":
    main()
