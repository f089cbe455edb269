"""Faces found once and kept: the same faces, found again only where something changed."""

import os
import shutil
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest
import torch

from affuse import AffuseError
from affuse.cli import main
from affuse.data.clip_folder import ClipFolder
from affuse.data.clip_index import ClipFile
from affuse.data.face_cache import FaceCache
from affuse.data.face_clips import FaceClips
from affuse.data.face_preparation import prepare, prepare_data_set
from affuse.signals.face import FacePipeline
from affuse.signals.face_input import FaceInput

FACES = Path(os.environ.get("AFFUSE_DATA", Path(__file__).parents[2] / "../shared/data")) / "faces"
needs_faces = pytest.mark.skipif(not FACES.is_dir(), reason="AFFUSE_DATA holds no folder faces")
PIPELINE = FacePipeline(size=48, bilateral=False)
SPEC = FaceInput(frames=4, size=32, pipeline=PIPELINE)


@pytest.fixture
def clips(tmp_path: Path, face_files: ModuleType) -> Path:
    """Two labels of three clips: folders of one face, of which one holds a frame without it."""
    face = cv2.imread(str(FACES / "single_face.jpg"))
    side = 200 / max(face.shape[:2])
    face = cv2.resize(face, None, fx=side, fy=side, interpolation=cv2.INTER_AREA)
    for name in ("happy/1", "happy/2", "happy/3", "sad/1", "sad/2", "sad/3"):
        (tmp_path / "clips" / name).mkdir(parents=True)
        for number in range(1, 4):
            empty = name == "sad/2" and number == 1
            picture = np.full_like(face, 90) if empty else face
            cv2.imwrite(str(tmp_path / "clips" / name / f"{number}.jpg"), picture)
    return tmp_path / "clips"


def listed(clips: Path) -> list[ClipFile]:
    paths = sorted(clips.glob("*/*"))
    return [ClipFile(f"{p.parent.name}/{p.name}", int(p.parent.name == "sad"), p, 25.0) for p in paths]


@needs_faces
def test_prepared_faces_are_those_that_would_be_found(clips: Path, tmp_path: Path) -> None:
    done = prepare(listed(clips), PIPELINE, tmp_path / "out", clips)
    assert (done.count, done.reused, done.failed, done.frames, done.without_face) == (6, 0, (), 18, 1)
    assert done.frames_per_second > 0
    cache = FaceCache(tmp_path / "out", clips, PIPELINE)
    fresh, kept = FaceClips(listed(clips), SPEC), FaceClips(listed(clips), SPEC, cache=cache)
    for index in (0, 4):
        one, other = fresh[index], kept[index]
        assert torch.equal(one.inputs["face"].nan_to_num(7), other.inputs["face"].nan_to_num(7))
        assert one.times_us["face"].tolist() == other.times_us["face"].tolist() == [0, 40_000, 40_000, 80_000]
    assert kept[4].inputs["face"].isnan().all((1, 2, 3)).tolist() == [True, False, False, False]


