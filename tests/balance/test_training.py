"""Balancing methods in a run: settings, history, resuming, and what one modality gains."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from affuse import AffuseError, Batch, Output, Task, fit, runs
from affuse.balance import AGMSettings
from affuse.balance.agm import AGM
from affuse.recipe import Recipe, resolve
from affuse.systems import SYSTEMS

METHODS: list[dict[str, Any]] = [
    {"name": "ogm_ge", "alpha": 0.3},
    {"name": "pmr", "mu": 0.1, "share": 1.0},
    {"name": "agm", "alpha": 0.5},
]


def recipe(balance: Any = None, **training: object) -> Recipe:
    settings = {"epochs": 3, "batch_size": 8, "lr": 0.05, "schedule": "constant", "select": "last", **training}
    settings |= {"balance": balance}
    return resolve({"system": {"name": "pair"}, "data": {"name": "shouts"}, "training": settings}, "test")


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / runs.WEIGHTS)


@pytest.mark.parametrize("balance", METHODS, ids=lambda method: method["name"])
def test_a_resumed_run_ends_where_the_uninterrupted_one_does(
    balance: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    interrupt: Callable[[Callable[[], object]], None],
) -> None:
    whole = fit.fit(recipe(balance), tmp_path / "whole", progress=False, with_report=False)
    plain = fit.fit(recipe(), tmp_path / "plain", progress=False, with_report=False)
    assert any(not torch.equal(weights(whole)[name], weights(plain)[name]) for name in weights(plain))
    interrupt(lambda: fit.fit(recipe(balance), tmp_path / "cut", progress=False, with_report=False))
    monkeypatch.setattr(fit, "write_evidence", lambda *_: None)  # the report is tested elsewhere
    resumed = fit.resume(tmp_path / "cut", progress=False)
    assert all(torch.equal(weights(whole)[name], weights(resumed)[name]) for name in weights(whole))
    assert (whole / runs.HISTORY).read_text() == (resumed / runs.HISTORY).read_text()


def test_the_history_tells_of_each_modality_and_time_step(tmp_path: Path) -> None:
    out = fit.fit(recipe(METHODS[0], epochs=1), tmp_path / "run", progress=False, with_report=False)
    (row,) = runs.read_lines(out / runs.HISTORY)
    for name in ("loud", "faint"):
        assert 0 <= row[f"validation/unimodal/{name}/war"] <= 1
        assert row[f"validation/unimodal/{name}/loss"] > 0
        assert 0 < row[f"train/coefficient/{name}"] <= 1
    assert row["validation/ratio/loud"] * row["validation/ratio/faint"] == pytest.approx(1)
    assert row["validation/time/0"] == pytest.approx(0.25)
    assert row["validation/time/1"] == pytest.approx(0.75)


def test_a_prototypes_terms_are_part_of_the_total(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    step = fit.Fitting.training_step

    def watched(self: fit.Fitting, batch: Batch, index: int) -> torch.Tensor:
        total = step(self, batch, index)
        last = {name: values[-1] for name, values in self.losses.items() if name.startswith("train/prototype")}
        seen.append((float(total.detach()), float(self.system.loss(self.system(batch), batch)["total"].detach()), last))
        return total

    monkeypatch.setattr(fit.Fitting, "training_step", watched)
    fit.fit(recipe(METHODS[1], epochs=1, batch_size=24), tmp_path / "run", progress=False, with_report=False)
    total, own, extra = seen[0]
    assert extra
    assert total == pytest.approx(own + sum(extra.values()), rel=1e-5)


def test_accumulated_batches_are_each_scaled_by_their_own_coefficient(tmp_path: Path) -> None:
    balance = {"name": "ogm_ge", "alpha": 0.3, "noise": False}
    settings = {"epochs": 1, "optimizer": "sgd", "batch_size": 6}
    once = fit.fit(recipe(balance, **settings, accumulate=4), tmp_path / "a", progress=False, with_report=False)
    plain = fit.fit(recipe(None, **settings, accumulate=4), tmp_path / "b", progress=False, with_report=False)
    before, after = weights(plain), weights(once)
    changed = {name for name in before if not torch.allclose(before[name], after[name], atol=1e-7)}
    assert changed
    assert all(name.startswith("branches") for name in changed)


def test_a_method_that_cannot_train_the_system_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Mute(SYSTEMS["pair"]):  # type: ignore[misc, name-defined]
        def forward(self, batch: Batch) -> Output:
            found = super().forward(batch)
            return Output(found.logits, found.answered)

    monkeypatch.setitem(SYSTEMS, "pair", Mute)
    with pytest.raises(AffuseError, match="OGM-GE cannot train Mute"):
        fit.fit(recipe("ogm_ge"), tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("balance", "message"),
    [
        ({"name": "ogm"}, "ogm_ge"),
        ({"name": "agm", "alhpa": 1}, "training.balance.alhpa; did you mean 'alpha'"),
        ({"alpha": 1}, "needs a name"),
        ({"name": "pmr", "momentum": 1.0}, "momentum is 1.0"),
        ({"name": "pmr", "share": 0.0}, "share is 0.0"),
        ({"name": "agm", "alpha": -1.0}, "alpha is -1.0"),
        ({"name": "agm", "starts": 5, "ends": 2}, "starts is 5 and ends 2"),
        ({"name": "agm", "alpha": "much"}, "alpha"),
    ],
)
def test_settings_that_make_no_sense_are_one_clear_line(balance: dict[str, Any], message: str) -> None:
    with pytest.raises(AffuseError, match=r"training\.balance") as error:
        recipe(balance)
    assert message in str(error.value)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("balance", [None, "agm", *METHODS])
def test_a_written_recipe_says_which_method_it_was(balance: Any) -> None:
    first = recipe(balance)
    assert resolve(yaml.safe_load(first.to_yaml()), "written").training == first.training


def test_the_run_keeps_the_method_in_its_recipe(tmp_path: Path) -> None:
    out = fit.fit(recipe("agm", epochs=1), tmp_path / "run", progress=False, with_report=False)
    assert yaml.safe_load((out / runs.RECIPE).read_text())["training"]["balance"]["name"] == "agm"
    assert json.loads((out / runs.RUN).read_text())["status"] == "complete"


def test_what_a_method_looks_at_first_changes_no_random_number(tmp_path: Path) -> None:
    asleep = {"name": "pmr", "starts": 90, "share": 1.0}
    one = fit.fit(recipe(asleep), tmp_path / "one", progress=False, with_report=False)
    two = fit.fit(recipe(), tmp_path / "two", progress=False, with_report=False)
    assert all(torch.equal(weights(one)[name], weights(two)[name]) for name in weights(two))


def test_the_systems_of_the_house_name_each_modalitys_modules_apart() -> None:
    for name in ("emoe", "mco_e", "self_mm", "lf_dnn"):
        system = SYSTEMS[name](SYSTEMS[name].Config(), Task("classification", ("one", "two")))
        own = AGM(AGMSettings()).parameters_of(system)
        assert set(own) == set(system.modalities)
        assert all(own.values())
        assert sum(map(len, own.values())) == len({id(p) for parameters in own.values() for p in parameters})
