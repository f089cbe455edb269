"""What a whole system costs beside its backbones alone: inference and training step, at the paper's shapes and the demo's.

    python benchmarks/systems.py [--threads 1] [--rounds 11] [--cases "mco_e, demo" ...] [--out benchmarks/systems.json]

Weights and inputs are random; published backbones are made from their configuration alone. ``backbones`` are what a modality
goes through before anything of the system itself: image encoders, video transformers, the text encoder, spiking networks. They
get what they got in the whole system, and the mean of what they give is their loss. A system that reads features has none.
Memory is the growth of the process's peak in one call, each in a process of its own. Cases that are not measured keep their
earlier rows.

``inference, folded``: whole and backbones both as `affuse.folding.folded` makes them, where there is something to fold; and how
much faster the whole is than the one that is not folded.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from side_by_side import peak_growth_mib, ratio, side_by_side, table, write
from torch import Tensor, nn

from affuse.folding import folded
from affuse.recipe import load_recipe
from affuse.systems import SYSTEMS
from affuse.types import Batch, System, Task

ROOT = Path(__file__).parents[1]
# Which backbone, and its arguments.
Calls = list[tuple[int, tuple[Any, ...], dict[str, Any]]]
FOLDED = "inference, folded"
KINDS = ("inference", FOLDED, "training step")
VOCABULARY = 30_522  # of BERT; ``text`` is token ids where the system has a text encoder


@dataclass(frozen=True)
class Case:
    """A recipe and the shapes of one sample.

    Attributes:
        recipe: system and data.
        sizes: shape of each modality.
        batches: samples a batch.
        backbones: of a built system.
        overrides: of the recipe.
        made_from: a setting of the system that names published weights, and the class of transformers that configures them.
        most_rounds: fewer than asked for, where a call takes many seconds.
    """

    recipe: tuple[str, str]
    sizes: dict[str, tuple[int, ...]]
    batches: tuple[int, ...]
    backbones: Callable[[Any], Iterable[nn.Module]]
    overrides: list[str] = field(default_factory=list)
    made_from: tuple[str, str] | None = None
    most_rounds: int = 1_000


ROOTLESS = ["--data.root", "."]
RANDOM = [*ROOTLESS, "--system.pretrained", "false"]
CASES = {
    "mco_e, paper": Case(
        ("mco_e", "see"),
        {"rgb": (2, 3, 100, 100), "event": (2, 3, 100, 100)},
        (1, 32),
        lambda system: system.trunk.encoders.values(),
        RANDOM,
    ),
    "mco_e, demo": Case(
        ("mco_e", "eyes"),
        {"rgb": (4, 3, 48, 48), "event": (4, 3, 48, 48)},
        (1, 32),
        lambda system: system.trunk.encoders.values(),
    ),
    "emoe, paper": Case(
        ("emoe", "mosi_aligned"),
        {"text": (50,), "audio": (50, 5), "video": (50, 20)},
        (1, 16),
        lambda system: [system.text],
        RANDOM,
        made_from=("text_encoder", "BertConfig"),
        most_rounds=5,
    ),
    "emoe, demo": Case(
        ("emoe", "talk"),
        {"text": (14, 24), "audio": (48, 12), "video": (32, 16)},
        (1, 32),
        lambda system: [],
    ),
    "taaf, paper": Case(
        ("taaf", "crema_d"),
        {"audio": (1, 1, 257, 188), "video": (1, 3, 224, 224)},
        (1, 16),
        lambda system: [branch.network for branch in system.branches.values()],
        ROOTLESS,
        most_rounds=5,
    ),
    "taaf, demo": Case(
        ("taaf", "duet"),
        {"audio": (12, 16), "visual": (12, 32)},
        (1, 32),
        lambda system: [branch.network for branch in system.branches.values()],
    ),
    "mome, paper": Case(
        ("mome", "drive_and_act"),
        {"rgb": (16, 3, 224, 224), "infrared": (16, 1, 224, 224), "depth": (16, 1, 224, 224)},
        (1,),
        lambda system: system.experts.values(),
        RANDOM,
        made_from=("expert", "VideoMAEConfig"),
        most_rounds=3,
    ),
    "mome, demo": Case(
        ("mome", "cabin"),
        {"rgb": (8, 3, 48, 48), "infrared": (8, 1, 48, 48), "depth": (8, 1, 48, 48)},
        (1, 16),
        lambda system: [expert.stem for expert in system.experts.values()],
    ),
    "fer_ssm, paper": Case(
        ("fer_ssm", "dfew"),
        {"face": (16, 3, 224, 224), "landmarks": (16, 68, 2)},
        (1,),
        lambda system: [system.encoder],
        RANDOM,
        most_rounds=5,
    ),
    "fer_ssm, demo": Case(
        ("fer_ssm", "faces"),
        {"face": (8, 3, 48, 48)},
        (1, 32),
        lambda system: [system.encoder],
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES), metavar="CASE")
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS, metavar="KIND")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--memory", nargs=5, help=argparse.SUPPRESS)  # see `apart`
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.memory:
        name, batch, kind, what, calls = arguments.memory
        print(json.dumps(peak_growth_mib(runs(CASES[name], int(batch), kind, torch.load(calls))[what])))
        return
    known = json.loads(arguments.out.read_text())["rows"] if arguments.out.is_file() else []
    rows: dict[tuple[str, int, str], dict[str, Any]] = {
        (row["system"], row["batch"], row["what"]): row for row in known
    }
    for name in arguments.cases:
        kinds = [kind for kind in arguments.kinds if kind != FOLDED or folds(CASES[name])]
        for batch in CASES[name].batches if kinds else ():
            calls = calls_of_backbones(CASES[name], batch)
            for kind in kinds:
                row = measured(name, batch, kind, calls, arguments.rounds, arguments.threads)
                print(row, flush=True)
                rows[name, batch, kind] = row
                write(arguments.out, [row for case in CASES for row in rows.values() if row["system"] == case])
    head = list(next(iter(rows.values()), ()))
    print(table(head, [[_cell(value) for value in row.values()] for row in rows.values()]))


def measured(name: str, batch: int, kind: str, calls: Calls, rounds: int, threads: int) -> dict[str, Any]:
    """A row of the table."""
    ways = runs(CASES[name], batch, kind, calls)
    found = side_by_side(ways, min(rounds, CASES[name].most_rounds))
    # Folding itself, which happens once, takes more than a call.
    measures = () if kind == FOLDED else tuple(ways)
    peaks = {what: apart(name, batch, kind, what, calls, threads) for what in measures}
    return {
        "system": name,
        "batch": batch,
        "what": kind,
        "whole_ms": 1e3 * found["whole"].median,
        "backbones_ms": 1e3 * found["backbones"].median if calls else None,
        "whole_over_backbones": str(ratio(found["whole"], found["backbones"])) if calls else None,
        "peak_mib": peaks.get("whole"),
        "backbones_peak_mib": peaks.get("backbones"),
        "not_folded_over_folded": str(ratio(found["not folded"], found["whole"])) if kind == FOLDED else None,
    }


def runs(case: Case, batch: int, kind: str, calls: Calls) -> dict[str, Callable[[], Any]]:
    """One call of the whole system, and one of its backbones if it has some."""
    system, data = built(case, batch)
    trains = kind == "training step"
    system.train(trains)
    plain = system
    if kind == FOLDED:
        system = folded(system)
    backbones = nn.ModuleList(case.backbones(system))

    def of_backbones() -> Tensor:
        found = [backbones[number](*args, **kwargs) for number, args, kwargs in calls]
        return torch.stack([(x if isinstance(x, Tensor) else x[0]).mean() for x in found]).sum()

    def whole() -> Any:
        output = system(data)
        return system.loss(output, data)["total"] if trains else output

    def call(run: Callable[[], Any], learning: nn.Module) -> None:
        if not trains:
            with torch.no_grad():
                run()
            return
        learning.zero_grad()
        run().backward()

    made = {"whole": lambda: call(whole, system)}
    if calls:
        made["backbones"] = lambda: call(of_backbones, backbones)
    if kind == FOLDED:
        made["not folded"] = lambda: call(lambda: plain(data), plain)
    return made


def folds(case: Case) -> bool:
    """Whether a system has anything to fold."""
    system = built(case, 1)[0].eval()
    return list(system.state_dict()) != list(folded(system).state_dict())


def calls_of_backbones(case: Case, batch: int) -> Calls:
    """What each backbone gets in one pass through the whole system."""
    system, data = built(case, batch)
    calls: Calls = []
    for number, module in enumerate(case.backbones(system)):

        def keep(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], number: int = number) -> None:
            calls.append((number, args, kwargs))

        module.register_forward_pre_hook(keep, with_kwargs=True)
    system.eval()
    with torch.no_grad():
        system(data)
    return calls


def built(case: Case, batch: int) -> tuple[System, Batch]:
    """The system of a case, with random weights, and a random batch."""
    torch.manual_seed(0)
    name, data = case.recipe
    with tempfile.TemporaryDirectory() as folder:
        overrides = list(case.overrides)
        if case.made_from is not None:
            import transformers

            setting, kind = case.made_from
            getattr(transformers, kind)().save_pretrained(folder)
            overrides += [f"--system.{setting}", folder]
        recipe = load_recipe(ROOT / "recipes" / name / f"{data}.yaml", overrides)
        sentiment = name == "emoe"
        task = Task("regression") if sentiment else Task("classification", tuple("abcdefg"))
        system: System = SYSTEMS[name](recipe.system, task)
    inputs = {key: _input(key, (batch, *size)) for key, size in case.sizes.items()}
    present = torch.ones(batch, len(inputs), dtype=torch.bool)
    return system, Batch(inputs, present, target=torch.zeros(batch) if sentiment else torch.zeros(batch).long())


def _input(name: str, size: tuple[int, ...]) -> Tensor:
    if name == "landmarks":
        return 224 * torch.rand(size)
    if name == "text" and len(size) == 2:
        return torch.randint(VOCABULARY, size)
    return torch.randn(size)


def apart(name: str, batch: int, kind: str, what: str, calls: Calls, threads: int) -> float:
    """`peak_growth_mib` in a process of its own, which reads what the backbones get: to find it raises the peak."""
    with tempfile.NamedTemporaryFile(suffix=".pt") as file:
        torch.save(calls if what == "backbones" else [], file.name)
        command = [
            sys.executable,
            __file__,
            "--threads",
            str(threads),
            "--memory",
            name,
            str(batch),
            kind,
            what,
            file.name,
        ]
        return float(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))


def _cell(value: Any) -> str:
    return f"{value:.1f}" if isinstance(value, float) else "-" if value is None else str(value)


if __name__ == "__main__":
    main()
