"""Binary event formats, decoded without a loop over events: EVT2, EVT3 and DAT of Prophesee, and N-MNIST's five bytes.

A decoder takes the bytes of a file and gives what they say, however odd; `event_readers` judges it. All numbers are
little-endian but N-MNIST's. Layouts: docs.prophesee.ai, "Data encoding formats"; Orchard et al. (2015) for N-MNIST.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from affuse.types import AffuseError

Array = NDArray[Any]


@dataclass(frozen=True)
class Decoded:
    """What a file says: arrays (n,) that may hold anything; polarity as positive or not.

    Args:
        t: int64, microseconds.
        x, y: int64.
        positive: bool.
        source: name of the format.
        size: width and height, where the file tells them.
        lost: pieces that are no event though they should be: words of an unknown kind, bytes of a cut-off event.
        untimed: events before the stream gave its first time (or row), as where a recording starts in mid-stream.
    """

    t: Array
    x: Array
    y: Array
    positive: Array
    source: str
    size: tuple[int, int] | None = None
    lost: int = 0
    untimed: int = 0


def decode_nmnist(data: bytes) -> Decoded:
    """Five bytes an event: x; y; polarity in the top bit and 23 bits of time, big-endian.

    y = 240 is no event but a sign that the clock overflowed: 2**13 us are added to it and to all that follow.
    """
    rows = np.frombuffer(data, np.uint8, len(data) // 5 * 5).reshape(-1, 5).astype(np.int64)
    x, y, high, middle, low = rows.T
    overflow = y == 240
    t = ((high & 0x7F) << 16 | middle << 8 | low) + (np.cumsum(overflow) << 13)
    kept = ~overflow
    return Decoded(t[kept], x[kept], y[kept], (high >= 0x80)[kept], "N-MNIST", lost=int(len(data) % 5 > 0))


def decode_raw(data: bytes) -> Decoded:
    """A Prophesee .raw file: a text header that names the encoding, then EVT2 or EVT3.

    Raises:
        AffuseError: no header, or one that names another encoding.
    """
    header, body = split_header(data)
    named = re.search(r"^% *(?:evt +|format +EVT)(\d(?:\.?\d)?)", header, re.MULTILINE)
    if named is None:
        raise AffuseError("no header line names an encoding ('% evt 2.0' or '% format EVT3'): not a Prophesee RAW file")
    version = named[1].replace(".", "").rstrip("0")
    if version == "2":
        return _decode_evt2(body, header_size(header))
    if version == "3":
        return _decode_evt3(body, header_size(header))
    raise AffuseError(f"encoding EVT {named[1]} is not read: convert the file to EVT 2, EVT 3 or DAT")


def _decode_evt2(body: bytes, size: tuple[int, int] | None) -> Decoded:
    """Words of 32 bits, the kind in the top four: 0 and 1 events, 8 the upper 28 bits of time."""
    words = np.frombuffer(body, "<u4", len(body) // 4)
    kind = words >> 28
    high, known = _running(kind == 8, words & 0xFFFFFFF, 28)
    event = kind <= 1
    timed = event & known
    chosen = words[timed].astype(np.int64)
    t = (high[timed] << 6) | (chosen >> 22 & 0x3F)
    # 0xA is a trigger, 0xE and 0xF carry what is not events.
    lost = int((~np.isin(kind, [0, 1, 8, 0xA, 0xE, 0xF])).sum()) + (len(body) % 4 > 0)
    untimed = int((event & ~known).sum())
    return Decoded(t, chosen >> 11 & 0x7FF, chosen & 0x7FF, kind[timed] == 1, "Prophesee EVT2", size, lost, untimed)


def _decode_evt3(body: bytes, size: tuple[int, int] | None) -> Decoded:
    """Words of 16 bits, the kind in the top four; time, row and first column of a vector hold until they change.

    0 row; 2 column of one event; 3 first column of vectors; 4 and 5 vectors of 12 and 8 columns, one bit an event;
    6 and 8 lower and upper 12 bits of time; 7, 0xA, 0xE, 0xF carry what is not events.
    """
    words = np.frombuffer(body, "<u2", len(body) // 2).astype(np.int64)
    kind, value = words >> 12, words & 0xFFF
    high, timed = _running(kind == 8, value, 12)
    # The lower bits count only if they came after the upper ones changed; between the two the time is not known
    # better than the upper bits tell.
    changed = np.zeros(len(words), bool)
    changed[1:] = high[1:] != high[:-1]
    low_at = _last(kind == 6)
    low = np.where(low_at >= _last(changed), value[low_at], 0) * (low_at >= 0)
    row_at, base_at = _last(kind == 0), _last(kind == 3)
    columns = np.where(kind == 4, 12, np.where(kind == 5, 8, 0))
    before = np.cumsum(columns) - columns  # columns of all vectors before this word
    known = timed & (row_at >= 0)
    vector = (kind == 4) | (kind == 5)
    bits = value[:, None][vector] >> np.arange(12) & 1 & (np.arange(12) < columns[vector][:, None])
    which, bit = np.nonzero(bits)
    of_vector = np.flatnonzero(vector)[which]
    of_single = np.flatnonzero(kind == 2)
    base = base_at[of_vector]
    x = np.concatenate([value[of_single] & 0x7FF, (value[base] & 0x7FF) + before[of_vector] - before[base] + bit])
    polarity = np.concatenate([value[of_single] >> 11, value[base] >> 11])
    usable = np.concatenate([known[of_single], known[of_vector] & (base >= 0)])
    at = np.concatenate([of_single, of_vector])[usable]
    order = np.argsort(at, kind="stable")
    at = at[order]
    t = (high[at] << 12) | low[at]
    lost = int(np.isin(kind, [1, 9, 0xB, 0xC, 0xD]).sum()) + (len(body) % 2)
    untimed = int((~usable).sum())
    y, x, positive = value[row_at[at]] & 0x7FF, x[usable][order], polarity[usable][order] == 1
    return Decoded(t, x, y, positive, "Prophesee EVT3", size, lost, untimed)


def decode_dat(data: bytes) -> Decoded:
    """A Prophesee .dat file, version 2: a text header, two bytes (kind, size), then 32 bits of time, 14 x, 14 y, 4 p.

    Raises:
        AffuseError: the header is of another version, or the two bytes are none of this format.
    """
    header, body = split_header(data)
    version = re.search(r"^% *Version +(\d+)", header, re.MULTILINE | re.IGNORECASE)
    if version is not None and version[1] != "2":
        raise AffuseError(f"DAT version {version[1]} is not read: convert it to version 2")
    if len(body) < 2 or body[0] not in (0x00, 0x0C) or body[1] != 8:
        raise AffuseError("the two bytes after the header are not those of contrast events (kind 0 or 12, size 8)")
    body = body[2:]
    words = np.frombuffer(body, "<u4", len(body) // 8 * 2).reshape(-1, 2).astype(np.int64)
    t, _ = _running(np.ones(len(words), bool), words[:, 0], 32)
    x, y, p = words[:, 1] & 0x3FFF, words[:, 1] >> 14 & 0x3FFF, words[:, 1] >> 28
    return Decoded(t, x, y, p > 0, "Prophesee DAT", header_size(header), lost=int(len(body) % 8 > 0))


def split_header(data: bytes) -> tuple[str, bytes]:
    """The lines that start with ``%``, and the rest. A line longer than 1024 bytes is no header line."""
    start = 0
    while data[start : start + 1] == b"%":
        stop = data.find(b"\n", start, start + 1024)
        # The first event may begin with the byte of "%": text tells them apart.
        if stop < 0 or not all(32 <= byte < 127 or byte in b"\t\r" for byte in data[start:stop]):
            break
        line, start = data[start:stop], stop + 1
        if line.strip() == b"% end":
            break
    return data[:start].decode("ascii"), data[start:]


def header_size(header: str) -> tuple[int, int] | None:
    """Width and height that a Prophesee header tells, by itself or by the name of its sensor."""
    pair = re.search(r"^% *geometry +(\d{1,5})x(\d{1,5})", header, re.MULTILINE)
    if pair is not None:
        return int(pair[1]), int(pair[2])
    width = re.search(r"(?:^% *|;) *width[ =]+(\d{1,5})\b", header, re.MULTILINE | re.IGNORECASE)
    height = re.search(r"(?:^% *|;) *height[ =]+(\d{1,5})\b", header, re.MULTILINE | re.IGNORECASE)
    if width is not None and height is not None:
        return int(width[1]), int(height[1])
    for sensor, size in (("genx320", (320, 320)), ("gen3", (640, 480)), ("gen4", (1280, 720)), ("imx636", (1280, 720))):
        if re.search(rf"^% *(?:plugin_name|sensor_name|generation) .*{sensor}", header, re.MULTILINE | re.IGNORECASE):
            return size
    return None


def _last(here: Array) -> Array:
    """For each position, the last position up to it where `here` is true; -1 where there is none."""
    return np.maximum.accumulate(np.where(here, np.arange(len(here)), -1)) if len(here) else np.zeros(0, np.int64)


def _running(here: Array, value: Array, bits: int) -> tuple[Array, Array]:
    """A counter of this many bits that is sent at some positions, at every position; and where it is known.

    A fall by more than half of its range is an overflow, and what follows goes on counting.
    """
    at = _last(here)
    sent = value[here].astype(np.int64)
    wrapped = np.zeros(len(sent), np.int64)
    wrapped[1:] = np.cumsum(np.diff(sent) < -(1 << (bits - 1)))
    full = np.zeros(len(here), np.int64)
    full[here] = sent + (wrapped << bits)
    return full[at] if len(here) else full, at >= 0
