"""A small system of two linear branches, and a world in which one modality is easier than the other."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from affuse import Batch, Output, Sample, System, Task
from affuse.data import DATASETS
from affuse.data.splits import Splits
from affuse.parts.supervision import known_rows, nothing_to_learn
from affuse.systems import SYSTEMS

TASK = Task("classification", ("one", "two", "three"))
WIDTH = 4


class Pair(System):
    """The sum of each branch's linear answer, over the branches that a row has."""

    @dataclass(frozen=True)
    class Config:
        names: tuple[str, ...] = ("loud", "faint")
        width: int = 5

    def __init__(self, config: "Pair.Config", task: Task):
        super().__init__()
        self.config, self.task, self.modalities = config, task, tuple(config.names)
        self.branches = nn.ModuleDict({name: nn.Linear(WIDTH, config.width) for name in config.names})
        self.heads = nn.ModuleDict({name: nn.Linear(config.width, task.outputs) for name in config.names})

    def modality_parts(self) -> Mapping[str, Sequence[nn.Module]]:
        return {name: [self.branches[name]] for name in self.modalities}

    def forward(self, batch: Batch) -> Output:
        answered = batch.present.any(1)
        logits = torch.zeros(batch.size, self.task.outputs)
        unimodal: dict[str, Tensor] = {}
        aux: dict[str, Tensor] = {}
        for name in self.modalities:
            rows = batch.has(name).nonzero().flatten()
            if not len(rows):
                continue
            features = torch.tanh(self.branches[name](batch.inputs[name][rows].mean(1)))  # r d
            own = self.heads[name](features)
            logits = logits.index_add(0, rows, own)
            unimodal[name] = torch.full_like(logits, torch.nan).index_copy(0, rows, own)
            aux[f"features/{name}"] = torch.zeros(batch.size, self.config.width).index_copy(0, rows, features)
        time = torch.where(answered[:, None], torch.tensor([[0.25, 0.75]]), 0.0)
        return Output(torch.where(answered[:, None], logits, torch.nan), answered, {"time": time}, unimodal, aux)

    def loss(self, output: Output, batch: Batch) -> dict[str, Tensor]:
        rows = known_rows(output, batch, self.task)
        if batch.target is None or not rows.any():
            return nothing_to_learn(self)
        return {"total": functional.cross_entropy(output.logits[rows], batch.target[rows])}


class Shouts:
    """The class is a direction in both inputs, five times as strong in ``loud``; each fifth sample lacks ``faint``."""

    def __init__(self, n: int, seed: int):
        generator = torch.Generator().manual_seed(seed)
        self.noise = torch.randn(2, n, 2, WIDTH, generator=generator)
        self.seed = seed

    def __len__(self) -> int:
        return self.noise.shape[1]

    def __getitem__(self, index: int) -> Sample:
        target = index % 3
        direction = functional.one_hot(torch.tensor(target), WIDTH).float()
        inputs = {"loud": 5 * direction + self.noise[0, index], "faint": direction + self.noise[1, index]}
        if index % 5 == 4:
            del inputs["faint"]
        return Sample(inputs, target, meta={"id": f"{self.seed}-{index}", "subject": index % 4})


@dataclass(frozen=True)
class ShoutData:
    units: str = ""

    def splits(self, seed: int) -> Splits:
        return Splits(TASK, Shouts(24, 1), Shouts(12, 2), Shouts(12, 3), True, {"name": "shouts", "split": "by seed"})


@pytest.fixture(autouse=True)
def small_world(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SYSTEMS, "pair", Pair)
    monkeypatch.setitem(DATASETS, "shouts", ShoutData)


@pytest.fixture
def pair() -> Pair:
    torch.manual_seed(0)
    return Pair(Pair.Config(), TASK)


@pytest.fixture
def batch() -> Batch:
    shouts = Shouts(12, 0)
    return Batch.collate([shouts[index] for index in range(12)], ("loud", "faint"))
