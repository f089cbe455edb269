"""The moving average of the weights: its formula, that it is what is selected and saved, and that a run resumes with it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import lightning.pytorch as pl
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from affuse import AffuseError, Batch, Output, Sample, System, Task, fit, runs
from affuse.data import DATASETS
from affuse.data.splits import Splits
from affuse.ema import MovingAverage, averaged
from affuse.recipe import Recipe, resolve
from affuse.systems import SYSTEMS

TASK = Task("classification", ("one", "two"))
WEIGHTS = {"branches.x.weight", "branches.y.weight", "norm.weight", "norm.bias", "head.weight", "head.bias"}


class Normed(System):
    """Two branches and a batch norm; it counts its epochs in a buffer."""

    @dataclass(frozen=True)
    class Config:
        width: int = 4

    modalities = ("x", "y")

    def __init__(self, config: "Normed.Config", task: Task):
        super().__init__()
        self.config, self.task = config, task
        self.branches = nn.ModuleDict({name: nn.Linear(3, config.width, bias=False) for name in self.modalities})
        self.norm = nn.BatchNorm1d(config.width)
        self.head = nn.Linear(config.width, task.outputs)
        self.told: Tensor
        self.register_buffer("told", torch.zeros(()))

    def modality_parts(self) -> Mapping[str, Sequence[nn.Module]]:
        return {name: [self.branches[name]] for name in self.modalities}

    def end_epoch(self, records: Sequence[Mapping[str, Any]]) -> None:
        self.told += 1

    def forward(self, batch: Batch) -> Output:
        sides = {name: self.branches[name](batch.inputs[name][:, 0]) for name in self.modalities}
        unimodal = {name: self.head(side) for name, side in sides.items()}
        logits = self.head(self.norm(sum(sides.values(), torch.zeros(()))))
        return Output(logits, batch.present.any(1), unimodal=unimodal)

    def loss(self, output: Output, batch: Batch) -> dict[str, Tensor]:
        assert batch.target is not None
        return {"total": functional.cross_entropy(output.logits, batch.target)}


class Clouds:
    def __init__(self, n: int, seed: int):
        self.x = torch.randn(2, n, 1, 3, generator=torch.Generator().manual_seed(seed))

    def __len__(self) -> int:
        return self.x.shape[1]

    def __getitem__(self, index: int) -> Sample:
        target = index % 2
        return Sample({"x": self.x[0, index] + target, "y": self.x[1, index]}, target, meta={"id": str(index)})


@dataclass(frozen=True)
class CloudData:
    units: str = ""

    def splits(self, seed: int) -> Splits:
        return Splits(TASK, Clouds(24, 1), Clouds(16, 2), Clouds(16, 3), True, {"name": "clouds"})


@pytest.fixture(autouse=True)
def small_world(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SYSTEMS, "normed", Normed)
    monkeypatch.setitem(DATASETS, "clouds", CloudData)
    monkeypatch.setattr(fit, "write_evidence", lambda *_: None)  # the report is tested elsewhere


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Tensor]]:
    """The live parameters and statistics before and after each batch of a fit, as it goes."""
    seen: list[dict[str, Tensor]] = []
    start, end = MovingAverage.on_train_start, MovingAverage.on_train_batch_end

    def note(module: Any) -> None:
        seen.append({name: weight.detach().clone() for name, weight in averaged(module.system).items()})

    def started(self: MovingAverage, trainer: Any, pl_module: Any) -> None:
        note(pl_module)
        start(self, trainer, pl_module)

    def ended(self: MovingAverage, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        note(pl_module)
        end(self, trainer, pl_module, outputs, batch, batch_idx)

    monkeypatch.setattr(MovingAverage, "on_train_start", started)
    monkeypatch.setattr(MovingAverage, "on_train_batch_end", ended)
    return seen


def recipe(**training: object) -> Recipe:
    settings = {"epochs": 4, "batch_size": 8, "lr": 0.05, "schedule": "constant", "select": "last", **training}
    return resolve({"system": {"name": "normed"}, "data": {"name": "clouds"}, "training": settings}, "test")


def trained(out: Path, **training: object) -> dict[str, Tensor]:
    fit.fit(recipe(**training), out, progress=False, with_report=False)
    return load_file(out / runs.WEIGHTS)


def by_hand(steps: list[dict[str, Tensor]], decay: float, taken: Sequence[int]) -> dict[str, Tensor]:
    average = dict(steps[0])
    for n, step in enumerate(taken, 1):
        d = min(decay, n / (n + 9))
        average = {name: d * average[name] + (1 - d) * steps[step][name] for name in average}
    return average


@pytest.mark.parametrize("decay", [0.5, 0.999])
def test_the_saved_weights_are_the_average_by_its_formula(
    decay: float, tmp_path: Path, steps: list[dict[str, Tensor]]
) -> None:
    saved = trained(tmp_path / "run", ema=decay)
    assert len(steps) == 1 + 4 * 3
    expected = by_hand(steps, decay, range(1, 13))
    assert expected.keys() == WEIGHTS | {"norm.running_mean", "norm.running_var"}
    for name, value in expected.items():
        torch.testing.assert_close(saved[name], value)
        assert not torch.equal(saved[name], steps[-1][name])


def test_the_average_moves_with_steps_of_the_optimiser_not_with_batches(
    tmp_path: Path, steps: list[dict[str, Tensor]]
) -> None:
    saved = trained(tmp_path / "run", ema=0.9, accumulate=2)
    # Of three batches an epoch the second and the last end a step.
    taken = [3 * epoch + batch for epoch in range(4) for batch in (2, 3)]
    for name, value in by_hand(steps, 0.9, taken).items():
        torch.testing.assert_close(saved[name], value)


def test_what_the_first_weights_were_has_left_the_average_after_tens_of_steps() -> None:
    left = 1.0
    for n in range(1, 31):
        left *= min(0.9999, n / (n + 9))
    assert left < 1e-6


def test_the_average_is_what_is_validated_and_training_goes_on_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    validated: list[Tensor] = []
    step = fit.Fitting.validation_step

    def watched(self: fit.Fitting, batch: Batch, index: int) -> None:
        validated.append(self.system.head.weight.detach().clone())  # type: ignore[union-attr, operator]
        step(self, batch, index)

    monkeypatch.setattr(fit.Fitting, "validation_step", watched)
    saved = trained(tmp_path / "ema", ema=0.9)
    assert torch.equal(validated[-1], saved["head.weight"])
    trained(tmp_path / "plain")
    losses = [
        [row["train/total"] for row in runs.read_lines(tmp_path / name / runs.HISTORY)] for name in ("ema", "plain")
    ]
    assert losses[0] == losses[1]  # the same weights train, with an average beside them and without
    others = [
        [row["validation/total"] for row in runs.read_lines(tmp_path / name / runs.HISTORY)]
        for name in ("ema", "plain")
    ]
    assert all(one != two for one, two in zip(*others, strict=True))


def test_the_epoch_that_is_kept_is_the_one_whose_average_is_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: dict[int, Tensor] = {}
    end = fit.Fitting.on_validation_epoch_end

    def watched(self: fit.Fitting) -> None:
        kept[self.current_epoch] = self.system.head.weight.detach().clone()  # type: ignore[union-attr, operator]
        end(self)

    monkeypatch.setattr(fit.Fitting, "on_validation_epoch_end", watched)
    saved = trained(tmp_path / "run", ema=0.9, epochs=8, lr=0.3, select="loss")
    rows = runs.read_lines(tmp_path / "run" / runs.HISTORY)
    best = min(rows, key=lambda row: row["validation/total"])["epoch"]
    assert best < 7  # the learning rate is too large to go on improving
    assert torch.equal(saved["head.weight"], kept[best])


def test_what_a_system_is_told_at_the_end_of_an_epoch_is_kept(tmp_path: Path) -> None:
    saved = trained(tmp_path / "run", ema=0.9)
    assert float(saved["told"]) == 4
    assert int(saved["norm.num_batches_tracked"]) == 12


@pytest.mark.parametrize("balance", [None, {"name": "ogm_ge", "alpha": 0.3}])
def test_a_resumed_run_ends_where_the_uninterrupted_one_does(
    balance: dict[str, Any] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = trained(tmp_path / "whole", ema=0.9, balance=balance)
    step = fit.Fitting.training_step

    def interrupted(self: fit.Fitting, batch: Batch, index: int) -> Tensor:
        if self.current_epoch == 2 and index == 1:
            raise KeyboardInterrupt
        return step(self, batch, index)

    with monkeypatch.context() as patch:
        patch.setattr(fit.Fitting, "training_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            trained(tmp_path / "cut", ema=0.9, balance=balance)
    fit.resume(tmp_path / "cut", progress=False)
    resumed = load_file(tmp_path / "cut" / runs.WEIGHTS)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert (tmp_path / "whole" / runs.HISTORY).read_text() == (tmp_path / "cut" / runs.HISTORY).read_text()


def test_a_run_begun_without_an_average_can_go_on_with_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: list[dict[str, Tensor]]
) -> None:
    def interrupted(self: fit.Fitting) -> None:
        if self.current_epoch == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(fit.Fitting, "on_train_epoch_start", interrupted)
        with pytest.raises(KeyboardInterrupt):
            trained(tmp_path / "run")
    assert not steps
    fit.resume(tmp_path / "run", ["--training.ema", "0.9"], progress=False)
    saved = load_file(tmp_path / "run" / runs.WEIGHTS)
    for name, value in by_hand(steps, 0.9, range(1, 7)).items():
        torch.testing.assert_close(saved[name], value)


@pytest.mark.parametrize("decay", [-0.1, 1.0, float("nan")])
def test_a_decay_that_makes_no_sense_is_refused(decay: float, tmp_path: Path) -> None:
    with pytest.raises(AffuseError, match=r"training\.ema"):
        trained(tmp_path / "run", ema=decay)


def test_half_precision_weights_are_averaged_in_single() -> None:
    module = pl.LightningModule()
    system = Normed(Normed.Config(), TASK).bfloat16()
    module.system = system
    trainer = Mock(spec=pl.Trainer, global_step=0)
    callback = MovingAverage(0.9999)
    callback.updates = 10**6  # long warmed up: a step adds less than bfloat16 can tell
    callback.on_train_start(trainer, module)
    first = system.head.weight.detach().clone()
    with torch.no_grad():
        system.head.weight.add_(1)
    for trainer.global_step in range(1, 101):
        callback.on_train_batch_end(trainer, module, None, None, 0)
    moved = callback.average["head.weight"] - first.float()
    torch.testing.assert_close(moved, torch.full_like(moved, 1 - 0.9999**100), rtol=0.02, atol=0)
    callback.on_validation_start(trainer, module)
    assert system.head.weight.dtype == torch.bfloat16
