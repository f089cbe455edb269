import pickle
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np
import pytest
import torch

from affuse import AffuseError
from affuse.data import DATASETS
from affuse.data.mmsa import MMSA, SHA256
from affuse.data.mult_glove import MulTGloVe
from affuse.types import Batch

Dataset = Literal["mosi", "mosei"]
Alignment = Literal["aligned", "unaligned"]


def unpickled(path: Path) -> Any:
    return pickle.loads(path.read_bytes())  # the test's own file


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("alignment", ["aligned", "unaligned"])
@pytest.mark.parametrize("dataset", ["mosi", "mosei"])
def test_real_shapes_load_number_for_number(
    tmp_path: Path, feature_files: ModuleType, dataset: Dataset, alignment: Alignment, protocol: int
) -> None:
    path = feature_files.write_mmsa(tmp_path, dataset, alignment, (3, 1, 2), protocol=protocol)
    document = unpickled(path)
    splits = MMSA(str(tmp_path), dataset, alignment).splits(0)
    assert splits.task.kind == "regression" and splits.task.value_range == (-3.0, 3.0)
    for source, key in ((splits.train, "train"), (splits.validation, "valid"), (splits.test, "test")):
        held = document[key]
        assert len(source) == len(held["id"])
        for i in range(len(source)):
            sample = source[i]
            words = int(held["text_bert"][i, 1].sum())
            stops = {"text": words, "audio": words, "video": words}
            if alignment == "unaligned":
                stops |= {"audio": held["audio_lengths"][i], "video": held["vision_lengths"][i]}
            for name, stop in stops.items():
                wanted = held["vision" if name == "video" else name][i, :stop].astype(np.float32)
                wanted[~np.isfinite(wanted)] = 0
                assert sample.inputs[name].dtype == torch.float32
                assert (sample.inputs[name].numpy() == wanted).all() and sample.inputs[name].shape == wanted.shape
            assert sample.target == pytest.approx(float(held["regression_labels"][i]))
            assert sample.meta["id"] == held["id"][i] and sample.meta["subject"] == held["id"][i].split("$_$")[0]


def test_ids_are_cut_by_the_mask(tmp_path: Path, feature_files: ModuleType) -> None:
    document = unpickled(feature_files.write_mmsa(tmp_path))
    splits = MMSA(str(tmp_path), text="ids").splits(0)
    for i in range(len(splits.train)):
        ids = splits.train[i].inputs["text"]
        row = document["train"]["text_bert"][i]
        assert ids.dtype == torch.int64 and ids.tolist() == row[0][row[1] == 1].astype(int).tolist()
        assert ids[0] == 101 and ids[-1] == 102
    batch = Batch.collate([splits.train[i] for i in range(4)])
    assert batch.inputs["text"].dtype == torch.int64 and batch.present.all()


def test_minus_infinity_is_zero_and_counted(tmp_path: Path, feature_files: ModuleType) -> None:
    feature_files.write_mmsa(tmp_path, sizes=(10, 5, 5))
    splits = MMSA(str(tmp_path)).splits(0)
    assert splits.facts["not_finite_made_0"] == {"audio": 4}
    assert splits.train[0].inputs["audio"][0, 0] == 0 and torch.isfinite(splits.train[5].inputs["audio"]).all()
    assert splits.facts["counts"] == {"train": 10, "validation": 5, "test": 5}
    assert splits.facts["subjects_shared"] == [] and splits.facts["steps_beyond_the_text"] == {}


def test_another_pickle_replaces_one_modality(tmp_path: Path, feature_files: ModuleType) -> None:
    feature_files.write_mmsa(tmp_path, alignment="unaligned", sizes=(4, 2, 2))
    rng = np.random.default_rng(5)
    own = {
        part: {"audio": rng.standard_normal((n, 60, 11)), "audio_lengths": np.arange(1, n + 1)}
        for part, n in (("train", 4), ("valid", 2), ("test", 2))
    }
    (tmp_path / "wav2vec.pkl").write_bytes(pickle.dumps(own))
    splits = MMSA(str(tmp_path), alignment="unaligned", feature_audio="wav2vec.pkl").splits(0)
    assert [tuple(splits.train[i].inputs["audio"].shape) for i in range(4)] == [(i + 1, 11) for i in range(4)]
    assert splits.train[0].inputs["video"].shape[1] == 20


def test_a_sequence_without_steps_is_absent(tmp_path: Path, feature_files: ModuleType) -> None:
    path = feature_files.write_mmsa(tmp_path, alignment="unaligned")
    document = unpickled(path)
    document["test"]["audio_lengths"][1] = 0
    path.write_bytes(pickle.dumps(document))
    splits = MMSA(str(tmp_path), alignment="unaligned").splits(0)
    assert set(splits.test[1].inputs) == {"text", "video"} and splits.facts["absent"]["test"] == {"audio": 1}


