"""MNIST-DVS: moving digits on a screen, seen by a DVS128 (Serrano-Gotarredona and Linares-Barranco, IEEE J. Solid-State
Circuits 48(3), 2013).

As downloaded, ``grabbed_data0`` to ``grabbed_data9`` hold folders ``scale4``, ``scale8`` and ``scale16`` of recordings
``mnist_DIGIT_scaleSS_NUMBER.aedat``. Files converted by others keep the name and have a suffix that `read_events` knows
(``.npz``, ``.csv``). Recordings last some 2 s and have some 100,000 events: they are read as they are asked for.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from affuse.signals.events import Events, read_events
from affuse.types import AffuseError

SENSOR = 128
MAX_BYTES = 64 * 2**20
_NAME = re.compile(r"mnist_([0-9])_scale0?(4|8|16)_([0-9]{1,5})\.(aedat|npz|csv|txt|h5|hdf5)")


@dataclass(frozen=True)
class ScreenDigit:
    """A recording of MNIST-DVS.

    Args:
        name: its id, the file's name without suffix.
        digit: 0 to 9.
        path: the file.
    """

    name: str
    digit: int
    path: Path


def find_mnist_dvs(root: Path, scale: int) -> tuple[ScreenDigit, ...]:
    """The recordings below a folder, of one scale (4, 8 or 16), in order of their names.

    Raises:
        AffuseError: no such folder, no recording of this scale in it, or two files of one name.
    """
    if not root.is_dir():
        raise AffuseError(
            f"{root}: no such folder; it should hold MNIST-DVS as grabbed_data0/scale4/mnist_0_scale04_0001.aedat"
        )
    found: dict[str, ScreenDigit] = {}
    for path in sorted(root.rglob("mnist_*")):
        name = _NAME.fullmatch(path.name)
        if name is None or int(name[2]) != scale:
            continue
        if path.stem in found:
            raise AffuseError(f"{path}: the same recording is also {found[path.stem].path}: keep one of them")
        found[path.stem] = ScreenDigit(path.stem, int(name[1]), path)
    if not found:
        raise AffuseError(f"{root}: holds no recording of scale {scale}, such as mnist_0_scale{scale:02d}_0001.aedat")
    return tuple(found.values())


def read_screen_digit(path: Path) -> Events:
    """The events of one recording.

    Raises:
        AffuseError: the file cannot be read, is too large, or holds bad events.
    """
    if path.suffix.lower() != ".aedat":
        return read_events(path, sensor_size=(SENSOR, SENSOR))
    try:
        if path.stat().st_size > MAX_BYTES:
            raise AffuseError(f"{path}: {path.stat().st_size} bytes are more than a recording of MNIST-DVS has")
        data = path.read_bytes()
    except OSError as error:
        raise AffuseError(f"{path}: cannot be read ({error.strerror})") from None
    return decode_dvs128(data, str(path))


def decode_dvs128(data: bytes, name: str) -> Events:
    """jAER's AEDAT 1 and 2 of a DVS128: a header of lines that begin with ``#``, then big-endian events.

    Version 2 has 32 bits of address and 32 of time in microseconds an event, version 1 (which says so, or says nothing) 16
    and 32. In the address, bit 0 is the polarity (0: brighter), bits 1 to 7 the column, counted from the right, bits 8 to
    14 the row; an event with bit 15 is no event of the picture and is left out.

    Raises:
        AffuseError: empty, cut within an event, another version, or times that go backwards.
    """
    start, version = 0, 1
    while data[start : start + 1] == b"#":
        stop = data.find(b"\n", start)
        if stop < 0:
            raise AffuseError(f"{name}: ends within its header; copy it again")
        line = data[start:stop]
        said = re.match(rb"#!AER-DAT([0-9])", line)
        version = int(said[1]) if said else version
        start = stop + 1
    if version not in (1, 2):
        raise AffuseError(f"{name}: AEDAT version {version}, where MNIST-DVS has version 1 or 2; convert it to .npz")
    layout = np.dtype([("address", ">u4" if version == 2 else ">u2"), ("t", ">u4")])
    body = data[start:]
    if not body:
        raise AffuseError(f"{name}: holds no event; copy it again")
    if len(body) % layout.itemsize:
        raise AffuseError(
            f"{name}: cut within an event ({len(body)} bytes of {layout.itemsize} an event); copy it again"
        )
    rows = np.frombuffer(body, layout)
    address, t_us = rows["address"].astype(np.int64), rows["t"].astype(np.int64)
    kept = (address & 0x8000) == 0
    address, t_us = address[kept], t_us[kept]
    if len(t_us) and bool((np.diff(t_us) < 0).any()):
        raise AffuseError(f"{name}: the times of events go backwards; is it AEDAT version {version} of a DVS128?")
    x, y = SENSOR - 1 - ((address >> 1) & 127), (address >> 8) & 127
    p = np.where(address & 1, -1, 1)
    return Events(t_us, x, y, p, SENSOR, SENSOR, int((~kept).sum()), f"AEDAT {version}")


@dataclass(frozen=True)
class Movement:
    """Largest random change of a recording in training: shift and size as shares, rotation in degrees, share dropped."""

    shift: float = 0.08
    rotation: float = 12.0
    scale: float = 0.12
    dropout: float = 0.3


def screen_images(
    events: Events, steps: int, size: int, movement: Movement | None = None
) -> Float[Tensor, "t 2 size size"]:
    """Events counted by window of time, polarity (OFF first) and cell of a `size` x `size` grid over the sensor.

    The recording, from its first to its last event, is cut into `steps` equal windows. No events: all zeros. `movement`
    draws from torch's global generator.
    """
    t_us, x, y, p = (column.double() for column in events.tensors())
    if not len(t_us):
        return torch.zeros(steps, 2, size, size)
    t_us = t_us - t_us[0]
    step = (t_us * steps / (t_us[-1] + 1)).long()
    u, v = (x + 0.5) / events.width - 0.5, (y + 0.5) / events.height - 0.5
    if movement is not None:
        shift_x, shift_y, turn, zoom = (2 * torch.rand(4) - 1).tolist()
        angle, factor = math.radians(turn * movement.rotation), 1 + zoom * movement.scale
        u, v = (
            factor * (math.cos(angle) * u - math.sin(angle) * v) + shift_x * movement.shift,
            factor * (math.sin(angle) * u + math.cos(angle) * v) + shift_y * movement.shift,
        )
    column, row = ((u + 0.5) * size).floor().long(), ((v + 0.5) * size).floor().long()
    seen = (column >= 0) & (column < size) & (row >= 0) & (row < size)
    if movement is not None:
        seen &= torch.rand(len(t_us)) >= torch.rand(()) * movement.dropout
    cell = ((step * 2 + (p > 0)) * size + row) * size + column
    return torch.bincount(cell[seen], minlength=steps * 2 * size * size).reshape(steps, 2, size, size).float()
