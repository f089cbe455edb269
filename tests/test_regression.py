"""A regression from end to end: records, runs, training and report of a small system over sequences of features."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor, nn

from affuse import AffuseError, Batch, Output, Sample, System, Task, runs
from affuse.data import DATASETS
from affuse.data.splits import Splits
from affuse.evaluate import as_records
from affuse.recipe import Recipe, resolve
from affuse.systems import SYSTEMS

TASK = Task("regression", value_range=(-3.0, 3.0), units="sentiment")
NAMES = ("text", "audio")


class Blend(System):
    """A linear answer of each modality's mean over time, weighted by what is present."""

    @dataclass(frozen=True)
    class Config:
        width: int = 4

    modalities = NAMES

    def __init__(self, config: "Blend.Config", task: Task):
        super().__init__()
        self.config, self.task = config, task
        self.embedding = nn.Embedding(10, config.width)
        self.audio = nn.Linear(3, config.width)
        self.heads = nn.ModuleDict({name: nn.Linear(config.width, task.outputs) for name in NAMES})

    def pretrained_parts(self) -> Sequence[nn.Module]:
        return (self.embedding,)

    def forward(self, batch: Batch) -> Output:
        unimodal, features = {}, torch.zeros(batch.size, self.config.width)
        weights = batch.present / batch.present.sum(1, keepdim=True).clamp_min(1)  # b m
        for column, name in enumerate(NAMES):
            rows = batch.has(name).nonzero().flatten()
            unimodal[name] = torch.full((batch.size, self.task.outputs), torch.nan)
            if len(rows):
                part = batch.inputs[name][rows]
                encoded = self.embedding(part) if name == "text" else self.audio(part)  # r t d
                encoded = encoded.mean(1)
                unimodal[name] = unimodal[name].index_copy(0, rows, self.heads[name](encoded))
                features = features.index_add(0, rows, encoded * weights[rows, column, None])
        answered = batch.present.any(1)
        logits = sum(weights[:, m, None] * unimodal[name].nan_to_num() for m, name in enumerate(NAMES))
        return Output(
            torch.where(answered[:, None], logits, torch.nan),
            answered,
            {"modality": weights},
            unimodal,
            {"features": features.detach()},
        )

    def loss(self, output: Output, batch: Batch) -> dict[str, Tensor]:
        assert batch.target is not None
        return {"total": (output.value - batch.target)[output.answered].abs().mean()}


class Talk:
    """Token ids and audio features; the value is the mean of the audio's first channel. Some samples lack a modality."""

    def __init__(self, n: int, seed: int):
        generator = torch.Generator().manual_seed(seed)
        self.audio = torch.randn(n, 5, 3, generator=generator)
        self.text = torch.randint(1, 10, (n, 6), generator=generator)
        self.seed = seed

    def __len__(self) -> int:
        return len(self.audio)

    def __getitem__(self, index: int) -> Sample:
        inputs = {"text": self.text[index, : 3 + index % 4], "audio": self.audio[index]}
        if index % 5 == 4:
            del inputs["text"]
        if index == 7:
            inputs = {}
        meta = {"id": f"{self.seed}-{index}", "subject": index % 4, "condition": "long" if index % 2 else "short"}
        truth = {"informative": "audio"}
        target = round(3 * float(self.audio[index, :, 0].mean()), 1)
        return Sample(inputs, target, meta=meta | {"truth": truth})


@dataclass(frozen=True)
class Talks:
    units: str = "sentiment"

    def splits(self, seed: int) -> Splits:
        task = replace(TASK, units=self.units)
        return Splits(task, Talk(40, 1), Talk(20, 2), Talk(24, 3), True, {"name": "talks", "split": "by seed"})


@pytest.fixture(autouse=True)
def small_world(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SYSTEMS, "blend", Blend)
    monkeypatch.setitem(DATASETS, "talks", Talks)


def recipe(**training: object) -> Recipe:
    settings = {"epochs": 4, "batch_size": 8, "lr": 0.05, "schedule": "constant", **training}
    return resolve({"system": {"name": "blend"}, "data": {"name": "talks"}, "training": settings}, "test")


def batch_of(n: int = 12) -> Batch:
    return Batch.collate([Talk(n, 0)[index] for index in range(n)], NAMES)


def test_records_hold_values_as_they_are_and_what_each_modality_alone_says() -> None:
    torch.manual_seed(0)
    batch = batch_of()
    output = Blend(Blend.Config(), TASK).eval()(batch)
    records = as_records(output, batch, "test")
    assert json.loads(json.dumps(records, allow_nan=False)) == records
    assert "prediction" not in records[0] and "probabilities" not in records[0]
    for row, record in enumerate(records):
        assert isinstance(record["target"], float)
        assert record["answered"] == (row != 7)
        assert record["value"] == (output.value[row].item() if row != 7 else None)
        for name in NAMES:
            there = bool(batch.has(name)[row])
            assert record["unimodal"][name] == (output.unimodal[name][row].item() if there else None)


def test_a_value_that_is_not_finite_answers_nothing() -> None:
    batch = batch_of(2)
    output = Output(torch.tensor([[torch.inf], [1.0]]), torch.tensor([True, True]))
    records = as_records(output, batch, "test")
    assert [(record["value"], record["answered"]) for record in records] == [(None, False), (1.0, True)]


def test_records_of_a_classification_hold_what_each_modality_alone_says() -> None:
    torch.manual_seed(0)
    batch = batch_of(5)
    output = Blend(Blend.Config(), Task("classification", ("a", "b", "c"))).eval()(batch)
    records = as_records(output, replace(batch, target=torch.tensor([0, 1, 2, 0, 1])), "test")
    assert records[4]["unimodal"]["text"] is None
    assert sum(records[4]["unimodal"]["audio"]) == pytest.approx(1, abs=1e-5)
    assert records[0]["target"] == 0 and isinstance(records[0]["prediction"], int)


def test_a_task_stands_in_the_run_whole() -> None:
    for task in (TASK, Task("regression"), Task("classification", ("a", "b"), units="class")):
        assert runs.task_of(json.loads(json.dumps({"task": runs.task_info(task)}))) == task
    old = {"task": {"kind": "classification", "classes": ["a", "b"]}}
    assert runs.task_of(old) == Task("classification", ("a", "b"))
    with pytest.raises(AffuseError, match="smallest to the largest"):
        Task("regression", value_range=(3.0, -3.0))
