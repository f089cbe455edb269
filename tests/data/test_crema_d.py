import os
import wave
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from affuse import AffuseError, Batch
from affuse.data.crema_d import CODES, LEVELS, SENTENCES, CremaD, CremaDName, read_published
from affuse.data.sound_and_frames import FrameSpec, SoundSpec, chosen_frames, frames_input, places, sound_input
from affuse.doctor import doctor, has_errors

REAL = Path(os.environ.get("AFFUSE_DATA", Path(__file__).parents[2] / "../shared/data")) / "annotations" / "cremad"
PARTS = ("train", "validation", "test")
FRAMES = FrameSpec(size=16, count=2, fps=5.0)


def write_wav(path: Path, seconds: float = 0.5) -> None:
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        tone = 9_000 * np.sin(np.arange(round(seconds * 16_000)) * 0.1)
        file.writeframes(tone.astype("<i2").tobytes())


def write_flv(path: Path, frames: int = 10) -> None:
    """Grey frames, each brighter than the one before, ten a second."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("flv1", rate=Fraction(10))
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        for number in range(frames):
            image = np.full((32, 48, 3), 20 + 20 * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


def write_crema_d(root: Path, actors: int = 5) -> Path:
    """Four clips of an actor with sound and video, and csv files that give the last actor's to the test."""
    lines: dict[str, list[str]] = {"train": [], "test": []}
    for folder in ("AudioWAV", "VideoFlash"):
        (root / folder).mkdir(parents=True)
    for actor in range(1001, 1001 + actors):
        for emotion in ("ANG", "NEU"):
            for sentence in ("IEO", "TIE"):
                name = f"{actor}_{sentence}_{emotion}_XX"
                write_wav(root / "AudioWAV" / f"{name}.wav")
                write_flv(root / "VideoFlash" / f"{name}.flv")
                lines["test" if actor == 1000 + actors else "train"].append(f"{name},{emotion}")
    for part, rows in lines.items():
        (root / f"{part}.csv").write_text("\n".join(rows) + "\n", encoding="utf-8-sig")
    return root


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_crema_d(tmp_path_factory.mktemp("made") / "crema_d")


@settings(max_examples=50)
@given(st.integers(1001, 1091), st.sampled_from(SENTENCES), st.sampled_from(CODES), st.sampled_from(LEVELS))
def test_a_name_is_read_into_its_fields(actor: int, sentence: str, emotion: str, level: str) -> None:
    assert CremaDName.parse(f"{actor}_{sentence}_{emotion}_{level}") == CremaDName(actor, sentence, emotion, level)


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("1001_IEO_ANG", "ACTOR_SENTENCE"),
        ("1092_IEO_ANG_HI", "actor '1092'"),
        ("1001_XXX_ANG_HI", "sentence 'XXX'"),
        ("1001_IEO_JOY_HI", "emotion 'JOY'"),
        ("1001_IEO_ANG_X", "level 'X'"),
    ],
)
def test_a_name_outside_the_grammar_is_an_error_that_names_the_field(name: str, named: str) -> None:
    with pytest.raises(AffuseError, match=named):
        CremaDName.parse(name)


def test_the_published_split_cuts_validation_out_of_training_by_emotion(small: Path) -> None:
    config = CremaD(str(small), validation_fraction=0.25, frames=FRAMES)
    splits = config.splits(0)
    assert splits.facts["counts"] == {"train": 12, "validation": 4, "test": 4}
    names = {p: [getattr(splits, p)._clips[i].name for i in range(len(getattr(splits, p)))] for p in PARTS}
    assert len({name for group in names.values() for name in group}) == 20
    assert sorted(CremaDName.parse(name).emotion for name in names["validation"]) == ["ANG", "ANG", "NEU", "NEU"]
    assert all(name.startswith("1005") for name in names["test"])
    assert splits.facts["subjects_shared"] and "1005" not in splits.facts["subjects_shared"]
    assert [clip.name for clip in config.splits(1).validation._clips] != names["validation"]  # type: ignore[attr-defined]


