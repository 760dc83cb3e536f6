"""Pictures resized by functions of ours, to the same bytes as by Pillow; what they do is in `kernels/pictures`.

Pillow's are compiled for any processor of the last twenty years.  Ours are compared with them to the byte before they
are used; where there are none, Pillow's are.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from dclocal.background import Begun
from dclocal.picture_kernels import library

POINTER, LONG = ctypes.c_void_p, ctypes.c_int64
SUPPORT, POINT, LOW_BITS, GROUP, BYTES = 2.0, 22, 11, 4, 4
"""How far the bicubic filter reaches; bits of a weight behind the point, and of its lower part; pixels that C takes at
a time, and bytes of one, as Pillow has them in memory."""
PIECE_BYTES, STRIP_BYTES = 1 << 24, 1 << 23
"""The most that Pillow has in one piece of memory; how much is resized together of a picture that has more."""
STRIP_PIXELS = 1 << 19
"""What a thread of Pillow's resizes in one go; smaller pictures gain little by a second thread."""
SIZES = (
    ((1920, 40), (336, 40)),
    ((37, 3), (336, 3)),
    ((336, 500), (336, 336)),
    ((336, 5), (336, 90)),
    ((9, 1), (8, 1)),
)
"""Old and new sizes by which they are compared."""


class Weights(NamedTuple):
    """Where each of `n` numbers begins to read, int32 `[n]`, and what it multiplies by, int16 `[n, count]` twice."""

    firsts: np.ndarray
    high: np.ndarray
    low: np.ndarray


class _Weights(ctypes.Structure):
    _fields_ = (("firsts", POINTER), ("high", POINTER), ("low", POINTER), ("count", LONG))


def resize_rows(image: Image.Image, width: int) -> Image.Image:
    """Each row of an RGB picture resized to `width`, bicubic with antialiasing, by two threads."""
    if image.width == width:
        return image
    found = library()
    return _rows_by_pillow(image, width) if found is None else _rows(found, image, width)


def resize_columns(image: Image.Image, height: int) -> Image.Image:
    """Each column resized to `height`, likewise."""
    if image.height == height:
        return image
    found = library()
    if found is None or image.width < GROUP:
        return image.resize((image.width, height), Image.Resampling.BICUBIC)
    return _columns(found, image, height)


