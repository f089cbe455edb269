"""Event files that are cut, wrong or malicious: a clear error or sound events, never anything else."""

import pickle
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from affuse import AffuseError
from affuse.signals.events import Events, read_events, write_events

EVT2 = (
    b"% evt 2.0\n% geometry 64x48\n"
    + np.array(
        [8 << 28 | 1, 1 << 28 | 2 << 22 | 5 << 11 | 6, 0 << 28 | 3 << 22 | 7 << 11 | 8, 8 << 28 | 2, 1 << 28 | 9], "<u4"
    ).tobytes()
)
EVT3 = (
    b"% format EVT3;height=48;width=64\n% end\n"
    + np.array([0x8000, 0x6007, 0x0005, 0x2803, 0x3804, 0x4F0F, 0x5011, 0x6008, 0x2001], "<u2").tobytes()
)
DAT = (
    b"% Version 2\n% Height 48\n% Width 64\n\x0c\x08"
    + np.array([5, 1 << 28 | 3 << 14 | 4, 9, 2 << 14 | 1], "<u4").tobytes()
)
NMNIST = bytes([1, 2, 0x80, 0, 7, 3, 4, 0, 0, 9, 5, 6, 0x80, 1, 0])
TEXT = b"0.1 1 2 0\n0.2 3 4 1\n0.3 5 6 1\n"


def npz_bytes(folder: Path) -> bytes:
    column = np.array([1, 2, 3])
    write_events(Events(column, column, column, np.array([1, -1, 1]), 8, 8), folder / "made.npz")
    return (folder / "made.npz").read_bytes()


def hdf5_bytes(folder: Path) -> bytes:
    with h5py.File(folder / "made.h5", "w") as root:
        for name in "txyp":
            root[f"events/{name}"] = np.array([0, 1, 1], "u4")
    return (folder / "made.h5").read_bytes()


SMALL = {".raw": [EVT2, EVT3], ".dat": [DAT], ".bin": [NMNIST], ".bs2": [NMNIST], ".txt": [TEXT]}
SUFFIXES = (".raw", ".dat", ".bin", ".bs2", ".txt", ".csv", ".npz", ".h5", ".hdf5", ".aedat4")


def sound_or_named(file: Path) -> Events | None:
    """Read under both policies; what is not sound events must be an AffuseError that names the file, on one line."""
    events = None
    for policy in ("raise", "drop"):
        try:
            events = read_events(file, errors=policy)
        except AffuseError as error:
            assert str(file) in str(error)
            assert "\n" not in str(error)
            continue
        assert isinstance(events, Events)
    return events


@pytest.mark.parametrize(("suffix", "content"), [(s, c) for s, contents in SMALL.items() for c in contents])
def test_files_cut_at_any_byte(suffix, content, tmp_path):
    file = tmp_path / f"cut{suffix}"
    file.write_bytes(content)
    whole = read_events(file)
    for length in range(len(content)):
        file.write_bytes(content[:length])
        part = sound_or_named(file)
        assert part is None or len(part) <= len(whole)


@pytest.mark.parametrize(("make", "suffix", "stride"), [(npz_bytes, ".npz", 3), (hdf5_bytes, ".h5", 23)])
def test_archives_cut_at_many_bytes(make, suffix, stride, tmp_path):
    content = make(tmp_path)
    file = tmp_path / f"cut{suffix}"
    for length in range(0, len(content), stride):
        file.write_bytes(content[:length])
        sound_or_named(file)


def test_a_cut_or_damaged_aedat4_recording(real_data, tmp_path):
    pytest.importorskip("aedat")
    source = real_data / "events" / "sample.aedat4"
    if not source.is_file():
        pytest.skip("no recording sample.aedat4")
    content = source.read_bytes()
    file = tmp_path / "cut.aedat4"
    for length in (12, 14, 500, 100_001, len(content) - 3):
        file.write_bytes(content[:length])
        sound_or_named(file)
    rng = np.random.default_rng(1)
    for _ in range(4):
        damaged = bytearray(content)
        for at in rng.integers(0, 3000, 4):
            damaged[at] = rng.integers(0, 256)
        file.write_bytes(damaged)
        sound_or_named(file)


