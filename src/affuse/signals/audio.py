"""Sound: files into samples on the recording's clock, and log-mel features from them.

Files are read by PyAV (any container with a sound stream, so also a video's own sound); transforms are plain torch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from affuse.types import AffuseError

MAX_SECONDS = 3600.0
_MAX_BAD_PACKETS_IN_A_ROW = 256


@dataclass(frozen=True)
class Audio:
    """A mono recording.

    Args:
        samples: (n,), about [-1, 1].
        sample_rate_hz: samples a second.
        start_us: time of the first sample on the recording's clock, on which a video's first frame is 0.
        dropped: packets that could not be decoded.
    """

    samples: Float[Tensor, " n"]
    sample_rate_hz: int
    start_us: int = 0
    dropped: int = 0

    @property
    def duration_us(self) -> int:
        return round(len(self.samples) * 1e6 / self.sample_rate_hz)


def read_audio(path: str | Path, sample_rate_hz: int = 16_000, max_seconds: float = MAX_SECONDS) -> Audio:
    """The first sound stream of a file, mixed to mono and resampled.

    Args:
        path: any container and codec that FFmpeg reads: wav, flac, mp3, or a video.
        sample_rate_hz: of what comes back.
        max_seconds: a longer recording is an error, so that memory stays bounded.

    Raises:
        AffuseError: no such file, empty, no sound in it, nothing that can be decoded, or longer than `max_seconds`.
    """
    path = Path(path)
    if sample_rate_hz < 1 or max_seconds <= 0:
        raise AffuseError(f"sample_rate_hz and max_seconds must be positive, got {sample_rate_hz} and {max_seconds}")
    if not path.is_file():
        raise AffuseError(f"{path}: no such file" if not path.exists() else f"{path}: not a file")
    if path.stat().st_size == 0:
        raise AffuseError(f"{path}: the file is empty")
    try:
        # The 'file:' prefix keeps a name such as 'concat:...' from being read as an FFmpeg protocol.
        container = av.open(f"file:{path}", metadata_errors="ignore")
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise AffuseError(f"{path}: no sound file, or cut short ({_reason(error)}); copy it again") from None
    with container:
        if not container.streams.audio:
            raise AffuseError(f"{path}: holds no sound")
        return _decoded(container, path, sample_rate_hz, max_seconds)


def _decoded(container: av.container.InputContainer, path: Path, sample_rate_hz: int, max_seconds: float) -> Audio:
    stream = container.streams.audio[0]
    # The channels are averaged here: FFmpeg's own mix to mono raises what both channels share.
    resampler = av.AudioResampler(format="fltp", rate=sample_rate_hz)
    pieces: list[np.ndarray] = []
    count = dropped = bad_in_a_row = 0
    start_s: float | None = None
    packets = container.demux(stream)
    while bad_in_a_row <= _MAX_BAD_PACKETS_IN_A_ROW:
        try:
            packet = next(packets)
            frames = packet.decode()
            bad_in_a_row = 0
        except StopIteration:
            break
        except (av.error.FFmpegError, OSError):
            dropped += 1
            bad_in_a_row += 1
            continue
        for frame in frames:
            if not isinstance(frame, av.AudioFrame):
                continue
            if start_s is None:
                start_s = float(frame.time or 0.0)
            for resampled in resampler.resample(frame):
                pieces.append(resampled.to_ndarray().mean(0))
                count += len(pieces[-1])
        if count > max_seconds * sample_rate_hz:
            raise AffuseError(f"{path}: longer than {max_seconds:g} s: cut it, or raise max_seconds")
    if start_s is None:
        raise AffuseError(f"{path}: no sound can be decoded ({dropped} packets failed); copy it again")
    pieces += [rest.to_ndarray().mean(0) for rest in resampler.resample(None)]
    samples = torch.from_numpy(np.concatenate(pieces).astype(np.float32))
    return Audio(torch.nan_to_num(samples), sample_rate_hz, round((start_s - _video_start_s(container)) * 1e6), dropped)


def _video_start_s(container: av.container.InputContainer) -> float:
    """Time of the first frame beside the sound, which is where the recording's clock stands at 0."""
    for stream in container.streams.video:
        if stream.start_time is not None and stream.time_base is not None:
            return float(stream.start_time * stream.time_base)
    return 0.0


