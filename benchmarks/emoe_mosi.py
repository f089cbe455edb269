"""EMOE, its baselines and each modality alone on real CMU-MOSI utterances, under one protocol.

    python benchmarks/emoe_mosi.py --root DIR [--seeds 1 2 3 4 5] [--halves 0 1] [--out benchmarks/emoe_mosi.json]

DIR holds the utterance features. Every system trains on the `train` utterances, each with three neighbours on both sides, by
the same few schedules. On one half of the `dev` videos the schedule of each system is chosen, which is also what stops its
training: the highest accuracy, mean over the seeds. The other half is measured; then the halves change places. The interval is
a bootstrap over the 16 videos of the mean over the seeds. Sizes are each system's defaults (TFN and MulT are smaller), and
EMOE's those of recipes/emoe/mosi_utterances.yaml, which were looked for on these same `dev` videos (ledger/emoe.md): its
figures lean to the good side. Rows that --out already holds for the same settings are not measured again.
"""

import argparse
import json
import statistics
import tempfile
from pathlib import Path

import numpy as np
import torch
import yaml

from affuse.fit import fit
from affuse.recipe import resolve

ROOT = Path(__file__).parents[1]
WIDTHS = {"text": 100, "audio": 73, "video": 100}
COMMON = {"batch_size": 64, "weight_decay": 1e-3, "schedule": "cosine", "select": "last"}
SCHEDULES = {
    "sgd, 5 epochs": {"optimizer": "sgd", "lr": 1e-2, "epochs": 5},
    "adamw, 8 epochs": {"optimizer": "adamw", "lr": 1e-3, "epochs": 8},
}
SMALLER = {  # than their defaults, which are slow here and made for other features
    "tfn": {"hidden": {"text": 32, "audio": 32, "video": 32}},
    "mult": {"width": 40, "heads": 4, "layers": 1, "own_layers": 1},
}
NAMES = ("ef_lstm", "lf_dnn", "tfn", "lmf", "mfn", "mult", "misa", "self_mm", "mag_bert")


def systems() -> dict[str, dict]:
    """The system section of each row of the table."""
    emoe = yaml.safe_load((ROOT / "recipes" / "emoe" / "mosi_utterances.yaml").read_text())["system"]
    rows = {"emoe": emoe} | {name: {"name": name, "widths": WIDTHS, **SMALLER.get(name, {})} for name in NAMES}
    return rows | {f"{m} alone": {"name": "unimodal", "modality": m, "widths": WIDTHS} for m in WIDTHS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--halves", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--systems", nargs="+", default=list(systems()), choices=list(systems()))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "emoe_mosi.json")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    settings = {"systems": systems(), "schedules": SCHEDULES, "common": COMMON}
    before = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    same = before.get("settings") == settings
    rows: list[dict] = before["rows"] if same else []
    asked: dict[str, list] = before["asked"] if same else {}  # by half: [video, class] of each test utterance
    done = {(row["system"], row["schedule"], row["half"], row["seed"]) for row in rows}
    for half in arguments.halves:
        for seed in arguments.seeds:
            for name in arguments.systems:
                for schedule in SCHEDULES:
                    if (name, schedule, half, seed) not in done:
                        row, asked[str(half)] = measured(arguments.root, name, schedule, half, seed)
                        rows.append(row)
            arguments.out.write_text(json.dumps({"settings": settings, "asked": asked, "rows": rows}) + "\n")
            print(f"half {half}, seed {seed} done", flush=True)
    print_table(rows, asked)


def measured(root: str, name: str, schedule: str, half: int, seed: int) -> tuple[dict, list]:
    recipe = resolve(
        {
            "system": systems()[name],
            "data": {"name": "mosi_utterances", "root": root, "context": 3, "half": half},
            "training": {**COMMON, **SCHEDULES[schedule], "seed": seed},
        },
        "benchmark",
    )
    with tempfile.TemporaryDirectory() as folder:
        run = fit(recipe, Path(folder) / "run", progress=False, with_report=False)
        history = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
        answers = [json.loads(line) for line in (run / "predictions.jsonl").read_text().splitlines()]
    row = {
        "system": name,
        "schedule": schedule,
        "half": half,
        "seed": seed,
        "validation_war": history[-1]["validation/war"],
        "answers": "".join(str(answer["prediction"]) for answer in answers),  # a digit an utterance
    }
    return row, [[answer["subject"], answer["target"]] for answer in answers]


def print_table(rows: list[dict], asked: dict[str, list]) -> None:
    print("\n| CMU-MOSI utterances | accuracy % | 95 % | balanced accuracy % | over seeds | schedules chosen |")
    print("|---|---|---|---|---|---|")
    for name in dict.fromkeys(row["system"] for row in rows):
        chosen, kept = [], []
        for half in sorted({row["half"] for row in rows}):
            of_half = [row for row in rows if row["system"] == name and row["half"] == half]
            score = {
                schedule: statistics.mean(row["validation_war"] for row in of_half if row["schedule"] == schedule)
                for schedule in dict.fromkeys(row["schedule"] for row in of_half)
            }
            chosen.append(max(score, key=score.__getitem__))
            kept += [row for row in of_half if row["schedule"] == chosen[-1]]
        war, low, high, uar, spread = figures(kept, asked)
        print(
            f"| {name} | {100 * war:.1f} | {100 * low:.1f} to {100 * high:.1f} | {100 * uar:.1f} | ± {100 * spread:.1f} "
            f"| {'; '.join(chosen)} |"
        )


def figures(rows: list[dict], asked: dict[str, list]) -> tuple[float, float, float, float, float]:
    """Accuracy over both halves with its interval, balanced accuracy, and the standard deviation over the seeds."""
    right: dict[str, list] = {}  # by video: class and share of right seeds
    for half in {row["half"] for row in rows}:
        answers = [row["answers"] for row in rows if row["half"] == half]
        for number, (video, target) in enumerate(asked[str(half)]):
            hits = [int(said[number]) == target for said in answers]
            right.setdefault(video, []).append([target, statistics.mean(hits)])
    videos = [np.array(values) for values in right.values()]
    whole = np.concatenate(videos)
    rng = np.random.default_rng(0)
    drawn = [
        np.concatenate([videos[i] for i in rng.integers(0, len(videos), len(videos))])[:, 1].mean() for _ in range(2000)
    ]
    uar = statistics.mean(whole[whole[:, 0] == c, 1].mean() for c in (0, 1))
    by_seed = []
    for seed in {row["seed"] for row in rows}:
        of_seed = [row for row in rows if row["seed"] == seed]
        pairs = [pair for row in of_seed for pair in zip(row["answers"], asked[str(row["half"])], strict=True)]
        by_seed.append(statistics.mean(int(said) == target for said, (_, target) in pairs))
    low, high = np.percentile(drawn, (2.5, 97.5))
    return (
        float(whole[:, 1].mean()),
        float(low),
        float(high),
        float(uar),
        statistics.stdev(by_seed) if len(by_seed) > 1 else 0.0,
    )


if __name__ == "__main__":
    main()
