"""llama.cpp's state of one sequence's cells, from the layout of one kind of attention to that of the other.

Flash attention holds each cell's values in a row, plain attention each value's cells; a context takes up only what is in
its own layout.  Keys lie alike in both.  The format is that of llama.cpp's `llama_kv_cache::state_write`.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from dclocal.errors import BundleError

NUMBER = np.dtype(np.uint32)
ROW = np.dtype(np.uint64)
START = 2  # magic, sequence


def in_layout(state: bytes, flash: bool) -> bytes:
    """`state` in the layout of flash attention, or of plain attention; as it is where it has that.

    Raises BundleError for what is no state of one sequence without more than positions.
    """
    try:
        return b"".join(_parts(memoryview(state), flash))
    except (IndexError, ValueError) as error:
        raise BundleError("this is no state of a language model's cache", "it is evaluated anew") from error


def _parts(state: memoryview, flash: bool) -> Iterator[memoryview | bytes]:
    """The same bytes, but for the layout's mark and each layer's values."""
    reader = _Reader(state)
    reader.numbers(START)
    (streams,) = reader.numbers(1)
    if streams != 1:
        raise ValueError("several streams")
    (cells,) = reader.numbers(1)
    for _ in range(cells):
        _, sequences = reader.numbers(2)
        reader.numbers(sequences)
    if not cells:
        yield state
        return
    mark = reader.place
    transposed, layers = reader.numbers(2)
    if bool(transposed) is not flash:
        yield state
        return
    for _ in range(layers):
        reader.numbers(1)
        reader.skip(cells * reader.row())
    yield state[:mark]
    yield np.array([flash is False, layers], NUMBER).tobytes()
    yield state[mark + 2 * NUMBER.itemsize : reader.place]
    for _ in range(layers):
        yield from _values(reader, cells, flash)
    if reader.place != len(state):
        raise ValueError("more than expected")


def _values(reader: _Reader, cells: int, flash: bool) -> Iterator[bytes]:
    """A layer's values: their type, then a row's bytes, or an element's bytes and how many a cell has."""
    kind = reader.numbers(1)
    size, width = reader.numbers(2) if flash else (0, 0)
    if not flash:
        row = reader.row()
        size = 2 if row % 4 == 0 and kind == [1] else 4 if kind == [0] else 0
        if not size:
            raise ValueError("values of a type that is not laid out by elements")
        width = row // size
    shape = (width, cells) if flash else (cells, width)
    values = np.frombuffer(reader.skip(cells * width * size), f"V{size}").reshape(shape)
    yield np.array(kind, NUMBER).tobytes()
    yield np.array([width * size], ROW).tobytes() if flash else np.array([size, width], NUMBER).tobytes()
    yield np.ascontiguousarray(values.T).tobytes()


class _Reader:
    """Whole numbers and bytes, one after the other; ValueError where there are none left."""

    def __init__(self, data: memoryview):
        self._data, self.place = data, 0

    def skip(self, count: int) -> memoryview:
        """The next bytes."""
        start, self.place = self.place, self.place + count
        if self.place > len(self._data):
            raise ValueError("it ends too soon")
        return self._data[start : self.place]

    def numbers(self, count: int) -> list[int]:
        return np.frombuffer(self.skip(count * NUMBER.itemsize), NUMBER).tolist()

    def row(self) -> int:
        (size,) = np.frombuffer(self.skip(ROW.itemsize), ROW).tolist()
        return int(size)
