import os
import shutil
import wave
from collections import Counter
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from affuse import AffuseError, Batch
from affuse.data.digit_sounds import SoundEncoder, SoundFeatures
from affuse.data.digits import PARTS, EventAudioDigits, pair_by_digit
from affuse.data.mnist_dvs import Movement, decode_dvs128, read_screen_digit, screen_images
from affuse.doctor_data import check_event_audio_digits
from affuse.signals.audio import Audio
from affuse.signals.events import Events

REAL = Path(os.environ.get("AFFUSE_DATA", Path(__file__).parents[2] / "../shared/data"))
needs_real = pytest.mark.skipif(
    not (REAL / "nmnist").is_dir() or not (REAL / "fsdd").is_dir(),
    reason="AFFUSE_DATA holds no nmnist and fsdd folders",
)


def write_nmnist(folder: Path, count: int) -> None:
    folder.mkdir()
    random = np.random.default_rng(0)
    for name in range(count):
        t = np.sort(random.integers(0, 300_000, 100))
        columns = [random.integers(0, 34, 100), random.integers(0, 34, 100), t >> 16, (t >> 8) & 255, t & 255]
        (folder / f"{name}.bs2").write_bytes(np.stack(columns, 1).astype(np.uint8).tobytes())
    (folder / "labels.txt").write_text("".join(f"{name}\t{name % 10}\n" for name in range(count)))


def write_wav(path: Path, samples: np.ndarray) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes((samples * 32767).astype("<i2").tobytes())


def write_fsdd(folder: Path, speakers: tuple[str, ...] = ("ann", "bob", "cyd"), takes: int = 6) -> None:
    folder.mkdir()
    random = np.random.default_rng(1)
    for speaker in speakers:
        for take in range(takes):
            for digit in range(10):
                t = np.arange(800 + 50 * take) / 8000
                tone = 0.3 * np.sin(2 * np.pi * (300 + 250 * digit) * t) + 0.01 * random.standard_normal(len(t))
                write_wav(folder / f"{digit}_{speaker}_{take}.wav", tone)


def write_ntidigits(path: Path, speakers: int = 12) -> None:
    random = np.random.default_rng(2)
    with h5py.File(path, "w") as tree:
        for split, sex in (("train", "man"), ("test", "woman")):
            names = [f"{sex}-{chr(97 + s)}a-{said}" for s in range(speakers) for said in [*"zo123456789", "12"]]
            tree[f"{split}_labels"] = [name.encode() for name in names]
            for name in names:
                count = 0 if name == f"{sex}-aa-3" else 80
                tree[f"{split}_addresses/{name}"] = random.integers(0, 64, count).astype(np.uint16)
                tree[f"{split}_timestamps/{name}"] = np.sort(random.uniform(0.1, 0.9, count))


def write_dvs128(path: Path, t: np.ndarray, x: np.ndarray, y: np.ndarray, on: np.ndarray) -> None:
    """jAER's AEDAT 2: columns are counted from the right, and a set polarity bit is darker."""
    rows = np.zeros(len(t), [("address", ">u4"), ("t", ">u4")])
    rows["address"], rows["t"] = y << 8 | (127 - x) << 1 | (1 - on), t
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"#!AER-DAT2.0\r\n# a comment\r\n" + rows.tobytes())


def write_mnist_dvs(folder: Path, per_digit: int) -> None:
    random = np.random.default_rng(3)
    for digit in range(10):
        for number in range(per_digit):
            path = folder / f"grabbed_data{digit}" / "scale4" / f"mnist_{digit}_scale04_{number + 1:04d}.aedat"
            columns = [random.integers(0, most, 60) for most in (128, 128, 2)]
            write_dvs128(path, np.sort(random.integers(0, 2_000_000, 60)), *columns)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits")
    write_nmnist(folder / "nmnist", 60)
    write_fsdd(folder / "fsdd")
    write_mnist_dvs(folder / "mnist_dvs", 4)
    (folder / "ntidigits").mkdir()
    write_ntidigits(folder / "ntidigits" / "n-tidigits.hdf5")
    return folder


