import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from affuse import AffuseError
from affuse.data.expression_folds import pooled_over_folds


def write_run(
    root: Path, fold: int, answers: list[tuple[str, int, int | None]], recipe: dict[str, Any] | None = None
) -> Path:
    """A run's files; `answers` are id, target and prediction of its test clips."""
    run = root / f"fold{fold}"
    run.mkdir(parents=True)
    info = {
        "facts": {"fold": fold, "folds": 3},
        "task": {"classes": ["a", "b"]},
        "selected_on": "validation",
    }
    settings = {
        "system": {"name": "x"},
        "data": {"name": "dfew", "fold": fold},
        "training": {"seed": fold, "epochs": 2},
    }
    for section, values in (recipe or {}).items():
        settings[section] = settings[section] | values
    rows = [{"split": "test", "id": name, "target": target, "prediction": said} for name, target, said in answers]
    rows.append({"split": "validation", "id": "v", "target": 0, "prediction": 1})
    (run / "run.json").write_text(json.dumps(info))
    (run / "recipe.yaml").write_text(yaml.safe_dump(settings))
    (run / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return run


def test_folds_are_averaged_and_pooled_and_no_answer_is_a_wrong_one(tmp_path: Path) -> None:
    first = write_run(tmp_path, 1, [("1", 0, 0), ("2", 0, 0), ("3", 0, 1), ("4", 1, None)])
    second = write_run(tmp_path, 2, [("5", 1, 1), ("6", 0, 0)])
    found = pooled_over_folds([second, first])
    assert found["war"] == {
        "mean": pytest.approx(0.75),
        "pooled": pytest.approx(4 / 6),
        "by_fold": {"1": 0.5, "2": 1.0},
    }
    assert found["uar"]["by_fold"] == {"1": pytest.approx(1 / 3), "2": 1.0}
    assert found["uar"]["mean"] == pytest.approx(2 / 3) and found["uar"]["pooled"] == pytest.approx((3 / 4 + 1 / 2) / 2)
    assert found["recall"] == {"a": 0.75, "b": 0.5} and found["counts"] == {"1": 4, "2": 2}
    assert found["folds"] == {"there": [1, 2], "complete": False}
    third = write_run(tmp_path, 3, [("7", 1, 1)])
    assert pooled_over_folds([first, second, third])["folds"]["complete"]


def test_runs_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    one = write_run(tmp_path, 1, [("1", 0, 0)])
    again = write_run(tmp_path / "again", 1, [("2", 0, 0)])
    same = write_run(tmp_path, 2, [("1", 0, 0)])
    longer = write_run(tmp_path / "longer", 2, [("2", 0, 0)], {"training": {"epochs": 3}})
    for runs, words in (
        ([], "no run"),
        ([one, again], "fold 1 is there twice"),
        ([one, same], "tested on the same clip"),
        ([one, longer], r"differ in training\.epochs"),
        ([one, tmp_path / "none"], "no such file"),
    ):
        with pytest.raises(AffuseError, match=words):
            pooled_over_folds(runs)
    (one / "run.json").write_text('{"facts": {}}')
    with pytest.raises(AffuseError, match="not a finished run on a fold"):
        pooled_over_folds([one])
