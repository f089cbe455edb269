"""One face for event files: `read_events` knows the formats by their suffix, and hands out nothing but sound events."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from affuse.signals.event_codecs import Decoded, decode_nmnist
from affuse.signals.event_stream import Events
from affuse.signals.event_words import LARGEST_SENSOR, read_words, stream_words
from affuse.types import AffuseError

Array = NDArray[Any]
WORD_FORMATS = (".raw", ".dat")
LATEST_US = 1 << 62  # so that sums and differences of times do not overflow
_ROWS_AT_ONCE = 1 << 15  # of a text
MAX_EVENTS = 1 << 28  # a file that claims more is lying, or should be cut before it fills the memory


def read_events(
    path: str | os.PathLike[str],
    *,
    errors: Literal["raise", "drop"] = "raise",
    sensor_size: tuple[int, int] | None = None,
) -> Events:
    """Read a file of events.

    ========================  ==============================================================================
    ``.bin``, ``.bs2``        N-MNIST (34 x 34 unless `sensor_size` says otherwise, as for N-Caltech101)
    ``.raw``                  Prophesee EVT2 or EVT3, as its header says
    ``.dat``                  Prophesee DAT, version 2
    ``.aedat4``               iniVation AEDAT 4 (needs the extra ``events``)
    ``.h5``, ``.hdf5``        DSEC's layout: events/x, y, t, p, and t_offset where there is one
    ``.npz``                  `write_events`, or arrays t, x, y, p
    ``.txt``, ``.csv``        lines ``t x y p``; a first line of two numbers is width and height
    ========================  ==============================================================================

    In .npz and text, times with a decimal point (or of float type) are seconds, whole numbers are microseconds. Polarity
    may be 0 and 1, -1 and +1 or boolean in a file; it is -1 and +1 from here on.

    Args:
        path: the file.
        errors: ``raise`` stops at bad events: coordinates out of range, time going backwards, another polarity, a
            truncated end. ``drop`` leaves them out and counts them in `Events.dropped`; of times that go backwards, those
            below the largest so far are left out. Events before the first time of a stream that was cut in the middle
            are no error; they are left out and counted under both.
        sensor_size: width and height. By default as the file tells; where it tells nothing, the largest coordinates plus
            one, and then `Events.size_inferred` is true.

    Raises:
        AffuseError: the file cannot be read, is empty, is not what its suffix says, or holds bad events.
    """
    file = Path(path)
    with _named(file, sensor_size):
        if file.suffix.lower() in WORD_FORMATS:
            return read_words(file, errors, sensor_size)
        return _checked(_READERS[file.suffix.lower()](file), errors, sensor_size)


def stream_events(
    path: str | os.PathLike[str],
    *,
    chunk_events: int = 1 << 20,
    errors: Literal["raise", "drop"] = "raise",
    sensor_size: tuple[int, int] | None = None,
) -> Iterator[Events]:
    """The events that `read_events` reads, in slices that follow each other.

    EVT2, EVT3 and DAT are decoded from the memory-mapped file as the slices are asked for, in memory that does not grow with
    the file; other formats are read whole first. Where nothing tells the size of the sensor, such a file is gone through once
    before. `Events.dropped` of a slice counts what was left out since the slice before; a slice may hold none but dropped ones.

    Args:
        chunk_events: events of a slice at most.
        path, errors, sensor_size: as in `read_events`; bad events stop the stream when it comes to them.

    Raises:
        AffuseError: as in `read_events`, or `chunk_events` is not positive.
    """
    file = Path(path)
    if chunk_events < 1:
        raise AffuseError(f"chunk_events must be positive, got {chunk_events}")
    if file.suffix.lower() not in WORD_FORMATS:
        events = read_events(file, errors=errors, sensor_size=sensor_size)
        for start in range(0, len(events), chunk_events):
            yield events.part(start, start + chunk_events, dropped=events.dropped if start == 0 else 0)
        return
    with _named(file, sensor_size):
        yield from stream_words(file, errors, sensor_size, chunk_events)


@contextlib.contextmanager
def _named(file: Path, sensor_size: tuple[int, int] | None) -> Iterator[None]:
    """Look whether this can be a file of events; errors of what is done then name it."""
    if sensor_size is not None and not all(1 <= side <= LARGEST_SENSOR for side in sensor_size):
        raise AffuseError(f"sensor_size {sensor_size} must be a positive width and height")
    formats = (*WORD_FORMATS, *_READERS)
    if file.suffix.lower() not in formats:
        raise AffuseError(f"{file}: no event format has this suffix; those read are {', '.join(formats)}")
    try:
        with file.open("rb") as stream:
            start = stream.read(32)
        if not start:
            raise AffuseError("the file is empty: copy it again")
        if start.startswith(b"version https://git-lfs"):
            raise AffuseError("this is a Git LFS pointer, not the file: run 'git lfs pull'")
        yield
    except AffuseError as error:
        raise AffuseError(f"{file}: {error}") from None
    except OSError as error:
        raise AffuseError(f"{file}: cannot be read: {error.strerror or error}") from error
    except MemoryError:
        raise AffuseError(f"{file}: claims more events than memory holds: it is damaged, or must be cut") from None


def write_events(events: Events, path: str | os.PathLike[str]) -> None:
    """Write an .npz file that `read_events` reads; it appears whole or not at all.

    Raises:
        AffuseError: another suffix, or the file cannot be written.
    """
    file = Path(path)
    if file.suffix.lower() != ".npz":
        raise AffuseError(f"{file}: events are written as .npz: give that suffix")
    partial = file.with_name(f".{file.name}.{os.getpid()}.partial")
    width, height, dropped = (np.array(value) for value in (events.width, events.height, events.dropped))
    columns = {"t_us": events.t_us, "x": events.x.astype(np.uint16), "y": events.y.astype(np.uint16), "p": events.p}
    arrays: dict[str, Any] = {**columns, "width": width, "height": height, "dropped": dropped}
    try:
        with partial.open("wb") as stream:
            np.savez_compressed(stream, **arrays)
        partial.replace(file)
    except OSError as error:
        raise AffuseError(f"{file}: cannot be written: {error.strerror or error}") from error
    finally:
        partial.unlink(missing_ok=True)


def describe(events: Events) -> dict[str, str | int | float | bool]:
    """What a person asks of a recording first, as plain values; rate in events a second."""
    positive = int((events.p > 0).sum())
    return {
        "format": events.source,
        "events": len(events),
        "positive": positive,
        "negative": len(events) - positive,
        "start_us": int(events.t_us[0]) if len(events) else 0,
        "duration_s": events.duration_us / 1e6,
        "width": events.width,
        "height": events.height,
        "size_inferred": events.size_inferred,
        "rate_hz": events.rate_hz,
        "dropped": events.dropped,
    }


def _checked(decoded: Decoded, errors: str, sensor_size: tuple[int, int] | None) -> Events:
    """Sound events of what a file said, under the policy."""
    t, x, y = decoded.t, decoded.x, decoded.y
    told = sensor_size or decoded.size
    if told is not None:
        width, height = told
    elif len(t):
        # Of coordinates that no sensor has, none can tell its size.
        fair = (x >= 0) & (y >= 0) & (x < LARGEST_SENSOR) & (y < LARGEST_SENSOR)
        width, height = (int(values[fair].max(initial=0)) + 1 for values in (x, y))
    else:
        raise AffuseError("no event in it, and nothing tells the size of the sensor: give sensor_size")
    if not (1 <= width <= LARGEST_SENSOR and 1 <= height <= LARGEST_SENSOR):
        raise AffuseError(f"its header claims a sensor of {width} x {height}: give the true sensor_size")
    outside = (x < 0) | (y < 0) | (x >= width) | (y >= height)
    # Of the sound ones only, so that an event outside cannot drag time along.
    latest = np.maximum.accumulate(np.where(outside, np.iinfo(np.int64).min, t)) if len(t) else t
    backwards = ~outside & (t < latest)
    bad = outside | backwards
    count = int(bad.sum()) + decoded.lost
    if count and errors == "raise":
        if bad.any():
            first = int(np.argmax(bad))
            reason = f"lies outside of {width} x {height}" if outside[first] else "goes back in time"
            detail = f"event {first} (t {int(t[first])} us, x {int(x[first])}, y {int(y[first])}) {reason}"
        else:
            detail = "it is truncated, or holds pieces that are no event"
        raise AffuseError(f"{count} bad of {len(t)} events: {detail}; read with errors='drop' to go on without them")
    good = ~bad
    p = np.where(decoded.positive[good], 1, -1).astype(np.int8)
    dropped = count + decoded.untimed
    inferred = told is None
    return Events(t[good], x[good], y[good], p, width, height, dropped, decoded.source, inferred)


def _nmnist(file: Path) -> Decoded:
    decoded = decode_nmnist(file.read_bytes())
    return Decoded(decoded.t, decoded.x, decoded.y, decoded.positive, decoded.source, (34, 34), decoded.lost)


def _aedat4(file: Path) -> Decoded:
    with file.open("rb") as stream:
        if stream.read(12) != b"#!AER-DAT4.0":
            raise AffuseError("it does not start with '#!AER-DAT4.0': not an AEDAT 4 file")
    if importlib.util.find_spec("aedat") is None:
        raise AffuseError("reading AEDAT 4 needs a package: pip install 'affuse[events]'")
    # In a process of its own: on some damaged files the decoder's Rust code aborts the process that called it.
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "events.npz"
        command = [sys.executable, "-I", "-c", _DECODE_AEDAT4, str(file.resolve()), str(target)]
        try:
            ended = subprocess.run(command, capture_output=True, timeout=600, check=False)
        except subprocess.TimeoutExpired:
            raise AffuseError("its decoder did not come to an end: it is damaged, or must be cut") from None
        if ended.returncode != 0:
            told = ended.stdout.decode(errors="replace").splitlines()
            reason = f" ({told[-1]})" if told else ""
            raise AffuseError(f"cannot be decoded, so it is truncated or damaged{reason}")
        with np.load(target, allow_pickle=False) as stored:
            t, x, y, positive, size = (stored[name] for name in ("t", "x", "y", "on", "size"))
    return Decoded(t, x, y, positive, "AEDAT 4", (int(size[0]), int(size[1])) if len(size) else None)


_DECODE_AEDAT4 = """
import sys
import aedat, numpy
try:
    decoder = aedat.Decoder(sys.argv[1])
    streams = [stream for stream in decoder.id_to_stream().values() if stream["type"] == "events"]
    size = [streams[0]["width"], streams[0]["height"]] if streams else []
    packets = [packet["events"] for packet in decoder if "events" in packet]