@pytest.mark.parametrize(
    ("events", "audio", "split"),
    [("nmnist", "fsdd", "take"), ("nmnist", "fsdd", "speaker"), ("mnist_dvs", "ntidigits", "take")],
)
def test_no_recording_of_either_source_stands_in_two_splits(root: Path, events: str, audio: str, split: str) -> None:
    form = "log_mel" if audio == "fsdd" else "cochlea"
    config = EventAudioDigits(
        str(root),
        event_source=events,  # type: ignore[arg-type]
        audio_source=audio,  # type: ignore[arg-type]
        audio_split=split,  # type: ignore[arg-type]
        audio_form=form,  # type: ignore[arg-type]
        holdout=0.2,
        steps=2,
        repair=False,
        augment=False,
        augment_audio=False,
    )
    splits = config.splits(0)
    metas = {name: [getattr(splits, name)[i].meta for i in range(len(getattr(splits, name)))] for name in PARTS}
    keys = {"event": "event", "audio": "audio"} | ({} if (audio, split) == ("fsdd", "take") else {"subject": "subject"})
    for key in keys:
        used = [{meta[key] for meta in metas[name]} for name in PARTS]
        assert all(used) and sum(map(len, used)) == len(set.union(*used)), key
    if audio == "fsdd":  # a take of a speaker stays together over all digits
        takes = [{meta["audio"].split("_", 1)[1] for meta in metas[name]} for name in PARTS]
        assert sum(map(len, takes)) == len(set.union(*takes))
    assert splits.facts["subjects_shared"] == (["ann", "bob", "cyd"] if (audio, split) == ("fsdd", "take") else [])
    ids = [meta["id"] for meta in metas["test"]]
    assert len(ids) == len(set(ids)) == splits.facts["counts"]["test"]


def test_both_halves_of_a_pair_are_of_its_digit(root: Path) -> None:
    source = EventAudioDigits(str(root), steps=2, repair=True).splits(3).train
    for index in range(0, len(source), 7):
        sample = source[index]
        digit = sample.meta["digit"]
        assert sample.target == digit and sample.meta["audio"].startswith(f"{digit}_")
        assert int(sample.meta["event"]) % 10 == digit


def test_inputs_have_steps_first_and_make_a_batch(root: Path) -> None:
    splits = EventAudioDigits(str(root), steps=5, size=20, audio=SoundFeatures(bands=12, frames=3)).splits(0)
    batch = Batch.collate([splits.train[i] for i in range(4)])
    assert batch.inputs["event"].shape == (4, 5, 2, 20, 20)
    assert batch.inputs["audio"].shape == (4, 5, 36)
    assert not batch.lengths and batch.present.all()
    assert all(tensor.isfinite().all() for tensor in batch.inputs.values())


def test_pairing_follows_the_seed_and_evaluation_never_changes(root: Path) -> None:
    first, again, other = (EventAudioDigits(str(root), steps=2).splits(seed) for seed in (0, 0, 1))
    ids = [[splits.test[i].meta["id"] for i in range(len(splits.test))] for splits in (first, again, other)]
    assert ids[0] == ids[1] != ids[2]
    for name in ("event", "audio"):
        assert torch.equal(first.test[3].inputs[name], again.test[3].inputs[name])
        assert torch.equal(first.test[3].inputs[name], first.test[3].inputs[name])


def test_training_pairs_anew_and_changes_sound_and_events_only_where_it_is_asked_to(root: Path) -> None:
    moved = EventAudioDigits(str(root), steps=2).splits(0).train
    assert len({moved[0].meta["event"] for _ in range(20)}) > 1
    assert not torch.equal(moved[0].inputs["audio"], moved[0].inputs["audio"])
    still = EventAudioDigits(str(root), steps=2, repair=False, augment=False, augment_audio=False).splits(0).train
    assert still[0].meta == still[0].meta
    assert all(torch.equal(still[0].inputs[name], still[0].inputs[name]) for name in ("event", "audio"))


def test_the_number_of_pairs_is_a_setting_and_digits_are_even(root: Path) -> None:
    splits = EventAudioDigits(str(root), steps=1, train_pairs=200, test_pairs=20).splits(0)
    assert len(splits.train) == 200 and len(splits.test) == 20
    assert set(Counter(splits.test[i].target for i in range(20)).values()) == {2}
    with pytest.raises(AffuseError, match="test_pairs is a multiple of 10, not 7"):
        EventAudioDigits(str(root), test_pairs=7)


