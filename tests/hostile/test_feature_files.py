"""Feature files that are malicious, damaged or wrong run nothing and give one clear line each."""

import os
import pickle
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from affuse import AffuseError
from affuse.data import numpy_pickle
from affuse.data.numpy_pickle import load_numpy_pickle


def one_line(call: Callable[[], Any], *words: str) -> None:
    with pytest.raises(AffuseError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message and len(message) < 600
    assert not [word for word in words if word not in message], message


class Calls:
    """An object whose pickle calls a function when it is read by Python's own reader."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.made = (function, arguments)

    def __reduce__(self) -> Any:
        return self.made


ATTACKS: dict[str, Callable[[str], Any]] = {
    "os.system": lambda mark: Calls(os.system, f"touch {mark}"),
    "subprocess": lambda mark: Calls(subprocess.Popen, ["touch", mark]),
    "eval": lambda mark: Calls(eval, f"open({mark!r}, 'w')"),
    "exec": lambda mark: Calls(exec, f"open({mark!r}, 'w')"),
    "open": lambda mark: Calls(open, mark, "w"),
    "getattr": lambda mark: Calls(getattr, "x", "upper"),
    "numpy.save": lambda mark: Calls(np.save, mark, 1),
    "numpy.load": lambda mark: Calls(np.load, mark),
    "numpy.fromfile": lambda mark: Calls(np.fromfile, mark),
    "numpy.testing": lambda mark: Calls(np.testing.assert_equal, 1, 1),
    "object array": lambda mark: np.array([Calls(os.system, f"touch {mark}"), 1], dtype=object),
    "in a tuple": lambda mark: ((1, Calls(os.system, f"touch {mark}")),),
    "as a key": lambda mark: {(1, 2): 3},
    "a class": lambda mark: Path(mark),
    "a masked array": lambda mark: np.ma.masked_array([1.0], [True]),
    "a matrix": lambda mark: np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f4")]),
    "a date": lambda mark: np.array(["2020-01-01"], dtype="M8[D]"),
    "a function": lambda mark: os.path.join,
    "a set": lambda mark: {1, 2},
}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("attack", ATTACKS)
def test_a_malicious_pickle_runs_nothing(tmp_path: Path, attack: str, protocol: int) -> None:
    mark = tmp_path / "ran"
    path = tmp_path / "file.pkl"
    path.write_bytes(pickle.dumps({"train": ATTACKS[attack](str(mark))}, protocol=protocol))
    one_line(lambda: load_numpy_pickle(path), str(path), "refused")
    assert not mark.exists()


@pytest.mark.parametrize(
    "body",
    [
        b"cos\nsystem\n(S'touch x'\ntR.",
        b"cnumpy\nndarray\n.",
        b"cnumpy\ndtype\n)R.",
        b"cnumpy\ndtype\n(U\x01OK\x00K\x01tR.",
        b"cnumpy._core.multiarray\n_reconstruct\n(NN\x86NtR.",
        b"cnumpy._core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01btR.",
        b"]a.",
        b"a.",
        b"(((.",
        b"e.",
        b"N(u.",
        b"}(K\x01u.",
        b"}]K\x01s.",
        b"\x85.",
        b"Nb.",
        b"NNb.",
        b"NR.",
        b"h\x05.",
        b"q\x05.",
        b"\x8b\xff\xff\xff\xff.",
        b"\x8b\xff\xff\xff\x7f.",
        b"T\xff\xff\xff\xff.",
        b"\x8e" + struct.pack("<Q", 2**63) + b"abc.",
        b"\x8d" + struct.pack("<Q", 2**40) + b"abc.",
        b"X\x02\x00\x00\x00\xff\xfe.",
        b"\x95" + struct.pack("<Q", 2**62) + b"N.",
        b"c" + b"a" * 5000,
        b"c\xff\xfe\n\xff\n.",
        b"\x93.",
        b"NN\x93.",
        b"C\x01aC\x01b\x93.",
        b"Pid\n.",
        b"\x97.",
        b"i",
        b"",
    ],
)
@pytest.mark.parametrize("head", [b"\x80\x02", b"\x80\x04"])
def test_nonsense_is_refused(tmp_path: Path, head: bytes, body: bytes) -> None:
    (tmp_path / "x.pkl").write_bytes(head + body)
    one_line(lambda: load_numpy_pickle(tmp_path / "x.pkl"), "refused", "x.pkl")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n", "git lfs pull"),
        (b"<!DOCTYPE html><html>quota exceeded</html>", "not a pickle"),
        (b"(dp0\nS'a'\np1\nI1\ns.", "not a pickle of protocol 2 to 5"),
        (b"\x80\x09N.", "not a pickle of protocol 2 to 5"),
    ],
)
def test_what_is_no_pickle_is_said(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "x.pkl").write_bytes(content)
    one_line(lambda: load_numpy_pickle(tmp_path / "x.pkl"), words, "x.pkl")


def test_a_missing_file_and_a_folder_are_said(tmp_path: Path) -> None:
    one_line(lambda: load_numpy_pickle(tmp_path / "no.pkl"), "no.pkl")
    one_line(lambda: load_numpy_pickle(tmp_path), str(tmp_path))


def array_pickle(shape: bytes, data: bytes, dtype: bytes = b"f8") -> bytes:
    kind = b"U" + bytes([len(dtype)]) + dtype
    made = b"cnumpy\ndtype\n" + kind + b"K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    start = b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    return start + b"(K\x01" + shape + made + b"\x89U" + bytes([len(data)]) + data + b"tb."


@pytest.mark.parametrize(
    "content",
    [
        array_pickle(b"J\xff\xff\xff\x7f\x85", b"\0" * 16),
        array_pickle(b"J\xff\xff\xff\xff\x85", b"\0" * 16),
        array_pickle(b"\x8a\x0a" + b"\x01" * 10 + b"\x85", b"\0" * 16),
        array_pickle(b"K\x02", b"\0" * 16),
        array_pickle(b"U\x012\x85", b"\0" * 16),
        array_pickle(b"(" + b"K\x01" * 40 + b"t", b"\0" * 8),
        array_pickle(b"K\x02\x85", b"\0" * 16, b"f3"),
        array_pickle(b"K\x02\x85", b"\0" * 16, b"V8"),
        array_pickle(b"K\x02\x85", b"\0" * 16, b"f8,f8"),
        array_pickle(b"K\x02\x85", b"\0" * 15),
    ],
)
def test_an_array_that_claims_what_it_is_not_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.pkl").write_bytes(content)
    one_line(lambda: load_numpy_pickle(tmp_path / "x.pkl"), "refused")


def test_too_many_objects_and_too_much_made_of_little_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(numpy_pickle, "MAX_OBJECTS", 50_000)
    path = tmp_path / "x.pkl"
    path.write_bytes(b"\x80\x02" + b"N" * 50_001 + b".")
    one_line(lambda: load_numpy_pickle(path), "objects")
    text = b"X" + struct.pack("<I", 4000) + b"a" * 4000 + b"q\x00"
    again = b"c_codecs\nencode\nq\x01h\x00U\x06latin1\x86R" + b"h\x01h\x00U\x06latin1\x86R" * 6_000
    path.write_bytes(b"\x80\x02" + text + again + b".")
    one_line(lambda: load_numpy_pickle(path), "more than it holds")


GOOD = pickle.dumps({"a": np.arange(2000.0), "b": ["x", 1, 2.5], "c": np.float32(1)}, protocol=4)


@pytest.mark.parametrize("keep", [1, 2, 3, 11, 60, 120, 5000, len(GOOD) - 20, len(GOOD) - 1])
def test_a_file_that_was_cut_short_is_refused(tmp_path: Path, keep: int) -> None:
    (tmp_path / "x.pkl").write_bytes(GOOD[:keep])
    one_line(lambda: load_numpy_pickle(tmp_path / "x.pkl"), "x.pkl")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
@given(data=st.data())
def test_a_damaged_file_is_read_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    protocol = data.draw(st.integers(2, 5))
    good = pickle.dumps({"a": np.arange(6.0), "b": ["x", (1, None)], "c": np.float32(1)}, protocol=protocol)
    changed = bytearray(good)
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(2, len(good) - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / "x.pkl").write_bytes(bytes(changed))
    try:
        load_numpy_pickle(tmp_path / "x.pkl")
    except AffuseError as error:
        assert "\n" not in str(error)