@lru_cache(16)
def weights_of(old: int, new: int) -> Weights:
    """Of a line of `old` numbers that becomes one of `new`, in Pillow's order of operations in float64."""
    scale = old / new
    wide = max(scale, 1.0)
    reach = SUPPORT * wide
    centres = (np.arange(new) + 0.5) * scale
    firsts = np.maximum((centres - reach + 0.5).astype(np.int64), 0)
    ends = np.minimum((centres + reach + 0.5).astype(np.int64), old)
    count = -(-int((ends - firsts).max()) // GROUP) * GROUP
    places = np.arange(count)
    found = bicubic((places + firsts[:, None] - centres[:, None] + 0.5) * (1.0 / wide))
    found[places >= (ends - firsts)[:, None]] = 0
    found /= np.add.accumulate(found, axis=1)[:, -1:]  # one after the other, as Pillow adds them
    whole = np.trunc(found * (1 << POINT) + np.where(found < 0, -0.5, 0.5)).astype(np.int32)
    low = whole & ((1 << LOW_BITS) - 1)
    return Weights(firsts.astype(np.int32), (whole >> LOW_BITS).astype(np.int16), low.astype(np.int16))


def bicubic(x: np.ndarray) -> np.ndarray:
    """Keys' filter with a = -1/2, as Pillow has it."""
    a, x = -0.5, np.abs(x)
    near: np.ndarray = ((a + 2.0) * x - (a + 3.0)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, near, np.where(x < 2, far, 0))


def difference(made_library: Path) -> str:
    """Where a function of the library gives other bytes than Pillow, or nothing."""
    ours, random = ctypes.CDLL(str(made_library)), np.random.default_rng(0)
    for (old_width, old_height), (width, height) in SIZES:
        values = random.choice(np.array([0, 1, 127, 254, 255], np.uint8), (old_height, old_width, 3))
        image = Image.fromarray(values)
        made = _rows(ours, image, width) if width != old_width else _columns(ours, image, height)
        theirs = image.resize((width, height), Image.Resampling.BICUBIC)
        if made.tobytes() != theirs.tobytes():
            return f"{old_width}×{old_height} resized to {width}×{height} differs"
    return ""


def _rows(ours: ctypes.CDLL, image: Image.Image, width: int) -> Image.Image:
    """Strip by strip, where Pillow has a picture in pieces."""
    made = np.empty((image.height, width, BYTES), np.uint8)
    line = image.width * BYTES
    if image.height * line <= PIECE_BYTES:
        _strip(ours, image, made)
        return _picture(made)
    rows = max(1, STRIP_BYTES // line)
    for top in range(0, image.height, rows):
        bottom = min(top + rows, image.height)
        _strip(ours, image.crop((0, top, image.width, bottom)), made[top:bottom])
    return _picture(made)


def _strip(ours: ctypes.CDLL, image: Image.Image, made: np.ndarray) -> None:
    """The rows of `image` to uint8 `[h, width, 4]`."""
    width, function, weights = made.shape[1], ours.resize_rows, weights_of(image.width, made.shape[1])
    function.argtypes, function.restype = (POINTER, POINTER, *[LONG] * 5, _Weights, POINTER), None
    with pixels_of(image) as pixels:

        def part(begin: int, end: int) -> None:
            spare = np.zeros((image.width + weights.high.shape[1]) * BYTES, np.uint8).ctypes
            lengths = image.height, image.width, width
            function(pixels, made.ctypes.data, *lengths, begin, end, _as_c(weights), spare.data)

        _by_two(image.height, part)


def _columns(ours: ctypes.CDLL, image: Image.Image, height: int) -> Image.Image:
    function, weights = ours.resize_columns, weights_of(image.height, height)
    function.argtypes, function.restype = (POINTER, POINTER, *[LONG] * 4, _Weights), None
    made = np.empty((height, image.width, BYTES), np.uint8)
    with pixels_of(image) as pixels:

        def part(begin: int, end: int) -> None:
            function(pixels, made.ctypes.data, image.height, image.width * BYTES, begin, end, _as_c(weights))

        _by_two(height, part)
    return _picture(made)


@contextmanager
def pixels_of(image: Image.Image) -> Iterator[int]:
    """The address of an RGB picture's pixels, of four bytes each: Pillow's own, where they lie in one piece and it
    tells where, as Arrow's arrays; a copy else."""
    image.load()
    try:
        if Image.core.get_alignment() != 1:  # rows with something behind them
            raise ValueError
        capsules = image.__arrow_c_array__()
        array = _Array.from_address(_capsule_pointer(capsules[1], b"arrow_array"))
        values = array.children[0].contents
        if values.length != image.width * image.height * BYTES or array.offset or values.offset:
            raise ValueError
    except (AttributeError, ValueError):
        copy = np.frombuffer(image.tobytes("raw", "RGBX"), np.uint8)
        yield copy.ctypes.data
    else:
        yield values.buffers[1]
        del capsules  # which hold them


class _Array(ctypes.Structure):
    """ArrowArray, of Arrow's C data interface."""


_Array._fields_ = [
    *((name, LONG) for name in ("length", "null_count", "offset", "n_buffers", "n_children")),
    ("buffers", ctypes.POINTER(POINTER)),
    ("children", ctypes.POINTER(ctypes.POINTER(_Array))),
]


def _capsule_pointer(capsule: object, name: bytes) -> int:
    function = ctypes.pythonapi.PyCapsule_GetPointer
    function.argtypes, function.restype = (ctypes.py_object, ctypes.c_char_p), POINTER
    address: int = function(capsule, name)
    return address


def _picture(pixels: np.ndarray) -> Image.Image:
    height, width, _ = pixels.shape
    return Image.frombytes("RGB", (width, height), pixels.data, "raw", "RGBX")


def _as_c(weights: Weights) -> _Weights:
    return _Weights(*(array.ctypes.data for array in weights), weights.high.shape[1])


def _by_two(count: int, part: Callable[[int, int], object]) -> None:
    """Both halves of what is counted, by two threads."""
    other = Begun(part, count // 2, count)
    try:
        part(0, count // 2)
    finally:
        other.result()  # nobody takes away what it works on


def _rows_by_pillow(image: Image.Image, width: int) -> Image.Image:
    """Two threads take a strip in turn."""
    height, rows = image.height, max(1, STRIP_PIXELS // image.width)
    if height <= rows:
        return image.resize((width, height), Image.Resampling.BICUBIC)
    image.load()  # before two threads ask for it
    narrow = Image.new("RGB", (width, height))

    def every_other(first: int) -> None:
        for top in range(first, height, 2 * rows):
            bottom = min(top + rows, height)
            strip = image.crop((0, top, image.width, bottom))
            narrow.paste(strip.resize((width, bottom - top), Image.Resampling.BICUBIC), (0, top))

    other = Begun(every_other, rows)
    every_other(0)
    other.result()
    return narrow
