"""Eyes, brows, nose, mouth and jaw of the synthetic face: where action units move their curves.

All points are of a face that looks straight ahead, (t, n, 2), x and y in half widths of the picture. `units` holds the
intensity (t, 1) of every action unit. `side` is -1 at the picture's left and 1 at its right. Landmarks stand in the order
of iBUG 300-W (Sagonas et al., 2013): jaw, brows, nose and lips from left to right, eyes and lips clockwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from affuse.data.synthetic.face_people import Person

Array = NDArray[np.floating[Any]]
Units = Mapping[int, Array]
EYE_Y, EAR_Y = -0.18, -0.12


def jaw(person: Person, units: Units) -> Array:
    """Outline from the left ear over the chin to the right ear, (t, 17, 2)."""
    turn = np.linspace(-np.pi / 2, np.pi / 2, 17)
    x = np.sign(turn) * np.abs(np.sin(turn)) ** person.squareness * person.width
    fall = np.cos(turn) ** 0.85
    y = EAR_Y + (person.chin - EAR_Y + 0.14 * units[26] - 0.02 * units[17]) * fall
    return np.stack(np.broadcast_arrays(x, y), -1)


def skull(person: Person, scale: float, times: int) -> Array:
    """Upper outline of the head from the left to the right, (t, 13, 2)."""
    turn = np.linspace(np.pi, 0, 13)
    points = np.stack([scale * person.width * np.cos(turn), EAR_Y - scale * 0.82 * np.sin(turn)], -1)
    return np.tile(points, (times, 1, 1))


class Brow:
    """A brow: `line` (t, 5, 2) from the nose to the temple, and its `outline`."""

    def __init__(self, person: Person, units: Units, side: int) -> None:
        along = np.linspace(0, 1, 5)
        inner, outer = (1 - along) ** 1.5, along
        y = person.brow_y + person.brow_tilt * (along - 0.5) * 2 - person.brow_arch * np.sin(np.pi * along**1.3)
        y = y + units[4] * (0.035 + 0.08 * inner) + units[9] * (0.02 + 0.05 * inner) + 0.02 * units[6] * outer
        y = y - units[1] * (0.015 + 0.12 * inner) - units[2] * (0.03 + 0.1 * np.sin(np.pi * 0.7 * along))
        # The corrugator also draws the brows together.
        x = 0.13 - 0.04 * units[4] - 0.015 * units[9] + (0.4 + 0.02 * units[4]) * along
        self.line = np.stack(np.broadcast_arrays(side * x, y), -1)
        thick = np.stack([np.zeros(5), person.brow_thickness * (1 - 0.75 * along**2)], -1)
        self.outline = np.concatenate([self.line - thick, (self.line + thick)[:, ::-1]], 1)


class Eye:
    """An eye: lids (t, 11, 2) from the nose to the temple, what they leave open, and its six landmarks."""

    def __init__(self, person: Person, units: Units, gaze: Array, side: int) -> None:
        self.person, self.side, self.middle = person, side, side * person.eye_x
        au = units
        self._high = person.upper * np.clip(
            1 + 0.6 * au[5] - 0.25 * au[7] - 0.5 * au[43] - 0.2 * au[6] - 0.12 * au[4] - 0.15 * au[9], 0.1, 2
        )
        self._low = person.lower * np.clip(1 + 0.15 * au[5] - 0.55 * au[7] - 0.7 * au[6] - 0.4 * au[9], 0.05, 2)
        self._open = 1 - au[45]
        along = np.linspace(-1, 1, 11)
        high, low = self._lids(along)
        x = np.broadcast_to(self.middle + side * person.eye_width * along, high.shape)
        self.upper, self.lower = np.stack([x, high], -1), np.stack([x, low], -1)
        self.outline = np.concatenate([self.upper, self.lower[:, ::-1]], 1)
        self.opening = (low - high)[:, 5:6]
        inside = 1 - along**2
        self.crease = self.upper[:, 1:-1] - np.stack([0 * inside, 0.045 * inside], -1)[1:-1]
        self.pouch = self.lower[:, 2:-1] + np.stack([0 * inside, 0.03 + 0.04 * inside], -1)[2:-1]
        centre = np.array([self.middle, EYE_Y - 0.015]) + gaze[:, None] * [0.07, 0.03]
        self.iris = self._ball(centre, person.iris_radius)
        self.pupil = self._ball(centre, 0.45 * person.iris_radius)
        self.catchlight = self._ball(centre - np.array([0.025, 0.03]), 0.022)
        marks = np.array([-1, -0.4, 0.4, 1])
        high, low = self._lids(marks)
        x = np.broadcast_to(self.middle + side * person.eye_width * marks, high.shape)
        above, below = np.stack([x, high], -1), np.stack([x, low], -1)
        # Clockwise from the left corner: it is the temple's in the left eye, the nose's in the right one.
        self.marks = np.concatenate([above, below[:, 2:0:-1]], 1)
        if side < 0:
            self.marks = np.concatenate([above[:, ::-1], below[:, 1:3]], 1)

    def _lids(self, along: Array) -> tuple[Array, Array]:
        """y of the upper and the lower lid (t, n), at -1 (nose) to 1 (temple)."""
        inside = np.clip(1 - along**2, 0, 1)
        axis = EYE_Y - self.person.tilt * along
        low = axis + self._low * inside
        return low - (self._low * inside + self._high * inside**0.7) * self._open, low

    def _ball(self, centre: Array, radius: float) -> Array:
        """A disc, cut off by the lids."""
        turn = np.linspace(0, 2 * np.pi, 16, endpoint=False)
        disc = centre + radius * np.stack([np.cos(turn), np.sin(turn)], -1)  # t 16 2
        width = self.person.eye_width
        along = np.clip((disc[..., 0] - self.middle) * self.side / width, -1, 1)
        high, low = self._lids(along)
        return np.stack([self.middle + self.side * width * along, np.clip(disc[..., 1], high, low)], -1)


class Nose:
    """`bridge` (t, 4, 2) down to the tip, `base` (t, 5, 2) from left to right, and the `nostrils`."""

    def __init__(self, person: Person, units: Units) -> None:
        lift = 0.05 * units[9] + 0.02 * units[10]
        down = np.linspace(0, 1, 4)
        tip = person.nose_length - 0.05
        y = -0.2 + (tip + 0.2) * down - lift * down
        self.bridge = np.stack(np.broadcast_arrays(0 * down, y), -1)
        self.width = person.nose_width * (1 + 0.12 * units[9] + 0.06 * units[12])
        across = np.array([-1, -0.5, 0, 0.5, 1])
        y = person.nose_length + 0.02 * (1 - across**2) - lift * (0.5 + np.abs(across))
        self.base = np.stack(np.broadcast_arrays(self.width * across, y), -1)
        turn = np.linspace(0, 2 * np.pi, 8, endpoint=False)
        hole = np.stack([0.032 * np.cos(turn), 0.018 * np.sin(turn)], -1)
        self.nostrils = [self.base[:, at : at + 1] + [0, -0.012] + hole for at in (1, 3)]

    def side(self, side: int) -> Array:
        """The shadow's edge from the brow to the wing, (t, 4, 2), away from the light."""
        x = -side * np.concatenate([0.06 + 0 * self.width, 0.05 + 0 * self.width, 0.09 + 0 * self.width, self.width], 1)
        y = np.concatenate([self.bridge[..., :2, 1], self.bridge[..., 2:3, 1], self.base[:, :1, 1]], 1)
        return np.stack([x, y], -1)


