"""AnyRes: a picture as its whole and as a grid of tiles, and the order in which their tokens are read.

As in LLaVA-NeXT (LLaVA-1.6), whose released code decides every rounding: `to_tiles` hands pictures of one size to
`images.to_pixels`, `token_order` says how the encoded tokens of these tiles become one sequence.  Training and the
runtime share this file.  Sizes and pinpoints are (width, height), grids of tokens are (rows, columns).
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from dclocal.errors import BundleError

Pair = tuple[int, int]

NEWLINE = -1
"""In a token order: the learned newline embedding stands here."""

MAX_PINPOINTS = 64
MAX_TILES = 64
"""A pinpoint with more tiles than this is refused: it bounds the canvas and the tokens."""
MAX_TEXT = 4096
MAX_SIDE = 1 << 16
"""A picture with a longer side (no JPEG has one) is averaged down before it is resized, which bounds the memory."""


def parse_pinpoints(value: Any, tile_size: int) -> tuple[Pair, ...]:
    """The canvas sizes of `image_grid_pinpoints`, each (width, height) in pixels and a multiple of `tile_size`.

    `value` is a list of pairs or LLaVA's text of one, "[(336, 672), (672, 336)]".  Pairs in the LLaVA layout are
    (width, height); transformers' LlavaNextConfig stores (height, width), so swap those before they come here.
    Raises BundleError.
    """
    pairs = _literal(value) if isinstance(value, str) else value
    if not isinstance(pairs, (list, tuple)) or not 1 <= len(pairs) <= MAX_PINPOINTS:
        raise _refusal(value, f"1 to {MAX_PINPOINTS} pairs [width, height]")
    for pair in pairs:
        if not isinstance(pair, (list, tuple)) or len(pair) != 2 or not all(type(side) is int for side in pair):
            raise _refusal(pair, "pairs [width, height] of whole numbers")
        across, down = (side // tile_size for side in pair)
        if across < 1 or down < 1 or pair[0] % tile_size or pair[1] % tile_size:
            raise _refusal(pair, f"multiples of the tile's {tile_size} pixels")
        if across * down > MAX_TILES:
            raise _refusal(pair, f"at most {MAX_TILES} tiles")
    return tuple((width, height) for width, height in pairs)


def best_grid(image_size: Pair, pinpoints: Sequence[Pair]) -> Pair:
    """The canvas that keeps most of the picture's pixels; among equals the smallest, then the first.

    What a canvas keeps is the area of the picture scaled into it, at most the picture's own.
    """
    width, height = image_size

    def merit(canvas: Pair) -> Pair:
        scale = min(canvas[0] / width, canvas[1] / height)
        kept = min(int(width * scale) * int(height * scale), width * height)
        return kept, -canvas[0] * canvas[1]

    return max(pinpoints, key=merit)


def to_tiles(image: Image.Image, pinpoints: Sequence[Pair], tile_size: int) -> list[Image.Image]:
    """RGB tiles of `tile_size` squared: the whole picture stretched, then the canvas cut row by row.

    On the canvas (see `best_grid`) the picture keeps its shape, is as large as fits, centred, and black around.
    """
    canvas_size = best_grid(image.size, pinpoints)
    width, height = _fitted(image.size, canvas_size)
    source = _shortened(image)
    canvas = Image.new("RGB", canvas_size)
    corner = ((canvas_size[0] - width) // 2, (canvas_size[1] - height) // 2)
    canvas.paste(source.resize((width, height), Image.Resampling.BICUBIC), corner)
    tiles = [source.resize((tile_size, tile_size), Image.Resampling.BICUBIC)]
    for top in range(0, canvas_size[1], tile_size):
        for left in range(0, canvas_size[0], tile_size):
            tiles.append(canvas.crop((left, top, left + tile_size, top + tile_size)))
    return tiles


def token_order(
    image_size: Pair, pinpoints: Sequence[Pair], tile_size: int, grid: Pair, newline: bool = True
) -> np.ndarray:
    """Which token is read when: int64 indices into the tokens of all tiles laid end to end, or NEWLINE.

    `grid` is what one tile gives after the connector, 24×24 or, after the efficient one, 12×12.  First come the
    whole picture's tokens; then those of the tiles as one map, row by row, without the rows or columns that saw
    only the black border, a newline after each row ("spatial_unpad").  The map of a picture so thin that it
    covers less than one row or column of an even map is empty, as in the released code.
    """
    rows, columns = grid
    across, down = _tile_counts(best_grid(image_size, pinpoints), tile_size)
    whole = np.arange(rows * columns, dtype=np.int64)
    tiles = np.arange(down * across * rows * columns, dtype=np.int64).reshape(down, across, rows, columns)
    token_map = tiles.transpose(0, 2, 1, 3).reshape(down * rows, across * columns) + len(whole)
    top, left = _border(image_size, (across, down), grid)
    token_map = token_map[top : down * rows - top, left : across * columns - left]
    if newline:
        token_map = np.pad(token_map, ((0, 0), (0, 1)), constant_values=NEWLINE)
    return np.concatenate([whole, token_map.ravel()])


def token_count(image_size: Pair, pinpoints: Sequence[Pair], tile_size: int, grid: Pair, newline: bool = True) -> int:
    """The length of `token_order`, by arithmetic alone."""
    rows, columns = grid
    across, down = _tile_counts(best_grid(image_size, pinpoints), tile_size)
    top, left = _border(image_size, (across, down), grid)
    return rows * columns + (down * rows - 2 * top) * (across * columns - 2 * left + newline)


def max_tokens(pinpoints: Sequence[Pair], tile_size: int, grid: Pair, newline: bool = True) -> int:
    """The largest `token_count` over all pictures: that of a picture that fills its canvas."""
    return max(token_count(canvas, [canvas], tile_size, grid, newline) for canvas in pinpoints)


def gather(tokens: np.ndarray, newline: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Tokens `[tiles, T, n_embd]` and newline `[n_embd]` in the order of `token_order`: float32 `[len(order), n_embd]`.

    Raises IndexError where `order` is of a picture with more tiles.
    """
    gathered = tokens.reshape(-1, tokens.shape[-1])[order].astype(np.float32, copy=False)
    gathered[order == NEWLINE] = newline
    return gathered


