"""Lists, plain folders, and the videos of actors, as data for expressions."""

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from affuse import AffuseError
from affuse.data.clip_folder import ClipFolder, read_subjects
from affuse.data.expression_lists import ExpressionLists, read_list
from affuse.data.expression_videos import SIX, ExpressionVideos
from affuse.data.splits import Splits
from affuse.signals.face_input import FaceInput

SMALL = FaceInput(frames=2, size=16)
PARTS = ("train", "validation", "test")


def names(splits: Splits) -> dict[str, set[str]]:
    return {part: {clip.name for clip in getattr(splits, part).clips} for part in PARTS}


def subjects(splits: Splits) -> dict[str, set[str]]:
    return {part: {clip.meta["subject"] for clip in getattr(splits, part).clips} for part in PARTS}


def write_clips(root: Path, face_files: ModuleType, paths: list[str]) -> None:
    for path in paths:
        face_files.write_pictures(root / path, ["1.jpg", "2.jpg"], size=8)


# Lists


def write_scenes(root: Path, face_files: ModuleType) -> None:
    """Scene/Label/ID Label, comma-free, in files called .csv."""
    lines: dict[str, list[str]] = {"train_All.csv": [], "test_All.csv": []}
    for label in ("Angry", "Happy"):
        for number in range(6):
            file = "test_All.csv" if number > 3 else "train_All.csv"
            lines[file].append(f"Action/{label}/{number:04d} {label}")
            write_clips(root, face_files, [f"Action/{label}/{number:04d}"])
    for file, rows in lines.items():
        (root / file).write_text("\n".join(rows) + "\n")


def test_lists_with_the_names_of_the_labels_need_no_classes(tmp_path: Path, face_files: ModuleType) -> None:
    write_scenes(tmp_path, face_files)
    splits = ExpressionLists(str(tmp_path), "train_All.csv", "test_All.csv", input=SMALL).splits(0)
    assert splits.task.classes == ("Angry", "Happy")
    assert splits.facts["counts_by_class"]["test"] == {"Angry": 2, "Happy": 2}
    assert splits.facts["counts_by_class"]["validation"] == {"Angry": 1, "Happy": 1}
    sample = splits.test[3]
    assert sample.target == 1 and sample.meta["id"] == "Action/Happy/0005" and "face" in sample.inputs
    assert not sample.times_us  # folders of frames, and nobody said how many a second


def test_paths_of_another_machine_are_followed_as_far_as_they_exist(tmp_path: Path, face_files: ModuleType) -> None:
    write_clips(tmp_path, face_files, ["faces/7", "faces/00008", "faces/9", "other/7"])
    face_files.write_video(tmp_path / "faces" / "10.avi", [face_files.picture(9)])
    (tmp_path / "train.txt").write_text(
        "/home/me/x/faces/00007 40 0\nC:\\x\\faces\\8 40 1\n/home/me/faces/9.mp4 40 0\n"
    )
    (tmp_path / "test.txt").write_text("faces/00010.mp4 40 1\n/mnt/other/7 3 0\n")
    config = ExpressionLists(str(tmp_path), "train.txt", "test.txt", "train.txt", classes=("a", "b"), input=SMALL)
    with pytest.raises(AffuseError, match="listed twice"):
        config.splits(0)
    splits = ExpressionLists(str(tmp_path), "train.txt", "test.txt", classes=("a", "b"), input=SMALL).splits(0)
    found = {clip.path.relative_to(tmp_path).as_posix() for part in PARTS for clip in getattr(splits, part).clips}
    assert found == {"faces/7", "faces/00008", "faces/9", "faces/10.avi", "other/7"}