def test_a_subject_in_two_parts_is_named(tmp_path: Path, feature_files: ModuleType) -> None:
    path = feature_files.write_mmsa(tmp_path)
    document = unpickled(path)
    document["test"]["id"][0] = document["train"]["id"][0]
    path.write_bytes(pickle.dumps(document))
    assert MMSA(str(tmp_path)).splits(0).facts["subjects_shared"] == ["trainVideo0"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d.pop("valid"), "no part 'valid'"),
        (lambda d: d["train"].pop("audio"), "'audio' is no array"),
        (lambda d: d["train"].update(audio=[1, 2]), "'audio' is no array"),
        (lambda d: d["train"].update(audio=np.zeros((9, 50))), "3 axes"),
        (lambda d: d["train"].update(audio=np.zeros((8, 50, 5))), "8 rows"),
        (lambda d: d["train"].update(audio=np.zeros((9, 40, 5))), "not aligned"),
        (lambda d: d["train"].update(id=[1, 2]), "'id' is not a list"),
        (lambda d: d["train"].update(id=[]), "'id' is not a list"),
        (lambda d: d["train"].update(regression_labels=np.full(9, np.nan)), "regression_labels"),
        (lambda d: d["train"].update(regression_labels="abc"), "regression_labels"),
        (lambda d: d["train"].update(regression_labels=np.zeros(8)), "regression_labels"),
        (lambda d: d["train"].update(text_bert=np.full((9, 3, 50), 7.0)), "mask"),
        (lambda d: d["train"].update(text_bert=np.zeros((9, 2, 50))), "text_bert"),
        (lambda d: d["train"].update(raw_text=["a"]), "raw_text"),
        (lambda d: d["test"].update(text=np.array(["a"] * 6)), "'text' is no array"),
    ],
)
def test_another_schema_is_one_clear_line(tmp_path: Path, feature_files: ModuleType, change: Any, words: str) -> None:
    path = feature_files.write_mmsa(tmp_path)
    document = unpickled(path)
    change(document)
    path.write_bytes(pickle.dumps(document))
    with pytest.raises(AffuseError, match=words) as caught:
        MMSA(str(tmp_path)).splits(0)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_lengths_beyond_the_array_are_refused(tmp_path: Path, feature_files: ModuleType) -> None:
    path = feature_files.write_mmsa(tmp_path, alignment="unaligned")
    document = unpickled(path)
    document["train"]["vision_lengths"][0] = 501
    path.write_bytes(pickle.dumps(document))
    with pytest.raises(AffuseError, match="vision_lengths go beyond"):
        MMSA(str(tmp_path), alignment="unaligned").splits(0)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(AffuseError, match="no such folder"):
        MMSA(str(tmp_path / "none")).splits(0)
    with pytest.raises(AffuseError, match=r"MOSEI/Processed/unaligned_50\.pkl"):
        MMSA(str(tmp_path), "mosei", "unaligned").splits(0)


def test_the_known_hashes_are_whole() -> None:
    assert len(SHA256) == 4 and all(len(known) == 64 and int(known, 16) for known in SHA256.values())
    assert {"mmsa", "mult_glove", "mintrec", "mosi_utterances", "mmmo_youtube"} <= set(DATASETS)


@pytest.mark.parametrize("protocol", [2, 4])
def test_glove_sequences_lose_their_padding_and_stay_aligned(
    tmp_path: Path, feature_files: ModuleType, protocol: int
) -> None:
    document = unpickled(feature_files.write_mult(tmp_path, protocol=protocol))
    splits = MulTGloVe(str(tmp_path)).splits(0)
    for i in range(len(splits.train)):
        sample = splits.train[i]
        assert {len(tensor) for tensor in sample.inputs.values()} == {48 - i}
        assert (sample.inputs["text"].numpy() == document["train"]["text"][i, 2 + i :]).all()
        assert sample.target == pytest.approx(float(document["train"]["labels"][i, 0, 0]))
    assert splits.train[1].meta == {"id": "trainVideo0_1.0_1.5", "subject": "trainVideo0"}
    assert splits.facts["not_finite_made_0"] == {"audio": 3} and splits.facts["subjects_shared"] == []


@pytest.mark.parametrize("form", ["video[{}]", "video_{}", "video$_${}"])
def test_the_number_of_an_utterance_is_no_part_of_who_speaks(
    tmp_path: Path, feature_files: ModuleType, form: str
) -> None:
    path = feature_files.write_mult(tmp_path)
    document = unpickled(path)
    for part in document.values():
        part["id"] = np.array([[form.format(i)] for i in range(len(part["id"]))], dtype=object)
    path.write_bytes(pickle.dumps(document))
    assert MulTGloVe(str(tmp_path)).splits(0).facts["subjects_shared"] == ["video"]


def test_unaligned_glove_sequences_are_cut_each_by_itself(tmp_path: Path, feature_files: ModuleType) -> None:
    path = feature_files.write_mult(tmp_path, "unaligned")
    document = unpickled(path)
    document["test"]["audio"][1, 300:] = 0
    document["test"]["vision"][2] = 0
    path.write_bytes(pickle.dumps(document))
    splits = MulTGloVe(str(tmp_path), alignment="unaligned").splits(0)
    assert {n: len(t) for n, t in splits.test[1].inputs.items()} == {"text": 47, "audio": 297, "video": 497}
    assert set(splits.test[2].inputs) == {"text", "audio"} and splits.facts["absent"]["test"] == {"video": 1}
