"""Draws the eye of the synthetic world: what each surface reflects, for all times of a recording at once.

The image is in units of half its width: x runs from -1 (the nose) to 1 (the temple), y from -1 (the forehead) down to 1.
Each part is a coverage between 0 and 1 with an edge as wide as a pixel, laid over what is behind it. A face shifts but
does not turn, so curves are functions of x alone, and only coverages are images.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from affuse.data.synthetic.eye_motion import Motion

Image = NDArray[np.floating[Any]]
EYE_Y, BROW_Y = 0.24, -0.34  # centres of the lids and of the brow


@dataclass(frozen=True)
class Subject:
    """How a person looks. Lengths in half image widths; colours are linear reflectances of red, green and blue."""

    skin: NDArray[np.float32]
    iris: NDArray[np.float32]
    brow: NDArray[np.float32]
    eye_width: float  # half the distance between the corners
    upper: float  # height of the opening above the line between the corners
    lower: float  # and below
    tilt: float  # of the line between the corners
    brow_y: float  # height of the brow against the mean, down
    brow_tilt: float
    brow_arch: float
    brow_thickness: float
    iris_radius: float
    crease: float  # distance of the upper lid's crease
    wrinkles: float  # depth of the folds at rest, in [0, 1]
    texture: NDArray[np.float32]  # (waves, 4): frequency right, frequency down, phase, depth


def draw_subject(rng: np.random.Generator) -> Subject:
    """A person."""
    light = rng.uniform(0, 1)
    skin = np.array([0.16, 0.085, 0.055]) * (1 - light) + np.array([0.62, 0.43, 0.34]) * light
    irises = np.array([[0.07, 0.035, 0.02], [0.14, 0.09, 0.04], [0.1, 0.14, 0.09], [0.12, 0.2, 0.3]])
    dark = rng.uniform(0.02, 0.05)
    fair = light**2 * rng.uniform(0, 0.16)
    waves = np.stack([*rng.normal(0, [[7.0], [7.0]], (2, 5)), rng.uniform(0, 6.3, 5), rng.uniform(0.01, 0.035, 5)], 1)
    return Subject(
        skin=(skin * rng.uniform(0.9, 1.1, 3)).astype(np.float32),
        iris=(irises[rng.integers(4)] * rng.uniform(0.8, 1.2)).astype(np.float32),
        brow=(np.array([1.3, 1.0, 0.8]) * (dark + fair)).astype(np.float32),
        eye_width=rng.uniform(0.56, 0.68),
        upper=rng.uniform(0.23, 0.28),
        lower=rng.uniform(0.14, 0.17),
        tilt=rng.normal(0, 0.025),
        brow_y=rng.normal(0, 0.03),
        brow_tilt=rng.normal(0, 0.03),
        brow_arch=rng.uniform(0.06, 0.13),
        brow_thickness=rng.uniform(0.07, 0.12),
        iris_radius=rng.uniform(0.2, 0.24),
        crease=rng.uniform(0.07, 0.14),
        wrinkles=rng.beta(1.5, 6),
        texture=waves.astype(np.float32),
    )


def render(subject: Subject, motion: Motion, size: int, *, pupil: float = 0.45) -> Image:
    """Reflectance (t, size, size, 3), linear; 1 is a white diffuser, a catchlight is brighter.

    Args:
        pupil: its radius as a share of the iris.
    """
    pixel = 2 / size
    grid = (np.arange(size, dtype=np.float32) + 0.5) * pixel - 1
    x = grid[None, None, :] - motion.head[:, 0, None, None]  # t 1 w
    y = grid[None, :, None] - motion.head[:, 1, None, None]  # t h 1
    au = {unit: level[:, None, None] for unit, level in motion.units.items()}  # t 1 1

    # Skin, its texture, and the shade of the socket, the folds and the cheek.
    shade: Image = np.ones((len(motion.head), size, size), np.float32)
    for across, down, phase, depth in subject.texture:
        # A product of two waves: texture in two directions out of two curves.
        shade += depth * np.sin(across * x + phase) * np.sin(down * y + phase)
    socket = _bump(x, 0, 0.75) * _bump(y, EYE_Y - 0.2, 0.35)
    shade -= 0.22 * socket
    shade *= 1 - 0.25 * _bump(x, -1.1, 0.4)
    shade += (0.18 * au[6]) * (_bump(x, 0.1, 0.6) * _bump(y, 0.78 - 0.1 * au[6], 0.22))
    for fold in _folds(subject, x, y, au, pixel):
        shade *= 1 - fold
    image = shade[..., None] * subject.skin  # t h w 3

    # The opening between the lids, and the eyeball in it.
    inside = np.clip(1 - (x / subject.eye_width) ** 2, 0, 1)  # t 1 w
    open_share = 1 - au[45]
    high = subject.upper * np.clip(1 + 0.55 * au[5] - 0.2 * au[7] - 0.5 * au[43] - 0.12 * au[6] - 0.1 * au[4], 0.1, 2)
    low = subject.lower * np.clip(1 + 0.1 * au[5] - 0.5 * au[7] - 0.65 * au[6] - 0.3 * au[9], 0.05, 2)
    axis = EYE_Y + subject.tilt * x
    low_curve = axis + low * inside
    high_curve = low_curve - (high + low) * np.sqrt(inside) * np.sqrt(inside + 0.15) / 1.07 * open_share
    opening = _edge(np.minimum(y - high_curve, low_curve - y), pixel) * np.clip(inside / 0.04, 0, 1)
    rows, columns = _box(opening)
    eye = image[:, rows, columns]
    parts = (x[:, :, columns], y[:, rows], high_curve[:, :, columns])
    eye += opening[:, rows, columns, None] * (_eyeball(subject, motion, *parts, pupil, pixel) - eye)

    # Lashes on the upper lid, thinner below.
    lid = _line(y - high_curve, 0.028, pixel) * (x * x < subject.eye_width**2 * 1.02)
    under = _line(y - low_curve, 0.012, pixel) * (inside > 0)
    rows, columns = _box(lid + under)
    image[:, rows, columns] *= (1 - 0.85 * lid - 0.35 * under)[:, rows, columns, None]

    curve, thickness = _brow(subject, x, au)
    cover: Image = 0.92 * _edge(thickness - np.abs(y - curve), 2 * pixel) * (thickness > 0)
    cover *= 0.93 + 0.07 * np.sin(37 * x + 13 * y)  # hair
    rows, columns = _box(cover)
    hair = image[:, rows, columns]
    hair += cover[:, rows, columns, None] * (subject.brow - hair)
    return np.maximum(image, 0.002, out=image)


def _eyeball(subject: Subject, motion: Motion, x: Image, y: Image, lid: Image, pupil: float, pixel: float) -> Image:
    """White, iris, pupil and catchlight, in the shadow of the upper lid."""
    down = EYE_Y - 0.04 + 0.12 * motion.gaze[:, 1, None, None]
    across = 0.26 * motion.gaze[:, 0, None, None]
    distance = _distance(x - across, y - down)  # t h w
    radius = subject.iris_radius
    iris = _edge(radius - distance, pixel)
    hole = _edge(radius * pupil - distance, pixel)
    ring = 1 - 0.6 * _edge(distance - 0.8 * radius, 3 * pixel)
    white = np.array([0.66, 0.6, 0.57], np.float32) * (1 - 0.2 * np.abs(x / subject.eye_width))[..., None]
    ball = white + iris[..., None] * (subject.iris * ring[..., None] - white)
    ball *= (1 - 0.93 * hole)[..., None]
    ball *= (1 - 0.45 * np.clip(1 - (y - lid) / 0.14, 0, 1))[..., None]
    light = _edge(0.055 - _distance(x - across * 0.8 + 0.08, y - down + 0.08), pixel)
    return ball + light[..., None] * (1.6 - ball)


def _brow(subject: Subject, x: Image, au: dict[int, Image]) -> tuple[Image, Image]:
    """Middle (t, 1, w) and half thickness of the brow."""
    inner, outer = 1 / (1 + np.exp((x + 0.15) / 0.18)), 1 / (1 + np.exp(-(x - 0.15) / 0.18))
    rest = BROW_Y + subject.brow_y + subject.brow_tilt * x - subject.brow_arch * (1 - ((x - 0.2) / 0.9) ** 2)
    lowered = au[4] * (0.13 + 0.14 * inner) + au[9] * (0.02 + 0.1 * inner) + 0.06 * au[6] * outer
    raised = au[1] * (0.27 * inner + 0.03) + au[2] * (0.25 * outer + 0.05)
    start = -0.78 - 0.1 * au[4]  # the corrugator draws the brows together
    taper = np.clip((x - start) / 0.12, 0, 1) * np.clip((0.86 - x) / 0.7, 0, 1) ** 0.6
    return (rest + lowered - raised).astype(np.float32), (subject.brow_thickness * taper).astype(np.float32)


def _folds(subject: Subject, x: Image, y: Image, au: dict[int, Image], pixel: float) -> list[Image]:
    """Depths (t, h, w) of the lines in the skin: the lid's crease, and those that action units fold."""
    rest = 0.35 * subject.wrinkles
    inside = np.clip(1 - (x / (subject.eye_width * 1.08)) ** 2, 0, 1)
    top = EYE_Y + subject.tilt * x - (subject.upper + subject.crease * (1 - 0.4 * au[5])) * inside**0.7
    folds = [0.35 * _line(y - top, 0.02, pixel) * (inside > 0)]
    pouch = EYE_Y + (subject.lower + 0.12 - 0.07 * au[7] - 0.1 * au[6]) * inside**0.6 + 0.03
    folds.append((0.12 + 0.5 * np.maximum(au[6], 0.7 * au[7])) * _line(y - pouch, 0.03, pixel) * (inside > 0.1))
    feet = np.clip((x - 0.68) / 0.08, 0, 1)  # crow's feet
    for slope in (-0.5, 0.05, 0.6):
        line = _line(y - EYE_Y + 0.02 - slope * (x - 0.6), 0.03, pixel)
        folds.append((rest + 0.6 * au[6]) * line * feet)
    frown = _bump(y, BROW_Y + 0.02, 0.22)  # the glabella's upright lines
    for at in (-0.94, -0.84):
        folds.append((rest + 0.6 * au[4] + 0.15 * au[9]) * _line(x - at, 0.028, pixel) * frown)
    bridge = np.clip((-0.6 - x) / 0.1, 0, 1)  # the nose's wrinkles, upper end of the nasolabial fold
    for at in (0.0, 0.14, 0.3):
        folds.append((0.4 * rest + 0.7 * au[9]) * _line(y - at - 0.5 * (x + 0.8), 0.032, pixel) * bridge)
    for at in (-0.93, -0.8):
        level = rest + 0.3 * np.maximum(au[1] * (x < 0.2), au[2] * (x > -0.2))
        folds.append(level * _line(y - at + 0.03 * (au[1] + au[2]), 0.018, pixel))
    return folds


def _box(cover: Image) -> tuple[slice, slice]:
    """Rows and columns outside of which nothing is covered at any time."""
    seen = cover.max(0) > 0
    return _extent(seen.any(1)), _extent(seen.any(0))


def _extent(seen: NDArray[np.bool_]) -> slice:
    found = np.flatnonzero(seen)
    return slice(int(found[0]), int(found[-1]) + 1) if len(found) else slice(0, 0)


def _edge(distance: Image, width: float) -> Image:
    """Coverage of a pixel whose centre lies this far inside of an edge."""
    return np.clip(distance / width + 0.5, 0, 1)


def _line(distance: Image, half_width: float, pixel: float) -> Image:
    """Coverage by a line of which a pixel can be wider: its light is kept."""
    wide = max(half_width, pixel / 2)
    return np.clip((wide - np.abs(distance)) / pixel + 0.5, 0, 1) * np.float32(half_width / wide)


def _distance(x: Image, y: Image) -> Image:
    return np.sqrt(x * x + y * y)  # much faster than hypot, and nothing here overflows


def _bump(x: Image, centre: int | float | Image, width: float) -> Image:
    return np.exp(-(((np.asarray(x) - centre) / width) ** 2)).astype(np.float32)
