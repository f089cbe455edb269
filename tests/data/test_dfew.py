import os
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest
import torch

from affuse import AffuseError, Batch
from affuse.data.dfew import DFEW
from affuse.data.dfew_files import CLASSES, SIZES, find_list, read_dfew_list
from affuse.signals.face_input import FaceInput

LISTS = Path(os.environ.get("AFFUSE_DATA", Path(__file__).parents[2] / "../shared/data")) / "annotations" / "dfew"
needs_lists = pytest.mark.skipif(not LISTS.is_dir(), reason="AFFUSE_DATA holds no lists of DFEW")
SMALL = FaceInput(frames=4, size=16, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


def grays(face: torch.Tensor) -> list[int]:
    """The gray of each frame, to the tens, as `face_files.write_pictures` numbers them."""
    return [round(value / 10) for value in (face.mean((1, 2, 3)) * 255).tolist()]


@needs_lists
def test_the_lists_that_everybody_uses_are_read_whole() -> None:
    lists = {part: read_dfew_list(find_list(LISTS, 1, part)) for part in ("train", "test")}
    assert tuple(len(listed.targets) for listed in lists.values()) == SIZES[1]
    assert not any(listed.repeated for listed in lists.values())
    test = Counter(lists["test"].targets.values())
    assert [test[index] for index in range(7)] == [489, 379, 534, 435, 294, 29, 181]
    second = read_dfew_list(find_list(LISTS, 2, "test"))
    assert set(second.targets) <= set(lists["train"].targets)  # what one fold tests, the others train on


@pytest.mark.parametrize("form", ["frames", "frames_16", "avi", "original", "bare"])
@pytest.mark.parametrize("lists", ["csv", "txt"])
def test_each_form_and_each_list_gives_the_same_clips(
    tmp_path: Path, face_files: ModuleType, form: str, lists: str
) -> None:
    parts = face_files.small_parts()
    if lists == "csv":
        face_files.write_csv_lists(tmp_path, parts)
    else:
        face_files.write_txt_lists(tmp_path, parts)
    for number in (*parts["train"], *parts["test"]):
        if form == "frames":  # five digits, and a gap where no face was found
            names = [f"{number:05d}_{frame:05d}.jpg" for frame in (1, 2, 3, 7, 8, 9)]
            face_files.write_pictures(tmp_path / "Clip" / "clip_224x224" / f"{number:05d}", names)
        elif form == "frames_16":
            names = [f"{frame}.jpg" for frame in range(1, 17)]
            face_files.write_pictures(tmp_path / "clip_224x224_16f" / f"{number:05d}", names)
        elif form == "bare":
            face_files.write_pictures(tmp_path / f"{number:05d}", ["1.jpg", "2.jpg"])
        else:
            where = f"clip_224x224_avi/{number:05d}.avi" if form == "avi" else f"original/{number}.mp4"
            frames = [face_files.picture(10 * (k + 1)) for k in range(6)]
            face_files.write_video(tmp_path / "DFEW-part2" / "Clip" / where, frames)
    wanted = "original" if form == "original" else "auto"
    splits = DFEW(str(tmp_path), form=wanted, input=SMALL, validation_share=0.5).splits(0)  # type: ignore[arg-type]
    assert splits.facts["counts"] == {"train": 7, "validation": 7, "test": 7}
    assert splits.facts["form"] == (form if form != "bare" else "a folder of clips")
    assert splits.task.classes == CLASSES
    sample = splits.test[3]
    assert sample.target == 3 and sample.meta["id"] == "02004" and sample.inputs["face"].shape == (4, 3, 16, 16)
    expected = {"frames_16": [3, 7, 11, 15], "bare": [1, 1, 2, 2]}.get(form, [1, 3, 4, 6])
    assert grays(sample.inputs["face"]) == expected
    clocks = {
        "frames": [0, 80_000, 240_000, 320_000],  # the third picture is frame 3, the fourth frame 7
        "bare": [0, 0, 40_000, 40_000],
        "avi": [0, 200_000, 300_000, 500_000],
        "original": [0, 200_000, 300_000, 500_000],
    }
    assert {name: t.tolist() for name, t in sample.times_us.items()} == (
        {} if form == "frames_16" else {"face": clocks[form]}
    )


def write_small(root: Path, face_files: ModuleType, train_each: int = 2, without: tuple[int, ...] = ()) -> None:
    parts = face_files.small_parts(train_each)
    face_files.write_csv_lists(root, parts)
    for number in {*parts["train"], *parts["test"]} - set(without):
        face_files.write_pictures(root / "clip_224x224" / f"{number:05d}", ["1.jpg"])


def test_a_clip_that_is_listed_and_missing_is_named_and_too_many_stop(tmp_path: Path, face_files: ModuleType) -> None:
    write_small(tmp_path, face_files, train_each=3, without=(5, 2004))
    with pytest.raises(AffuseError, match=r"2 of 28 recordings cannot be used \(first: 00005: missing\)"):
        DFEW(str(tmp_path), input=SMALL).splits(0)
    splits = DFEW(str(tmp_path), input=SMALL, max_bad_fraction=0.1).splits(0)
    assert splits.facts["bad_names"] == ["00005: missing", "02004: missing"]
    assert splits.facts["counts"]["test"] == 6


def test_validation_is_drawn_by_class_and_seed_and_a_missing_clip_moves_none(
    tmp_path: Path, face_files: ModuleType
) -> None:
    write_small(tmp_path / "whole", face_files, train_each=10)
    write_small(tmp_path / "less", face_files, train_each=10, without=(9,))

    def validation(root: Path, seed: int) -> set[str]:
        found = DFEW(str(root), input=SMALL, validation_share=0.2, max_bad_fraction=0.1).splits(seed)
        assert isinstance(found.facts["counts_by_class"], dict)
        return {clip.name for clip in found.validation.clips}  # type: ignore[attr-defined]

    splits = DFEW(str(tmp_path / "whole"), input=SMALL, validation_share=0.2).splits(0)
    assert set(splits.facts["counts_by_class"]["validation"].values()) == {2}
    assert validation(tmp_path / "whole", 0) != validation(tmp_path / "whole", 1)
    assert validation(tmp_path / "less", 0) == validation(tmp_path / "whole", 0) - {"00009"}


def test_a_clip_in_both_parts_of_a_fold_is_refused(tmp_path: Path, face_files: ModuleType) -> None:
    parts = face_files.small_parts()
    parts["test"][1] = 0
    face_files.write_txt_lists(tmp_path, parts)
    face_files.write_pictures(tmp_path / "1", ["1.jpg"])
    with pytest.raises(AffuseError, match=r"1 clips are listed twice \(first: 1\)"):
        DFEW(str(tmp_path), input=SMALL).splits(0)


def test_films_are_not_taken_for_faces_without_a_pipeline(tmp_path: Path, face_files: ModuleType) -> None:
    face_files.write_csv_lists(tmp_path, face_files.small_parts())
    face_files.write_video(tmp_path / "Clip" / "original" / "1.mp4", [face_files.picture(9)])
    with pytest.raises(AffuseError, match=r"set .*data\.form and data\.input\.pipeline"):
        DFEW(str(tmp_path), input=SMALL).splits(0)


def test_a_batch_of_dfew_knows_its_targets_before_anything_is_decoded(tmp_path: Path, face_files: ModuleType) -> None:
    write_small(tmp_path, face_files)
    test = DFEW(str(tmp_path), input=SMALL).splits(0).test
    assert test.targets == list(range(7))  # type: ignore[attr-defined]
    batch = Batch.collate([test[0], test[1]])
    assert batch.inputs["face"].shape == (2, 4, 3, 16, 16) and batch.target is not None
    assert batch.target.tolist() == [0, 1] and batch.times_us["face"].shape == (2, 4)


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"fold": 6}, "fold is 1 to 5"), ({"validation_share": 0.0}, "validation_share"), ({"fps": 0.0}, "fps")],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, float], words: str) -> None:
    with pytest.raises(AffuseError, match=words):
        DFEW("anywhere", **settings)  # type: ignore[arg-type]
