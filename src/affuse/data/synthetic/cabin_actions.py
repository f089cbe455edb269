"""What the driver of the synthetic cabin does: seventeen fine-grained actions as motions of hands, head and things.

Names are Drive&Act's. Some actions are look-alikes: opening and closing a bottle or a laptop and fastening and unfastening
the belt are the same motion in the two directions of time; drinking and eating, reading a newspaper and a magazine, and
writing and using a phone are the same motion with another thing.
Lengths are half image widths: x runs from -1 to 1 (left to right), y from -1 down to 1; z is the distance in metres.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]
Place = tuple[float, float, float]

HEAD: Place = (0.05, -0.42, 0.95)
MOUTH: Place = (0.05, -0.27, 0.82)
CHEST: Place = (0.05, 0.3, 0.74)
LAP: Place = (0.05, 0.66, 0.72)
BELT_TOP: Place = (-0.5, -0.12, 0.9)
BUCKLE: Place = (0.42, 0.82, 0.84)
DISPLAY: Place = (0.8, 0.3, 0.66)
WHEEL: Place = (-0.5, 0.58, 0.66)
BELT_HANGING: Place = (-0.52, 0.25, 0.95)
TALL = 0.3  # height of an open laptop's lid


@dataclass(frozen=True)
class Thing:
    """Something held or lying: a kind of `cabin_renderer.THINGS`, its centre (t, 3), turn in radians (t,) and, of a laptop,
    how far it is open, in [0, 1] (t,)."""

    kind: str
    centre: Array
    angle: Array
    opening: Array


@dataclass(frozen=True)
class Motion:
    """A clip's motion: head (t, 2) against its place, yaw (t,) in [-1, 1], the hands (t, 3) of the active and of the other
    side, the belt's tongue (t, 3), and what is in the hands. `side` is 1 where the right hand of the picture is active."""

    side: int
    head: Array
    yaw: Array
    active: Array
    other: Array
    tongue: Array
    things: tuple[Thing, ...]


@dataclass(frozen=True)
class _Scene:
    """What an action starts from: the phase (t,) of the clip, which passes 0 to 1 while it happens, and resting hands."""

    u: Array
    side: int
    rest: Array
    other: Array
    rng: np.random.Generator

    def jitter(self, place: Place, spread: float = 0.035) -> Array:
        return np.array(place) + self.rng.normal(0, (spread, spread, 0.02))

    def shake(self, size: float, cycles: tuple[float, float]) -> Array:
        """(t, 3): a small periodic movement of a hand."""
        angle = 2 * np.pi * (self.u * self.rng.uniform(*cycles) + self.rng.uniform())
        return size * np.stack([np.sin(angle), np.cos(1.7 * angle), np.zeros_like(angle)], -1)


def _path(u: Array, stops: Sequence[tuple[float, Array]]) -> Array:
    """Through the stops at their phases, each leg starting and ending at rest."""
    at = np.broadcast_to(stops[0][1], (len(u), len(stops[0][1]))).copy()
    for (start, origin), (end, goal) in pairwise(stops):
        share = np.clip((u - start) / (end - start), 0, 1)[:, None]
        at += share**2 * (3 - 2 * share) * (goal - origin)
    return at


def _thing(kind: str, centre: Array, angle: Array | float = 0.0, opening: Array | float = 0.0) -> Thing:
    return Thing(kind, centre, np.broadcast_to(angle, len(centre)), np.broadcast_to(opening, len(centre)))


def _still(s: _Scene) -> Motion:
    t = len(s.u)
    rest, other = (np.repeat(at[None], t, 0) for at in (s.rest, s.other))
    return Motion(s.side, np.zeros((t, 2)), np.zeros(t), rest, other, np.repeat(np.array([BUCKLE]), t, 0), ())


def _looking(s: _Scene) -> Motion:
    way = s.rng.choice((-1.0, 1.0))
    stops = [(0.0, 0.0), (0.25, way), (0.5, way * s.rng.uniform(0.2, 1)), (0.8, -way * s.rng.uniform(0, 1)), (1.1, 0.0)]
    yaw = _path(s.u, [(at, np.array([value])) for at, value in stops])[:, 0]
    return replace(_still(s), yaw=yaw, head=np.stack([0.06 * yaw, 0.02 * np.abs(yaw)], -1))


