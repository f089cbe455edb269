"""How the synthetic face world is filmed: light, noise, compression, and one main disturbance a clip.

Pictures are those of `face_renderer`; lengths are in half widths of the picture, so that a disturbance means the same at
every size.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from affuse.data.synthetic.face_people import Person
from affuse.data.synthetic.face_renderer import View

Array = NDArray[np.floating[Any]]
Condition = Literal["clean", "turned", "occluded", "blurred", "dark", "averted"]
CONDITIONS: tuple[Condition, ...] = get_args(Condition)
OCCLUDERS = ("hand", "mask", "microphone", "text")
_FRACTION = 4
_WORDS = ("I CAN'T BELIEVE IT", "where were you", "Episode 12", "- No! - Yes.", "LIVE", "tell me again")


@dataclass(frozen=True)
class Take:
    """How a clip was filmed. What belongs to one condition is drawn in all, and plays no part in the others.

    Args:
        condition: its main disturbance.
        disturbed: (t,) frames of the clip in which the condition shows; none in a clean one.
        occluder: one of `OCCLUDERS`, in an occluded clip.
        place: of the occluder, x and y.
        angle: of the occluder and of motion blur, radians.
        blur: reach of motion blur in the disturbed frames, to either side.
        gain: of the light; `tint`: of red, green and blue.
        slant: light from the side: change of the gain from the middle to the right edge.
        darkness: gain in the disturbed frames of a dark clip.
        noise: standard deviation, levels of 255.
        quality: of the JPEG compression.
        seed: of the noise.
    """

    condition: Condition
    disturbed: NDArray[np.bool_]
    occluder: str | None
    place: tuple[float, float]
    angle: float
    blur: float
    gain: float
    tint: tuple[float, float, float]
    slant: float
    darkness: float
    noise: float
    quality: int
    seed: tuple[int, ...]


def draw_take(condition: Condition, frames: int, rng: np.random.Generator, seed: tuple[int, ...]) -> Take:
    """A take of so many frames. A disturbance lasts for a third to nearly all of it."""
    disturbed = np.zeros(frames, np.bool_)
    occluder = str(rng.choice(OCCLUDERS, p=[0.4, 0.25, 0.15, 0.2])) if condition == "occluded" else None
    if condition != "clean":
        share = rng.uniform(0.35, 0.65 if condition == "averted" else 0.95)
        start = rng.uniform(0, 1 - share)
        at = (np.arange(frames) + 0.5) / frames
        disturbed = (at >= start) & (at < start + share)
        if occluder in ("mask", "text"):
            disturbed[:] = True
    where = (
        (rng.uniform(-0.25, 0.25), rng.uniform(0.45, 0.7)) if rng.random() < 0.7 else (rng.choice([-0.4, 0.4]), -0.1)
    )
    return Take(
        condition=condition,
        disturbed=disturbed,
        occluder=occluder,
        place=where,
        angle=rng.uniform(-np.pi, np.pi),
        blur=rng.uniform(0.09, 0.2),
        gain=rng.uniform(0.7, 1.12),
        tint=(rng.uniform(0.92, 1.06), rng.uniform(0.92, 1.06), rng.uniform(0.92, 1.06)),
        slant=rng.uniform(-0.25, 0.25),
        darkness=rng.uniform(0.18, 0.4),
        noise=rng.uniform(2, 6),
        quality=int(rng.integers(45, 95)),
        seed=seed,
    )


def film(person: Person, view: View, take: Take, frames: NDArray[np.int64]) -> NDArray[np.uint8]:
    """What the camera makes of a view: RGB (k, s, s, 3), 8-bit.

    Args:
        view: of the frames that are filmed.
        frames: their numbers (k,) in the take.
    """
    size = view.images.shape[1]
    across = (np.arange(size, dtype=np.float32) + 0.5) * 2 / size - 1
    light = (take.gain * (1 + take.slant * across))[None, :, None] * np.array(take.tint, np.float32)
    filmed = np.empty(view.images.shape, np.uint8)
    numbers = frames.tolist()
    for row, (frame, noise) in enumerate(zip(numbers, _noise(take, size, numbers), strict=True)):
        picture = view.images[row].copy()
        hit = bool(take.disturbed[frame])
        if hit and take.occluder is not None:
            picture = _occlude(picture, person, view.landmarks[row], take, frame)
        picture *= light
        if hit and take.condition == "blurred":
            picture = _motion_blur(picture, take)
        if hit and take.condition == "dark":
            picture *= take.darkness
        picture += noise
        exact = np.clip(picture, 0, 255).astype(np.uint8)
        _, packed = cv2.imencode(".jpg", exact, [cv2.IMWRITE_JPEG_QUALITY, take.quality])
        filmed[row] = np.asarray(cv2.imdecode(packed, cv2.IMREAD_COLOR))  # red and blue change places there and back
    return filmed


def _noise(take: Take, size: int, frames: list[int]) -> Iterator[NDArray[np.float32]]:
    """Of each frame by its number, so that it does not matter which others are read: pieces of one field, far cheaper than
    drawn anew."""
    field = np.random.default_rng(take.seed).standard_normal((2 * size, 2 * size, 3), np.float32)
    field *= np.float32(take.noise)
    for frame in frames:
        down, right = 7919 * frame % size, 104729 * frame % size
        yield field[down : down + size, right : right + size]


def _motion_blur(picture: NDArray[np.float32], take: Take) -> NDArray[np.float32]:
    size = len(picture)
    reach = max(1, round(take.blur * size / 2))
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1), np.float32)
    step = reach * np.array([np.cos(take.angle), np.sin(take.angle)])
    ends = [tuple(np.round((reach + sign * step) * 16).astype(int).tolist()) for sign in (-1, 1)]
    cv2.line(kernel, ends[0], ends[1], 1.0, 1, cv2.LINE_8, 4)
    blurred = cv2.filter2D(picture, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REPLICATE)
    return np.asarray(blurred, np.float32)


def _occlude(
    picture: NDArray[np.float32], person: Person, landmarks: NDArray[np.float32], take: Take, frame: int
) -> NDArray[np.float32]:
    """The picture with something before the face."""
    canvas = np.ascontiguousarray(np.clip(picture, 0, 255).astype(np.uint8))
    if take.occluder == "mask":
        shapes = _mask(landmarks)
    elif take.occluder == "hand":
        shapes = _hand(person, take, frame)
    elif take.occluder == "microphone":
        shapes = _microphone(take)
    else:
        _write(canvas, _WORDS[int(abs(take.angle) * 10) % len(_WORDS)])
        shapes = []
    for points, colour in shapes:
        pixels = np.round(((points + 1) * len(canvas) / 2 - 0.5) * (1 << _FRACTION)).astype(np.int32)
        cv2.fillPoly(canvas, [pixels], colour.tolist(), cv2.LINE_AA, _FRACTION)
    return canvas.astype(np.float32)


def _mask(landmarks: NDArray[np.float32]) -> list[tuple[Array, Array]]:
    """From the bridge of the nose down to the chin, with two folds."""
    shapes: list[tuple[Array, Array]] = [
        (np.concatenate([landmarks[1:16], landmarks[[15, 28, 1]]]), np.array([196.0, 214.0, 226.0]))
    ]
    for down in (0.2, 0.4):
        fold = landmarks[2] + (landmarks[14] - landmarks[2]) * np.array([[0.15], [0.85]]) + np.array([0, down])
        shapes.append((np.concatenate([fold, fold[::-1] + np.array([0, 0.02])]), np.array([164.0, 186.0, 200.0])))
    return shapes


def _hand(person: Person, take: Take, frame: int) -> list[tuple[Array, Array]]:
    """Four fingers and the back of a hand that comes from below and is never quite still."""
    x = take.place[0] + 0.03 * np.sin(0.31 * frame)
    y = take.place[1] + 0.03 * np.cos(0.23 * frame)
    lean, wide = 0.14 * np.sin(take.angle), np.array([0.06, 0.0])
    shapes: list[tuple[Array, Array]] = []
    for finger in range(4):
        start = np.array([x + 0.13 * (finger - 1.5), y + 0.1])
        tip = start + np.array([lean, -0.34 - 0.05 * (finger in (1, 2))])
        shape = np.stack([start - wide, tip - wide, tip - np.array([0, 0.05]), tip + wide, start + wide])
        shapes.append((shape, person.skin * (0.86 + 0.04 * finger)))
    shapes.append((_round(x, y + 0.25, 0.29, 0.27), person.skin * 0.9))
    arm = np.array([[x - 0.2, y + 0.3], [x + 0.2, y + 0.3], [x + 0.25, 1.3], [x - 0.15, 1.3]])
    return [*shapes, (arm, person.skin * 0.88)]


def _microphone(take: Take) -> list[tuple[Array, Array]]:
    x, y = take.place[0] * 0.5, 0.62
    handle = np.array([[x - 0.06, y], [x + 0.06, y], [x + 0.12, 1.2], [x, 1.2]])
    return [(handle, np.array([40.0, 40.0, 44.0])), (_round(x, y, 0.2, 0.19), np.array([22.0, 22.0, 24.0]))]


def _write(canvas: NDArray[np.uint8], words: str) -> None:
    """White on black, below the mouth."""
    size, font = len(canvas), cv2.FONT_HERSHEY_SIMPLEX
    scale, thick = size * 0.3 / 48, max(1, size // 112)
    (wide, high), _ = cv2.getTextSize(words, font, scale, thick)
    left, bottom = max(0, (size - wide) // 2), round(size * 0.78)
    cv2.rectangle(canvas, (left - 1, bottom - high - 1), (left + wide, bottom + 2), (20, 20, 20), -1)
    cv2.putText(canvas, words, (left, bottom), font, scale, (240, 240, 240), thick, cv2.LINE_AA)


def _round(x: float, y: float, wide: float, high: float) -> Array:
    turn = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    return np.stack([x + wide * np.cos(turn), y + high * np.sin(turn)], -1)