except BaseException as error:  # a panic of Rust code is no Exception
    print(" ".join(str(error).split())[:200], flush=True)
    sys.exit(1)
columns = {}
for name, kind in (("t", "int64"), ("x", "int64"), ("y", "int64"), ("on", "bool")):
    parts = [packet[name].astype(kind) for packet in packets]
    columns[name] = numpy.concatenate(parts) if parts else numpy.zeros(0, kind)
numpy.savez(sys.argv[2], size=numpy.array(size, dtype="int64"), **columns)
"""


def _hdf5(file: Path) -> Decoded:
    import h5py  # late, as it is slow to import and few need it

    with contextlib.suppress(ImportError):
        importlib.import_module("hdf5plugin")  # registers the filter that DSEC's own files are packed with
    try:
        with h5py.File(file, "r") as root:
            columns = {name: _dataset(root, f"events/{name}") for name in "txyp"}
            offset = root["t_offset"][()] if "t_offset" in root else 0
            if not isinstance(offset, int | np.integer) or abs(int(offset)) >= LATEST_US:
                raise AffuseError("t_offset must be one whole number of microseconds, below 2^62")
    except OSError as error:
        hint = "pip install hdf5plugin" if "filter" in str(error) else "it is truncated, damaged or no HDF5"
        raise AffuseError(f"cannot be read as HDF5 ({str(error).splitlines()[0]}): {hint}") from None
    except (KeyError, RuntimeError, ValueError, TypeError) as error:
        raise AffuseError(f"damaged HDF5 ({str(error).splitlines()[0]})") from None
    decoded = _columns(columns["t"], columns["x"], columns["y"], columns["p"], "HDF5 (DSEC)")
    return Decoded(decoded.t + int(offset), decoded.x, decoded.y, decoded.positive, decoded.source, None, decoded.lost)


def _dataset(root: Any, name: str) -> Array:
    if name not in root or not hasattr(root[name], "shape"):
        raise AffuseError(f"no dataset {name!r}: DSEC's layout has events/x, events/y, events/t, events/p")
    if len(root[name].shape) != 1 or root[name].shape[0] > MAX_EVENTS:
        raise AffuseError(f"dataset {name!r} has shape {root[name].shape}; one axis of at most {MAX_EVENTS} is read")
    return np.asarray(root[name][:])


def _npz(file: Path) -> Decoded:
    try:
        with zipfile.ZipFile(file) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > MAX_EVENTS * 32:
                raise AffuseError(f"it unpacks to more than {MAX_EVENTS} events: it is damaged, or must be cut")
        with np.load(file, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files if name in _NPZ_NAMES}
    except (OSError, MemoryError, AffuseError):
        raise
    except Exception as error:  # zip, zlib and header parsing each have errors of their own
        raise AffuseError(f"cannot be read as .npz, so it is truncated or damaged ({type(error).__name__})") from None
    clock = "t_us" if "t_us" in arrays else "t"
    if missing := [name for name in (clock, "x", "y", "p") if name not in arrays]:
        raise AffuseError(f"no array {missing[0]!r}: it must hold t_us (or t), x, y and p")
    if clock == "t_us" and arrays[clock].dtype.kind == "f":
        raise AffuseError("t_us holds floats: store whole microseconds, or name seconds 't'")
    facts = {name: arrays[name] for name in ("width", "height", "dropped") if name in arrays}
    if any(fact.shape != () or fact.dtype.kind not in "iu" for fact in facts.values()):
        raise AffuseError("width, height and dropped must each be one whole number")
    decoded = _columns(arrays[clock], arrays["x"], arrays["y"], arrays["p"], "npz")
    size = (int(facts["width"]), int(facts["height"])) if {"width", "height"} <= set(facts) else None
    before = max(int(facts.get("dropped", 0)), 0)
    return Decoded(decoded.t, decoded.x, decoded.y, decoded.positive, "npz", size, decoded.lost, untimed=before)


_NPZ_NAMES = ("t_us", "t", "x", "y", "p", "width", "height", "dropped")


def _text(file: Path) -> Decoded:
    size: tuple[int, int] | None = None
    shown, count, seconds = "", 0, False
    blocks = [np.empty((0, 4))]
    try:
        with file.open(encoding="utf-8") as lines:
            rows: Iterator[list[str]] = (
                fields for line in lines if (fields := line.split("#")[0].replace(",", " ").split())
            )
            first = next(rows, None)
            if first is not None and len(first) == 2 and all(field.isascii() and field.isdigit() for field in first):
                size = int(first[0][:9]), int(first[1][:9])
            elif first is not None and [name[0].lower() for name in first] != [
                "t",
                "x",
                "y",
                "p",
            ]:  # no names of columns
                rows = chain([first], rows)
            while part := list(
                islice(rows, _ROWS_AT_ONCE)
            ):  # a list of words takes ten times the memory of its numbers
                shown, count = shown or " ".join(part[0])[:60], count + len(part)
                if count > MAX_EVENTS:
                    raise AffuseError(f"more than {MAX_EVENTS} lines: cut it into several files")
                values = _numbers(part)
                sound = np.isfinite(values[:, 0])
                seconds |= any(is_time and set(".eE") & set(row[0]) for row, is_time in zip(part, sound, strict=True))
                blocks.append(values)
    except UnicodeDecodeError:
        raise AffuseError("not text: lines 't x y p' are expected") from None
    values = np.concatenate(blocks)
    if len(values) and not np.isfinite(values).all(axis=1).any():
        raise AffuseError(f"no line of the form 't x y p'; the first is {shown!r}")
    t = values[:, 0] if seconds else _whole(values[:, 0])
    x, y, p = (_whole(column) for column in values[:, 1:].T)
    decoded = _columns(t, x, y, p, "text")
    return Decoded(decoded.t, decoded.x, decoded.y, decoded.positive, "text", size, decoded.lost)


def _numbers(rows: Sequence[Sequence[str]]) -> Array:
    """Four numbers a row; NaN where a row is not four numbers."""
    try:
        return np.array(rows, dtype=np.float64).reshape(len(rows), 4)
    except ValueError:  # find out which
        values = np.full((len(rows), 4), np.nan)
        for index, row in enumerate(rows):
            with contextlib.suppress(ValueError):
                values[index] = [float(field) for field in row]
        return values


def _whole(values: Array) -> Array:
    """Floats as int64; what is not a whole number becomes the smallest int64, which no column may hold."""
    sound = np.isfinite(values) & (np.abs(values) < 2.0**62)
    sound &= np.where(sound, values, 0.5) % 1 == 0
    return np.where(sound, np.where(sound, values, 0).astype(np.int64), np.iinfo(np.int64).min)


def _columns(t: Array, x: Array, y: Array, p: Array, source: str) -> Decoded:
    """Columns of numbers as events: seconds become microseconds, rows that are no event are left out and counted."""
    named = {"t": t, "x": x, "y": y, "p": p}
    if any(column.ndim != 1 or len(column) != len(t) for column in named.values()):
        raise AffuseError(f"t, x, y, p must be of one length: { ({name: c.shape for name, c in named.items()}) }")
    for name, column in named.items():
        if column.dtype.kind not in ("iuf" if name == "t" else "iub"):
            raise AffuseError(f"{name} has type {column.dtype}: whole numbers are expected")
    if t.dtype.kind == "f":
        with np.errstate(over="ignore", invalid="ignore"):
            t = _whole(np.round(t.astype(np.float64) * 1e6))
    p = p.astype(np.int64)
    sound = (p == 1) | (p == (-1 if (p == -1).any() else 0))
    for column in (t, x, y):
        sound &= (column < LATEST_US) & (column > -LATEST_US if column.dtype.kind == "i" else True)
    t, x, y = (column[sound].astype(np.int64) for column in (t, x, y))
    return Decoded(t, x, y, p[sound] == 1, source, lost=int((~sound).sum()))


_READERS: dict[str, Callable[[Path], Decoded]] = {
    ".bin": _nmnist,
    ".bs2": _nmnist,
    ".aedat4": _aedat4,
    ".h5": _hdf5,
    ".hdf5": _hdf5,
    ".npz": _npz,
    ".txt": _text,
    ".csv": _text,
}
