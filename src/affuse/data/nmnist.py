"""N-MNIST: handwritten digits seen by a moving event camera (Orchard et al., Frontiers in Neuroscience 9:437, 2015).

A folder holds one event file a recording and ``labels.txt`` (``id TAB digit``). The camera makes three saccades of about
100 ms each; a recording becomes `frames` windows in time, and each window a count image. There is no RGB camera: ``rgb`` is
absent from every sample.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from affuse.data.splits import Splits, check_bad
from affuse.signals.clips import resize
from affuse.signals.events import Events, read_events
from affuse.types import AffuseError, Sample, Task

SENSOR = 34
DURATION_US = 300_000
CLASSES = tuple(str(digit) for digit in range(10))
_SUFFIXES = (".bs2", ".bin")


@dataclass(frozen=True)
class NMNIST:
    """The ``data`` section of a recipe for N-MNIST.

    Args:
        root: folder of the recordings and of ``labels.txt``.
        frames: windows in time (t); 3 is one a saccade.
        bins: count images a window, in the order of time.
        polarity: ``split``: an image for each polarity, so c = 2 bins; ``signed``: ON minus OFF, so c = bins.
        size: side of the input, pixels; the sensor has 34.
        holdout: share of each digit that is test; the same share of the rest is validation.
        augment: in training, move the events: shift, rotation, scale, time jitter, and event dropout. Polarity is kept.
        max_shift: largest shift, pixels.
        max_rotation: largest rotation, degrees.
        max_scale: largest relative change of size.
        max_jitter_us: largest shift in time, microseconds.
        max_dropout: largest share of events that is dropped.
        max_bad_fraction: more unreadable recordings than this share of the labels stop the run.
    """

    root: str
    frames: int = 3
    bins: int = 1
    polarity: Literal["split", "signed"] = "split"
    size: int = SENSOR
    holdout: float = 0.1
    augment: bool = True
    max_shift: float = 3.0
    max_rotation: float = 12.0
    max_scale: float = 0.12
    max_jitter_us: int = 8_000
    max_dropout: float = 0.3
    max_bad_fraction: float = 0.02

    def __post_init__(self) -> None:
        if min(self.frames, self.bins, self.size) < 1:
            raise AffuseError(
                f"NMNIST: frames, bins and size must be positive: {self.frames}, {self.bins}, {self.size}"
            )
        if not 0 < self.holdout < 0.5:
            raise AffuseError(f"NMNIST: holdout is a share between 0 and 0.5, not {self.holdout}")
        if not 0 <= self.max_dropout < 1 or not 0 <= self.max_scale < 1:
            raise AffuseError("NMNIST: max_dropout and max_scale are shares from 0 to below 1")

    @property
    def channels(self) -> int:
        """Channels of the event tensor (c)."""
        return self.bins * (2 if self.polarity == "split" else 1)

    def event_clips(self, events: Events) -> list[Sample]:
        """The one sample of a recording that is not of the data set, for `predict`; empty where it has no events.

        Raises:
            AffuseError: the sensor is larger than N-MNIST's.
        """
        if events.width > SENSOR or events.height > SENSOR:
            raise AffuseError(
                f"the recording is {events.width} x {events.height}; a system of N-MNIST reads {SENSOR} x {SENSOR}"
            )
        if not len(events):
            return []
        recording = _as_recording("", 0, events)
        meta = {"start_us": int(events.t_us[0]), "stop_us": int(events.t_us[0]) + DURATION_US}
        return [_sample(recording, self, augment=False, target=None, meta=meta)]

    def splits(self, seed: int) -> Splits:
        """Train, validation and test, stratified by digit and drawn by `seed`.

        Raises:
            AffuseError: the folder or its labels are missing or wrong, or too many recordings are unreadable.
        """
        root = Path(self.root)
        recordings, bad = _recordings(root, self.max_bad_fraction)
        generator = np.random.default_rng(seed)
        parts: dict[str, list[_Recording]] = {"train": [], "validation": [], "test": []}
        for digit in range(10):
            group = [recording for recording in recordings if recording.digit == digit]
            order = [group[i] for i in generator.permutation(len(group))]
            n_test = _share(len(order), self.holdout)
            n_validation = _share(len(order) - n_test, self.holdout)
            parts["test"] += order[:n_test]
            parts["validation"] += order[n_test : n_test + n_validation]
            parts["train"] += order[n_test + n_validation :]
        empty = [name for name, part in parts.items() if not part]
        if empty:
            raise AffuseError(
                f"{root}: {len(recordings)} recordings are too few for three splits: {empty} would be empty"
            )
        facts = {
            "name": "N-MNIST",
            "split": f"{self.holdout:g} of each digit held out, the same share of the rest for validation, seed {seed}",
            "counts": {name: len(part) for name, part in parts.items()},
            "subjects_shared": [],
            "bad": len(bad),
            "bad_names": bad[:20],
        }
        return Splits(
            task=Task("classification", CLASSES),
            train=Recordings(parts["train"], self, augment=self.augment),
            validation=Recordings(parts["validation"], self, augment=False),
            test=Recordings(parts["test"], self, augment=False),
            synthetic=False,
            facts=facts,
        )


@dataclass(frozen=True)
class _Recording:
    name: str
    digit: int
    t_us: Int[Tensor, " n"]
    x: Int[Tensor, " n"]
    y: Int[Tensor, " n"]
    on: Int[Tensor, " n"]


class Recordings:
    """Map-style source of samples with ``event`` (t, c, size, size); events are held in memory, images made on demand."""

    def __init__(self, recordings: Sequence[_Recording], config: NMNIST, augment: bool) -> None:
        self._recordings = tuple(recordings)
        self._config = config
        self._augment = augment

    def __len__(self) -> int:
        return len(self._recordings)

    def __getitem__(self, index: int, /) -> Sample:
        recording = self._recordings[index]
        meta = {"id": recording.name, "label": CLASSES[recording.digit]}
        return _sample(recording, self._config, self._augment, recording.digit, meta)


def _sample(
    recording: _Recording, config: NMNIST, augment: bool, target: int | None, meta: Mapping[str, Any]
) -> Sample:
    t_us, x, y, on = recording.t_us.float(), recording.x.float(), recording.y.float(), recording.on
    if augment:
        t_us, x, y, on = _move(t_us, x, y, on, config)
    event = count_images(t_us, x, y, on, frames=config.frames, bins=config.bins)  # t 2*bins h w
    if config.polarity == "signed":
        event = event[:, config.bins :] - event[:, : config.bins]  # t bins h w
    event = resize(event.sign() * event.abs().log1p(), config.size)
    starts = torch.arange(config.frames) * (DURATION_US // config.frames)
    return Sample({"event": event}, target, {"event": starts}, meta)


def count_images(
    t_us: Float[Tensor, " n"],
    x: Float[Tensor, " n"],
    y: Float[Tensor, " n"],
    on: Int[Tensor, " n"],
    *,
    frames: int,
    bins: int,
) -> Float[Tensor, "t c 34 34"]:
    """Events counted by window, polarity (OFF bins first) and pixel.

    The 300 ms of a recording are cut into equal windows; the few events before or after belong to the first or last one.
    Events beyond the sensor are left out.
    """
    step = (t_us * (frames * bins / DURATION_US)).long().clamp(0, frames * bins - 1)
    column, row = x.floor().long(), y.floor().long()
    seen = (column >= 0) & (column < SENSOR) & (row >= 0) & (row < SENSOR)
    channel = on * bins + step % bins
    cell = (((step // bins) * 2 * bins + channel) * SENSOR + row) * SENSOR + column
    counts = torch.bincount(cell[seen], minlength=frames * 2 * bins * SENSOR * SENSOR)
    return counts.reshape(frames, 2 * bins, SENSOR, SENSOR).float()


def _move(
    t_us: Float[Tensor, " n"], x: Float[Tensor, " n"], y: Float[Tensor, " n"], on: Int[Tensor, " n"], config: NMNIST
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One random similarity for the whole recording, a shift in time, and dropout of single events."""
    shift_x, shift_y, turn, scale, shift_t = (2 * torch.rand(5) - 1).tolist()
    angle = math.radians(turn * config.max_rotation)
    size = 1 + scale * config.max_scale
    keep = torch.rand(len(x)) >= torch.rand(()) * config.max_dropout
    centre = SENSOR / 2
    # An event fell somewhere in its pixel: without this, turning the integer grid leaves holes and doubled rows.
    u, v = x + torch.rand(len(x)) - centre, y + torch.rand(len(y)) - centre
    moved_x = size * (math.cos(angle) * u - math.sin(angle) * v) + centre + round(shift_x * config.max_shift)
    moved_y = size * (math.sin(angle) * u + math.cos(angle) * v) + centre + round(shift_y * config.max_shift)
    return (t_us + shift_t * config.max_jitter_us)[keep], moved_x[keep], moved_y[keep], on[keep]


