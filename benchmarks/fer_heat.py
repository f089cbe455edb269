"""Is the heat of a frame where the expression is? Grad-CAM by the mean over a frame, and place by place, on synthetic faces.

    affuse fit recipes/fer_ssm/faces.yaml --training.batch_size 16 --training.lr 2e-3 --training.epochs 12 --out RUN
    python benchmarks/fer_heat.py RUN [--out benchmarks/fer_heat.json]

Over the validation clips whose expression changes visibly, without those that show the back of a head or something before
the face: how the heat of a frame, summed, follows the strength of the expression in it (all action units but speech and blinks;
rank correlation), and how strong it is in the hottest frame, as a share of the strongest frame. All figures are synthetic.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from affuse.explain import grad_cam
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
    ways = {"mean over the frame (Grad-CAM)": False, "place by place": True}
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
        batch = Batch.collate([sample], system.modalities)
        for way, by_place in ways.items():
            heat = grad_cam(system, batch, "face", by_place=by_place)[0].sum((1, 2)).numpy()
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


if __name__ == "__main__":
    main()
