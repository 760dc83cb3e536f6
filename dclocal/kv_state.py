"""llama.cpp's state of one sequence's cells, from the layout of one kind of attention to that of the other.

Flash attention holds each cell's values in a row, plain attention each value's cells; a context takes up only what is
in its own layout.  Keys lie alike in both.  The format is that of llama.cpp's `llama_kv_cache::state_write`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from dclocal.errors import BundleError

SIZES = {0: 4, 1: 2}
"""Bytes of an element, by ggml's number of its type: those of types that are not laid out in blocks."""


def in_layout(state: bytes, flash: bool) -> bytes:
    """`state` in the layout of flash attention, or of plain attention; as it is where it has that, or holds no cells.

    Raises BundleError for what is no state of one sequence, or one of a model that keeps more of a cell than its
    position.
    """
    try:
        reader = _Reader(memoryview(state))
        mark, cells = _mark(reader)
        if not cells:
            return state
        transposed, layers = reader.take("II")
        if bool(transposed) is not flash:
            return state
        for _ in range(layers):
            _, row = reader.take("iQ")
            reader.skip(cells * row)
        keys = state[mark + struct.calcsize("=II") : reader.place]
        values = [part for _ in range(layers) for part in _values(reader, cells, flash)]
        if reader.place != len(state):
            raise ValueError("more follows")
    except (struct.error, ValueError) as error:
        raise BundleError("this is no state of a language model's cache", "it is evaluated anew") from error
    return b"".join([state[:mark], struct.pack("=II", not flash, layers), keys, *values])


def _mark(reader: _Reader) -> tuple[int, int]:
    """Where the layout's mark stands, and how many cells there are."""
    _magic, _sequence, streams, cells = reader.take("IiII")
    if streams != 1:
        raise ValueError("several streams")
    for _ in range(cells):
        _position, sequences = reader.take("iI")
        reader.skip(4 * sequences)
    return reader.place, cells


def _values(reader: _Reader, cells: int, flash: bool) -> Iterator[bytes]:
    """A layer's values: their type, then the bytes of a row or, of plain attention, those of an element and how many a
    cell has."""
    import numpy as np

    if flash:
        kind, size, width = reader.take("iII")
    else:
        kind, row = reader.take("iQ")
        size = SIZES.get(kind, 0)
        width = row // size if size else 0
    if SIZES.get(kind) != size:
        raise ValueError("values in blocks")
    shape = (width, cells) if flash else (cells, width)
    values = np.frombuffer(reader.skip(cells * width * size), f"V{size}").reshape(shape)
    yield struct.pack("=iQ", kind, width * size) if flash else struct.pack("=iII", kind, size, width)
    yield values.T.tobytes()


class _Reader:
    """Numbers and bytes, one after the other; ValueError or struct.error where there are none left."""

    def __init__(self, data: memoryview):
        self._data, self.place = data, 0

    def skip(self, count: int) -> memoryview:
        """The next bytes."""
        start, self.place = self.place, self.place + count
        if self.place > len(self._data):
            raise ValueError("it ends too soon")
        return self._data[start : self.place]

    def take(self, kinds: str) -> tuple[int, ...]:
        """The next numbers, as `struct` calls their types, one right behind the other."""
        found = struct.unpack_from(f"={kinds}", self._data, self.place)
        self.place += struct.calcsize(f"={kinds}")
        return found
