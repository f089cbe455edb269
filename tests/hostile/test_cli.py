"""Whatever is wrong with what a user gives a verb: one clear line, a non-zero exit, no traceback, nothing half-written."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from affuse import cli, fit, runs
from affuse.data import see as see_module
from affuse.data.synthetic.eyes import Eyes, write_see
from affuse.recipe import load_recipe
from affuse.signals.clips import ClipSpec
from affuse.systems import SYSTEMS
from affuse.types import Task

RECIPES = Path(__file__).parents[2] / "recipes" / "mco_e"
RECIPE = str(RECIPES / "see.yaml")
_SMALL = (
    "--system.encoder small --system.pretrained false --system.d_model 16 --system.d_state 4 --system.heads 2 "
    "--system.experts 3 --data.clip.size 32 --data.test_crops 1 --training.epochs 1"
)
SMALL = _SMALL.split()


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small world in SEE's layout."""
    people = {"train_subjects": 2, "validation_subjects": 1, "test_subjects": 1}
    sequences = {"train_sequences": 3, "validation_sequences": 1, "test_sequences": 2}
    clip = ClipSpec(size=16, frames=2, stride=4)
    root = tmp_path_factory.mktemp("world") / "see"
    write_see(Eyes(**people, **sequences, size=16, length=16, oversampling=1, clip=clip), root, 0)
    return root


@pytest.fixture
def see(sound: Path, tmp_path: Path) -> Path:
    """A copy of it, to be broken."""
    return Path(shutil.copytree(sound, tmp_path / "see"))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with weights as drawn."""
    recipe = load_recipe(RECIPES / "eyes.yaml", ["--system.d_model", "16", "--system.heads", "2"])
    path = tmp_path / "run"
    path.mkdir()
    (path / runs.RECIPE).write_text(recipe.to_yaml())
    task = {"kind": "classification", "classes": ["one", "two"]}
    runs.write_json(path / runs.RUN, {"task": task, "status": "complete", "seconds": 0})
    system = SYSTEMS[recipe.system_name](recipe.system, Task("classification", ("one", "two")))
    runs.save_weights(system, path / runs.WEIGHTS)
    return path


@pytest.fixture
def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command that must fail by one line with these words, and leave every file as it was."""

    def state() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns if path.is_file() else 0 for path in tmp_path.rglob("*")}

    def check(words: list[Any], *expected: str) -> str:
        before = state()
        capsys.readouterr()
        assert cli.main([str(word) for word in words]) == 1
        captured = capsys.readouterr()
        assert captured.out == ""
        (line,) = captured.err.splitlines()
        assert line.startswith("affuse: ") and len(line) < 600
        assert not [word for word in expected if word not in line], line
        assert state() == before
        return line

    return check


def fit_words(see: Path, *more: str) -> list[str]:
    return ["fit", RECIPE, *SMALL, "--data.root", str(see), "--out", str(see.parent / "out"), *more]


