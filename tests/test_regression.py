"""A regression from end to end: records, runs, training and report of a small system over sequences of features."""

import dataclasses
import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from affuse import AffuseError, Batch, Output, Sample, System, Task, explain, fit, metrics, report, report_samples, runs
from affuse import evaluate as evaluation
from affuse.data import DATASETS
from affuse.data.splits import Splits
from affuse.evaluate import answers, as_records, evaluate
from affuse.predict import answer
from affuse.recipe import Recipe, resolve
from affuse.signals.events import Events, write_events
from affuse.systems import SYSTEMS

TASK = Task("regression", value_range=(-3.0, 3.0), units="sentiment")
NAMES = ("text", "audio")
SCORES = metrics.scores


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


def test_probabilities_that_are_not_finite_answer_nothing() -> None:
    batch = replace(batch_of(2), target=torch.tensor([0, 1]))
    output = Output(torch.tensor([[torch.nan] * 3, [0.0, 1.0, 0.0]]), torch.tensor([True, True]))
    records = as_records(output, batch, "test")
    assert [(record["prediction"], record["answered"]) for record in records] == [(None, False), (1, True)]
    assert json.loads(json.dumps(records, allow_nan=False)) == records


@pytest.mark.parametrize("unknown", [0, 1, 2])
def test_one_sample_without_a_target_leaves_the_others_of_its_batch_theirs(unknown: int) -> None:
    samples = [Sample({"text": torch.ones(2, 4)}, None if i == unknown else i) for i in range(3)]
    batch = Batch.collate(samples)
    records = as_records(Output(torch.zeros(3, 3), torch.ones(3, dtype=torch.bool)), batch, "test")
    assert [record["target"] for record in records] == [sample.target for sample in samples]
    values = Batch.collate([replace(s, target=None if s.target is None else 0.5 * s.target) for s in samples])
    records = as_records(Output(torch.zeros(3, 1), torch.ones(3, dtype=torch.bool)), values, "test")
    assert [record["target"] for record in records] == [None if i == unknown else 0.5 * i for i in range(3)]


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


def test_a_regression_is_trained_evaluated_and_read_again(tmp_path: Path) -> None:
    out = fit.fit(recipe(epochs=12), tmp_path / "run", progress=False)
    info = json.loads((out / runs.RUN).read_text())
    assert info["task"] == {"kind": "regression", "classes": [], "value_range": [-3.0, 3.0], "units": "sentiment"}
    found = json.loads((out / runs.METRICS).read_text())
    assert found["kind"] == "regression"
    assert found["corr"]["value"] > 0.8
    assert found["unanswered"] == 1
    assert found["unimodal"]["audio"]["corr"]["value"] > found["unimodal"]["text"]["corr"]["value"]
    history = runs.read_lines(out / runs.HISTORY)
    assert {"train/total", "validation/total", "validation/mae", "validation/corr", "lr"} <= set(history[0])
    best = min(range(12), key=lambda epoch: history[epoch]["validation/mae"])
    assert runs.load_run(out).system.task == TASK
    again = evaluate(out)
    assert again["mae"] == found["mae"]
    system = runs.load_run(out).system
    errors = [abs(r["value"] - r["target"]) for r in answers(system, Talk(20, 2), 8, "validation") if r["answered"]]
    assert sum(errors) / len(errors) == pytest.approx(history[best]["validation/mae"], abs=1e-6)


def test_data_of_another_scale_is_refused(tmp_path: Path) -> None:
    out = fit.fit(recipe(epochs=1), tmp_path / "run", progress=False)
    with pytest.raises(AffuseError, match=r"answers a value from -3 to 3 \(sentiment\), the data asks .*\(valence\)"):
        evaluate(out, ["--data.units", "valence"])


@pytest.mark.parametrize(("select", "message"), [("war", "auto, acc2_non0, corr, mae, loss, last"), ("f1", "mae")])
def test_a_selection_of_the_other_kind_of_task_is_refused(tmp_path: Path, select: str, message: str) -> None:
    with pytest.raises(AffuseError, match=message):
        fit.fit(recipe(select=select), tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_the_selection_follows_the_kind_of_task() -> None:
    training, classes = recipe().training, Task("classification", ("a", "b"))
    assert fit.selection_metric(training, TASK) == "mae"
    assert fit.selection_metric(training, classes) == "war"
    assert fit.selection_metric(dataclasses.replace(training, select="f1"), classes) == "macro_f1"
    for select in ("mae", "corr", "acc2_non0"):
        with pytest.raises(AffuseError, match="task is a classification"):
            fit.selection_metric(dataclasses.replace(training, select=select), classes)
    with pytest.raises(AffuseError, match="auto, corr, mae"):
        fit.selection_metric(
            dataclasses.replace(training, select="acc2_non0"), Task("regression", value_range=(1.0, 5.0))
        )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"accumulate": 0}, "accumulate"),
        ({"plateau_factor": 1.0}, "plateau_factor"),
        ({"patience": 2, "select": "last"}, "looks at no metric"),
        ({"encoder_lr": -1.0}, "encoder_lr"),
    ],
)
def test_settings_that_make_no_sense_are_refused(tmp_path: Path, settings: dict, message: str) -> None:
    with pytest.raises(AffuseError, match=message):
        fit.fit(recipe(**settings), tmp_path / "run", progress=False)


