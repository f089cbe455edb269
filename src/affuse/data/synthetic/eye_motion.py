"""How the eye of the synthetic world moves: facial action units in time, gaze, blinks and the unrest of a head.

Action units (AU) are those of the Facial Action Coding System (Ekman, Friesen and Hager, 2002), as far as an eye shows
them; which of them an expression has follows EMFACS (Friesen and Ekman, 1983). An intensity of 1 is FACS level E.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# SEE's classes with their action units at full strength. 43 is a drooping lid here, 45 a blink, which means nothing.
EXPRESSIONS: dict[str, dict[int, float]] = {
    "happiness": {6: 1.0, 7: 0.2},
    "sadness": {1: 0.8, 4: 0.45, 43: 0.5},
    "angry": {4: 1.0, 5: 0.45, 7: 0.6},
    "disgust": {9: 1.0, 4: 0.3, 7: 0.4},
    "surprise": {1: 0.9, 2: 1.0, 5: 0.9},
    "fear": {1: 0.9, 2: 0.5, 4: 0.5, 5: 0.9, 7: 0.35},
    "neutral": {},
}
ACTION_UNITS = (1, 2, 4, 5, 6, 7, 9, 43, 45)


@dataclass(frozen=True)
class Motion:
    """What moves, at each of t times.

    Args:
        units: intensity (t,) in [0, 1] by action unit; every unit of `ACTION_UNITS`.
        gaze: (t, 2), right and down, of the eyeball's largest turn.
        head: (t, 2), shift right and down in half image widths.
        onset_s: when the first action unit sets in, seconds; None where the face stays neutral.
    """

    units: dict[int, NDArray[np.float32]]
    gaze: NDArray[np.float32]
    head: NDArray[np.float32]
    onset_s: float | None


def still(times: int) -> Motion:
    """A face at rest that looks straight ahead, over `times` steps."""
    zero = np.zeros((times, 2), np.float32)
    return Motion({unit: np.zeros(times, np.float32) for unit in ACTION_UNITS}, zero, zero, None)


def draw_motion(
    expression: str,
    times_s: NDArray[np.float64],
    rng: np.random.Generator,
    *,
    intensity: tuple[float, float],
    blink_probability: float,
    head_motion: float,
) -> Motion:
    """One take of an expression.

    Args:
        expression: a key of `EXPRESSIONS`.
        times_s: times (t,) seconds, evenly spaced; the recording starts before the onset.
        intensity: range of the take's strength; each action unit then varies around it.
        blink_probability: share of takes with a blink, which falls at any time.
        head_motion: standard deviation of the head's shift, half image widths.
    """
    length = float(times_s[-1])
    strength = rng.uniform(*intensity)
    onset = rng.uniform(-0.7, 0.4) * length
    apex_end = max(onset + 0.4, rng.uniform(0.55, 1.3) * length)  # beyond the end: it stops before the face relaxes
    units = {unit: np.zeros(len(times_s), np.float32) for unit in ACTION_UNITS}
    starts = []
    for unit, weight in EXPRESSIONS[expression].items():
        level = np.clip(strength * weight * rng.uniform(0.75, 1.2), 0, 1)
        start = onset + rng.uniform(0, 0.1)
        starts.append(start)
        rise, fall = rng.uniform(0.15, 0.4), rng.uniform(0.25, 0.5)
        stop = apex_end + rng.uniform(-0.05, 0.05)
        envelope = smooth((times_s - start) / rise) * (1 - smooth((times_s - stop) / fall))
        units[unit] = np.asarray(level * envelope, np.float32)
    # Muscles that the expression does not ask for are never quite still.
    for unit in (1, 2, 4, 7):
        start, level = rng.uniform(0, length), abs(rng.normal(0, 0.07))
        units[unit] = np.clip(units[unit] + np.float32(level) * smooth((times_s - start) / 0.4), 0, 1).astype(
            np.float32
        )
    if rng.random() < blink_probability:
        units[45] = _blink(times_s, rng)
    return Motion(units, _gaze(times_s, rng), _head(times_s, head_motion, rng), min(starts) if starts else None)


def smooth(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """0 below 0, 1 above 1, and 3 x^2 - 2 x^3 between."""
    x = np.clip(x, 0, 1)
    return x * x * (3 - 2 * x)


def _blink(times_s: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float32]:
    start, close, reopen = rng.uniform(0, float(times_s[-1])), rng.uniform(0.06, 0.1), rng.uniform(0.12, 0.22)
    shut = smooth((times_s - start) / close) * (1 - smooth((times_s - start - close - 0.02) / reopen))
    return np.asarray(shut, np.float32)


def _gaze(times_s: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float32]:
    """Fixations, up to two saccades of about 40 ms, and drift."""
    gaze = np.tile(rng.normal(0, [0.3, 0.12]), (len(times_s), 1))
    for _ in range(rng.integers(0, 3)):
        start = rng.uniform(0, float(times_s[-1]))
        gaze += smooth((times_s - start) / 0.04)[:, None] * rng.normal(0, [0.35, 0.12])
    return np.clip(gaze, -1, 1).astype(np.float32)


def _head(times_s: NDArray[np.float64], size: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """Where the face sits, a slow sway and a tremor of a few hertz."""
    shift = np.tile(rng.normal(0, 0.025, 2), (len(times_s), 1))
    for rate_hz, share in ((0.4, 1.0), (1.3, 0.5), (4.0, 0.15)):
        phase = 2 * np.pi * (rate_hz * rng.uniform(0.7, 1.3) * times_s[:, None] + rng.random(2))
        shift += size * share * rng.normal(0, 1, 2) * np.sin(phase)
    return shift.astype(np.float32)
