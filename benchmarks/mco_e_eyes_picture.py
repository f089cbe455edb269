"""Draw the README's picture from the JSON of mco_e_eyes.py: what both cameras see in each light, and how often each is right.

python benchmarks/mco_e_eyes_picture.py [--rows benchmarks/mco_e_eyes.json] [--out docs/mco_e_eyes.png]
"""

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from affuse.data.synthetic.eyes import EyeClips, Eyes
from affuse.data.synthetic.rgb_sensor import LIGHTS

ROOT = Path(__file__).parents[1]
COLOURS = {"rgb only": "#c98b2b", "event only": "#3b7dbd", "fused": "#2c7a4b"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=Path, default=ROOT / "benchmarks" / "mco_e_eyes.json")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "mco_e_eyes.png")
    arguments = parser.parse_args()
    rows = json.loads(arguments.rows.read_text())["results"]
    figure = plt.figure(figsize=(11, 3.4), dpi=120)
    left, right = figure.subfigures(1, 2, width_ratios=(1, 1.25))
    draw_examples(left.subplots(2, len(LIGHTS), gridspec_kw={"hspace": 0, "wspace": 0.1}))
    draw_accuracy(right.subplots(1, 1), rows)
    arguments.out.parent.mkdir(exist_ok=True)
    figure.savefig(arguments.out, bbox_inches="tight")
    print(arguments.out)


def draw_examples(axes: Any) -> None:
    """The last frame of a clip, and its events, of a surprise that sets in meanwhile, in each light."""
    source = EyeClips(Eyes(), "test", 0)
    for column, light in enumerate(LIGHTS):
        rows = [i for i, plan in enumerate(source.plans) if plan.light == light and plan.label == "surprise"]
        sample = next(source[i] for i in rows if 0.2e6 < source.recording(i).truth["onset_us"] < 0.5e6)
        frame = (sample.inputs["rgb"][-1] * 0.25 + 0.5).clamp(0, 1).permute(1, 2, 0).numpy()
        events = sample.inputs["event"].sum((0, 1)).numpy()
        axes[0, column].imshow(frame)
        axes[1, column].imshow(events, cmap="RdBu", vmin=-6, vmax=6)
        axes[0, column].set_title(light, fontsize=9)
    for axis, name in ((axes[0, 0], "RGB camera"), (axes[1, 0], "event camera")):
        axis.set_ylabel(name, fontsize=9)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])


def draw_accuracy(axis: Any, rows: list[dict[str, Any]]) -> None:
    """WAR by light: mean over seeds, and each seed as a dot."""
    for number, (system, colour) in enumerate(COLOURS.items()):
        of_system = [row["by_light"] for row in rows if row["row"] == system]
        for place, light in enumerate(LIGHTS):
            values = [100 * by_light[light] for by_light in of_system]
            x = place + (number - 1) * 0.27
            label = {"rgb only": "RGB only", "event only": "events only", "fused": "MCO-E Net, both"}[system]
            axis.bar(x, statistics.mean(values), 0.25, color=colour, label=label if place == 0 else None)
            axis.plot(np.full(len(values), x), values, ".", color="black", markersize=3)
    seeds = len({row["time"] for row in rows})
    axis.set_xticks(range(len(LIGHTS)), LIGHTS)
    axis.set(ylim=(30, 100), ylabel="WAR, %")
    axis.set_title(f"synthetic eye world, unseen subjects, {seeds} seeds", fontsize=9)
    axis.legend(loc="upper right", fontsize=8, ncols=3, bbox_to_anchor=(1, -0.08), frameon=False)
    axis.spines[["top", "right"]].set_visible(False)


if __name__ == "__main__":
    main()
