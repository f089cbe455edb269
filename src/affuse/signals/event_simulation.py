"""A contrast-threshold event camera, so that any video can stand in for one.

Each pixel holds a reference of log intensity and compares with it. The model, in the words of Gallego et al., "Event-based
Vision: A Survey" (2020), section 2.4, with the flaws that Hu, Liu and Delbruck, "v2e" (2021), measured on real sensors:

* L = log(I + dark level), linear in time between two frames (Rebecq et al., "ESIM", 2018);
* an event of polarity p when p (L - reference) reaches the pixel's threshold for p; thresholds differ by pixel;
* then the pixel is held in reset for the refractory time, and its reference is L at the end of it;
* the reset switch leaks, so that the reference sinks and a still pixel sends positive events at the leak rate;
* shot noise: events of either polarity at random times, more where it is dark.

Between two frames a pixel's L is a straight line, so all its crossings have a closed form: no time steps.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from affuse.signals.event_stream import Events
from affuse.types import AffuseError

BRIGHT_NOISE = 0.25  # rate of shot noise at intensity 1 over that at 0, as in v2e
MINIMUM_THRESHOLD = 0.1  # of the nominal threshold: a mismatch drawn from a normal must not make a pixel fire for ever


def simulate_events(
    frames: Iterable[Any],
    times_us: Iterable[Any],
    *,
    threshold: float = 0.2,
    threshold_mismatch: float = 0.03,
    refractory_us: int = 100,
    leak_rate_hz: float = 0.1,
    shot_noise_rate_hz: float = 0.5,
    dark_level: float = 0.01,
    seed: int = 0,
) -> Events:
    """The events that an event camera would have sent of a video.

    Args:
        frames: linear intensity (not gamma-encoded; see `linear_luminance`), float >= 0 with 1 for white: an array or
            tensor (t, h, w), or an iterable of frames (h, w), of which two are held at a time.
        times_us: time of each frame, microseconds, rising by at least one; fractions of one are cut off.
        threshold: contrast threshold, natural log units.
        threshold_mismatch: standard deviation of the threshold over pixels and polarities, same units.
        refractory_us: dead time of a pixel after an event, microseconds.
        leak_rate_hz: positive events a second of a still pixel. Where it is not 0, the pixel starts at a random point of
            its leak cycle, as one that has been on for long; where it is 0, its reference is the first frame.
        shot_noise_rate_hz: noise events a second of a pixel at intensity 0; a quarter of it at intensity 1. They come on
            top, and neither see nor move the pixel's reference.
        dark_level: dark current in units of intensity; keeps the log finite and low light quiet.
        seed: of thresholds, leak and noise: the same seed and video give the same events.

    Returns:
        Events in order of time, from the first frame's time to the last's.

    Raises:
        AffuseError: frames that are not float, negative, not finite or of different sizes, times that do not rise, counts
            of frames and times that differ, no frame, or a parameter out of range.
    """
    if (
        not 0 < threshold < math.inf
        or dark_level <= 0
        or min(threshold_mismatch, refractory_us, leak_rate_hz, shot_noise_rate_hz) < 0
    ):
        raise AffuseError(
            "threshold and dark_level of an event camera must be positive, its mismatch, refractory time and noise rates "
            f"not negative: got {threshold}, {dark_level}, {threshold_mismatch}, {refractory_us}, {leak_rate_hz}, "
            f"{shot_noise_rate_hz}"
        )
    video = _timed_frames(frames, times_us)
    origin_us, first = next(video)
    height, width = first.shape
    rng = np.random.default_rng(seed)
    pixels = _Pixels(first.size, threshold, threshold_mismatch, float(refractory_us), leak_rate_hz, rng)
    before, before_us = first.ravel(), 0.0
    log_before = np.log(before + dark_level)
    found: list[tuple[NDArray[Any], NDArray[Any], NDArray[Any]]] = []
    for time_us, frame in video:
        if frame.shape != first.shape:
            raise AffuseError(f"the frame at {time_us} us has size {frame.shape}, the first one {first.shape}")
        now, now_us = frame.ravel(), float(time_us - origin_us)
        log_now = np.log(now + dark_level)
        signal = pixels.advance(before_us, now_us, (log_now - log_before) / (now_us - before_us))
        noise = _shot_noise(before, before_us, now_us, shot_noise_rate_hz, rng)
        when, pixel, sign = (np.concatenate(pair) for pair in zip(signal, noise, strict=True))
        order = np.argsort(when, kind="stable")
        found.append((when[order], pixel[order], sign[order]))
        before, before_us, log_before = now, now_us, log_now
    if not found:
        return _events([np.empty(0)] * 3, origin_us, height, width)
    return _events([np.concatenate(part) for part in zip(*found, strict=True)], origin_us, height, width)


def linear_luminance(rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Linear luminance (..., h, w) in [0, 1] of 8-bit sRGB frames (..., h, w, 3): what `simulate_events` takes.

    The transfer function of IEC 61966-2-1 undone, and the luminance weights of ITU-R BT.709.
    """
    code = np.arange(256) / 255
    linear = np.where(code <= 0.04045, code / 12.92, ((code + 0.055) / 1.055) ** 2.4)
    red, green, blue = (np.multiply(weight, linear, dtype=np.float32) for weight in (0.2126, 0.7152, 0.0722))
    return red[rgb[..., 0]] + green[rgb[..., 1]] + blue[rgb[..., 2]]


