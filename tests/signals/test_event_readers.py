"""Every format read: against independent readers, against files written here, and on real recordings."""

import importlib
import sys
import tracemalloc
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from affuse import AffuseError
from affuse.signals.events import Events, describe, read_events, write_events

HEADER = {
    "evt2": b"% evt 2.0\n% geometry 640x480\n",
    "evt3": b"% format EVT3;height=720;width=1280\n% end\n",
    "dat": b"% Data file containing CD events \n% Version 2\n% Height 480\n% Width 640\n",
}


def random_events(n=2000, width=640, height=480, gap=40, seed=0):
    rng = np.random.default_rng(seed)
    t = np.cumsum(rng.integers(0, gap, n)) + 5_000
    return t, rng.integers(0, width, n), rng.integers(1, height, n), rng.integers(0, 2, n)


def evt2(t, x, y, p) -> bytes:
    words, high = [], None
    for ti, xi, yi, pi in zip(t.tolist(), x.tolist(), y.tolist(), p.tolist(), strict=True):
        if ti >> 6 != high:
            high = ti >> 6
            words.append(8 << 28 | high & 0xFFFFFFF)
        words.append(pi << 28 | (ti & 63) << 22 | xi << 11 | yi)
    return np.array(words, "<u4").tobytes()


def evt3(t, x, y, p) -> bytes:
    words, high, low, row = [], None, None, None
    for ti, xi, yi, pi in zip(t.tolist(), x.tolist(), y.tolist(), p.tolist(), strict=True):
        if ti >> 12 != high:
            high, low = ti >> 12, None
            words.append(8 << 12 | high & 0xFFF)
        if ti & 0xFFF != low:
            low = ti & 0xFFF
            words.append(6 << 12 | low)
        if yi != row:
            row = yi
            words.append(yi)
        words.append(2 << 12 | pi << 11 | xi)
    return np.array(words, "<u2").tobytes()


def dat(t, x, y, p) -> bytes:
    rows = np.stack([t & 0xFFFFFFFF, x | y << 14 | p << 28], axis=1)
    return b"\x0c\x08" + rows.astype("<u4").tobytes()


def same(events: Events, t, x, y, p) -> None:
    np.testing.assert_array_equal(events.t_us, t)
    np.testing.assert_array_equal(events.x, x)
    np.testing.assert_array_equal(events.y, y)
    np.testing.assert_array_equal(events.p, np.where(np.asarray(p) > 0, 1, -1))


CODED = {"evt2": (evt2, ".raw"), "evt3": (evt3, ".raw"), "dat": (dat, ".dat")}


@pytest.mark.parametrize("encoding", CODED)
def test_prophesee_formats_give_back_what_was_encoded(encoding, tmp_path):
    encode, suffix = CODED[encoding]
    columns = random_events(gap=400)  # the time passes many of the higher counters' steps
    file = tmp_path / f"recording{suffix}"
    file.write_bytes(HEADER[encoding] + encode(*columns))
    events = read_events(file)
    same(events, *columns)
    assert (events.width, events.height) == ((1280, 720) if encoding == "evt3" else (640, 480))
    assert not events.size_inferred


@pytest.mark.parametrize(("encoding", "gap"), [("evt2", 400), ("dat", 400), ("evt3", 3)])
def test_prophesee_formats_are_what_expelliarmus_reads(encoding, gap, tmp_path):
    # Its EVT3 reader counts a step of the upper bits of time twice, so that file stays between two steps.
    encode, suffix = CODED[encoding]
    file = tmp_path / f"recording{suffix}"
    file.write_bytes(HEADER[encoding] + encode(*random_events(gap=gap)))
    theirs = pytest.importorskip("expelliarmus").Wizard(encoding=encoding).read(str(file))
    same(read_events(file), theirs["t"], theirs["x"], theirs["y"], theirs["p"])


@pytest.mark.parametrize("encoding", CODED)
def test_files_that_expelliarmus_writes_are_read(encoding, tmp_path):
    wizard = pytest.importorskip("expelliarmus").Wizard(encoding=encoding)
    # Dense in time, as its EVT3 writer forgets the upper bits of time after a pause.
    t, x, y, p = random_events(gap=3)
    theirs = np.zeros(len(t), dtype=[("t", "<i8"), ("x", "<i2"), ("y", "<i2"), ("p", "u1")])
    for name, column in zip("txyp", (t, x, y, p), strict=True):
        theirs[name] = column
    file = tmp_path / f"recording{CODED[encoding][1]}"
    wizard.save(fpath=str(file), arr=theirs)
    expected = wizard.read(str(file))
    same(read_events(file), expected["t"], expected["x"], expected["y"], expected["p"])


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 3_000_000), st.integers(0, 1)), min_size=1, max_size=30))
def test_evt3_time_goes_on_where_its_24_bits_overflow(tmp_path_factory, steps):
    t = np.cumsum([step for step, _ in steps]) + 16_000_000
    x = np.arange(len(t))
    file = tmp_path_factory.getbasetemp() / "overflow.raw"
    file.write_bytes(HEADER["evt3"] + evt3(t, x, x + 1, np.array([p for _, p in steps])))
    first = int(t[0]) >> 24 << 24  # a stream cannot tell how often its clock overflowed before it began
    np.testing.assert_array_equal(read_events(file).t_us, t - first)


