import itertools
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
import pytest
import torch

from affuse import AffuseError
from affuse.data.mmmo_youtube import MMMOYouTube

COUNTS = {"train": 12, "valid": 6, "test": 9}
WIDTHS = {"text": 30, "audio": 7, "video": 4}


def write_files(root: Path, dataset: str) -> Path:
    """The layout of the real files: 20 steps, padding at both ends, no text in the training part."""
    rng = np.random.default_rng(0)
    root.mkdir(parents=True, exist_ok=True)
    for part, n in COUNTS.items():
        pads = [(i % 3, i % 4) for i in range(n)]
        for name, width in WIDTHS.items():
            if name == "text" and part == "train":
                continue
            array = rng.standard_normal((n, 20, width)) + 5
            for row, (lead, trail) in enumerate(pads):
                array[row, :lead] = 0
                array[row, 20 - trail :] = 0
            if dataset == "youtube" and name != "text":
                array[::3] = 0  # nothing was measured
            stem = f"text_{part}_emb" if name == "text" else f"{name}_{part}"
            with h5py.File(root / f"{stem}.h5", "w") as file:
                file["d1"] = array
        labels = np.eye(3, dtype=np.float32)[np.arange(n) % 3] if dataset == "youtube" else 1 + np.arange(n) % 9 / 2
        with h5py.File(root / f"y_{part}.h5", "w") as file:
            file["d1"] = labels
    return root


def all_of(source: Any) -> list[Any]:
    return [source[i] for i in range(len(source))]


def test_missing_text_is_absent_and_never_zeros(tmp_path: Path) -> None:
    splits = MMMOYouTube(str(write_files(tmp_path, "mmmo"))).splits(0)
    assert all(set(sample.inputs) == {"audio", "video"} for sample in all_of(splits.train))
    assert all(set(sample.inputs) == {"text", "audio", "video"} for sample in all_of(splits.test))
    assert splits.facts["absent"] == {"train": {"text": 12}, "validation": {}, "test": {}}
    assert splits.task.value_range == (1.0, 5.0) and [s.target for s in all_of(splits.train)][:3] == [1.0, 1.5, 2.0]


def test_a_sequence_of_zeros_is_absent(tmp_path: Path) -> None:
    splits = MMMOYouTube(str(write_files(tmp_path, "youtube")), "youtube").splits(0)
    assert len(splits.train) == 8 and splits.facts["left_out"] == {"train samples without any modality": 4}
    assert [set(s.inputs) for s in all_of(splits.test)[:2]] == [{"text"}, {"text", "audio", "video"}]
    assert [s.target for s in all_of(splits.test)][:4] == [0, 1, 2, 0]


def test_padding_at_both_ends_is_cut_off_and_the_sequences_stay_aligned(tmp_path: Path) -> None:
    splits = MMMOYouTube(str(write_files(tmp_path, "mmmo")), standardise=False).splits(0)
    for i, sample in enumerate(all_of(splits.test)):
        assert {len(tensor) for tensor in sample.inputs.values()} == {20 - i % 3 - i % 4}
        assert all(
            tensor.dtype == torch.float32 and (tensor != 0).any(dim=1).all() for tensor in sample.inputs.values()
        )


def test_sound_and_sight_are_standardised_by_the_training_part(tmp_path: Path) -> None:
    splits = MMMOYouTube(str(write_files(tmp_path, "mmmo"))).splits(0)
    steps = torch.cat([sample.inputs["audio"] for sample in all_of(splits.train)])
    assert torch.allclose(steps.mean(dim=0), torch.zeros(7), atol=1e-5)
    assert torch.allclose(steps.std(dim=0, correction=0), torch.ones(7), atol=1e-5)


def test_mixed_split_trains_with_text_in_part_of_the_samples(tmp_path: Path) -> None:
    config = MMMOYouTube(str(write_files(tmp_path, "mmmo")), split="mixed")
    splits = config.splits(3)
    worded = [sample for sample in all_of(splits.train) if "text" in sample.inputs]
    assert len(splits.train) == 18 and len(worded) == 6
    assert len(splits.test) == 6 and all("text" in s.inputs for s in all_of(splits.test))
    parts = [{s.meta["id"] for s in all_of(source)} for source in (splits.train, splits.validation, splits.test)]
    assert len(set.union(*parts)) == sum(map(len, parts)) == 27
    assert parts != [
        {s.meta["id"] for s in all_of(s_)} for s_ in (config.splits(4).train, splits.validation, splits.test)
    ]


@pytest.mark.parametrize("dataset", ["mmmo", "youtube"])
def test_more_missing_text_takes_the_same_texts_and_more(tmp_path: Path, dataset: Literal["mmmo", "youtube"]) -> None:
    root = str(write_files(tmp_path, dataset))
    lacking = []
    for share in (0.0, 1 / 3, 2 / 3, 1.0):
        splits = MMMOYouTube(root, dataset, text_missing_test=share).splits(1)
        lacking.append({s.meta["id"] for s in all_of(splits.test) if "text" not in s.inputs})
        assert len(splits.test) == 9
    assert [len(part) for part in lacking] == [0, 3, 6, 9] and all(a < b for a, b in itertools.pairwise(lacking))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("audio_train.h5", b"", "readable HDF5"),
        ("audio_train.h5", b"\x89HDF\r\n\x1a\n" + b"\0" * 100, "readable HDF5"),
        ("y_test.h5", np.full(9, 9.0), "from 1 to 5"),
        ("y_test.h5", np.full((9, 3), 1.0), "1 axes"),
        ("video_valid.h5", np.zeros((5, 20, 4)), "5 samples"),
        ("video_valid.h5", np.ones((6, 21, 4)), "differ in length"),
    ],
)
def test_damaged_files_are_one_clear_line(tmp_path: Path, name: str, content: Any, words: str) -> None:
    root = write_files(tmp_path, "mmmo")
    (root / name).unlink()
    if isinstance(content, bytes):
        (root / name).write_bytes(content)
    else:
        with h5py.File(root / name, "w") as file:
            file["d1"] = content
    with pytest.raises(AffuseError, match=words) as caught:
        MMMOYouTube(str(root)).splits(0)
    assert "\n" not in str(caught.value)


def test_the_real_files_have_their_known_counts(real_data: Path) -> None:
    root = real_data / "mmmo_youtube"
    if not root.is_dir():
        pytest.skip("no MMMO and YouTube files beside the other recordings")
    mmmo = MMMOYouTube(str(root / "mmmo")).splits(0)
    assert mmmo.facts["counts"] == {"train": 220, "validation": 40, "test": 80}
    assert mmmo.facts["absent"]["train"] == {"text": 220} and mmmo.facts["absent"]["test"] == {}
    youtube = MMMOYouTube(str(root / "youtube"), "youtube", split="mixed").splits(0)
    assert youtube.facts["counts"] == {"train": 86, "validation": 19, "test": 38}
    assert youtube.facts["absent"]["train"]["text"] < 86
