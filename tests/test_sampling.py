"""Which samples an epoch draws, and what a system is told of the classes."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor, nn

from affuse import AffuseError, Batch, Output, Sample, System, Task, fit, runs
from affuse.data import DATASETS
from affuse.data.splits import Splits
from affuse.parts.class_balance import ClassBalance, balanced_loss
from affuse.recipe import Recipe, load_recipe, resolve
from affuse.sampling import Shuffled, class_counts, class_targets, sampling_chances
from affuse.systems import SYSTEMS

TASK = Task("classification", ("common", "rare"))
RARE_EVERY = 8


class Line(System):
    """A linear answer that keeps the counts of the classes."""

    @dataclass(frozen=True)
    class Config:
        loss: ClassBalance = ClassBalance()

    modalities = ("x",)

    def __init__(self, config: "Line.Config", task: Task):
        super().__init__()
        self.config, self.task = config, task
        self.linear = nn.Linear(3, task.outputs)
        self.class_counts: Tensor
        self.register_buffer("class_counts", torch.ones(task.outputs, dtype=torch.int64))

    def know_classes(self, counts: Tensor) -> None:
        self.class_counts.copy_(counts)

    def forward(self, batch: Batch) -> Output:
        return Output(self.linear(batch.inputs["x"][:, 0]), batch.present[:, 0])

    def loss(self, output: Output, batch: Batch) -> dict[str, Tensor]:
        assert batch.target is not None
        return {"total": balanced_loss(output.logits, batch.target, self.class_counts, self.config.loss)}


class Deaf(Line):
    """The same, which wants to know nothing of the classes."""

    know_classes = System.know_classes


class Points:
    """Two overlapping clouds; every eighth point is of the rare class."""

    def __init__(self, n: int, seed: int):
        self.x = torch.randn(n, 1, 3, generator=torch.Generator().manual_seed(seed))
        self.read: list[int] = []

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> Sample:
        self.read.append(index)
        target = int(index % RARE_EVERY == 0)
        return Sample({"x": self.x[index] + target + 0.1 * torch.randn(1, 3)}, target, meta={"id": str(index)})


class Listed(Points):
    """The same, which tells the classes without making the samples."""

    @property
    def targets(self) -> list[int]:
        return [int(index % RARE_EVERY == 0) for index in range(len(self))]


@dataclass(frozen=True)
class PointData:
    listed: bool = True

    def splits(self, seed: int) -> Splits:
        made = Listed if self.listed else Points
        return Splits(TASK, made(32, 1), made(16, 2), made(16, 3), True, {"name": "points"})


@dataclass(frozen=True)
class ValueData:
    units: str = ""

    def splits(self, seed: int) -> Splits:
        return Splits(Task("regression"), Points(8, 1), Points(8, 2), Points(8, 3), True, {"name": "values"})


@pytest.fixture(autouse=True)
def small_world(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SYSTEMS, "line", Line)
    monkeypatch.setitem(SYSTEMS, "deaf", Deaf)
    monkeypatch.setitem(DATASETS, "points", PointData)
    monkeypatch.setitem(DATASETS, "values", ValueData)
    monkeypatch.setattr(fit, "write_evidence", lambda *_: None)  # the report is tested elsewhere


def recipe(system: Any = "line", data: Any = "points", **training: object) -> Recipe:
    sections = {"system": system, "data": data}
    named = {key: {"name": value} if isinstance(value, str) else value for key, value in sections.items()}
    return resolve({**named, "training": {"epochs": 3, "batch_size": 8, "select": "last", **training}}, "test")


def trained(out: Path, *arguments: Any, **training: object) -> dict[str, Any]:
    fit.fit(recipe(*arguments, **training), out, progress=False, with_report=False)
    found: dict[str, Any] = json.loads((out / runs.RUN).read_text())
    return found


COUNTS = st.lists(st.integers(0, 50), min_size=2, max_size=6).filter(any)


@settings(max_examples=60)
@given(COUNTS, st.integers(0, 5), st.randoms(use_true_random=False))
def test_a_class_is_drawn_as_often_as_the_rule_says(counts: list[int], unknown: int, random: Any) -> None:
    listed = [c for c, n in enumerate(counts) for _ in range(n)] + [-1] * unknown
    random.shuffle(listed)
    targets = torch.tensor(listed)
    task = Task("classification", tuple("abcdef"[: len(counts)]))
    n = torch.tensor(counts, dtype=torch.float64)
    assert class_counts(targets, task).tolist() == counts
    assert sampling_chances(targets, task, "shuffled") is None
    for rule, expected in (("balanced", (n > 0).double()), ("square_root", n.sqrt())):
        chances = sampling_chances(targets, task, rule)  # type: ignore[arg-type]
        assert chances is not None
        of_class = torch.stack([chances[targets == c].sum() for c in range(len(counts))])
        torch.testing.assert_close(of_class, expected / expected.sum())
        assert not chances[targets < 0].any()


@pytest.mark.parametrize("rule", ["shuffled", "balanced", "square_root"])
def test_an_epochs_samples_follow_from_its_seed_and_number(rule: Any) -> None:
    targets = class_targets(Listed(800, 0))
    chances = sampling_chances(targets, TASK, rule)
    one, two = Shuffled(800, 3, chances), Shuffled(800, 3, chances)
    two.set_epoch(5)
    list(two)
    two.set_epoch(0)
    assert list(one) == list(two)
    one.set_epoch(1)
    assert list(one) != list(two)
    drawn = targets[list(one)]
    assert len(drawn) == len(one) == 800
    share = {"shuffled": 1 / 8, "balanced": 1 / 2, "square_root": 1 / (1 + 7**0.5)}[rule]
    assert float(drawn.double().mean()) == pytest.approx(share, abs=0 if rule == "shuffled" else 0.05)


@pytest.mark.parametrize("rule", ["balanced", "square_root"])
@pytest.mark.parametrize(("listed", "workers"), [(True, 0), (False, 0), (True, 1)])
def test_a_resumed_run_ends_where_the_uninterrupted_one_does(
    rule: str, listed: bool, workers: int, tmp_path: Path, interrupt: Callable[..., None]
) -> None:
    data = {"name": "points", "listed": listed}
    trained(tmp_path / "whole", "line", data, sampling=rule, workers=workers)
    interrupt(lambda: trained(tmp_path / "cut", "line", data, sampling=rule, workers=workers))
    fit.resume(tmp_path / "cut", progress=False)
    first, second = load_file(tmp_path / "whole" / runs.WEIGHTS), load_file(tmp_path / "cut" / runs.WEIGHTS)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert (tmp_path / "whole" / runs.HISTORY).read_text() == (tmp_path / "cut" / runs.HISTORY).read_text()


@pytest.mark.parametrize("listed", [True, False])
def test_a_system_is_told_the_counts_and_its_run_keeps_them(listed: bool, tmp_path: Path) -> None:
    info = trained(tmp_path / "run", "line", {"name": "points", "listed": listed}, epochs=1)
    assert info["class_counts"] == {"common": 28, "rare": 4}
    assert load_file(tmp_path / "run" / runs.WEIGHTS)["class_counts"].tolist() == [28, 4]
    system = runs.load_run(tmp_path / "run").system
    assert isinstance(system, Line) and system.class_counts.tolist() == [28, 4]


def test_counting_uses_up_no_random_numbers(tmp_path: Path) -> None:
    trained(tmp_path / "listed", "line", {"name": "points", "listed": True}, epochs=1)
    trained(tmp_path / "read", "line", {"name": "points", "listed": False}, epochs=1)
    first, second = load_file(tmp_path / "listed" / runs.WEIGHTS), load_file(tmp_path / "read" / runs.WEIGHTS)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_samples_are_made_for_counting_only_where_the_training_needs_the_classes() -> None:
    listed, read = PointData(True).splits(0), PointData(False).splits(0)
    sources = {True: listed.train, False: read.train}
    for system, sampling, expected in (("deaf", "shuffled", 0), ("deaf", "balanced", 32), ("line", "shuffled", 32)):
        training = recipe(system, sampling=sampling).training
        for splits in (listed, read):
            fit._training_targets(training, splits, SYSTEMS[system](Line.Config(), TASK))
        assert len(sources[True].read) == 0  # type: ignore[attr-defined]
        assert len(sources[False].read) == expected  # type: ignore[attr-defined]
        sources[False].read.clear()  # type: ignore[attr-defined]


def test_class_weights_and_balanced_sampling_make_the_rare_class_likelier_where_it_is_true(tmp_path: Path) -> None:
    def likely(name: str, loss: dict[str, Any], **training: object) -> float:
        trained(tmp_path / name, {"name": "line", "loss": loss}, epochs=4, lr=0.05, **training)
        records = runs.read_lines(tmp_path / name / runs.PREDICTIONS)
        rare = [record["probabilities"][1] for record in records if record["target"] == 1]
        return sum(rare) / len(rare)

    plain = likely("plain", {})
    assert likely("weighed", {"weights": "inverse"}) > plain + 0.05
    assert likely("drawn", {}, sampling="balanced") > plain + 0.05


def test_settings_come_back_from_the_recipe_that_a_run_writes(tmp_path: Path) -> None:
    loss = {"loss": "focal", "weights": "inverse", "clip": [0.2, 5.0]}
    first = recipe({"name": "line", "loss": loss}, sampling="square_root", ema=0.99)
    (tmp_path / "recipe.yaml").write_text(first.to_yaml())
    second = load_recipe(tmp_path / "recipe.yaml")
    assert second.system.loss == first.system.loss == ClassBalance("focal", weights="inverse", clip=(0.2, 5.0))
    assert second.training == first.training
    assert (second.training.sampling, second.training.ema) == ("square_root", 0.99)


def test_a_setting_of_the_loss_that_makes_no_sense_is_one_line() -> None:
    with pytest.raises(AffuseError, match="gamma is -1") as error:
        recipe({"name": "line", "loss": {"gamma": -1.0}})
    assert len(str(error.value).splitlines()) == 1


def test_sampling_by_class_is_refused_where_there_are_no_classes(tmp_path: Path) -> None:
    with pytest.raises(AffuseError, match=r"training\.sampling.*regression"):
        trained(tmp_path / "run", "line", "values", sampling="balanced")
    with pytest.raises(AffuseError, match=r"training\.sampling.*no training sample"):
        sampling_chances(torch.tensor([-1, -1]), TASK, "balanced")
    assert not (tmp_path / "run").exists()


def test_targets_that_are_no_classes_are_refused() -> None:
    class Odd(Points):
        targets: tuple[float | int | None, ...] = (0, None, 1.5)

    with pytest.raises(AffuseError, match="no class index"):
        class_targets(Odd(3, 0))
    with pytest.raises(AffuseError, match="3 targets of 4 samples"):
        class_targets(Odd(4, 0))
    with pytest.raises(AffuseError, match="numbered from 0"):
        class_counts(torch.tensor([0, 2]), TASK)