def test_evt2_and_dat_time_goes_on_where_it_overflows(tmp_path):
    x = np.array([1, 2])
    (tmp_path / "a.raw").write_bytes(HEADER["evt2"] + evt2(np.array([(1 << 34) - 5, (1 << 34) + 5]), x, x, x - 1))
    (tmp_path / "a.dat").write_bytes(HEADER["dat"] + dat(np.array([(1 << 32) - 5, (1 << 32) + 5]), x, x, x - 1))
    for name in ("a.raw", "a.dat"):
        assert np.diff(read_events(tmp_path / name).t_us).tolist() == [10]


def test_evt3_vectors_hold_one_event_a_bit(tmp_path):
    words = [0x8000, 0x6007, 0x0005, 0x3800 | 100, 0x4000 | 0b1000_0000_0001, 0x5000 | 0b1000_0010, 0x3000 | 7, 0x4002]
    file = tmp_path / "vectors.raw"
    file.write_bytes(HEADER["evt3"] + np.array(words, "<u2").tobytes())
    same(read_events(file), [7] * 5, [100, 111, 113, 119, 8], [5] * 5, [1, 1, 1, 1, 0])


def test_evt3_lower_time_bits_do_not_outlive_the_upper_ones(tmp_path):
    words = [0x8000, 0x6FFF, 0x0005, 0x2001, 0x8001, 0x2002, 0x6003, 0x2003]
    file = tmp_path / "stale.raw"
    file.write_bytes(HEADER["evt3"] + np.array(words, "<u2").tobytes())
    assert read_events(file).t_us.tolist() == [4095, 4096, 4099]


def test_events_before_the_first_time_of_a_cut_stream_are_left_out_and_counted(tmp_path):
    columns = random_events(50)
    orphan = np.array([1 << 28 | 3 << 11 | 4], "<u4").tobytes()
    file = tmp_path / "cut.raw"
    file.write_bytes(HEADER["evt2"] + orphan + evt2(*columns))
    events = read_events(file)
    assert (len(events), events.dropped) == (50, 1)


def test_nmnist_overflow_events_move_the_clock(tmp_path):
    file = tmp_path / "a.bs2"
    file.write_bytes(bytes([1, 2, 0x80, 0x10, 0x00, 0, 240, 0, 0, 0, 3, 4, 0x00, 0x00, 0x05]))
    same(read_events(file), [4096, 8192 + 5], [1, 3], [2, 4], [1, 0])


def test_nmnist_layout_of_a_larger_sensor_needs_its_size(tmp_path):
    file = tmp_path / "caltech.bin"
    file.write_bytes(bytes([100, 2, 0x80, 0, 9]))
    with pytest.raises(AffuseError, match="34 x 34"):
        read_events(file)
    events = read_events(file, sensor_size=(240, 180))
    assert (events.x.tolist(), events.width) == ([100], 240)


@pytest.mark.parametrize("offset", [None, 7_000_000])
def test_dsec_layout_adds_its_offset(offset, tmp_path):
    t, x, y, p = random_events()
    file = tmp_path / "events.h5"
    with h5py.File(file, "w") as root:
        for name, column, dtype in (("t", t, "u4"), ("x", x, "u2"), ("y", y, "u2"), ("p", p, "u1")):
            root[f"events/{name}"] = column.astype(dtype)
        root["ms_to_idx"] = np.searchsorted(t, np.arange(0, t[-1], 1000))
        if offset is not None:
            root["t_offset"] = np.int64(offset)
    events = read_events(file, sensor_size=(640, 480))
    same(events, t + (offset or 0), x, y, p)


@settings(max_examples=30)
@given(st.integers(0, 60), st.integers(0, 5))
def test_written_events_are_read_back(tmp_path_factory, n, dropped):
    t, x, y, p = random_events(n, 30, 20)
    events = Events(t, x, y, 2 * p - 1, 34, 25, dropped)
    file = tmp_path_factory.getbasetemp() / "written.npz"
    write_events(events, file)
    again = read_events(file)
    same(again, t, x, y, p)
    assert (again.width, again.height, again.dropped) == (34, 25, dropped)


