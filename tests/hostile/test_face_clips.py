"""Clips of faces and their lists that are broken, incomplete or malicious: one clear line each, and doctor names them."""

import importlib.util
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from affuse import AffuseError
from affuse.data.clip_folder import ClipFolder
from affuse.data.dfew import DFEW
from affuse.data.dfew_files import read_dfew_list
from affuse.data.expression_lists import read_list
from affuse.doctor import doctor
from affuse.doctor_data import Finding
from affuse.doctor_faces import check_clip_folder, check_dfew, check_expression_lists
from affuse.signals.face_input import FaceInput

SMALL = FaceInput(frames=2, size=16)
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"


@pytest.fixture(scope="module")
def face_files() -> ModuleType:
    path = Path(__file__).parents[1] / "data" / "face_files.py"
    spec = importlib.util.spec_from_file_location("face_files", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def dfew(tmp_path: Path, face_files: ModuleType) -> Path:
    """All five folds, two clips a class in each test part, and every clip as a folder of two pictures."""
    root = tmp_path / "dfew"
    clips = {1 + 14 * fold + k: k % 7 for fold in range(5) for k in range(14)}
    for fold in range(5):
        test = {number: target for number, target in clips.items() if (number - 1) // 14 == fold}
        train = {number: target for number, target in clips.items() if number not in test}
        face_files.write_csv_lists(root, {"train": train, "test": test}, fold + 1)
    for number in clips:
        face_files.write_pictures(root / "Clip" / "clip_224x224" / f"{number:05d}", ["1.jpg", "2.jpg"], size=8)
    (root / "SYNTHETIC").touch()
    return root


def said(findings: list[Finding], severity: str) -> list[str]:
    return [finding.what for finding in findings if finding.severity == severity]


def test_doctor_has_nothing_to_say_of_a_whole_folder_and_counts_it(dfew: Path) -> None:
    counts: dict[str, Any] = {}
    assert check_dfew(dfew, counts) == []
    assert counts["clips"] == {"frames": 70}
    assert counts["folds"]["5"]["test"] == dict.fromkeys(counts["folds"]["5"]["test"], 2)


def test_doctor_names_every_bad_clip_of_dfew(dfew: Path) -> None:
    frames = dfew / "Clip" / "clip_224x224"
    (frames / "00001" / "2.jpg").write_bytes(b"")
    (frames / "00002" / "1.jpg").write_bytes(POINTER)
    (frames / "00003" / "1.jpg").write_bytes(b"\xff\xd8\xff no picture")
    shutil.rmtree(frames / "00004")
    for file in (frames / "00005").iterdir():
        file.unlink()
    found = "\n".join(said(check_dfew(dfew), "error"))
    for words in (
        "1 of 70 listed clips are missing: 4",
        "zero length among its images: 00001",
        "a Git LFS pointer among its images: 00002",
        "its first frame cannot be decoded: 00003",
        "no image in the folder: 00005",
    ):
        assert words in found, found


def test_doctor_finds_clips_that_stand_in_two_parts(dfew: Path) -> None:
    lists = dfew / "EmoLabel_DataSplit"
    with (lists / "test(single-labeled)" / "set_2.csv").open("a") as file:
        file.write("1,1\n1,1\n")
    findings = check_dfew(dfew)
    errors = "\n".join(said(findings, "error"))
    assert "fold 2: 1 clips stand in train and test: 1" in errors and "set_2.csv: 1 clips are listed twice: 1" in errors
    assert "1 clips stand in the test part of several folds: 1" in "\n".join(said(findings, "warning"))


def test_doctor_says_which_folds_are_lacking_and_which_lists_are_parts(dfew: Path) -> None:
    (dfew / "SYNTHETIC").unlink()
    (dfew / "EmoLabel_DataSplit" / "test(single-labeled)" / "set_4.csv").unlink()
    findings = check_dfew(dfew)
    assert "no list of fold 4, test" in said(findings, "info")[0]
    assert "fold 1 lists 56/14 clips; the published lists have 9356/2341" in said(findings, "warning")[0]
    assert "no list of fold 1" in said(check_dfew(dfew / "Clip"), "error")[0]


def test_doctor_checks_sixteen_frames_and_videos(tmp_path: Path, face_files: ModuleType) -> None:
    face_files.write_csv_lists(tmp_path, {"train": {1: 0, 2: 1}, "test": {3: 0, 4: 1}})
    for number in (1, 2, 3, 4):
        face_files.write_pictures(tmp_path / "clip_224x224_16f" / f"{number:05d}", ["1.jpg"])
    face_files.write_video(tmp_path / "original" / "1.mp4", [face_files.picture(9)])
    (tmp_path / "original" / "2.mp4").write_bytes(b"no video")
    (tmp_path / "original" / "3.mp4").write_bytes(b"")
    counts: dict[str, Any] = {}
    findings = check_dfew(tmp_path, counts)
    errors = "\n".join(said(findings, "error"))
    assert counts["clips"] == {"frames_16": 4, "original": 3}
    assert "cannot be decoded: 2.mp4" in errors and "zero length: 3.mp4" in errors and "are missing: 4" in errors
    assert "4 folders do not hold 16 pictures" in "\n".join(said(findings, "warning"))


def test_doctor_checks_plain_folders_and_lists(tmp_path: Path, face_files: ModuleType) -> None:
    for name in ("train/a/1", "train/b/1", "test/a/2"):
        face_files.write_pictures(tmp_path / name, ["1.jpg"])
    (tmp_path / "train" / "a" / "bad.mp4").write_bytes(b"no video")
    (tmp_path / "one.txt").write_text("train/a/1 a\ntest/a/2 a\n")
    (tmp_path / "two.txt").write_text("train/a/1 a\nnone/7 b\n")
    counts: dict[str, Any] = {}
    findings = check_clip_folder(tmp_path, counts)
    assert counts == {"train": {"a": 2, "b": 1}, "test": {"a": 1, "b": 0}}
    assert "no clip of b" in said(findings, "warning")[0] and "train/a/bad.mp4" in said(findings, "error")[0]
    findings = check_expression_lists(tmp_path)
    assert "two.txt: 1 of 2 clips are missing: none/7" in said(findings, "error")[0]
    assert "1 clips stand in several lines" in said(findings, "warning")[0]
    assert {finding["severity"] for finding in doctor("clip_folder", tmp_path)["findings"]} >= {"error"}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "lists no clip"),
        (b"video_name,label\n", "lists no clip"),
        (b"video_name,label\n1,8\n", "line 2: label 8; 7 classes run from 1 to 7"),
        (b"video_name,label\n1,0\n", "label 0"),
        (b"1,glee\n", "label 'glee' is none of happy"),
        (b"a.mp4,1\n", "does not end in the number of a clip"),
        (b"1,1,1,1\n", "expected 'path label'"),
        (b"1\n", "expected 'path label'"),
        (b"1,x,1\n", "the number of frames is 'x'"),
        (b'"1,1\n', "line 1"),
        (POINTER, "Git LFS pointer"),
        (b"\xff\xfe\x00\x01", "not a text file"),
        (b"1,1\0\n", "no line of a list"),
        (b"1" * 5000 + b",1\n", "no line of a list"),
        ("²,1\n".encode(), "does not end in the number"),
    ],
)
def test_a_wrong_list_is_one_line(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "set_1.csv"
    path.write_bytes(content)
    with pytest.raises(AffuseError) as caught:
        read_dfew_list(path)
    assert words in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 400


@given(st.binary(max_size=300))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_list_does_more_than_fail_in_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "list.txt"
    path.write_bytes(content)
    try:
        clips = read_list(path)
    except AffuseError as error:
        assert str(error).startswith(str(path))
    else:
        assert clips and all(clip.name and clip.label for clip in clips)


def test_two_files_of_one_number_are_refused(dfew: Path, face_files: ModuleType) -> None:
    face_files.write_pictures(dfew / "Clip" / "clip_224x224" / "1", ["1.jpg"])
    with pytest.raises(AffuseError, match="00001 and 1 are the same clip"):
        DFEW(str(dfew), input=SMALL).splits(0)


def test_a_clip_that_cannot_be_decoded_says_so_when_it_is_read(tmp_path: Path, face_files: ModuleType) -> None:
    for name in ("a/1", "a/2", "a/3", "b/1", "b/2", "b/3"):
        face_files.write_pictures(tmp_path / name, ["1.jpg", "2.jpg"])
    for name in ("a/4", "b/4"):
        (tmp_path / f"{name}.avi").write_bytes(b"RIFF no video")
    splits = ClipFolder(str(tmp_path), input=SMALL, validation_share=0.3, test_share=0.3).splits(0)
    sources = (splits.train, splits.validation, splits.test)
    failures = 0
    for source in sources:
        for index in range(len(source)):
            try:
                source[index]
            except AffuseError as error:
                failures += 1
                assert "4.avi" in str(error) and "\n" not in str(error)
    assert failures == 2


def test_a_damaged_picture_of_a_clip_is_a_frame_without_a_face(tmp_path: Path, face_files: ModuleType) -> None:
    for name in ("a/1", "a/2", "a/3", "b/1", "b/2", "b/3"):
        folder = face_files.write_pictures(tmp_path / name, ["1.jpg", "2.jpg"])
        (folder / "2.jpg").write_bytes((folder / "2.jpg").read_bytes()[:-30])
    splits = ClipFolder(str(tmp_path), input=SMALL, validation_share=0.3, test_share=0.3).splits(0)
    face = splits.test[0].inputs["face"]
    assert face.isnan().all((1, 2, 3)).tolist() == [False, True] and not face[0].isnan().any()
