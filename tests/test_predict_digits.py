"""What a run on event-audio digits says of one recording of events and one of sound."""

import json
import shutil
import wave
from pathlib import Path

import numpy as np
import pytest
import torch

from affuse import AffuseError, runs
from affuse.data.digits import EventAudioDigits
from affuse.data.nmnist import CLASSES
from affuse.predict_digits import answer_digit
from affuse.recipe import resolve
from affuse.signals import events
from affuse.systems import SYSTEMS
from affuse.types import Task

SETTINGS = {"steps": 2, "audio": {"bands": 8, "frames": 2}}


def write_wav(path: Path, samples: np.ndarray) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes((samples * 32767).astype("<i2").tobytes())
    return path


def write_events(path: Path, seed: int, count: int = 100) -> Path:
    random = np.random.default_rng(seed)
    t = np.sort(random.integers(0, 300_000, count))
    columns = [random.integers(0, 34, count), random.integers(0, 34, count), t >> 16, (t >> 8) & 255, t & 255]
    path.write_bytes(np.stack(columns, 1).astype(np.uint8).tobytes())
    return path


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both sources, small."""
    folder = tmp_path_factory.mktemp("digits")
    (folder / "nmnist").mkdir()
    (folder / "fsdd").mkdir()
    for name in range(60):
        write_events(folder / "nmnist" / f"{name}.bs2", name)
    (folder / "nmnist" / "labels.txt").write_text("".join(f"{name}\t{name % 10}\n" for name in range(60)))
    random = np.random.default_rng(1)
    for take in range(4):
        for digit in range(10):
            t = np.arange(800 + 50 * take) / 8000
            tone = 0.3 * np.sin(2 * np.pi * (300 + 250 * digit) * t) + 0.01 * random.standard_normal(len(t))
            write_wav(folder / "fsdd" / f"{digit}_ann_{take}.wav", tone)
    return folder


def made_run(path: Path, root: Path, **data: object) -> runs.Run:
    """A run with weights as drawn: what it answers is worth nothing, how it answers is the same."""
    encoders = {"event": {"kind": "conv", "channels": 2, "size": [34, 34], "layers": [4]}}
    encoders["audio"] = {"kind": "mlp", "features": 16, "layers": []}
    system = {"name": "taaf", "encoders": encoders, "width": 8, "align": False, "neuron": {"tau": 0.9}}
    of_data = {"name": "event_audio_digits", "root": str(root), **SETTINGS, **data}
    recipe = resolve({"system": system, "data": of_data, "training": {"seed": 3}}, "test")
    torch.manual_seed(0)
    task = Task("classification", CLASSES)
    made = SYSTEMS["taaf"](recipe.system, task)
    path.mkdir()
    (path / runs.RECIPE).write_text(recipe.to_yaml())
    runs.write_json(path / runs.RUN, {"task": runs.task_info(task), "status": "complete", "seconds": 0})
    runs.save_weights(made, path / runs.WEIGHTS)
    return runs.load_run(path)


@pytest.fixture(scope="module")
def run(root: Path, tmp_path_factory: pytest.TempPathFactory) -> runs.Run:
    return made_run(tmp_path_factory.mktemp("runs") / "run", root)


def test_a_recording_is_read_exactly_as_in_the_split_it_would_stand_in(root: Path, run: runs.Run) -> None:
    data = run.recipe.data
    assert isinstance(data, EventAudioDigits)
    known = data.splits(3).test[0]
    seen, sound = (str(known.meta[name]) for name in ("event", "audio"))
    files = {"event": root / "nmnist" / f"{seen}.bs2", "audio": root / "fsdd" / f"{sound}.wav"}
    found = data.recording(files, 3)
    assert torch.equal(found.inputs["event"], known.inputs["event"])
    assert torch.equal(found.inputs["audio"], known.inputs["audio"])


def test_each_modality_alone_and_both_are_answered(root: Path, run: runs.Run) -> None:
    files = {"event": root / "nmnist" / "3.bs2", "audio": root / "fsdd" / "3_ann_0.wav"}
    for given in ({"event"}, {"audio"}, {"event", "audio"}):
        record = answer_digit(run, {name: path for name, path in files.items() if name in given})
        assert json.loads(json.dumps(record)) == record
        assert record["status"] == "ok" and set(record["present"]) == given
        assert {name for name, weight in record["weights"]["modality"].items() if weight > 0} == given
        assert record["label"] == max(record["probabilities"], key=record["probabilities"].get)
        assert len(record["weights"]["time"]) == 2


def test_a_recording_without_events_is_no_answer_and_beside_sound_is_absent(
    root: Path, run: runs.Run, tmp_path: Path
) -> None:
    empty, none = tmp_path / "empty.npz", np.zeros(0, np.int64)
    events.write_events(events.Events(none, none, none, none, 34, 34), empty)
    assert answer_digit(run, {"event": empty})["status"] == "no answer"
    sound = root / "fsdd" / "3_ann_0.wav"
    beside, alone = answer_digit(run, {"event": empty, "audio": sound}), answer_digit(run, {"audio": sound})
    assert beside == alone


def test_silence_is_answered(run: runs.Run, tmp_path: Path) -> None:
    assert answer_digit(run, {"audio": write_wav(tmp_path / "silence.wav", np.zeros(4000))})["status"] == "ok"


def test_what_cannot_be_answered_is_one_clear_error(root: Path, run: runs.Run, tmp_path: Path) -> None:
    sound = root / "fsdd" / "3_ann_0.wav"
    with pytest.raises(AffuseError, match=r"rgb=.*this run reads event, audio"):
        answer_digit(run, {"rgb": sound})
    with pytest.raises(AffuseError, match=r"audio=.*no such file"):
        answer_digit(run, {"audio": tmp_path / "gone.wav"})
    moved = tmp_path / "moved"
    shutil.copytree(root / "nmnist", moved / "nmnist")
    without = made_run(tmp_path / "without", moved)
    with pytest.raises(AffuseError, match="training recordings, which are needed here") as error:
        answer_digit(without, {"audio": sound})
    assert len(str(error.value).splitlines()) == 1
    assert answer_digit(without, {"event": root / "nmnist" / "3.bs2"})["status"] == "ok"


def test_sound_that_each_clip_standardises_needs_no_training_recordings(root: Path, tmp_path: Path) -> None:
    audio = {**SETTINGS["audio"], "standardise": "clip"}  # type: ignore[dict-item]
    alone = made_run(tmp_path / "alone", tmp_path / "nowhere", audio=audio)
    assert answer_digit(alone, {"audio": root / "fsdd" / "3_ann_0.wav"})["status"] == "ok"


def test_a_run_that_heard_spikes_is_given_no_sound(root: Path, tmp_path: Path) -> None:
    data = {"audio_source": "ntidigits", "audio_form": "cochlea"}
    heard = made_run(tmp_path / "heard", root, **data)
    with pytest.raises(AffuseError, match="spikes of a cochlea, no sound"):
        answer_digit(heard, {"audio": root / "fsdd" / "3_ann_0.wav"})