def _refusal(found: Any, expected: str) -> BundleError:
    return BundleError(
        f"image_grid_pinpoints: {found!r:.60}, expected {expected}", "correct it in the model's configuration"
    )


def _literal(text: str) -> Any:
    """What a Python literal of whole numbers, brackets and commas says; None where the text is anything else."""
    if len(text) > MAX_TEXT or not re.fullmatch(r"[0-9\s\[\](),]+", text):
        return None
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None


def _fitted(image_size: Pair, canvas: Pair) -> Pair:
    """The picture's size on the canvas: its shape kept, a broken pixel counted as a whole one."""
    scale = min(canvas[0] / image_size[0], canvas[1] / image_size[1])
    width, height = (min(math.ceil(side * scale), limit) for side, limit in zip(image_size, canvas))
    return width, height


def _shortened(image: Image.Image) -> Image.Image:
    """The picture with no side above MAX_SIDE: Pillow's resizing widens a picture before it shortens it."""
    across, down = (math.ceil(side / MAX_SIDE) for side in image.size)
    return image if across == down == 1 else image.reduce((across, down))


def _tile_counts(canvas: Pair, tile_size: int) -> Pair:
    return canvas[0] // tile_size, canvas[1] // tile_size


def _border(image_size: Pair, tiles: Pair, grid: Pair) -> Pair:
    """Rows at top and bottom, columns at left and right, that `token_order` leaves out; one of the two is 0.

    `tiles` is (across, down).  The picture's extent in tokens is cut to a whole number as the released LLaVA-NeXT
    cuts it; transformers rounds it to seven digits first, and so keeps a row or column at either side that the
    released code drops where floating point falls just short of the whole number and the border is odd.
    """
    (width, height), (across, down), (rows, columns) = image_size, tiles, grid
    if width / height > across / down:
        return (down * rows - int(height * (across * rows / width))) // 2, 0
    return 0, (across * columns - int(width * (down * columns / height))) // 2
