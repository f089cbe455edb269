"""An array that stays in its file: rows are read when they are asked for.

Feature files of the field hold arrays of many gigabytes. A memory map would count every page that was ever touched as memory
of the process; reading the rows of one sample keeps it at that sample, and the system's file cache makes the second reading
fast all the same. It holds no open file, so that worker processes may have it too.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from affuse.types import AffuseError

_BLOCK_BYTES = 32 * 2**20


class StoredArray:
    """An array (n, ...) by its place in a file, or by its few bytes.

    Args:
        path: the file.
        offset: where the first number stands, bytes.
        dtype: numbers, booleans, or strings of fixed length; never objects.
        shape: any.
        fortran: whether the first axis runs fastest.
        data: the bytes themselves, where they are few; then `offset` means nothing.
        keep: held for as long as the array is, such as the temporary file that it lies in.
    """

    def __init__(
        self,
        path: str | Path,
        offset: int,
        dtype: np.dtype[Any],
        shape: tuple[int, ...],
        fortran: bool = False,
        data: bytes | None = None,
        keep: Any = None,
    ) -> None:
        if dtype.hasobject:
            raise AffuseError(f"{path}: an array of Python objects where numbers were expected")
        self.path, self.offset, self.dtype, self.shape, self.fortran = Path(path), offset, dtype, shape, fortran
        self._data, self._keep = data, keep

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def __getitem__(self, row: int) -> Any:
        """One row (...), a copy; a number where the array has one axis."""
        return self.rows(row, row + 1)[0]

    def read(self) -> NDArray[Any]:
        """All of it, a copy in memory."""
        return self._whole() if self._data is not None or not self.shape else self.rows(0, len(self))

    def without_axis(self, axis: int) -> StoredArray:
        """The same array without an axis of size 1, unread."""
        if self.shape[axis] != 1:
            raise ValueError(f"axis {axis} of {self.shape} is not of size 1")
        shape = self.shape[:axis] + self.shape[axis + 1 :]
        return StoredArray(self.path, self.offset, self.dtype, shape, self.fortran, self._data, self._keep)

    def rows(self, start: int, stop: int) -> NDArray[Any]:
        """Rows [start, stop), a copy.

        Raises:
            IndexError: rows that the array does not have.
            AffuseError: the file is gone, or shorter than it was.
        """
        if not 0 <= start <= stop <= len(self):
            raise IndexError(f"rows {start} to {stop} of an array of {len(self)}")
        if self._data is not None:
            return self._whole()[start:stop].copy()
        shape = (stop - start, *self.shape[1:])
        try:
            if self.fortran:
                # A row is spread over the whole array: the pages between are touched, but belong to the file cache.
                mapped = np.memmap(self.path, self.dtype, "r", self.offset, self.shape, order="F")
                return np.array(mapped[start:stop])
            row_bytes = math.prod(self.shape[1:]) * self.dtype.itemsize
            count = math.prod(shape)
            found = np.fromfile(self.path, self.dtype, count, offset=self.offset + start * row_bytes)
        except (OSError, ValueError) as error:
            raise AffuseError(f"{self.path}: cannot be read any more ({error}); was it moved or changed?") from None
        if len(found) != count:
            raise AffuseError(f"{self.path}: shorter than it was when it was opened; was it changed?")
        return found.reshape(shape)

    def blocks(self) -> Iterator[tuple[int, NDArray[Any]]]:
        """The index of its first row and the rows, block by block, in bounded memory."""
        row_bytes = max(1, math.prod(self.shape[1:]) * self.dtype.itemsize)
        rows = max(1, _BLOCK_BYTES // row_bytes)
        for start in range(0, len(self), rows):
            yield start, self.rows(start, min(start + rows, len(self)))

    def _whole(self) -> NDArray[Any]:
        if self._data is None:  # no axis: a single number in the file
            return np.fromfile(self.path, self.dtype, 1, offset=self.offset).reshape(self.shape)
        flat = np.frombuffer(self._data, self.dtype)
        return (flat.reshape(self.shape[::-1]).T if self.fortran else flat.reshape(self.shape)).copy(order="C")
