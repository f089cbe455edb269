"""A cochlea-like encoder: sound into spikes of channels, as a silicon cochlea gives them.

Along the way of the sound: a bank of gammatone filters stands for the basilar membrane, half-wave rectification and a power
law for the hair cells, leaky integrate-and-fire neurons for the nerve. Everything is fixed and deterministic, and silence
gives no spike.

Sources: gammatone filters, Patterson et al., "Complex sounds and auditory images", 1992; their widths and spacing (ERB),
Glasberg and Moore, Hearing Research 47, 1990; a spiking cochlea as the sensor of spoken digits, Anumula et al., Frontiers in
Neuroscience 12:23, 2018 (N-TIDIGITS18). The compression and the neuron's constants are our choice: that sensor's own depend
on its biases.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from affuse.ops.lif import lif
from affuse.types import AffuseError

MAX_SECONDS = 60.0  # the filtered sound is channels x samples
_ORDER = 4
_RESPONSE_S = 0.064  # the slowest filter's envelope, at 50 Hz, has decayed to 1 % of its peak by then


@dataclass(frozen=True, eq=False)
class CochleaSpikes:
    """Spikes of the channels of a cochlea, in order of time.

    Args:
        t_us: times (n,), microseconds from the start of the recording, never falling.
        channel: (n,), in [0, channels).
        channels: their number.
        duration_us: of the recording; no spike is later.

    Raises:
        AffuseError: lengths differ, time falls or leaves the recording, or a channel is out of range.
    """

    t_us: Int[Tensor, " n"]
    channel: Int[Tensor, " n"]
    channels: int
    duration_us: int

    def __post_init__(self) -> None:
        if len(self.t_us) != len(self.channel) or self.channels < 1 or self.duration_us < 0:
            raise AffuseError(
                f"cochlea spikes need one time and one channel each, got {len(self.t_us)} times and {len(self.channel)} "
                f"channels of {self.channels} in {self.duration_us} us"
            )
        if not len(self.t_us):
            return
        if bool((self.t_us[1:] < self.t_us[:-1]).any()):
            raise AffuseError("the times of cochlea spikes go backwards: sort them")
        if int(self.t_us[0]) < 0 or int(self.t_us[-1]) > self.duration_us:
            raise AffuseError(
                f"cochlea spikes from {int(self.t_us[0])} to {int(self.t_us[-1])} us leave the recording of "
                f"{self.duration_us} us"
            )
        if int(self.channel.min()) < 0 or int(self.channel.max()) >= self.channels:
            raise AffuseError(f"a cochlea spike is outside of the channels 0 to {self.channels - 1}")

    def __len__(self) -> int:
        return len(self.t_us)

    def binned(self, steps: int) -> Float[Tensor, "t k"]:
        """Spikes counted in `steps` equal windows of the recording and by channel: (steps, channels)."""
        if steps < 1:
            raise AffuseError(f"steps must be positive, got {steps}")
        step = (self.t_us.long() * steps // max(self.duration_us, 1)).clamp(max=steps - 1)
        counts = torch.bincount(step * self.channels + self.channel.long(), minlength=steps * self.channels)
        return counts.reshape(steps, self.channels).float()


@dataclass(frozen=True)
class Cochlea:
    """The encoder's settings.

    Args:
        channels: filters, evenly spaced on the ERB-rate scale (k).
        low_hz: centre of the lowest.
        high_hz: centre of the highest; None: 0.45 of the sample rate.
        exponent: of the power law that compresses the rectified sound, whose full scale is 1.
        gain: current, in thresholds, that full scale drives a neuron with; what stays below 1 gives no spike.
        tau_ms: time constant of the neuron's leak.
    """

    channels: int = 64
    low_hz: float = 100.0
    high_hz: float | None = None
    exponent: float = 0.3
    gain: float = 10.0
    tau_ms: float = 5.0

    def __post_init__(self) -> None:
        if self.channels < 2 or self.low_hz < 50 or min(self.exponent, self.gain, self.tau_ms) <= 0:
            raise AffuseError(
                f"Cochlea: at least two channels from 50 Hz upwards, and a positive exponent, gain and tau_ms: {self}"
            )

    def spikes(self, samples: Float[Tensor, " n"], sample_rate_hz: int) -> CochleaSpikes:
        """Encode a mono recording.

        Args:
            samples: about [-1, 1].
            sample_rate_hz: samples a second.

        Raises:
            AffuseError: the channels do not fit below half the sample rate, or the recording is longer than a minute.
        """
        filtered = self.filter(samples, sample_rate_hz)  # k n
        leak = math.exp(-1e3 / (sample_rate_hz * self.tau_ms))
        with torch.no_grad():
            current = self.gain * filtered.clamp(min=0).pow(self.exponent)  # k n
            fired, _ = lif((1 - leak) * current.T.contiguous(), tau=leak, threshold=1.0)  # n k
        index, channel = fired.nonzero(as_tuple=True)
        t_us = torch.div(index * 1_000_000, sample_rate_hz, rounding_mode="floor")
        return CochleaSpikes(t_us, channel, self.channels, len(samples) * 1_000_000 // sample_rate_hz)

    def filter(self, samples: Float[Tensor, " n"], sample_rate_hz: int) -> Float[Tensor, "k n"]:
        """The sound in each channel (k, n); causal, and of gain 1 at a channel's own frequency."""
        if sample_rate_hz < 1 or len(samples) > MAX_SECONDS * sample_rate_hz:
            raise AffuseError(f"the cochlea takes at most {MAX_SECONDS:g} s at once: cut the recording")
        high_hz = 0.45 * sample_rate_hz if self.high_hz is None else self.high_hz
        if not self.low_hz < high_hz < sample_rate_hz / 2:
            raise AffuseError(
                f"Cochlea: channels from {self.low_hz:g} to {high_hz:g} Hz are impossible at {sample_rate_hz} Hz"
            )
        response = gammatone(self.channels, self.low_hz, high_hz, sample_rate_hz)  # k r
        length = 2 ** math.ceil(math.log2(len(samples) + response.shape[1]))
        spectrum = torch.fft.rfft(samples.float(), length) * torch.fft.rfft(response, length)
        filtered = torch.fft.irfft(spectrum, length)[:, : len(samples)]
        # The transform's rounding errors are no sound: without this, the quiet before a loud click would fire.
        floor = 1e-6 * float(samples.abs().max()) if len(samples) else 0.0
        return torch.where(filtered.abs() > floor, filtered, 0.0)


@functools.lru_cache(maxsize=8)
def gammatone(channels: int, low_hz: float, high_hz: float, sample_rate_hz: int) -> Float[Tensor, "k r"]:
    """Impulse responses t^3 exp(-2 pi 1.019 ERB(f) t) cos(2 pi f t), gain 1 at f; f evenly spaced in ERB rate.

    Lowest frequency first; not to be written to.
    """
    rate = torch.linspace(_erb_rate(low_hz), _erb_rate(high_hz), channels, dtype=torch.float64)
    centre = (10 ** (rate / 21.4) - 1) / 0.00437  # k
    width = 1.019 * 24.7 * (0.00437 * centre + 1)
    t = torch.arange(round(_RESPONSE_S * sample_rate_hz), dtype=torch.float64) / sample_rate_hz  # r
    envelope = t ** (_ORDER - 1) * torch.exp(-2 * math.pi * width[:, None] * t)
    phase = 2 * math.pi * centre[:, None] * t
    response = envelope * torch.cos(phase)
    at_centre = (response * torch.exp(-1j * phase)).sum(1)  # k
    return (response / at_centre.abs()[:, None]).float()


def _erb_rate(hz: float) -> float:
    return 21.4 * math.log10(1 + 0.00437 * hz)
