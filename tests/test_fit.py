"""A run is whole, resumable and repeatable."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from affuse import cli, fit, runs
from affuse.data.splits import Splits
from affuse.data.synthetic.eyes import Eyes
from affuse.evaluate import evaluate
from affuse.recipe import Recipe, load_recipe
from affuse.report import report_table
from affuse.types import AffuseError, Batch, Sample, Task

RECIPE = Path(__file__).parents[1] / "recipes" / "mco_e" / "eyes.yaml"
SMALL = "--system.d_model 16 --system.d_state 4 --system.heads 2 --system.experts 3 --training.batch_size 8"


class Noise:
    """Learnable noise: the class is the mean of the RGB input."""

    def __init__(self, n: int, seed: int):
        generator = torch.Generator().manual_seed(seed)
        self.rgb = torch.randn(n, 2, 3, 16, 16, generator=generator) * 0.1
        self.event = torch.randn(n, 2, 3, 16, 16, generator=generator)
        self.seed = seed

    def __len__(self) -> int:
        return len(self.rgb)

    def __getitem__(self, index: int) -> Sample:
        target = index % 3
        noise = 0.01 * torch.randn(())  # from the global generator, as a random crop would be
        meta = {"id": f"{self.seed}-{index}", "subject": index % 4, "condition": "Low" if index % 2 else "normal"}
        return Sample({"rgb": self.rgb[index] + target + noise, "event": self.event[index]}, target, meta=meta)


@pytest.fixture(autouse=True)
def small_world(monkeypatch: pytest.MonkeyPatch) -> None:
    def splits(self: Eyes, seed: int) -> Splits:
        task = Task("classification", ("one", "two", "three"))
        return Splits(task, Noise(24, 1), Noise(12, 2), Noise(12, 3), True, {"name": "noise", "split": "by seed"})

    monkeypatch.setattr(Eyes, "splits", splits)


def recipe(*more: str) -> Recipe:
    return load_recipe(RECIPE, [*SMALL.split(), "--training.epochs", "3", *more])


def test_a_run_holds_everything(tmp_path: Path) -> None:
    out = fit.fit(recipe(), tmp_path / "run", progress=False)
    info = json.loads((out / runs.RUN).read_text())
    assert info["status"] == "complete"
    assert "status: running" not in (out / "report.html").read_text()
    assert info["synthetic"] is True
    assert len(info["manifest"]) == 64
    assert len(runs.read_lines(out / runs.HISTORY)) == 3
    assert len(runs.read_lines(out / runs.PREDICTIONS)) == 12
    assert (out / "report.html").stat().st_size > 1000
    assert not list(out.glob("*.tmp"))
    assert load_recipe(out / runs.RECIPE).system == recipe().system


def test_it_learns(tmp_path: Path) -> None:
    out = fit.fit(recipe("--training.epochs", "40"), tmp_path / "run", progress=False)
    assert json.loads((out / runs.METRICS).read_text())["war"]["value"] > 0.8


def test_data_with_other_classes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = fit.fit(recipe(), tmp_path / "run", progress=False)
    before = (out / runs.METRICS).read_text()

    def reordered(self: Eyes, seed: int) -> Splits:
        task = Task("classification", ("two", "one", "three"))
        return Splits(task, Noise(24, 1), Noise(12, 2), Noise(12, 3), True, {"name": "noise", "split": "by seed"})

    monkeypatch.setattr(Eyes, "splits", reordered)
    with pytest.raises(AffuseError, match="this run answers"):
        evaluate(out)
    assert (out / runs.METRICS).read_text() == before


def test_the_same_seed_gives_the_same_weights(tmp_path: Path) -> None:
    one = fit.fit(recipe(), tmp_path / "one", progress=False)
    two = fit.fit(recipe(), tmp_path / "two", progress=False)
    first, second = load_file(one / runs.WEIGHTS), load_file(two / runs.WEIGHTS)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_resumed_run_ends_where_the_uninterrupted_one_does(
    tmp_path: Path, interrupt: Callable[[Callable[[], object]], None]
) -> None:
    whole = fit.fit(recipe("--training.select", "last"), tmp_path / "whole", progress=False)
    interrupt(lambda: fit.fit(recipe("--training.select", "last"), tmp_path / "cut", progress=False))
    assert json.loads((tmp_path / "cut" / runs.RUN).read_text())["status"] == "interrupted"
    resumed = fit.resume(tmp_path / "cut", progress=False)
    first, second = load_file(whole / runs.WEIGHTS), load_file(resumed / runs.WEIGHTS)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert (whole / runs.HISTORY).read_text() == (resumed / runs.HISTORY).read_text()


CONSTANT = ["--training.schedule", "constant"]


def files_of(run: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}


KEPT = [
    "training.lr 0.1",
    "training.encoder_lr 0.1",
    "training.weight_decay 0.1",
    "training.optimizer sgd",
    "training.schedule constant",
    "training.gamma 0.5",
    "training.plateau_factor 0.1",
    "training.plateau_patience 1",
    "training.select loss",
    "training.select_on test",
    "training.seed 7",
    "training.sampling balanced",
    "training.balance pmr",
    "training.epochs 9",
    "training.batch_size 4",
    "training.accumulate 2",
    "data.world_seed 3",
    "data.lights [Low]",
]


def test_a_begun_run_refuses_what_its_checkpoint_would_not_follow(
    tmp_path: Path, interrupt: Callable[[Callable[[], object]], None]
) -> None:
    interrupt(lambda: fit.fit(recipe(), tmp_path / "run", progress=False))
    before = files_of(tmp_path / "run")
    for override in KEPT:
        name, value = override.split()
        with pytest.raises(AffuseError, match=rf"keeps its {name}\b.* begin a new run"):
            fit.resume(tmp_path / "run", [f"--{name}", value], progress=False)
        assert files_of(tmp_path / "run") == before


def test_a_begun_run_takes_what_does_not_change_what_it_is(
    tmp_path: Path, interrupt: Callable[[Callable[[], object]], None]
) -> None:
    interrupt(lambda: fit.fit(recipe(*CONSTANT), tmp_path / "run", progress=False))
    more = {"epochs": 5, "batch_size": 12, "accumulate": 2, "patience": 9, "ema": 0.5, "precision": "bf16-mixed"}
    words = [word for name, value in more.items() for word in (f"--training.{name}", str(value))]
    # What is as it was is no change.
    fit.resume(tmp_path / "run", [*words, "--training.seed", "0"], progress=False)
    training = load_recipe(tmp_path / "run" / runs.RECIPE).training
    assert {name: getattr(training, name) for name in more} == more
    assert [row["epoch"] for row in runs.read_lines(tmp_path / "run" / runs.HISTORY)] == [0, 1, 2, 3, 4]


def test_a_run_may_end_where_it_stands_but_not_before(
    tmp_path: Path, interrupt: Callable[[Callable[[], object]], None]
) -> None:
    interrupt(lambda: fit.fit(recipe(*CONSTANT), tmp_path / "run", progress=False))
    before = files_of(tmp_path / "run")
    with pytest.raises(AffuseError, match="2 epochs are done: give 2 or more"):
        fit.resume(tmp_path / "run", ["--training.epochs", "1"], progress=False)
    assert files_of(tmp_path / "run") == before
    fit.resume(tmp_path / "run", ["--training.epochs", "2"], progress=False)
    assert load_recipe(tmp_path / "run" / runs.RECIPE).training.epochs == 2
    assert runs.read_info(tmp_path / "run")["status"] == "complete"


def test_a_refusal_while_training_starts_leaves_the_recipe(
    tmp_path: Path, interrupt: Callable[[Callable[[], object]], None]
) -> None:
    interrupt(lambda: fit.fit(recipe(*CONSTANT), tmp_path / "run", progress=False))
    (tmp_path / "run" / runs.CHECKPOINT).unlink()
    before = files_of(tmp_path / "run")
    for words in (["--training.encoder_lr", "0.1"], ["--training.accelerator", "abacus"]):
        with pytest.raises(AffuseError, match=r"encoder_lr|abacus"):
            fit.resume(tmp_path / "run", words, progress=False)
        assert files_of(tmp_path / "run") == before


def test_a_run_without_a_whole_epoch_begins_anew_and_says_by_what(
    tmp_path: Path, interrupt: Callable[[Callable[[], object]], None]
) -> None:
    interrupt(lambda: fit.fit(recipe(), tmp_path / "run", progress=False))
    (tmp_path / "run" / runs.CHECKPOINT).unlink()
    overrides = ["--training.seed", "7", "--training.select_on", "test", "--training.lr", "0.01"]
    fit.resume(tmp_path / "run", overrides, progress=False)
    info = runs.read_info(tmp_path / "run")
    assert (info["seed"], info["selected_on"]) == (7, "test")
    assert load_recipe(tmp_path / "run" / runs.RECIPE).training.lr == 0.01


def test_a_run_selected_on_test_marks_its_table_and_its_report(tmp_path: Path) -> None:
    out = fit.fit(recipe("--training.select_on", "test", "--training.epochs", "1"), tmp_path / "run", progress=False)
    for _ in range(2):
        found = json.loads((out / runs.METRICS).read_text())
        assert found["selected_on"] == "test"
        assert report_table(found).title == "Test (synthetic world, selected on test data)"
        assert "<b>Selected on test data.</b>" in (out / "report.html").read_text()
        evaluate(out)
    plain = fit.fit(recipe("--training.epochs", "1"), tmp_path / "plain", progress=False)
    assert json.loads((plain / runs.METRICS).read_text())["selected_on"] == "validation"
    assert "Selected on test data" not in (plain / "report.html").read_text()


def test_other_data_of_an_evaluation_is_said_in_the_title_of_the_table(tmp_path: Path) -> None:
    out = fit.fit(recipe("--training.epochs", "1"), tmp_path / "run", progress=False)
    found = evaluate(out, ["--training.seed", "7"])  # by which the split is drawn
    assert report_table(found).title == "Test (synthetic world, data not as in the run's recipe)"


def test_a_begun_run_refuses_data_with_other_classes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interrupt: Callable[[Callable[[], object]], None]
) -> None:
    interrupt(lambda: fit.fit(recipe(), tmp_path / "run", progress=False))
    before = files_of(tmp_path / "run")

    def reordered(self: Eyes, seed: int) -> Splits:
        task = Task("classification", ("two", "one", "three"))
        return Splits(task, Noise(24, 1), Noise(12, 2), Noise(12, 3), True, {"name": "noise", "split": "by seed"})

    monkeypatch.setattr(Eyes, "splits", reordered)
    with pytest.raises(AffuseError, match="this run answers"):
        fit.resume(tmp_path / "run", progress=False)
    assert files_of(tmp_path / "run") == before


def test_evaluate_repeats_the_metrics_of_the_run(tmp_path: Path) -> None:
    out = fit.fit(recipe(), tmp_path / "run", progress=False)
    before = json.loads((out / runs.METRICS).read_text())
    assert evaluate(out)["war"] == pytest.approx(before["war"], abs=0.1)


def test_a_run_is_never_overwritten(tmp_path: Path) -> None:
    out = fit.fit(recipe("--training.epochs", "1"), tmp_path / "run", progress=False)
    with pytest.raises(AffuseError, match="already holds a run"):
        fit.fit(recipe(), out, progress=False)
    with pytest.raises(AffuseError, match="complete"):
        fit.resume(out, progress=False)


def test_modality_dropout_takes_one_of_several() -> None:
    batch = Batch.collate([Noise(4, 0)[index] for index in range(4)])
    torch.manual_seed(0)
    dropped = fit.drop_modalities(batch, 1.0)
    assert (dropped.present.sum(1) == 1).all()
    for column, name in enumerate(dropped.modalities):
        assert dropped.inputs[name][~dropped.present[:, column]].isnan().all()
    assert not batch.inputs["rgb"].isnan().any()
    one = batch.without("rgb")
    assert torch.equal(fit.drop_modalities(one, 1.0).present, one.present)


def test_modality_dropout_takes_token_ids_too() -> None:
    sample = Sample({"text": torch.tensor([1, 2]), "audio": torch.ones(2, 3)})
    torch.manual_seed(0)
    dropped = fit.drop_modalities(Batch.collate([sample] * 8), 1.0)
    lost = ~dropped.has("text")
    assert 0 < lost.sum() < 8
    assert (dropped.inputs["text"][lost] == torch.iinfo(torch.int64).min).all()
    assert (dropped.inputs["text"][~lost] == torch.tensor([1, 2])).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fit", "nowhere.yaml"], "nowhere.yaml"),
        (["fit", str(RECIPE), "--system.d_modle", "3"], "d_model"),
        (["fit"], "recipe"),
        (["fit", "--resume", "nowhere"], "not a run folder"),
        (["evaluate", "nowhere"], "not a run folder"),
        (["predict", "nowhere", "a.mp4"], "not a run folder"),
        (["events", "info", "nowhere.raw"], "nowhere.raw"),
    ],
)
def test_bad_input_is_one_line_and_a_non_zero_exit(
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(arguments) == 1
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())
