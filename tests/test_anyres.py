"""High resolution: if these fail, a published AnyRes model is shown tiles, or reads its tokens in an order, that it
was not trained with, and its answers about details are wrong."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import LlavaNextImageProcessor
from transformers.models.llava_next import modeling_llava_next as llava_next

from dclocal.anyres import (
    NEWLINE,
    best_grid,
    gather,
    max_tokens,
    parse_pinpoints,
    to_tiles,
    token_count,
    token_order,
)
from dclocal.bundle import ImageSpec
from dclocal.errors import BundleError
from dclocal.images import to_pixels

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LLAVA_16 = "[(336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008)]"
"""`image_grid_pinpoints` of the published llava-v1.6 checkpoints."""
LLAVA_SHAPES = ((1, 2), (2, 1), (2, 2), (3, 1), (1, 3))
"""The same in tiles, (across, down)."""
LOPSIDED = ((1, 2), (3, 1), (4, 1), (2, 3))
"""Tiles (across, down) of a set that is not its own transpose, so that swapping the axes shows."""

# Smaller and larger than a tile, of its size, and as thin as transformers bears.
SIZES = ((1, 1), (5, 4), (97, 33), (56, 112), (112, 56), (113, 171), (500, 333), (333, 500), (640, 77), (61, 700))
SIZES += ((1500, 1001), (224, 56), (2000, 90), (90, 2000))
DAMAGED: list[object] = [None, 336, "", "[]", [], "336", [336, 672], "[(336, 672)", [[336]], [[336, 672, 336]]]
DAMAGED += [[[336, "672"]], {"a": 1}, [[336, 0]], [[-336, 336]], [[336, 500]], [[True, 336]], [[336.0, 336]]]
DAMAGED += ["(1x1),...,(6x6)", [[336, 672]] * 65, "__import__('os').getcwd()", "(" * 3000, "[" * 3000 + "]" * 3000]
DAMAGED += ["9" * 4000, "1(2)", "[(0x150, 672)]", [[336 * 65, 336]], [[336 * 9, 336 * 9]], "[(336, 672)]" + " " * 5000]
DAMAGED += [[[float("nan"), 336]], "[(" + "9" * 4000 + ", 336)]"]

Pair = tuple[int, int]


def scaled(tile_size: int, shapes: tuple[Pair, ...] = LOPSIDED) -> tuple[Pair, ...]:
    return tuple((across * tile_size, down * tile_size) for across, down in shapes)


def swapped(pinpoints: tuple[Pair, ...]) -> list[list[int]]:
    """As transformers stores them: (height, width)."""
    return [[height, width] for width, height in pinpoints]


def random_sizes(count: int, longest: int = 3000) -> list[Pair]:
    """Sizes of every proportion: half of them with both sides drawn by order of magnitude."""
    draw = random.Random(7)
    plain = [(draw.randint(1, longest), draw.randint(1, longest)) for _ in range(count // 2)]
    spread = [(int(longest ** draw.random()), int(longest ** draw.random())) for _ in range(count - count // 2)]
    return plain + spread


def noise(size: Pair) -> Image.Image:
    values = np.random.default_rng(size[0] * 31 + size[1]).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(values)


def transformers_pixels(image: Image.Image, pinpoints: tuple[Pair, ...], tile_size: int) -> np.ndarray:
    processor = LlavaNextImageProcessor(
        size={"shortest_edge": tile_size},
        crop_size={"height": tile_size, "width": tile_size},
        image_grid_pinpoints=swapped(pinpoints),
        image_mean=MEAN,
        image_std=STD,
    )
    return processor(image, return_tensors="np", input_data_format="channels_last")["pixel_values"][0]


def packed(
    features: torch.Tensor, newline: torch.Tensor | None, size: Pair, pinpoints: tuple[Pair, ...], vision: Pair
) -> torch.Tensor:
    """transformers' packing of `[1 + tiles, rows·columns, n_embd]`; `vision` is (image_size, patch_size)."""
    vision_config = SimpleNamespace(image_size=vision[0], patch_size=vision[1])
    config = SimpleNamespace(vision_config=vision_config, image_grid_pinpoints=swapped(pinpoints))
    model = SimpleNamespace(config=config)
    height_width = torch.tensor([[size[1], size[0]]])
    return llava_next.LlavaNextModel.pack_image_features(model, [features], height_width, "default", newline)[0][0]