def _to_mouth(kind: str, tilt: float) -> Callable[[_Scene], Motion]:
    def act(s: _Scene) -> Motion:
        chest, mouth = s.jitter(CHEST), s.jitter((MOUTH[0] + 0.1 * s.side, MOUTH[1] + 0.06, MOUTH[2]))
        there = s.rng.uniform(0.25, 0.4)
        hand = _path(s.u, [(0.0, chest), (there, mouth), (there + 0.4, mouth), (there + 0.7, chest)])
        raised = _path(s.u, [(there - 0.15, np.zeros(1)), (there, np.ones(1)), (there + 0.4, np.ones(1))])[:, 0]
        hand += s.shake(0.012, (1.5, 3.0))
        thing = _thing(kind, hand + np.array([-0.04 * s.side, -0.07, -0.01]), -tilt * s.side * raised)
        still = _still(s)
        return replace(
            still, active=hand, head=still.head + np.stack([0 * raised, -0.02 * raised], -1), things=(thing,)
        )

    return act


def _talking(s: _Scene) -> Motion:
    ear = s.jitter((HEAD[0] + 0.19 * s.side, HEAD[1] + 0.12, 0.88))
    start = s.rng.uniform(-0.6, 0.15)
    hand = _path(s.u, [(start, s.jitter(CHEST)), (start + 0.3, ear)]) + s.shake(0.012, (1.0, 2.5))
    phone = _thing("phone", hand + np.array([-0.02 * s.side, -0.06, -0.005]), 0.25 * s.side)
    return replace(_still(s), active=hand, things=(phone,))


def _tapping(kind: str) -> Callable[[_Scene], Motion]:
    return lambda s: _tap(s, kind)


def _tap(s: _Scene, kind: str) -> Motion:
    held = s.jitter(CHEST, 0.05) + s.shake(0.01, (1.0, 2.0))
    tapping = held + np.array([0.1 * s.side, 0.03, -0.02]) + s.shake(0.035, (2.0, 4.0))
    thing = _thing(kind, held + np.array([0, -0.06, -0.01]), s.rng.normal(0, 0.15))
    head = np.repeat([[0.0, 0.03]], len(s.u), 0)
    return replace(_still(s), active=tapping, other=held, head=head, things=(thing,))


def _opening_bottle(s: _Scene) -> Motion:
    held = s.jitter(CHEST, 0.05) + s.shake(0.008, (1.0, 2.0))
    neck = held + np.array([0.02 * s.side, -0.17, -0.01])
    leaves = s.rng.uniform(0.4, 0.6)
    away = np.array([0.3 * s.side, 0.1, 0.02]) + s.rng.normal(0, 0.03, 3) * (1, 1, 0)
    gone = _path(s.u, [(leaves, np.zeros(3)), (leaves + 0.3, away)])
    twisting = s.shake(0.03, (3.0, 5.0)) * (s.u < leaves)[:, None]
    hand = neck + gone + twisting
    things = (_thing("bottle", held + np.array([0, -0.08, -0.01])), _thing("cap", hand + np.array([0, 0.02, -0.03])))
    return replace(_still(s), active=hand, other=held, things=things)


def _opening_laptop(s: _Scene) -> Motion:
    base = s.jitter((LAP[0], LAP[1], 0.68), 0.04)
    begins = s.rng.uniform(0.05, 0.25)
    open_ = _path(s.u, [(begins, np.zeros(1)), (begins + 0.55, np.ones(1))])[:, 0]
    edge = base + np.stack([0.1 * s.side + 0 * open_, 0.02 - TALL * open_, -0.02 + 0 * open_], -1)
    after = s.jitter((LAP[0] + 0.25 * s.side, LAP[1] + 0.04, LAP[2]))
    let_go = _path(s.u, [(begins + 0.6, np.zeros(1)), (begins + 0.85, np.ones(1))])
    hand = edge * (1 - let_go) + after * let_go
    at = np.repeat(base[None], len(s.u), 0)
    return replace(_still(s), active=hand, things=(_thing("laptop", at, 0.0, open_),))


def _working(s: _Scene) -> Motion:
    base = s.jitter((LAP[0], LAP[1], 0.68), 0.04)
    hands = [base + np.array([0.14 * way, -0.03, 0.06]) + s.shake(0.03, (2.0, 4.0)) for way in (s.side, -s.side)]
    at = np.repeat(base[None], len(s.u), 0)
    head = np.repeat([[0.0, 0.03]], len(s.u), 0)
    return replace(
        _still(s),
        active=hands[0],
        other=hands[1],
        head=head,
        things=(_thing("laptop", at, 0.0, s.rng.uniform(0.8, 1)),),
    )


def _reading(kind: str) -> Callable[[_Scene], Motion]:
    return lambda s: _read(s, kind)


