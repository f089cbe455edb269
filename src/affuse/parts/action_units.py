"""Facial action units from 68 landmarks, frame by frame: what the face does, as far as its geometry shows it.

The definitions are those of the Facial Action Coding System (Ekman, Friesen and Hager, 2002). The paper of FER-SSM (Pratama,
Pandin and Hsieh, Section 3) has a "Comprehensive Action Unit (AU) Analyzer" that "leverages 68-point landmarks to compute
frame-level AU scores for interpretability and re-weighting, without altering the main feature flow", and gives no formula:
those of `action_units` are our reading. They are ramps, not a trained detector, and intensities are no FACS grades A to E.

A face is first freed of place, size and tilt: the middle of the eyes' corners at 0, the eyes level and 1 apart (one unit is
about 63 mm in adults). What is measured then is compared with a neutral face, a reference: the average face, or the same
person's first frames (`running_reference`). A head that turns to a side brings the eyes closer together and nothing nearer in
height; that is undone by the way the tip of the nose has gone (`_turned`). A nod is not undone, and a face of other proportions
than the reference shows action units that are none.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

ACTION_UNITS: dict[str, str] = {
    "AU1": "inner brow raiser",
    "AU2": "outer brow raiser",
    "AU4": "brow lowerer",
    "AU5": "upper lid raiser",
    "AU6": "cheek raiser",
    "AU7": "lid tightener",
    "AU9": "nose wrinkler",
    "AU10": "upper lip raiser",
    "AU12": "lip corner puller",
    "AU15": "lip corner depressor",
    "AU17": "chin raiser",
    "AU20": "lip stretcher",
    "AU23": "lip tightener",
    "AU25": "lips part",
    "AU26": "jaw drop",
    "AU27": "mouth stretch",
    "AU43": "eyes closed",
}
"""Name and meaning, in the order of the last axis of `action_units`. Of one frame AU43 cannot be told from a blink, AU45."""

NAMES: tuple[str, ...] = tuple(ACTION_UNITS)

# The picture's left half of a schematic neutral face, and its middle line: x and y, in distances of the eyes' middles. Adult
# proportions (Farkas, "Anthropometry of the Head and Face", 1994), rounded; drawn by hand, not averaged from any data set.
_LEFT = {
    0: (-1.17, 0.06), 1: (-1.15, 0.37), 2: (-1.10, 0.68), 3: (-1.02, 0.98), 4: (-0.88, 1.26),
    5: (-0.68, 1.49), 6: (-0.44, 1.67), 7: (-0.21, 1.78),
    17: (-0.95, -0.24), 18: (-0.82, -0.35), 19: (-0.65, -0.39), 20: (-0.47, -0.37), 21: (-0.22, -0.31),
    36: (-0.74, 0.00), 37: (-0.59, -0.08), 38: (-0.41, -0.08), 39: (-0.26, 0.00), 40: (-0.42, 0.06), 41: (-0.59, 0.06),
    31: (-0.21, 0.64), 32: (-0.11, 0.68),
    48: (-0.41, 1.10), 49: (-0.26, 0.98), 50: (-0.10, 0.93), 58: (-0.12, 1.24), 59: (-0.28, 1.18),
    60: (-0.35, 1.10), 61: (-0.11, 1.06), 67: (-0.11, 1.08),
}  # fmt: skip
_MIDDLE = {
    8: (0.0, 1.81), 27: (0.0, -0.05), 28: (0.0, 0.15), 29: (0.0, 0.35), 30: (0.0, 0.54), 33: (0.0, 0.71),
    51: (0.0, 0.96), 57: (0.0, 1.26), 62: (0.0, 1.06), 66: (0.0, 1.08),
}  # fmt: skip
_NOSE_STANDS_OUT = 0.6  # the tip before the plane of the eyes' corners, in distances of the eyes; about 4 cm
MIRROR: tuple[int, ...] = (
    *range(16, -1, -1), *range(26, 16, -1), *range(27, 31), *range(35, 30, -1), 45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40,
    *range(54, 47, -1), *range(59, 54, -1), *range(64, 59, -1), *range(67, 64, -1),
)  # fmt: skip
"""Which point of the other side each of the 68 points becomes when the picture is mirrored."""


def average_face() -> Float[Tensor, "68 2"]:
    """A schematic neutral face, the default reference: x right, y down, the middles of the eyes at (-0.5, 0) and (0.5, 0)."""
    points = {**_LEFT, **_MIDDLE, **{MIRROR[point]: (-x, y) for point, (x, y) in _LEFT.items()}}
    return torch.tensor([points[point] for point in range(68)])


def upright(landmarks: Float[Tensor, "*n 68 2"]) -> Float[Tensor, "*n 68 2"]:
    """Landmarks freed of place, size and tilt: the middle of the eyes' corners at 0, the eyes level and 1 apart.

    The corners, not the whole outline of an eye, so that a blink moves nothing else. NaN where a value is not finite or the
    eyes coincide.
    """
    left, right = landmarks[..., [36, 39], :].mean(-2), landmarks[..., [42, 45], :].mean(-2)
    along = right - left
    apart = along.norm(dim=-1, keepdim=True)
    cosine, sine = (along / apart).unbind(-1)  # NaN where the eyes coincide
    turn = torch.stack([torch.stack([cosine, -sine], -1), torch.stack([sine, cosine], -1)], -2)
    placed = (landmarks - ((left + right) / 2)[..., None, :]) @ turn / apart[..., None]
    known = torch.isfinite(placed).flatten(-2).all(-1)
    return placed.masked_fill(~known[..., None, None], math.nan)


class _Measures(NamedTuple):
    """Lengths in distances of the eyes, sides averaged; each (*n,)."""

    inner_brow: Tensor  # height of the brow's inner end over the inner corner of the eye
    outer_brow: Tensor  # height of its outer end over the outer corner
    brows_apart: Tensor
    upper_lid: Tensor  # height over the line of the corners
    lower_lid: Tensor  # depth under it
    lid_to_mouth: Tensor  # from the lower lid down to the corner of the mouth
    nose_side: Tensor  # from the inner corner of the eye down to the wing of the nose
    nose_to_lip: Tensor  # from the base of the nose down to the upper lip
    nose_to_lower_lip: Tensor  # ... to the lower edge of the lower lip
    nose_to_chin: Tensor
    mouth_width: Tensor
    corner_height: Tensor  # of the corners of the mouth over its middle
    gap: Tensor  # between the lips
    lips: Tensor  # thickness of both together


def _turned(x: Float[Tensor, "*n 68"]) -> Float[Tensor, "*n"]:
    """The cosine of the angle that a head is turned to a side, from the way of the nose's tip off the middle of the eyes.

    Turned by a, the eyes are cos a apart and the tip, which stands out by z, is z sin a aside: in distances of the eyes
    z tan a. Widths shrink as the distance of the eyes does, so they stay; heights, measured in it, grow, and are put back.
    """
    tangent = x[..., 30] / _NOSE_STANDS_OUT
    return (1 + tangent**2).rsqrt()


def _measures(landmarks: Float[Tensor, "*n 68 2"]) -> _Measures:
    x, y = upright(landmarks).unbind(-1)
    y = y * _turned(x)[..., None]
    at = lambda *points: y[..., list(points)].mean(-1)  # noqa: E731
    eyes_corners = at(36, 39, 42, 45)
    middle = (at(51) + at(57)) / 2
    return _Measures(
        inner_brow=at(39, 42) - at(20, 21, 22, 23),
        outer_brow=at(36, 45) - at(17, 18, 25, 26),
        brows_apart=x[..., 22] - x[..., 21],
        upper_lid=eyes_corners - at(37, 38, 43, 44),
        lower_lid=at(40, 41, 46, 47) - eyes_corners,
        lid_to_mouth=at(48, 54) - at(40, 41, 46, 47),
        nose_side=at(31, 35) - at(39, 42),
        nose_to_lip=at(50, 51, 52) - at(33),
        nose_to_lower_lip=at(57) - at(33),
        nose_to_chin=at(8) - at(33),
        mouth_width=x[..., 54] - x[..., 48],
        corner_height=middle - at(48, 54),
        gap=at(65, 66, 67) - at(61, 62, 63),
        lips=at(61, 62, 63) - at(50, 51, 52) + at(56, 57, 58) - at(65, 66, 67),
    )


def action_units(
    landmarks: Float[Tensor, "*n 68 2"], reference: Float[Tensor, "*n 68 2"] | Float[Tensor, "68 2"] | None = None
) -> Float[Tensor, "*n u"]:
    """Intensities of the action units, 0 (as in the reference) to 1 (as far as a face goes), in the order of `ACTION_UNITS`.

    With d the change of a measure against the reference, in distances of the eyes, and [v] = v clamped to 0 to 1:

    - AU1 [d inner brow height / 0.15]; AU2 [d outer brow height / 0.15].
    - AU4 [-d inner brow height / 0.12 - d distance of the brows / 0.2]: they come down, together, or both.
    - AU5 [d upper lid over the line of the eye's corners / 0.08].
    - AU43 [(0.5 - r) / 0.4], r being the eye's opening over the reference's; AU7 [(1 - r) / 0.5] (1 - AU43): narrowed, open.
    - AU6 the lesser of [-d lower lid / 0.05] and [-d lower lid to mouth corner / 0.2]: no point lies on the cheek; where it
      is raised, the lower lid comes up and the way to the mouth's corner is shorter.
    - AU9 [-d inner eye corner to wing of the nose / 0.12]; AU10 [-d base of the nose to upper lip / 0.12].
    - AU12 [u] (0.5 + 0.5 [w]), with u = d height of the mouth's corners over its middle / 0.15 and w = d mouth width / 0.2: up,
      and all the more so outwards. AU15 [-u]. AU20 [w] (1 - [u]): outwards, not up.
    - AU17 [-d base of the nose to lower lip / 0.12 - [d gap between the lips / 0.05]]: the lower lip is pushed up, shut.
    - AU23 [-d thickness of the lips / 0.15] (1 - [w]): thinner, not because the mouth is wider.
    - AU25 [d gap / 0.1]; AU26 [j / 0.25] [d gap / 0.05], j being the mean drop of lower lip and chin, the lips apart; AU27
      [(d gap - 0.2) / 0.3].

    Args:
        landmarks: the 68 points of iBUG 300-W, x right and y down, in any units that are the same for both; NaN: unknown.
        reference: a neutral face, one for all or one each; the average face where None.

    Returns:
        NaN in frames whose landmarks (or reference) are unknown.
    """
    neutral = average_face().to(landmarks) if reference is None else reference.to(landmarks)
    now, before = _measures(landmarks), _measures(neutral)
    d = _Measures(*(value - at_rest for value, at_rest in zip(now, before, strict=True)))
    opening = (now.upper_lid + now.lower_lid) / (before.upper_lid + before.lower_lid).clamp_min(0.02)
    shut = _clamped((0.5 - opening) / 0.4)
    up, wide = d.corner_height / 0.15, _clamped(d.mouth_width / 0.2)
    apart = _clamped(d.gap / 0.05)
    jaw = (d.nose_to_lower_lip + d.nose_to_chin) / 2
    found = {
        "AU1": d.inner_brow / 0.15,
        "AU2": d.outer_brow / 0.15,
        "AU4": -d.inner_brow / 0.12 - d.brows_apart / 0.2,
        "AU5": d.upper_lid / 0.08,
        "AU6": torch.minimum(-d.lower_lid / 0.05, -d.lid_to_mouth / 0.2),
        "AU7": _clamped((1 - opening) / 0.5) * (1 - shut),
        "AU9": -d.nose_side / 0.12,
        "AU10": -d.nose_to_lip / 0.12,
        "AU12": _clamped(up) * (0.5 + 0.5 * wide),
        "AU15": -up,
        "AU17": -d.nose_to_lower_lip / 0.12 - apart,
        "AU20": wide * (1 - _clamped(up)),
        "AU23": -d.lips / 0.15 * (1 - wide),
        "AU25": d.gap / 0.1,
        "AU26": _clamped(jaw / 0.25) * apart,
        "AU27": (d.gap - 0.2) / 0.3,
        "AU43": shut,
    }
    return _clamped(torch.stack([found[name] for name in ACTION_UNITS], -1))


def running_reference(landmarks: Float[Tensor, "b t 68 2"], frames: int = 16) -> Float[Tensor, "b t 68 2"]:
    """A neutral face of each person: the median of the known ones among the first `frames` frames, as far as they have come.

    It looks at no later frame, so that a stream has it too. It is neutral only if the recording starts so: in a clip that is
    cut to an expression's peak, the average face is the better reference.

    Args:
        landmarks: as in `action_units`.
        frames: how many of the first frames may count, at least 1.

    Returns:
        Freed of place, size and tilt; the average face before the first known frame.
    """
    shapes = upright(landmarks)
    found, latest = [], average_face().to(landmarks).expand(len(landmarks), -1, -1)
    for step in range(landmarks.shape[1]):
        if step < frames:
            middle = shapes[:, : step + 1].nanmedian(1).values
            latest = torch.where(torch.isnan(middle), latest, middle)
        found.append(latest)
    return torch.stack(found, 1) if found else shapes


def au_scores(intensities: Float[Tensor, "*n u"], temperature: float = 1.0) -> Float[Tensor, "*n"]:
    """How much a frame counts by what the face does in it: exp(sum of its intensities / temperature), of that frame alone.

    Our reading of the paper's re-weighting. Closed eyes (AU43) do not count: a blink is no expression. A frame whose action
    units are unknown counts as a face at rest, 1: a stream cannot know what the others will show.

    Args:
        intensities: of `action_units`, NaN where unknown.
        temperature: in summed intensities; large ones even the frames out.
    """
    counted = [index for index, name in enumerate(NAMES) if name != "AU43"]
    activity = intensities[..., counted].sum(-1)
    return torch.exp(torch.where(torch.isfinite(activity), activity, 0.0) / temperature)


def au_weights(
    intensities: Float[Tensor, "b t u"], valid: Bool[Tensor, "b t"], temperature: float = 1.0
) -> Float[Tensor, "b t"]:
    """Each frame's share of the `au_scores` of a clip.

    Args:
        intensities: of `action_units`, NaN where unknown.
        valid: frames that may count at all.
        temperature: as in `au_scores`.

    Returns:
        Rows that sum to 1: uniform over valid frames where nothing is known, all 0 where no frame is valid.
    """
    scores = au_scores(intensities, temperature).masked_fill(~valid, 0.0)  # b t
    return scores / torch.where(valid.any(1, keepdim=True), scores.sum(1, keepdim=True), 1.0)


def describe_action_units(intensities: Float[Tensor, " u"], least: float = 0.2) -> list[tuple[str, float]]:
    """What a reader is told of one frame: ("AU12 lip corner puller", 0.8), strongest first.

    Args:
        intensities: of one frame, in the order of `ACTION_UNITS`; NaN: unknown, and nothing is told.
        least: weaker ones are left out.
    """
    named = [
        (f"{name} {meaning}", value)
        for (name, meaning), value in zip(ACTION_UNITS.items(), intensities.tolist(), strict=True)
    ]
    return sorted(((name, value) for name, value in named if value >= least), key=lambda pair: -pair[1])


def _clamped(values: Tensor) -> Tensor:
    return values.clamp(0.0, 1.0)
