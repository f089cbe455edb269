"""What a pickle of numpy arrays names and makes: words, spans of the file, dtypes and arrays, none of them by calling it.

Read by the stack machine of `affuse.data.numpy_pickle`, which says what is read and what is refused. Array states:
``ndarray.__reduce__`` and ``numpy.dtype.__reduce__``.
"""

from __future__ import annotations

import codecs
import math
import os
import re
import tempfile
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import numpy as np

from affuse.data.stored_array import StoredArray

_MAX_TEXT = 64 * 2**20
_ARRAY_MODULES = ("numpy.core.multiarray", "numpy._core.multiarray")
_NUMERIC_MODULES = ("numpy.core.numeric", "numpy._core.numeric")
NAMES = {
    **{(module, "_reconstruct"): "reconstruct" for module in _ARRAY_MODULES},
    **{(module, "scalar"): "scalar" for module in _ARRAY_MODULES},
    **{(module, "_frombuffer"): "frombuffer" for module in _NUMERIC_MODULES},
    ("numpy", "ndarray"): "ndarray",
    ("numpy", "dtype"): "dtype",
    ("_codecs", "encode"): "encode",
    ("builtins", "bytes"): "bytes",
    ("__builtin__", "bytes"): "bytes",
    ("collections", "OrderedDict"): "OrderedDict",
}
_DTYPE = re.compile(r"[biufcSUO]\d{0,6}|\?")
PLAIN = (str, bytes, int, float, complex, bool)


class Refused(Exception):
    """Why a file is not read; becomes an AffuseError with the file's name."""


@dataclass(frozen=True)
class Name:
    """What the file calls by name; a word, not the thing."""

    word: str


@dataclass(frozen=True)
class Span:
    """Bytes that were left in the file, and the encoding if they are text."""

    offset: int
    size: int
    encoding: str = ""


@dataclass
class DType:
    """A dtype; its byte order comes with a later instruction."""

    kind: str
    order: str = "|"

    def made(self) -> np.dtype[Any]:
        try:
            return np.dtype(self.kind if self.order in "|=" else self.order + self.kind)
        except TypeError:
            raise Refused(f"an unknown dtype {self.kind!r}") from None


class Pending:
    """An array before its state; replaced by the array wherever it stands, at the end."""

    array: Any = None


class _Scratch:
    """A temporary file that is not held open, and goes when nothing that lies in it is left."""

    def __init__(self) -> None:
        handle, name = tempfile.mkstemp(prefix="affuse-", suffix=".arrays")
        os.close(handle)
        self.path = Path(name)
        weakref.finalize(self, _remove, self.path, os.getpid())

    def __reduce__(self) -> Any:
        return type(None), ()  # whoever sends arrays to a worker keeps the file

    def __copy__(self) -> _Scratch:
        return self

    def __deepcopy__(self, _: Any) -> _Scratch:
        return self


def _remove(path: Path, owner: int) -> None:
    if os.getpid() == owner:  # a worker that was forked off has the same objects, and not the file
        path.unlink(missing_ok=True)


class Arrays:
    """Makes the arrays and the long texts of one file, and bounds what may be made.

    Args:
        path: the file.
        file: the same, open; its place is left where it was.
        size: its bytes.
    """

    def __init__(self, path: Path, file: BinaryIO, size: int) -> None:
        self.path, self.file = path, file
        # Bytes that may be made from others: what is recalled and made again costs again.
        self.budget = 2 * size + 2**24
        self.long: dict[int, Any] = {}  # what long spans turned out to be, by place
        self.scratch: _Scratch | None = None

    def spend(self, count: int) -> None:
        self.budget -= count
        if self.budget < 0:
            raise Refused("it makes far more than it holds: this is no feature file")

    def dtype_state(self, target: DType, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) < 8 or any(part is not None for part in state[2:5]):
            raise Refused("a dtype with fields, or without a state that numpy writes")
        if state[1] not in ("<", ">", "|", "=", b"<", b">", b"|", b"="):
            raise Refused(f"a dtype of unknown byte order {state[1]!r}")
        target.order = state[1].decode() if isinstance(state[1], bytes) else state[1]
        if target.kind in ("S", "U"):
            width = _count(state[5]) // (4 if target.kind == "U" else 1)
            target.kind += str(width)

    def array_state(self, target: Pending, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) not in (4, 5) or not isinstance(state[-3], DType):
            raise Refused("an array without a state that numpy writes")
        target.array = self.array(state[-1], state[-3], state[-4], bool(state[-2]))

    def array(self, data: Any, dtype: DType, shape: Any, fortran: bool) -> Any:
        if not isinstance(shape, tuple) or len(shape) > 32:
            raise Refused("an array without a shape")
        sizes = tuple(_count(size) for size in shape)
        if dtype.kind[0] == "O":
            self.spend(8 * math.prod(sizes))
            return _objects(data, sizes, fortran)
        made = dtype.made()
        needed = math.prod(sizes) * made.itemsize
        if isinstance(data, str):
            self.spend(len(data))
            data = data.encode("latin-1", "replace")
        held = data.size if isinstance(data, Span) else len(data) if isinstance(data, bytes) else -1
        keep = None
        path = self.path
        if isinstance(data, Span) and data.encoding == "utf-8":
            data, held, keep = self.unwrapped(data)
            path = keep.path
        if held != needed:
            raise Refused(f"an array of shape {sizes} and dtype {made} needs {needed} bytes, the file gives {held}")
        if isinstance(data, bytes):
            return StoredArray(path, 0, made, sizes, fortran, data=data)
        return StoredArray(path, data.offset, made, sizes, fortran, keep=keep)

    def unwrapped(self, span: Span) -> tuple[Span, int, _Scratch]:
        """Bytes that protocol 2 wrote as text (latin-1 in UTF-8), to the end of a temporary file, block by block."""
        if span.offset in self.long:
            return self.long[span.offset]  # type: ignore[no-any-return]
        place = self.file.tell()
        decoder = codecs.getincrementaldecoder("utf-8")()
        self.scratch = self.scratch or _Scratch()
        self.file.seek(span.offset)
        left = span.size
        try:
            with self.scratch.path.open("ab") as out:
                start = out.tell()
                while left:
                    block = self.file.read(min(left, 2**22))
                    left -= len(block)
                    out.write(decoder.decode(block, final=not left).encode("latin-1"))
                size = out.tell() - start
        except UnicodeError:
            raise Refused(f"the bytes at {span.offset} are not what protocol 2 writes: damaged; copy again") from None
        self.file.seek(place)
        self.long[span.offset] = Span(start, size), size, self.scratch
        return self.long[span.offset]  # type: ignore[no-any-return]

    def long_text(self, span: Span) -> str | bytes:
        """Text or bytes that turned out to be no array's."""
        if span.offset not in self.long:
            if span.size > _MAX_TEXT:
                raise Refused(f"text of {span.size} bytes")
            place = self.file.tell()
            self.file.seek(span.offset)
            data = self.file.read(span.size)
            self.file.seek(place)
            self.long[span.offset] = decoded(data, span.encoding, span.offset + span.size) if span.encoding else data
        return self.long[span.offset]  # type: ignore[no-any-return]

    def plain(self, item: Any) -> Any:
        """A plain value or an array. Deeper containers in a tuple, and tuples in tuples, are in no feature file."""
        if isinstance(item, Pending):
            if item.array is None:
                raise Refused("an array without content")
            return item.array
        if isinstance(item, Span):
            return self.long_text(item)
        if item is not None and not isinstance(item, PLAIN):
            raise Refused("it holds what is neither an array nor a plain value")
        return item