class Mouth:
    """Lips and what they leave open. Curves have 9 points from corner to corner; outlines go clockwise from the left."""

    def __init__(self, person: Person, units: Units) -> None:
        au = units
        along = np.linspace(-1, 1, 9)
        inside = 1 - along**2
        width = person.mouth_width * (
            1 + 0.3 * au[12] + 0.3 * au[20] - 0.22 * au[23] - 0.16 * au[26] * (1 - au[20]) - 0.06 * au[17]
        )
        level = person.mouth_y + 0.05 * au[26] - 0.035 * au[17] - 0.025 * (au[9] + au[10])
        corner = person.mouth_corners - 0.13 * au[12] + 0.11 * au[15] + 0.03 * au[20] + 0.03 * au[26]
        seam = level + corner * np.abs(along) ** 1.8 - 0.25 * corner * inside
        raised = 0.045 * au[10] + 0.03 * au[9]
        self.gap = np.clip(
            0.065 * au[25] + 0.2 * au[26] + 0.6 * raised - 0.03 * au[17] - 0.05 * au[23] * (1 - au[25]), 0, 1
        )
        inner_upper = seam - inside**0.8 * (0.3 * self.gap + raised)
        inner_lower = seam + inside**0.8 * 0.7 * self.gap
        thin = 1 - 0.6 * au[23] - 0.25 * au[20] - 0.2 * au[12]
        bow = 1 - 0.3 * np.exp(-((along / 0.18) ** 2))
        upper = person.lip_upper * np.clip(thin - 0.15 * au[10], 0.15, 1)
        lower = person.lip_lower * np.clip(thin - 0.35 * au[17], 0.15, 1)
        arch = raised * np.exp(-(((np.abs(along) - 0.55) / 0.3) ** 2)) * 0.8
        outer_upper = inner_upper - upper * inside**0.6 * bow - arch * (np.abs(along) < 1)
        outer_lower = inner_lower + lower * inside**0.6
        x = width * along

        def curve(y: Array) -> Array:
            return np.stack(np.broadcast_arrays(x, y), -1)

        above, below = curve(outer_upper), curve(outer_lower)
        high, low = curve(inner_upper), curve(inner_lower)
        self.seam = curve((inner_upper + inner_lower) / 2)
        self.outer = np.concatenate([above, below[:, -2:0:-1]], 1)
        self.inner = np.concatenate([high, low[:, -2:0:-1]], 1)
        edge = curve(np.minimum(inner_lower, inner_upper + np.minimum(0.06, 0.65 * self.gap) * inside**0.5))
        self.teeth = np.concatenate([high[:, 1:-1], edge[:, -2:0:-1]], 1)
        shown = np.maximum.reduce([au[12], au[25], au[10], au[20]]) - 0.6 * au[26] * (1 - au[12])
        self.teeth_seen = (self.gap[:, 0] > 0.025) & (shown[:, 0] > 0.1)
        self.corners = above[:, [0, -1]]
        self.lowest = outer_lower[:, 4:5]
        self.outer_marks = np.concatenate([above[:, [0, 2, 3, 4, 5, 6, 8]], below[:, [6, 5, 4, 3, 2]]], 1)
        self.inner_marks = np.concatenate([high[:, [0, 3, 4, 5, 8]], low[:, [5, 4, 3]]], 1)