def packed_order(size: Pair, pinpoints: tuple[Pair, ...], tile_size: int, patch: int, newline: bool) -> np.ndarray:
    """The order in which transformers packs features whose values are their own index."""
    tiles = llava_next.image_size_to_num_patches((size[1], size[0]), swapped(pinpoints), tile_size)
    per_tile = (tile_size // patch) ** 2
    features = torch.arange(tiles * per_tile, dtype=torch.float64).reshape(tiles, per_tile, 1)
    mark = torch.full((1,), float(NEWLINE), dtype=torch.float64) if newline else None
    return packed(features, mark, size, pinpoints, (tile_size, patch))[:, 0].numpy().astype(np.int64)


@pytest.fixture
def as_released(monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers' unpad_image without the rounding to seven digits that the released LLaVA-NeXT does not do."""
    monkeypatch.setattr(llava_next, "round", lambda value, digits: value, raising=False)


@pytest.mark.parametrize("shapes", [LOPSIDED, LLAVA_SHAPES, LOPSIDED[::-1], LLAVA_SHAPES[::-1]])
def test_the_canvas_is_the_one_transformers_takes(shapes: tuple[Pair, ...]) -> None:
    pinpoints = scaled(336, shapes)
    for size in [*random_sizes(1000), (336, 336), (672, 672), (1, 60000), (60000, 1)]:
        down, across = llava_next.get_anyres_image_grid_shape((size[1], size[0]), swapped(pinpoints), 336)
        assert best_grid(size, pinpoints) == (across * 336, down * 336), size


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("tile_size", [56, 48])
def test_tiles_equal_transformers_own(size: Pair, tile_size: int) -> None:
    image, pinpoints = noise(size), scaled(tile_size)
    tiles = to_tiles(image, pinpoints, tile_size)
    expected = transformers_pixels(image, pinpoints, tile_size)
    found = to_pixels(tiles, ImageSpec(tile_size, "stretch", MEAN, STD))
    np.testing.assert_allclose(found, expected, atol=2e-6)


def test_published_pinpoints_at_full_size() -> None:
    """A picture enlarged and one made smaller, at the tile size of CLIP-L-336."""
    pinpoints = parse_pinpoints(LLAVA_16, 336)
    for size in ((640, 427), (1333, 1999)):
        image = noise(size)
        found = to_pixels(to_tiles(image, pinpoints, 336), ImageSpec(336, "stretch", MEAN, STD))
        np.testing.assert_allclose(found, transformers_pixels(image, pinpoints, 336), atol=2e-6)


def test_a_line_of_pixels_is_drawn_where_transformers_loses_it() -> None:
    """transformers 4.57 takes what is scaled to one or three rows for colour planes; the released code does not."""
    image = Image.new("RGB", (2000, 1), (200, 100, 50))
    tiles = to_tiles(image, [(96, 48)], 48)
    assert len(transformers_pixels(image, ((96, 48),), 48)) != len(tiles) == 3
    for tile in tiles[1:]:
        values = np.asarray(tile)
        np.testing.assert_array_equal(np.flatnonzero(values.any(axis=(1, 2))), [23])
        assert (values[23] == (200, 100, 50)).all()


@pytest.mark.skipif(sys.platform != "linux", reason="the limit on memory is Linux's")
@pytest.mark.parametrize("size", [(40_000_000, 1), (1, 40_000_000), (100_000, 300)])
def test_a_thin_picture_needs_little_memory(size: Pair) -> None:
    """Pillow alone would widen 1×40,000,000 to 336×40,000,000 on its way to a tile: 54 GB; here 1 GB is allowed."""
    program = f"""
import resource
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
from PIL import Image
from dclocal.anyres import to_tiles
tiles = to_tiles(Image.new("RGB", {size}, (10, 200, 30)), [(336, 672), (672, 336)], 336)
print([tile.size for tile in tiles], tiles[0].getextrema())
"""
    child = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parents[1],
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert child.returncode == 0, child.stderr
    assert child.stdout.strip() == f"{[(336, 336)] * 3} ((10, 10), (200, 200), (30, 30))"


@pytest.mark.parametrize("newline", [True, False])
@pytest.mark.parametrize("tile_size, patch", [(336, 14), (336, 28), (384, 14), (384, 28)])
def test_tokens_are_read_in_the_released_order(tile_size: int, patch: int, newline: bool, as_released: None) -> None:
    """24×24 and 12×12 (CLIP-L-336), 27×27 and 13×13 (SigLIP-384), newline embedding or none."""
    side, pinpoints = tile_size // patch, scaled(tile_size)
    for size in [*random_sizes(150), *pinpoints, (1, 9000), (9000, 1)]:
        order = token_order(size, pinpoints, tile_size, (side, side), newline)
        assert order.dtype == np.int64
        np.testing.assert_array_equal(order, packed_order(size, pinpoints, tile_size, patch, newline), str(size))
        assert token_count(size, pinpoints, tile_size, (side, side), newline) == len(order)


@pytest.mark.parametrize(
    "size, tile_size, patch, released, theirs",
    [
        ((220, 1056), 336, 14, (72, 14), (72, 16)),  # 15 columns of 24, by floating point 14.999999999999998
        ((1056, 220), 336, 14, (14, 72), (16, 72)),
        ((792, 352), 336, 28, (12, 26), (12, 28)),
        ((44, 55), 336, 28, (14, 12), (16, 12)),
        ((49, 49), 384, 14, (26, 27), (28, 27)),  # a square picture too
        ((637, 196), 384, 28, (7, 26), (9, 26)),
    ],
)
def test_where_transformers_rounds_the_released_code_decides(
    size: Pair, tile_size: int, patch: int, released: Pair, theirs: Pair
) -> None:
    """Where the border is an odd number of tokens and floating point falls short of the whole extent, transformers
    4.57 keeps one row or column at either side that LLaVA-NeXT, with which the models were trained, drops."""
    side, pinpoints = tile_size // patch, scaled(tile_size, LLAVA_SHAPES)
    order = token_order(size, pinpoints, tile_size, (side, side), newline=False)[side * side :]
    map_of_theirs = packed_order(size, pinpoints, tile_size, patch, newline=False)[side * side :].reshape(theirs)
    top, left = (theirs[0] - released[0]) // 2, (theirs[1] - released[1]) // 2
    trimmed = map_of_theirs[top : theirs[0] - top, left : theirs[1] - left]
    np.testing.assert_array_equal(order.reshape(released), trimmed)


def test_gathered_embeddings_equal_packed_features(as_released: None) -> None:
    generator, pinpoints = np.random.default_rng(3), scaled(336)
    for size in [(500, 333), (90, 1200), (1008, 336)]:
        across, down = (side // 336 for side in best_grid(size, pinpoints))
        tokens = generator.standard_normal((1 + across * down, 144, 5)).astype(np.float32)
        newline = generator.standard_normal(5).astype(np.float32)
        found = gather(tokens, newline, token_order(size, pinpoints, 336, (12, 12)))
        expected = packed(torch.from_numpy(tokens), torch.from_numpy(newline), size, pinpoints, (336, 28))
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, expected.numpy())
    half = gather(tokens.astype(np.float16), newline, token_order(size, pinpoints, 336, (12, 12)))
    assert half.dtype == np.float32
    with pytest.raises(IndexError):
        gather(tokens[:-1], newline, token_order(size, pinpoints, 336, (12, 12)))


def test_a_grid_need_not_be_square() -> None:
    """Two tiles of four tokens, the picture over all of the canvas or over the middle half of it."""
    beside, below = ([(200, 100)], 100, (4, 1)), ([(100, 200)], 100, (1, 4))
    whole, rows = [0, 1, 2, 3], [4, 8, NEWLINE, 5, 9, NEWLINE, 6, 10, NEWLINE, 7, 11, NEWLINE]
    assert token_order((200, 100), *beside).tolist() == whole + rows
    assert token_order((200, 50), *beside).tolist() == whole + rows[3:-3]
    assert token_order((100, 200), *below, newline=False).tolist() == list(range(12))
    assert token_order((50, 200), *below).tolist() == [*whole, 5, 6, NEWLINE, 9, 10, NEWLINE]


@pytest.mark.parametrize("newline", [True, False])
def test_no_picture_has_more_tokens_than_the_bound(newline: bool) -> None:
    """An estimate that is too low would let a question run out of context; one too high would refuse it."""
    pinpoints = parse_pinpoints(LLAVA_16, 336)
    counts = [token_count(size, pinpoints, 336, (24, 24), newline) for size in random_sizes(3000) + list(pinpoints)]
    assert max(counts) == max_tokens(pinpoints, 336, (24, 24), newline)
    assert max_tokens(pinpoints, 336, (24, 24)) == 576 + 48 * 49


def test_pinpoints_are_read_as_published() -> None:
    expected = ((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008))
    assert parse_pinpoints(LLAVA_16, 336) == expected
    assert parse_pinpoints([list(pair) for pair in expected], 336) == expected
    assert parse_pinpoints(expected, 336) == expected
    assert parse_pinpoints(" [[384,768],[768,384]]\n", 384) == ((384, 768), (768, 384))


@pytest.mark.parametrize("value", DAMAGED, ids=range(len(DAMAGED)))
def test_damaged_pinpoints_are_one_clear_line(value: object) -> None:
    with pytest.raises(BundleError) as caught:
        parse_pinpoints(value, 336)
    message = str(caught.value)
    assert "image_grid_pinpoints" in message and "\n" not in message and len(message) < 250
    assert ", expected " in message and caught.value.remedy
