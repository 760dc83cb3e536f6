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


def in_layout(state: bytes, flash: bool, first: int | None = None) -> bytes:
    """`state` in the layout of flash attention, or of plain attention, of all cells or the `first` so many; as it is
    where it is that, or holds no cells.

    Raises BundleError for what is no state of one sequence, or one of a model that keeps more of a cell than its
    position.
    """
    try:
        reader = _Reader(memoryview(state))
        magic, sequence, streams, cells = reader.take("IiII")
        if streams != 1:
            raise ValueError("several streams")
        kept = cells if first is None else min(first, cells)
        start = reader.place
        positions, ends = zip(*(_cell(reader) for _ in range(cells))) if cells else ((), ())
        if not cells:
            return state
        if kept < cells and positions[:kept] != tuple(range(kept)):
            raise ValueError("the first cells are not those of the first positions")
        transposed, layers = reader.take("II")
        if bool(transposed) is not flash and kept == cells:
            return state
        parts: list[bytes | memoryview] = [
            struct.pack("=IiII", magic, sequence, streams, kept),
            state[start : ends[kept - 1]],
        ]
        parts.append(struct.pack("=II", not flash, layers))
        for _ in range(layers):
            kind, row = reader.take("iQ")
            parts += [struct.pack("=iQ", kind, row), reader.skip(cells * row)[: kept * row]]
        for _ in range(layers):
            parts += _values(reader, cells, kept, bool(transposed), flash)
        if reader.place != len(state):
            raise ValueError("more follows")
    except (struct.error, ValueError) as error:
        raise BundleError(
            "this is no state of a language model's cache, which could not be taken up", "start anew"
        ) from error
    return b"".join(parts)


def _cell(reader: _Reader) -> tuple[int, int]:
    """A cell's position, and where its part of the state ends."""
    position, sequences = reader.take("iI")
    reader.skip(4 * sequences)
    return position, reader.place


def _values(reader: _Reader, cells: int, kept: int, transposed: bool, flash: bool) -> Iterator[bytes]:
    """A layer's values: their type, then the bytes of a row or, of plain attention, those of an element and how many a
    cell has."""
    import numpy as np

    if transposed:
        kind, size, width = reader.take("iII")
    else:
        kind, row = reader.take("iQ")
        size = SIZES.get(kind, 0)
        width = row // size if size else 0
    if SIZES.get(kind) != size:
        raise ValueError("values in blocks")
    values = np.frombuffer(reader.skip(cells * width * size), f"V{size}")
    by_cell = values.reshape(width, cells).T if transposed else values.reshape(cells, width)
    yield struct.pack("=iQ", kind, width * size) if flash else struct.pack("=iII", kind, size, width)
    yield (by_cell[:kept] if flash else by_cell[:kept].T).tobytes()


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
