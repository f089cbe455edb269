"""The nouns keep their promises."""

import subprocess
import sys

import pytest
import torch

from affuse import AffuseError, Batch, Output, Sample, Task


def test_collate_fills_absent_with_nan_and_pads_with_zero() -> None:
    long = Sample({"sound": torch.ones(3, 2), "sight": torch.ones(4, 5)}, target=1)
    short = Sample({"sound": torch.ones(1, 2)}, target=0)
    batch = Batch.collate([long, short], ("sight", "sound"))
    assert batch.modalities == ("sight", "sound")
    assert batch.present.tolist() == [[True, True], [False, True]]
    assert batch.inputs["sight"][1].isnan().all()
    assert batch.inputs["sound"][1].tolist() == [[1, 1], [0, 0], [0, 0]]
    assert batch.lengths["sound"].tolist() == [3, 1]
    assert "sight" not in batch.lengths
    assert batch.target is not None
    assert batch.target.tolist() == [1, 0]


def test_a_modality_that_nobody_has_is_absent_everywhere() -> None:
    batch = Batch.collate([Sample({"a": torch.ones(2)})], ("a", "b"))
    assert batch.has("b").tolist() == [False]
    assert batch.has("unknown").tolist() == [False]
    assert batch.target is None


def test_without_loses_a_sensor_and_leaves_the_batch() -> None:
    batch = Batch.collate([Sample({"a": torch.ones(2), "b": torch.ones(2)})])
    lost = batch.without("a")
    assert lost.present.tolist() == [[False, True]]
    assert lost.inputs["a"].isnan().all()
    assert batch.present.all()
    with pytest.raises(AffuseError, match="'c'"):
        batch.without("c")


@pytest.mark.parametrize("dtype", [torch.int16, torch.int64])
def test_absent_whole_numbers_take_the_smallest_value_of_their_dtype(dtype: torch.dtype) -> None:
    ids = torch.tensor([5, 6, 7], dtype=dtype)
    batch = Batch.collate([Sample({"text": ids}), Sample({}), Sample({"text": ids[:1]})])
    least = torch.iinfo(dtype).min
    assert batch.inputs["text"].dtype == dtype
    assert batch.inputs["text"].tolist() == [[5, 6, 7], [least] * 3, [5, 0, 0]]
    assert batch.has("text").tolist() == [True, False, True]
    assert batch.lengths["text"].tolist() == [3, 0, 1]
    lost = batch.without("text")
    assert (lost.inputs["text"] == least).all()
    assert not lost.present.any()
    assert batch.inputs["text"][0].tolist() == [5, 6, 7]


def test_no_embedding_has_a_row_for_an_absent_token() -> None:
    lost = Batch.collate([Sample({"text": torch.tensor([5])})]).without("text")
    with pytest.raises(IndexError):
        torch.nn.Embedding(10, 2)(lost.inputs["text"])


def test_token_ids_and_features_do_not_mix_in_one_batch() -> None:
    with pytest.raises(AffuseError, match="'text': samples of one batch differ in dtype"):
        Batch.collate([Sample({"text": torch.zeros(2, dtype=torch.int64)}), Sample({"text": torch.zeros(2)})])


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8])
def test_a_dtype_without_a_value_to_spare_cannot_be_absent(dtype: torch.dtype) -> None:
    sample = Sample({"a": torch.ones(2, dtype=dtype)})
    assert Batch.collate([sample, sample]).inputs["a"].dtype == dtype
    with pytest.raises(AffuseError, match="no value for 'absent'"):
        Batch.collate([sample, Sample({})])


def test_samples_that_differ_beyond_time_are_an_error() -> None:
    with pytest.raises(AffuseError, match="differ beyond time"):
        Batch.collate([Sample({"a": torch.ones(2, 3)}), Sample({"a": torch.ones(2, 4)})])


def test_a_task_knows_the_width_of_its_logits() -> None:
    assert Task("classification", ("x", "y", "z")).outputs == 3
    assert Task("regression", value_range=(-3.0, 3.0)).outputs == 1
    with pytest.raises(AffuseError, match="two classes"):
        Task("classification", ("x",))


def test_value_is_for_regressions() -> None:
    answered = torch.tensor([True])
    assert Output(torch.tensor([[2.0]]), answered).value.tolist() == [2.0]
    with pytest.raises(AffuseError, match="regression"):
        _ = Output(torch.zeros(1, 2), answered).value


def test_importing_does_nothing_but_import() -> None:
    code = (
        "import random, os, sys; s = random.getstate(); n = set(os.listdir('.')); import affuse, torch; "
        "assert random.getstate() == s and set(os.listdir('.')) == n and 'lightning' not in sys.modules; "
        "import torchvision, timm"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, cwd="/")