def test_the_speaker_disjoint_split_parts_actors(small: Path) -> None:
    facts = [CremaD(str(small), split="speaker_disjoint", frames=FRAMES).splits(seed).facts for seed in range(3)]
    assert all(f["subjects_shared"] == [] and f["speakers"] == {"train": 3, "validation": 1, "test": 1} for f in facts)


def test_a_sample_has_sound_and_frames_of_the_published_shapes(small: Path) -> None:
    splits = CremaD(str(small), frames=FRAMES).splits(0)
    sample = splits.test[0]
    assert sample.inputs["audio"].shape == (1, 1, 257, 188) and sample.inputs["video"].shape == (2, 3, 16, 16)
    assert sample.target == CODES.index("ANG") and sample.meta["subject"] == "1005"
    batch = Batch.collate([splits.test[i] for i in range(4)])
    assert batch.inputs["audio"].shape == (4, 1, 1, 257, 188) and bool(batch.present.all())


def test_only_training_is_augmented_and_by_the_global_seed(small: Path) -> None:
    config = CremaD(str(small), modalities=("video",), frames=FrameSpec(size=16, count=1, pick="random", fps=10.0))
    splits = config.splits(0)
    assert torch.equal(splits.test[0].inputs["video"], splits.test[0].inputs["video"])
    seen = []
    for seed in (1, 1, 2, 3):
        torch.manual_seed(seed)
        seen.append(splits.train[0].inputs["video"])
    assert torch.equal(seen[0], seen[1]) and not all(torch.equal(seen[0], other) for other in seen[2:])


def test_frames_are_taken_at_the_asked_rate(small: Path) -> None:
    path = next((small / "VideoFlash").iterdir())
    images = chosen_frames(path, FrameSpec(fps=5.0, count=5, pick="first"), False)
    grey = images.float().mean((1, 2, 3))
    assert grey.diff().tolist() == pytest.approx([40.0] * 4, abs=6)  # every other frame of a step of 20
    once = chosen_frames(path, FrameSpec(fps=1.0, count=3), False)
    assert torch.equal(once[0], once[2])  # one second of video holds one candidate, repeated


def test_after_a_gap_in_time_the_asked_rate_goes_on(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "gap.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "gray"
        for number in [*range(3), *range(50, 70)]:
            frame = av.VideoFrame.from_ndarray(np.full((32, 48), 3 * number, np.uint8), format="gray")
            frame.pts, frame.time_base = number, Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    images = chosen_frames(tmp_path / "gap.mkv", FrameSpec(fps=1.0, count=3, pick="first"), False)
    assert images.float().mean((1, 2, 3)).tolist() == pytest.approx([0, 150, 180], abs=3)  # seconds 0, 5 and 6


def test_the_misnamed_sound_of_the_data_set_finds_its_video(tmp_path: Path) -> None:
    root = write_crema_d(tmp_path / "made")
    (root / "AudioWAV" / "1001_IEO_ANG_XX.wav").rename(root / "AudioWAV" / "1040_ITH_SAD_X.wav")
    (root / "VideoFlash" / "1001_IEO_ANG_XX.flv").rename(root / "VideoFlash" / "1040_ITH_SAD_XX.flv")
    sounds, videos = CremaD(str(root)).find_files(root)
    assert sounds.keys() == videos.keys() and "1040_ITH_SAD_XX" in sounds


def test_a_folder_of_frames_stands_in_for_the_video(tmp_path: Path) -> None:
    root = write_crema_d(tmp_path / "c")
    for path in (root / "VideoFlash").iterdir():
        folder = root / "Image-01-FPS" / path.stem
        folder.mkdir(parents=True)
        for number in range(3):
            cv2.imwrite(str(folder / f"{number:05d}.jpg"), np.full((20, 20, 3), 60 * number, np.uint8))
        path.unlink()
    spec = FrameSpec(size=8, count=3, mean=(0.0,) * 3, std=(1.0,) * 3)
    video = CremaD(str(root), frames=spec).splits(0).test[0].inputs["video"]
    assert video.mean((1, 2, 3)).tolist() == pytest.approx([0.0, 60 / 255, 120 / 255], abs=0.01)


@settings(max_examples=40)
@given(st.integers(1, 60), st.integers(1, 8), st.sampled_from(["spread", "random", "first"]), st.booleans())
def test_places_are_in_order_and_within(available: int, count: int, pick: str, training: bool) -> None:
    found = places(available, FrameSpec(count=count, pick=pick), training)  # type: ignore[arg-type]
    assert len(found) == count and found == sorted(found) and found[0] >= 0 and found[-1] < available


@settings(max_examples=25)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 2**31))
def test_a_crop_of_any_picture_gives_the_asked_size(height: int, width: int, seed: int) -> None:
    torch.manual_seed(seed)
    images = torch.randint(0, 256, (2, 3, height, width), dtype=torch.uint8)
    assert frames_input(images, FrameSpec(size=12), True).shape == (2, 3, 12, 12)


