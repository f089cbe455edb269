"""A recording of several cameras: every window in its place with its decisions, and segments from them."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from affuse import AffuseError, cli, explain, predict_cameras, runs
from affuse.data.splits import Splits
from affuse.predict_cameras import WINDOWS_SHOWN, answer_recording, answer_windows, cameras_of
from affuse.recipe import Recipe, Training
from affuse.report_recording import write_page
from affuse.segment_truth import agreement, read_truth, segments_of
from affuse.segments import NO_ANSWER, Segment
from affuse.signals.camera_windows import CameraWindow
from affuse.signals.cameras import CameraSpec
from affuse.types import Batch, Output, Sample, System, Task

CAMERAS = ("rgb", "infrared", "depth")
CLASSES = ("drinking", "eating", "writing")


@dataclass(frozen=True)
class Config:
    modalities: tuple[str, ...] = CAMERAS


class Brightness(System):
    """A camera says the class that its mean brightness rounds to; the gate believes all that are there alike."""

    Config = Config
    modalities = CAMERAS

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.task = task
        self.scale = torch.nn.Parameter(torch.tensor(8.0))
        self.largest_batch = 0

    def forward(self, batch: Batch) -> Output:
        self.largest_batch = max(self.largest_batch, batch.size)
        gate = batch.present.float() / batch.present.sum(1, keepdim=True).clamp_min(1)  # b m
        answered = batch.present.any(1)
        places = torch.arange(self.task.outputs)
        unimodal, aux = {}, {}
        logits = torch.zeros(batch.size, self.task.outputs)
        for column, name in enumerate(self.modalities):
            images = batch.inputs[name]  # b t c h w
            here = batch.has(name)
            level = torch.full((batch.size,), torch.nan)
            if here.any():
                valid = images.isfinite()
                level[here] = (images.nan_to_num().sum((1, 2, 3, 4)) / valid.sum((1, 2, 3, 4)).clamp_min(1))[here]
                grid = valid.any(2).float()[:, :, ::4, ::4]  # b t y x
                aux[f"attention/{name}"] = grid / grid.sum((1, 2, 3), keepdim=True).clamp_min(1)
            own = level[:, None] if self.task.outputs == 1 else -self.scale * (level[:, None] - places) ** 2  # b c
            unimodal[name] = own
            logits = logits + gate[:, column, None] * own.nan_to_num()
        logits = torch.where(answered[:, None], logits, torch.nan)
        return Output(logits, answered, {"modality": gate}, unimodal, aux)

    def loss(self, output: Output, batch: Batch) -> dict[str, Tensor]:
        return {"total": output.logits.sum()}


@pytest.fixture
def system() -> Brightness:
    return Brightness(Task("classification", CLASSES)).eval()


def clip(start_us: int, levels: dict[str, float], frames: int = 4, lost: int = 0, span_us: int = 1_000_000) -> Sample:
    """Even grey of each camera, the first `lost` frames undecoded."""
    inputs = {}
    for name, level in levels.items():
        inputs[name] = torch.full((frames, 3 if name == "rgb" else 1, 8, 8), float(level))
        inputs[name][:lost] = torch.nan
    return Sample(inputs, meta={"start_us": start_us, "stop_us": start_us + span_us})


def everywhere(level: float) -> dict[str, float]:
    return dict.fromkeys(CAMERAS, level)


def test_each_window_says_when_what_and_why(system: Brightness) -> None:
    answer, _ = answer_windows(system, [clip(0, everywhere(0)), clip(500_000, {"rgb": 2, "depth": 1}, lost=1)])
    assert json.loads(json.dumps(answer, allow_nan=False)) == answer
    first, second = answer["windows"]
    assert (first["start_us"], first["stop_us"], first["label"]) == (0, 1_000_000, "drinking")
    assert second["unimodal"]["rgb"]["label"] == "writing" and second["unimodal"]["depth"]["label"] == "eating"
    assert "infrared" not in second["unimodal"]
    assert second["weights"]["modality"] == {"rgb": 0.5, "infrared": 0.0, "depth": 0.5}
    assert first["frames"] == dict.fromkeys(CAMERAS, 4) and second["frames"] == {"rgb": 3, "depth": 3}
    for window in answer["windows"]:
        assert sum(window["probabilities"].values()) == pytest.approx(1, abs=1e-5)


def test_two_actions_become_two_segments(system: Brightness) -> None:
    clips = [clip(n * 500_000, everywhere(0 if n < 6 else 2)) for n in range(12)]
    answer, _ = answer_windows(system, clips)
    assert [part["label"] for part in answer["segments"]] == ["drinking", "writing"]
    one, other = answer["segments"]
    assert one["start_us"] == 0 and one["stop_us"] == other["start_us"] and other["stop_us"] == 6_500_000
    assert 3_000_000 <= other["start_us"] <= 3_500_000
    assert [part.label for part in segments_of(answer, CLASSES)] == [0, 2]


def test_a_stretch_without_frames_is_no_answer_and_asks_no_system(system: Brightness) -> None:
    clips = [clip(n * 1_000_000, everywhere(1) if n != 2 else {}) for n in range(5)]
    answer, _ = answer_windows(system, clips)
    silent = answer["windows"][2]
    assert silent["label"] is None and silent["frames"] == {} and "probabilities" not in silent
    assert [part["label"] for part in answer["segments"]] == ["eating", None, "eating"]
    assert (answer["segments"][1]["start_us"], answer["segments"][1]["stop_us"]) == (2_000_000, 3_000_000)
    assert segments_of(answer, CLASSES)[1].label == NO_ANSWER


def test_no_frame_anywhere_is_no_answer(system: Brightness) -> None:
    answer, _ = answer_windows(system, [clip(0, {}), clip(500_000, {})])
    assert answer["status"] == "no answer" and "frame" in answer["reason"] and len(answer["windows"]) == 2
    answer, _ = answer_windows(system, [])
    assert answer["status"] == "no answer" and "shorter than one window" in answer["reason"]


def test_a_value_has_windows_and_no_segments() -> None:
    valued = Brightness(Task("regression", units="rad")).eval()
    answer, _ = answer_windows(
        valued, [clip(0, everywhere(0.25)), clip(500_000, {}), clip(1_000_000, everywhere(0.75))]
    )
    assert answer["value"] == pytest.approx(0.5) and answer["units"] == "rad" and "segments" not in answer
    assert [window["value"] for window in answer["windows"]] == [0.25, None, 0.75]


@pytest.mark.parametrize("count", [1, 5, 6, 7, 13, 200])
def test_windows_that_are_shown_are_few_and_spread_over_the_recording(system: Brightness, count: int) -> None:
    alive = 0
    largest = 0

    class Watched(Sample):
        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    def stream() -> Iterator[Sample]:
        nonlocal alive, largest
        for n in range(count):
            made = clip(n * 500_000, everywhere(n % 3))
            alive += 1
            largest = max(largest, alive)
            yield Watched(made.inputs, meta=made.meta)

    _, shown = answer_windows(system, stream(), shown=WINDOWS_SHOWN)
    starts = [window.record["start_us"] // 500_000 for window in shown]
    assert len(starts) == min(count, WINDOWS_SHOWN) and starts == sorted(set(starts))
    assert starts[0] == 0 and starts[-1] >= 0.6 * (count - 1)
    assert largest <= 40 and system.largest_batch <= 8
    assert float(shown[0].attention["depth"].sum()) == pytest.approx(1)
    assert shown[0].attention["depth"].shape == (4, 2, 2)


def test_nothing_is_kept_where_nothing_is_shown(system: Brightness) -> None:
    assert answer_windows(system, [clip(0, everywhere(1))])[1] == []


# A recording on disk: every camera shows the level of "drinking" for three seconds, then that of "writing".


@dataclass(frozen=True)
class Recorded:
    camera_window: CameraWindow = CameraWindow(CameraSpec(size=8, fps={"depth": 10.0}), frames=4, step_us=250_000)

    def splits(self, seed: int) -> Splits:
        raise NotImplementedError


@pytest.fixture
def run(system: Brightness, tmp_path: Path) -> runs.Run:
    recipe = Recipe("brightness", Config(), "recorded", Recorded(), Training(), {})
    return runs.Run(tmp_path, recipe, {}, system)


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("recording")
    levels = [0] * 30 + [2] * 30  # 10 frames a second
    for name in ("rgb", "infrared"):
        with av.open(str(folder / f"{name}.mp4"), "w") as container:
            stream = container.add_stream("mpeg4", rate=10)
            stream.width = stream.height = 32
            for level in levels:
                grey = np.full((32, 32, 3), min(255, round((0.5 + 0.25 * level) * 255)), np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(grey, "rgb24")))
            container.mux(stream.encode())
    metres = np.array([1.5 + 0.75 * level for level in levels])
    np.save(folder / "depth.npy", np.broadcast_to((metres * 1000)[:, None, None], (60, 16, 16)).astype(np.uint16))
    return {"rgb": folder / "rgb.mp4", "infrared": folder / "infrared.mp4", "depth": folder / "depth.npy"}


def test_files_of_three_cameras_become_windows_and_segments(run: runs.Run, recording: dict[str, Path]) -> None:
    answer, shown = answer_recording(run, recording, shown=2)
    assert [window["start_us"] for window in answer["windows"]] == list(
        range(0, 500_000 * len(answer["windows"]), 500_000)
    )
    assert {window["stop_us"] - window["start_us"] for window in answer["windows"]} == {1_000_000}
    assert [answer["segments"][end]["label"] for end in (0, -1)] == ["drinking", "writing"]
    first, last = answer["windows"][0], answer["windows"][-2]
    assert {name: part["label"] for name, part in first["unimodal"].items()} == dict.fromkeys(CAMERAS, "drinking")
    assert {name: part["label"] for name, part in last["unimodal"].items()} == dict.fromkeys(CAMERAS, "writing")
    assert 2_500_000 <= next(part["stop_us"] for part in answer["segments"]) <= 3_500_000
    assert len(shown) == 2 and set(shown[0].sample.times_us) == set(CAMERAS)


def test_a_camera_that_is_left_out_is_absent(run: runs.Run, recording: dict[str, Path]) -> None:
    answer, _ = answer_recording(run, {"infrared": recording["infrared"]}, hop_us=900_000)
    assert answer["weights"]["modality"] == {"rgb": 0.0, "infrared": 1.0, "depth": 0.0}
    assert [window["start_us"] for window in answer["windows"]][:2] == [0, 1_000_000]  # a multiple of the step
    assert all(set(window["frames"]) <= {"infrared"} for window in answer["windows"])


@pytest.fixture
def loaded(run: runs.Run, monkeypatch: pytest.MonkeyPatch) -> runs.Run:
    """The run that commands find, whatever its name."""
    monkeypatch.setattr(runs, "load_run", lambda path, overrides=(): run)
    return run


def test_the_command_prints_one_line_and_writes_the_page(
    loaded: runs.Run,
    recording: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    files = [f"{name}={path}" for name, path in recording.items()]
    page = tmp_path / "why.html"
    truth = tmp_path / "truth.csv"
    truth.write_text("start_us,stop_us,label\n0,3000000,drinking\n3000000,6000000,writing\n")
    arguments = [
        "--truth",
        str(truth),
        "--hop",
        "0.5",
        "--minimum",
        "1",
        "--median",
        "0.3",
        "--threshold",
        "0.4",
        "--explain",
        str(page),
    ]
    assert cli.main(["predict", "RUN", *files, *arguments]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1
    answer = json.loads(lines[0])
    assert answer["files"] == {name: str(path) for name, path in recording.items()}
    assert [part["label"] for part in answer["segments"]] == ["drinking", "writing"]
    assert answer["metrics"]["edit"] == 1 and answer["metrics"]["f1_50"] == 1
    assert 0.9 < answer["metrics"]["frame_accuracy"] <= 1 and answer["metrics"]["frames"] == 181
    assert "Attention over the frames" in page.read_text()


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["thermal=a.mp4"], "no such camera; this run has the cameras rgb, infrared, depth"),
        (["rgb=a.mp4", "b.mp4"], "either files or cameras"),
        (["rgb=a.mp4", "rgb=b.mp4"], "given twice"),
        (["a.mp4", "--hop", "1"], "--hop is for a recording of cameras"),
        (["rgb=a.mp4", "--hop", "-1"], "--hop is a number of seconds"),
        (["rgb=a.mp4", "--threshold", "2"], "threshold"),
        (["rgb=nowhere.mp4"], "nowhere.mp4"),
        (["rgb=nowhere", "--fps", "10"], "nowhere: no such file"),
        (["rgb=a.mp4", "--errors", "drop"], "--errors drop is for files of events"),
        (["a.mp4", "--errors", "drop"], "--errors drop is for files of events"),
    ],
    ids=[
        "unknown",
        "mixed",
        "twice",
        "hop of a file",
        "negative hop",
        "threshold",
        "no file",
        "no folder",
        "errors of a recording",
        "errors of a video",
    ],
)
def test_a_wrong_word_is_one_line_that_names_it(
    words: list[str],
    named: str,
    loaded: runs.Run,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(["predict", "RUN", *words]) == 1
    error = capsys.readouterr().err
    assert named in error and error.count("\n") == 1


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A camera as numbered pictures, which have no clock: dark, then bright."""
    folder = tmp_path / "rgb"
    folder.mkdir()
    for number in range(60):
        level = min(255, round((0.5 + 0.25 * (0 if number < 30 else 2)) * 255))
        cv2.imwrite(str(folder / f"{number:03d}.png"), np.full((16, 16, 3), level, np.uint8))
    return folder


