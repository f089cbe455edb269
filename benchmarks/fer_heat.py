"""Is the heat of a frame where the expression is? Grad-CAM by the mean over a frame, and place by place, on synthetic faces.

    affuse fit recipes/fer_ssm/faces.yaml --out RUN
    python benchmarks/fer_heat.py RUN [--out benchmarks/fer_heat.json]

Over the validation clips whose expression changes visibly, without those that show the back of a head or something before
the face: how the heat of a frame, summed, follows the strength of the expression in it (all action units but speech and blinks;
rank correlation), and how strong it is in the hottest frame, as a share of the strongest frame. All figures are synthetic.
"""

import argparse
import json
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from affuse import explain
from affuse.metrics.intervals import spearman
from affuse.runs import load_run
from affuse.types import Batch

SPEECH_AND_BLINKS = (25, 26, 45)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    trained = load_run(arguments.run)
    system, source = trained.system, trained.recipe.data.splits(trained.recipe.training.seed).validation
    ways: dict[str, Any] = {"mean over the frame (Grad-CAM)": mean_over_frame, "place by place": torch.autograd.grad}
    found: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    even = []
    for index, plan in enumerate(source.plans):
        if plan.expression == "neutral" or plan.condition in ("averted", "occluded"):
            continue
        sample = source[index]
        frames = np.round(sample.times_us["face"].numpy() * source.config.fps / 1e6).astype(int)
        units = source.scene(index).motion.units
        strength = np.sum([of_unit for unit, of_unit in units.items() if unit not in SPEECH_AND_BLINKS], 0)[frames]
        if strength.std() < 0.15:
            continue
        even.append(strength.mean() / strength.max())
        for way, gradient in ways.items():
            with mock.patch("torch.autograd.grad", gradient):
                heat = (
                    explain.grad_cam(system, Batch.collate([sample], system.modalities), "face")[0].sum((1, 2)).numpy()
                )
            if heat.max() > 0:
                found[way].append((float(spearman(heat, strength)), strength[heat.argmax()] / strength.max()))
    table = {
        way: dict(zip(("rank_correlation", "hottest"), np.mean(values, 0), strict=True))
        for way, values in found.items()
    }
    print(f"\n| synthetic faces, {len(even)} clips | rank correlation | strength in the hottest frame |\n|---|---|---|")
    for way, values in table.items():
        print(f"| {way} | {values['rank_correlation']:+.2f} | {values['hottest']:.2f} |")
    print(f"| any frame | 0 | {np.mean(even):.2f} |")
    document = {
        "synthetic": True,
        "recipe": trained.recipe.settings,
        "clips": len(even),
        "any_frame": float(np.mean(even)),
    }
    arguments.out.write_text(json.dumps({**document, "ways": table}) + "\n")


_gradient = torch.autograd.grad


def mean_over_frame(*arguments: Any, **options: Any) -> tuple[torch.Tensor | None, ...]:
    """The gradient with each channel's mean over a frame in every place of it: equation 1 of Grad-CAM."""
    found = _gradient(*arguments, **options)
    return tuple(None if one is None else one.mean((2, 3), keepdim=True).expand_as(one) for one in found)


if __name__ == "__main__":
    main()