def fitting(**training: object) -> fit.Fitting:
    class Trainer:
        estimated_stepping_batches = 10

    module = fit.Fitting(Blend(Blend.Config(), TASK), recipe(**training).training, Path("nowhere"))
    module._trainer = Trainer()  # type: ignore[assignment]
    module._fabric = None
    return module


def test_pretrained_parts_learn_at_their_own_rate() -> None:
    module = fitting(lr=0.1, encoder_lr=0.001, optimizer="adam")
    optimizer = module.configure_optimizers()
    assert type(optimizer) is torch.optim.Adam
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert rates[id(module.system.embedding.weight)] == 0.001
    assert len(rates) == len(list(module.system.parameters()))
    assert {rate for key, rate in rates.items() if key != id(module.system.embedding.weight)} == {0.1}
    scheduled = fitting(lr=0.1, encoder_lr=0.001, schedule="onecycle").configure_optimizers()["optimizer"]
    first, second = (group["max_lr"] for group in scheduled.param_groups)
    assert (first, second) == (0.1, 0.001)


def test_a_rate_for_pretrained_parts_that_are_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Blend, "pretrained_parts", System.pretrained_parts)
    with pytest.raises(AffuseError, match="no pretrained part"):
        fitting(encoder_lr=0.001).configure_optimizers()


def test_accumulated_batches_are_one_step_with_their_mean_gradient(tmp_path: Path) -> None:
    together = fit.fit(
        recipe(epochs=1, optimizer="sgd", batch_size=40, select="last"), tmp_path / "together", progress=False
    )
    apart = fit.fit(
        recipe(epochs=1, optimizer="sgd", batch_size=20, accumulate=2, select="last"),
        tmp_path / "apart",
        progress=False,
    )
    first, second = load_file(together / runs.WEIGHTS), load_file(apart / runs.WEIGHTS)
    start = Blend(Blend.Config(), TASK).state_dict()
    assert any(not torch.equal(first[name], start[name]) for name in first)
    # One of the 40 has no answer, so the two halves do not weigh exactly the same.
    assert all(torch.allclose(first[name], second[name], atol=5e-3) for name in first)


def scripted(monkeypatch: pytest.MonkeyPatch, errors: list[float]) -> None:
    """The validation error of each epoch, as if a system had made it."""

    def scores(records: list, task: Task) -> dict[str, float]:
        return {**SCORES(records, task), "mae": errors.pop(0)}

    monkeypatch.setattr(metrics, "scores", scores)


def test_training_stops_when_nothing_improves_any_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch, [3.0, 2.0, 2.5, 1.0, 1.0, 1.5, 1.2, 0.5])
    out = fit.fit(recipe(epochs=8, patience=3), tmp_path / "run", progress=False)
    assert len(runs.read_lines(out / runs.HISTORY)) == 7
    assert json.loads((out / runs.RUN).read_text())["status"] == "complete"


def test_the_rate_falls_on_a_plateau(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch, [3.0, 2.0, 2.0, 2.0, 2.0, 1.0])
    out = fit.fit(
        recipe(epochs=6, lr=0.4, schedule="plateau", plateau_factor=0.1, plateau_patience=1),
        tmp_path / "run",
        progress=False,
    )
    rates = [row["lr"] for row in runs.read_lines(out / runs.HISTORY)]
    assert rates == pytest.approx([0.4, 0.4, 0.4, 0.4, 0.04, 0.04])


