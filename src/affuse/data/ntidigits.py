"""N-TIDIGITS18: spoken digits heard by a silicon cochlea (Anumula et al., Frontiers in Neuroscience 12:23, 2018).

One HDF5 file. Of each split, ``train`` and ``test``, it holds ``SPLIT_labels``, the names of its recordings, and the groups
``SPLIT_addresses`` (channel of each spike, 0 to 63) and ``SPLIT_timestamps`` (seconds), in which a recording has its name as
key. A name ends in what is said, one letter a digit (``man-ae-1``, ``woman-bc-25o``), and begins with the speaker. Only
recordings of a single digit are taken, as in the paper: 2,464 to train and 2,486 to test. ``z`` (zero) and ``o`` (oh) are 0.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from affuse.data.digit_sounds import SpokenDigit
from affuse.data.splits import check_bad
from affuse.signals.cochlea import CochleaSpikes
from affuse.types import AffuseError

CHANNELS = 64
MAX_SPIKES = 1 << 20  # of one digit; the largest of the set has some thousands
MAX_SECONDS = 60.0
_DIGITS = {"z": 0, "o": 0, **{str(digit): digit for digit in range(1, 10)}}
_OFFICIAL: tuple[Literal["train", "test"], ...] = ("train", "test")


@functools.lru_cache(maxsize=2)
def read_ntidigits(file: Path, max_bad_fraction: float = 0.02) -> tuple[tuple[SpokenDigit, ...], tuple[str, ...]]:
    """The recordings of single digits in the order of the file, and what is wrong with those that cannot be used.

    Args:
        file: the HDF5 file, or a folder that holds just one.
        max_bad_fraction: more bad ones than this share are an error.

    Raises:
        AffuseError: no such file, no HDF5 file, a key is missing, or too many recordings are bad.
    """
    import h5py

    path = _only_file(file)
    found: list[SpokenDigit] = []
    bad: list[str] = []
    try:
        with h5py.File(path, "r") as tree:
            for official in _OFFICIAL:
                for label in _labels(tree, official, path):
                    said = label.split("-")[-1]
                    if said not in _DIGITS:
                        continue
                    try:
                        spikes = _spikes(tree, official, label)
                    except AffuseError as error:
                        bad.append(f"{official} {label}: {error}")
                        continue
                    speaker = "-".join(label.split("-")[:2]) if label.count("-") > 1 else label.split("-")[0]
                    found.append(SpokenDigit(f"{official}/{label}", speaker, _DIGITS[said], spikes, 0, official))
    except (OSError, KeyError, ValueError, RuntimeError) as error:
        raise AffuseError(f"{path}: no HDF5 file, or cut short ({str(error)[:80]}); copy it again") from None
    if not found and not bad:
        raise AffuseError(f"{path}: holds no recording of a single digit; is it n-tidigits.hdf5?")
    check_bad(path, bad, len(found) + len(bad), max_bad_fraction, "copy it again")
    return tuple(found), tuple(bad)


def _only_file(file: Path) -> Path:
    if file.is_file():
        return file
    if not file.is_dir():
        raise AffuseError(f"{file}: no such file or folder; it should be or hold n-tidigits.hdf5")
    files = sorted(path for path in file.iterdir() if path.suffix.lower() in (".hdf5", ".h5"))
    if len(files) != 1:
        raise AffuseError(f"{file}: holds {len(files)} HDF5 files where one, n-tidigits.hdf5, is looked for")
    return files[0]


def _labels(tree: Any, official: str, path: Path) -> list[str]:
    import h5py

    labels = tree.get(f"{official}_labels")
    if not isinstance(labels, h5py.Dataset) or labels.ndim != 1 or labels.dtype.kind not in "SO":
        raise AffuseError(f"{path}: no list of names {official}_labels; is it n-tidigits.hdf5?")
    names = [name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name) for name in labels[:]]
    return list(dict.fromkeys(names))


def _spikes(tree: Any, official: str, label: str) -> CochleaSpikes:
    import h5py

    columns = []
    for kind in ("addresses", "timestamps"):
        data = tree.get(f"{official}_{kind}/{label}")
        if not isinstance(data, h5py.Dataset) or data.ndim != 1 or data.dtype.kind not in "uif":
            raise AffuseError(f"no column of numbers {official}_{kind}/{label}")
        if data.shape[0] > MAX_SPIKES:
            raise AffuseError(f"{data.shape[0]} spikes are more than a digit has")
        columns.append(data[:].astype(np.float64))
    channel, seconds = columns
    if len(channel) != len(seconds):
        raise AffuseError(f"{len(channel)} addresses and {len(seconds)} times")
    if not (np.isfinite(channel).all() and np.isfinite(seconds).all()):
        raise AffuseError("an address or a time is not finite")
    if len(seconds) and (seconds.min() < 0 or seconds.max() > MAX_SECONDS):
        raise AffuseError(f"times from {seconds.min():g} to {seconds.max():g} are no seconds of a spoken digit")
    order = np.argsort(seconds, kind="stable")
    t_us = torch.from_numpy(np.round(seconds[order] * 1e6).astype(np.int64))
    # The clock runs before anybody speaks: the word begins with its first spike.
    t_us = t_us - (t_us[0] if len(t_us) else 0)
    duration_us = int(t_us[-1]) + 1 if len(t_us) else 0
    return CochleaSpikes(t_us, torch.from_numpy(channel[order].astype(np.int64)), CHANNELS, duration_us)
