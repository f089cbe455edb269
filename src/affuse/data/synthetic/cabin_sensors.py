"""Three cameras of the synthetic cabin, and the four lights they stand in.

Colour lives by daylight; near infrared by a lamp of its own, which weakens with the square of the distance, and takes a
part of the sun; a time-of-flight camera measures distance, whatever the light, but gets no answer from what is dark,
mirrors or is cut by an edge. Each has its noise, and each tells what share of the edges it could see.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from affuse.data.synthetic.cabin_renderer import View
from affuse.data.synthetic.rgb_sensor import srgb
from affuse.types import AffuseError

Array = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Light:
    """Daylight in the cabin.

    Args:
        level: range of its strength, drawn log-uniformly; 1 fills the colour camera's well from a white surface.
        sun: range of the strength of a sunbeam on a part of the picture; (0, 0) without one.
        veil: the sun's stray light in the lens, as a share of the beam, over the whole picture.
    """

    level: tuple[float, float]
    sun: tuple[float, float] = (0.0, 0.0)
    veil: float = 0.0


LIGHTS: dict[str, Light] = {
    "day": Light((0.5, 1.1)),
    "dusk": Light((0.04, 0.12)),
    "night": Light((0.0003, 0.002)),
    "glare": Light((0.25, 0.6), (6.0, 25.0), 0.03),
}


@dataclass(frozen=True)
class CabinCameras:
    """The limits of the three cameras.

    Args:
        full_well, read_noise: of the colour camera, electrons (standard deviation).
        largest_gain: to which its exposure control goes in the dark; grey (0.18) is what it aims at.
        infrared_well, infrared_noise: of the infrared camera, electrons.
        lamp: range of the strength of the infrared lamp on what is one metre away, drawn log-uniformly for a clip; 1 fills the
            well from a white surface.
        sun_in_infrared: share of daylight and sun that passes its filter.
        depth_noise: standard deviation of the distance at one metre of what is as bright in infrared as cloth (0.5), metres;
            it grows with the square of the distance, and on what is darker.
        depth_binning: side, in pixels of the picture, of the squares that the depth camera measures as one.
        depth_step: distances are whole multiples of it, metres.
        depth_holes: chance that a pixel cut by an edge, dark or mirroring gets no answer.
    """

    full_well: float = 3000.0
    read_noise: float = 12.0
    largest_gain: float = 20.0
    infrared_well: float = 600.0
    infrared_noise: float = 20.0
    lamp: tuple[float, float] = (0.05, 0.5)
    sun_in_infrared: float = 0.05
    depth_noise: float = 0.07
    depth_binning: int = 3
    depth_step: float = 0.01
    depth_holes: float = 0.6

    def __post_init__(self) -> None:
        positive = (
            self.full_well,
            self.largest_gain,
            self.infrared_well,
            self.depth_step,
            self.depth_binning,
            *self.lamp,
        )
        rest = (self.read_noise, self.infrared_noise, self.sun_in_infrared, self.depth_noise)
        if min(positive) <= 0 or self.lamp[0] > self.lamp[1] or min(rest) < 0 or not 0 <= self.depth_holes <= 1:
            raise AffuseError(
                "cabin cameras: wells, gain, lamp, depth_step and depth_binning must be positive, noises not negative, "
                "lamp must rise, and depth_holes lie in [0, 1]"
            )


@dataclass(frozen=True)
class Seen:
    """What the cameras recorded: rgb (t, h, w, 3) and infrared (t, h, w) 8-bit, depth (t, h, w) in whole millimetres, 0 where
    there was no answer; and `signal` by camera in [0, 1]: the mean visibility, q / (1 + q), of the edges of head, arms, belt
    and things, where q is the squared step of the expected picture across an edge, over the variance of the noise."""

    rgb: NDArray[np.uint8]
    infrared: NDArray[np.uint8]
    depth: NDArray[np.uint16]
    signal: dict[str, float]


def expose(view: View, light_name: str, cameras: CabinCameras, rng: np.random.Generator) -> Seen:
    """Let the three cameras record a view in one draw of a light of `LIGHTS`."""
    daylight, beam = _daylight(LIGHTS[light_name], view.infrared.shape[1], rng)
    veil = LIGHTS[light_name].veil * float(beam.mean())
    edges = _edges(view.parts)
    scene = view.colour * (daylight + beam)[..., None] + np.float32(veil)
    # Exposed for what is not in the sun, and never shorter than for a bright day.
    gain = float(np.clip(0.18 / max(float((view.colour.mean(-1) * daylight).mean()), 1e-9), 1, cameras.largest_gain))
    rgb, expected, noise = _photograph(scene, gain, cameras.full_well, cameras.read_noise, rng)
    signal = {"rgb": _visibility(expected, noise, edges)}

    z = np.where(view.distance > 0, view.distance, np.float32(2.5))
    lamp = np.float32(np.exp(rng.uniform(*np.log(cameras.lamp)))) / z**2 * _vignette(z.shape[1])
    ambient = cameras.sun_in_infrared * (daylight + beam)
    scene = view.infrared * (lamp + ambient) + np.float32(cameras.sun_in_infrared * veil)
    infrared, expected, noise = _photograph(scene, 1.0, cameras.infrared_well, cameras.infrared_noise, rng)
    signal["infrared"] = _visibility(expected[..., None], noise[..., None], edges)

    # One value a square: that of its first pixel, as if the sensor had fewer and larger ones.
    z, dark, cut, open_ = (
        _binned(image, cameras.depth_binning) for image in (z, view.infrared, view.spread, view.distance)
    )
    noise = cameras.depth_noise * z**2 * np.sqrt(0.5 / np.clip(dark, 0.05, 1))
    measured = z + noise * rng.standard_normal(z.shape, dtype=np.float32)
    steps = np.round(measured / cameras.depth_step) * cameras.depth_step
    hard = (cut > 0.08) | (dark < 0.08) | (dark > 1)
    lost = np.where(open_ > 0, np.where(hard, cameras.depth_holes, 0.01), 1.0).astype(np.float32)
    answered = rng.random(z.shape, dtype=np.float32) >= lost
    spread = np.sqrt(noise**2 + cameras.depth_step**2 / 12)
    depth = np.where(answered, np.round(steps * 1000), 0).clip(0, 65535).astype(np.uint16)
    back = [_unbinned(image, cameras.depth_binning, view.parts.shape[1]) for image in (z, spread, 1 - lost)]
    signal["depth"] = _visibility(back[0][..., None], back[1][..., None], edges, back[2])
    depth = _unbinned(depth, cameras.depth_binning, view.parts.shape[1])
    return Seen(rgb, infrared, depth, signal)


def _daylight(light: Light, size: int, rng: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The even light and the sunbeam, each (size, size)."""
    grid = (np.arange(size) + 0.5) * 2 / size - 1
    x, y = grid[None, :], grid[:, None]
    level = np.exp(rng.uniform(*np.log(light.level)))
    # It comes in through the windows: stronger from one side.
    even = level * (1 + rng.uniform(0.1, 0.35) * rng.choice((-1, 1)) * x + rng.uniform(-0.2, 0.2) * y)
    angle, offset = rng.uniform(0, 2 * np.pi), rng.uniform(-0.25, 0.25)
    softness = rng.uniform(8, 20)
    beam = rng.uniform(*light.sun) / (1 + np.exp(-softness * (np.cos(angle) * x + np.sin(angle) * y - offset)))
    return even.astype(np.float32), beam.astype(np.float32)