@pytest.mark.parametrize("half", ["event", "frame", "emotion.json"])
def test_a_data_folder_with_a_missing_half(
    see: Path, half: str, refused: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    (see / half).rename(see / "elsewhere")
    refused(fit_words(see), str(see), half)
    assert cli.main(["doctor", "--data", "see", "--root", str(see)]) == 1
    assert f"error: {see}" in capsys.readouterr().out


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"])
def test_a_wrong_annotation_file(
    see: Path, content: bytes, refused: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    (see / "emotion.json").write_bytes(content)
    refused(fit_words(see), "emotion.json")
    assert cli.main(["doctor", "--data", "see", "--root", str(see)]) == 1
    assert "emotion.json" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "empty"), (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git lfs pull")],
)
def test_doctor_names_a_file_that_is_no_image(
    see: Path, content: bytes, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = sorted((see / "event").rglob("*.jpg"))[3]
    broken.write_bytes(content)
    assert cli.main(["doctor", "--data", "see", "--root", str(see)]) == 1
    out = capsys.readouterr().out
    assert words in out and broken.relative_to(see).as_posix() in out


def test_an_image_that_breaks_off_in_training_leaves_no_run(see: Path, refused: Callable[..., str]) -> None:
    for image in (see / "frame").rglob("*.jpg"):
        image.write_bytes(image.read_bytes()[:200])
    refused(fit_words(see), ".jpg")
    (see.parent / "out").mkdir()  # a folder that was there stays, and stays empty
    refused(fit_words(see), ".jpg")


def test_a_fit_that_fails_later_can_be_resumed(
    see: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    read = see_module.read_image
    step = fit.Fitting.training_step

    def broken(self: fit.Fitting, batch: Any, index: int) -> torch.Tensor:
        if self.current_epoch == 1:
            read(see / "gone.jpg")
        return step(self, batch, index)

    with monkeypatch.context() as patch:
        patch.setattr(fit.Fitting, "training_step", broken)
        assert cli.main(fit_words(see, "--training.epochs", "2")) == 1
    assert "gone.jpg" in capsys.readouterr().err
    assert cli.main(["fit", "--resume", str(see.parent / "out")]) == 0
    assert len(runs.read_lines(see.parent / "out" / runs.HISTORY)) == 2


@pytest.mark.parametrize("when", ["write_evidence", "write_metrics"])
def test_an_interruption_names_the_command_that_goes_on(
    when: str, see: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(fit, when, interrupted)
        assert cli.main(fit_words(see)) == 130
    (line,) = capsys.readouterr().err.splitlines()
    words = line.partition("with: affuse ")[2].split()
    assert words[0] == {"write_evidence": "evaluate", "write_metrics": "fit"}[when]
    assert cli.main(words) == 0
    assert (see.parent / "out" / "report.html").is_file()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ("--system.d_modle 3", ("d_model",)),
        ("--system.heads 5", ("heads",)),
        ("--system.encoder resnet99", ("resnet99",)),
        ("--data.rot x", ("root",)),
        ("--data.split fair", ("split",)),
        ("--data.clip.frame 2", ("frames",)),
        ("--training.lr fast", ("lr", "fast")),
        ("--training.lr .nan", ("lr", "nan")),
        ("--training.epochs 0", ("epochs", "from 1 up")),
        ("--training.epochs -1", ("epochs", "from 1 up")),
        ("--training.batch_size 0", ("batch_size", "from 1 up")),
        ("--training.seed -1", ("seed", "from 0 up")),
        ("--training.seed 5000000000", ("seed", "below 4294967296")),
        ("--training.modality_dropout 2", ("modality_dropout", "from 0 to 1")),
        ("--training.schedule exponential --training.gamma -1", ("gamma is -1", "above 0")),
        ("--training.gamma .inf", ("gamma", "above 0")),
        ("--training.devices 2", ("devices is 2", "write the same run")),
        ("--training.devices 0", ("devices is 0", "must be 1")),
        ("--training.accelerator abacus", ("abacus",)),
        ("--training.precision 7-bit", ("7-bit",)),
        ("--training.precision bf16-true", ("bf16-true", "bf16-mixed")),
        ("--epochs 3", ("--epochs", "--section.key")),
        ("--training.lr", ("--training.lr", "needs a value")),
        ("stray", ("stray",)),
    ],
)
def test_a_wrong_setting(see: Path, settings: str, words: tuple[str, ...], refused: Callable[..., str]) -> None:
    refused(fit_words(see, *settings.split()), *words)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "mapping"),
        (b"[1, 2]", "mapping"),
        (b"a: [", "not YAML"),
        (b"\xff\xfe\x00", "not YAML"),
        (b"!!python/object/apply:os.mkdir [made]", "not YAML"),
        (b"system: {name: mco_e}\ndata: {name: sea, root: x}\n", "did you mean 'see'"),
        (b"systm: {name: mco_e}\n", "did you mean 'system'"),
    ],
)
def test_a_wrong_recipe(content: bytes, words: str, tmp_path: Path, refused: Callable[..., str]) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_bytes(content)
    refused(["fit", recipe, "--out", tmp_path / "out"], str(recipe), words)


def test_a_place_where_no_run_can_be_written(see: Path, refused: Callable[..., str]) -> None:
    (see.parent / "file").touch()
    refused(fit_words(see, "--out", str(see.parent / "file")), str(see.parent / "file"), "--out")
    refused(fit_words(see, "--out", str(see.parent / "file" / "run")), "--out")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("cut.mp4", b"\0\0\0\x20ftypisom\0\0\2\0isomiso2", "not a video"),
        ("empty.mp4", b"", "empty"),
        ("text.mov", b"hello", "not a video"),
        ("empty.jpg", b"", "empty"),
        ("cut.png", b"\x89PNG\r\n\x1a\n\0\0", "no frame"),
        ("empty.raw", b"", "empty"),
        ("cut.bin", bytes([1, 2, 0x80, 0]), "truncated"),
        ("wrong.npz", b"PK but no more", "npz"),
        ("sound.wav", b"RIFF", "expected a video"),
        ("bare", b"x", "expected a video"),
    ],
)
def test_predict_on_a_file_that_is_cut_empty_or_wrong(
    run: Path, name: str, content: bytes, words: str, refused: Callable[..., str]
) -> None:
    file = run.parent / name
    file.write_bytes(content)
    refused(["predict", run, file], str(file), words)


