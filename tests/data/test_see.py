import json
import os
import struct
import zlib
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from affuse import AffuseError, Batch
from affuse.data.see import SEE, SEE_CLIP, SequenceName, read_image, temporal_crop

NAMES = Path(os.environ.get("AFFUSE_DATA", Path(__file__).parents[2] / "../shared/data")) / "annotations/see"
LABELS = ["angry", "disgust", "fear", "happiness", "neutral", "sadness", "surprise"]
FRAMES = 22


def write_see(root: Path, subjects: int = 8) -> dict[str, Any]:
    """A folder in SEE's layout: each subject has a training and a testing sequence. Pixels tell camera and frame number."""
    database = {}
    for subject in range(subjects):
        for take, subset in enumerate(("training", "testing")):
            label = LABELS[(subject + take) % 7]
            light = ("normal", "Low", "HDR", "Overexposed")[subject % 4]
            name = f"{2 * subject + take}_{subject:03d}_man_24_Master_{light}_{label}_{FRAMES}_take{take:03d}"
            database[name] = {"subset": subset, "annotations": {"label": label, "segment": [0, FRAMES]}}
            for kind, base in (("frame", 20), ("event", 120)):
                folder = root / kind / label / name
                folder.mkdir(parents=True)
                for number in range(FRAMES):
                    image = np.full((26, 34, 3), base + 4 * number, np.uint8)
                    cv2.imwrite(str(folder / f"{number:05d}.jpg"), image, [cv2.IMWRITE_JPEG_QUALITY, 100])
    document = {"labels": LABELS, "database": database}
    (root / "emotion.json").write_text(json.dumps(document))
    return document