def _vignette(size: int) -> NDArray[np.float32]:
    grid = (np.arange(size) + 0.5) * 2 / size - 1
    return np.asarray(np.exp(-0.35 * (grid[None, :] ** 2 + grid[:, None] ** 2)), np.float32)


def _binned(images: NDArray[Any], side: int) -> NDArray[Any]:
    return images[:, ::side, ::side]


def _unbinned(images: NDArray[Any], side: int, size: int) -> NDArray[Any]:
    return images.repeat(side, 1).repeat(side, 2)[:, :size, :size]


def _photograph(
    scene: NDArray[np.float32], gain: float, well: float, read_noise: float, rng: np.random.Generator
) -> tuple[NDArray[np.uint8], Array, Array]:
    """The 8-bit picture of a scene, its expectation in shares of the range, and the noise's standard deviation there."""
    noise = np.sqrt(scene * np.float32(1 / well) + np.float32((read_noise / well) ** 2)) * np.float32(gain)
    expected = scene * np.float32(gain)
    picture = srgb(np.clip(expected + noise * rng.standard_normal(scene.shape, dtype=np.float32), 0, 1))
    return picture, np.minimum(expected, 1), noise


def _edges(parts: NDArray[np.uint8]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Pixels two apart, in a row or a column, that show different parts, of which one is more than car and trunk.

    Returns:
        Their places in a flattened (t, h, w) picture.
    """
    width = parts.shape[2]
    pairs = []
    for step, (a, b) in ((2, (parts[:, :, :-2], parts[:, :, 2:])), (2 * width, (parts[:, :-2], parts[:, 2:]))):
        differ = np.zeros(parts.shape, bool)
        differ[:, : a.shape[1], : a.shape[2]] = (a != b) & ((a > 1) | (b > 1))
        near = np.flatnonzero(differ)
        pairs.append((near, near + step))
    return np.concatenate([near for near, _ in pairs]), np.concatenate([far for _, far in pairs])


def _visibility(
    expected: Array, noise: Array, edges: tuple[NDArray[np.intp], NDArray[np.intp]], answered: Array | None = None
) -> float:
    """See `Seen.signal`; (t, h, w, d) each, and `answered` (t, h, w), the chance that a pixel is there at all."""
    near, far = edges
    if not len(near):
        return 0.0
    values, spreads = (x.reshape(-1, expected.shape[-1]) for x in (expected, noise))
    steps = (values[far] - values[near]) ** 2
    q = (steps / (spreads[far] ** 2 + spreads[near] ** 2)).sum(-1)
    seen = q / (1 + q)
    if answered is not None:
        seen = seen * answered.ravel()[far] * answered.ravel()[near]
    return float(seen.mean())
