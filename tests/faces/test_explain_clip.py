"""explain over a clip: the evidence lies where the face is, and at the times of the clip."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from affuse import AffuseError, cli, explain, runs
from affuse.explain_clip import explain_clip
from affuse.overlay import FrameAnswer, Layout, draw, heat_on_frame, write_video
from affuse.signals import landmarks
from affuse.signals.video import read_video
from affuse.types import Batch, Sample

GREY = np.full((60, 80, 3), 90, np.uint8)


@pytest.fixture(scope="module")
def run(made, tmp_path_factory: pytest.TempPathFactory) -> runs.Run:
    return made.write_run(tmp_path_factory.mktemp("runs") / "step", "--system.causal", "true")


def test_heat_returns_to_the_place_of_the_face() -> None:
    # A crop of 40 x 40 around (100, 50), turned by 30 degrees and enlarged to 80 x 80.
    turn, scale, size = np.deg2rad(30), 2.0, 80
    rotation = scale * np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    matrix = np.column_stack([rotation, [(size - 1) / 2] * 2 - rotation @ [100, 50]])
    heat = np.zeros((8, 8), np.float32)
    heat[1, 6] = 1  # right of the middle and above it, in the crop
    found = heat_on_frame(heat, matrix, size, 200, 120)
    y, x = np.unravel_index(found.argmax(), found.shape)
    expected = np.linalg.solve(rotation, np.array([6.5, 1.5]) / 8 * size - 0.5 - matrix[:, 2])
    assert np.hypot(*(np.array([x, y]) - expected)) < 1
    assert found[:20].max() == 0 and found[:, :60].max() == 0  # nothing outside of the crop


def test_an_overlay_shows_face_heat_and_answer_and_leaves_the_rest_alone() -> None:
    layout = Layout.of(80, 60)
    plain = draw(GREY, FrameAnswer(0), ("a", "b"), layout)
    assert plain.shape == (layout.height, layout.width + layout.panel, 3)
    assert layout.height % 2 == 0 and (layout.width + layout.panel) % 2 == 0
    heat, matrix = np.ones((4, 4), np.float32), np.array([[1.0, 0, -40], [0, 1, -20]])
    answer = FrameAnswer(0, "ok", "b 90 %", (0.1, 0.9), (40, 20, 16, 16), heat, matrix, 16)
    shown = draw(GREY, answer, ("a", "b"), layout)
    changed = (shown != plain).any(-1)
    scale = layout.height / 60
    y, x = np.nonzero(changed[:, : layout.width])
    assert abs(x.min() - 40 * scale) < 3 * scale and abs(x.max() - 56 * scale) < 3 * scale
    assert abs(y.min() - 20 * scale) < 3 * scale and abs(y.max() - 36 * scale) < 3 * scale
    assert changed[:, layout.width :].any()


def test_a_video_plays_at_the_times_of_its_pictures(tmp_path: Path) -> None:
    times = [0, 40_000, 80_000, 300_000, 333_333, 900_000]
    shades = [20, 60, 100, 140, 180, 220]
    pictures = [(time, np.full((48, 64, 3), shade, np.uint8)) for time, shade in zip(times, shades, strict=True)]
    assert write_video(tmp_path / "made.mp4", iter(pictures)) == 6
    read = list(read_video(tmp_path / "made.mp4"))
    np.testing.assert_allclose([frame.time_us for frame in read], times, atol=20)
    np.testing.assert_allclose([frame.image.mean() for frame in read], shades, atol=4)


@pytest.mark.parametrize(
    ("pictures", "says"),
    [([(0, GREY), (0, GREY)], "does not come after"), ([(0, GREY), (1, GREY[:40])], "among 80 x 60")],
)
def test_a_video_of_unlike_pictures_is_refused_and_leaves_no_file(tmp_path: Path, pictures: list, says: str) -> None:
    with pytest.raises(AffuseError, match=says):
        write_video(tmp_path / "made.mp4", pictures)
    assert not list(tmp_path.iterdir())


def test_grad_cam_leaves_frames_without_a_face_cold(run: runs.Run) -> None:
    face = torch.randn(6, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    face[[1, 4]] = torch.nan
    batch = Batch.collate([Sample({"face": face}), Sample({"face": face[:5]})], run.system.modalities)
    heat = explain.grad_cam(run.system, batch, "face")
    assert bool((heat[:, [1, 4]] == 0).all()) and bool((heat[1, 5] == 0).all())
    assert bool((heat[0, [0, 2, 3, 5]].amax((1, 2)) > 0).any())


def clip_of(real_data: Path, path: Path) -> Path:
    """A face that comes late into a short video: a picture moved about, at 20 frames a second."""
    source = real_data / "faces" / "single_face.jpg"
    if not source.is_file():
        pytest.skip("no picture single_face.jpg")
    picture = cv2.imread(str(source))
    picture = cv2.resize(
        picture, (240, 240 * picture.shape[0] // picture.shape[1] // 2 * 2), interpolation=cv2.INTER_AREA
    )
    video = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 20, picture.shape[1::-1])
    for number in range(30):
        video.write(np.roll(picture, number // 2, axis=1) if number >= 10 else np.full_like(picture, 90))
    video.release()
    return path


def leave_behind(folder: Path, *names: str) -> list[Path]:
    """Files as an earlier explanation may have left them in the folder."""
    folder.mkdir()
    for name in names:
        (folder / name).write_bytes(b"old")
    return [folder / name for name in names]


def test_explain_writes_pictures_numbers_and_a_video_at_the_clips_own_times(
    real_data: Path, tmp_path: Path, run: runs.Run, capsys: pytest.CaptureFixture[str]
) -> None:
    clip, out = clip_of(real_data, tmp_path / "late.mp4"), tmp_path / "why"
    assert cli.main(["explain", str(run.path), str(clip), "--out", str(out), "--detect-every", "3"]) == 0
    assert capsys.readouterr().out.startswith("ok: ")
    found = json.loads((out / "explain.json").read_text())
    assert {path.name for path in out.iterdir()} == {"explain.json", "window-1.png", "timeline.png", "overlay.mp4"}
    (window,) = found["windows"]
    assert 450_000 < window["start_us"] == found["faces"]["first_us"] and window["stop_us"] == 1_450_000
    assert sum(window["heat_share"]) == pytest.approx(1, abs=1e-3) and len(window["probability"]) == 8
    assert window["probability"][-1] == pytest.approx(window["probabilities"][window["label"]], abs=1e-5)
    assert min(step["stop_us"] for step in found["steps"]) > window["start_us"]
    statuses = [place["status"] for place in found["track"]]
    assert statuses[:10] == ["no face"] * 10 and statuses[-1] == "ok"
    shown, plain = list(read_video(out / "overlay.mp4")), list(read_video(clip))
    assert [frame.time_us for frame in shown] == pytest.approx([frame.time_us for frame in plain], abs=100)
    strip = cv2.imread(str(out / "window-1.png"))
    assert strip.shape[1] > 8 * 100 and strip.std() > 20


def test_a_picture_is_explained_by_pictures_and_its_action_units(real_data: Path, tmp_path: Path, made) -> None:
    source = real_data / "faces" / "single_face.jpg"
    if not source.is_file():
        pytest.skip("no picture single_face.jpg")
    known, why = landmarks.available()
    leave_behind(tmp_path / "why", "timeline.png", "overlay.mp4", "window-1.png", "window-7.png")
    found = explain_clip(made.write_run(tmp_path / "window"), source, tmp_path / "why", finding={"landmarks": known})
    files = {path.name for path in (tmp_path / "why").iterdir()}
    assert found["still"] and files == {"explain.json", "window-1.png", "overlay.png"}
    if not known:
        pytest.skip(why)
    assert found["action_units"]["AU12"]["most"] > 0.5  # he smiles


def test_a_clip_without_a_face_is_explained_by_its_absence(tmp_path: Path, run: runs.Run) -> None:
    write_video(tmp_path / "grey.mp4", ((40_000 * number, GREY) for number in range(5)))
    leave_behind(tmp_path / "why", "timeline.png", "overlay.png", "window-1.png", "notes.txt")
    found = explain_clip(run, tmp_path / "grey.mp4", tmp_path / "why")
    assert found["status"] == "no face" and found["windows"] == []
    assert {path.name for path in (tmp_path / "why").iterdir()} == {"explain.json", "overlay.mp4", "notes.txt"}


@pytest.mark.parametrize("name", ["overlay.mp4", "."])
def test_an_explanation_never_replaces_what_it_explains(tmp_path: Path, run: runs.Run, name: str) -> None:
    clip = tmp_path / "why" / name
    write = leave_behind(tmp_path / "why", "000001.png", "window-1.png")
    write_video(tmp_path / "why" / "overlay.mp4", ((40_000 * number, GREY) for number in range(5)))
    for file in write:
        cv2.imwrite(str(file), GREY)
    before = {path: path.read_bytes() for path in (tmp_path / "why").iterdir()}
    with pytest.raises(AffuseError, match="--out"):
        explain_clip(run, clip, tmp_path / "why")
    assert {path: path.read_bytes() for path in (tmp_path / "why").iterdir()} == before