@needs_faces
def test_an_interrupted_preparation_goes_on_where_it_stopped(clips: Path, tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(listed(clips), PIPELINE, tmp_path / "out", clips, progress=interrupt)
    again = prepare(listed(clips), PIPELINE, tmp_path / "out", clips)
    assert (again.count, again.reused) == (4, 2)
    assert not list((tmp_path / "out").rglob("*.part"))


@needs_faces
def test_what_changed_is_found_again_and_other_settings_are_kept_apart(clips: Path, tmp_path: Path) -> None:
    prepare(listed(clips), PIPELINE, tmp_path / "out", clips)
    shutil.copyfile(clips / "happy/1/1.jpg", clips / "sad/2/1.jpg")
    changed = prepare(listed(clips), PIPELINE, tmp_path / "out", clips)
    assert (changed.count, changed.reused, changed.without_face) == (1, 5, 0)
    moved = tmp_path / "moved"
    shutil.move(clips, moved)
    assert prepare(listed(moved), PIPELINE, tmp_path / "out", moved).reused == 6
    other = FacePipeline(size=32, bilateral=False)
    with pytest.raises(AffuseError, match="no faces prepared with these settings"):
        FaceCache(tmp_path / "out", moved, other).require()
    assert prepare(listed(moved)[:1], other, tmp_path / "out", moved).count == 1


@needs_faces
def test_a_clip_that_cannot_be_read_is_named_and_counted_by_the_data_set(clips: Path, tmp_path: Path) -> None:
    (clips / "sad" / "4.mp4").write_bytes(b"no video at all")
    words = {"input.pipeline.size": "48", "validation_share": "0.3", "test_share": "0.3"}
    done = prepare_data_set("clip_folder", clips, tmp_path / "out", words)
    assert done.count == 6 and len(done.failed) == 1 and "4.mp4" in done.failed[0]
    shares = {"validation_share": 0.3, "test_share": 0.3}
    settings = {"input": FaceInput(frames=2, size=32, pipeline=FacePipeline(size=48)), "cache": str(tmp_path / "out")}
    with pytest.raises(AffuseError, match=r"1 of 7 recordings cannot be used \(first: sad/4: .*4\.mp4"):
        ClipFolder(str(clips), **settings, **shares).splits(0)  # type: ignore[arg-type]


@needs_faces
def test_the_verb_prepares_in_several_processes_and_says_how_fast(
    clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    typed = ["data", "prepare", "clip_folder", str(clips), str(tmp_path / "out"), "--workers", "2"]
    settings = ["--data.input.pipeline.size", "48", "--data.input.pipeline.bilateral=false"]
    assert main([*typed, *settings]) == 0
    said = capsys.readouterr().out
    assert "6 clips prepared, 0 were before" in said and "frames/s" in said and "--data.cache" in said
    cache = FaceCache(tmp_path / "out", clips, PIPELINE)
    assert all(cache.has(clip.path) for clip in listed(clips) if clip.path is not None)
    assert main([*typed[:-1], "1", *settings]) == 0
    assert "0 clips prepared, 6 were before" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        (["dfwe", "."], "did you mean 'dfew'"),
        (["clip_folder", "none", "--data.input.pipeline.detector", "haar"], "none: no such folder"),
        (["clip_folder", ".", "--data.imput.size", "48"], "no setting 'imput.size'"),
        (["clip_folder", ".", "--data.input.pipeline.detector", "eyes"], "detector"),
        (["eyes", "."], "eyes"),
    ],
)
def test_what_cannot_be_prepared_is_one_line(
    tmp_path: Path, typed: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    name, root, *rest = typed
    assert main(["data", "prepare", name, root, str(tmp_path / "out"), *rest]) == 1
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1 and not (tmp_path / "out").exists()


def test_pictures_that_are_faces_already_need_no_preparation(
    tmp_path: Path, face_files: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a/1", "a/2", "a/3", "b/1", "b/2", "b/3"):
        face_files.write_pictures(tmp_path / name, ["1.jpg"])
    shares = ["--data.validation_share=0.3", "--data.test_share=0.3"]
    assert main(["data", "prepare", "clip_folder", str(tmp_path), str(tmp_path / "out"), *shares]) == 1
    assert "faces already" in capsys.readouterr().err


def test_a_damaged_file_of_the_cache_is_passed_over(tmp_path: Path) -> None:
    clip = tmp_path / "1.mp4"
    clip.write_bytes(b"video")
    cache = FaceCache(tmp_path / "out", tmp_path, PIPELINE)
    cache.begin()
    file = cache.file_of(clip)
    file.parent.mkdir(parents=True)
    for content in (b"", b"PK\x03\x04 cut short", b"\x80\x04pickle"):
        file.write_bytes(content)
        assert cache.load(clip) is None
    whole = {
        "crops": np.zeros(4, np.uint8),
        "stops": np.array([4]),
        "times_us": np.array([0]),
        "found": np.array([True]),
    }
    for wrong in ({"stops": np.array([9])}, {"crops": np.array([{"a": 1}], object)}, {"found": np.array([], bool)}):
        with file.open("wb") as stream:
            np.savez(stream, allow_pickle=True, size=np.int64(8), **{**whole, **wrong})  # type: ignore[arg-type]
        assert cache.load(clip) is None


@needs_faces
def test_a_link_to_nothing_is_a_lost_frame_or_a_clip_that_cannot_be_read(clips: Path, tmp_path: Path) -> None:
    (clips / "happy" / "1" / "2.jpg").unlink()
    (clips / "happy" / "1" / "2.jpg").symlink_to("nowhere.jpg")
    (clips / "happy" / "0.mp4").symlink_to("nowhere.mp4")
    done = prepare(listed(clips)[:3], FacePipeline(size=48), tmp_path / "out", clips)
    assert (done.count, done.reused, done.frames, done.without_face) == (2, 0, 6, 1)
    assert done.failed == ("happy/0.mp4: cannot be read (No such file or directory)",)
