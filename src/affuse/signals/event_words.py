"""Prophesee's EVT2, EVT3 and DAT, decoded piece by piece from a memory-mapped file, natively or in NumPy.

A file is a text header and little-endian words. Layouts: docs.prophesee.ai, "Data encoding formats".

- **EVT2**, 32 bits, the kind in the top four: 0 and 1 events (6 bits of time, 11 x, 11 y), 8 the upper 28 bits of time; 0xA
  is a trigger, 0xE and 0xF carry what is not events.
- **EVT3**, 16 bits, the kind in the top four; time, row and first column hold until they change: 0 row; 2 column of one
  event; 3 first column of vectors; 4 and 5 vectors of 12 and 8 columns, one bit an event; 6 and 8 lower and upper 12 bits of
  time (the lower ones count only if they came after the upper ones changed); 7, 0xA, 0xE, 0xF carry what is not events.
- **DAT**, version 2: 32 bits of time, then 14 x, 14 y, 4 polarity.

A counter of time that falls by more than half of its range has overflowed, and what follows goes on counting.

The native form (`ops/native/event_words.cpp`) is used where `ops.events.active_form` says native; NumPy's does the same.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from affuse.ops import native
from affuse.ops.events import active_form
from affuse.signals.event_codecs import header_end, header_size
from affuse.signals.event_stream import Events
from affuse.types import AffuseError

Array = NDArray[Any]
Encoding = Literal["EVT2", "EVT3", "DAT"]
LARGEST_SENSOR = 1 << 16
PIECE = 1 << 22  # bytes of the file that are decoded at once, and then given back
VECTOR = 12  # events of a word at most

# What a decoder knows between two pieces, a number each; native/event_words.cpp has the same order.
STATE = (
    *("timed", "high", "low", "row", "based", "column", "sign", "latest", "events", "untimed", "lost"),
    *("bad", "first", "first_t", "first_x", "first_y", "first_outside", "most_x", "most_y", "words"),
)
State = dict[str, int]
_ARGUMENTS = "ipipppppiii"
_NUMBER = {"EVT2": 2, "EVT3": 3, "DAT": 0}
_KIND: dict[str, np.dtype[Any]] = {"EVT2": np.dtype("<u4"), "EVT3": np.dtype("<u2"), "DAT": np.dtype("<u8")}
_BITS = np.array([value.bit_count() for value in range(1 << VECTOR)])


@dataclass(frozen=True)
class WordFile:
    """A mapped file of words.

    Args:
        encoding: how to read them.
        words: (n,), a view of the mapping.
        rest: bytes of a cut-off word at the end.
        size: width and height, where the header tells them.
        mapping: the file.
        start: where in it the words begin, bytes.
    """

    encoding: Encoding
    words: Array
    rest: int
    size: tuple[int, int] | None
    mapping: mmap.mmap
    start: int

    def done(self, word: int) -> None:
        """Give back the memory of the words before this one: they stay in the file."""
        if hasattr(mmap, "MADV_DONTNEED"):
            whole = (self.start + word * self.words.itemsize) // mmap.PAGESIZE * mmap.PAGESIZE
            if whole:
                self.mapping.madvise(mmap.MADV_DONTNEED, 0, whole)


def open_words(file: Path) -> WordFile:
    """Map a ``.raw`` or ``.dat`` file and read its header.

    Raises:
        AffuseError: no header, or one of another encoding or version.
        OSError: the file cannot be read.
    """
    with file.open("rb") as stream:
        mapping = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    start = header_end(mapping)
    header = mapping[:start].decode("ascii")
    encoding: Encoding
    if file.suffix.lower() == ".dat":
        encoding = "DAT"
        version = re.search(r"^% *Version +(\d+)", header, re.MULTILINE | re.IGNORECASE)
        if version is not None and version[1] != "2":
            raise AffuseError(f"DAT version {version[1]} is not read: convert it to version 2")
        kind = mapping[start : start + 2]
        if len(kind) < 2 or kind[0] not in (0x00, 0x0C) or kind[1] != 8:
            raise AffuseError("the two bytes after the header are not those of contrast events (kind 0 or 12, size 8)")
        start += 2
    else:
        named = re.search(r"^% *(?:evt +|format +EVT)(\d(?:\.?\d)?)", header, re.MULTILINE)
        if named is None:
            raise AffuseError(
                "no header line names an encoding ('% evt 2.0' or '% format EVT3'): not a Prophesee RAW file"
            )
        version_named = named[1].replace(".", "").rstrip("0")
        if version_named not in ("2", "3"):
            raise AffuseError(f"encoding EVT {named[1]} is not read: convert the file to EVT 2, EVT 3 or DAT")
        encoding = "EVT2" if version_named == "2" else "EVT3"
    count, rest = divmod(len(mapping) - start, _KIND[encoding].itemsize)
    words = np.frombuffer(mapping, _KIND[encoding], count, start) if count else np.zeros(0, _KIND[encoding])
    return WordFile(encoding, words, rest, header_size(header), mapping, start)


class Decoder:
    """Decodes a file's words from its start on, into columns that are handed in.

    Args:
        file: the words.
        size: width and height: events outside are left out and counted, as are those whose time falls.
    """

    def __init__(self, file: WordFile, size: tuple[int, int]) -> None:
        self.file = file
        self.width, self.height = size
        self.next = self.given_back = 0  # words
        self.native = active_form()[0] == "native"
        self.state: State = dict.fromkeys(STATE, 0)
        self.state.update(row=-1, latest=-(2**63))

    @property
    def ended(self) -> bool:
        return self.next == len(self.file.words)

    @property
    def lost(self) -> int:
        """Pieces that are no event though they should be, up to here."""
        return self.state["lost"] + int(self.ended and self.file.rest > 0)

    @property
    def least(self) -> int:
        """Places that columns must have."""
        return VECTOR if self.file.encoding == "EVT3" else 1

    def fill(self, columns: tuple[Array, Array, Array, Array]) -> int:
        """Write as many events into the columns (t_us int64, x and y int32, p int8) as fit or come; how many.

        Up to `least` - 1 places may stay free before the end.
        """
        filled, room = 0, len(columns[0])
        while room - filled >= self.least and not self.ended:
            piece = self.file.words[self.next : self.next + PIECE // self.file.words.itemsize]
            decode = self._natively if self.native else self._by_numpy
            filled += decode(piece, tuple(column[filled:] for column in columns))
            self.next += self.state["words"]
            if (self.next - self.given_back) * self.file.words.itemsize >= PIECE or self.ended:
                self.file.done(self.next)
                self.given_back = self.next
        return filled

    def most_events(self) -> int:
        """How many events the file holds at most."""
        words = self.file.words
        if self.file.encoding != "EVT3":
            return len(words)
        count, step = 0, PIECE // words.itemsize
        for start in range(0, len(words), step):
            piece = words[start : start + step]
            if self.native:
                count += native.function("affuse_count_evt3", "pi", "i")(piece.ctypes.data, len(piece))
            else:
                count += int(_evt3_counts(piece).sum())
            self.file.done(start + len(piece))
        return count

    def _natively(self, words: Array, columns: tuple[Array, ...]) -> int:
        state = np.array([self.state[name] for name in STATE], np.int64)
        decode = native.function("affuse_decode_events", _ARGUMENTS, "i")
        pointers = (column.ctypes.data for column in columns)
        sizes = len(columns[0]), self.width, self.height
        filled = decode(
            _NUMBER[self.file.encoding], words.ctypes.data, len(words), state.ctypes.data, *pointers, *sizes
        )
        self.state = dict(zip(STATE, state.tolist(), strict=True))
        return int(filled)

    def _by_numpy(self, words: Array, columns: tuple[Array, ...]) -> int:
        room = len(columns[0])
        words = words[: 1 << 18]  # the intermediate arrays of EVT3 take some hundred bytes a word
        if self.file.encoding == "EVT3":
            words = words[: np.searchsorted(np.cumsum(_evt3_counts(words)), room, side="right")]
            t, x, y, positive = _evt3(words, self.state)
        else:
            words = words[:room]
            t, x, y, positive = (_evt2 if self.file.encoding == "EVT2" else _dat)(words, self.state)
        self.state["words"] = len(words)
        return self._keep(t, x, y, positive, columns)

    def _keep(self, t: Array, x: Array, y: Array, positive: Array, columns: tuple[Array, ...]) -> int:
        """Write the sound ones of these events, count the others."""
        state = self.state
        outside = (x >= self.width) | (y >= self.height)
        # Of the sound ones only, so that an event outside cannot drag time along.
        latest = np.maximum.accumulate(np.where(outside, state["latest"], np.maximum(t, state["latest"])))
        bad = outside | (t < latest)
        if bad.any() and not state["bad"]:
            at = int(np.argmax(bad))
            state.update(first=state["events"] + at, first_outside=int(outside[at]))
            state.update(first_t=int(t[at]), first_x=int(x[at]), first_y=int(y[at]))
        state["bad"] += int(bad.sum())
        state["events"] += len(t)
        state["latest"] = int(latest[-1]) if len(t) else state["latest"]
        state["most_x"] = max(state["most_x"], int(x.max(initial=0)))
        state["most_y"] = max(state["most_y"], int(y.max(initial=0)))
        good = ~bad
        count = int(good.sum())
        for column, values in zip(columns, (t, x, y, np.where(positive, 1, -1)), strict=True):
            column[:count] = values[good]
        return count


def read_words(file: Path, errors: str, sensor_size: tuple[int, int] | None) -> Events:
    """All events of a file, as `event_readers.read_events` has it; memory for them and one piece of the file."""
    source = open_words(file)
    decoder = Decoder(source, _told(source, sensor_size) or (LARGEST_SENSOR, LARGEST_SENSOR))
    columns = _columns(decoder.most_events() + VECTOR)
    count = decoder.fill(columns)
    size = _told(source, sensor_size) or _largest(decoder)
    if errors == "raise":
        _refuse_bad(decoder)
    if 2 * count < len(columns[0]):
        columns = tuple(column[:count].copy() for column in columns)  # type: ignore[assignment]
    return _events(columns, count, size, _dropped(decoder), source, inferred=_told(source, sensor_size) is None)


def stream_words(file: Path, errors: str, sensor_size: tuple[int, int] | None, chunk_events: int) -> Iterator[Events]:
    """The same events in slices, as `event_readers.stream_events` has it."""
    source = open_words(file)
    size = _told(source, sensor_size)
    inferred = size is None
    if size is None:  # what the largest coordinates are, only the whole file tells
        looking = Decoder(source, (LARGEST_SENSOR, LARGEST_SENSOR))
        scratch = _columns(PIECE // 64)
        while not looking.ended:
            looking.fill(scratch)
        size = _largest(looking)
    decoder, before = Decoder(source, size), 0
    more = True
    while more:
        columns = _columns(max(chunk_events, decoder.least))
        count = decoder.fill(columns)
        more = not decoder.ended
        if errors == "raise":
            _refuse_bad(decoder)
        for start in range(0, max(count, 1), chunk_events):
            part = tuple(column[start : min(start + chunk_events, count)] for column in columns)
            dropped, before = _dropped(decoder) - before, _dropped(decoder)
            if len(part[0]) or dropped:
                yield _events(part, len(part[0]), size, dropped, source, inferred)


def _told(source: WordFile, sensor_size: tuple[int, int] | None) -> tuple[int, int] | None:
    size = sensor_size or source.size
    if size is not None and not all(1 <= side <= LARGEST_SENSOR for side in size):
        raise AffuseError(f"its header claims a sensor of {size[0]} x {size[1]}: give the true sensor_size")
    return size


def _largest(decoder: Decoder) -> tuple[int, int]:
    if not decoder.state["events"]:
        raise AffuseError("no event in it, and nothing tells the size of the sensor: give sensor_size")
    return min(decoder.state["most_x"] + 1, LARGEST_SENSOR), min(decoder.state["most_y"] + 1, LARGEST_SENSOR)


def _dropped(decoder: Decoder) -> int:
    return decoder.state["bad"] + decoder.state["untimed"] + decoder.lost


def _refuse_bad(decoder: Decoder) -> None:
    state = decoder.state
    if not state["bad"] + decoder.lost:
        return
    detail = "it is truncated, or holds pieces that are no event"
    if state["bad"]:
        outside = f"lies outside of {decoder.width} x {decoder.height}"
        reason = outside if state["first_outside"] else "goes back in time"
        where = f"t {state['first_t']} us, x {state['first_x']}, y {state['first_y']}"
        detail = f"event {state['first']} ({where}) {reason}"
    raise AffuseError(
        f"{state['bad'] + decoder.lost} bad of {state['events']} events: {detail}; "
        "read with errors='drop' to go on without them"
    )


def _columns(room: int) -> tuple[Array, Array, Array, Array]:
    return np.empty(room, np.int64), np.empty(room, np.int32), np.empty(room, np.int32), np.empty(room, np.int8)


def _events(
    columns: tuple[Array, ...], count: int, size: tuple[int, int], dropped: int, source: WordFile, inferred: bool
) -> Events:
    t_us, x, y, p = (column[:count] for column in columns)
    return Events.trusted(t_us, x, y, p, *size, dropped, f"Prophesee {source.encoding}", inferred)


def _evt2(words: Array, state: State) -> tuple[Array, Array, Array, Array]:
    kind = words >> 28
    high, known = _running(kind == 8, words & 0xFFFFFFF, 28, state)
    event = kind <= 1
    timed = event & known
    chosen = words[timed].astype(np.int64)
    state["lost"] += int((~np.isin(kind, [0, 1, 8, 0xA, 0xE, 0xF])).sum())
    state["untimed"] += int((event & ~known).sum())
    return (high[timed] << 6) | (chosen >> 22 & 0x3F), chosen >> 11 & 0x7FF, chosen & 0x7FF, kind[timed] == 1


def _evt3(words: Array, state: State) -> tuple[Array, Array, Array, Array]:
    words = words.astype(np.int64)
    kind, value = words >> 12, words & 0xFFF
    was_timed, before = state["timed"], state["high"]
    high, timed = _running(kind == 8, value, 12, state)
    changed = np.diff(high, prepend=before) != 0
    changed |= np.diff(timed, prepend=bool(was_timed))
    low_at, changed_at = _last(kind == 6), _last(changed)
    low = np.where(low_at > changed_at, value[low_at], np.where(changed_at >= 0, 0, state["low"]))
    row_at, base_at = _last(kind == 0), _last(kind == 3)
    row = np.where(row_at >= 0, value[row_at] & 0x7FF, state["row"])
    columns = np.where(kind == 4, 12, np.where(kind == 5, 8, 0))
    passed = np.cumsum(columns) - columns  # columns of all vectors before this word
    column = np.where(base_at >= 0, (value[base_at] & 0x7FF) + passed - passed[base_at], state["column"] + passed)
    sign = np.where(base_at >= 0, value[base_at] >> 11, state["sign"])
    based = (base_at >= 0) | bool(state["based"])
    vector = (kind == 4) | (kind == 5)
    bits = value[:, None][vector] >> np.arange(VECTOR) & 1 & (np.arange(VECTOR) < columns[vector][:, None])
    which, bit = np.nonzero(bits)
    of_vector, of_single = np.flatnonzero(vector)[which], np.flatnonzero(kind == 2)
    at = np.concatenate([of_single, of_vector])
    x = np.concatenate([value[of_single] & 0x7FF, column[of_vector] + bit])
    polarity = np.concatenate([value[of_single] >> 11, sign[of_vector]])
    usable = timed[at] & (row[at] >= 0) & np.concatenate([np.ones(len(of_single), bool), based[of_vector]])
    order = np.argsort(at[usable], kind="stable")
    x, polarity, at = x[usable][order], polarity[usable][order], at[usable][order]
    state["lost"] += int(np.isin(kind, [1, 9, 0xB, 0xC, 0xD]).sum())
    state["untimed"] += int((~usable).sum())
    if len(words):
        state.update(low=int(low[-1]), row=int(row[-1]), based=int(based[-1]), sign=int(sign[-1]))
        state["column"] = int(column[-1] + columns[-1])
    return (high[at] << 12) | low[at], x, row[at], polarity == 1


def _evt3_counts(words: Array) -> Array:
    kind = words >> 12
    kept = np.where(kind == 4, 0xFFF, np.where(kind == 5, 0xFF, 0))
    return _BITS[words & kept] + (kind == 2)


def _dat(words: Array, state: State) -> tuple[Array, Array, Array, Array]:
    where = (words >> 32).astype(np.int64)
    t, _ = _running(np.ones(len(words), bool), words & 0xFFFFFFFF, 32, state)
    return t, where & 0x3FFF, where >> 14 & 0x3FFF, where >> 28 > 0


def _last(here: Array) -> Array:
    """For each position, the last position up to it where `here` is true; -1 where there is none."""
    return np.maximum.accumulate(np.where(here, np.arange(len(here)), -1)) if len(here) else np.zeros(0, np.int64)


def _running(here: Array, value: Array, bits: int, state: State) -> tuple[Array, Array]:
    """A counter of this many bits that is sent at some positions, at every position; and where it is known."""
    at, half = _last(here), 1 << (bits - 1)
    sent = value[here].astype(np.int64)
    before = state["high"] & (2 * half - 1)
    steps = np.diff(sent, prepend=before)
    wrapped = steps < -half
    if len(sent) and not state["timed"]:
        wrapped[0] = False
    sent += (state["high"] - before) + (np.cumsum(wrapped) << bits)
    full = np.full(len(here), state["high"], np.int64)
    full[here] = sent
    known = (at >= 0) | bool(state["timed"])
    if len(sent):
        state.update(high=int(sent[-1]), timed=1)
    return np.where(at >= 0, full[at], full) if len(here) else full, known
