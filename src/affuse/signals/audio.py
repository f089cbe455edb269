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
from av.stream import Disposition
from jaxtyping import Float, Int
from torch import Tensor

from affuse.types import AffuseError

MAX_SECONDS = 3600.0
_MAX_BAD_PACKETS_IN_A_ROW = 256
_HOLE_S = 0.010  # containers round times, Matroska to 1 ms; a hole is longer


@dataclass(frozen=True)
class Audio:
    """A mono recording.

    Args:
        samples: (n,), about [-1, 1].
        sample_rate_hz: samples a second.
        start_us: time of the first sample on the recording's clock, on which a video's first frame is 0; in a file without
            a video that is where its sound starts.
        dropped: packets that could not be decoded.
        filled: how many of the samples are zeros in place of sound that the file does not hold: what was never recorded or
            sent, or could not be decoded.
    """

    samples: Float[Tensor, " n"]
    sample_rate_hz: int
    start_us: int = 0
    dropped: int = 0
    filled: int = 0

    @property
    def duration_us(self) -> int:
        return round(len(self.samples) * 1e6 / self.sample_rate_hz)


def read_audio(path: str | Path, sample_rate_hz: int = 16_000, max_seconds: float = MAX_SECONDS) -> Audio:
    """The first sound stream of a file, mixed to mono and resampled.

    Where the file's own times leave a hole of more than 10 ms there are zeros, as many as `Audio.filled` says, so that what
    comes after stands at its time. A sound too short to be resampled, of a few milliseconds, has no samples.

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
    line = _Line(sample_rate_hz, math.ceil(max_seconds * sample_rate_hz))
    dropped = bad_in_a_row = 0
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
        # AVI stores no times: FFmpeg counts bytes, which goes wrong in sound of varying rate, so only damage makes a hole.
        timed = container.format.name != "avi" or dropped > 0
        for frame in frames:
            if isinstance(frame, av.AudioFrame):
                line.put(frame, timed)
        if line.count > max_seconds * sample_rate_hz:
            raise AffuseError(f"{path}: longer than {max_seconds:g} s: cut it, or raise max_seconds")
    if line.start_s is None:
        raise AffuseError(f"{path}: no sound can be decoded ({dropped} packets failed); copy it again")
    samples = torch.nan_to_num(torch.from_numpy(line.samples()))
    start_us = round((line.start_s - _zero_s(container)) * 1e6)
    return Audio(samples, sample_rate_hz, start_us, dropped, line.filled)


class _Line:
    """Decoded frames, mono and resampled, each at its time after the first."""

    def __init__(self, sample_rate_hz: int, most: int) -> None:
        self.start_s: float | None = None
        self.count = self.filled = 0
        self._due_s = 0.0  # when the next frame starts, if nothing is missing before it
        self._rate_hz = sample_rate_hz
        self._most = most
        self._pieces: list[np.ndarray] = []
        self._kind: tuple[str, str, int] | None = None  # of the frames that the resampler takes
        self._resampler: av.AudioResampler | None = None

    def put(self, frame: av.AudioFrame, timed: bool) -> None:
        """Append a frame; one that is `timed` may leave a hole before it."""
        time_s = None if frame.time is None else float(frame.time)
        if self.start_s is None:
            self.start_s = self._due_s = time_s or 0.0
        kind = frame.format.name, frame.layout.name, frame.sample_rate
        hole = timed and time_s is not None and time_s > self._due_s + _HOLE_S
        if self._resampler is None or hole or kind != self._kind:
            self._end_piece()
            # The channels are averaged here: FFmpeg's own mix to mono raises what both channels share.
            self._resampler = av.AudioResampler(format="fltp", rate=self._rate_hz)
            self._kind = kind
        if hole and time_s is not None:
            self._fill(time_s - self.start_s)
            self._due_s = time_s
        self._due_s += frame.samples / frame.sample_rate
        self._append(self._resampler.resample(frame))

    def samples(self) -> np.ndarray:
        """All of them, float32."""
        self._end_piece()
        return np.concatenate([np.zeros(0, np.float32), *self._pieces]).astype(np.float32)

    def _end_piece(self) -> None:
        if self._resampler is not None:
            self._append(self._resampler.resample(None))

    def _append(self, frames: list[av.AudioFrame]) -> None:
        for frame in frames:
            self._pieces.append(frame.to_ndarray().mean(0))
            self.count += len(self._pieces[-1])

    def _fill(self, stop_s: float) -> None:
        missing = max(0, round(min(stop_s * self._rate_hz, self._most + 1)) - self.count)
        self._pieces.append(np.broadcast_to(np.float32(0), missing))  # takes no memory yet: a file can lie about times
        self.count += missing
        self.filled += missing


def _zero_s(container: av.container.InputContainer) -> float:
    """Where the recording's clock stands at 0: the first frame beside the sound; without a video, where the sound starts.

    An encoder's delay, which decoding cuts off, makes a sound of its own start late by FFmpeg's clock.
    """
    videos = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]  # that is a cover
    for stream in videos or container.streams.audio[:1]:
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
