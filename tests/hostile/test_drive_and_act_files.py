"""Annotations of Drive&Act that are broken, incomplete or malicious give one clear line each."""

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from affuse import AffuseError
from affuse.data.drive_and_act import DriveAndAct
from affuse.data.drive_and_act_chunks import read_chunks

HEAD = "participant_id,file_id,annotation_id,frame_start,frame_end,activity,chunk_id"
FILE = "vp1/run1b_2018-05-29-14-02-47.kinect_color"
ROW = f"1,{FILE},1,58,82,drinking,0"


def one_line(call: Callable[[], Any], *words: str) -> None:
    with pytest.raises(AffuseError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message and len(message) < 600
    assert not [word for word in words if word not in message], message


def test_a_missing_and_an_empty_folder_are_named(tmp_path: Path) -> None:
    one_line(lambda: DriveAndAct(str(tmp_path / "none")).splits(0), str(tmp_path / "none"), "data.root")
    one_line(lambda: DriveAndAct(str(tmp_path)).splits(0), "activities_3s", "no such file", "data.annotations")


@pytest.mark.parametrize(
    ("row", "named"),
    [
        (f"1,{FILE},1,58,82,drinking", "6 fields below 7"),
        (f"1,{FILE},1,58,82,drinking,0,7", "8 fields below 7"),
        (f"x,{FILE},1,58,82,drinking,0", "participant_id is a whole number"),
        (f"1,{FILE},1,-3,82,drinking,0", "frame_start is a whole number"),
        (f"1,{FILE},1,58,8.5,drinking,0", "frame_end is a whole number"),
        (f"1,{FILE},1,58,\u0664,drinking,0", "frame_end is a whole number"),
        (f"1,{FILE},1,58,99999999999999999999,drinking,0", "frame_end is a whole number"),
        (f"1,{FILE},1,82,58,drinking,0", "the end lies before the start"),
        (f"2,{FILE},1,58,82,drinking,0", "participant 2, but the file is of vp1"),
        ("1,vp01/run1.kinect_color,1,58,82,drinking,0", "participant 1, but the file is of vp01"),
        ("1,vp1/../../etc/passwd.kinect_color,1,58,82,drinking,0", "file_id"),
        ("1,/vp1/run1.kinect_color,1,58,82,drinking,0", "file_id"),
        ("1,vp1/run1,1,58,82,drinking,0", "file_id"),
        (f"1,{FILE},1,58,82,,0", "must be named"),
        (f"1,{FILE},1,58,82,{'a' * 300},0", "must be named"),
        (ROW, "stands twice"),
        ('1,"vp1', "not a csv file"),
    ],
)
def test_a_wrong_row_is_an_error_with_its_line(tmp_path: Path, row: str, named: str) -> None:
    (tmp_path / "a.csv").write_text(f"{HEAD}\n{ROW}\n{row}\n")
    one_line(lambda: read_chunks(tmp_path / "a.csv"), "line 3", named)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"", "lists no chunk"),
        (HEAD.encode(), "lists no chunk"),
        (b"a,b\n1,2\n", "no column participant_id"),
        (b"version https://git-lfs.github.com/spec/v1\noid x\n", "git lfs pull"),
        (b"\xff\xfe\x00", "not a text file"),
        (f"{HEAD}\n1,\0,1".encode(), "line 2"),
        (HEAD.encode() + b"," + b"x" * 200_000, "not a csv file"),
    ],
)
def test_a_file_of_another_kind_is_one_error(tmp_path: Path, content: bytes, named: str) -> None:
    (tmp_path / "a.csv").write_bytes(content)
    one_line(lambda: read_chunks(tmp_path / "a.csv"), str(tmp_path / "a.csv"), named)


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "a.csv").open("wb") as file:
        file.truncate(2**30)
    one_line(lambda: read_chunks(tmp_path / "a.csv"), "larger than 64 MiB")


@settings(max_examples=80)
@given(st.binary(max_size=120), st.booleans())
def test_any_bytes_are_chunks_or_one_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, headed: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.csv"
    path.write_bytes((f"{HEAD}\n{ROW}\n".encode() if headed else b"") + content)
    try:
        assert read_chunks(path)
    except AffuseError as error:
        assert "\n" not in str(error)


@settings(max_examples=80)
@given(st.lists(st.text(max_size=12), min_size=7, max_size=7))
def test_any_fields_are_a_chunk_or_one_error(tmp_path_factory: pytest.TempPathFactory, fields: list[str]) -> None:
    path = tmp_path_factory.getbasetemp() / "fields.csv"
    text = io.StringIO()
    csv.writer(text).writerow(fields)
    path.write_text(f"{HEAD}\n{text.getvalue()}", encoding="utf-8", errors="replace")
    try:
        assert read_chunks(path)
    except AffuseError as error:
        assert "\n" not in str(error)