def test_a_list_does_not_lead_out_of_its_folder(tmp_path: Path, face_files: ModuleType) -> None:
    write_clips(tmp_path, face_files, ["secret/1", "root/1", "root/2", "root/3"])
    (tmp_path / "root" / "train.txt").write_text("1 0\n2 1\n3 0\n")
    (tmp_path / "root" / "test.txt").write_text("../secret/1 0\n")
    with pytest.raises(AffuseError, match=r"secret/1: missing"):
        ExpressionLists(str(tmp_path / "root"), "train.txt", "test.txt", classes=("a", "b"), input=SMALL).splits(0)


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("video_name,label\n1,7\n", [("1", "7", None)]),
        ("1,7\n2,1\n", [("1", "7", None), ("2", "1", None)]),
        ("\ufeffpath label\nmy clip.mp4 happy\n", [("my clip.mp4", "happy", None)]),
        ("a/b 66 5\n\na/c\t12\t3\r\n", [("a/b", "5", 66), ("a/c", "3", 12)]),
        ('"a,b/1",happy\n', [("a,b/1", "happy", None)]),
    ],
)
def test_every_form_of_a_list_is_read(tmp_path: Path, text: str, rows: list[tuple[str, str, int | None]]) -> None:
    path = tmp_path / "list"
    path.write_text(text, encoding="utf-8")
    assert [(clip.name, clip.label, clip.frames) for clip in read_list(path)] == rows


# A plain folder


def write_people(root: Path, face_files: ModuleType) -> None:
    people = ("anna", "ben", "cleo", "dan", "eve", "finn", "gus")
    write_clips(
        root, face_files, [f"{label}/{who}_{n}" for label in ("sad", "happy") for who in people for n in (1, 2)]
    )


def test_a_plain_folder_is_drawn_by_class_and_repeats_with_its_seed(tmp_path: Path, face_files: ModuleType) -> None:
    write_people(tmp_path, face_files)
    config = ClipFolder(str(tmp_path), input=SMALL, validation_share=0.25, test_share=0.25)
    splits = config.splits(0)
    assert splits.task.classes == ("happy", "sad")
    assert {part: set(found.values()) for part, found in splits.facts["counts_by_class"].items()} == {
        "train": {7},
        "validation": {4},
        "test": {3},
    }
    assert names(splits) == names(config.splits(0)) != names(config.splits(1))
    assert len(set.union(*names(splits).values())) == 28
    assert "unknown" in splits.facts["note"]


@pytest.mark.parametrize("how", ["pattern", "csv"])
def test_nobody_stands_in_two_parts_where_people_are_known(tmp_path: Path, face_files: ModuleType, how: str) -> None:
    write_people(tmp_path / "clips", face_files)
    settings: dict[str, Any] = {"subject_pattern": "^([a-z]+)_"}
    if how == "csv":
        rows = [f"{path.parent.name}/{path.name},{path.name[0]}" for path in (tmp_path / "clips").glob("*/*")]
        (tmp_path / "who.csv").write_text("\n".join(["clip,subject", *rows]))
        settings = {"subjects": str(tmp_path / "who.csv")}
    for seed in range(3):
        splits = ClipFolder(str(tmp_path / "clips"), input=SMALL, **settings).splits(seed)
        people = subjects(splits)
        assert sum(map(len, people.values())) == len(set.union(*people.values())) == 7
        assert splits.facts["subjects_shared"] == []


def test_a_listed_name_may_have_a_point_in_it(tmp_path: Path) -> None:
    (tmp_path / "subjects.csv").write_text("a/p0.0,anna\np0.1.mp4,ben\n")
    assert read_subjects(tmp_path / "subjects.csv") == {"a/p0.0": "anna", "p0.1": "ben"}


