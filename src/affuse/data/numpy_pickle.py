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

The stack machine is here, what it may make in `affuse.data.pickled_arrays`. Instructions: Python's ``pickletools``.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, BinaryIO

from affuse.data.pickled_arrays import (
    CALLS,
    NAMES,
    PLAIN,
    Arrays,
    DType,
    Name,
    Pending,
    Refused,
    Span,
    decoded,
    not_called,
)
from affuse.types import AffuseError

LFS_HEAD = b"version https://git-lfs.github.com/spec/"
MAX_OBJECTS = 5_000_000  # MOSEI has about 70,000
_INLINE = 4096  # shorter byte strings are held in memory
_MAX_LONG = 64  # bytes of a whole number


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
    except Refused as refused:
        raise AffuseError(f"{path}: refused: {refused}") from None
    except OSError as error:
        raise AffuseError(f"{path}: cannot be read ({error.strerror or error})") from None


class _Machine:
    """The stack machine that a pickle is written for, without its power to call."""

    def __init__(self, path: Path, file: BinaryIO, size: int) -> None:
        self.file, self.size = file, size
        self.arrays = Arrays(path, file, size)
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.objects = 0

    def run(self) -> Any:
        while True:
            code = self.take(1)
            if code == b".":
                return self.settle(self.pop())
            action = _ACTIONS.get(code)
            if action is None:
                raise Refused(
                    f"instruction {code!r} at byte {self.file.tell() - 1}: only plain containers and numpy arrays, "
                    "written with protocol 2 to 5, are read"
                )
            action(self)

    # What the file gives

    def take(self, count: int) -> bytes:
        data = self.file.read(count)
        if len(data) != count:
            raise Refused(f"it ends in the middle, after {self.size} bytes; copy it again")
        return data

    def number(self, form: str) -> int:
        return int(struct.unpack(form, self.take(struct.calcsize(form)))[0])

    def claim(self, count: int) -> int:
        """The length of something that follows, if the file has as much."""
        left = self.size - self.file.tell()
        if not 0 <= count <= left:
            raise Refused(f"it claims {count} bytes where {left} are left: damaged or cut short; copy it again")
        return count

    def span(self, count: int, encoding: str = "") -> Span:
        offset = self.file.tell()
        self.file.seek(self.claim(count), 1)
        return Span(offset, count, encoding)

    def line(self) -> str:
        data = self.file.readline(512)
        if not data.endswith(b"\n"):
            raise Refused("a name without an end")
        return data[:-1].decode("ascii", "replace")

    # The stack

    def push(self, value: Any) -> None:
        self.objects += 1
        if self.objects > MAX_OBJECTS:
            raise Refused(f"more than {MAX_OBJECTS} objects: this is no feature file")
        self.stack.append(value)

    def pop(self) -> Any:
        if not self.stack or (self.marks and len(self.stack) <= self.marks[-1]):
            raise Refused(f"its instructions do not fit together (byte {self.file.tell()})")
        return self.stack.pop()

    def top(self, kind: type) -> Any:
        value = self.pop()
        if not isinstance(value, kind):
            raise Refused(f"its instructions do not fit together (byte {self.file.tell()})")
        self.stack.append(value)
        return value

    def since_mark(self) -> list[Any]:
        if not self.marks:
            raise Refused(f"its instructions do not fit together (byte {self.file.tell()})")
        mark = self.marks.pop()
        items = self.stack[mark:]
        del self.stack[mark:]
        return items

    # Values

    def bytes_of(self, count: int) -> None:
        self.push(self.take(count) if self.claim(count) <= _INLINE else self.span(count))

    def text_of(self, count: int) -> None:
        short = self.claim(count) <= _INLINE
        self.push(self.decoded(count, "utf-8") if short else self.span(count, "utf-8"))

    def old_text_of(self, count: int) -> None:
        """A string of Python 2: the bytes of an array, or text."""
        short = self.claim(count) <= _INLINE
        self.push(self.decoded(count, "latin-1") if short else self.span(count, "latin-1"))

    def decoded(self, count: int, encoding: str) -> str:
        return decoded(self.take(count), encoding, self.file.tell())

    def whole_number(self, count: int) -> None:
        if not 0 <= count <= _MAX_LONG:
            raise Refused(f"a whole number of {count} bytes")
        self.push(int.from_bytes(self.take(count), "little", signed=True))

    def name(self, module: Any, name: Any) -> None:
        word = NAMES.get((module, name)) if isinstance(module, str) and isinstance(name, str) else None
        if word is None:
            raise Refused(f"it names {f'{module}.{name}'[:100]!r}, which is neither a numpy array nor a container")
        self.push(Name(word))

    def remember(self, index: int) -> None:
        value = self.pop()
        self.stack.append(value)
        self.memo[index] = value

    def recall(self, index: int) -> None:
        if index not in self.memo:
            raise Refused(f"it recalls what it never kept (byte {self.file.tell()})")
        self.push(self.memo[index])

    # Containers

    def append(self, items: Iterable[Any]) -> None:
        self.top(list).extend(items)

    def set_items(self, items: list[Any]) -> None:
        self.top(dict).update(_pairs(items))

    # Arrays

    def reduce(self) -> None:
        arguments, function = self.pop(), self.pop()
        if not isinstance(function, Name) or not isinstance(arguments, tuple):
            raise Refused("it calls what is no name")
        made = CALLS.get(function.word, not_called)(self.arrays, *arguments[:8])
        self.push(made)

    def build(self) -> None:
        state, target = self.pop(), self.pop()
        if isinstance(target, DType):
            self.arrays.dtype_state(target, state)
        elif isinstance(target, Pending):
            self.arrays.array_state(target, state)
        else:
            raise Refused("it sets the state of what is no array")
        self.stack.append(target)

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
                    container[key] = (
                        tuple(map(self.arrays.plain, item)) if isinstance(item, tuple) else self.arrays.plain(item)
                    )
        return box[0]


def _pairs(items: list[Any]) -> dict[Any, Any]:
    if len(items) % 2:
        raise Refused("a dict with a key and no value")
    for key in items[::2]:
        if key is not None and not isinstance(key, PLAIN):
            raise Refused("a dict whose keys are neither text nor numbers")
    return dict(zip(items[::2], items[1::2], strict=True))


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