class _Pixels:
    """State of all pixels, (n,): distance of L from the reference, and until when each is held in reset (us)."""

    def __init__(
        self,
        n: int,
        threshold: float,
        mismatch: float,
        refractory_us: float,
        leak_rate_hz: float,
        rng: np.random.Generator,
    ) -> None:
        drawn = threshold + mismatch * rng.standard_normal((2, n))
        self.up, self.down = np.maximum(drawn, MINIMUM_THRESHOLD * threshold)  # thresholds of positive, negative events
        self.leak = threshold * leak_rate_hz / 1e6  # log units a microsecond
        self.refractory_us = refractory_us
        self.distance = self.up * rng.random(n) if leak_rate_hz else np.zeros(n)
        self.held_until = np.full(n, -np.inf)

    def advance(
        self, start_us: float, stop_us: float, slope: NDArray[np.float64]
    ) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Events (time, pixel, polarity), in no order, while L changes by `slope` (n,) a microsecond."""
        slope = slope + self.leak
        rate = np.abs(slope)
        rising = slope > 0
        size = np.where(rising, self.up, self.down)
        # Free at the start of this stretch, or let go within it, or held to its end.
        begin = np.maximum(start_us, self.held_until)
        distance = np.where(self.held_until > start_us, 0.0, self.distance)
        travel = np.maximum(size - np.where(rising, distance, -distance), 0.0)  # to the first crossing
        with np.errstate(divide="ignore", invalid="ignore"):
            first = begin + travel / rate
        self.distance = distance + slope * np.maximum(stop_us - begin, 0.0)
        # Crossings on the frame's very time belong to this stretch; the tolerance takes up rounding.
        fired = np.flatnonzero((rate > 0) & (first <= stop_us + 1e-6))
        first, period = first[fired], size[fired] / rate[fired] + self.refractory_us
        count = 1 + np.maximum(np.floor((stop_us - first) / period + 1e-9), 0).astype(np.int64)
        last = first + (count - 1) * period
        self.held_until[fired] = last + self.refractory_us
        self.distance[fired] = slope[fired] * np.maximum(stop_us - self.held_until[fired], 0.0)
        which = np.repeat(np.arange(len(fired)), count)
        step = np.arange(len(which)) - (np.cumsum(count) - count)[which]
        when = np.minimum(first[which] + step * period[which], stop_us)
        sign = np.where(rising[fired], 1, -1)
        return when, fired[which], sign[which]


def _shot_noise(
    intensity: NDArray[np.float64], start_us: float, stop_us: float, rate_hz: float, rng: np.random.Generator
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Poisson events (time, pixel, polarity), in no order, at `rate_hz` a dark pixel."""
    cumulative = np.cumsum(1 - (1 - BRIGHT_NOISE) * np.minimum(intensity, 1))
    count = int(rng.poisson(rate_hz * float(cumulative[-1]) * (stop_us - start_us) / 1e6))
    pixel = np.searchsorted(cumulative, rng.random(count) * cumulative[-1], side="right")
    return rng.uniform(start_us, stop_us, count), pixel, 2 * rng.integers(0, 2, count) - 1


def _timed_frames(frames: Iterable[Any], times_us: Iterable[Any]) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """Pairs of time and checked float64 frame (h, w); at least one."""
    before: int | None = None
    times = iter(times_us)
    for index, frame in enumerate(frames):
        given = next(times, None)
        if given is None:
            raise AffuseError(f"more frames than the {index} times: give a time for each frame")
        try:
            time = int(given)
        except (TypeError, ValueError, OverflowError):
            raise AffuseError(f"time {index} of the frames, {given!r}, is no number of microseconds") from None
        if before is not None and time <= before:  # whole ones are compared: seconds would rise and then all be 0
            raise AffuseError(
                f"time {index} of the frames, {given}, does not rise above the one before, {before}: give whole microseconds"
            )
        array = frame.detach().cpu().numpy() if isinstance(frame, torch.Tensor) else np.asarray(frame)
        if array.ndim != 2 or not array.size or array.dtype.kind != "f":
            raise AffuseError(
                f"frame {index} has shape {array.shape} and type {array.dtype}: give float frames (h, w) of linear "
                "intensity, by linear_luminance where they are 8-bit RGB"
            )
        if not bool((array >= 0).all()) or bool(np.isinf(array).any()):
            raise AffuseError(f"frame {index} holds negative or not finite intensities: clip it to [0, 1]")
        yield time, array.astype(np.float64)
        before = time
    if before is None:
        raise AffuseError("no frame to simulate events of")
    if next(times, None) is not None:
        raise AffuseError("more times than frames: give a frame for each time")


def _events(parts: list[NDArray[Any]], origin_us: int, height: int, width: int) -> Events:
    when, pixel, sign = parts
    y, x = np.divmod(pixel.astype(np.int64), width)
    # The floor keeps refractory times, which are whole: floor(t + r) - floor(t) = r. The tolerance takes up rounding.
    return Events(
        np.floor(when + 1e-3).astype(np.int64) + origin_us,
        x,
        y,
        sign.astype(np.int8),
        width,
        height,
        source="simulated",
    )
