"""Folders of clips that are broken, incomplete or malicious give one clear line each."""

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from affuse import AffuseError
from affuse.data.ave import AVE
from affuse.data.crema_d import CremaD, read_published
from affuse.data.ravdess import Ravdess, find_files, read_vectors

STUB = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
NAMES = ["01-01-03-01-01-01-01", "01-01-05-01-01-01-02"]


def one_line(call: Callable[[], Any], *words: str) -> None:
    with pytest.raises(AffuseError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message and len(message) < 600
    assert not [word for word in words if word not in message], message


def save_vectors(path: Path, **changes: Any) -> Path:
    arrays = {"ids": np.array(NAMES), "au": np.ones((2, 35), np.float32), "mfcc": np.ones((2, 259), np.float32)}
    np.savez(path, **{key: value for key, value in (arrays | changes).items() if value is not None})
    return path


@pytest.mark.parametrize("config", [Ravdess, CremaD, AVE])
def test_a_missing_and_an_empty_folder_are_named(tmp_path: Path, config: Callable[[str], Any]) -> None:
    one_line(lambda: config(str(tmp_path / "none")).splits(0), str(tmp_path / "none"), "data.root")
    one_line(lambda: config(str(tmp_path)).splits(0), str(tmp_path))


@pytest.mark.parametrize(
    "changes",
    [
        {"au": None},
        {"au": np.ones((3, 35), np.float32)},
        {"au": np.ones((2, 34), np.float32)},
        {"au": np.full((2, 35), np.nan, np.float32)},
        {"mfcc": np.ones((2, 259), np.int64)},
        {"ids": np.array([NAMES[0], NAMES[0]])},
        {"ids": np.array(["x", "y"])},
        {"ids": np.array([object(), object()])},
    ],
)
def test_vectors_of_another_schema_are_one_error(tmp_path: Path, changes: dict[str, Any]) -> None:
    one_line(lambda: read_vectors(save_vectors(tmp_path / "au_mfcc.npz", **changes)))


def test_a_header_that_claims_a_huge_array_is_refused_before_it_is_made(tmp_path: Path) -> None:
    path = save_vectors(tmp_path / "au_mfcc.npz")
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000, 35), }"
    header = header.ljust(117) + b"\n"
    lying = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    with zipfile.ZipFile(path) as file:
        kept = {name: file.read(name) for name in file.namelist()}
    with zipfile.ZipFile(path, "w") as file:
        for name, content in (kept | {"au.npy": lying}).items():
            file.writestr(name, content)
    one_line(lambda: read_vectors(path), "1000000000")


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 2000), st.integers(0, 255))
def test_a_changed_byte_gives_vectors_or_one_error(tmp_path: Path, place: int, value: int) -> None:
    content = bytearray(save_vectors(tmp_path / "whole.npz").read_bytes())
    content[place % len(content)] = value
    path = tmp_path / "au_mfcc.npz"
    path.write_bytes(content)
    try:
        assert len(read_vectors(path)["au"]) == 2
    except AffuseError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize("content", [b"", STUB, b"PK\x03\x04 not a zip"])
def test_a_file_of_vectors_that_is_none_is_one_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "au_mfcc.npz").write_bytes(content)
    one_line(lambda: read_vectors(tmp_path / "au_mfcc.npz"), "au_mfcc.npz")


def test_a_stray_sound_file_and_a_clip_twice_are_named(tmp_path: Path) -> None:
    (tmp_path / "recording.wav").write_bytes(b"x")
    one_line(lambda: find_files(tmp_path), "recording.wav", "RAVDESS name")
    (tmp_path / "recording.wav").rename(tmp_path / "03-01-03-01-01-01-01.wav")
    (tmp_path / "03-01-03-01-01-01-01.flac").write_bytes(b"x")
    one_line(lambda: find_files(tmp_path), "03-01-03-01-01-01-01.flac", "keep one")


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "lists no clip"),
        (b"1001_IEO_ANG_HI\n", "line 1"),
        (b"1001_IEO_ANG_HI,SAD\n", "says otherwise"),
        (b"1001_IEO_ANG_HI,ANG\n1001_IEO_ANG_HI,ANG\n", "line 2"),
        (b"\xff\xfe\x00bad", "not a csv"),
        (b'"1001_IEO_ANG_HI,ANG\n', ""),
        (b"../../etc_IEO_ANG_HI,ANG\n", "actor"),
    ],
)
def test_a_wrong_split_csv_is_one_error(tmp_path: Path, content: bytes, word: str) -> None:
    (tmp_path / "train.csv").write_bytes(content)
    (tmp_path / "test.csv").write_bytes(b"1001_IEO_ANG_HI,ANG\n")
    one_line(lambda: read_published(tmp_path), "train.csv", word)


def test_a_clip_in_both_parts_is_an_error(tmp_path: Path) -> None:
    for part in ("train", "test"):
        (tmp_path / f"{part}.csv").write_text("1001_IEO_ANG_HI,ANG\n")
    one_line(lambda: read_published(tmp_path), "test.csv", "train.csv", "before")


def test_a_folder_in_place_of_the_annotations_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "trainSet.txt").mkdir()
    one_line(lambda: AVE(str(tmp_path)).splits(0), "trainSet.txt")