def test_writing_leaves_nothing_half_done(tmp_path):
    events = Events(*(np.array([1]) for _ in range(4)), width=4, height=4)
    with pytest.raises(AffuseError, match="npz"):
        write_events(events, tmp_path / "a.txt")
    with pytest.raises(AffuseError, match="cannot be written"):
        write_events(events, tmp_path / "no such folder" / "a.npz")
    (tmp_path / "taken.npz").mkdir()
    with pytest.raises(AffuseError, match="cannot be written"):
        write_events(events, tmp_path / "taken.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["taken.npz"]


@pytest.mark.parametrize("polarity", [np.array([0, 1, 1]), np.array([-1, 1, 1]), np.array([False, True, True])])
def test_every_way_to_write_polarity_becomes_signs(polarity, tmp_path):
    file = tmp_path / "a.npz"
    column = np.array([1, 2, 3])
    np.savez(file, t=column, x=column, y=column, p=polarity)
    events = read_events(file)
    assert events.p.tolist() == [-1, 1, 1]
    assert (events.width, events.height, events.size_inferred) == (4, 4, True)


@pytest.mark.parametrize(
    ("text", "t_us"),
    [
        ("0.5 1 2 0\n0.500001 3 4 1\n", [500_000, 500_001]),
        ("7 1 2 0\n9 3 4 1\n", [7, 9]),
        ("# t x y p\n\n7, 1, 2, -1\n9, 3, 4, 1 # end\n", [7, 9]),
        ("0 1 2 0\n1e-6 3 4 1", [0, 1]),
        ("timestamp,x,y,polarity\n7,1,2,0\n9,3,4,1\n", [7, 9]),
        ("1600000000.000001 1 2 0\n1600000000.000002 3 4 1", [1_600_000_000_000_001, 1_600_000_000_000_002]),
    ],
)
def test_text_times_with_a_point_are_seconds_and_whole_ones_microseconds(text, t_us, tmp_path):
    file = tmp_path / "events.txt"
    file.write_text(text)
    same(read_events(file), t_us, [1, 3], [2, 4], [0, 1])


def test_a_word_with_an_e_in_it_makes_no_seconds(tmp_path):
    file = tmp_path / "events.csv"
    file.write_text("the first line\n7,1,2,0\n9,3,4,1\n")
    events = read_events(file, errors="drop")
    assert (events.t_us.tolist(), events.dropped) == ([7, 9], 1)


def test_long_text_is_read_in_bounded_memory(tmp_path):
    file = tmp_path / "events.txt"
    n = 100_000
    file.write_text("".join(f"{i} {i % 30} {i % 20} {i % 2}\n" for i in range(n)))
    tracemalloc.start()
    events = read_events(file)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (events.t_us == np.arange(n)).all()
    assert peak < 25e6 + 150 * n  # a block of words, and numbers of all


@pytest.mark.parametrize("offset", [2**62, 2**63 + 5, -(2**62)])
def test_an_offset_that_would_overflow_is_refused(offset, tmp_path):
    file = tmp_path / "events.h5"
    with h5py.File(file, "w") as root:
        for name in "txyp":
            root[f"events/{name}"] = np.array([1, 1], np.uint32)
        root["t_offset"] = np.uint64(offset) if offset > 0 else np.int64(offset)
    with pytest.raises(AffuseError, match="t_offset must be one whole number"):
        read_events(file)


def test_a_first_line_of_two_numbers_is_the_size(tmp_path):
    file = tmp_path / "events.txt"
    file.write_text("240 180\n7 1 2 0\n")
    events = read_events(file)
    assert (events.width, events.height, events.size_inferred) == (240, 180, False)


def test_a_missing_package_is_named_with_its_pip_line(tmp_path, monkeypatch):
    file = tmp_path / "a.aedat4"
    file.write_bytes(b"#!AER-DAT4.0\r\n" + bytes(50))
    monkeypatch.setitem(sys.modules, "aedat", None)
    with pytest.raises(AffuseError, match=r"pip install 'affuse\[events\]'"):
        read_events(file)


REAL = {  # events, positive, duration in us, size
    "evt2.raw": (521_252, 185_861, 95_871, (640, 480)),
    "sample.aedat4": (111_954, 55_023, 589_917, (320, 240)),
    "sample_nmnist.bin": (4_325, 2_145, 310_521, (34, 34)),
    "slider_depth/events.txt": (50_000, 21_147, 170_345, (240, 180)),
}


@pytest.mark.parametrize("name", REAL)
def test_real_recordings_are_read_whole(name, real_data):
    file = real_data / "events" / name
    if not file.is_file():
        pytest.skip(f"no recording {name}")
    if name.endswith("aedat4") and importlib.util.find_spec("aedat") is None:
        pytest.skip("the extra 'events' is not installed")
    facts = describe(read_events(file))
    count, positive, duration_us, (width, height) = REAL[name]
    assert (facts["events"], facts["positive"], facts["negative"]) == (count, positive, count - positive)
    assert (facts["duration_s"], facts["width"], facts["height"]) == (duration_us / 1e6, width, height)
    assert facts["dropped"] == 0


def test_a_real_evt2_recording_is_what_expelliarmus_reads(real_data):
    file = real_data / "events" / "evt2.raw"
    if not file.is_file():
        pytest.skip("no recording evt2.raw")
    theirs = pytest.importorskip("expelliarmus").Wizard(encoding="evt2").read(str(file))
    same(read_events(file), theirs["t"], theirs["x"], theirs["y"], theirs["p"])


def test_real_nmnist_recordings_are_sound(real_data):
    files = sorted(Path(real_data / "nmnist").glob("*.bs2"))[:40]
    if not files:
        pytest.skip("no N-MNIST recordings")
    for file in files:
        events = read_events(file)
        assert len(events) * 5 == file.stat().st_size
        assert 250_000 < events.duration_us < 350_000
