import csv
from pathlib import Path

import numpy as np
import pytest
import torch

from affuse import AffuseError
from affuse.data.mosi_utterances import MODALITIES, MOSIUtterances, context_order
from affuse.data.splits import DataConfig
from affuse.types import Batch

WIDTHS = {"text": 4, "audio": 3, "video": 5}


def write_mosi(root: Path, videos: dict[str, dict[str, list[int]]]) -> Path:
    """The layout, with the given utterance numbers by part and video; positive utterances first, as in the real files."""
    rng = np.random.default_rng(0)
    root.mkdir(parents=True, exist_ok=True)
    for part, numbers in videos.items():
        rows = [(video, n, n % 2) for video, found in numbers.items() for n in found]
        rows.sort(key=lambda row: (row[0], -row[2]))
        with (root / f"{part}_utterances.csv").open("w", newline="") as file:
            csv.writer(file).writerows(
                [("id", "text", "label"), *((f"{v}_{n}", f'SAID, "{n}"', label) for v, n, label in rows)]
            )
        for name, width in WIDTHS.items():
            with (root / f"{name}_{part}.csv").open("w", newline="") as file:
                # The first column is the number of the utterance: a sample shows who its neighbours are.
                csv.writer(file, quoting=csv.QUOTE_ALL).writerows(
                    [[n, *rng.standard_normal(width - 2), 7.0, label] for _, n, label in rows]
                )
    return root


@pytest.fixture
def mosi(tmp_path: Path) -> Path:
    videos = {f"v_{i}": [1, 2, 4, 5, 8] for i in range(4)}
    dev = {"a": [3, 10, 9], "b": [1, 2], "c": [5, 6, 7, 8], "d": [1]}
    return write_mosi(tmp_path, {"train": videos, "dev": dev})


def test_neighbours_come_farthest_first_and_the_asked_utterance_last() -> None:
    assert context_order(0) == [0]
    assert context_order(2) == [2, -2, 1, -1, 0]


def test_neighbours_are_found_by_number_within_the_video_alone(mosi: Path) -> None:
    splits = MOSIUtterances(str(mosi), context=1).splits(0)
    train = splits.train
    numbers = torch.tensor([1.0, 2, 4, 5, 8])
    scaled = {round(float(v), 4): int(n) for n, v in zip(numbers, (numbers - 4) / 2.4494897, strict=True)}
    shown = [[scaled.get(round(float(v), 4)) for v in train[i].inputs["text"][:, 0]] for i in range(5)]
    # 4 is the mean of the column, so that it reads 0, as does a slot without a neighbour.
    assert shown == [[2, 4, 1], [4, 1, 2], [5, 2, 4], [8, 4, 5], [4, 5, 8]]
    assert [train[i].meta["id"] for i in range(3)] == ["v_0_1", "v_0_2", "v_0_4"]
    beyond = train[0].inputs["audio"][1]
    assert (beyond == 0).all() and (train[0].inputs["audio"][0] != 0).any()


def test_halves_are_videos_and_swap(mosi: Path) -> None:
    zero, one = (MOSIUtterances(str(mosi), half=half).splits(0) for half in (0, 1))
    subjects = [{source[i].meta["subject"] for i in range(len(source))} for source in (zero.validation, zero.test)]
    assert subjects == [{"b", "d"}, {"a", "c"}]
    assert [one.validation[i].meta["id"] for i in range(len(one.validation))] == [
        zero.test[i].meta["id"] for i in range(len(zero.test))
    ]
    assert zero.facts["subjects_shared"] == [] and zero.facts["counts"] == {"train": 20, "validation": 3, "test": 7}


def test_features_are_standardised_by_the_training_part(mosi: Path) -> None:
    splits = MOSIUtterances(str(mosi)).splits(0)
    rows = torch.cat([splits.train[i].inputs["video"] for i in range(len(splits.train))])
    assert rows.shape == (20, 5) and torch.allclose(rows.mean(dim=0), torch.zeros(5), atol=1e-6)
    assert torch.allclose(rows[:, :-1].std(dim=0, correction=0), torch.ones(4), atol=1e-5)
    assert (rows[:, -1] == 0).all()  # a column that never changes
    assert isinstance(MOSIUtterances(str(mosi)), DataConfig)
    batch = Batch.collate([splits.test[0], splits.test[1]])
    assert batch.modalities == MODALITIES and batch.target is not None and batch.target.dtype == torch.int64


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("text_dev.csv", lambda t: t.replace('"', "", 1).replace(",", ",x", 1), "text_dev.csv"),
        ("audio_train.csv", lambda t: "\n".join(t.splitlines()[:-1]), "19 rows"),
        ("video_dev.csv", lambda t: t.replace('"1"\r\n', '"0"\r\n', 1), "label differs"),
        ("video_dev.csv", lambda t: t.replace('"7.0"', '"nan"', 1), "not finite"),
        ("video_dev.csv", lambda t: t.replace('"7.0",', "", 1), "columns"),
        ("dev_utterances.csv", lambda t: t.replace("id,text", "name,text"), "first line"),
        ("dev_utterances.csv", lambda t: t.replace("a_3", "a3"), "line 2"),
        ("dev_utterances.csv", lambda t: t.replace("a_9", "a_3"), "twice"),
        ("train_utterances.csv", lambda t: "", "empty"),
    ],
)
def test_a_damaged_folder_is_one_clear_line(mosi: Path, name: str, change, words: str) -> None:  # type: ignore[no-untyped-def]
    path = mosi / name
    text = path.read_bytes().decode()
    assert change(text) != text
    path.write_bytes(change(text).encode())
    with pytest.raises(AffuseError, match=words) as caught:
        MOSIUtterances(str(mosi)).splits(0)
    assert name in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_folder_or_file_is_named(mosi: Path) -> None:
    with pytest.raises(AffuseError, match="no such folder"):
        MOSIUtterances(str(mosi / "none")).splits(0)
    (mosi / "text_dev.csv").unlink()
    with pytest.raises(AffuseError, match=r"text_dev\.csv: no such file"):
        MOSIUtterances(str(mosi)).splits(0)


def test_the_real_files_have_their_known_counts(real_data: Path) -> None:
    if not (real_data / "mosi").is_dir():
        pytest.skip("no MOSI features beside the other recordings")
    splits = MOSIUtterances(str(real_data / "mosi"), context=3).splits(0)
    assert splits.facts["counts"] == {"train": 1447, "validation": 166, "test": 160}
    assert splits.facts["videos"] == {"train": 62, "validation": 8, "test": 8}
    assert splits.facts["widths"] == {"text": 100, "audio": 73, "video": 100} and not splits.facts["subjects_shared"]
    assert splits.test[5].inputs["text"].shape == (7, 100)
