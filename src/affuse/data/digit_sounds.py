"""Spoken digits as steps: whatever the recording, sound or the spikes of a cochlea, a tensor (t, d) of a fixed number of steps.

A digit is cut into `steps` equal parts of its own length, and each part into `frames` frames of bands or channels, which lie
side by side in d = frames x bands. So a word said slowly and one said fast fill the same steps.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from affuse.signals.audio import Audio, mel_filters, stft
from affuse.signals.cochlea import Cochlea, CochleaSpikes
from affuse.types import AffuseError

AudioForm = Literal["log_mel", "stft", "cochlea"]
SILENCE = 1e-4  # a sound that never exceeds this share of full scale (-80 dB) is silence


@dataclass(frozen=True)
class SpokenDigit:
    """One recording of a digit.

    Args:
        name: its id.
        speaker: who says it.
        digit: 0 to 9.
        sound: a waveform, or the spikes of a cochlea that heard it.
        official: the split that the data set itself puts it into, where it has one.
    """

    name: str
    speaker: str
    digit: int
    sound: Audio | CochleaSpikes
    take: int = 0
    official: Literal["train", "test", ""] = ""


@dataclass(frozen=True)
class SoundFeatures:
    """How a spoken digit becomes numbers, and what may happen to it in training.

    Args:
        bands: mel bands of ``log_mel`` or channels of ``cochlea``; an STFT has window / 2 + 1 frequencies.
        frames: frames a step.
        window_ms, hop_ms: of the spectra, milliseconds; they are resampled to ``steps x frames`` frames.
        low_hz: lowest frequency.
        duration_ms: each recording is cut or filled with silence to this length; None: it is as long as it is.
        standardise: ``clip``: each band minus its mean over the clip, all over the clip's deviation, which takes the
            microphone and the loudness away; ``training``: each band by mean and deviation over the training recordings;
            ``none``. Spikes are not standardised: their counts go through log(1 + n).
        max_shift_ms: in training, up to this much is cut from or added to either end.
        max_speed: largest relative change of speed and with it of pitch.
        max_gain_db: largest change of loudness.
        min_noise_db: white noise is added at a signal-to-noise ratio from here up to 40 dB above; None: no noise.
        max_masked: largest share of bands, and of frames, that is set to the average.
        max_dropout: largest share of spikes that is dropped.
    """

    bands: int = 40
    frames: int = 4
    window_ms: float = 32.0
    hop_ms: float = 8.0
    low_hz: float = 60.0
    duration_ms: float | None = None
    standardise: Literal["training", "clip", "none"] = "training"
    max_shift_ms: float = 15.0
    max_speed: float = 0.0
    max_gain_db: float = 6.0
    min_noise_db: float | None = 30.0
    max_masked: float = 0.0
    max_dropout: float = 0.2

    def __post_init__(self) -> None:
        if min(self.bands, self.frames) < 1 or min(self.window_ms, self.hop_ms) <= 0:
            raise AffuseError(
                f"bands, frames, window_ms and hop_ms of the sound must be positive: {self.bands}, {self.frames}, "
                f"{self.window_ms}, {self.hop_ms}"
            )
        if self.duration_ms is not None and self.duration_ms < 2 * self.window_ms:
            raise AffuseError(f"duration_ms must be at least two windows, got {self.duration_ms}")
        if not (0 <= self.max_speed < 0.5 and 0 <= self.max_masked < 1 and 0 <= self.max_dropout < 1):
            raise AffuseError("max_speed is a share below 0.5, max_masked and max_dropout are shares below 1")
        if min(self.max_shift_ms, self.max_gain_db) < 0:
            raise AffuseError("max_shift_ms and max_gain_db cannot be negative")


class SoundEncoder:
    """Spoken digits into tensors (steps, d).

    Args:
        form: ``log_mel``, ``stft`` (log power of each frequency) or ``cochlea`` (spike counts).
        features: settings.
        steps: of the result (t).
    """

    def __init__(self, form: AudioForm, features: SoundFeatures, steps: int) -> None:
        self.form, self.features, self.steps = form, features, steps
        self.mean: Tensor | None = None
        self.deviation: Tensor | None = None

    def fit(self, recordings: Iterable[SpokenDigit]) -> None:
        """Keep mean and deviation of each band over these recordings, where the settings ask for it."""
        if self.features.standardise != "training" or self.form == "cochlea":
            return
        known = [bands for one in recordings if not silent(one.sound) for bands in [self._bands(one.sound, False)]]
        if not known:
            raise AffuseError("standardise: training needs a training recording that is not silent")
        everything = torch.cat(known)  # n k
        self.mean, self.deviation = everything.mean(0), everything.std(0).clamp(min=1e-3)

    def encode(self, sound: Audio | CochleaSpikes, augment: bool = False) -> Float[Tensor, "t d"]:
        """One recording; silence is all zeros. `augment` draws from torch's global generator."""
        bands = self._bands(sound, augment)  # t*frames k
        if silent(sound):
            bands = torch.zeros_like(bands)
        elif self.form == "cochlea":
            bands = bands.log1p()
        else:
            bands = self._standardised(bands)
            if augment:
                bands = _mask(_mask(bands, self.features.max_masked).T, self.features.max_masked).T
        return bands.reshape(self.steps, -1)

    def _standardised(self, bands: Tensor) -> Tensor:
        if self.features.standardise == "clip":
            bands = bands - bands.mean(0)
            return bands / bands.std(correction=0).clamp(min=1e-3)
        if self.features.standardise == "training":
            if self.mean is None or self.deviation is None:
                raise AffuseError("standardise: training: call fit with the training recordings first")
            return (bands - self.mean) / self.deviation
        return bands

    def _bands(self, sound: Audio | CochleaSpikes, augment: bool) -> Float[Tensor, "n k"]:
        count = self.steps * self.features.frames
        if isinstance(sound, Audio):
            samples = _with_duration(sound.samples, sound.sample_rate_hz, self.features.duration_ms)
            if augment:
                samples = distort(samples, sound.sample_rate_hz, self.features)
            if self.form != "cochlea":
                return _resampled(self._spectrum(samples, sound.sample_rate_hz), count)
            # Spikes depend on loudness, which tells the microphone and not the digit: every clip is made as loud.
            peak = samples.abs().max() if len(samples) else samples.new_zeros(())
            loud = samples / peak if float(peak) > SILENCE else torch.zeros_like(samples)
            low_hz = max(self.features.low_hz, 50.0)
            sound = Cochlea(channels=self.features.bands, low_hz=low_hz).spikes(loud, sound.sample_rate_hz)
        elif self.form != "cochlea":
            raise AffuseError(
                f"audio_form: {self.form} is made from sound, and these recordings are spikes: use cochlea"
            )
        elif augment:
            sound = _thinned(sound, self.features.max_dropout)
        return sound.binned(count)

    def _spectrum(self, samples: Tensor, rate_hz: int) -> Float[Tensor, "n k"]:
        window, hop = (max(2, round(ms * rate_hz / 1e3)) for ms in (self.features.window_ms, self.features.hop_ms))
        # Half a window of silence on either side: the first frame is centred on the first sample.
        power = stft(functional.pad(samples, (window // 2, max(window // 2, window - len(samples)))), window, hop)
        if self.form == "log_mel":
            power = power @ _filters(self.features.bands, window, rate_hz, self.features.low_hz)
        # 60 dB below the loudest is the floor: what lies under it is the recording's noise.
        return (power + power.max() * 1e-6 + 1e-12).log()


def silent(sound: Audio | CochleaSpikes) -> bool:
    """Whether nothing can be heard: no sample above -80 dB of full scale, or no spike."""
    if isinstance(sound, CochleaSpikes):
        return len(sound) == 0
    return not len(sound.samples) or float(sound.samples.abs().max()) <= SILENCE


def distort(samples: Float[Tensor, " n"], rate_hz: int, features: SoundFeatures) -> Float[Tensor, " k"]:
    """A recording as another speaker, microphone and moment might have given it: speed, ends, loudness, noise."""
    speed, start, stop, gain, noise = (2 * torch.rand(5) - 1).tolist()
    count = round(len(samples) / (1 + speed * features.max_speed))
    if count > 1:
        samples = functional.interpolate(samples[None, None], count, mode="linear", align_corners=True)[0, 0]
    # No end loses more than a tenth of the sound, however short it is.
    most = min(features.max_shift_ms * rate_hz / 1e3, len(samples) / 10)
    samples = functional.pad(samples, (round(start * most), round(stop * most)))  # a negative pad cuts
    if features.min_noise_db is not None and len(samples):
        ratio_db = features.min_noise_db + (noise + 1) * 20
        level = samples.square().mean().sqrt() * 10 ** (-ratio_db / 20)
        samples = samples + level * torch.randn_like(samples)
    return samples * 10 ** (gain * features.max_gain_db / 20)


def _with_duration(samples: Tensor, rate_hz: int, duration_ms: float | None) -> Tensor:
    if duration_ms is None:
        return samples
    return functional.pad(samples, (0, round(duration_ms * rate_hz / 1e3) - len(samples)))


def _resampled(bands: Tensor, count: int) -> Tensor:
    """Frames (n, k) interpolated to `count` of them, averaging where there are more."""
    mode = "area" if len(bands) >= 2 * count else "linear"
    corners = None if mode == "area" else True
    return functional.interpolate(bands.T[None], count, mode=mode, align_corners=corners)[0].T


def _mask(bands: Tensor, most: float) -> Tensor:
    """One run of rows, up to this share of them, at 0, which is the average."""
    width, place = torch.rand(2).tolist()
    rows = math.floor(width * most * len(bands) + 0.5)
    first = math.floor(place * (len(bands) - rows + 1))
    bands = bands.clone()
    bands[first : first + rows] = 0
    return bands


def _thinned(spikes: CochleaSpikes, most: float) -> CochleaSpikes:
    keep = torch.rand(len(spikes)) >= torch.rand(()) * most
    return CochleaSpikes(spikes.t_us[keep], spikes.channel[keep], spikes.channels, spikes.duration_us)


@functools.lru_cache(maxsize=8)
def _filters(bands: int, window: int, rate_hz: int, low_hz: float) -> Tensor:
    return mel_filters(bands, window, rate_hz, low_hz, rate_hz / 2)
