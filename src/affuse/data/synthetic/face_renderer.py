"""Draws the face of the synthetic world, and says where its 68 landmarks are.

A face lies in its crop: x runs from -1 (left) to 1 (right), y from -1 (hair) down to 1 (below the chin), in half widths of
the picture. Its features are curves on an ellipsoid that turns with the head and is seen from far away; the crop follows
the face, as the crop of a face detector does. Shapes are painted from back to front at a multiple of the size. Colours are
those of an 8-bit sRGB picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from affuse.data.synthetic.face_features import Brow, Eye, Mouth, Nose, Units, jaw, skull
from affuse.data.synthetic.face_motion import Motion
from affuse.data.synthetic.face_people import Person

Array = NDArray[np.floating[Any]]
_DEPTH = 0.55  # of the ellipsoid, at the middle of the face
_FOLLOWS = 0.75  # share of the face's displacement that the crop takes up
_FRACTION = 4  # bits behind the point of OpenCV's coordinates


@dataclass(frozen=True)
class View:
    """Pictures (t, s, s, 3), RGB in [0, 255], and landmarks (t, 68, 2), x and y in [-1, 1] from edge to edge."""

    images: NDArray[np.float32]
    landmarks: NDArray[np.float32]


def render(
    person: Person, motion: Motion, size: int, *, oversampling: int = 2, averted: NDArray[np.bool_] | None = None
) -> View:
    """The face at each time of a motion.

    Args:
        size: side of the pictures, pixels.
        oversampling: times the size at which shapes are painted.
        averted: (t,) where the person shows the back of the head; landmarks are NaN there.
    """
    times = len(motion.pose)
    hidden = np.zeros(times, np.bool_) if averted is None else averted
    units = {unit: level[:, None].astype(np.float64) for unit, level in motion.units.items()}  # t 1
    place = _Placed(motion)
    eyes = [Eye(person, units, motion.gaze, side) for side in (-1, 1)]
    brows = [Brow(person, units, side) for side in (-1, 1)]
    nose, mouth, chin = Nose(person, units), Mouth(person, units), jaw(person, units)

    canvas = _Canvas(size * oversampling, times, place)
    _body(canvas, person, chin)
    canvas.seen = ~hidden
    _skin(canvas, person, units, chin, mouth)
    _folds(canvas, person, units, eyes, mouth)
    _nose(canvas, person, nose)
    _mouth(canvas, person, mouth)
    for eye, brow in zip(eyes, brows, strict=True):
        _eye(canvas, person, eye)
        canvas.fill(brow.outline, person.hair * 0.8)
    _glasses(canvas, person, eyes)
    canvas.fill(np.concatenate([skull(person, 1.0, times), person.hairline(times)[:, ::-1]], 1), person.hair)

    pictures = canvas.pictures(size).astype(np.float32)
    pictures *= 1 + _shade(person, units, place, size, canvas.seen)[..., None]
    marks = np.concatenate(
        [
            chin,
            *(brow.line[:, ::order] for brow, order in zip(brows, (-1, 1), strict=True)),
            nose.bridge,
            nose.base,
            *(eye.marks for eye in eyes),
            mouth.outer_marks,
            mouth.inner_marks,
        ],
        1,
    )
    landmarks = place(marks).astype(np.float32)
    landmarks[hidden] = np.nan
    return View(np.clip(pictures, 0, 255), landmarks)


class _Placed:
    """Points (t, n, 2) of a face at rest, as they lie in the picture (t, n, 2) when the head is posed."""

    def __init__(self, motion: Motion) -> None:
        yaw, pitch, roll = motion.pose.astype(np.float64).T
        self.turn = np.stack([np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch), np.cos(roll), np.sin(roll)])
        self.shift = np.zeros((len(yaw), 1, 2))
        middle = np.tile([0.0, 0.1], (len(yaw), 1, 1))
        self.shift = motion.shift[:, None] - _FOLLOWS * (self(middle) - middle)

    def __call__(self, points: Array) -> Array:
        cos_yaw, sin_yaw, cos_pitch, sin_pitch, cos_roll, sin_roll = self.turn[:, :, None]
        x, y = points[..., 0], points[..., 1]
        z = _DEPTH * np.sqrt(np.clip(1 - (x / 0.95) ** 2 - (y / 1.25) ** 2, 0, 1))
        z = z + 0.12 * np.exp(-((x / 0.12) ** 2) - ((y - 0.12) / 0.18) ** 2)  # the nose
        x, z = x * cos_yaw + z * sin_yaw, z * cos_yaw - x * sin_yaw
        y = y * cos_pitch + z * sin_pitch
        return np.stack([x * cos_roll - y * sin_roll, x * sin_roll + y * cos_roll], -1) + self.shift


class _Canvas:
    """Shapes of all frames, gathered from back to front, then painted frame by frame."""

    def __init__(self, side: int, times: int, place: _Placed) -> None:
        self.side, self.times, self.place = side, times, place
        self.seen = np.ones(times, np.bool_)
        self.background: Array = np.zeros(3)
        self._shapes: list[tuple[Array, Array, int, NDArray[np.bool_]]] = []

    def fill(self, outline: Array, colour: Array, where: NDArray[np.bool_] | None = None) -> None:
        """A polygon (t, n, 2) in a colour (3,) or (t, 3)."""
        self._add(outline, colour, 0, where)

    def line(self, points: Array, colour: Array, width: float, where: NDArray[np.bool_] | None = None) -> None:
        """A polyline (t, n, 2), `width` wide."""
        self._add(points, colour, max(1, round(width * self.side / 2)), where)

    def _add(self, points: Array, colour: Array, thickness: int, where: NDArray[np.bool_] | None) -> None:
        seen = self.seen if where is None else self.seen & where
        self._shapes.append((points, colour if colour.ndim == 2 else colour[None], thickness, seen))

    def pictures(self, size: int) -> NDArray[np.uint8]:
        """Painted, and averaged down to `size`: (t, size, size, 3)."""
        placed = self.place(
            np.concatenate([shape[0] for shape in self._shapes], 1)
        )  # once for all: it costs by the call
        pixels = np.round(((placed + 1) * self.side / 2 - 0.5) * (1 << _FRACTION)).astype(np.int32)
        ends = np.cumsum([shape[0].shape[1] for shape in self._shapes])
        outlines = np.split(pixels, ends[:-1], axis=1)
        # A colour of its own in each frame, or one for all.
        colours = [[row.tolist() for row in shape[1]] * (self.times // len(shape[1])) for shape in self._shapes]
        kinds = [(shape[2], shape[3].tolist()) for shape in self._shapes]
        painted = np.empty((self.times, size, size, 3), np.uint8)
        for frame in range(self.times):
            canvas = np.empty((self.side, self.side, 3), np.uint8)
            canvas[:] = np.clip(self.background, 0, 255).astype(np.uint8)
            for outline, colour, (thickness, seen) in zip(outlines, colours, kinds, strict=True):
                if not seen[frame]:
                    continue
                if thickness:
                    cv2.polylines(canvas, [outline[frame]], False, colour[frame], thickness, cv2.LINE_AA, _FRACTION)
                else:
                    cv2.fillPoly(canvas, [outline[frame]], colour[frame], cv2.LINE_AA, _FRACTION)
            painted[frame] = cv2.resize(canvas, (size, size), interpolation=cv2.INTER_AREA)
        return painted


def _body(canvas: _Canvas, person: Person, chin: Array) -> None:
    """What lies behind the face: background, shoulders, neck, ears and hair, in which the head is a dark shape."""
    times = canvas.times
    canvas.background = person.background
    still = lambda points: np.tile(np.array(points), (times, 1, 1))  # noqa: E731
    canvas.fill(still([(-2, -2), (2, -2), (2, 0.1), (-2, -0.4)]), person.wall)
    canvas.fill(still([(-1.6, 1.6), (-1.1, 0.98), (-0.35, 0.86), (0.35, 0.86), (1.1, 0.98), (1.6, 1.6)]), person.shirt)
    canvas.fill(still([(-0.36, 0.3), (0.36, 0.3), (0.34, 1.1), (-0.34, 1.1)]), person.skin * 0.72)
    back = skull(person, 1.12, times)
    down = still([(1.06 * person.width, person.hair_length), (-1.06 * person.width, person.hair_length)])
    canvas.fill(np.concatenate([back, down], 1), person.hair * 0.75)
    for side in (-1, 1):
        canvas.fill(_disc(side * 1.02 * person.width, -0.02, 0.09, 0.16, times), person.skin * 0.85)
    canvas.fill(np.concatenate([skull(person, 1.0, times), chin[:, ::-1]], 1), person.hair * 0.85)


def _skin(canvas: _Canvas, person: Person, units: Units, chin: Array, mouth: Mouth) -> None:
    """The face itself, and its beard."""
    canvas.fill(np.concatenate([skull(person, 0.98, canvas.times), chin[:, ::-1]], 1), person.skin)
    if person.beard > 0:
        stubble = person.skin + person.beard * (person.hair - person.skin)
        upper = np.stack([chin[..., 0] * 0.86, chin[..., 1] * 0.35 + 0.27 - 0.02 * units[12]], -1)[:, 2:-2]
        canvas.fill(np.concatenate([chin[:, 2:-2], upper[:, ::-1]], 1), stubble)
        above = mouth.outer[:, 1:8] + [0, -0.09]
        canvas.fill(np.concatenate([mouth.outer[:, 1:8], above[:, ::-1]], 1), stubble * 0.95)


def _folds(canvas: _Canvas, person: Person, units: Units, eyes: list[Eye], mouth: Mouth) -> None:
    """Lines of the skin, as deep as the action units fold them."""
    times, rest = canvas.times, 0.3 * person.wrinkles

    def fold(points: Array, depth: Array, width: float = 0.022) -> None:
        depth = np.clip(depth, 0, 0.6)
        canvas.line(points, person.skin * (1 - depth), width, depth[:, 0] > 0.04)

    au = units
    for side in (-1, 1):
        wing, corner = side * (person.nose_width + 0.06), mouth.corners[:, :1] if side < 0 else mouth.corners[:, 1:]
        out = 0.04 + 0.05 * au[12] + 0.02 * au[20]
        start = np.stack([np.full((times, 1), wing), 0.13 - 0.05 * au[9] - 0.03 * au[10]], -1)
        middle = np.stack([(wing + corner[..., 0]) / 2 + side * (out + 0.02), 0.27 - 0.02 * au[12]], -1)
        end = corner + np.stack([side * (out + 0.02), 0.02 * np.ones((times, 1))], -1)
        fold(np.concatenate([start, middle, end], 1), 0.1 + rest + 0.38 * np.maximum(au[12], np.maximum(au[9], au[10])))
        # The corners' own lines: pulled down by 15, stretched by 20.
        drop = corner + np.stack([side * (0.03 + 0 * au[15]), 0.1 * np.ones((times, 1))], -1)
        fold(np.concatenate([corner, drop], 1), 0.55 * au[15] + 0.3 * au[20])
        for at in (0.0, 0.08, 0.16):  # wrinkles of the nose
            outer = np.tile([[side * 0.12, -0.16 + at]], (times, 1, 1))
            fold(np.concatenate([outer * [0.2, 1] + [0, 0.05], outer], 1), 0.2 * rest + 0.55 * au[9])
        fold(
            np.tile([[[side * 0.045, -0.44], [side * 0.05, -0.3]]], (times, 1, 1)),
            0.6 * rest + 0.5 * au[4] + 0.1 * au[9],
        )
        for at in (-0.62, -0.54):  # forehead: raised in the middle by 1, at the sides by 2
            for end_x, level in ((0.22, au[1] * (1 - 0.4 * au[4])), (0.42, au[2])):
                run = np.array([[side * (end_x - 0.22), at], [side * end_x, at + 0.02]])
                fold(run - np.stack([0 * level, 0.04 * level], -1), 0.6 * rest + 0.4 * level)
        eye = eyes[0] if side < 0 else eyes[1]
        fold(eye.crease, np.full((times, 1), 0.22), 0.018)
        fold(eye.pouch, 0.08 + 0.5 * rest + 0.36 * np.maximum(au[6], 0.7 * au[7]))
        tail = side * (person.eye_x + person.eye_width + 0.03)
        for slope in (-0.06, 0.0, 0.06):  # crow's feet
            fold(
                np.tile([[[tail, -0.2 + slope * 0.5], [tail + side * 0.1, -0.2 + slope * 1.5]]], (times, 1, 1)),
                0.6 * rest + 0.42 * au[6],
            )
    bow = np.linspace(-1, 1, 7)
    below = mouth.lowest + 0.07
    dimple = np.stack([np.tile(0.16 * bow, (times, 1)), below + 0.05 * bow**2], -1)
    fold(dimple, 0.12 + 0.45 * au[17], 0.03)


def _nose(canvas: _Canvas, person: Person, nose: Nose) -> None:
    side = person.light_side
    canvas.line(nose.side(side), person.skin * 0.8, 0.03)
    canvas.line(nose.base, person.skin * 0.72, 0.025)
    for nostril in nose.nostrils:
        canvas.fill(nostril, person.skin * 0.35)


def _mouth(canvas: _Canvas, person: Person, mouth: Mouth) -> None:
    canvas.fill(mouth.outer, person.lips)
    canvas.fill(mouth.inner, np.array([58.0, 22.0, 24.0]), mouth.gap[:, 0] > 0.012)
    canvas.fill(mouth.teeth, np.array([226.0, 220.0, 208.0]), mouth.teeth_seen)
    canvas.line(mouth.seam, person.lips * 0.5, 0.022, mouth.gap[:, 0] <= 0.03)


def _eye(canvas: _Canvas, person: Person, eye: Eye) -> None:
    open_ = eye.opening[:, 0] > 0.012
    canvas.fill(eye.outline, np.array([218.0, 212.0, 208.0]), open_)
    canvas.fill(eye.iris, person.iris, open_)
    canvas.fill(eye.pupil, np.array([14.0, 12.0, 12.0]), open_)
    canvas.fill(eye.catchlight, np.array([245.0, 245.0, 245.0]), eye.opening[:, 0] > 0.06)
    canvas.line(eye.lower, person.skin * 0.7, 0.012)
    canvas.line(eye.upper, np.minimum(person.skin * 0.3, 50), 0.03)


def _glasses(canvas: _Canvas, person: Person, eyes: list[Eye]) -> None:
    if not person.glasses:
        return
    colour = np.array(person.glasses_colour)
    for eye in eyes:
        rim = _disc(eye.middle, -0.17, 0.25, 0.19, canvas.times)
        canvas.line(np.concatenate([rim, rim[:, :1]], 1), colour, person.glasses)
    bridge = [(-(person.eye_x - 0.25), -0.2), (person.eye_x - 0.25, -0.2)]
    canvas.line(np.tile(bridge, (canvas.times, 1, 1)), colour, person.glasses)


def _shade(person: Person, units: Units, place: _Placed, size: int, seen: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Light and shadow (t, s, s) on the face, relative: sockets, cheeks, forehead, tip of the nose, chin."""
    au, side = {unit: level[:, 0] for unit, level in units.items()}, person.light_side
    one = np.ones(len(seen))
    parts: list[tuple[float, Array | float, float, float, Array]] = [
        (0.0, -0.6, 0.4, 0.2, 0.1 * one),
        (0.0, 0.14, 0.07, 0.09, 0.16 * one),
        (0.0, 0.8, 0.2, 0.12, 0.06 + 0.06 * au[17]),
        (0.0, -0.36, 0.1, 0.12, -0.16 * au[4]),
    ]
    for x in (-1, 1):
        parts.append((x * person.eye_x, -0.26, 0.24, 0.13, -0.16 - 0.06 * au[4]))
        parts.append(
            (x * 0.42, 0.14 - 0.07 * np.maximum(au[12], au[6]), 0.17, 0.14, 0.05 + 0.16 * np.maximum(au[6], au[12]))
        )
        parts.append((x * 0.12, 0.02, 0.06, 0.16, -0.1 - 0.26 * au[9]))
        parts.append((x * 0.62, 0.3, 0.16, 0.6, (-0.16 + 0.06 * x * side) * one))
    middles = np.stack([np.stack([np.full(len(one), x), y * one], -1) for x, y, *_ in parts], 1)
    middles = place(middles)  # t p 2
    grid = (np.arange(size) + 0.5) * 2 / size - 1
    wide, high = np.array([part[2] for part in parts]), np.array([part[3] for part in parts])
    across = np.exp(-(((grid - middles[..., :1]) / wide[:, None]) ** 2)).astype(np.float32)  # t p s
    down = np.exp(-(((grid - middles[..., 1:]) / high[:, None]) ** 2)).astype(np.float32)
    level = (np.stack([part[4] for part in parts], 1) * seen[:, None]).astype(np.float32)
    return np.einsum("tpy,tpx->tyx", down * level[..., None], across, optimize=True)


def _disc(x: float | Array, y: float, wide: float, high: float, times: int) -> Array:
    angle = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    return np.tile(np.stack([x + wide * np.cos(angle), y + high * np.sin(angle)], -1), (times, 1, 1))
