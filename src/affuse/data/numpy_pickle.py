"""Feature files that were written with pickle, read without pickle.

A pickle is a program; Python's reader runs it, and so a file can run anything. This reader interprets the few instructions
that plain containers, text, numbers and numpy arrays need (protocols 2 to 5, of Python 2 and 3, numpy 1 and 2), and it never
calls, imports or constructs what a file names: the names that numpy's pickles use are known here as words, and any other
name, and any instruction that belongs to protocols 0 and 1 alone or builds objects, is refused. What comes back is made of
dict, list, tuple, str, bytes, int, float, complex, bool and None, of `StoredArray`, and of numpy arrays of such values where
the file had arrays of objects.

Arrays are not loaded: their bytes lie in the file as they are, and `StoredArray` remembers where. (Protocol 2 of Python 3
writes bytes as text; such an array is decoded into a temporary file beside the system's others.)

Memory is bounded by the file: what an instruction claims is compared with what the file still has, objects are counted, and
keys of a dict are text or numbers (a nest of tuples can take exponential time to hash).

Instructions: Python's ``pickletools``; array states: ``ndarray.__reduce__`` and ``numpy.dtype.__reduce__``.
"""

from __future__ import annotations

import codecs
import math
import re
import struct
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import numpy as np

from affuse.data.stored_array import StoredArray
from affuse.types import AffuseError

