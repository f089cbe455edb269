"""What a run says of files it has never seen: of every kind of file the modalities that it has, and no others."""

import json
import weakref
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from affuse import AffuseError, cli, runs
from affuse import predict as predict_module
from affuse.overlay import write_video
from affuse.predict import answer, predict
from affuse.recipe import load_recipe
from affuse.signals.events import Events, write_events
from affuse.signals.video import read_video
from affuse.systems import SYSTEMS
from affuse.types import Sample, Task

RECIPES = Path(__file__).parents[1] / "recipes" / "mco_e"
CLASSES = ("happiness", "sadness", "angry")


def write_run(path: Path, recipe_name: str, *overrides: str) -> Path:
    """A run with weights as drawn: what it answers is worth nothing, how it answers is the same."""
    recipe = load_recipe(RECIPES / recipe_name, overrides)
    torch.manual_seed(0)
    system = SYSTEMS[recipe.system_name](recipe.system, Task("classification", CLASSES))
    path.mkdir()
    (path / runs.RECIPE).write_text(recipe.to_yaml())
    task = {"kind": "classification", "classes": CLASSES}
    runs.write_json(path / runs.RUN, {"task": task, "status": "complete", "seconds": 0})
    runs.save_weights(system, path / runs.WEIGHTS)
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> runs.Run:
    return runs.load_run(write_run(tmp_path_factory.mktemp("runs") / "eyes", "eyes.yaml"))


def face(real_data: Path, name: str) -> Path:
    if not (real_data / "faces" / name).is_file():
        pytest.skip(f"no recording {name}")
    return real_data / "faces" / name


def write_recording(path: Path, duration_us: int, sensor: int = 64) -> Path:
    generator = np.random.default_rng(0)
    t_us = 7_000_000 + np.linspace(0, duration_us, 5000).astype(np.int64)
    x, y = generator.integers(0, sensor, (2, 5000))
    write_events(Events(t_us, x, y, generator.choice([-1, 1], 5000), sensor, sensor), path)
    return path


def assert_sound(record: dict, modalities: tuple[str, ...]) -> None:
    """An answer with its decisions, of these modalities only, and each window in its place."""
    assert json.loads(json.dumps(record)) == record
    assert record["status"] == "ok" and record["windows"]
    for part in (record, *record["windows"]):
        assert part["label"] == max(part["probabilities"], key=part["probabilities"].get)
        assert tuple(part["probabilities"]) == CLASSES
        for weights in (part["probabilities"], part["weights"]["modality"]):
            assert sum(weights.values()) == pytest.approx(1, abs=1e-4)
        assert sum(part["weights"]["expert"]) == pytest.approx(1, abs=1e-4)
        assert {name for name, weight in part["weights"]["modality"].items() if weight > 0} == set(modalities)
    clocked = [window for window in record["windows"] if "start_us" in window]
    assert all(window["start_us"] < window["stop_us"] for window in clocked)
    assert [window["start_us"] for window in clocked] == sorted({window["start_us"] for window in clocked})


def test_a_video_with_a_face_is_answered_by_both_cameras(
    real_data: Path, run: runs.Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["predict", str(run.path), str(face(real_data, "single_face.mp4"))]) == 0
    record = json.loads(capsys.readouterr().out)
    assert_sound(record, ("rgb", "event"))
    assert record["events"] == "simulated"
    assert record["windows"][0]["start_us"] == 0
    assert {window["stop_us"] - window["start_us"] for window in record["windows"]} <= set(range(480_000, 540_000))