def test_options_that_would_do_nothing_are_refused(
    run: Path, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    video = run.parent / "a.mp4"
    video.write_bytes(b"never read")
    refused(["predict", run, video, "--errors", "drop"], "--errors drop is for files of events")
    refused(["explain", run, video, "--fps", "10"], "a video says its own")
    monkeypatch.setattr("affuse.face_windows.reads_faces", lambda *_: True)
    refused(["predict", run, video, "--fps", "10"], "a video says its own")
    refused(["predict", run, video, "--errors", "drop"], "--errors drop is for files of events")


def test_predict_goes_on_after_a_bad_file(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = run.parent / "grey.png"
    cv2.imwrite(str(picture), np.full((60, 60, 3), 99, np.uint8))
    assert cli.main(["predict", str(run), str(run / "gone.mp4"), str(picture)]) == 1
    captured = capsys.readouterr()
    assert captured.err.splitlines() == [f"affuse: {run / 'gone.mp4'}: no such file"]
    assert json.loads(captured.out)["status"] == "no face"


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        (runs.WEIGHTS, b"", "cannot be read"),
        (runs.WEIGHTS, b"\x80\x04cos\nsystem\n", "cannot be read"),
        (runs.RUN, b"", "broken"),
        (runs.RUN, b"[]", "broken"),
        (runs.RUN, b'{"task": {"classes": ["a", "b"]}}', "broken"),
        (runs.RUN, b'{"task": {"kind": "classification", "classes": ["a", "b"]}}', "broken"),
        (runs.RECIPE, b"a: [", "not YAML"),
        (runs.RECIPE, b"sys: 3", "did you mean 'system'"),
    ],
)
def test_a_broken_run(run: Path, name: str, content: bytes, words: str, refused: Callable[..., str]) -> None:
    (run / name).write_bytes(content)
    picture = run.parent / "grey.png"
    cv2.imwrite(str(picture), np.full((60, 60, 3), 99, np.uint8))
    refused(["predict", run, picture, picture], str(run / name), words)
    refused(["evaluate", run], str(run / name), words)


@pytest.mark.parametrize("size", ["-5", "0"])
def test_a_wrong_setting_of_an_evaluation_leaves_what_the_run_holds(
    size: str, run: Path, refused: Callable[..., str]
) -> None:
    runs.write_lines(run / runs.PREDICTIONS, [{"id": "one"}])
    refused(["evaluate", run, "--training.batch_size", size], f"training.batch_size is {size}", "from 1 up")


@pytest.mark.parametrize("world", ["cabin", "duet", "eyes", "faces", "talk"])
def test_a_world_that_cannot_be_drawn(world: str, tmp_path: Path, refused: Callable[..., str]) -> None:
    recipe = next(Path(RECIPES).parent.glob(f"*/{world}.yaml"))
    refused(["fit", recipe, "--data.world_seed", "-1", "--out", tmp_path / "out"], f"{world}: world_seed is -1")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--seed", "-1"], ("--seed", "-1", "from 0 up")),
        (["--threshold", "nan"], ("--threshold", "nan")),
        (["--threshold", "inf"], ("--threshold", "inf")),
        (["--threshold", "0"], ("--threshold", "0")),
    ],
)
def test_events_that_cannot_be_simulated(
    words: list[str], expected: tuple[str, ...], tmp_path: Path, refused: Callable[..., str]
) -> None:
    refused(["events", tmp_path / "a.mp4", tmp_path / "a.npz", *words], *expected)


def test_a_conversion_that_cannot_be_drawn(tmp_path: Path, refused: Callable[..., str]) -> None:
    refused(["data", "convert", "mmmo_youtube", tmp_path, tmp_path / "out", "--seed", "-1"], "--seed", "from 0 up")


def test_weights_of_another_system_or_none(run: Path, refused: Callable[..., str]) -> None:
    refused(["predict", run, "x.mp4", "--system.d_model", "32"], "does not fit")
    (run / runs.WEIGHTS).unlink()
    refused(["evaluate", run], "no such file", "train again")
    info = runs.read_info(run)
    runs.write_json(run / runs.RUN, {**info, "status": "interrupted"})
    refused(["evaluate", run], f"affuse fit --resume {run}")


def test_a_run_that_cannot_be_resumed(run: Path, refused: Callable[..., str]) -> None:
    refused(["fit", "--resume", run], "complete")
    refused(["fit", RECIPE, "--resume", run], "either")
    refused(["fit", "--resume", run, "--out", run.parent / "other"], "--out is for a new run")
    info = runs.read_info(run)
    runs.write_json(run / runs.RUN, {**info, "status": "interrupted"})
    refused(["fit", "--resume", run, "--system.d_model", "32"], "keeps its system")
    (run / runs.CHECKPOINT).write_bytes(b"PK\3\4 cut")
    refused(["fit", "--resume", run], runs.CHECKPOINT, "delete it")


def test_events_on_what_is_no_moving_picture(tmp_path: Path, refused: Callable[..., str]) -> None:
    picture, text = tmp_path / "grey.png", tmp_path / "text.mp4"
    cv2.imwrite(str(picture), np.full((60, 60, 3), 99, np.uint8))
    text.write_text("hello")
    out = tmp_path / "out.npz"
    refused(["events", picture, out], str(picture), "single picture")
    refused(["events", text, out], str(text), "not a video")
    refused(["events", tmp_path / "gone.mp4", out], "gone.mp4", "no such file")
    refused(["events", "info", text], str(text), "suffix")
    refused(["events", "info", tmp_path], str(tmp_path))


def test_a_system_error_is_one_line_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, refused: Callable[..., str]
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device", str(tmp_path / "big"))

    monkeypatch.setattr("affuse.doctor.doctor", full)
    refused(["doctor"], str(tmp_path / "big"), "No space left")


@pytest.mark.parametrize("words", [[], ["explode"], ["evaluate"], ["predict", "run"], ["doctor", "--dta", "see"]])
def test_a_command_line_that_is_none(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(words)
    assert ended.value.code == 2
    assert "usage: affuse" in capsys.readouterr().err
