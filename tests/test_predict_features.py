"""What a run says of a folder of features: of each sample by itself, by what it knows and nothing else."""

import json
from pathlib import Path

import pytest
import torch

from affuse import AffuseError, Sample, Task, runs
from affuse.data.feature_folder import write_features
from affuse.predict_features import SAMPLES_AT_ONCE, answer_features
from affuse.recipe import resolve
from affuse.systems import SYSTEMS

WIDTHS = {"text": 6, "audio": 3}
CLASSES = Task("classification", ("calm", "tense", "away"))
FEELING = Task("regression", value_range=(-3.0, 3.0), units="sentiment")


def made_run(path: Path, task: Task) -> runs.Run:
    """A run with weights as drawn: what it answers is worth nothing, how it answers is the same."""
    settings = {"name": "lf_dnn", "modalities": list(WIDTHS), "widths": WIDTHS, "hidden": {"text": 8, "audio": 8}}
    recipe = resolve({"system": settings, "data": {"name": "features", "root": "nowhere"}}, "test")
    torch.manual_seed(0)
    system = SYSTEMS["lf_dnn"](recipe.system, task)
    path.mkdir()
    (path / runs.RECIPE).write_text(recipe.to_yaml())
    runs.write_json(path / runs.RUN, {"task": runs.task_info(task), "status": "complete", "seconds": 0})
    runs.save_weights(system, path / runs.WEIGHTS)
    return runs.load_run(path)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> runs.Run:
    return made_run(tmp_path_factory.mktemp("runs") / "run", CLASSES)


def samples(count: int = 4) -> list[Sample]:
    """Sequences of different lengths; the second lacks the sound, the third has only what no run here knows."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for index in range(count):
        inputs = {name: torch.randn(2 + index % 3, width, generator=generator) for name, width in WIDTHS.items()}
        inputs["pulse"] = torch.randn(3, 2, generator=generator)
        lost = {1: ("audio",), 2: ("text", "audio")}.get(index, ())
        inputs = {name: tensor for name, tensor in inputs.items() if name not in lost}
        found.append(Sample(inputs, meta={"id": f"clip {index}"}))
    return found


def folder(path: Path, of: list[Sample]) -> Path:
    return write_features(path / "features", ((None, sample) for sample in of), None, "mine")


def test_every_sample_is_answered_by_what_it_has(run: runs.Run, tmp_path: Path) -> None:
    records = list(answer_features(run, folder(tmp_path, samples())))
    assert json.loads(json.dumps(records)) == records
    assert [record["id"] for record in records] == [f"clip {index}" for index in range(4)]
    assert [record["status"] for record in records] == ["ok", "ok", "no answer", "ok"]
    assert "text, audio" in records[2]["reason"] and "label" not in records[2]
    for record in (records[0], records[1], records[3]):
        assert record["label"] == max(record["probabilities"], key=record["probabilities"].get)
        assert sum(record["probabilities"].values()) == pytest.approx(1, abs=1e-4)


def test_neither_the_other_samples_nor_unknown_modalities_change_an_answer(run: runs.Run, tmp_path: Path) -> None:
    several = samples(SAMPLES_AT_ONCE + 3)
    together = {record["id"]: record for record in answer_features(run, folder(tmp_path / "many", several))}
    assert len(together) == len(several)
    for index in (1, SAMPLES_AT_ONCE + 1):
        whole = several[index]
        plain = Sample({n: x for n, x in whole.inputs.items() if n != "pulse"}, meta=whole.meta)
        (alone,) = answer_features(run, folder(tmp_path / f"one {index}", [plain]))
        there = together[alone["id"]]
        assert alone["label"] == there["label"]
        assert alone["probabilities"] == pytest.approx(there["probabilities"], abs=1e-3)


def test_a_regression_answers_values_with_their_units(tmp_path: Path) -> None:
    feeling = made_run(tmp_path / "run", FEELING)
    first, *_ = answer_features(feeling, folder(tmp_path, samples()))
    assert first["status"] == "ok" and first["units"] == "sentiment"
    assert isinstance(first["value"], float)


def test_a_folder_of_other_modalities_or_widths_is_one_clear_error(run: runs.Run, tmp_path: Path) -> None:
    pulse = folder(tmp_path / "pulse", [Sample({"pulse": torch.ones(3, 2)}, meta={"id": "a"})])
    with pytest.raises(AffuseError, match="holds pulse; this run reads text, audio") as error:
        list(answer_features(run, pulse))
    assert str(pulse) in str(error.value)
    wide = folder(tmp_path / "wide", [Sample({"text": torch.ones(3, 9)}, meta={"id": "a"})])
    with pytest.raises(AffuseError, match=r"expected \(b, t, 6\)") as error:
        list(answer_features(run, wide))
    assert str(wide) in str(error.value)


def test_a_folder_without_features_is_one_clear_error(run: runs.Run, tmp_path: Path) -> None:
    with pytest.raises(AffuseError, match=r"manifest\.json"):
        list(answer_features(run, tmp_path))