@settings(max_examples=30)
@given(st.lists(st.integers(0, 9), max_size=30), st.lists(st.integers(0, 9), max_size=30), st.integers(0, 5))
def test_pairs_are_of_one_digit_and_use_every_recording(heard: list[int], seen: list[int], seed: int) -> None:
    heard, seen = [*heard, *range(10)], [*seen, *range(10)]
    pairs = pair_by_digit(heard, seen, None, np.random.default_rng(seed), "train")
    assert all(heard[audio] == seen[event] for audio, event in pairs)
    assert {audio for audio, _ in pairs} == set(range(len(heard)))
    assert {event for _, event in pairs} == set(range(len(seen)))


@pytest.mark.parametrize("form", ["log_mel", "stft", "cochlea"])
@pytest.mark.parametrize("augment", [False, True])
@pytest.mark.parametrize("length", [0, 1, 100, 6000])
def test_silence_is_all_zeros_however_long(form: str, augment: bool, length: int) -> None:
    encoder = SoundEncoder(form, SoundFeatures(standardise="clip"), 3)  # type: ignore[arg-type]
    tensor = encoder.encode(Audio(torch.zeros(length), 8000), augment)
    assert tensor.shape[0] == 3 and tensor.shape[1] % 4 == 0 and not tensor.any()


@settings(max_examples=25)
@given(st.integers(1, 5000), st.floats(1e-3, 1.0), st.integers(1, 6), st.sampled_from(["log_mel", "stft", "cochlea"]))
def test_any_sound_gives_finite_numbers_in_the_shape_of_every_other(
    length: int, level: float, steps: int, form: str
) -> None:
    encoder = SoundEncoder(form, SoundFeatures(standardise="clip", bands=8, max_speed=0.1, max_masked=0.2), steps)  # type: ignore[arg-type]
    noise = level * torch.randn(length, generator=torch.Generator().manual_seed(length))
    long = encoder.encode(Audio(torch.sin(torch.arange(9000) * 0.3), 8000))
    for augment in (False, True):
        tensor = encoder.encode(Audio(noise, 8000), augment)
        assert tensor.shape == long.shape and tensor.isfinite().all()


def test_loudness_does_not_change_clip_standardised_features() -> None:
    samples = torch.sin(torch.arange(4000) * 0.2) * torch.linspace(0.1, 1, 4000)
    for form in ("log_mel", "cochlea"):
        encoder = SoundEncoder(form, SoundFeatures(standardise="clip"), 5)  # type: ignore[arg-type]
        loud, soft = (encoder.encode(Audio(samples * gain, 8000)) for gain in (0.5, 0.05))
        torch.testing.assert_close(loud, soft, rtol=1e-2, atol=1e-2)


def test_training_recordings_have_mean_zero_and_deviation_one(root: Path) -> None:
    config = EventAudioDigits(str(root), steps=2, repair=False, augment_audio=False, audio=SoundFeatures(bands=10))
    source = config.splits(0).train
    names = {source[i].meta["audio"]: source[i].inputs["audio"] for i in range(len(source))}
    bands = torch.stack(list(names.values())).reshape(-1, 10)
    torch.testing.assert_close(bands.mean(0), torch.zeros(10), atol=1e-3, rtol=0)
    torch.testing.assert_close(bands.std(0), torch.ones(10), atol=1e-2, rtol=0)


def test_a_source_without_sound_says_which_form_it_needs(root: Path) -> None:
    with pytest.raises(AffuseError, match="audio_form: cochlea"):
        EventAudioDigits(str(root), audio_source="ntidigits")


def test_zero_and_oh_are_the_digit_0_and_sequences_are_left_out(root: Path) -> None:
    config = EventAudioDigits(str(root), audio_source="ntidigits", audio_form="cochlea", steps=2, repair=False)
    splits = config.splits(0)
    assert splits.facts["audio_recordings"]["test"] == 12 * 11
    zeros = {splits.test[i].meta["audio"][-1] for i in range(len(splits.test)) if splits.test[i].target == 0}
    assert zeros == {"z", "o"}
    silent = next(splits.test[i] for i in range(len(splits.test)) if splits.test[i].meta["audio"].endswith("aa-3"))
    assert not silent.inputs["audio"].any()


