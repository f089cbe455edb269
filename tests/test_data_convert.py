"""``affuse data convert``, as it is typed."""

import json
from pathlib import Path

import pytest

from affuse.cli import main
from affuse.data.features import Features


def test_a_data_set_is_converted_with_its_settings(
    tmp_path: Path, real_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = real_data / "mmmo_youtube" / "youtube"
    if not root.is_dir():
        pytest.skip("no MMMO and YouTube files beside the other recordings")
    out = tmp_path / "youtube"
    typed = ["data", "convert", "mmmo_youtube", str(root), str(out), "--data.dataset", "youtube", "--data.split=mixed"]
    assert main([*typed, "--seed", "2"]) == 0
    assert str(out) in capsys.readouterr().out
    splits = Features(str(out)).splits(0)
    assert splits.facts["counts"] == {"train": 86, "validation": 19, "test": 38}
    source = json.loads((out / "manifest.json").read_text())["facts"]["converted_from"]
    assert (source["data"], source["seed"], source["split"]) == ("mmmo_youtube", 2, "mixed")
    assert main(typed) == 1
    assert "choose another folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        (["see", "."], "cannot convert 'see'"),
        (["mmsa", "none"], "none: no such folder"),
        (["mmsa", ".", "--data.datset", "mosi"], "did you mean 'dataset'"),
        (["mmsa", ".", "--data.dataset", "sims"], "dataset"),
        (["mmsa", ".", "--training.epochs", "3"], "expected --data.key value"),
        (["mmsa", ".", "--data.dataset"], "expected --data.key value"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    tmp_path: Path, typed: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    name, root, *rest = typed
    assert main(["data", "convert", name, root, str(tmp_path / "out"), *rest]) == 1
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1 and not (tmp_path / "out").exists()