def test_people_that_the_users_own_folders_mix_are_said(tmp_path: Path, face_files: ModuleType) -> None:
    paths = [f"{part}/{label}/anna_{part}" for part in ("train", "Val", "test") for label in ("sad", "happy")]
    write_clips(tmp_path, face_files, paths)
    splits = ClipFolder(str(tmp_path), input=SMALL, subject_pattern="^[a-z]+").splits(0)
    assert splits.facts["subjects_shared"] == ["anna"]
    assert names(splits)["validation"] == {"validation/sad/anna_Val", "validation/happy/anna_Val"}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"subject_pattern": "["}, "no regular expression"),
        ({"subject_pattern": "^x", "subjects": "a.csv"}, "not from both"),
        ({"subject_pattern": "^nobody"}, "finds nobody"),
        ({"subjects": "none.csv"}, "none.csv: no such file"),
        ({"classes": ("sad", "glad")}, "no folder of the class 'glad'"),
        ({"split": "folders"}, "no folder train or test"),
        ({"validation_share": 0.6, "test_share": 0.5}, "together below 1"),
    ],
)
def test_a_plain_folder_that_cannot_be_is_one_line(
    tmp_path: Path, face_files: ModuleType, settings: dict[str, Any], words: str
) -> None:
    write_clips(tmp_path, face_files, ["sad/1", "happy/1"])
    with pytest.raises(AffuseError, match=words):
        ClipFolder(str(tmp_path), input=SMALL, **settings).splits(0)


# Actors


def write_actors(root: Path) -> None:
    """Empty folders stand for nothing: names alone decide, so each video is a few bytes."""
    root.mkdir()
    for actor in range(1, 13):
        for emotion in ("01", "02", "03", "08"):
            for modality in ("01", "02", "03"):
                suffix = "wav" if modality == "03" else "mp4"
                (root / f"{modality}-01-{emotion}-01-01-01-{actor:02d}.{suffix}").write_bytes(b"video")
        (root / f"01-02-03-01-01-01-{actor:02d}.mp4").write_bytes(b"song")


def test_actors_of_ravdess_are_in_one_part_each_and_every_fold_tests_others(tmp_path: Path) -> None:
    write_actors(tmp_path / "videos")
    tested: list[str] = []
    for fold in range(4):
        splits = ExpressionVideos(str(tmp_path / "videos"), "ravdess", fold=fold, folds=4, input=SMALL).splits(0)
        people = subjects(splits)
        assert sum(map(len, people.values())) == len(set.union(*people.values())) == 12
        tested += sorted(people["test"])
        assert splits.task.classes == SIX and sum(splits.facts["counts"].values()) == 24  # neutral and happy
    assert sorted(tested) == [f"{actor:02d}" for actor in range(1, 13)]


def test_all_emotions_and_song_of_ravdess_are_there_when_asked_for(tmp_path: Path) -> None:
    write_actors(tmp_path / "videos")
    splits = ExpressionVideos(str(tmp_path / "videos"), "ravdess", "all", song=True, input=SMALL).splits(0)
    assert splits.task.classes == (*SIX, "calm", "surprise") and sum(splits.facts["counts"].values()) == 60
    labels = {clip.name.split("-")[1]: clip.meta["label"] for clip in splits.test.clips}  # type: ignore[attr-defined]
    assert labels == {"01": "neutral", "02": "calm", "03": "happy", "08": "surprise"}


def test_videos_of_crema_d_are_split_by_actor(tmp_path: Path) -> None:
    (tmp_path / "VideoFlash").mkdir()
    for actor in range(1001, 1011):
        for code in ("ANG", "NEU"):
            (tmp_path / "VideoFlash" / f"{actor}_IEO_{code}_HI.flv").write_bytes(b"video")
    splits = ExpressionVideos(str(tmp_path), "crema_d", input=SMALL).splits(0)
    assert subjects(splits)["test"] == {"1001", "1006"}
    assert {clip.meta["label"]: clip.target for clip in splits.test.clips} == {  # type: ignore[attr-defined]
        "neutral": SIX.index("neutral"),
        "anger": SIX.index("anger"),
    }
    with pytest.raises(AffuseError, match="six emotions and no song"):
        ExpressionVideos(str(tmp_path), "crema_d", "all")
