"""What a user would lose: answers, where pixels were others than training saw; time, where Pillow resized."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dclocal import resizing
from dclocal.bundle import ImageSpec
from dclocal.images import to_pixels
from dclocal.picture_kernels import KERNELS, library
from dclocal.resizing import difference, resize_columns, resize_rows, weights_of
from tests.kernel_sources import (
    assert_refused,
    change_source,
    needs_compiler,
)

pytestmark = pytest.mark.skipif(KERNELS.kept() is None, reason="they are for Linux on x86-64 with AVX2")
SIZES = ((1920, 1080), (1080, 1920), (2048, 2048), (640, 480), (337, 5), (5, 337), (1, 1), (3, 2), (9, 4000), (4000, 9))


@pytest.fixture(autouse=True)
def ours() -> None:
    assert library() is not None  # as conftest has them built


def _picture(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8))


def _by_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resizing, "library", lambda: None)


@needs_compiler
def test_what_is_built_gives_pillows_own_bytes(kernel_folder: Path) -> None:
    assert KERNELS.build() == "" == KERNELS.why_not()
    made = KERNELS.ready()
    assert made is not None and list(kernel_folder.iterdir()) == [made] and difference(made) == ""


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("side", [336, 14])
@pytest.mark.parametrize("fit", ["pad", "stretch"])
def test_pixels_are_the_same_as_by_pillow(
    monkeypatch: pytest.MonkeyPatch, size: tuple[int, int], side: int, fit: str
) -> None:
    picture = _picture(*size)
    spec = ImageSpec(side, fit, (0.5, 0.4, 0.3), (0.2, 0.2, 0.2), ())
    found = to_pixels([picture], spec)
    _by_pillow(monkeypatch)
    assert found.tobytes() == to_pixels([picture], spec).tobytes()


@pytest.mark.parametrize("new", [1, 7, 100, 1000])
@pytest.mark.parametrize("old", [4, 100, 999])
def test_each_direction_is_pillows(old: int, new: int) -> None:
    for picture, found in (
        (_picture(old, 6), resize_rows(_picture(old, 6), new)),
        (_picture(6, old), resize_columns(_picture(6, old), new)),
    ):
        assert found.tobytes() == picture.resize(found.size, Image.Resampling.BICUBIC).tobytes()


def test_a_picture_that_pillow_has_in_pieces_is_resized_in_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    picture = _picture(300, 200)
    expected = picture.resize((77, 200), Image.Resampling.BICUBIC).tobytes()
    strips = []
    strip = resizing._strip
    monkeypatch.setattr(resizing, "_strip", lambda *of: strips.append(of[1].height) or strip(*of))
    monkeypatch.setattr(resizing, "PIECE_BYTES", 1 << 16)
    monkeypatch.setattr(resizing, "STRIP_BYTES", 1 << 15)
    assert resize_rows(picture, 77).tobytes() == expected and strips == [27] * 7 + [11]


def test_pixels_that_pillow_does_not_tell_the_place_of_are_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    """Older versions don't, nor do any of pictures in pieces."""
    picture = _picture(100, 50)
    expected = resize_columns(resize_rows(picture, 30), 20).tobytes()

    def in_pieces(self: Image.Image) -> object:
        raise ValueError("Image is in multiple array blocks, use imaging_new_block for zero copy")

    monkeypatch.setattr(Image.Image, "__arrow_c_array__", in_pieces)
    assert resize_columns(resize_rows(picture, 30), 20).tobytes() == expected
    monkeypatch.delattr(Image.Image, "__arrow_c_array__")
    assert resize_columns(resize_rows(picture, 30), 20).tobytes() == expected


def test_weights_add_up_to_one() -> None:
    """To what 22 bits hold, wherever they lie."""
    for old, new in ((1920, 336), (37, 336), (1, 5), (336, 336)):
        firsts, high, low = weights_of(old, new)
        whole = (high.astype(int) << resizing.LOW_BITS) + low
        assert np.abs(whole.sum(1) - (1 << resizing.POINT)).max() <= whole.shape[1]
        assert firsts.min() >= 0 and (firsts < old).all()


@needs_compiler
@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("POINT - 1", "POINT - 3"),
        ("LOW_BITS = 11", "LOW_BITS = 10"),
        ("10, 14, 3,", "14, 10, 3,"),
        ("< last ? i + 1", "< last ? i"),
    ],
    ids=["rounding", "weights", "colours", "rows"],
)
def test_what_differs_is_neither_kept_nor_tried_again(
    kernel_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, right: str, wrong: str
) -> None:
    change_source(monkeypatch, tmp_path, "pictures/resize.c", right, wrong)
    assert_refused(KERNELS, kernel_folder, "resized")