def _share(count: int, share: float) -> int:
    return max(1, round(count * share)) if count >= 3 else 0


@functools.lru_cache(maxsize=2)  # several seeds of one process read the same thousand files
def _recordings(root: Path, max_bad_fraction: float) -> tuple[tuple[_Recording, ...], tuple[str, ...]]:
    labels = _read_labels(root)
    found: list[_Recording] = []
    bad: list[str] = []
    for name, digit in labels.items():
        path = next((p for p in (root / f"{name}{suffix}" for suffix in _SUFFIXES) if p.is_file()), None)
        if path is None:
            bad.append(f"{name}: no file {name}.bs2 or {name}.bin")
            continue
        try:
            events = read_events(path)
        except AffuseError as error:
            bad.append(f"{name}: {error}")
            continue
        if not len(events):
            bad.append(f"{name}: no events")
            continue
        found.append(_as_recording(name, digit, events))
    check_bad(root, bad, len(labels), max_bad_fraction)
    return tuple(found), tuple(bad)


def _as_recording(name: str, digit: int, events: Events) -> _Recording:
    t_us, x, y, p = events.tensors()
    t_us = t_us.long() - int(t_us.min())  # the clock starts with the recording
    return _Recording(name, digit, t_us.int(), x.short(), y.short(), (p > 0).long())


def _read_labels(root: Path) -> dict[str, int]:
    path = root / "labels.txt"
    if not root.is_dir():
        raise AffuseError(f"{root}: no such folder; set data.root to the folder with the N-MNIST recordings")
    if not path.is_file():
        raise AffuseError(f"{path}: no such file; it lists each recording as 'id TAB digit'")
    labels: dict[str, int] = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise AffuseError(f"{path}: not a text file; it lists each recording as 'id TAB digit'") from None
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("#"):
            continue
        fields = line.split("\t")
        if len(fields) != 2 or fields[1].strip() not in CLASSES or Path(fields[0]).name != fields[0]:
            raise AffuseError(f"{path}, line {number}: expected 'id TAB digit', got {line[:60]!r}")
        if fields[0] in labels:
            raise AffuseError(f"{path}, line {number}: id {fields[0]!r} is listed twice")
        labels[fields[0]] = int(fields[1])
    if not labels:
        raise AffuseError(f"{path}: lists no recording")
    return labels
