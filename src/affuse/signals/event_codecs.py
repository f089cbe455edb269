"""What a file of events says, however odd, before `event_readers` judges it; N-MNIST's five bytes; Prophesee's headers.

EVT2, EVT3 and DAT are decoded in `event_words`. Layout of N-MNIST: Orchard et al. (2015).
"""

from __future__ import annotations

import mmap
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

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


def header_end(data: bytes | mmap.mmap) -> int:
    """Where the lines that start with ``%`` end. A line longer than 1024 bytes is no header line."""
    start = 0
    while data[start : start + 1] == b"%":
        stop = data.find(b"\n", start, start + 1024)
        # The first event may begin with the byte of "%": text tells them apart.
        if stop < 0 or not all(32 <= byte < 127 or byte in b"\t\r" for byte in data[start:stop]):
            break
        line, start = data[start:stop], stop + 1
        if line.strip() == b"% end":
            break
    return start


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
