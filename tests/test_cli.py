"""The verbs as a user meets them: fit, evaluate, predict, doctor and events, by their command lines."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from affuse import cli, runs
from affuse.data.synthetic.eyes import Eyes, write_see
from affuse.recipe import load_recipe
from affuse.signals.clips import ClipSpec

RECIPE = str(Path(__file__).parents[1] / "recipes" / "mco_e" / "see.yaml")
_SMALL = (
    "--system.encoder small --system.pretrained false --system.d_model 16 --system.d_state 4 --system.heads 2 "
    "--system.experts 3 --data.clip.size 32 --data.test_crops 2 --training.batch_size 4"
)
SMALL = _SMALL.split()


@pytest.fixture(scope="module")
def see(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The synthetic eye world in SEE's layout."""
    root = tmp_path_factory.mktemp("world") / "see"
    people = {"train_subjects": 4, "validation_subjects": 2, "test_subjects": 2}
    sequences = {"train_sequences": 8, "validation_sequences": 4, "test_sequences": 7}
    clip = ClipSpec(size=32, frames=2, stride=4)
    write_see(Eyes(**people, **sequences, size=32, oversampling=1, clip=clip), root, 0)
    return root


@pytest.fixture(scope="module")
def run(see: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run by the recipe for the real data set, shrunk, on the synthetic world."""
    out = tmp_path_factory.mktemp("runs") / "run"
    words = ["fit", *SMALL, RECIPE, "--data.root", str(see), "--training.epochs", "1", "--out", str(out)]
    assert cli.main(words) == 0
    return out


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out.splitlines()


def test_fit_writes_a_whole_run_that_says_how_it_was_made(run: Path, see: Path) -> None:
    info = json.loads((run / runs.RUN).read_text())
    assert info["status"] == "complete" and info["synthetic"] is True
    assert info["command"].startswith("affuse fit --system.encoder small")
    assert f"--data.root {see}" in info["command"] and sys.executable not in info["command"]
    page = (run / "report.html").read_text()
    assert info["command"] in page and f"affuse evaluate {run}" in page and "Synthetic world." in page
    for name in (runs.RECIPE, runs.WEIGHTS, runs.HISTORY, runs.METRICS, runs.PREDICTIONS, runs.EXAMPLES):
        assert (run / name).stat().st_size > 0
    assert not list(run.glob("*.tmp"))


def test_the_command_of_a_run_gives_its_recipe_again(run: Path) -> None:
    words = json.loads((run / runs.RUN).read_text())["command"].split()[1:]
    plain, settings = cli._settings_apart(words)
    recipe = load_recipe(cli._parser().parse_args(plain).recipe, settings)
    kept = load_recipe(run / runs.RECIPE)
    assert (recipe.system, recipe.data, recipe.training) == (kept.system, kept.data, kept.training)


def test_overrides_may_stand_before_and_between_what_they_belong_to() -> None:
    plain, settings = cli._settings_apart(["fit", "--a.b", "3", "r.yaml", "--c.d=4", "--out", "x.y", "--", "--e.f"])
    assert plain == ["fit", "r.yaml", "--out", "x.y", "--", "--e.f"]
    assert settings == ["--a.b", "3", "--c.d=4"]


def test_evaluate_reads_the_data_that_it_is_given(
    run: Path, see: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (run / runs.METRICS).read_text()
    moved = tmp_path / "moved"
    moved.symlink_to(see)
    assert cli.main(["evaluate", str(run), "--data.root", str(moved)]) == 0
    shown = "\n".join(lines(capsys))
    assert "synthetic world" in shown and "WAR %" in shown and str(run / runs.METRICS) in shown
    found = json.loads((run / runs.METRICS).read_text())
    assert found == json.loads(before) | {"overrides": ["--data.root", str(moved)], "other_data": True}
    page = (run / "report.html").read_text()
    assert f"affuse evaluate {run} --data.root {moved}" in page
    assert f"data not as in the run&#39;s recipe: --data.root {moved}" in page
    # Other settings than of the data are said where it is told how to do it again.
    assert cli.main(["evaluate", str(run), "--training.batch_size", "2"]) == 0
    assert json.loads((run / runs.METRICS).read_text())["other_data"] is False
    page = (run / "report.html").read_text()
    assert f"affuse evaluate {run} --training.batch_size 2" in page and "not as in" not in page
    assert cli.main(["evaluate", str(run)]) == 0
    assert (run / runs.METRICS).read_text() == before
    assert f"affuse evaluate {run}\n" in (run / "report.html").read_text().replace("</pre>", "\n")


def test_doctor_finds_the_written_world_whole(see: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", "--data", "see", "--root", str(see), "--json"]) == 0
    found = json.loads("\n".join(lines(capsys)))
    assert found["data"]["usable"] == 19 and found["data"]["by_subset"] == {"training": 12, "testing": 7}
    assert [finding["severity"] for finding in found["findings"]] == ["info"]
    assert cli.main(["doctor"]) == 0
    assert "selective_scan" in "\n".join(lines(capsys))


def write_video(path: Path, frames: int = 12) -> Path:
    """A bright bar that moves over a dark ground."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 30, (64, 48))
    for number in range(frames):
        image = np.full((48, 64, 3), 40, np.uint8)
        image[:, 4 * number : 4 * number + 8] = 220
        writer.write(image)
    writer.release()
    return path


def test_simulated_events_are_a_file_that_info_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    video, out = write_video(tmp_path / "bar.mp4"), tmp_path / "bar.npz"
    assert cli.main(["events", str(video), str(out)]) == 0
    (said,) = lines(capsys)
    assert cli.main(["events", "info", str(out)]) == 0
    info = dict(line.split(": ") for line in lines(capsys))
    count, positive, negative = (int(info[name]) for name in ("events", "positive", "negative"))
    assert count > 1000 and count == positive + negative and f"{count} events" in said
    assert (info["width"], info["height"], info["dropped"]) == ("64", "48", "0")
    assert 0.2 < float(info["duration_s"]) < 0.4
    assert float(info["rate_hz"]) == pytest.approx(count / float(info["duration_s"]), abs=0.1)


@pytest.mark.parametrize(
    ("file", "source", "size"),
    [
        ("evt2.raw", "Prophesee EVT2", ("640", "480")),
        ("sample.aedat4", "AEDAT 4", ("320", "240")),
        ("sample_nmnist.bin", "N-MNIST", ("34", "34")),
        ("slider_depth/events.txt", "text", ("240", "180")),
    ],
)
def test_info_describes_real_recordings(
    real_data: Path, file: str, source: str, size: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    path = real_data / "events" / file
    if not path.is_file():
        pytest.skip(f"no recording {file}")
    if path.suffix == ".aedat4":
        pytest.importorskip("aedat")
    assert cli.main(["events", "info", str(path)]) == 0
    info = dict(line.split(": ") for line in lines(capsys))
    assert info["format"] == source and (info["width"], info["height"]) == size
    assert int(info["events"]) == int(info["positive"]) + int(info["negative"]) > 1000
    assert float(info["duration_s"]) > 0 and float(info["rate_hz"]) > 0


def test_bad_events_can_be_dropped_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "bad.txt"
    file.write_text("0.1 1 2 0\n0.2 3 4 1\noops\n0.3 5 6 1\n")
    assert cli.main(["events", "info", str(file)]) == 1
    assert "drop" in capsys.readouterr().err
    assert cli.main(["events", "info", str(file), "--errors", "drop"]) == 0
    info = dict(line.split(": ") for line in lines(capsys))
    assert (info["events"], info["dropped"]) == ("3", "1")


def test_ctrl_c_ends_a_fit_cleanly_and_the_run_goes_on(see: Path, tmp_path: Path) -> None:
    out = tmp_path / "cut"
    words = ["fit", RECIPE, *SMALL, "--data.root", str(see), "--training.epochs", "200", "--out", str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, "-m", "affuse.cli", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        # A shell without job control starts what runs in its background with Ctrl-C ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:
        assert process.stdout is not None
        assert next((line for line in process.stdout if line.startswith("epoch 2/")), None) is not None
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.splitlines() == [f"affuse: interrupted; continue with: affuse fit --resume {out}"]
    assert json.loads((out / runs.RUN).read_text())["status"] == "interrupted"
    done = len(runs.read_lines(out / runs.HISTORY))
    assert not list(out.glob("*.tmp"))

    assert cli.main(["fit", "--resume", str(out), "--training.epochs", str(done + 1)]) == 0
    info = json.loads((out / runs.RUN).read_text())
    assert info["status"] == "complete"
    assert info["command"].splitlines()[1] == f"affuse fit --resume {out} --training.epochs {done + 1}"
    assert load_recipe(out / runs.RECIPE).training.epochs == done + 1
    assert [row["epoch"] for row in runs.read_lines(out / runs.HISTORY)] == list(range(done + 1))
    assert cli.main(["fit", "--resume", str(out)]) == 1
