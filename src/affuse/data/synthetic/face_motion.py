"""How a face of the synthetic world moves: action units with onset, apex and offset, speech, gaze, blinks and head pose.

Action units (AU) are those of the Facial Action Coding System (Ekman, Friesen and Hager, 2002); which of them an expression
has follows the prototypes and major variants of EMFACS (Friesen and Ekman, 1983). An intensity of 1 is FACS level E.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from affuse.data.synthetic.eye_motion import smooth

Units = dict[int, NDArray[np.float32]]

# 43 is a drooping lid here, 45 a blink, which means nothing.
ACTION_UNITS = (1, 2, 4, 5, 6, 7, 9, 10, 12, 15, 17, 20, 23, 25, 26, 43, 45)


@dataclass(frozen=True)
class Expression:
    """What a face does for an emotion, and how fast.

    Args:
        variants: action units at full strength; a take shows one of the variants.
        rise_s, hold_s, fall_s: ranges of the durations from onset to apex, of the apex, and from there to rest, seconds.
    """

    variants: tuple[dict[int, float], ...]
    rise_s: tuple[float, float] = (0.25, 0.6)
    hold_s: tuple[float, float] = (0.5, 2.0)
    fall_s: tuple[float, float] = (0.3, 0.8)


# In the order of DFEW's labels. Fear shares its units with surprise and sadness, disgust with anger; a surprise comes fast
# and passes, fear builds up and stays: time tells them apart where a single picture cannot.
EXPRESSIONS: dict[str, Expression] = {
    "happy": Expression(
        ({6: 1.0, 12: 1.0}, {6: 0.8, 12: 1.0, 25: 0.8}, {6: 0.9, 12: 0.9, 25: 0.8, 26: 0.4}, {12: 0.9})
    ),
    "sad": Expression(
        ({1: 0.9, 4: 0.5, 15: 0.9}, {1: 0.9, 4: 0.4, 15: 0.6, 17: 0.7}, {1: 0.8, 43: 0.6, 15: 0.7}, {4: 0.4, 15: 1.0}),
        rise_s=(0.5, 1.0),
        hold_s=(0.8, 2.5),
    ),
    "neutral": Expression(({},)),
    "angry": Expression(
        (
            {4: 1.0, 5: 0.5, 7: 0.7, 23: 0.8},
            {4: 1.0, 7: 0.9, 17: 0.6, 23: 0.8},
            {4: 0.9, 5: 0.6, 7: 0.5, 10: 0.3, 25: 0.8},
        ),
    ),
    "surprise": Expression(
        ({1: 1.0, 2: 1.0, 5: 0.8, 26: 1.0, 25: 0.5}, {1: 0.9, 2: 0.9, 26: 0.9, 25: 0.4}, {1: 0.8, 2: 0.9, 5: 0.9}),
        rise_s=(0.1, 0.25),
        hold_s=(0.2, 0.8),
        fall_s=(0.2, 0.5),
    ),
    "disgust": Expression(
        ({9: 1.0, 10: 0.5, 4: 0.3, 7: 0.4}, {9: 0.9, 17: 0.6, 15: 0.5, 7: 0.3}, {10: 1.0, 9: 0.4, 17: 0.5}),
    ),
    "fear": Expression(
        (
            {1: 0.9, 2: 0.6, 4: 0.6, 5: 1.0, 20: 0.9, 25: 0.6},
            {1: 0.9, 2: 0.7, 4: 0.5, 5: 0.9, 20: 0.5, 26: 0.7, 25: 0.4},
            {1: 0.9, 4: 0.6, 5: 0.7, 20: 0.8},
        ),
        rise_s=(0.35, 0.8),
        hold_s=(1.0, 2.5),
    ),
}


@dataclass(frozen=True)
class Motion:
    """What moves, at each of t times.

    Args:
        units: intensity (t,) in [0, 1] by action unit; every unit of `ACTION_UNITS`.
        gaze: (t, 2), right and down, of the eyeball's largest turn.
        pose: (t, 3), yaw (to the picture's right), pitch (down) and roll (clockwise), radians.
        shift: (t, 2), right and down, of the face in its crop, half widths of the picture.
        onset_s, apex_s, offset_s: when the first action unit sets in, when all have reached their strength, and when they
            begin to go, seconds; None where the face stays neutral. They may lie outside of the clip.
    """

    units: Units
    gaze: NDArray[np.float32]
    pose: NDArray[np.float32]
    shift: NDArray[np.float32]
    onset_s: float | None
    apex_s: float | None
    offset_s: float | None


def still(times: int) -> Motion:
    """A face at rest that looks straight ahead, over `times` steps."""
    units = {unit: np.zeros(times, np.float32) for unit in ACTION_UNITS}
    flat, turn = np.zeros((times, 2), np.float32), np.zeros((times, 3), np.float32)
    return Motion(units, flat, turn, flat, None, None, None)


def draw_motion(
    expression: str,
    times_s: NDArray[np.float64],
    rng: np.random.Generator,
    *,
    intensity: tuple[float, float],
    speech_probability: float,
    turned: NDArray[np.bool_],
) -> Motion:
    """One take of an expression.

    Args:
        expression: a key of `EXPRESSIONS`.
        times_s: times (t,), seconds, from 0.
        intensity: range of the take's strength; each action unit then varies around it.
        speech_probability: share of takes in which the person talks, which moves the mouth and means nothing.
        turned: (t,) where the head is turned far away from the camera.
    """
    spec = EXPRESSIONS[expression]
    length = float(times_s[-1]) + 1e-6
    units = {unit: np.zeros(len(times_s)) for unit in ACTION_UNITS}
    strength = rng.uniform(*intensity)
    rise, hold, fall = (rng.uniform(*span) for span in (spec.rise_s, spec.hold_s, spec.fall_s))
    # The apex stands somewhere in the middle four fifths of the clip; what lies before and behind is cut as it comes.
    apex = rng.uniform(0.1, 0.9) * length - rng.uniform(0, 0.5) * hold
    variant = spec.variants[rng.integers(len(spec.variants))]
    onset, offset = apex - rise, apex + hold
    starts, stops = [], []
    for unit, weight in variant.items():
        level = np.clip(strength * weight * rng.uniform(0.7, 1.25), 0, 1)
        start, stop = onset + rng.uniform(0, 0.25) * rise, offset + rng.uniform(-0.1, 0.1) * hold
        starts.append(start)
        stops.append(stop)
        units[unit] += level * smooth((times_s - start) / (apex - start)) * (1 - smooth((times_s - stop) / fall))
    # Muscles that the expression does not ask for are never quite still.
    for unit in (1, 2, 4, 5, 7, 12, 15, 17, 25):
        start, level = rng.uniform(-0.5, 1) * length, abs(rng.normal(0, 0.1))
        units[unit] += level * smooth((times_s - start) / 0.4) * (1 - smooth((times_s - start - 1.2) / 0.4))
    if rng.random() < speech_probability:
        _talk(units, times_s, rng)
    for _ in range(rng.poisson(0.25 * length)):
        units[45] = np.maximum(units[45], _blink(times_s, rng.uniform(0, length), rng))
    levels = {unit: np.clip(level, 0, 1).astype(np.float32) for unit, level in units.items()}
    seen = bool(starts)
    return Motion(
        levels,
        _gaze(times_s, rng),
        _pose(times_s, turned, rng),
        _sway(times_s, 2, rng.normal(0, 0.02, 2), 0.008, rng).astype(np.float32),
        min(starts) if seen else None,
        apex if seen else None,
        min(stops) if seen else None,
    )


def _talk(units: dict[int, NDArray[np.float64]], times_s: NDArray[np.float64], rng: np.random.Generator) -> None:
    """Syllables at about 4 Hz: lips part, the jaw drops a little, and now and then the lips stretch or tighten."""
    phase = 2 * np.pi * (rng.uniform(3, 5) * times_s + rng.random())
    loudness = np.clip(0.6 + 0.6 * np.sin(2 * np.pi * (0.7 * times_s + rng.random())), 0, 1)
    units[25] += 0.45 * loudness * (0.5 + 0.5 * np.sin(phase))
    units[26] += 0.35 * loudness * np.clip(np.sin(phase + 0.4), 0, 1)
    units[20] += 0.2 * np.clip(np.sin(0.61 * phase), 0, 1)
    units[23] += 0.3 * np.clip(np.sin(0.37 * phase), 0, 1)


def _blink(times_s: NDArray[np.float64], start: float, rng: np.random.Generator) -> NDArray[np.float64]:
    close, reopen = rng.uniform(0.06, 0.1), rng.uniform(0.12, 0.22)
    return smooth((times_s - start) / close) * (1 - smooth((times_s - start - close - 0.02) / reopen))


def _gaze(times_s: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float32]:
    """Fixations, and up to two saccades of about 40 ms."""
    gaze = np.tile(rng.normal(0, [0.3, 0.12]), (len(times_s), 1))
    for _ in range(rng.integers(0, 3)):
        start = rng.uniform(0, float(times_s[-1]))
        gaze += smooth((times_s - start) / 0.04)[:, None] * rng.normal(0, [0.35, 0.12])
    return np.clip(gaze, -1, 1).astype(np.float32)


def _pose(times_s: NDArray[np.float64], turned: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.float32]:
    """A head that is held a little askew and sways; where it is turned, it looks well past the camera."""
    pose = _sway(times_s, 3, rng.normal(0, [0.08, 0.05, 0.03]), 0.025, rng)
    if turned.any():
        far = np.array([rng.choice([-1, 1]) * rng.uniform(0.4, 0.62), rng.uniform(-0.25, 0.35), rng.normal(0, 0.12)])
        # The head takes about a fifth of a second to turn, and is back when the turn is over.
        step = float(np.median(np.diff(times_s))) if len(times_s) > 1 else 1.0
        width = 2 * max(1, round(0.1 / step)) + 1
        padded = np.pad(turned.astype(np.float64), width // 2, mode="edge")
        pose += np.convolve(padded, np.full(width, 1 / width), "valid")[:, None] * far
    return pose.astype(np.float32)


def _sway(
    times_s: NDArray[np.float64],
    axes: int,
    middle: NDArray[np.float64],
    size: float,
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """A slow sway around a middle, and a tremor of a few hertz."""
    moved = np.tile(middle, (len(times_s), 1))
    for rate_hz, share in ((0.4, 1.0), (1.3, 0.5), (4.0, 0.15)):
        phase = 2 * np.pi * (rate_hz * rng.uniform(0.7, 1.3) * times_s[:, None] + rng.random(axes))
        moved += size * share * rng.normal(0, 1, axes) * np.sin(phase)
    return moved