def _read(s: _Scene, kind: str) -> Motion:
    centre = s.jitter((0.05, 0.42, 0.7), 0.05) + s.shake(0.012, (0.5, 1.5))
    hands = [centre + np.array([0.26 * way, 0.06, -0.01]) for way in (s.side, -s.side)]
    if s.rng.uniform() < 0.5:  # a page is turned
        turn = s.rng.uniform(0.1, 0.6)
        across = np.array([-0.3 * s.side, -0.08, -0.02])
        hands[0] = hands[0] + _path(s.u, [(turn, np.zeros(3)), (turn + 0.2, across), (turn + 0.4, np.zeros(3))])
    head = np.repeat([[0.0, 0.02]], len(s.u), 0)
    return replace(
        _still(s),
        active=hands[0],
        other=hands[1],
        head=head,
        things=(_thing(kind, centre, s.rng.normal(0, 0.06)),),
    )


def _display(s: _Scene) -> Motion:
    at = s.jitter(DISPLAY, 0.05)
    start = s.rng.uniform(-0.3, 0.25)
    hand = _path(s.u, [(start, s.rest), (start + 0.3, at), (start + 0.8, at), (start + 1.1, s.rest)])
    near = np.linalg.norm(hand - at, axis=1, keepdims=True) < 0.1
    return replace(_still(s), active=hand + near * s.shake(0.04, (2.0, 4.0)), yaw=np.full(len(s.u), 0.4))


def _fastening(s: _Scene) -> Motion:
    top, buckle = s.jitter((BELT_TOP[0], BELT_TOP[1] + 0.15, 0.84)), s.jitter((BUCKLE[0], BUCKLE[1] - 0.06, 0.76))
    start = s.rng.uniform(0.05, 0.2)
    hand = _path(
        s.u, [(start - 0.3, s.rest), (start, top), (start + 0.6, buckle), (start + 0.75, buckle), (1.2, s.rest)]
    )
    # The tongue waits at the pillar, then is in the hand, then stays in the buckle.
    grip = np.clip((s.u - start) / 0.05, 0, 1)[:, None]
    locked = np.clip((s.u - start - 0.65) / 0.05, 0, 1)[:, None]
    tongue = np.array(BELT_HANGING) * (1 - grip) + hand * grip
    return replace(_still(s), active=hand, tongue=tongue * (1 - locked) + np.array(BUCKLE) * locked)


def _reversed(act: Callable[[_Scene], Motion]) -> Callable[[_Scene], Motion]:
    return lambda s: act(replace(s, u=1 - s.u))


ACTIONS: dict[str, Callable[[_Scene], Motion]] = {
    "closing_bottle": _reversed(_opening_bottle),
    "closing_laptop": _reversed(_opening_laptop),
    "drinking": _to_mouth("bottle", 1.6),
    "eating": _to_mouth("food", 0.5),
    "fastening_seat_belt": _fastening,
    "interacting_with_phone": _tapping("phone"),
    "looking_or_moving_around (e.g. searching)": _looking,
    "opening_bottle": _opening_bottle,
    "opening_laptop": _opening_laptop,
    "reading_magazine": _reading("magazine"),
    "reading_newspaper": _reading("newspaper"),
    "sitting_still": _still,
    "talking_on_phone": _talking,
    "unfastening_seat_belt": _reversed(_fastening),
    "using_multimedia_display": _display,
    "working_on_laptop": _working,
    "writing": _tapping("notebook"),
}


def draw_motion(action: str, frames: int, rng: np.random.Generator, *, speed: float, right_handed: bool) -> Motion:
    """One performance of an action.

    Args:
        action: a name of `ACTIONS`.
        frames: moments (t), evenly spaced over the clip.
        rng: draws places, start and small movements.
        speed: the person's; 1 lets the action take the clip.
        right_handed: of the person, who now and then takes the other hand.
    """
    side = 1 if (rng.uniform() < 0.9) == right_handed else -1
    phase = 0.5 + ((np.arange(frames) + 0.5) / frames - 0.5) * speed + rng.uniform(-0.08, 0.08)
    on_wheel = rng.uniform() < 0.5
    hands = [
        np.array((WHEEL[0] + 0.16 * way, WHEEL[1], WHEEL[2]) if on_wheel else (0.05 + 0.2 * way, 0.78, 0.74))
        + rng.normal(0, (0.03, 0.03, 0.01))
        for way in (side, -side)
    ]
    if action == "using_multimedia_display":
        side = 1  # the display is within reach of one hand only
        hands.sort(key=lambda at: -at[0])
    scene = _Scene(phase, side, hands[0], hands[1], rng)
    motion = ACTIONS[action](scene)
    sway = 0.008 * np.cumsum(rng.standard_normal((frames, 2)), 0)
    tremble = [np.concatenate([rng.normal(0, 0.006, (frames, 2)), np.zeros((frames, 1))], 1) for _ in range(2)]
    return replace(motion, head=motion.head + sway, active=motion.active + tremble[0], other=motion.other + tremble[1])
