import os
from collections import Counter
from fractions import Fraction
from pathlib import Path

import av
import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from affuse import AffuseError
from affuse.data.ave import AVE, read_rows, read_split, shared_videos
from affuse.data.sound_and_frames import FrameSpec, SoundSpec
from affuse.doctor import doctor, has_errors

REAL = Path(os.environ.get("AFFUSE_DATA", Path(__file__).parents[2] / "../shared/data")) / "annotations" / "ave"
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="AFFUSE_DATA holds no annotations of AVE")
ROWS = [
    "Male speech, man speaking&aaa&good&0&10",
    "Bark&bbb&good&0&2",
    "Bark&ccc&good&1&2",
    "Male speech, man speaking&ccc&good&0&1",
    "Bark&ddd&good&0&2",
]


def write_mp4(path: Path, seconds: int = 2) -> None:
    """Dark and silent in the first second, bright and loud in the second."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=Fraction(10))
        video.width, video.height, video.pix_fmt = 48, 32, "yuv420p"
        sound = container.add_stream("aac", rate=16_000)
        sound.layout = "mono"
        for number in range(10 * seconds):
            image = np.full((32, 48, 3), 220 if number >= 10 else 30, np.uint8)
            container.mux(video.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        t = np.arange(16_000 * seconds)
        tone = (0.5 * np.sin(t * 0.2) * (t >= 16_000)).astype(np.float32)
        frame = av.AudioFrame.from_ndarray(tone[None], format="fltp", layout="mono")
        frame.sample_rate = 16_000
        container.mux(sound.encode(frame))
        container.mux(sound.encode())
        container.mux(video.encode())


def write_ave(root: Path, rows: tuple[list[str], ...] = (ROWS[:3], ROWS[3:4], ROWS[4:])) -> Path:
    (root / "AVE").mkdir(parents=True)
    write_mp4(root / "AVE" / "aaa.mp4")
    for name in ("bbb", "ccc", "ddd"):
        (root / "AVE" / f"{name}.mp4").write_bytes((root / "AVE" / "aaa.mp4").read_bytes())
    for file, part in zip(("trainSet.txt", "valSet.txt", "testSet.txt"), rows, strict=True):
        (root / file).write_text("\n".join(part) + "\n")
    (root / "Annotations.txt").write_text("Category&VideoID&Quality&StartTime&EndTime\n" + "\n".join(ROWS))
    for file, order in (("train", [4, 0, 2]), ("val", [1]), ("test", [3])):
        with h5py.File(root / f"{file}_order.h5", "w") as h5:
            h5["order"] = np.array(order)
    return root


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_ave(tmp_path_factory.mktemp("made") / "ave")


def test_categories_keep_their_commas_and_repeated_ids_are_two_samples(small: Path) -> None:
    splits = AVE(str(small)).splits(0)
    assert splits.task.classes == ("Bark", "Male speech, man speaking")
    assert splits.facts["counts"] == {"train": 3, "validation": 1, "test": 1}
    assert splits.facts["videos"] == 4 and splits.facts["videos_repeated"] == 1
    assert splits.facts["videos_shared_by_parts"] == {"train/validation": 1, "train/test": 0, "validation/test": 0}
    assert splits.facts["subjects_shared"] == ["ccc"]
    names = [clip.name for part in (splits.train, splits.validation) for clip in part._clips]  # type: ignore[attr-defined]
    assert names == ["0000_aaa", "0001_bbb", "0002_ccc", "0003_ccc"]


def test_shared_videos_can_be_dropped_from_training(small: Path) -> None:
    facts = AVE(str(small), drop_shared=True).splits(0).facts
    assert facts["counts"] == {"train": 2, "validation": 1, "test": 1}
    assert facts["dropped_as_shared"] == 1 and facts["subjects_shared"] == []


def test_h5_orders_are_rows_of_the_annotations(small: Path) -> None:
    rows = read_split(small, "h5")
    assert [row.row for row in rows["train"]] == [4, 0, 2] and rows["test"][0].video == "ccc"
    assert AVE(str(small), split="h5").splits(0).facts["counts"] == {"train": 3, "validation": 1, "test": 1}


def test_the_segment_bounds_sound_and_frames_alike(small: Path) -> None:
    spec = FrameSpec(fps=10.0, count=3, size=8, mean=(0.0,) * 3, std=(1.0,) * 3, augment=False)
    sound = SoundSpec(seconds=1.0)
    event = AVE(str(small), segment="event", frames=spec, sound=sound).splits(0)
    loud, silent = event.train[2], event.validation[0]  # ccc from 1 to 2 s, and ccc from 0 to 1 s
    assert loud.meta["event_s"] == [1, 2] and loud.inputs["video"].shape == (3, 3, 8, 8)
    assert loud.inputs["video"].mean() > 0.8 and silent.inputs["video"].mean() < 0.2
    assert loud.inputs["audio"].max() > 0 > silent.inputs["audio"][..., :40].max()
    whole = AVE(str(small), frames=spec, sound=sound).splits(0).validation[0].inputs["video"].mean((1, 2, 3))
    assert whole[0] < 0.2 and whole[-1] > 0.8


def test_an_event_without_length_is_read_whole_and_counted(tmp_path: Path) -> None:
    root = write_ave(tmp_path / "a", (["Bark&aaa&good&0&0"], ROWS[3:4], ROWS[4:]))
    whole, event = (
        AVE(str(root), segment=segment, modalities=("audio",)).splits(0)
        for segment in ("whole", "event")  # type: ignore[arg-type]
    )
    assert event.facts["events_without_length"] == 1
    assert torch.equal(whole.train[0].inputs["audio"], event.train[0].inputs["audio"])


def test_one_modality_can_be_read_alone(small: Path) -> None:
    assert list(AVE(str(small), modalities=("audio",)).splits(0).test[0].inputs) == ["audio"]


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("Bark&bbb&good&0", "expected 'Category"),
        ("Bark&bbb&good&0&2&3", "expected 'Category"),
        ("Bark&../../x&good&0&2", "expected 'Category"),
        ("Bark&bbb&good&-1&2", "expected 'Category"),
        ("Bark&bbb&good&5&4", "from 5 to 4"),
        ("Bark&bbb&good&0&11", "from 0 to 11"),
    ],
)
def test_a_wrong_row_is_an_error_with_its_line(tmp_path: Path, line: str, named: str) -> None:
    (tmp_path / "rows.txt").write_text(f"{ROWS[0]}\n{line}\n")
    with pytest.raises(AffuseError, match=f"line 2.*{named}"):
        read_rows(tmp_path / "rows.txt")


@settings(max_examples=60)
@given(st.binary(max_size=200))
def test_any_bytes_are_rows_or_one_error(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.txt"
    path.write_bytes(content)
    try:
        assert read_rows(path)
    except AffuseError as error:
        assert "\n" not in str(error)


def test_an_order_that_names_a_row_twice_or_none_is_an_error(tmp_path: Path) -> None:
    root = write_ave(tmp_path / "a")
    for order, named in (([3, 3], "twice"), ([5], "row 5"), ([-1], "row -1")):
        with h5py.File(root / "test_order.h5", "w") as h5:
            h5["order"] = np.array(order)
        with pytest.raises(AffuseError, match=named):
            read_split(root, "h5")
    (root / "test_order.h5").write_bytes(b"no hdf5")
    with pytest.raises(AffuseError, match="no HDF5 file"):
        read_split(root, "h5")


def test_stubs_and_missing_videos_are_named_by_reader_and_doctor(tmp_path: Path) -> None:
    root = write_ave(tmp_path / "a")
    assert not has_errors(doctor("ave", root))
    (root / "AVE" / "bbb.mp4").write_text("version https://git-lfs.github.com/spec/v1\noid x\n")
    (root / "AVE" / "ddd.mp4").unlink()
    with pytest.raises(AffuseError, match=r"2 of 5 clips .*AVE/bbb.mp4: a Git LFS pointer.*git lfs pull"):
        AVE(str(root)).splits(0)
    text = " ".join(f["what"] for f in doctor("ave", root)["findings"] if f["severity"] == "error")
    assert "a Git LFS pointer: AVE/bbb.mp4" in text and "missing: AVE/ddd.mp4" in text


@needs_real
def test_the_real_annotations_hold_what_is_published() -> None:
    rows = read_rows(REAL / "Annotations.txt")
    assert len(rows) == 4143 and len({row.category for row in rows}) == 28
    assert {row.quality for row in rows} == {"good"}
    assert 0 < sum(row.start_s == row.stop_s for row in rows) < 10
    repeated = [n for n in Counter(row.video for row in rows).values() if n > 1]
    assert sorted(repeated) == [2] * 44 + [3]
    assert len({(row.video, row.category) for row in rows}) == 4143
    split = read_split(REAL, "h5")
    assert [len(group) for group in split.values()] == [3339, 402, 402]
    shared = {name: len(videos) for name, videos in shared_videos(split).items()}
    assert shared["train/validation"] == 10 and shared["train/test"] == 8


def test_frames_of_training_are_drawn_from_the_global_seed(small: Path) -> None:
    splits = AVE(str(small), modalities=("video",), frames=FrameSpec(fps=10.0, count=2, size=8)).splits(0)
    torch.manual_seed(0)
    first = splits.train[0].inputs["video"]
    torch.manual_seed(0)
    assert torch.equal(first, splits.train[0].inputs["video"])