@settings(max_examples=200)
@given(st.sampled_from(SUFFIXES), st.binary(max_size=120))
def test_random_bytes(tmp_path_factory, suffix, content):
    file = tmp_path_factory.getbasetemp() / f"random{suffix}"
    file.write_bytes(content)
    sound_or_named(file)


@settings(max_examples=200)
@given(
    st.sampled_from(
        [
            (".raw", b"% evt 2.0\n"),
            (".raw", b"% evt 3.0\n"),
            (".dat", b"% Version 2\n\x00\x08"),
        ]
    ),
    st.binary(max_size=200),
)
def test_random_bytes_after_a_good_header(tmp_path_factory, start, content):
    file = tmp_path_factory.getbasetemp() / f"headed{start[0]}"
    file.write_bytes(start[1] + content)
    sound_or_named(file)


@settings(max_examples=150)
@given(st.text(alphabet="0123456789.-+eEnaifx, \t\n#_", max_size=80))
def test_random_numbers_in_text(tmp_path_factory, content):
    file = tmp_path_factory.getbasetemp() / "random.txt"
    file.write_text(content)
    sound_or_named(file)


@settings(max_examples=200)
@given(st.data())
def test_a_good_file_with_a_few_bytes_changed(tmp_path_factory, data):
    base = tmp_path_factory.getbasetemp()
    made = {**{s: c[0] for s, c in SMALL.items()}, ".npz": npz_bytes(base), ".h5": hdf5_bytes(base)}
    suffix = data.draw(st.sampled_from(sorted(made)))
    content = bytearray(made[suffix])
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    file = base / f"changed{suffix}"
    file.write_bytes(content)
    sound_or_named(file)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_empty_file_is_named(suffix, tmp_path):
    file = tmp_path / f"empty{suffix}"
    file.touch()
    with pytest.raises(AffuseError, match="empty"):
        read_events(file)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.raw", b"no header at all", "header"),
        ("a.raw", b"% evt 2.1\n" + bytes(8), "EVT 2.1"),
        ("a.raw", b"% evt 4.0\n" + bytes(8), "EVT 4.0"),
        ("a.dat", b"% Version 1\n\x00\x08", "version 1"),
        ("a.dat", b"% Version 2\n\x77\x08", "two bytes"),
        ("a.npz", b"PK but no more", "npz"),
        ("a.h5", b"no such thing", "HDF5"),
        ("a.aedat4", b"#!AER-DAT3.1\r\n", "AEDAT"),
        ("a.txt", b"\xff\xfe\x00", "not text"),
        ("a.txt", b"hello world\n", "hello world"),
        ("a.txt", b"# nothing\n", "sensor_size"),
        ("a.mp3", b"x", "suffix"),
        ("a.bin", b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        ("a.raw", b"% evt 2.0\n% geometry 99999x99999\n" + bytes(8), "99999"),
        ("a.raw", b"% evt 2.0\n% geometry 0x0\n" + bytes(8), "0 x 0"),
        ("a.bin", NMNIST[:-1], "truncated"),
        ("a.bin", NMNIST[5:] + NMNIST[:5], "back in time"),
        ("a.bin", NMNIST + bytes([40, 2, 0x80, 1, 9]), "outside of 34 x 34"),
    ],
)
def test_what_is_wrong_is_said(name, content, words, tmp_path):
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(AffuseError, match=words) as caught:
        read_events(file)
    assert str(file) in str(caught.value)


def test_missing_files_and_folders_are_named(tmp_path):
    with pytest.raises(AffuseError, match=r"none\.bin.*cannot be read"):
        read_events(tmp_path / "none.bin")
    (tmp_path / "folder.bin").mkdir()
    with pytest.raises(AffuseError, match=r"folder\.bin.*cannot be read"):
        read_events(tmp_path / "folder.bin")