@pytest.mark.parametrize("form", ["stft", "log_mel", "log_mel_sequence"])
def test_silence_and_a_single_sample_of_sound_are_finite(form: str) -> None:
    spec = SoundSpec(form=form, steps=3, bands=32)  # type: ignore[arg-type]
    for samples in (torch.zeros(1), torch.zeros(100_000), torch.ones(1)):
        image = sound_input(samples, spec)
        assert bool(image.isfinite().all()) and image.shape[0] == (3 if form != "log_mel_sequence" else 186)


def test_a_short_sound_is_repeated_and_steps_are_pieces_in_time() -> None:
    samples = torch.randn(20_000, generator=torch.Generator().manual_seed(0))
    once = sound_input(samples, SoundSpec())
    assert torch.equal(once, sound_input(samples.repeat(4), SoundSpec()))
    pieces = sound_input(samples, SoundSpec(steps=4))
    assert pieces.shape == (4, 1, 257, 47)
    assert torch.equal(torch.cat(list(pieces), dim=-1), once[0])


def test_the_spectrogram_of_a_tone_peaks_at_its_frequency() -> None:
    tone = torch.sin(2 * torch.pi * 1000 * torch.arange(66_150) / 22_050)
    row = sound_input(tone, SoundSpec())[0, 0].mean(1).argmax()
    assert int(row) == round(1000 / 22_050 * 512)


def test_stubs_empty_and_missing_files_are_named_by_reader_and_doctor(tmp_path: Path) -> None:
    root = write_crema_d(tmp_path / "c")
    assert not has_errors(doctor("crema_d", root))
    (root / "VideoFlash" / "1001_IEO_ANG_XX.flv").write_text("version https://git-lfs.github.com/spec/v1\noid x\n")
    (root / "AudioWAV" / "1002_IEO_ANG_XX.wav").write_bytes(b"")
    (root / "AudioWAV" / "1003_IEO_ANG_XX.wav").unlink()
    with pytest.raises(AffuseError, match=r"3 of 20 clips cannot be used .*max_bad_fraction"):
        CremaD(str(root)).splits(0)
    facts = CremaD(str(root), max_bad_fraction=0.2).splits(0).facts
    assert facts["bad"] == 3 and sum(facts["counts"].values()) == 17
    report = doctor("crema_d", root)
    text = " ".join(finding["what"] for finding in report["findings"] if finding["severity"] == "error")
    assert "a Git LFS pointer: VideoFlash/1001_IEO_ANG_XX.flv" in text
    assert "zero length: AudioWAV/1002_IEO_ANG_XX.wav" in text and "have no audio: 1003_IEO_ANG_XX" in text


@pytest.mark.skipif(not REAL.is_dir(), reason="AFFUSE_DATA holds no annotations of CREMA-D")
def test_the_real_csv_files_hold_the_published_split() -> None:
    parts = read_published(REAL)
    counts = {
        part: [sum(CremaDName.parse(n).emotion == c for n in names) for c in CODES] for part, names in parts.items()
    }
    assert counts == {"train": [973, 1148, 1131, 1138, 1142, 1166], "test": [114, 123, 140, 133, 129, 105]}
    actors = [{CremaDName.parse(name).actor for name in names} for names in parts.values()]
    assert len(actors[0] & actors[1]) == 91
