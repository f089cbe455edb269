import pickle
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from affuse import AffuseError
from affuse.data.mintrec import CLASSES, MIntRec, read_annotations


def test_text_becomes_ids_and_features_lose_their_extra_axis(tmp_path: Path, feature_files: ModuleType) -> None:
    pytest.importorskip("transformers")
    root = feature_files.write_mintrec(tmp_path / "MIntRec")
    tokenizer = feature_files.write_tokenizer(tmp_path / "tiny")
    splits = MIntRec(str(root), tokenizer=str(tokenizer)).splits(0)
    video = pickle.loads((root / "video_data" / "video_feats.pkl").read_bytes())
    sample = splits.train[1]
    # [CLS] well we are here 1 now [SEP]; 1 is in no vocabulary.
    assert sample.inputs["text"].dtype == torch.int64 and sample.inputs["text"].tolist() == [2, 9, 5, 6, 7, 1, 8, 3]
    assert (sample.inputs["video"].numpy() == video["S04_E01_1"][:, 0]).all()
    assert sample.inputs["audio"].shape[1] == 768 and sample.target == CLASSES.index("Ask for help") == 19
    assert sample.meta["id"] == "S04_E01_1" and "subject" not in sample.meta
    assert splits.facts["counts"] == {"train": 4, "validation": 4, "test": 4}


def test_long_clips_keep_their_first_steps_and_are_counted(tmp_path: Path, feature_files: ModuleType) -> None:
    root = feature_files.write_mintrec(tmp_path)
    audio = pickle.loads((root / "audio_data" / "audio_feats.pkl").read_bytes())
    splits = MIntRec(str(root), modalities=("audio", "video"), max_audio=12, max_video=5).splits(0)
    assert (splits.test[0].inputs["audio"].numpy() == audio["S06_E01_0"][:12]).all()
    assert splits.facts["cut_to_the_maximum"] == {"audio": 12, "video": 12}


def test_a_clip_without_features_lacks_that_modality(tmp_path: Path, feature_files: ModuleType) -> None:
    root = feature_files.write_mintrec(tmp_path)
    path = root / "audio_data" / "audio_feats.pkl"
    audio = pickle.loads(path.read_bytes())
    del audio["S06_E01_2"]
    audio["S06_E01_3"] = np.zeros((0, 768), np.float32)
    path.write_bytes(pickle.dumps(audio))
    splits = MIntRec(str(root), modalities=("audio", "video")).splits(0)
    assert set(splits.test[2].inputs) == set(splits.test[3].inputs) == {"video"}
    assert splits.facts["absent"] == {"train": {}, "validation": {}, "test": {"audio": 2}}


def test_text_comes_as_features_too(tmp_path: Path, feature_files: ModuleType) -> None:
    root = feature_files.write_mintrec(tmp_path)
    table = {f"S0{s}_E01_{i}": np.full((3 + i, 16), s, np.float64) for s in (4, 5, 6) for i in range(4)}
    (root / "words.pkl").write_bytes(pickle.dumps(table))
    splits = MIntRec(str(root), text="features", text_features="words.pkl").splits(0)
    assert splits.validation[2].inputs["text"].shape == (5, 16) and (splits.validation[2].inputs["text"] == 5).all()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"S04_E01_0": np.zeros(3)}, "S04_E01_0"),
        ({"S04_E01_0": np.zeros((3, 2, 5))}, "S04_E01_0"),
        ({"S04_E01_0": np.array([["a"]])}, "S04_E01_0"),
        ({"S04_E01_0": "a"}, "S04_E01_0"),
        ([1], "expected a dict"),
    ],
)
def test_features_of_another_schema_are_one_clear_line(
    tmp_path: Path, feature_files: ModuleType, content: Any, words: str
) -> None:
    root = feature_files.write_mintrec(tmp_path)
    (root / "audio_data" / "audio_feats.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(AffuseError, match=words):
        MIntRec(str(root), modalities=("audio",)).splits(0)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "first line"),
        (b"a\tb\n", "first line"),
        (b"\xff\xfe", "text file"),
        (b"season\tepisode\tclip\ttext\tlabel\n", "lists no clip"),
        (b"season\tepisode\tclip\ttext\tlabel\nS1\tE1\t1\thi\tRage\n", "line 2"),
        (b"season\tepisode\tclip\ttext\tlabel\nS1\tE1\t1\thi\n", "line 2"),
        (b"season\tepisode\tclip\ttext\tlabel\nS1\tE1\t1\thi\tJoke\nS1\tE1\t1\tho\tJoke\n", "twice"),
    ],
)
def test_damaged_annotations_are_one_clear_line(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "dev.tsv").write_bytes(content)
    with pytest.raises(AffuseError, match=words) as caught:
        read_annotations(tmp_path / "dev.tsv")
    assert "dev.tsv" in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_tokenizer_or_file_is_named(tmp_path: Path, feature_files: ModuleType) -> None:
    pytest.importorskip("transformers")
    root = feature_files.write_mintrec(tmp_path)
    with pytest.raises(AffuseError, match="no tokenizer") as caught:
        MIntRec(str(root), tokenizer=str(tmp_path / "none")).splits(0)
    assert "\n" not in str(caught.value)
    (root / "video_data" / "video_feats.pkl").unlink()
    with pytest.raises(AffuseError, match=r"video_data/video_feats\.pkl"):
        MIntRec(str(root), modalities=("video",)).splits(0)


def test_the_real_annotations_have_their_known_sizes(
    real_data: Path, tmp_path: Path, feature_files: ModuleType
) -> None:
    root = real_data / "annotations" / "mintrec"
    if not root.is_dir():
        pytest.skip("no MIntRec annotations beside the other recordings")
    sizes = {part: len(read_annotations(root / f"{part}.tsv")) for part in ("train", "dev", "test")}
    assert sizes == {"train": 1334, "dev": 445, "test": 445}
    pytest.importorskip("transformers")
    tokenizer = feature_files.write_tokenizer(tmp_path / "tiny")
    splits = MIntRec(str(root), modalities=("text",), tokenizer=str(tokenizer)).splits(0)
    assert {splits.train[i].target for i in range(len(splits.train))} == set(range(20))
    assert max(len(splits.train[i].inputs["text"]) for i in range(len(splits.train))) <= 30