def test_an_interrupted_plateau_and_patience_go_on_where_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"epochs": 9, "lr": 0.4, "schedule": "plateau", "plateau_patience": 1, "patience": 5}
    errors = [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    scripted(monkeypatch, list(errors))
    whole = fit.fit(recipe(**settings), tmp_path / "whole", progress=False)
    assert len(runs.read_lines(whole / runs.HISTORY)) == 6
    step = fit.Fitting.training_step

    def interrupted(self: fit.Fitting, batch: Batch, index: int) -> Tensor:
        if self.current_epoch == 3 and index == 1:
            raise KeyboardInterrupt
        return step(self, batch, index)

    scripted(monkeypatch, list(errors))
    with monkeypatch.context() as patch:
        patch.setattr(fit.Fitting, "training_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fit.fit(recipe(**settings), tmp_path / "cut", progress=False)
    resumed = fit.resume(tmp_path / "cut", progress=False)
    assert (whole / runs.HISTORY).read_text() == (resumed / runs.HISTORY).read_text()
    first, second = load_file(whole / runs.WEIGHTS), load_file(resumed / runs.WEIGHTS)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_loss_that_is_no_number_is_a_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        Blend, "loss", lambda self, output, batch: {"total": output.logits[output.answered].mean() * torch.nan}
    )
    with pytest.raises(AffuseError, match="not a finite number after epoch 1"):
        fit.fit(recipe(), tmp_path / "run", progress=False)


def test_the_line_of_an_epoch_shows_the_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit.fit(recipe(epochs=1), tmp_path / "run", progress=False)
    assert "epoch 1/1: loss " in (said := capsys.readouterr().out) and ", MAE " in said


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SYSTEMS, "blend", Blend)
        patch.setitem(DATASETS, "talks", Talks)
        return fit.fit(recipe(epochs=3), tmp_path_factory.mktemp("runs") / "run", progress=False)


def test_the_report_of_a_regression_holds_every_part_and_nothing_of_a_classification(trained: Path) -> None:
    page = report.write_report(trained).read_text()
    found = json.loads((trained / runs.METRICS).read_text())
    for part in (
        "Mean absolute error in each condition",
        "Answer beside truth",
        "Features in the plane",
        "t-SNE of what the answer is read from",
        "Weight beside importance",
        "Metrics and their rules",
        "text alone",
        "audio alone",
        "Believed the informative sensor",
        "sentiment",
        "Training",
    ):
        assert part in page, part
    for absent in ("Recall of each class", "Confusion", "Reliability", "WAR, weighted", "Accuracy (WAR)"):
        assert absent not in page, absent
    for name, rule in found["rules"].items():
        assert rule.replace(">", "&gt;") in page
        number = found[name]["value"]
        assert (f"{number:.3f}" if name in ("mae", "corr") else f"{100 * number:.1f} %") in page, name
    assert "1" in page[page.index("Not answered") :][:40]
    assert not [colour for colour in report_samples.SERIES if colour in page]
    assert "://" not in page.replace("http://www.w3.org/", "")


def test_values_of_one_sign_are_drawn_in_the_plane(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "run")
    predictions = tmp_path / "run" / runs.PREDICTIONS
    rows = [json.loads(line) for line in predictions.read_text().splitlines()]
    runs.write_lines(predictions, [{**row, "target": 1 + abs(row["target"])} for row in rows])
    assert "Features in the plane" in report.write_report(tmp_path / "run").read_text()