def decoded(data: bytes, encoding: str, place: int) -> str:
    """Text; `place` is where it ends in the file."""
    try:
        return data.decode(encoding, "surrogatepass" if encoding == "utf-8" else "strict")
    except UnicodeDecodeError:
        raise Refused(f"text before byte {place} is not UTF-8: damaged; copy it again") from None


def _count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**40:
        raise Refused(f"a size of {value!r}"[:100])
    return value


def _objects(data: Any, shape: tuple[int, ...], fortran: bool) -> Any:
    """An array of objects, if all of them are plain: what pandas' and numpy's text columns are."""
    if not isinstance(data, list) or len(data) != math.prod(shape):
        raise Refused("an array of objects without its objects")
    if not all(item is None or isinstance(item, PLAIN) for item in data):
        raise Refused("an array of objects that are neither text nor numbers")
    array = np.empty(len(data), dtype=object)
    array[:] = data
    return array.reshape(shape, order="F" if fortran else "C")


# The words that a file may call, and what is done in their place


def _reconstruct(arrays: Arrays, kind: Any = None, *_: Any) -> Pending:
    if kind != Name("ndarray"):
        raise Refused("an array of another class than numpy's own")
    return Pending()


def _dtype(arrays: Arrays, kind: Any = None, *_: Any) -> DType:
    kind = kind.decode("latin-1") if isinstance(kind, bytes) else kind
    if not isinstance(kind, str) or not _DTYPE.fullmatch(kind):
        raise Refused(f"a dtype {str(kind)[:40]!r}: only numbers, booleans and text are read")
    return DType(kind)


def _frombuffer(
    arrays: Arrays, data: Any = None, dtype: Any = None, shape: Any = None, order: Any = "C", *_: Any
) -> Any:
    if not isinstance(dtype, DType) or order not in ("C", "F") or dtype.kind[0] == "O":
        raise Refused("an array without a dtype or an order")
    pending = Pending()
    pending.array = arrays.array(data, dtype, shape, order == "F")
    return pending


def _scalar(arrays: Arrays, dtype: Any = None, data: Any = None, *_: Any) -> Any:
    if not isinstance(dtype, DType) or dtype.kind[0] == "O":
        raise Refused("a number without a dtype")
    array = arrays.array(data, dtype, (), False)
    arrays.spend(array.nbytes)
    return array.read().item()


def _encode(arrays: Arrays, text: Any = None, encoding: Any = "latin1", *_: Any) -> Any:
    if encoding not in ("latin1", "latin-1"):
        raise Refused(f"text in the encoding {str(encoding)[:20]!r}")
    if isinstance(text, Span):
        return text
    try:
        arrays.spend(len(text))
        return text.encode("latin-1")
    except (AttributeError, TypeError, UnicodeEncodeError):
        raise Refused("bytes that are no bytes") from None


def _no_bytes(arrays: Arrays, *arguments: Any) -> bytes:
    if arguments:
        raise Refused("bytes made of something")
    return b""


def _ordered(arrays: Arrays, *arguments: Any) -> dict[Any, Any]:
    if arguments:
        raise Refused("an OrderedDict made of something")
    return {}


def not_called(arrays: Arrays, *_: Any) -> NoReturn:
    raise Refused("it calls what numpy's pickles never call")


CALLS: dict[str, Callable[..., Any]] = {
    "reconstruct": _reconstruct,
    "dtype": _dtype,
    "frombuffer": _frombuffer,
    "scalar": _scalar,
    "encode": _encode,
    "bytes": _no_bytes,
    "OrderedDict": _ordered,
}
