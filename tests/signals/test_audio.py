"""Sound files become samples on the recording's clock, and log-mel features of the right bands."""

import math
import wave
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from affuse.signals.audio import frame_times_us, log_mel, mel_filters, read_audio, stft
from affuse.types import AffuseError


def tone(hz: float, seconds: float = 0.5, rate: int = 16_000) -> torch.Tensor:
    return torch.sin(2 * math.pi * hz * torch.arange(int(seconds * rate)) / rate)


def write_wav(path: Path, samples: torch.Tensor, rate: int, channels: int = 1) -> None:
    data = (samples.repeat_interleave(channels).numpy() * 32767 * 0.5).astype("<i2")
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(data.tobytes())


@pytest.mark.parametrize("channels", [1, 2])
def test_a_wav_comes_back_as_it_was_written(tmp_path: Path, channels: int) -> None:
    samples = tone(440)
    write_wav(tmp_path / "a.wav", samples, 16_000, channels)
    audio = read_audio(tmp_path / "a.wav")
    assert audio.sample_rate_hz == 16_000 and audio.start_us == 0 and audio.dropped == 0
    assert len(audio.samples) == len(samples)
    assert torch.allclose(audio.samples, samples / 2, atol=1e-3)


def test_resampling_keeps_the_duration_and_the_tone(tmp_path: Path) -> None:
    write_wav(tmp_path / "a.wav", tone(440, 1.0, 44_100), 44_100)
    audio = read_audio(tmp_path / "a.wav")
    assert abs(audio.duration_us - 1_000_000) < 2_000
    power = torch.fft.rfft(audio.samples).abs()
    assert abs(int(power.argmax()) / (len(audio.samples) / 16_000) - 440) < 1.5


@given(hz=st.floats(120, 7600))
@settings(max_examples=25)
def test_a_tone_is_loudest_in_the_band_it_lies_in(hz: float) -> None:
    features = log_mel(tone(hz), 16_000, bands=32)
    mel = torch.linspace(2595 * math.log10(1 + 20 / 700), 2595 * math.log10(1 + 8000 / 700), 34)
    centres = 700 * (10 ** (mel[1:-1] / 2595) - 1)
    nearest = int((centres - hz).abs().argmin())
    assert (features.argmax(1) - nearest).abs().max() <= 1


def test_power_follows_parseval() -> None:
    generator = torch.Generator().manual_seed(0)
    samples = torch.randn(800, generator=generator, dtype=torch.float64)
    power = stft(samples, 200, 100)
    assert power.shape == (7, 101)
    weighted = samples[100:300] * torch.hann_window(200, dtype=torch.float64)
    twice = torch.cat([power[1, :1], 2 * power[1, 1:-1], power[1, -1:]]).sum() / 200
    assert torch.allclose(twice, weighted.square().sum())


def test_filters_are_triangles_that_sum_to_one_between_the_outer_tops() -> None:
    filters = mel_filters(20, 512, 16_000, 0.0, 8_000.0)
    peaks = filters.argmax(0)
    assert (peaks.diff() > 0).all()
    assert torch.allclose(
        filters[peaks[0] + 1 : peaks[-1]].sum(1), torch.ones(int(peaks[-1] - peaks[0]) - 1), atol=1e-5
    )


def test_times_are_the_starts_of_whole_windows() -> None:
    samples = tone(100, 0.1)
    times = frame_times_us(len(samples), 16_000, 400, 160, start_us=5_000)
    assert len(times) == len(log_mel(samples, 16_000)) == 8
    assert times[:2].tolist() == [5_000, 15_000]
    assert len(log_mel(tone(100, 0.01), 16_000)) == len(frame_times_us(160, 16_000, 400, 160)) == 0


def test_silence_is_finite() -> None:
    assert torch.isfinite(log_mel(torch.zeros(4_000), 16_000)).all()


def test_impossible_settings_are_errors() -> None:
    with pytest.raises(AffuseError, match="mel bands"):
        log_mel(tone(100), 16_000, high_hz=9_000.0)
    with pytest.raises(AffuseError, match="too many"):
        mel_filters(400, 400, 16_000, 0.0, 8_000.0)


@pytest.mark.parametrize("content", [b"", b"RIFF", b"not sound at all" * 100])
def test_what_is_no_sound_is_one_clear_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.wav").write_bytes(content)
    with pytest.raises(AffuseError, match=r"bad\.wav"):
        read_audio(tmp_path / "bad.wav")


def test_too_long_a_recording_is_refused(tmp_path: Path) -> None:
    write_wav(tmp_path / "a.wav", tone(440, 1.0), 16_000)
    with pytest.raises(AffuseError, match="longer than"):
        read_audio(tmp_path / "a.wav", max_seconds=0.5)


def test_real_speech_and_a_videos_own_sound(real_data: Path) -> None:
    clip = sorted((real_data / "ravdess" / "audio").glob("*.flac"))[0]
    speech = read_audio(clip)
    assert 2e6 < speech.duration_us < 8e6
    features = log_mel(speech.samples, 16_000)
    assert torch.isfinite(features).all() and features.std() > 1
    sound = read_audio(real_data / "faces" / "single_face.mp4")
    assert 2.2e6 < sound.duration_us < 2.6e6
    with pytest.raises(AffuseError, match="no sound"):
        read_audio(real_data / "faces" / "single_face.jpg")


def test_digits_of_one_kind_sound_alike(real_data: Path) -> None:
    """Mean log-mel vectors of the same digit by one speaker lie nearer than those of different digits."""
    folder = real_data / "fsdd"
    means = {}
    for digit in (0, 6):
        for take in (5, 6, 7):
            path = next(folder.rglob(f"{digit}_jackson_{take}.wav"))
            audio = read_audio(path, 8_000)
            means[digit, take] = log_mel(audio.samples, 8_000, window=200, hop=80, bands=24).mean(0).numpy()
    same = [np.linalg.norm(means[d, a] - means[d, b]) for d in (0, 6) for a, b in ((5, 6), (6, 7), (5, 7))]
    other = [np.linalg.norm(means[0, a] - means[6, b]) for a in (5, 6, 7) for b in (5, 6, 7)]
    assert np.mean(same) < np.mean(other)