def frame_times_us(count: int, sample_rate_hz: int, window: int, hop: int, start_us: int = 0) -> Int[Tensor, " t"]:
    """Start of each window of `stft`, microseconds. `window` and `hop` are in samples."""
    if min(sample_rate_hz, window, hop) < 1:
        raise AffuseError(f"sample rate, window and hop must be positive, got {sample_rate_hz}, {window}, {hop}")
    steps = 1 + (count - window) // hop if count >= window else 0
    return start_us + torch.round(torch.arange(steps, dtype=torch.float64) * hop * 1e6 / sample_rate_hz).long()


def stft(samples: Float[Tensor, " n"], window: int, hop: int) -> Float[Tensor, "t f"]:
    """Power of each frequency in each whole window, Hann-weighted: |X|^2 of (t, window // 2 + 1).

    A recording shorter than one window gives no step. Nothing is padded, so that no step stands for sound that was not there.

    Args:
        samples: mono.
        window: its length, samples.
        hop: samples from one window to the next.
    """
    if min(window, hop) < 1:
        raise AffuseError(f"window and hop are positive numbers of samples, got {window} and {hop}")
    if len(samples) < window:
        return samples.new_zeros(0, window // 2 + 1)
    weight = torch.hann_window(window, dtype=samples.dtype, device=samples.device)
    return torch.fft.rfft(samples.unfold(0, window, hop) * weight).abs().square()


def mel_filters(bands: int, window: int, sample_rate_hz: int, low_hz: float, high_hz: float) -> Float[Tensor, "f k"]:
    """Triangles, evenly spaced and half overlapping in mel = 2595 log10(1 + f / 700), each 1 at its top: (f, bands).

    O'Shaughnessy, Speech Communication: Human and Machine, 1987 (the form HTK uses).

    Raises:
        AffuseError: the range is impossible, or so many bands that one of them holds no frequency.
    """
    if not 0 <= low_hz < high_hz <= sample_rate_hz / 2 or bands < 1:
        raise AffuseError(
            f"{bands} mel bands from {low_hz:g} to {high_hz:g} Hz are impossible at {sample_rate_hz} Hz: the range must "
            f"rise within [0, {sample_rate_hz / 2:g}]"
        )
    mel = torch.linspace(_mel(low_hz), _mel(high_hz), bands + 2, dtype=torch.float64)
    corners = 700 * (10 ** (mel / 2595) - 1)  # k + 2
    frequencies = torch.arange(window // 2 + 1, dtype=torch.float64) * sample_rate_hz / window  # f
    rising = (frequencies[:, None] - corners[:-2]) / (corners[1:-1] - corners[:-2])
    falling = (corners[2:] - frequencies[:, None]) / (corners[2:] - corners[1:-1])
    filters = torch.minimum(rising, falling).clamp(min=0)
    if not filters.any(0).all():
        raise AffuseError(
            f"{bands} mel bands are too many for a window of {window} samples at {sample_rate_hz} Hz: some hold no "
            "frequency; take fewer bands or a longer window"
        )
    return filters.float()


def log_mel(
    samples: Float[Tensor, " n"],
    sample_rate_hz: int,
    *,
    bands: int = 40,
    window: int = 400,
    hop: int = 160,
    low_hz: float = 20.0,
    high_hz: float | None = None,
    floor: float = 1e-6,
) -> Float[Tensor, "t k"]:
    """Natural log of the power in each mel band, (t, bands).

    Args:
        samples: mono.
        sample_rate_hz: samples a second.
        bands: mel bands (k).
        window, hop: samples; the defaults are 25 and 10 ms at 16 kHz.
        low_hz, high_hz: range of the bands; None: half the sample rate.
        floor: power that is added before the log, so that silence is finite.
    """
    high_hz = sample_rate_hz / 2 if high_hz is None else high_hz
    filters = mel_filters(bands, window, sample_rate_hz, low_hz, high_hz).to(samples)
    return torch.log(stft(samples, window, hop) @ filters + floor)


def _mel(hz: float) -> float:
    return 2595 * math.log10(1 + hz / 700)


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or type(error).__name__)
