"""Draws the synthetic cabin: one view of the driver, as reflectance in colour, reflectance in near infrared, and distance.

Simple shapes (discs, capsules, polygons) are painted from far to near, each with its number, at a multiple of the size;
tables turn the numbers into what they reflect and how far they are. The cameras share the view, as registered ones do.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import reduce
from itertools import pairwise
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from affuse.data.synthetic.cabin_actions import (
    BELT_TOP,
    DISPLAY,
    HEAD,
    TALL,
    WHEEL,
    Motion,
    Thing,
)

Array = NDArray[np.floating[Any]]
NOWHERE = 0.0  # distance of glass and of the open: the depth camera gets no answer
_TURN = np.linspace(0, 2 * np.pi, 13)
_RIM = np.stack([WHEEL[0] + 0.3 * np.cos(_TURN), WHEEL[1] + 0.24 * np.sin(_TURN), np.full(13, 0.69)], -1)
_FRACTION = 4  # bits behind the point of OpenCV's coordinates


@dataclass(frozen=True)
class Surface:
    """Reflectance in red, green, blue and near infrared; one above 1 mirrors the lamp back."""

    colour: tuple[float, float, float]
    infrared: float


# Fabrics, skin, paper and plastics are all bright in near infrared; the belt's metal throws the lamp back.
THINGS = {
    "bottle": Surface((0.08, 0.3, 0.55), 0.62),
    "cap": Surface((0.75, 0.75, 0.7), 0.6),
    "phone": Surface((0.03, 0.03, 0.035), 0.25),
    "food": Surface((0.75, 0.4, 0.08), 0.6),
    "newspaper": Surface((0.62, 0.6, 0.55), 0.6),
    "magazine": Surface((0.6, 0.12, 0.1), 0.55),
    "notebook": Surface((0.75, 0.72, 0.3), 0.6),
    "laptop": Surface((0.3, 0.31, 0.33), 0.42),
}
BELT = Surface((0.05, 0.05, 0.055), 0.22)
METAL = Surface((0.5, 0.5, 0.5), 1.6)
SCREEN = Surface((0.05, 0.09, 0.14), 0.04)
WINDOW = Surface((0.9, 0.95, 1.0), 0.02)
RUBBER = Surface((0.03, 0.03, 0.03), 0.06)


@dataclass(frozen=True)
class Subject:
    """How a person looks, sits and moves, and the car of theirs. Lengths in half image widths."""

    size: float
    x: float
    y: float
    width: float
    skin: Surface
    hair: Surface
    shirt: Surface
    trousers: Surface
    seat: Surface
    cabin: Surface
    speed: float
    right_handed: bool


@dataclass(frozen=True)
class View:
    """What is before the cameras: colour (t, h, w, 3), infrared (t, h, w), distance (t, h, w) in metres, `spread` (t, h, w),
    the range of distances within a pixel, and `parts` (t, h, w): 0 the car, 1 the body, 2 head, 3 arms, 4 things and belt."""

    colour: NDArray[np.float32]
    infrared: NDArray[np.float32]
    distance: NDArray[np.float32]
    spread: NDArray[np.float32]
    parts: NDArray[np.uint8]


def draw_subject(rng: np.random.Generator) -> Subject:
    """A person and their car."""

    def cloth(darkest: float, brightest: float, colourful: float) -> Surface:
        level = np.exp(rng.uniform(np.log(darkest), np.log(brightest)))
        red, green, blue = np.clip(level * rng.uniform(1 - colourful, 1 + colourful, 3), 0.01, 0.9).tolist()
        return Surface((red, green, blue), rng.uniform(0.45, 0.7))

    fair = rng.uniform()
    red, green, blue = (np.array([0.16, 0.085, 0.055]) * (1 - fair) + np.array([0.62, 0.43, 0.34]) * fair).tolist()
    dark = rng.uniform(0.01, 0.12)
    return Subject(
        size=rng.uniform(0.92, 1.08),
        x=rng.normal(0, 0.035),
        y=rng.normal(0, 0.03),
        width=rng.uniform(0.3, 0.38),
        skin=Surface((red, green, blue), rng.uniform(0.5, 0.65)),
        hair=Surface((1.3 * dark, dark, 0.8 * dark), rng.uniform(0.15, 0.45)),
        shirt=cloth(0.05, 0.4, 0.4),
        trousers=cloth(0.02, 0.15, 0.2),
        seat=cloth(0.02, 0.06, 0.15),
        cabin=cloth(0.05, 0.1, 0.15),
        speed=rng.uniform(0.85, 1.2),
        right_handed=rng.uniform() < 0.85,
    )


@dataclass
class _Canvas:
    """Shapes of one frame, gathered and then painted from far to near."""

    side: int
    subject: Subject
    shapes: list[tuple[float, int, Any]] = field(default_factory=list)
    surfaces: list[Surface] = field(default_factory=list)
    distances: list[float] = field(default_factory=list)
    groups: list[int] = field(default_factory=list)

    def _add(self, surface: Surface, z: float, group: int, shape: Any, order: float | None) -> None:
        self.shapes.append((z if order is None else order, len(self.surfaces), shape))
        self.surfaces.append(surface)
        self.distances.append(z)
        self.groups.append(group)

    def _pixels(self, x: float, y: float) -> tuple[int, int]:
        scale = self.side / 2 * (1 << _FRACTION)
        return round((x + 1) * scale), round((y + 1) * scale)

    def disc(
        self, surface: Surface, x: float, y: float, z: float, radius: float, group: int, order: float | None = None
    ) -> None:
        self._add(surface, z, group, (self._pixels(x, y), round(radius * self.side / 2 * (1 << _FRACTION))), order)

    def capsule(self, surface: Surface, start: Array, end: Array, width: float, group: int) -> None:
        z = float(start[2] + end[2]) / 2
        thick = max(1, round(width * self.side / 2))
        ends = (self._pixels(float(start[0]), float(start[1])), self._pixels(float(end[0]), float(end[1])))
        self._add(surface, z, group, (*ends, thick), None)

    def polygon(self, surface: Surface, corners: Any, z: float, group: int, order: float | None = None) -> None:
        points = np.round((np.asarray(corners) + 1) * (self.side / 2 * (1 << _FRACTION))).astype(np.int32)
        self._add(surface, z, group, points, order)

    def painted(self) -> NDArray[np.uint8]:
        image = np.zeros((self.side, self.side), np.uint8)
        for _, number, shape in sorted(self.shapes, key=lambda item: -item[0]):
            if isinstance(shape, np.ndarray):
                cv2.fillConvexPoly(image, shape, number, cv2.LINE_8, _FRACTION)
            elif len(shape) == 2:
                cv2.circle(image, shape[0], shape[1], number, -1, cv2.LINE_8, _FRACTION)
            else:
                cv2.line(image, shape[0], shape[1], number, shape[2], cv2.LINE_8, _FRACTION)
        return image


def _box(x: float, y: float, half_width: float, half_height: float, angle: float = 0.0) -> Array:
    corners = np.array([[-half_width, -half_height], [half_width, -half_height], [half_width, half_height]])
    corners = np.concatenate([corners, [[-half_width, half_height]]])
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return corners @ turn + np.array([x, y])


def _car(canvas: _Canvas, lying: tuple[str, ...]) -> None:
    s = canvas.subject
    canvas.polygon(s.cabin, _box(0.0, 0.0, 1.0, 1.0), 1.7, 0)
    canvas.polygon(WINDOW, [[-1, -0.8], [-0.62, -0.85], [-0.6, -0.1], [-1, 0.05]], NOWHERE, 0, order=1.65)
    canvas.polygon(WINDOW, [[0.45, -0.85], [1, -0.8], [1, -0.25], [0.5, -0.3]], NOWHERE, 0, order=1.64)
    canvas.polygon(s.seat, [[-0.4, -0.35], [0.5, -0.35], [0.6, 1], [-0.5, 1]], 1.12, 0)
    canvas.polygon(s.seat, _box(0.05, -0.52, 0.2, 0.2), 1.13, 0)
    canvas.polygon(SCREEN, _box(DISPLAY[0] + 0.05, DISPLAY[1], 0.16, 0.13), 0.72, 0)
    canvas.polygon(s.cabin, _box(DISPLAY[0] + 0.05, 0.75, 0.2, 0.28), 0.75, 0)
    for start, end in pairwise(_RIM):
        canvas.capsule(RUBBER, start, end, 0.05, 0)
    if "bottle" in lying:
        canvas.polygon(THINGS["bottle"], _box(0.72, 0.62, 0.045, 0.13), 0.7, 0)
    if "phone" in lying:
        canvas.polygon(THINGS["phone"], _box(0.85, 0.6, 0.05, 0.08), 0.74, 0)
    if "newspaper" in lying:
        canvas.polygon(THINGS["newspaper"], _box(0.83, 0.88, 0.17, 0.1), 0.73, 0)


def _person(canvas: _Canvas, place: Any, motion: Motion, t: int) -> None:
    s = canvas.subject
    head_x, head_y = motion.head[t] + place(np.array(HEAD))[:2]
    yaw, r = float(motion.yaw[t]), 0.17 * s.size
    left, right = (place(np.array((0.05 + way * s.width, 0.02, 0.98))) for way in (-1, 1))
    low_left, low_right = (place(np.array((0.05 + way * 0.8 * s.width, 0.8, 0.95))) for way in (-1, 1))
    canvas.polygon(s.shirt, np.stack([left, right, low_right, low_left])[:, :2], 0.97, 1)
    neck = (left + right) / 2 + np.array([0, 0, 0.01])
    canvas.capsule(s.skin, neck, np.array([head_x, head_y, 0.97]), 0.14, 2)
    for way in (-1, 1):
        hip, knee = place(np.array((0.05 + 0.14 * way, 0.8, 0.9))), place(np.array((0.05 + 0.24 * way, 1.1, 0.74)))
        canvas.capsule(s.trousers, hip, knee, 0.26, 1)
    canvas.disc(s.hair, head_x, head_y - 0.04, 0.97, 1.08 * r, 2)
    canvas.disc(s.skin, head_x + 0.05 * yaw, head_y + 0.04, 0.94, 0.92 * r, 2)
    for way in (-1, 1):
        canvas.disc(s.hair, head_x + (0.07 * way + 0.11 * yaw) * s.size, head_y, 0.935, 0.025, 2)
    for way, hand in ((motion.side, motion.active[t]), (-motion.side, motion.other[t])):
        _arm(canvas, right if way > 0 else left, place(hand), way)


def _arm(canvas: _Canvas, shoulder: Array, hand: Array, way: int) -> None:
    """Two bones of a length; the elbow bends outwards and down as far as the hand is near the shoulder."""
    s = canvas.subject
    reach = hand - shoulder
    span = float(np.hypot(reach[0], reach[1]))
    bend = np.sqrt(max(0.0, (0.38 * s.size) ** 2 - span**2 / 4))
    across = np.array([-reach[1], reach[0]]) / (span + 1e-6)
    if across[0] * way + 0.6 * across[1] < 0:
        across = -across
    elbow = (shoulder + hand) / 2
    elbow[:2] += bend * across * 0.7
    stations = [shoulder, (shoulder + elbow) / 2, elbow, (elbow + hand) / 2, hand]
    for number, (start, end) in enumerate(pairwise(stations)):
        canvas.capsule(s.shirt if number < 3 else s.skin, start, end, 0.13 if number < 2 else 0.1, 3)
    canvas.disc(s.skin, float(hand[0]), float(hand[1]), float(hand[2]) - 0.01, 0.07 * s.size, 3)


def _thing(canvas: _Canvas, thing: Thing, place: Any, t: int) -> None:
    x, y, z = (float(v) for v in place(thing.centre[t]))
    angle, surface = float(thing.angle[t]), THINGS[thing.kind]
    if thing.kind == "bottle":
        canvas.polygon(surface, _box(x, y, 0.05, 0.12, angle), z, 4)
    elif thing.kind == "cap":
        canvas.disc(surface, x, y, z, 0.03, 4)
    elif thing.kind == "food":
        canvas.polygon(surface, _box(x, y + 0.02, 0.07, 0.06, angle), z, 4)
    elif thing.kind in ("phone", "notebook"):
        canvas.polygon(surface, _box(x, y, 0.055, 0.1, angle), z, 4)
    elif thing.kind in ("newspaper", "magazine"):
        canvas.polygon(surface, _box(x, y, 0.29, 0.2, angle), z, 4)
        canvas.polygon(Surface((0.25, 0.25, 0.25), 0.45), _box(x, y, 0.012, 0.2, angle), z, 4, order=z - 0.001)
    else:
        height = TALL * float(thing.opening[t])
        canvas.polygon(surface, _box(x, y + 0.03, 0.25, 0.04), z, 4)
        lid = [[x - 0.24, y], [x + 0.24, y], [x + 0.25, y - height - 0.01], [x - 0.25, y - height - 0.01]]
        canvas.polygon(Surface((0.4, 0.41, 0.43), 0.46), lid, z - 0.02, 4)


def render(subject: Subject, motion: Motion, size: int, oversampling: int, lying: tuple[str, ...] = ()) -> View:
    """All frames of a motion.

    Args:
        subject: who moves.
        motion: t moments.
        size: side of the picture, pixels.
        oversampling: times the size at which shapes are drawn.
        lying: names of the things of `THINGS` that lie around unused: bottle, phone, newspaper.
    """
    side, shift = size * oversampling, np.array([subject.x, subject.y, 0.0])
    scale = np.array([subject.size, subject.size, 1.0])

    def place(at: Array) -> Array:
        # A taller person fills more of the picture; the seat stays.
        return at * scale + shift

    car = _Canvas(side, subject)
    _car(car, lying)
    labels, tables = [], []
    for t in range(len(motion.yaw)):
        canvas = _Canvas(side, subject, list(car.shapes), list(car.surfaces), list(car.distances), list(car.groups))
        _person(canvas, place, motion, t)
        canvas.capsule(BELT, np.array(BELT_TOP), motion.tongue[t] * (1, 1, 0) + (0, 0, 0.93), 0.06, 4)
        tongue = motion.tongue[t]
        canvas.disc(METAL, float(tongue[0]), float(tongue[1]), float(tongue[2]) - 0.02, 0.03, 4)
        for thing in motion.things:
            _thing(canvas, thing, place, t)
        labels.append(canvas.painted())
        rows = zip(canvas.surfaces, canvas.distances, strict=True)
        table = np.array([(*surface.colour, surface.infrared, z) for surface, z in rows], np.float32)
        tables.append((table, np.array(canvas.groups, np.uint8)))
    middle = oversampling // 2
    colours, infrareds, distances, spreads, parts = [], [], [], [], []
    for label, (table, groups) in zip(labels, tables, strict=True):
        mean = cv2.resize(table[:, :4][label], (size, size), interpolation=cv2.INTER_AREA)
        colours.append(mean[..., :3])
        infrareds.append(mean[..., 3])
        z = table[:, 4][label]
        corners = [z[i::oversampling, j::oversampling] for i in range(oversampling) for j in range(oversampling)]
        distances.append(z[middle::oversampling, middle::oversampling])
        spreads.append(reduce(np.maximum, corners) - reduce(np.minimum, corners))
        parts.append(groups[label[middle::oversampling, middle::oversampling]])
    return View(*(np.stack(images) for images in (colours, infrareds, distances, spreads, parts)))  # type: ignore[arg-type]