def test_a_dvs128_file_is_read_with_its_columns_rows_and_polarity_the_right_way_round(tmp_path: Path) -> None:
    path = tmp_path / "mnist_3_scale04_0001.aedat"
    t, x, y, on = (np.array(column) for column in ([5, 9, 2_000_004], [0, 127, 3], [1, 0, 127], [1, 0, 1]))
    write_dvs128(path, t, x, y, on)
    events = read_screen_digit(path)
    assert [list(column) for column in (events.t_us, events.x, events.y)] == [list(t), list(x), list(y)]
    assert list(events.p) == [1, -1, 1] and events.source == "AEDAT 2"
    old = np.zeros(1, [("address", ">u2"), ("t", ">u4")])
    old["address"], old["t"] = 5 << 8 | 7 << 1, 11
    first = decode_dvs128(b"#!AER-DAT1.0\n" + old.tobytes(), "old")
    assert (first.x[0], first.y[0], first.p[0], first.t_us[0]) == (120, 5, 1, 11)


def test_screen_images_count_events_by_window_polarity_and_cell() -> None:
    t, x, y, p = (np.array(column) for column in ([10, 11, 500, 1009], [0, 127, 64, 1], [0, 127, 63, 1], [1, -1, 1, 1]))
    images = screen_images(Events(t, x, y, p, 128, 128), 2, 4)
    cells = {(0, 1, 0, 0): 1, (0, 0, 3, 3): 1, (0, 1, 1, 2): 1, (1, 1, 0, 0): 1}
    assert {tuple(cell): int(images[tuple(cell)]) for cell in images.nonzero().tolist()} == cells
    empty = np.zeros(0, np.int64)
    assert not screen_images(Events(empty, empty, empty, empty, 128, 128), 2, 4, Movement()).any()


@needs_real
@pytest.mark.slow
def test_real_recordings_are_split_by_takes_and_tell_digits_apart() -> None:
    plain = EventAudioDigits(str(REAL), repair=False, augment=False, augment_audio=False)
    splits = plain.splits(0)
    assert splits.facts["audio_recordings"] == {"train": 2220, "validation": 240, "test": 240}
    assert sum(splits.facts["event_recordings"].values()) == 1000
    assert splits.facts["bad"] == 0
    train = [splits.train[i] for i in range(0, len(splits.train), 4)]
    test = [splits.test[i] for i in range(len(splits.test))]
    x, z = (torch.stack([s.inputs["audio"].flatten() for s in part]) for part in (train, test))
    y = torch.nn.functional.one_hot(torch.tensor([s.target for s in train]), 10).float()
    ridge = torch.linalg.solve(x.T @ x + 100 * torch.eye(x.shape[1]), x.T @ y)
    right = (z @ ridge).argmax(1) == torch.tensor([s.target for s in test])
    assert right.float().mean() > 0.8  # a linear reader of a quarter of the training recordings


def test_doctor_reads_all_of_it_and_names_what_is_wrong(root: Path, tmp_path: Path) -> None:
    counts: dict[str, Any] = {}
    assert check_event_audio_digits(root, counts) == []
    assert counts["fsdd_usable"] == 180 and counts["fsdd_speakers"] == 3 and counts["nmnist_usable"] == 60
    assert counts["mnist_dvs"] == {"scale4": 40} and counts["ntidigits_usable"] == 2 * 12 * 11
    assert counts["pairs"]["test"] > 0
    whats = [finding.what for finding in check_event_audio_digits(tmp_path)]
    assert len(whats) == 2 and "event digits" in whats[0] and "spoken digits" in whats[1]
    shutil.copytree(root / "nmnist", tmp_path / "nmnist")
    shutil.copytree(root / "fsdd", tmp_path / "fsdd")
    (tmp_path / "fsdd" / "4_bob_2.wav").write_bytes(b"RIFF")
    [finding] = check_event_audio_digits(tmp_path)
    assert finding.severity == "error" and "4_bob_2.wav" in finding.what and "1 recordings of fsdd" in finding.what
    write_mnist_dvs(tmp_path / "mnist_dvs", 4)
    (tmp_path / "mnist_dvs" / "grabbed_data0" / "scale4" / "mnist_0_scale04_0002.aedat").write_bytes(b"")
    assert any("mnist_0_scale04_0002" in finding.what for finding in check_event_audio_digits(tmp_path))
