"""Four lights, named as SEE names them, and a frame camera with the limits of a real one.

The camera's exposure is set for normal light and stays. From radiance to a grey level: electrons, their shot noise, read
noise, the full well, gain to [0, 1], the sRGB curve (IEC 61966-2-1), eight bits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from affuse.types import AffuseError


@dataclass(frozen=True)
class Light:
    """One kind of light.

    Args:
        level: range of its strength, drawn log-uniformly; 1 is what the camera is exposed for.
        contrast: range of the ratio between its bright and its dim side, log-uniformly.
        pupil: radius of the pupil as a share of the iris.
        event_noise_hz: shot noise of the event camera in it, events a second of a pixel; more where there is less light.
        long_exposure: the frame camera then exposes for the whole frame time, and motion blurs.
    """

    level: tuple[float, float]
    contrast: tuple[float, float]
    pupil: float
    event_noise_hz: float
    long_exposure: bool = False


LIGHTS: dict[str, Light] = {
    "normal": Light((0.8, 1.2), (1.0, 1.8), 0.42, 2.0),
    "Overexposed": Light((8.0, 20.0), (1.0, 1.8), 0.32, 2.0),
    "Low": Light((0.004, 0.009), (1.0, 1.8), 0.6, 3.0, True),
    "HDR": Light((0.5, 1.0), (15.0, 60.0), 0.42, 3.0),
}


@dataclass(frozen=True)
class FrameCamera:
    """Electrons at which a pixel is full, and standard deviation of the read noise in electrons."""

    full_well: float = 3000.0
    read_noise: float = 12.0

    def __post_init__(self) -> None:
        if self.full_well <= 0 or self.read_noise < 0:
            raise AffuseError("frame camera: full_well must be positive and read_noise not negative")

    def record(self, radiance: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.uint8]:
        """8-bit frames, same shape, of linear radiance, of which 1 fills the well."""
        electrons = radiance * np.float32(self.full_well)
        # The normal stands in for the Poisson law: many times faster, and read noise hides the difference where few.
        electrons += np.sqrt(electrons + self.read_noise**2) * rng.standard_normal(electrons.shape, dtype=np.float32)
        return srgb(np.clip(electrons / np.float32(self.full_well), 0, 1))


_CODES = np.round(
    255 * np.where(
        (_linear := np.linspace(0, 1, 4096)) <= 0.0031308, 12.92 * _linear, 1.055 * _linear ** (1 / 2.4) - 0.055
    )
).astype(np.uint8)  # fmt: skip


def srgb(linear: NDArray[np.float32]) -> NDArray[np.uint8]:
    """8-bit sRGB of linear values in [0, 1], which a 12-bit converter has read."""
    return _CODES[np.round(linear * 4095).astype(np.int16)]


def illumination(light: Light, size: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Strength (size, size) of one draw of the light, from its bright to its dim side."""
    level = np.exp(rng.uniform(*np.log(light.level)))
    contrast = np.exp(rng.uniform(*np.log(light.contrast)))
    angle, offset = rng.uniform(0, 2 * np.pi), rng.uniform(-0.3, 0.3)
    grid = (np.arange(size) + 0.5) * 2 / size - 1
    along = np.cos(angle) * grid[None, :] + np.sin(angle) * grid[:, None] - offset
    # The geometric mean over both sides is `level`.
    return np.asarray(level * contrast ** (0.5 * np.tanh(2 * along)), np.float32)


def signal_kept(recorded: NDArray[np.uint8], clean: NDArray[np.uint8]) -> float:
    """Share in [0, 1] of the variance of clean frames (t, h, w, 3) that an affine map of recorded ones explains.

    That is the squared correlation, so that a change of exposure alone loses nothing; clipping, noise and rounding do.
    """
    # float64 sums: the moments of 8-bit values over whole recordings.
    a = recorded.astype(np.float32).ravel() - np.float32(recorded.mean())
    b = clean.astype(np.float32).ravel() - np.float32(clean.mean())
    power = float(a @ a) * float(b @ b)
    return min(1.0, float(a @ b) ** 2 / power) if power > 0 else 0.0
