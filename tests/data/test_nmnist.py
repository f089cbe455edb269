import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from affuse import AffuseError, Batch
from affuse.data.nmnist import NMNIST, count_images
from affuse.signals.events import Events, read_events

REAL = Path(os.environ.get("AFFUSE_DATA", Path(__file__).parents[2] / "../shared/data")) / "nmnist"
PARTS = ("train", "validation", "test")
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="AFFUSE_DATA holds no nmnist folder")


def write_recording(path: Path, t_us: np.ndarray, x: np.ndarray, y: np.ndarray, on: np.ndarray) -> None:
    """N-MNIST's five bytes an event: x, y, then polarity and 23 bits of big-endian microseconds."""
    rest = (on.astype(np.uint32) << 23) | t_us.astype(np.uint32)
    columns = [x, y, (rest >> 16) & 255, (rest >> 8) & 255, rest & 255]
    path.write_bytes(np.stack([column.astype(np.uint8) for column in columns], axis=1).tobytes())


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("nmnist")
    random = np.random.default_rng(0)
    lines = ["#sample #class"]
    for name in range(60):
        t_us = np.sort(random.integers(0, 300_000, 200))
        write_recording(
            root / f"{name}.bs2",
            t_us,
            random.integers(0, 34, 200),
            random.integers(0, 34, 200),
            random.integers(0, 2, 200),
        )
        lines.append(f"{name}\t{name % 10}")
    (root / "labels.txt").write_text("\n".join(lines) + "\n")
    return root


def test_splits_are_disjoint_stratified_and_follow_the_seed(small: Path) -> None:
    first, again, other = (NMNIST(str(small), holdout=0.2).splits(seed) for seed in (0, 0, 1))
    names = {part: [getattr(first, part)[i].meta["id"] for i in range(len(getattr(first, part)))] for part in PARTS}
    everything = [name for part in PARTS for name in names[part]]
    assert len(everything) == len(set(everything)) == 60
    assert set(Counter(first.test[i].target for i in range(len(first.test))).values()) == {1}
    assert [again.test[i].meta["id"] for i in range(len(again.test))] == names["test"]
    assert [other.test[i].meta["id"] for i in range(len(other.test))] != names["test"]
    assert not first.synthetic


@pytest.mark.parametrize(("polarity", "channels"), [("split", 4), ("signed", 2)])
def test_sample_has_the_event_camera_only(small: Path, polarity: str, channels: int) -> None:
    config = NMNIST(str(small), frames=3, bins=2, polarity=polarity, size=40)  # type: ignore[arg-type]
    sample = config.splits(0).train[0]
    assert list(sample.inputs) == ["event"]
    assert sample.inputs["event"].shape == (3, config.channels, 40, 40) == (3, channels, 40, 40)
    batch = Batch.collate([sample], ["rgb", "event"])
    assert batch.present.tolist() == [[False, True]]


def test_count_images_put_each_event_in_its_window_polarity_and_pixel() -> None:
    t_us = torch.tensor([0.0, 149_999.0, 150_000.0, 299_999.0, 310_000.0])
    x = torch.tensor([1.0, 2.0, 3.0, 4.0, 40.0])
    y = torch.tensor([5.0, 6.0, 7.0, 8.0, 9.0])
    images = count_images(t_us, x, y, torch.tensor([0, 1, 0, 1, 1]), frames=1, bins=2)
    assert images.sum() == 4  # the one beyond the sensor is left out
    expected = [(0, 0, 5, 1), (0, 2, 6, 2), (0, 1, 7, 3), (0, 3, 8, 4)]
    assert sorted(tuple(i) for i in images.nonzero().tolist()) == sorted(expected)


def test_only_training_is_augmented(small: Path) -> None:
    splits = NMNIST(str(small)).splits(0)
    assert not torch.equal(splits.train[0].inputs["event"], splits.train[0].inputs["event"])
    assert torch.equal(splits.test[0].inputs["event"], splits.test[0].inputs["event"])
    plain = NMNIST(str(small), augment=False).splits(0)
    assert torch.equal(plain.train[0].inputs["event"], plain.train[0].inputs["event"])


def test_augmentation_follows_the_global_seed_and_keeps_polarity(small: Path) -> None:
    splits = NMNIST(str(small), max_dropout=0.0).splits(0)
    torch.manual_seed(3)
    first = splits.train[0].inputs["event"]
    torch.manual_seed(3)
    assert torch.equal(first, splits.train[0].inputs["event"])
    plain = NMNIST(str(small), augment=False).splits(0).train[0].inputs["event"]
    moved, still = (images.expm1().sum((0, 2, 3)) for images in (first, plain))  # events by polarity
    assert (moved <= still + 1e-3).all() and (moved > 0.7 * still).all()


def test_unreadable_recordings_are_counted_named_and_stop_the_run_where_too_many(small: Path, tmp_path: Path) -> None:
    for path in small.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "7.bs2").unlink()
    with pytest.raises(AffuseError, match=r"1 of 60 .*7: no file"):
        NMNIST(str(tmp_path), max_bad_fraction=0.0).splits(0)
    facts = NMNIST(str(tmp_path), max_bad_fraction=0.1).splits(0).facts
    assert facts["bad"] == 1 and facts["bad_names"][0].startswith("7:")


def test_a_recording_from_elsewhere_gives_the_sample_that_the_data_set_would(small: Path) -> None:
    config = NMNIST(str(small))
    known = config.splits(0).test[0]
    [sample] = config.event_clips(read_events(small / f"{known.meta['id']}.bs2"))
    assert torch.equal(sample.inputs["event"], known.inputs["event"]) and sample.target is None
    empty = np.zeros(0, np.int64)
    assert config.event_clips(Events(empty, empty, empty, empty, 34, 34)) == []
    with pytest.raises(AffuseError, match="346 x 260"):
        config.event_clips(Events(empty, empty, empty, empty, 346, 260))


@needs_real
def test_real_recordings_leave_a_tenth_out() -> None:
    splits = NMNIST(str(REAL)).splits(0)
    counts = splits.facts["counts"]
    assert sum(counts.values()) == 1000 and 95 <= counts["test"] <= 105 and counts["train"] >= 800
    images = torch.stack([splits.test[i].inputs["event"] for i in range(20)])
    assert 0.01 < (images > 0).float().mean() < 0.9
