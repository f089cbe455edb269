"""predict over real videos and pictures: timestamped, and nothing claimed where there is no face."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from affuse import AffuseError, cli, runs
from affuse.predict_faces import answer_faces
from affuse.signals.timed_frames import open_frames
from affuse.stream import FaceStream

# A coarser search than by default, so that the tests are quick: what is held are times.
QUICK = {"detect_every": 4}


@pytest.fixture(scope="module")
def run(made, tmp_path_factory: pytest.TempPathFactory) -> runs.Run:
    return made.write_run(tmp_path_factory.mktemp("runs") / "window")


@pytest.fixture(scope="module")
def causal(made, tmp_path_factory: pytest.TempPathFactory) -> runs.Run:
    return made.write_run(tmp_path_factory.mktemp("runs") / "step", "--system.causal", "true")


def real(real_data: Path, name: str) -> Path:
    if not (real_data / "faces" / name).is_file():
        pytest.skip(f"no recording {name}")
    return real_data / "faces" / name


def assert_sound(record: dict) -> None:
    assert json.loads(json.dumps(record)) == record and record["status"] == "ok"
    for part in (record, *record["windows"]):
        assert part["label"] == max(part["probabilities"], key=part["probabilities"].get)
        assert sum(part["probabilities"].values()) == pytest.approx(1, abs=1e-4)
    for window in record["windows"]:
        assert window["start_us"] <= window["times_us"][0] <= window["times_us"][-1] <= window["stop_us"]
        assert len(window["valid"]) == len(window["times_us"]) and any(window["valid"])


def test_one_face_is_followed_through_a_whole_video_and_the_stream_says_the_same(
    real_data: Path, run: runs.Run, capsys: pytest.CaptureFixture[str]
) -> None:
    file = real(real_data, "single_face.mp4")
    assert cli.main(["predict", str(run.path), str(file), "--window", "1.2", "--detect-every", "4"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert_sound(record)
    assert record["faces"] == {
        "frames": 72, "found": 72, "unreadable": 0, "most": 1, "first_us": 0, "last_us": 2_366_666
    }  # fmt: skip
    spans = [(window["start_us"], window["stop_us"]) for window in record["windows"]]
    assert spans == [(0, 1_166_666), (600_000, 1_766_666), (1_200_000, 2_366_666)]
    assert record["segments"][0]["start_us"] == 0 and record["segments"][-1]["stop_us"] == 2_366_666

    from affuse.face_windows import Windowing

    stream, answers = FaceStream(run, Windowing(window_us=1_200_000), QUICK), []
    for time_us, load in open_frames(file, gray=False).frames(0):
        told = stream.push(load(), time_us)
        assert told["status"] == "ok" and told["answer"] == (answers + told["new"] or [None])[-1]
        answers += told["new"]
    assert answers + stream.end() == record["windows"]


def test_nothing_is_claimed_before_the_face_appears(real_data: Path, causal: runs.Run) -> None:
    record = answer_faces(causal, real(real_data, "noface_face.mov"), finding=QUICK)
    assert_sound(record)
    first_us = record["faces"]["first_us"]
    # The face comes in the fourth second.
    assert 3_000_000 < first_us < 4_500_000 and record["faces"]["last_us"] > 6_000_000
    assert all(window["start_us"] == first_us for window in record["windows"])
    assert record["segments"][0]["start_us"] >= first_us
    # An answer after each frame that was given (three a second), and the last one stands for the whole.
    times = [window["stop_us"] for window in record["windows"]]
    assert times == sorted(set(times)) and len(times) >= 6
    assert record["label"] == record["windows"][-1]["label"]


def test_a_video_without_a_face_says_so_and_is_no_failure(
    real_data: Path, run: runs.Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["predict", str(run.path), str(real(real_data, "no_face.mp4")), "--detect-every", "4"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["status"] == "no face" and record["reason"] == "no face in any of 95 frames"
    assert "label" not in record and "windows" not in record


@pytest.mark.parametrize("kind", ["window", "step"])
def test_a_picture_is_answered_and_says_that_nothing_moves(
    real_data: Path, run: runs.Run, causal: runs.Run, kind: str
) -> None:
    record = answer_faces({"window": run, "step": causal}[kind], real(real_data, "multi_face.jpg"))
    assert_sound(record)
    assert record["still"] and "nothing moves" in record["note"] and "segments" not in record
    assert record["faces"]["most"] > 1


def test_a_picture_without_a_face_says_so(tmp_path: Path, run: runs.Run) -> None:
    cv2.imwrite(str(tmp_path / "grey.png"), np.full((80, 80, 3), 128, np.uint8))
    assert answer_faces(run, tmp_path / "grey.png")["reason"] == "no face in the picture"


def test_a_folder_of_pictures_needs_a_clock(tmp_path: Path, run: runs.Run, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(3):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.full((80, 80, 3), 128, np.uint8))
    assert cli.main(["predict", str(run.path), str(tmp_path)]) == 1
    assert "fps" in capsys.readouterr().err
    assert cli.main(["predict", str(run.path), str(tmp_path), "--fps", "25"]) == 0
    assert json.loads(capsys.readouterr().out)["reason"] == "no face in any of 3 frames"
    # A frame that cannot be decoded keeps its place and is counted; where none can be, there is nothing to answer.
    (tmp_path / "1.png").write_bytes(b"no picture")
    assert cli.main(["predict", str(run.path), str(tmp_path), "--fps", "25"]) == 0
    assert json.loads(capsys.readouterr().out)["faces"] == {
        "frames": 3, "found": 0, "unreadable": 1, "most": 0, "first_us": None, "last_us": None
    }  # fmt: skip
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(b"no picture")
    assert cli.main(["predict", str(run.path), str(tmp_path), "--fps", "25"]) == 1
    assert "none of its 3 frames can be decoded" in capsys.readouterr().err


def test_options_of_recordings_are_refused(tmp_path: Path, run: runs.Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["predict", str(run.path), str(tmp_path), "--explain", "why.html"]) == 1
    assert "affuse explain shows why" in capsys.readouterr().err


def test_a_run_that_reads_no_faces_cannot_watch_any(made, tmp_path: Path) -> None:
    from affuse.stream import watch

    recipe = (Path(__file__).parents[2] / "recipes" / "mco_e" / "eyes.yaml").read_text()
    with pytest.raises(AffuseError, match="reads no faces"):
        watch(made.write_run(tmp_path / "eyes", recipe=recipe))