def test_a_video_without_a_face_says_so_and_is_no_failure(
    real_data: Path, run: runs.Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["predict", str(run.path), str(face(real_data, "no_face.mp4"))]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["status"] == "no face" and "95 frames" in record["reason"]
    assert "label" not in record and "probabilities" not in record


def test_a_face_that_comes_late_is_answered_from_then_on(real_data: Path, tmp_path: Path, run: runs.Run) -> None:
    picture = cv2.imread(str(face(real_data, "single_face.jpg")))
    shrink = 240 / max(picture.shape[:2])
    picture = cv2.resize(picture, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
    height, width = (side // 2 * 2 for side in picture.shape[:2])
    video = cv2.VideoWriter(str(tmp_path / "late.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 30, (width, height))
    for number in range(60):
        video.write(picture[:height, :width] if number >= 20 else np.full((height, width, 3), 90, np.uint8))
    video.release()
    record = answer(run, tmp_path / "late.mp4")
    assert_sound(record, ("rgb", "event"))
    assert 500_000 < record["windows"][0]["start_us"] + run.recipe.data.clip.window_us < 1_000_000
    assert answer(run, tmp_path / "late.mp4") == record


def film(times_us: np.ndarray, lost: tuple[int, ...], monkeypatch: pytest.MonkeyPatch, folder: Path) -> Path:
    """A video of an eye that moves, with frames at these times; in the frames that are lost no eye was found."""
    crops = np.random.default_rng(0).integers(0, 256, (len(times_us), 64, 64, 3), np.uint8)
    found = ~np.isin(np.arange(len(times_us)), lost)
    monkeypatch.setattr("affuse.predict.read_video", lambda path: None)
    monkeypatch.setattr("affuse.predict.eye_crops", lambda frames, size: (crops, times_us, found))
    (folder / "film.mp4").touch()
    return folder / "film.mp4"


def test_nothing_is_said_of_a_hole_in_a_video(real_data: Path, tmp_path: Path, run: runs.Run) -> None:
    frames = [image for _, image in read_video(face(real_data, "single_face.mp4"))][:60]
    height, width = (side // 2 * 2 for side in frames[0].shape[:2])
    times_us = [33_333 * number + (2_000_000 if number >= 30 else 0) for number in range(60)]
    pictures = ((time, image[:height, :width]) for time, image in zip(times_us, frames, strict=True))
    write_video(tmp_path / "hole.mp4", pictures)
    record = answer(run, tmp_path / "hole.mp4")
    assert_sound(record, ("rgb", "event"))
    before = [window for window in record["windows"] if window["stop_us"] <= 1_000_000]
    after = [window for window in record["windows"] if window["start_us"] >= 2_900_000]
    assert before and after and len(before) + len(after) == len(record["windows"])


def test_a_frame_lost_now_and_then_is_no_hole(tmp_path: Path, run: runs.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, lossy = 33_333 * np.arange(90), np.delete(33_333 * np.arange(90), np.arange(5, 85, 7))
    counts = [len(answer(run, film(times, (), monkeypatch, tmp_path))["windows"]) for times in (whole, lossy)]
    assert counts[0] == counts[1] > 5


def test_a_video_that_is_nothing_but_holes_says_so(
    tmp_path: Path, run: runs.Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    times_us = 33_333 * np.arange(60) + 500_000 * (np.arange(60) // 10)
    record = answer(run, film(times_us, (), monkeypatch, tmp_path))
    assert record == {
        "status": "no answer",
        "reason": "frames are missing for up to 0.533 s, and no clip is without such a hole",
    }


@pytest.mark.parametrize("lost", range(20, 24))
def test_events_are_of_frames_with_an_eye_only(
    lost: int, tmp_path: Path, run: runs.Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    times_us = 33_333 * np.arange(90)
    record = answer(run, film(times_us, (lost,), monkeypatch, tmp_path))
    assert len(record["windows"]) > 3
    for window in record["windows"]:
        assert not window["start_us"] <= times_us[lost] <= window["stop_us"]


def test_an_eye_that_is_never_seen_through_a_whole_clip_is_no_answer(
    tmp_path: Path, run: runs.Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = answer(run, film(33_333 * np.arange(60), tuple(range(3, 60, 6)), monkeypatch, tmp_path))
    assert record["status"] == "no answer" and "50 of 60 frames, never through a whole clip" in record["reason"]


def test_a_picture_has_no_events(real_data: Path, run: runs.Run) -> None:
    record = answer(run, face(real_data, "single_face.jpg"))
    assert_sound(record, ("rgb",))
    assert record["events"] == "absent" and "start_us" not in record["windows"][0]


def test_a_picture_without_a_face_says_so(tmp_path: Path, run: runs.Run) -> None:
    cv2.imwrite(str(tmp_path / "grey.png"), np.full((80, 80, 3), 128, np.uint8))
    assert answer(run, tmp_path / "grey.png") == {"status": "no face", "reason": "no face with an eye in the picture"}


def test_an_event_recording_is_answered_by_the_event_camera_alone(tmp_path: Path, run: runs.Run) -> None:
    record = answer(run, write_recording(tmp_path / "made.npz", 1_500_000))
    assert_sound(record, ("event",))
    assert record["events"] == "recorded" and record["windows"][0]["start_us"] == 7_000_000
    assert record["windows"][-1]["stop_us"] <= 8_500_000


def test_a_recording_shorter_than_a_clip_is_no_answer(tmp_path: Path, run: runs.Run) -> None:
    record = answer(run, write_recording(tmp_path / "short.npz", 100_000))
    assert record == {"status": "no answer", "reason": "the recording lasts 0.100 s, a clip 0.533 s"}


def test_a_long_recording_is_answered_as_its_clips_are_one_by_one(
    tmp_path: Path, run: runs.Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_recording(tmp_path / "long.npz", 2_000_000)
    together = answer(run, file)
    monkeypatch.setattr("affuse.predict.CLIPS_AT_ONCE", 2)
    apart = answer(run, file)
    assert len(together["windows"]) > 4
    for one, other in zip(together["windows"], apart["windows"], strict=True):
        assert one["probabilities"] == pytest.approx(other["probabilities"], abs=1e-5)


@pytest.mark.parametrize("kind", ["video", "events"])
def test_clips_and_answers_are_held_for_a_few_clips_only(
    kind: str, tmp_path: Path, run: runs.Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    duration_us, at_once = 6_000_000, 3
    if kind == "video":
        file = film(np.arange(0, duration_us, 33_333), (), monkeypatch, tmp_path)
    else:
        file = write_recording(tmp_path / "long.npz", duration_us)
    monkeypatch.setattr("affuse.predict.CLIPS_AT_ONCE", at_once)
    make = predict_module._sample
    clips, answers, held = [], [], [(0, 0)]

    def counted(*given) -> Sample:
        sample = make(*given)
        clips.append(weakref.ref(sample))
        held.append(tuple(sum(one() is not None for one in of) for of in (clips, answers)))
        return sample

    monkeypatch.setattr("affuse.predict._sample", counted)
    hook = run.system.register_forward_hook(lambda system, given, output: answers.append(weakref.ref(output)))
    try:
        record = answer(run, file)
    finally:
        hook.remove()
    assert len(record["windows"]) == len(clips) > 20
    assert max(clips_now for clips_now, _ in held) <= at_once
    assert max(answers_now for _, answers_now in held) == 0


def test_a_run_without_the_modality_of_the_file_does_not_guess(tmp_path: Path) -> None:
    path = write_run(tmp_path / "rgb", "eyes.yaml", "--system.modalities", "[rgb]")
    (record,) = predict(path, [write_recording(tmp_path / "made.npz", 1_000_000)])
    assert record["status"] == "no answer" and "rgb" in record["reason"]


def test_a_run_of_events_alone_answers_recordings_and_refuses_frames(tmp_path: Path) -> None:
    run = runs.load_run(write_run(tmp_path / "run", "nmnist.yaml", "--data.root", str(tmp_path)))
    record = answer(run, write_recording(tmp_path / "digit.npz", 300_000, sensor=34))
    assert record["status"] == "ok" and record["events"] == "recorded"
    (tmp_path / "film.mp4").touch()
    with pytest.raises(AffuseError, match="no frames"):
        answer(run, tmp_path / "film.mp4")
