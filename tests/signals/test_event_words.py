"""EVT2, EVT3 and DAT from a mapped file: any words, in any pieces, as a plain loop over the words reads them."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from affuse import AffuseError
from affuse.ops.events import native_is_built
from affuse.signals import event_words
from affuse.signals.event_readers import read_events, stream_events

HEADER = {
    "evt2": b"% evt 2.0\n% geometry 640x480\n",
    "evt3": b"% format EVT3;height=480;width=640\n% end\n",
    "dat": b"% Version 2\n% Height 480\n% Width 640\n\x0c\x08",
}
KIND = {"evt2": "<u4", "evt3": "<u2", "dat": "<u8"}
many = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
COLUMNS = ("t_us", "x", "y", "p")


@pytest.fixture(params=["native", "blocked"])
def form(request, monkeypatch):
    if request.param == "native" and not native_is_built()[0]:
        pytest.skip("the native code is not built here")
    monkeypatch.setenv("AFFUSE_EVENTS", request.param)
    return request.param


class Counter:
    """A counter of time as it is sent, and how often it overflowed."""

    def __init__(self, bits):
        self.range, self.sent, self.overflows = 1 << bits, None, 0

    def send(self, value):
        self.overflows += self.sent is not None and self.sent - value > self.range // 2
        self.sent = value

    @property
    def value(self):
        return self.overflows * self.range + self.sent


def loop_evt2(words):
    high, found, lost, untimed = Counter(28), [], 0, 0
    for word in words:
        kind = word >> 28
        if kind == 8:
            high.send(word & 0xFFFFFFF)
        elif kind <= 1 and high.sent is None:
            untimed += 1
        elif kind <= 1:
            found.append((high.value * 64 + (word >> 22 & 63), word >> 11 & 2047, word & 2047, kind))
        elif kind not in (0xA, 0xE, 0xF):
            lost += 1
    return found, lost, untimed


def loop_evt3(words):
    high, low, row, base = Counter(12), 0, None, None
    found, lost, untimed = [], 0, 0
    for word in words:
        kind, value = word >> 12, word & 0xFFF
        columns = []  # of this word's events, with their polarity
        if kind == 0:
            row = value & 2047
        elif kind == 2:
            columns = [(value & 2047, value >> 11)]
        elif kind == 3:
            base = [value & 2047, value >> 11]
        elif kind in (4, 5):
            size = 12 if kind == 4 else 8
            bits = [bit for bit in range(size) if value >> bit & 1]
            columns = [(base[0] + bit, base[1]) if base else None for bit in bits]
            if base:
                base[0] += size
        elif kind == 6:
            low = value
        elif kind == 8:
            before = None if high.sent is None else high.value
            high.send(value)
            low = low if before == high.value else 0
        elif kind not in (7, 0xA, 0xE, 0xF):
            lost += 1
        for column in columns:
            if column is None or row is None or high.sent is None:
                untimed += 1
            else:
                found.append((high.value * 4096 + low, column[0], row, column[1]))
    return found, lost, untimed


def loop_dat(words):
    time, found = Counter(32), []
    for word in words:
        time.send(word & 0xFFFFFFFF)
        found.append((time.value, word >> 32 & 0x3FFF, word >> 46 & 0x3FFF, int(word >> 60 > 0)))
    return found, 0, 0


LOOP = {"evt2": loop_evt2, "evt3": loop_evt3, "dat": loop_dat}


def sound(found):
    """What of this lies on the sensor and does not go back in time, and how many do not."""
    latest, kept = -1, []
    for t, x, y, p in found:
        if x < 640 and y < 480 and t >= latest:
            latest = t
            kept.append((t, x, y, 1 if p else -1))
    return kept, len(found) - len(kept)


few = lambda *values: st.sampled_from(values)  # noqa: E731
MANY = 40
WORDS = {
    "evt2": st.lists(
        st.one_of(
            st.builds(lambda k, t, x, y: k << 28 | t << 22 | x << 11 | y, few(0, 1), few(0, 63), few(0, 5, 640), few(0, 480)),
            st.builds(lambda t: 8 << 28 | t, few(0, 1, 2, 2**27, 2**28 - 2, 2**28 - 1)),
            st.integers(0, 2**32 - 1),
        ),
        max_size=MANY,
    ),
    "evt3": st.lists(
        st.one_of(
            st.builds(lambda k, v: k << 12 | v, few(0, 2, 3, 4, 5, 6, 8), few(0, 1, 2, 5, 0x801, 0x27F, 0xA7F, 0xFFE, 0xFFF)),
            st.builds(lambda k, v: k << 12 | v, few(0, 2, 3, 4, 5, 6, 8), st.integers(0, 400)),
            st.integers(0, 2**16 - 1),
        ),
        max_size=MANY,
    ),
    "dat": st.lists(
        st.builds(
            lambda t, x, y, p: t | x << 32 | y << 46 | p << 60,
            st.one_of(few(0, 1, 2**31, 2**32 - 2, 2**32 - 1), st.integers(0, 2**32 - 1)),
            few(0, 5, 639, 640, 2**14 - 1),
            few(0, 479, 480, 2**14 - 1),
            st.integers(0, 15),
        ),
        max_size=MANY,
    ),
}  # fmt: skip
SUFFIX = {"evt2": ".raw", "evt3": ".raw", "dat": ".dat"}


def written(folder: Path, encoding, words, rest=b"", header=None) -> Path:
    file = folder / f"words{SUFFIX[encoding]}"
    file.write_bytes(
        (HEADER[encoding] if header is None else header) + np.array(words, KIND[encoding]).tobytes() + rest
    )
    return file


def rows(*slices):
    return [row for events in slices for row in zip(*(getattr(events, c).tolist() for c in COLUMNS), strict=True)]


@pytest.mark.parametrize("encoding", WORDS)
@settings(many, max_examples=80)
@given(data=st.data())
def test_any_words_are_read_as_a_plain_loop_reads_them(form, encoding, tmp_path_factory, data):
    words, cut = data.draw(WORDS[encoding]), data.draw(st.integers(0, 1))
    file = written(tmp_path_factory.getbasetemp(), encoding, words, b"\x00" * cut)
    found, lost, untimed = LOOP[encoding](words)
    kept, bad = sound(found)
    events = read_events(file, errors="drop")
    assert rows(events) == kept
    assert events.dropped == bad + lost + untimed + cut
    if bad + lost + cut:
        with pytest.raises(AffuseError, match=f"{bad + lost + cut} bad of {len(found)} events"):
            read_events(file)
    else:
        assert rows(read_events(file)) == kept


@pytest.mark.parametrize("encoding", WORDS)
@settings(many, max_examples=50)
@given(data=st.data())
def test_slices_cut_at_any_word_are_the_whole(form, encoding, tmp_path_factory, data):
    words = data.draw(WORDS[encoding])
    file = written(tmp_path_factory.getbasetemp(), encoding, words, b"\x00")
    whole = read_events(file, errors="drop")
    chunk = data.draw(st.integers(1, 30))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(event_words, "PIECE", data.draw(st.integers(1, 20)) * np.dtype(KIND[encoding]).itemsize)
        slices = list(stream_events(file, errors="drop", chunk_events=chunk))
        again = read_events(file, errors="drop")
    assert rows(*slices) == rows(whole) == rows(again)
    assert sum(part.dropped for part in slices) == whole.dropped == again.dropped
    assert all(len(part) <= chunk and (part.width, part.height) == (640, 480) for part in slices)


@pytest.mark.parametrize("encoding", WORDS)
@settings(many, max_examples=40)
@given(data=st.data())
def test_a_sensor_that_nothing_tells_is_as_large_as_its_events(form, encoding, tmp_path_factory, data):
    words = data.draw(WORDS[encoding])
    header = {"evt2": b"% evt 2.0\n", "evt3": b"% evt 3.0\n", "dat": b"% Version 2\n\x0c\x08"}[encoding]
    file = written(tmp_path_factory.getbasetemp(), encoding, words, header=header)
    found, _, _ = LOOP[encoding](words)
    if not found:
        with pytest.raises(AffuseError, match="sensor_size"):
            read_events(file, errors="drop")
        return
    events = read_events(file, errors="drop")
    assert (events.width, events.height) == (max(x for _, x, _, _ in found) + 1, max(y for _, _, y, _ in found) + 1)
    assert events.size_inferred
    slices = list(stream_events(file, errors="drop", chunk_events=7))
    assert rows(*slices) == rows(events)
    assert all((part.width, part.height) == (events.width, events.height) for part in slices)


@pytest.mark.parametrize("width", ["avx512", "avx2", "plain", "numpy"])
@pytest.mark.parametrize("rare", [0, 5])
@pytest.mark.parametrize("encoding", ["evt2", "dat"])
def test_long_rows_of_events_are_read_as_a_plain_loop_reads_them(encoding, rare, width, tmp_path, monkeypatch):
    if width != "numpy" and not native_is_built()[0]:
        pytest.skip("the native code is not built here")
    monkeypatch.setenv("AFFUSE_EVENTS", "blocked" if width == "numpy" else "native")
    monkeypatch.setenv("AFFUSE_VECTORS", width)
    rng = np.random.default_rng(rare)
    n = 4000
    t = np.cumsum(rng.integers(0, 2, n)) + ((1 << 32) - 500)
    x, y, p = rng.integers(0, 640, n), rng.integers(0, 480, n), rng.integers(0, 2, n)
    for column, wrong in ((x, 640), (y, 480)):
        column[rng.integers(0, n, rare)] = wrong
    back = rng.integers(1, n, rare)
    t[back] -= 3
    if encoding == "dat":
        words = (t & 0xFFFFFFFF | x << 32 | y << 46 | p << 60).tolist()
    else:
        words = []
        for i in range(n):
            if i == 0 or t[i] >> 6 != t[i - 1] >> 6:
                words.append(int(8 << 28 | t[i] >> 6))
            words.append(int(p[i] << 28 | (t[i] & 63) << 22 | x[i] << 11 | y[i]))
    found, _, _ = LOOP[encoding](words)
    kept, bad = sound(found)
    file = written(tmp_path, encoding, words)
    events = read_events(file, errors="drop")
    assert rows(events) == kept
    assert events.dropped == bad
    assert (bad > 0) == (rare > 0)
    assert rows(*stream_events(file, errors="drop", chunk_events=999)) == kept
    if bad:
        first = next(i for i, event in enumerate(found) if event[:1] != kept[i][:1] or event[1:3] != kept[i][1:3])
        with pytest.raises(AffuseError, match=rf"{bad} bad of {n} events: event {first} \("):
            read_events(file)


@pytest.mark.parametrize("width", ["avx512", "avx2", "plain", "numpy"])
@pytest.mark.parametrize("rare", [0, 0.002, 0.1], ids=["sound", "rarely bad", "often bad"])
def test_long_rows_of_words_of_evt3_are_read_as_a_plain_loop_reads_them(rare, width, tmp_path, monkeypatch):
    if width != "numpy" and not native_is_built()[0]:
        pytest.skip("the native code is not built here")
    monkeypatch.setenv("AFFUSE_EVENTS", "blocked" if width == "numpy" else "native")
    monkeypatch.setenv("AFFUSE_VECTORS", width)
    rng = np.random.default_rng(int(1000 * rare))
    words, t = [8 << 12 | 4095, 6 << 12, 0], 4095 << 12  # the upper counter overflows at its first step
    for kind in rng.choice([0, 2, 6, 3, 7], 20_000, p=[0.3, 0.55, 0.12, 0.02, 0.01]).tolist():
        wrong = rng.random() < rare
        if kind == 0:
            words.append(int(rng.integers(480, 2048) if wrong else rng.integers(0, 480)))
        elif kind == 2:
            column = int(rng.integers(640, 2048) if wrong else rng.integers(0, 640))
            words.append(2 << 12 | int(rng.integers(0, 2)) << 11 | column)
        elif kind == 6:
            upper, t = t >> 12, t + int(rng.integers(0, 200))
            if t >> 12 != upper:
                words.append(8 << 12 | t >> 12 & 0xFFF)
            words.append(6 << 12 | (max(0, (t & 0xFFF) - 300) if wrong else t & 0xFFF))
        elif kind == 3:
            words += [3 << 12 | int(rng.integers(0, 600)), 4 << 12 | int(rng.integers(0, 4096))]
        else:
            words.append((1 if wrong else 7) << 12)
    found, lost, _ = loop_evt3(words)
    kept, bad = sound(found)
    file = written(tmp_path, "evt3", words)
    events = read_events(file, errors="drop")
    assert rows(events) == kept
    assert (events.dropped, events.dropped > 0) == (bad + lost, rare > 0)
    assert rows(*stream_events(file, errors="drop", chunk_events=999)) == kept
    assert len(kept) > 9_000


def test_the_first_bad_event_is_named(form, tmp_path):
    file = written(
        tmp_path, "evt2", [8 << 28 | 5, 1 << 28 | 3 << 22, 2 << 22 | 7 << 11 | 9, 1 << 28 | 3 << 22 | 640 << 11]
    )
    words = r"2 bad of 3 events: event 1 \(t 322 us, x 7, y 9\) goes back in time"
    with pytest.raises(AffuseError, match=words):
        read_events(file)
    with pytest.raises(AffuseError, match=words):
        list(stream_events(file))


def test_a_stream_gives_what_came_before_the_bad_events(form, tmp_path):
    words = [8 << 28] + [1 << 28] * 20 + [3 << 28]
    stream = stream_events(written(tmp_path, "evt2", words), chunk_events=8)
    assert len(next(stream)) == 8
    assert len(next(stream)) == 8
    with pytest.raises(AffuseError, match="no event"):
        next(stream)


def test_other_formats_stream_too_and_errors_name_the_file(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("1 0 0 1\n2 1 1 0\n3 0 1 1\noops\n")
    whole = read_events(file, errors="drop")
    slices = list(stream_events(file, errors="drop", chunk_events=2))
    assert [len(part) for part in slices] == [2, 1]
    assert rows(*slices) == rows(whole)
    assert sum(part.dropped for part in slices) == 1
    for name, content in (("a.raw", b"no header"), ("b.raw", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(AffuseError, match=name):
            next(stream_events(tmp_path / name))
    with pytest.raises(AffuseError, match="chunk_events"):
        next(stream_events(file, chunk_events=0))


def test_a_stream_takes_no_memory_for_the_file(form, tmp_path):
    status = Path("/proc/self/status")
    if not status.is_file():
        pytest.skip("this system does not tell how much memory a process takes")
    resident = lambda: int(next(line for line in status.read_text().splitlines() if "VmRSS" in line).split()[1]) / 1024  # noqa: E731
    piece = np.concatenate([[8 << 28], np.full((1 << 20) - 1, 1 << 28)])
    file = tmp_path / "long.raw"
    with file.open("wb") as stream:
        stream.write(HEADER["evt2"])
        for minute in range(16):  # 64 MiB
            stream.write((piece + minute * (np.arange(1 << 20) == 0)).astype("<u4").tobytes())
    stream = stream_events(file, chunk_events=1 << 17)
    count = len(next(stream))
    before, most = resident(), 0.0
    for events in stream:
        count += len(events)
        most = max(most, resident() - before)
    assert count == 16 * ((1 << 20) - 1)
    assert most < 32