LFS_HEAD = b"version https://git-lfs.github.com/spec/"
MAX_OBJECTS = 5_000_000  # MOSEI has about 70,000
_INLINE = 4096  # shorter byte strings are held in memory
_MAX_TEXT = 64 * 2**20
_MAX_LONG = 64  # bytes of a whole number
_ARRAY_MODULES = ("numpy.core.multiarray", "numpy._core.multiarray")
_NUMERIC_MODULES = ("numpy.core.numeric", "numpy._core.numeric")
_NAMES = {
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
_PLAIN = (str, bytes, int, float, complex, bool)


class _Refused(Exception):
    """Why a file is not read; becomes an AffuseError with the file's name."""


@dataclass(frozen=True)
class _Name:
    """What the file calls by name; a word, not the thing."""

    word: str


@dataclass(frozen=True)
class _Span:
    """Bytes that were left in the file, and the encoding if they are text."""

    offset: int
    size: int
    encoding: str = ""


@dataclass
class _DType:
    """A dtype; its byte order comes with a later instruction."""

    kind: str
    order: str = "|"

    def made(self) -> np.dtype[Any]:
        try:
            return np.dtype(self.kind if self.order in "|=" else self.order + self.kind)
        except TypeError:
            raise _Refused(f"an unknown dtype {self.kind!r}") from None


class _Pending:
    """An array before its state; replaced by the array wherever it stands, at the end."""

    array: Any = None


def load_numpy_pickle(path: str | Path) -> Any:
    """Read a pickle of plain containers and numpy arrays; nothing in it is run.

    Args:
        path: the file.

    Returns:
        The object, its arrays as `StoredArray` (in the file) or, of objects, as a numpy array of plain values.

    Raises:
        AffuseError: no such file; a Git LFS pointer; no pickle; cut short; it names what is not a numpy array or a plain
            container; it claims more than the file holds.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(len(LFS_HEAD))
            if head == LFS_HEAD:
                raise AffuseError(f"{path}: a Git LFS pointer, not the file: run 'git lfs pull' where it came from")
            if size == 0:
                raise AffuseError(f"{path}: empty; copy it again")
            if head[:1] != b"\x80" or head[1:2] not in (b"\x02", b"\x03", b"\x04", b"\x05"):
                raise AffuseError(f"{path}: not a pickle of protocol 2 to 5 (it starts with {head[:8]!r})")
            file.seek(2)
            return _Machine(path, file, size).run()
    except _Refused as refused:
        raise AffuseError(f"{path}: refused: {refused}") from None
    except OSError as error:
        raise AffuseError(f"{path}: cannot be read ({error.strerror or error})") from None


class _Machine:
    """The stack machine that a pickle is written for, without its power to call."""

    def __init__(self, path: Path, file: BinaryIO, size: int) -> None:
        self.path, self.file, self.size = path, file, size
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.objects = 0
        self.budget = (
            2 * size + 2**24
        )  # bytes that may be made from others: what is recalled and made again costs again
        self.long: dict[int, Any] = {}  # what long spans turned out to be, by place

    def run(self) -> Any:
        while True:
            code = self.take(1)
            if code == b".":
                return self.settle(self.pop())
            action = _ACTIONS.get(code)
            if action is None:
                raise _Refused(
                    f"instruction {code!r} at byte {self.file.tell() - 1}: only plain containers and numpy arrays, "
                    "written with protocol 2 to 5, are read"
                )
            action(self)

    # What the file gives

    def take(self, count: int) -> bytes:
        data = self.file.read(count)
        if len(data) != count:
            raise _Refused(f"it ends in the middle, after {self.size} bytes; copy it again")
        return data

    def number(self, form: str) -> int:
        return int(struct.unpack(form, self.take(struct.calcsize(form)))[0])

    def claim(self, count: int) -> int:
        """The length of something that follows, if the file has as much."""
        left = self.size - self.file.tell()
        if not 0 <= count <= left:
            raise _Refused(f"it claims {count} bytes where {left} are left: damaged or cut short; copy it again")
        return count

    def span(self, count: int, encoding: str = "") -> _Span:
        offset = self.file.tell()
        self.file.seek(self.claim(count), 1)
        return _Span(offset, count, encoding)

    def spend(self, count: int) -> None:
        self.budget -= count
        if self.budget < 0:
            raise _Refused("it makes far more than it holds: this is no feature file")

    def line(self) -> str:
        data = self.file.readline(512)
        if not data.endswith(b"\n"):
            raise _Refused("a name without an end")
        return data[:-1].decode("ascii", "replace")

    # The stack

    def push(self, value: Any) -> None:
        self.objects += 1
        if self.objects > MAX_OBJECTS:
            raise _Refused(f"more than {MAX_OBJECTS} objects: this is no feature file")
        self.stack.append(value)

    def pop(self) -> Any:
        if not self.stack or (self.marks and len(self.stack) <= self.marks[-1]):
            raise _Refused(f"its instructions do not fit together (byte {self.file.tell()})")
        return self.stack.pop()

    def top(self, kind: type) -> Any:
        value = self.pop()
        if not isinstance(value, kind):
            raise _Refused(f"its instructions do not fit together (byte {self.file.tell()})")
        self.stack.append(value)
        return value

    def since_mark(self) -> list[Any]:
        if not self.marks:
            raise _Refused(f"its instructions do not fit together (byte {self.file.tell()})")
        mark = self.marks.pop()
        items = self.stack[mark:]
        del self.stack[mark:]
        return items

    # Values

    def bytes_of(self, count: int) -> None:
        self.push(self.take(count) if self.claim(count) <= _INLINE else self.span(count))

    def text_of(self, count: int) -> None:
        short = self.claim(count) <= _INLINE
        self.push(self.decoded(self.take(count), "utf-8") if short else self.span(count, "utf-8"))

    def old_text_of(self, count: int) -> None:
        """A string of Python 2: the bytes of an array, or text."""
        short = self.claim(count) <= _INLINE
        self.push(self.decoded(self.take(count), "latin-1") if short else self.span(count, "latin-1"))

    def decoded(self, data: bytes, encoding: str) -> str:
        try:
            return data.decode(encoding, "surrogatepass" if encoding == "utf-8" else "strict")
        except UnicodeDecodeError:
            raise _Refused(f"text before byte {self.file.tell()} is not UTF-8: damaged; copy it again") from None

    def whole_number(self, count: int) -> None:
        if not 0 <= count <= _MAX_LONG:
            raise _Refused(f"a whole number of {count} bytes")
        self.push(int.from_bytes(self.take(count), "little", signed=True))

    def name(self, module: Any, name: Any) -> None:
        word = _NAMES.get((module, name)) if isinstance(module, str) and isinstance(name, str) else None
        if word is None:
            raise _Refused(f"it names {f'{module}.{name}'[:100]!r}, which is neither a numpy array nor a container")
        self.push(_Name(word))

    def remember(self, index: int) -> None:
        value = self.pop()
        self.stack.append(value)
        self.memo[index] = value

    def recall(self, index: int) -> None:
        if index not in self.memo:
            raise _Refused(f"it recalls what it never kept (byte {self.file.tell()})")
        self.push(self.memo[index])

    # Containers

    def append(self, items: Iterable[Any]) -> None:
        self.top(list).extend(items)

    def set_items(self, items: list[Any]) -> None:
        self.top(dict).update(_pairs(items))

    # Arrays

    def reduce(self) -> None:
        arguments, function = self.pop(), self.pop()
        if not isinstance(function, _Name) or not isinstance(arguments, tuple):
            raise _Refused("it calls what is no name")
        made = _CALLS.get(function.word, _not_called)(self, *arguments[:8])
        self.push(made)

    def build(self) -> None:
        state, target = self.pop(), self.pop()
        if isinstance(target, _DType):
            self._dtype_state(target, state)
        elif isinstance(target, _Pending):
            self._array_state(target, state)
        else:
            raise _Refused("it sets the state of what is no array")
        self.stack.append(target)

    def _dtype_state(self, target: _DType, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) < 8 or any(part is not None for part in state[2:5]):
            raise _Refused("a dtype with fields, or without a state that numpy writes")
        if state[1] not in ("<", ">", "|", "=", b"<", b">", b"|", b"="):
            raise _Refused(f"a dtype of unknown byte order {state[1]!r}")
        target.order = state[1].decode() if isinstance(state[1], bytes) else state[1]
        if target.kind in ("S", "U"):
            width = _count(state[5]) // (4 if target.kind == "U" else 1)
            target.kind += str(width)

    def _array_state(self, target: _Pending, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) not in (4, 5) or not isinstance(state[-3], _DType):
            raise _Refused("an array without a state that numpy writes")
        target.array = self._array(state[-1], state[-3], state[-4], bool(state[-2]))

    def _array(self, data: Any, dtype: _DType, shape: Any, fortran: bool) -> Any:
        if not isinstance(shape, tuple) or len(shape) > 32:
            raise _Refused("an array without a shape")
        sizes = tuple(_count(size) for size in shape)
        if dtype.kind[0] == "O":
            self.spend(8 * math.prod(sizes))
            return _objects(data, sizes, fortran)
        made = dtype.made()
        needed = math.prod(sizes) * made.itemsize
        if isinstance(data, str):
            self.spend(len(data))
            data = data.encode("latin-1", "replace")
        held = data.size if isinstance(data, _Span) else len(data) if isinstance(data, bytes) else -1
        keep = None
        path = self.path
        if isinstance(data, _Span) and data.encoding == "utf-8":
            data, held, keep = self._unwrapped(data)
            path = Path(keep.name)
        if held != needed:
            raise _Refused(f"an array of shape {sizes} and dtype {made} needs {needed} bytes, the file gives {held}")
        if isinstance(data, bytes):
            return StoredArray(path, 0, made, sizes, fortran, data=data)
        return StoredArray(path, data.offset, made, sizes, fortran, keep=keep)

    def _unwrapped(self, span: _Span) -> tuple[_Span, int, Any]:
        """Bytes that protocol 2 wrote as text (latin-1 in UTF-8), into a temporary file, block by block."""
        if span.offset in self.long:
            return self.long[span.offset]  # type: ignore[no-any-return]
        place = self.file.tell()
        decoder = codecs.getincrementaldecoder("utf-8")()
        out = tempfile.NamedTemporaryFile(prefix="affuse-", suffix=".array")  # noqa: SIM115  (lives with the array)
        self.file.seek(span.offset)
        left = span.size
        try:
            while left:
                block = self.file.read(min(left, 2**22))
                left -= len(block)
                out.write(decoder.decode(block, final=not left).encode("latin-1"))
        except UnicodeError:
            raise _Refused(f"the bytes at {span.offset} are not what protocol 2 writes: damaged; copy again") from None
        out.flush()
        self.file.seek(place)
        self.long[span.offset] = _Span(0, out.tell()), out.tell(), out
        return self.long[span.offset]  # type: ignore[no-any-return]

    def _long_text(self, span: _Span) -> str | bytes:
        """Text or bytes that turned out to be no array's."""
        if span.offset not in self.long:
            if span.size > _MAX_TEXT:
                raise _Refused(f"text of {span.size} bytes")
            self.file.seek(span.offset)
            data = self.take(span.size)
            self.long[span.offset] = self.decoded(data, span.encoding) if span.encoding else data
        return self.long[span.offset]  # type: ignore[no-any-return]

    # The end

    def settle(self, value: Any) -> Any:
        """`value` with every array in its place; containers are changed where they are, without recursion."""
        box = [value]
        seen: set[int] = set()
        waiting: list[Any] = [box]
        while waiting:
            container = waiting.pop()
            if id(container) in seen:
                continue
            seen.add(id(container))
            for key, item in list(container.items()) if isinstance(container, dict) else list(enumerate(container)):
                if isinstance(item, dict | list):
                    waiting.append(item)
                else:
                    container[key] = tuple(map(self._plain, item)) if isinstance(item, tuple) else self._plain(item)
        return box[0]

    def _plain(self, item: Any) -> Any:
        """A plain value or an array. Deeper containers in a tuple, and tuples in tuples, are in no feature file."""
        if isinstance(item, _Pending):
            if item.array is None:
                raise _Refused("an array without content")
            return item.array
        if isinstance(item, _Span):
            return self._long_text(item)
        if item is not None and not isinstance(item, _PLAIN):
            raise _Refused("it holds what is neither an array nor a plain value")
        return item


def _pairs(items: list[Any]) -> dict[Any, Any]:
    if len(items) % 2:
        raise _Refused("a dict with a key and no value")
    for key in items[::2]:
        if key is not None and not isinstance(key, _PLAIN):
            raise _Refused("a dict whose keys are neither text nor numbers")
    return dict(zip(items[::2], items[1::2], strict=True))


def _count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**40:
        raise _Refused(f"a size of {value!r}"[:100])
    return value


def _objects(data: Any, shape: tuple[int, ...], fortran: bool) -> Any:
    """An array of objects, if all of them are plain: what pandas' and numpy's text columns are."""
    if not isinstance(data, list) or len(data) != math.prod(shape):
        raise _Refused("an array of objects without its objects")
    if not all(item is None or isinstance(item, _PLAIN) for item in data):
        raise _Refused("an array of objects that are neither text nor numbers")
    array = np.empty(len(data), dtype=object)
    array[:] = data
    return array.reshape(shape, order="F" if fortran else "C")


# The words that a file may call, and what is done in their place


def _reconstruct(machine: _Machine, kind: Any = None, *_: Any) -> _Pending:
    if kind != _Name("ndarray"):
        raise _Refused("an array of another class than numpy's own")
    return _Pending()


def _dtype(machine: _Machine, kind: Any = None, *_: Any) -> _DType:
    kind = kind.decode("latin-1") if isinstance(kind, bytes) else kind
    if not isinstance(kind, str) or not _DTYPE.fullmatch(kind):
        raise _Refused(f"a dtype {str(kind)[:40]!r}: only numbers, booleans and text are read")
    return _DType(kind)


def _frombuffer(machine: _Machine, data: Any = None, dtype: Any = None, shape: Any = None, order: Any = "C") -> Any:
    if not isinstance(dtype, _DType) or order not in ("C", "F") or dtype.kind[0] == "O":
        raise _Refused("an array without a dtype or an order")
    pending = _Pending()
    pending.array = machine._array(data, dtype, shape, order == "F")
    return pending


def _scalar(machine: _Machine, dtype: Any = None, data: Any = None) -> Any:
    if not isinstance(dtype, _DType) or dtype.kind[0] == "O":
        raise _Refused("a number without a dtype")
    array = machine._array(data, dtype, (), False)
    machine.spend(array.nbytes)
    return array.read().item()


def _encode(machine: _Machine, text: Any = None, encoding: Any = "latin1") -> Any:
    if encoding not in ("latin1", "latin-1"):
        raise _Refused(f"text in the encoding {str(encoding)[:20]!r}")
    if isinstance(text, _Span):
        return text
    try:
        machine.spend(len(text))
        return text.encode("latin-1")
    except (AttributeError, TypeError, UnicodeEncodeError):
        raise _Refused("bytes that are no bytes") from None


def _no_bytes(machine: _Machine, *arguments: Any) -> bytes:
    if arguments:
        raise _Refused("bytes made of something")
    return b""


def _ordered(machine: _Machine, *arguments: Any) -> dict[Any, Any]:
    if arguments:
        raise _Refused("an OrderedDict made of something")
    return {}


def _not_called(machine: _Machine, *_: Any) -> NoReturn:
    raise _Refused("it calls what numpy's pickles never call")


_CALLS: dict[str, Callable[..., Any]] = {
    "reconstruct": _reconstruct,
    "dtype": _dtype,
    "frombuffer": _frombuffer,
    "scalar": _scalar,
    "encode": _encode,
    "bytes": _no_bytes,
    "OrderedDict": _ordered,
}


def _two_names(machine: _Machine) -> None:
    name, module = machine.pop(), machine.pop()
    machine.name(module, name)


def _one_item(machine: _Machine) -> None:
    value, key = machine.pop(), machine.pop()
    machine.set_items([key, value])


def _tuple_of(count: int) -> Callable[[_Machine], None]:
    def make(machine: _Machine) -> None:
        items = [machine.pop() for _ in range(count)]
        machine.push(tuple(reversed(items)))

    return make


def _append_one(machine: _Machine) -> None:
    value = machine.pop()
    machine.append([value])


def _append_all(machine: _Machine) -> None:
    items = machine.since_mark()
    machine.append(items)


_ACTIONS: dict[bytes, Callable[[_Machine], Any]] = {
    b"\x80": lambda m: m.take(1),  # PROTO, again
    b"\x95": lambda m: m.claim(m.number("<Q")),  # FRAME: a hint for buffering
    b"(": lambda m: m.marks.append(len(m.stack)),
    b"0": lambda m: m.pop(),
    b"1": lambda m: m.since_mark(),
    b"2": lambda m: m.push(m.top(object)),
    b"N": lambda m: m.push(None),
    b"\x88": lambda m: m.push(True),
    b"\x89": lambda m: m.push(False),
    b"J": lambda m: m.push(m.number("<i")),
    b"K": lambda m: m.push(m.number("<B")),
    b"M": lambda m: m.push(m.number("<H")),
    b"\x8a": lambda m: m.whole_number(m.number("<B")),
    b"\x8b": lambda m: m.whole_number(m.number("<i")),
    b"G": lambda m: m.push(struct.unpack(">d", m.take(8))[0]),
    b"U": lambda m: m.old_text_of(m.number("<B")),
    b"T": lambda m: m.old_text_of(m.number("<i")),
    b"\x8c": lambda m: m.text_of(m.number("<B")),
    b"X": lambda m: m.text_of(m.number("<I")),
    b"\x8d": lambda m: m.text_of(m.number("<Q")),
    b"C": lambda m: m.bytes_of(m.number("<B")),
    b"B": lambda m: m.bytes_of(m.number("<I")),
    b"\x8e": lambda m: m.bytes_of(m.number("<Q")),
    b"\x96": lambda m: m.bytes_of(m.number("<Q")),  # BYTEARRAY8
    b"\x98": lambda m: None,  # READONLY_BUFFER
    b"q": lambda m: m.remember(m.number("<B")),
    b"r": lambda m: m.remember(m.number("<I")),
    b"\x94": lambda m: m.remember(len(m.memo)),
    b"h": lambda m: m.recall(m.number("<B")),
    b"j": lambda m: m.recall(m.number("<I")),
    b"]": lambda m: m.push([]),
    b"}": lambda m: m.push({}),
    b")": lambda m: m.push(()),
    b"l": lambda m: m.push(m.since_mark()),
    b"d": lambda m: m.push(_pairs(m.since_mark())),
    b"t": lambda m: m.push(tuple(m.since_mark())),
    b"\x85": _tuple_of(1),
    b"\x86": _tuple_of(2),
    b"\x87": _tuple_of(3),
    b"a": _append_one,
    b"e": _append_all,
    b"s": _one_item,
    b"u": lambda m: m.set_items(m.since_mark()),
    b"c": lambda m: m.name(m.line(), m.line()),
    b"\x93": _two_names,
    b"R": lambda m: m.reduce(),
    b"b": lambda m: m.build(),
}
