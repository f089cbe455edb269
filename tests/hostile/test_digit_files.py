"""Damaged, lying and foreign files of the digit data sets give one clear line each, or are counted."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from affuse import AffuseError
from affuse.data.fsdd import read_fsdd
from affuse.data.mnist_dvs import decode_dvs128, find_mnist_dvs, read_screen_digit
from affuse.data.ntidigits import MAX_SPIKES, read_ntidigits


def one_line(call: Callable[[], Any], *words: str) -> None:
    with pytest.raises(AffuseError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message and len(message) < 600
    assert not [word for word in words if word not in message], message


def ntidigits(path: Path, **columns: Any) -> Path:
    """A file of one recording a split, whose training columns can be replaced; None leaves one out."""
    sound = {"addresses": np.array([1, 2], np.uint16), "timestamps": np.array([0.1, 0.2])} | columns
    with h5py.File(path, "w") as tree:
        for split in ("train", "test"):
            tree[f"{split}_labels"] = [b"man-ae-1"]
            for kind, column in sound.items():
                if column is not None:
                    tree[f"{split}_{kind}/man-ae-1"] = column
    return path


@pytest.mark.parametrize(
    ("columns", "word"),
    [
        ({"addresses": None}, "train_addresses/man-ae-1"),
        ({"timestamps": np.array([0.1])}, "2 addresses and 1 times"),
        ({"timestamps": np.array([0.1, np.nan])}, "not finite"),
        ({"timestamps": np.array([-1.0, 1.0])}, "no seconds"),
        ({"timestamps": np.array([0.0, 1e9])}, "no seconds"),
        ({"addresses": np.array([1, 64])}, "channels 0 to 63"),
        ({"addresses": np.array([b"a", b"b"])}, "no column of numbers"),
        ({"addresses": np.zeros((2, 2))}, "no column of numbers"),
    ],
)
def test_bad_columns_of_ntidigits_are_named(tmp_path: Path, columns: dict[str, Any], word: str) -> None:
    path = ntidigits(tmp_path / "n.hdf5", **columns)
    one_line(lambda: read_ntidigits(path), "2 of 2", word)
    found, bad = read_ntidigits(path, 1.0)
    assert not found and len(bad) == 2


def test_a_recording_that_claims_too_many_spikes_is_not_read_into_memory(tmp_path: Path) -> None:
    path = tmp_path / "huge.hdf5"
    with h5py.File(path, "w") as tree:
        for split in ("train", "test"):
            tree[f"{split}_labels"] = [b"man-ae-1"]
            for kind in ("addresses", "timestamps"):
                tree.create_dataset(f"{split}_{kind}/man-ae-1", (MAX_SPIKES * 1000,), "f8", chunks=(1024,))
    one_line(lambda: read_ntidigits(path), "more than a digit has")


def test_files_that_are_no_ntidigits_are_refused(tmp_path: Path) -> None:
    one_line(lambda: read_ntidigits(tmp_path / "none.hdf5"), "no such file")
    one_line(lambda: read_ntidigits(tmp_path), "0 HDF5 files")
    (tmp_path / "text.hdf5").write_text("version https://git-lfs.github.com/spec/v1\n")
    one_line(lambda: read_ntidigits(tmp_path / "text.hdf5"), "no HDF5 file")
    with h5py.File(tmp_path / "other.hdf5", "w") as tree:
        tree["x"] = [1, 2]
    one_line(lambda: read_ntidigits(tmp_path / "other.hdf5"), "train_labels")
    whole = ntidigits(tmp_path / "whole.hdf5").read_bytes()
    (tmp_path / "cut.hdf5").write_bytes(whole[: len(whole) // 2])
    one_line(lambda: read_ntidigits(tmp_path / "cut.hdf5"), "cut short")


def test_fsdd_counts_what_it_cannot_read_and_stops_where_it_is_too_much(tmp_path: Path) -> None:
    one_line(lambda: read_fsdd(tmp_path / "none"), "no such folder")
    one_line(lambda: read_fsdd(tmp_path), "7_jackson_12.wav")
    for name in ("1_ann_0.wav", "2_ann_0.wav"):
        (tmp_path / name).write_bytes(b"RIFF" if name[0] == "1" else b"")
    one_line(lambda: read_fsdd(tmp_path), "2 of 2")
    found, bad = read_fsdd(tmp_path, 1.0)
    assert not found and len(bad) == 2


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"", "no event"),
        (b"#!AER-DAT2.0", "within its header"),
        (b"#!AER-DAT2.0\r\n", "no event"),
        (b"#!AER-DAT2.0\r\n" + bytes(9), "cut within an event"),
        (b"#!AER-DAT3.1\r\n" + bytes(8), "version 3"),
        (b"#!AER-DAT2.0\n" + bytes(7) + b"\x09" + bytes(7) + b"\x01", "backwards"),
    ],
)
def test_bad_dvs128_files_are_named(tmp_path: Path, data: bytes, word: str) -> None:
    path = tmp_path / "mnist_0_scale04_0001.aedat"
    path.write_bytes(data)
    one_line(lambda: read_screen_digit(path), path.name, word)


@settings(max_examples=200)
@given(st.binary(max_size=200), st.sampled_from([b"", b"#!AER-DAT1.0\n", b"#!AER-DAT2.0\r\n# x\r\n"]))
def test_any_bytes_give_sound_events_or_one_line(body: bytes, head: bytes) -> None:
    try:
        events = decode_dvs128(head + body, "file")
    except AffuseError as error:
        assert "\n" not in str(error)
        return
    assert len(events) + events.dropped == len(body) // (8 if b"2.0" in head else 6) or body.startswith(b"#")


def test_a_folder_without_mnist_dvs_or_with_a_recording_twice_is_refused(tmp_path: Path) -> None:
    one_line(lambda: find_mnist_dvs(tmp_path / "none", 4), "no such folder")
    one_line(lambda: find_mnist_dvs(tmp_path, 4), "scale 4")
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mnist_0_scale04_0001.aedat").write_bytes(b"")
    one_line(lambda: find_mnist_dvs(tmp_path, 4), "keep one of them")