@pytest.fixture(scope="module")
def see(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("see")
    write_see(root)
    return root


def subjects_of(source: Any) -> set[str]:
    return {source[i].meta["subject"] for i in range(len(source))}


@pytest.mark.skipif(not NAMES.is_dir(), reason="AFFUSE_DATA holds no annotations/see")
def test_every_real_test_name_parses_with_the_published_composition() -> None:
    names = [SequenceName.parse(line) for line in (NAMES / "test_sequences.txt").read_text().split()]
    assert len(names) == 767
    assert Counter(name.lighting for name in names) == {"Overexposed": 201, "normal": 196, "Low": 189, "HDR": 181}
    expected = {
        "surprise": 130,
        "disgust": 124,
        "angry": 119,
        "fear": 113,
        "sadness": 100,
        "neutral": 92,
        "happiness": 89,
    }
    assert Counter(name.emotion for name in names) == expected
    assert len({name.subject for name in names}) == 89
    assert all(18 <= name.length <= 131 for name in names)


@pytest.mark.parametrize(
    "name", ["", "1_2_3", "1_001_man_x_M_normal_angry_45_t", "1_001_man_24_a/b_normal_angry_45_t0"]
)
def test_a_wrong_name_is_an_error(name: str) -> None:
    with pytest.raises(AffuseError, match="sequence name"):
        SequenceName.parse(name)


@given(st.integers(1, 140), st.integers(1, 6), st.integers(1, 6), st.integers(0, 99))
def test_a_crop_is_every_stride_th_frame_and_loops_only_where_the_sequence_is_short(
    length: int, frames: int, stride: int, seed: int
) -> None:
    crop = temporal_crop(length, frames, stride, torch.Generator().manual_seed(seed))
    assert len(crop) == frames and min(crop) >= 0 and max(crop) < length
    run = crop[: len(set(crop))]
    assert all(b - a == stride for a, b in pairwise(run))
    assert crop == [run[i % len(run)] for i in range(frames)]
    if length > stride * (frames - 1):
        assert len(run) == frames


def test_crops_start_at_each_offset_from_0_to_the_stride() -> None:
    starts = Counter(temporal_crop(8, 1, 8)[0] for _ in range(600))
    assert set(starts) == set(range(8))  # 8 positions; an offset of 8 itself falls back on the last one
    assert {temporal_crop(20, 4, 4)[0] for _ in range(300)} == set(
        range(8)
    )  # from 0 to 3 five frames are left, so two runs


def test_official_split_keeps_the_subsets_and_names_the_shared_subjects(see: Path) -> None:
    splits = SEE(str(see), test_crops=2).splits(0)
    assert len(splits.test) == 8 * 2 and len(splits.train) == 7 and len(splits.validation) == 1
    assert not subjects_of(splits.train) & subjects_of(splits.validation)
    assert splits.facts["split"] == "official"
    assert splits.facts["subjects_shared"] == [f"{i:03d}" for i in range(8)]
    assert splits.task.classes == tuple(LABELS)
    assert not splits.synthetic


@pytest.mark.parametrize("seed", range(3))
def test_subject_disjoint_split_shares_no_subject(see: Path, seed: int) -> None:
    splits = SEE(str(see), split="subject_disjoint", test_crops=1).splits(seed)
    groups = [subjects_of(part) for part in (splits.train, splits.validation, splits.test)]
    assert sum(map(len, groups)) == len(set.union(*groups)) == 8
    assert splits.facts["subjects_shared"] == []
    assert len(splits.train) + len(splits.validation) + len(splits.test) == 16


def test_a_sample_holds_both_cameras_at_the_same_moments_normalised_as_released(see: Path) -> None:
    splits = SEE(str(see), test_crops=3).splits(0)
    sample = splits.test[1]
    assert sample.inputs["rgb"].shape == sample.inputs["event"].shape == (4, 3, 100, 100)
    assert torch.equal(sample.times_us["rgb"], sample.times_us["event"])
    numbers = (sample.times_us["rgb"] * 30 / 1e6).round()
    assert (numbers.diff() == 4).all()
    for name, base, mean, std in (("rgb", 20, 0.22616537, 0.118931554), ("event", 120, 0.504413, 0.06928615)):
        expected = ((base + 4 * numbers) / 255 - mean) / std
        torch.testing.assert_close(sample.inputs[name].mean((1, 2, 3)), expected, atol=0.12, rtol=0)
    assert sample.target == LABELS.index(sample.meta["label"]) and sample.meta["crop"] == 1
    assert Batch.collate([sample, splits.test[0]]).present.all()


def test_test_crops_repeat_and_training_crops_follow_the_global_seed(see: Path) -> None:
    def starts(source: Any, rows: range) -> list[int]:
        return [int(source[i].times_us["rgb"][0]) for i in rows]

    splits, again, other = (SEE(str(see), test_crops=20).splits(seed) for seed in (0, 0, 1))
    first = starts(splits.test, range(40))
    assert first == starts(again.test, range(40)) != starts(other.test, range(40))
    assert len(set(first[:20])) > 1
    assert [splits.test[i].meta["crop"] for i in range(20)] == list(range(20))
    torch.manual_seed(0)
    drawn = [starts(splits.train, range(7)) for _ in range(3)]
    torch.manual_seed(0)
    assert drawn == [starts(splits.train, range(7)) for _ in range(3)]
    assert drawn[0] != drawn[1] or drawn[1] != drawn[2]


def test_skipped_sequences_are_counted_named_and_stop_the_run_where_too_many(tmp_path: Path) -> None:
    document = write_see(tmp_path)
    first, second, third = list(document["database"])[:3]
    document["database"][first]["annotations"]["segment"] = [0, 0]
    label = document["database"][second]["annotations"]["label"]
    for path in (tmp_path / "event" / label / second).iterdir():
        path.unlink()
    (tmp_path / "event" / label / second).rmdir()
    (tmp_path / "frame" / document["database"][third]["annotations"]["label"] / third / "00003.jpg").unlink()
    (tmp_path / "emotion.json").write_text(json.dumps(document))
    with pytest.raises(AffuseError, match="2 of 16 sequences cannot be used"):
        SEE(str(tmp_path)).splits(0)
    facts = SEE(str(tmp_path), max_bad_fraction=0.2).splits(0).facts
    assert facts["bad"] == 2
    assert facts["bad_names"] == [f"{first}: the segment ends at 0", f"{second}: no folder event/{label}/{second}"]
    assert facts["bad_frames"] == {"missing": 1, "in one camera only": 1}


def test_a_link_to_nothing_is_a_missing_frame(tmp_path: Path) -> None:
    document = write_see(tmp_path)
    name = next(iter(document["database"]))
    frame = tmp_path / "frame" / document["database"][name]["annotations"]["label"] / name / "00003.jpg"
    frame.unlink()
    frame.symlink_to("nowhere.jpg")
    assert SEE(str(tmp_path)).splits(0).facts["bad_frames"] == {"missing": 1, "in one camera only": 1}


def test_a_picture_of_absurd_size_is_one_clear_error(tmp_path: Path) -> None:
    picture = bytearray(cv2.imencode(".png", np.zeros((4, 4, 3), np.uint8))[1].tobytes())
    picture[16:24] = struct.pack(">II", 60_000, 60_000)
    picture[29:33] = struct.pack(">I", zlib.crc32(picture[12:29]))
    (tmp_path / "big.png").write_bytes(picture)
    with pytest.raises(AffuseError, match="not a readable image"):
        read_image(tmp_path / "big.png")


def test_a_world_that_says_so_is_labelled_synthetic(see: Path, tmp_path: Path) -> None:
    for kind in ("event", "frame"):
        (tmp_path / kind).symlink_to(see / kind)
    document = json.loads((see / "emotion.json").read_text())
    (tmp_path / "emotion.json").write_text(json.dumps({**document, "synthetic": True}))
    splits = SEE(str(tmp_path)).splits(0)
    assert splits.synthetic and "synthetic" in splits.facts["name"]


def test_defaults_are_the_published_protocol() -> None:
    config = SEE("anywhere")
    assert (config.split, config.test_crops) == ("official", 20)
    assert (SEE_CLIP.frames, SEE_CLIP.stride, SEE_CLIP.size, SEE_CLIP.fps) == (4, 4, 100, 30.0)