@pytest.mark.parametrize(
    ("suffix", "content", "kept", "dropped"),
    [
        (".bin", NMNIST[:-1], 2, 1),
        (".bin", NMNIST[5:] + NMNIST[:5], 2, 1),
        (".bin", bytes([40, 2, 0xFF, 255, 255]) + NMNIST, 3, 1),  # outside, and its late time drags nothing along
        (".raw", EVT2 + np.array([3 << 28], "<u4").tobytes(), 3, 1),
        (".raw", EVT2 + b"\x00\x00", 3, 1),
        (".dat", DAT + b"\x00\x00\x00", 2, 1),
        (".txt", TEXT + b"oops\n0.4 1 2 7\n0.5 1.5 2 1\nnan 1 2 1\n0.6 1 2 1\n", 4, 4),
    ],
)
def test_bad_events_are_dropped_and_counted_if_asked(suffix, content, kept, dropped, tmp_path):
    file = tmp_path / f"bad{suffix}"
    file.write_bytes(content)
    with pytest.raises(AffuseError, match="errors='drop'"):
        read_events(file)
    events = read_events(file, errors="drop")
    assert (len(events), events.dropped) == (kept, dropped)


def test_an_npz_never_unpickles(tmp_path):
    touched = tmp_path / "touched"

    class Malicious:
        def __reduce__(self):
            return (Path.touch, (touched,))

    column = np.array([1])
    file = tmp_path / "evil.npz"
    np.savez(file, t=np.array([Malicious()], dtype=object), x=column, y=column, p=column)
    with pytest.raises(AffuseError, match=r"evil\.npz"):
        read_events(file)
    file.write_bytes(pickle.dumps(Malicious()))
    with pytest.raises(AffuseError, match=r"evil\.npz"):
        read_events(file)
    assert not touched.exists()


@pytest.mark.parametrize(
    "change",
    [
        {"t": np.array([0.5, np.nan, 0.7]), "p": np.array([1, 1, 2])},
        {"x": np.array([1.0, 2.0, 3.0])},
        {"x": np.array(["a", "b", "c"])},
        {"x": np.array([1, 2])},
        {"x": np.array(5)},
        {"t": np.array([1, 2, 2**64 - 1], np.uint64)},
        {"t": np.array([1, 2, -(2**63)])},
        {"x": np.array([1, 2, 2**40])},
        {"width": np.array([3, 4]), "height": np.array(3)},
        {"width": np.array(2**60), "height": np.array(3)},
    ],
)
def test_odd_arrays_in_an_npz(change, tmp_path):
    column = np.array([1, 2, 3])
    file = tmp_path / "odd.npz"
    np.savez(file, **{"t": column, "x": column, "y": column, "p": np.array([0, 1, 1]), **change})
    with pytest.raises(AffuseError, match=r"odd\.npz"):
        read_events(file)
    sound_or_named(file)


def test_claims_of_huge_arrays_are_refused_and_not_allocated(tmp_path):
    file = tmp_path / "huge.npz"
    header = b"{'descr': '<i8', 'fortran_order': False, 'shape': (1000000000000000,), }"
    header += b" " * (117 - len(header)) + b"\n"
    with zipfile.ZipFile(file, "w") as archive:
        for name in ("t_us", "x", "y", "p"):
            archive.writestr(f"{name}.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    with pytest.raises(AffuseError, match=r"huge\.npz"):
        read_events(file)
    file = tmp_path / "huge.h5"
    with h5py.File(file, "w") as root:
        for name in "txyp":
            root.create_dataset(f"events/{name}", shape=(10**13,), dtype="u4", chunks=(1024,))
    with pytest.raises(AffuseError, match="shape"):
        read_events(file)


@pytest.mark.parametrize("size", [(0, 5), (5, -1), (10**6, 5)])
def test_a_sensor_size_that_none_has_is_an_error(size, tmp_path):
    file = tmp_path / "a.bin"
    file.write_bytes(NMNIST)
    with pytest.raises(AffuseError, match="sensor_size"):
        read_events(file, sensor_size=size)