def test_a_folder_of_pictures_is_read_at_the_rate_that_is_given(
    loaded: runs.Run,
    pictures: Path,
    recording: dict[str, Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(["predict", "RUN", f"rgb={pictures}"]) == 1
    assert "fps" in capsys.readouterr().err
    ends = {}
    for fps in ("10", "20"):
        assert cli.main(["predict", "RUN", f"rgb={pictures}", "--fps", fps]) == 0
        answer = json.loads(capsys.readouterr().out)
        assert [part["label"] for part in answer["segments"]][:: len(answer["segments"]) - 1] == ["drinking", "writing"]
        ends[fps] = answer["windows"][-1]["stop_us"]
    assert ends["10"] == pytest.approx(2 * ends["20"], abs=500_000)
    words = [f"rgb={recording['rgb']}", f"infrared={recording['infrared']}", "--fps", "10"]
    assert cli.main(["predict", "RUN", *words]) == 1
    assert "a video says its own" in capsys.readouterr().err


@pytest.mark.parametrize("place", ["nowhere/why.html", "", "rgb.mp4"], ids=["missing", "folder", "recording"])
def test_a_place_where_no_page_can_be_written_is_known_first(
    place: str,
    loaded: runs.Run,
    recording: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(predict_cameras, "answer_recording", None)  # not asked
    video = tmp_path / "rgb.mp4"
    video.write_bytes(recording["rgb"].read_bytes())
    assert cli.main(["predict", "RUN", f"rgb={video}", "--explain", str(tmp_path / place)]) == 1
    assert "--explain" in capsys.readouterr().err
    assert video.read_bytes() == recording["rgb"].read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["rgb.mp4"]


def test_the_answer_is_printed_though_its_page_cannot_be_written(
    loaded: runs.Run,
    recording: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("affuse.report_recording.os.replace", full)
    assert cli.main(["predict", "RUN", f"rgb={recording['rgb']}", "--explain", str(tmp_path / "why.html")]) == 1
    captured = capsys.readouterr()
    assert json.loads(captured.out)["status"] == "ok" and "No space left" in captured.err
    assert not list(tmp_path.iterdir())


def test_a_file_whose_name_has_an_equals_sign_is_a_file(tmp_path: Path) -> None:
    odd = tmp_path / "rgb=1.mp4"
    odd.touch()
    assert cameras_of([odd], CAMERAS) == {}


def test_a_run_without_cameras_says_what_it_needs(run: runs.Run, recording: dict[str, Path]) -> None:
    blind = replace(run, recipe=replace(run.recipe, data=NoCameras()))
    with pytest.raises(AffuseError, match="reads no recordings of cameras"):
        answer_recording(blind, recording)


class NoCameras:
    def splits(self, seed: int) -> Splits:
        raise NotImplementedError


# The truth.


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("start_us,stop_us\n0,1\n", "'label'"),
        ("start_us,stop_us,label\n0,x,eating\n", "line 2"),
        ("start_us,stop_us,label\n5,5,eating\n", "stops before it starts"),
        ("start_us,stop_us,label\n0,9,sleeping\n", "'sleeping' is none of the classes"),
        ("start_us,stop_us,label\n0,9,eating\n5,12,writing\n", "overlap at 5"),
        ("", "'start_us'"),
        ("start_us,stop_us,label\n0\n", "line 2"),
    ],
    ids=["column", "number", "empty stretch", "class", "overlap", "empty file", "short row"],
)
def test_a_wrong_truth_is_one_line_that_names_the_place(text: str, named: str, tmp_path: Path) -> None:
    (tmp_path / "truth.csv").write_text(text)
    with pytest.raises(AffuseError, match=named):
        read_truth(tmp_path / "truth.csv", CLASSES)


def test_a_truth_that_is_no_text_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "truth.csv").write_bytes(bytes(range(256)))
    with pytest.raises(AffuseError, match="csv"):
        read_truth(tmp_path / "truth.csv", CLASSES)


def test_agreement_counts_what_was_not_reached_as_wrong_and_leaves_out_what_is_not_annotated() -> None:
    truth = [Segment(0, 1_000_000, 0), Segment(2_000_000, 3_000_000, 1)]
    said = [Segment(0, 1_500_000, 0)]
    found = agreement(said, truth, 10_000)
    assert found["frames"] == 200 and found["frame_accuracy"] == 0.5 and found["unanswered"] == 100
    assert found["edit"] == 0.5 and found["f1_50"] == pytest.approx(2 / 3)
    assert agreement([], [])["frame_accuracy"] is None
    with pytest.raises(AffuseError, match="microseconds of this recording"):
        agreement(said, [Segment(0, 2**61, 0)])


# The page.


class Fetches(HTMLParser):
    """Every address that a page would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.scripts = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.scripts += tag == "script"
        self.found += [
            value for name, value in attrs if name in ("src", "href") and value and not value.startswith("#")
        ]


def page_of(tmp_path: Path, clips: list, classes: tuple[str, ...] = CLASSES) -> str:
    system = Brightness(Task("classification", classes)).eval()
    answer, shown = answer_windows(system, clips, shown=6)
    files = {name: f"{name}.mp4" for name in CAMERAS}
    return write_page(tmp_path / "out.html", system, answer, shown, files, "affuse predict RUN").read_text()


def test_a_page_shows_answers_gate_attention_and_each_camera_alone(tmp_path: Path) -> None:
    clips = [clip(n * 500_000, everywhere(0 if n < 6 else 2) | {"depth": 1}) for n in range(12)]
    page = page_of(tmp_path, clips)
    for text in (
        "Answers over time",
        "Weight of each camera over time",
        "Attention over the frames",
        "depth alone",
        "infrared.mp4",
        "writing",
        "0.0 to 1.0 s",
    ):
        assert text in page
    assert "eating (1" in page and page.count("data:image/png") == 18
    fetches = Fetches()
    fetches.feed(page)
    assert not fetches.scripts and all(address.startswith("data:") for address in fetches.found)


def test_a_lost_camera_is_left_out_of_the_page(tmp_path: Path) -> None:
    page = page_of(tmp_path, [clip(n * 500_000, {"rgb": 1, "infrared": 1}, lost=2) for n in range(4)])
    assert "infrared alone" in page and "depth alone" not in page
    assert "has frames in 0 of 4 windows" in page and page.count("data:image/png") == 8


@pytest.mark.parametrize("clips", [[], [clip(0, {})]], ids=["too short", "no frames"])
def test_a_recording_without_an_answer_has_a_page_that_says_so(tmp_path: Path, clips: list) -> None:
    page = page_of(tmp_path, clips)
    assert "no answer" in page and "there is nothing to draw" in page and "<svg" not in page


def test_names_of_classes_are_text_on_the_page(tmp_path: Path) -> None:
    page = page_of(tmp_path, [clip(0, everywhere(0)), clip(500_000, everywhere(0))], ("<b>$x^", "a & b", "c"))
    assert "<b>$x^" not in page and "&lt;b&gt;$x^" in page


def test_examples_of_a_run_hold_the_attention_of_cameras_that_are_there(system: Brightness, tmp_path: Path) -> None:
    explain.save_examples(system, [clip(0, {"rgb": 0, "depth": 1}, lost=1)], tmp_path / "examples.safetensors")
    tensors = load_file(tmp_path / "examples.safetensors")
    assert {name for name in tensors if name.endswith("attention")} == {"0/rgb/attention", "0/depth/attention"}
    attention = tensors["0/depth/attention"]
    assert (
        attention.shape == (4, 2, 2) and not attention[0].any() and float(attention.sum()) == pytest.approx(1, abs=1e-2)
    )
