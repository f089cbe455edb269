"""What pickle writes of arrays and plain containers, this reader reads, without pickle."""

import collections
import gc
import pickle
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from affuse.data.numpy_pickle import load_numpy_pickle
from affuse.data.stored_array import StoredArray

DTYPES = st.one_of(
    npst.floating_dtypes(endianness="?"),
    npst.integer_dtypes(endianness="?"),
    npst.unsigned_integer_dtypes(),
    npst.boolean_dtypes(),
    npst.complex_number_dtypes(),
    npst.byte_string_dtypes(min_len=1, max_len=5),
    npst.unicode_string_dtypes(min_len=1, max_len=5),
).filter(lambda dtype: dtype.itemsize <= 64 and dtype.char != "g" and dtype.char != "G")
ARRAYS = DTYPES.flatmap(lambda dtype: npst.arrays(dtype, npst.array_shapes(min_dims=0, max_dims=3, max_side=4)))
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**80), 2**80),
    st.floats(allow_nan=False),
    st.text(max_size=8),
    st.binary(max_size=8),
)
PLAIN = st.recursive(
    st.one_of(SCALARS, st.tuples(SCALARS, SCALARS)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.one_of(st.text(max_size=5), st.integers()), inner, max_size=4)
    ),
    max_leaves=12,
)


def written(folder: Path, value: Any, protocol: int) -> Path:
    path = folder / "file.pkl"
    path.write_bytes(pickle.dumps(value, protocol=protocol))
    return path


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(value=PLAIN, protocol=st.integers(2, 5))
def test_plain_values_come_back_as_they_were(tmp_path: Path, value: Any, protocol: int) -> None:
    assert load_numpy_pickle(written(tmp_path, value, protocol)) == value


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(array=ARRAYS, protocol=st.integers(2, 5), fortran=st.booleans())
def test_arrays_come_back_bit_for_bit(tmp_path: Path, array: Any, protocol: int, fortran: bool) -> None:
    array = np.asfortranarray(array) if fortran and array.ndim else array
    [back] = load_numpy_pickle(written(tmp_path, [array], protocol))
    assert back.shape == array.shape and back.dtype == array.dtype
    assert back.read().tobytes() == array.tobytes()
    if array.ndim and len(array):
        assert back[len(array) - 1].tobytes() == array[-1].tobytes()


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("fortran", [False, True])
def test_long_arrays_stay_in_the_file(tmp_path: Path, protocol: int, fortran: bool) -> None:
    array = np.random.default_rng(0).standard_normal((300, 7, 11))
    array = np.asfortranarray(array) if fortran else array
    value = load_numpy_pickle(written(tmp_path, {"a": array, "same": [array], "text": "é" * 10_000}, protocol))
    assert isinstance(value["a"], StoredArray) and value["same"][0] is value["a"]
    assert value["a"]._data is None and value["a"].fortran == fortran
    assert (value["a"].rows(17, 40) == array[17:40]).all() and (value["a"].read() == array).all()
    assert (np.concatenate([block for _, block in value["a"].blocks()]) == array).all()
    assert value["text"] == "é" * 10_000
    with pytest.raises(IndexError):
        value["a"].rows(290, 301)


def test_many_arrays_of_protocol_2_hold_no_file_open_and_leave_none_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    arrays = [np.arange(1000.0) + i for i in range(20)]
    before = len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").is_dir() else 0
    back = load_numpy_pickle(written(tmp_path, arrays, 2))
    after = len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").is_dir() else 0
    assert after == before and len(list((tmp_path / "scratch").iterdir())) == 1
    sent = pickle.loads(pickle.dumps(back[7]))  # as to a worker that was not forked
    assert (sent.read() == arrays[7]).all() and (back[19].read() == arrays[19]).all()
    del back, sent
    gc.collect()
    assert not list((tmp_path / "scratch").iterdir())


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_numpy_numbers_text_arrays_and_ordered_dicts_are_read(tmp_path: Path, protocol: int) -> None:
    value = collections.OrderedDict(
        number=np.float32(0.5),
        whole=np.int64(-3),
        yes=np.bool_(True),
        names=np.array(["a$_$1", "b$_$2"], dtype=object),
        empty=np.zeros((0, 4), np.float32),
        big=2**200,
    )
    back = load_numpy_pickle(written(tmp_path, value, protocol))
    assert (back["number"], back["whole"], back["yes"], back["big"]) == (0.5, -3, True, 2**200)
    assert list(back["names"]) == ["a$_$1", "b$_$2"] and back["empty"].read().shape == (0, 4)


def test_files_of_numpy_1_are_read(tmp_path: Path) -> None:
    array = np.arange(12.0).reshape(3, 4)
    data = pickle.dumps([array, np.float64(2.5)], protocol=2).replace(b"numpy._core.", b"numpy.core.")
    (tmp_path / "file.pkl").write_bytes(data)
    assert b"cnumpy.core.multiarray\n" in data
    back = load_numpy_pickle(tmp_path / "file.pkl")
    assert (back[0].read() == array).all() and back[1] == 2.5


def test_files_of_python_2_are_read(tmp_path: Path) -> None:
    """What Python 2 and numpy 1 write of ``{'id': 'clip\\xe9', 'x': numpy.array([1., 2.])}`` with protocol 2."""
    numbers = np.array([1.0, -2.0], "<f8").tobytes()
    array = b"cnumpy.core.multiarray\n_reconstruct\nq\x02cnumpy\nndarray\nq\x03K\x00\x85U\x01b\x87Rq\x04"
    dtype = b"cnumpy\ndtype\nq\x05U\x02f8K\x00K\x01\x87Rq\x06(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    state = b"(K\x01K\x02\x85" + dtype + b"\x89U" + bytes([len(numbers)]) + numbers + b"tb"
    path = tmp_path / "file.pkl"
    path.write_bytes(b"\x80\x02}q\x00(U\x02idU\x05clip\xe9U\x01x" + array + state + b"u.")
    back = load_numpy_pickle(path)
    assert back["id"] == "clipé" and (back["x"].read() == [1.0, -2.0]).all()
