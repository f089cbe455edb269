"""The people of the synthetic face world: how faces differ that make the same expression."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Person:
    """How a person looks. Lengths in half widths of the picture, y down; colours (3,) are RGB in [0, 255].

    A face at rest can look sad, stern or friendly: `brow_tilt`, `brow_y` and `mouth_corners` are such traits.
    """

    skin: Array
    hair: Array
    iris: Array
    lips: Array
    shirt: Array
    background: Array
    wall: Array
    width: float  # of the face, from its middle
    chin: float  # y of the chin
    squareness: float  # of the jaw, exponent
    hair_length: float  # y down to which hair falls behind the face
    hairline_y: float
    parting: float  # x
    eye_x: float
    eye_width: float  # half the distance between the corners
    upper: float  # height of the opening above the line between the corners
    lower: float  # and below
    tilt: float  # of the line between the corners, up at the temple
    iris_radius: float
    brow_y: float
    brow_tilt: float  # down at the temple
    brow_arch: float
    brow_thickness: float
    nose_width: float
    nose_length: float
    mouth_y: float
    mouth_width: float
    mouth_corners: float  # height of the corners at rest, down
    lip_upper: float
    lip_lower: float
    wrinkles: float
    beard: float  # opacity, 0 where there is none
    glasses: float  # width of the rim, 0 where there are none
    glasses_colour: tuple[float, float, float]
    light_side: int  # -1 or 1: from where the light comes
    strength: float  # how strongly this person shows what they feel, around 1

    def hairline(self, times: int) -> Array:
        """Where the forehead ends (t, 7, 2), from left to right."""
        across = np.linspace(-1, 1, 7)
        y = self.hairline_y + 0.45 * np.abs(across) ** 3.5 + 0.06 * np.cos(3 * (across - self.parting))
        return np.tile(np.stack([0.99 * self.width * across, y], -1), (times, 1, 1))


def draw_person(rng: np.random.Generator) -> Person:
    """A person, and where the camera found them."""
    fair = rng.uniform()
    skin = np.array([92.0, 58.0, 42.0]) * (1 - fair) + np.array([236.0, 196.0, 170.0]) * fair
    skin = skin * rng.uniform(0.96, 1.04, 3)
    hairs = np.array([[28, 22, 20], [58, 38, 26], [98, 66, 40], [160, 122, 74], [138, 132, 128], [110, 48, 26]])
    hair = hairs[rng.choice(6, p=[0.32, 0.26, 0.16, 0.1, 0.08, 0.08])] * rng.uniform(0.8, 1.15)
    irises = np.array([[70, 44, 28], [50, 34, 24], [92, 110, 84], [92, 120, 148]])
    man = rng.random() < 0.5
    lips = skin * np.array([0.92, 0.62, 0.6]) * (1.0 if man else rng.uniform(0.8, 1.0))
    glasses = rng.choice([0.0, 0.02, 0.045], p=[0.78, 0.12, 0.1])
    return Person(
        skin=np.clip(skin, 0, 245),
        hair=hair,
        iris=irises[rng.integers(4)] * rng.uniform(0.8, 1.2),
        lips=lips,
        shirt=_muted(rng),
        background=_muted(rng),
        wall=_muted(rng),
        width=rng.uniform(0.62, 0.74),
        chin=rng.uniform(0.8, 0.92),
        squareness=rng.uniform(0.62, 0.95),
        hair_length=rng.uniform(0.0, 0.3) if man else rng.uniform(0.3, 1.3),
        hairline_y=rng.uniform(-0.82, -0.66),
        parting=rng.uniform(-1, 1),
        eye_x=rng.uniform(0.28, 0.34),
        eye_width=rng.uniform(0.155, 0.19),
        upper=rng.uniform(0.07, 0.092),
        lower=rng.uniform(0.038, 0.05),
        tilt=rng.normal(0, 0.012),
        iris_radius=rng.uniform(0.075, 0.09),
        brow_y=rng.normal(-0.4, 0.02),
        brow_tilt=rng.normal(0, 0.018),
        brow_arch=rng.uniform(0.02, 0.06),
        brow_thickness=rng.uniform(0.024, 0.042) if man else rng.uniform(0.016, 0.03),
        nose_width=rng.uniform(0.105, 0.15),
        nose_length=rng.uniform(0.16, 0.22),
        mouth_y=rng.uniform(0.44, 0.5),
        mouth_width=rng.uniform(0.23, 0.29),
        mouth_corners=rng.normal(0, 0.016),
        lip_upper=rng.uniform(0.035, 0.06),
        lip_lower=rng.uniform(0.05, 0.085),
        wrinkles=rng.beta(1.5, 4),
        beard=rng.uniform(0.3, 0.9) if man and rng.random() < 0.4 else 0.0,
        glasses=float(glasses),
        glasses_colour=(30.0, 26.0, 26.0) if rng.random() < 0.7 else (150.0, 120.0, 60.0),
        light_side=int(rng.choice([-1, 1])),
        strength=rng.uniform(0.8, 1.15),
    )


def _muted(rng: np.random.Generator) -> Array:
    """A colour of cloth or of a wall."""
    return np.clip(rng.uniform(30, 210) * rng.uniform(0.7, 1.3, 3), 0, 245)
