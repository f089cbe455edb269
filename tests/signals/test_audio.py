"""Sound files become samples on the recording's clock, and log-mel features of the right bands."""

import math
import wave
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from affuse.data.sound_and_frames import cut
from affuse.signals.audio import Audio, frame_times_us, log_mel, mel_filters, read_audio, stft
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


def write_click(path: Path, codec: str, rate: int, silent_s: tuple[float, float] = (0, 0), cover: bool = False) -> Path:
    """Six seconds of a quiet tone with a click at 5.0 s; packets of `silent_s` are not sent."""
    samples = 0.05 * tone(330, 6.0, rate).numpy()
    samples[5 * rate : 5 * rate + 20] = 0.9
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, layout="mono")
        picture = container.add_stream("mjpeg", rate=1) if cover else None
        if picture is not None:
            picture.width, picture.height, picture.pix_fmt = 32, 32, "yuvj420p"
            picture.disposition = av.stream.Disposition.attached_pic
            container.start_encoding()
            image = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
            container.mux([*picture.encode(image), *picture.encode()])
        step = stream.codec_context.frame_size or 1024
        convert = av.AudioResampler(format=stream.codec_context.format.name, layout="mono", rate=rate)
        packets = []
        for start in range(0, len(samples), step):
            frame = av.AudioFrame.from_ndarray(samples[None, start : start + step].copy(), "fltp", "mono")
            frame.sample_rate, frame.pts = rate, start
            for converted in convert.resample(frame):
                converted.pts = start
                packets += stream.encode(converted)
        for packet in (*packets, *stream.encode()):
            if not silent_s[0] <= packet.pts * packet.time_base < silent_s[1]:
                container.mux(packet)
    return path


def click_s(audio: Audio) -> float:
    return int(audio.samples[48_000:].abs().argmax() + 48_000) / 16_000 + audio.start_us / 1e6


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


SENT = [
    ("a.mkv", "libopus", 48_000),
    ("a.mp4", "aac", 44_100),
    ("a.ts", "aac", 44_100),
    ("a.flv", "libmp3lame", 44_100),
]


@pytest.mark.parametrize(("name", "codec", "rate"), SENT)
def test_what_comes_after_a_hole_stands_at_its_time(tmp_path: Path, name: str, codec: str, rate: int) -> None:
    audio = read_audio(write_click(tmp_path / name, codec, rate, (2, 4)))
    assert click_s(audio) == pytest.approx(5.0, abs=0.03)
    assert audio.filled == pytest.approx(32_000, abs=500) and audio.dropped == 0
    assert not audio.samples[34_000:62_000].any() and audio.samples[:32_000].any()
    part = cut(audio, (4.9, 5.1), tmp_path / name)
    assert part.samples.abs().max() > 0.3 and part.filled == audio.filled


@pytest.mark.parametrize(
    ("name", "codec", "rate"), [*SENT, ("a.flac", "flac", 44_100), ("a.mp3", "libmp3lame", 22_050)]
)
def test_a_whole_sound_is_not_filled(tmp_path: Path, name: str, codec: str, rate: int) -> None:
    audio = read_audio(write_click(tmp_path / name, codec, rate))
    assert audio.filled == audio.dropped == 0 and click_s(audio) == pytest.approx(5.0, abs=0.03)


@pytest.mark.parametrize(("name", "codec"), [("a.m4a", "aac"), ("a.mkv", "libopus")])
def test_what_comes_after_damage_stands_at_its_time(tmp_path: Path, name: str, codec: str) -> None:
    path = write_click(tmp_path / name, codec, 48_000)
    with av.open(str(path)) as container:
        places = [(p.pos, p.size) for p in container.demux(audio=0) if p.size and 2 <= p.pts * p.time_base < 2.5]
    content = bytearray(path.read_bytes())
    noise = np.random.default_rng(0)
    for place, size in places:
        content[place : place + size] = noise.integers(0, 256, size, dtype=np.uint8).tobytes()
    path.write_bytes(content)
    audio = read_audio(path)
    assert audio.filled > 0 and click_s(audio) == pytest.approx(5.0, abs=0.005)


def test_times_that_lie_about_the_length_are_refused_without_making_room(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=16_000, layout="mono")
        for second in (0, 10_000_000):
            frame = av.AudioFrame.from_ndarray(np.ones((1, 1600), np.int16), "s16", "mono")
            frame.sample_rate, frame.pts = 16_000, second * 16_000
            container.mux(stream.encode(frame))
    with pytest.raises(AffuseError, match=r"a\.mkv: longer than 3600 s"):
        read_audio(tmp_path / "a.mkv")


@pytest.mark.parametrize("rate", [8_000, 44_100, 48_000, 192_000])
@pytest.mark.parametrize("count", [1, 2, 5, 100])
def test_a_sound_too_short_to_resample_has_few_samples_or_none(tmp_path: Path, rate: int, count: int) -> None:
    write_wav(tmp_path / "a.wav", torch.ones(count), rate)
    audio = read_audio(tmp_path / "a.wav")
    assert len(audio.samples) <= math.ceil(count * 16_000 / rate) and audio.samples.dtype == torch.float32
    if not len(audio.samples):
        with pytest.raises(AffuseError, match="no samples"):
            cut(audio, None, tmp_path / "a.wav")


@pytest.mark.parametrize("cover", [False, True])
@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_a_sound_without_a_video_starts_its_own_clock(tmp_path: Path, rate: int, cover: bool) -> None:
    audio = read_audio(write_click(tmp_path / "a.mp3", "libmp3lame", rate, cover=cover))
    assert audio.start_us == 0 and click_s(audio) == pytest.approx(5.0, abs=0.002)


def test_sound_that_starts_after_the_picture_says_when(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        video = container.add_stream("mpeg4", rate=Fraction(10))
        video.width, video.height, video.pix_fmt = 48, 32, "yuv420p"
        sound = container.add_stream("pcm_s16le", rate=16_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.ones((1, 8000), np.int16), "s16", "mono")
        frame.sample_rate, frame.pts = 16_000, 4_000
        for _ in range(10):
            container.mux(video.encode(av.VideoFrame.from_ndarray(np.zeros((32, 48, 3), np.uint8), format="rgb24")))
        container.mux([*video.encode(), *sound.encode(frame), *sound.encode()])
    audio = read_audio(tmp_path / "a.mkv")
    assert audio.start_us == 250_000 and audio.filled == 0


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