def test_without_scikit_learn_features_are_drawn_by_their_principal_components(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.manifold", None)
    page = report.write_report(trained).read_text()
    assert "PCA of what the answer is read from" in page and "t-SNE" not in page


def test_principal_components_keep_the_distances_of_features_in_a_plane(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    flat = generator.normal(size=(30, 2))
    features = (flat @ np.linalg.qr(generator.normal(size=(6, 2)))[0].T + 3).astype(np.float32)
    monkeypatch.setitem(sys.modules, "sklearn.manifold", None)
    points, method = explain.project(features) or pytest.fail("nothing")
    assert method == "PCA"
    apart = lambda x: np.linalg.norm(x[:, None] - x, axis=-1)  # noqa: E731
    np.testing.assert_allclose(apart(points), apart(flat), atol=1e-4)


def test_t_sne_keeps_clouds_apart_and_is_always_the_same() -> None:
    generator = np.random.default_rng(0)
    features = np.repeat(np.eye(3, 8) * 20, 12, 0).astype(np.float32)
    features += generator.normal(size=features.shape).astype(np.float32)
    points, method = explain.project(features) or pytest.fail("nothing")
    assert method == "t-SNE"
    np.testing.assert_array_equal(points, explain.project(features)[0])
    clouds = points.reshape(3, 12, 2)
    spread = np.linalg.norm(clouds - clouds.mean(1, keepdims=True), axis=-1).max()
    centres = clouds.mean(1)
    assert min(np.linalg.norm(centres[i] - centres[j]) for i, j in ((0, 1), (0, 2), (1, 2))) > 2 * spread


@pytest.mark.parametrize("features", [np.zeros((0, 3)), np.ones((20, 3)), np.eye(4), np.full((9, 2), np.nan)])
def test_too_few_or_equal_features_are_not_drawn(features: np.ndarray) -> None:
    assert explain.project(features.astype(np.float32)) is None


def test_features_are_kept_of_evenly_spaced_answered_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "FEATURES_KEPT", 8)
    system = Blend(Blend.Config(), TASK)
    records, kept = evaluation.answers_and_features(system, Talk(22, 0), 5, "test")
    assert len(records) == 22
    assert kept["row"].tolist() == [0, 3, 6, 9, 12, 15, 18, 21]
    with torch.no_grad():
        batch = Batch.collate([Talk(22, 0)[i] for i in range(5, 10)], NAMES)
        assert torch.equal(kept["features"][2], system(batch).aux["features"][1])
    monkeypatch.setattr(evaluation, "FEATURES_KEPT", 100)
    assert 7 not in evaluation.answers_and_features(system, Talk(9, 0), 5, "test")[1]["row"].tolist()


def test_a_second_evaluation_leaves_no_features_of_the_first(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert evaluate(trained)["mae"] and (trained / runs.FEATURES).is_file()
    forward = Blend.forward
    with monkeypatch.context() as patch:
        patch.setattr(Blend, "forward", lambda self, batch: replace(forward(self, batch), aux={}))
        evaluate(trained)
    assert not (trained / runs.FEATURES).exists()
    evaluate(trained)


def test_broken_features_are_one_clear_line(trained: Path) -> None:
    whole = (trained / runs.FEATURES).read_bytes()
    (trained / runs.FEATURES).write_bytes(whole[:20])
    with pytest.raises(AffuseError, match=r"features\.safetensors: cannot be read"):
        report.write_report(trained)
    (trained / runs.FEATURES).write_bytes(whole)


def test_the_table_shows_errors_by_condition_and_by_modality_alone(trained: Path) -> None:
    summary = json.loads((trained / runs.METRICS).read_text())
    console = Console(width=140, record=True, quiet=False, file=open("/dev/null", "w", encoding="utf-8"))  # noqa: SIM115
    with console.file:
        console.print(report.report_table(summary))
    text = console.export_text()
    rows = {line.strip("│").split("│")[0].strip(): line for line in text.splitlines() if line.startswith("│")}
    assert list(rows) == ["all", "short", "long", "text alone", "audio alone"]
    for name, entry in (("all", summary), ("long", summary["per_condition"]["long"])):
        assert f"{entry['mae']['value']:.3f}" in rows[name] and f"{entry['corr']['value']:.3f}" in rows[name]
    assert "1 not answered" in text


def test_examples_of_sequences_hold_values_and_no_pictures(tmp_path: Path) -> None:
    source = Talk(10, 0)
    explain.save_examples(Blend(Blend.Config(), TASK), [source[0], source[4], source[7]], tmp_path / "e.safetensors")
    with safe_open(tmp_path / "e.safetensors", "pt") as file:
        assert list(file.keys()) == []
        examples = json.loads(file.metadata()["examples"])
    assert [example["value"] is None for example in examples] == [False, False, True]
    assert examples[1]["weights"] == {"text": 0.0, "audio": 1.0}
    assert "prediction" not in examples[0]


def test_a_file_is_answered_with_a_value_and_its_units(tmp_path: Path) -> None:
    class Recordings(Talks):
        def event_clips(self, events: Events) -> list[Sample]:
            return [Talk(4, 0)[index] for index in range(3)]

    system = Blend(Blend.Config(), TASK).eval()
    made = dataclasses.replace(recipe(), data=Recordings())
    run = runs.Run(tmp_path, made, {"task": runs.task_info(TASK)}, system)
    t_us = np.arange(100, dtype=np.int64)
    x = np.zeros(100, dtype=np.int64)
    write_events(Events(t_us, x, x, np.ones(100, dtype=np.int64), 8, 8), tmp_path / "made.npz")
    record = answer(run, tmp_path / "made.npz")
    assert json.loads(json.dumps(record)) == record
    assert (record["status"], record["units"]) == ("ok", "sentiment")
    assert record["value"] == pytest.approx(np.mean([window["value"] for window in record["windows"]]), abs=1e-5)
    assert set(record["weights"]["modality"]) == set(NAMES)
    assert "label" not in record
    (tmp_path / "film.mp4").touch()
    with pytest.raises(AffuseError, match="has seen no frames; give it an event file"):
        answer(run, tmp_path / "film.mp4")
    with pytest.raises(AffuseError, match="it reads features, not files"):
        answer(dataclasses.replace(run, recipe=recipe()), tmp_path / "film.mp4")
