"""Pictures as users have them: if these fail, answers are about something else than what they see, or a bad
file takes the program down."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dclocal.bundle import ImageSpec
from dclocal.errors import ImageError
from dclocal.images import image_key, load_image, to_pixels

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("size", [(1, 1), (3, 500), (641, 480), (1000, 333), (336, 336)])
def test_pixels_equal_transformers_own(size: tuple[int, int]) -> None:
    """Training and every published checkpoint see pictures through these processors."""
    from transformers import BitImageProcessor, LlavaImageProcessor

    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    square = {"height": 336, "width": 336}
    common = {"image_mean": MEAN, "image_std": STD, "size": square, "crop_size": square, "do_center_crop": False}
    options = {"return_tensors": "np", "input_data_format": "channels_last"}
    stretch = BitImageProcessor(**common)(image, **options)["pixel_values"]
    found = to_pixels([image], ImageSpec(336, "stretch", MEAN, STD))
    assert found.dtype == np.float32 and found.flags["C_CONTIGUOUS"]
    np.testing.assert_allclose(found, stretch, atol=2e-6)
    llava = LlavaImageProcessor(do_pad=True, **common)(image, **options)["pixel_values"]
    np.testing.assert_allclose(to_pixels([image], ImageSpec(336, "pad", MEAN, STD)), llava, atol=2e-6)


def test_extreme_shape_needs_no_giant_square() -> None:
    pixels = to_pixels([Image.new("RGB", (60000, 1), (255, 0, 0))], ImageSpec(336, "pad", MEAN, STD))
    assert pixels.shape == (1, 3, 336, 336)


def test_exif_rotation_is_applied(picture: Image.Image) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: the top is on the right
    turned = load_image(encoded(picture, "PNG", exif=exif))
    np.testing.assert_array_equal(np.asarray(turned), np.rot90(np.asarray(picture), -1))


def test_sixteen_bit_grey_is_scaled_not_clipped() -> None:
    ramp = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    grey = np.asarray(load_image(encoded(Image.fromarray(ramp), "PNG")))[..., 0].ravel()
    np.testing.assert_allclose(grey, np.arange(256), atol=1)


def test_transparency_lies_over_white() -> None:
    clear = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    assert np.asarray(load_image(encoded(clear, "PNG"))).min() == 255
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([10, 20, 30] * 256)
    assert np.asarray(load_image(encoded(palette, "PNG", transparency=0))).min() == 255
    opaque = np.asarray(load_image(encoded(palette, "PNG")))
    np.testing.assert_array_equal(opaque[0, 0], [10, 20, 30])


def test_cmyk_and_grey_become_rgb() -> None:
    red = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    values = np.asarray(load_image(encoded(red, "JPEG", quality=95)))[4, 4].astype(int)
    assert values[0] > 200 and values[1:].max() < 60
    assert load_image(encoded(Image.new("L", (2, 2), 7), "PNG")).getpixel((0, 0)) == (7, 7, 7)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "TIFF"])
def test_animations_give_their_first_frame(kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "lime")]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert load_image(data).getpixel((3, 3)) == (255, 0, 0)


def huge_png() -> bytes:
    """A header that claims 60,000 × 60,000 pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 10)) + chunk(b"IEND", b"")
    )


def test_bad_files_end_in_one_clear_line(tmp_path: Path, picture: Image.Image) -> None:
    """Each says what is wrong with the file; none decodes what it should not."""
    whole = encoded(picture.resize((400, 300)), "JPEG")
    cases = {
        "text.jpg": (b"not a picture at all", "not a picture"),
        "empty.jpg": (b"", "is empty"),
        "cut.jpg": (whole[: len(whole) // 2], "truncated"),
        "cut.png": (encoded(picture, "PNG")[:-40], "truncated"),
        "huge.png": (huge_png(), "claims"),
        "page.svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a picture"),
    }
    for name, (data, expected) in cases.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ImageError) as caught:
            load_image(tmp_path / name)
        assert expected in str(caught.value) and "\n" not in str(caught.value), name
    with pytest.raises(ImageError, match="does not exist"):
        load_image(tmp_path / "missing.jpg")
    with pytest.raises(ImageError, match="is a folder"):
        load_image(tmp_path)


def test_pipes_and_devices_are_not_opened(tmp_path: Path) -> None:
    """Opening a pipe would wait for ever; a device may never end."""
    pipe = tmp_path / "pipe.jpg"
    os.mkfifo(pipe)
    for path in (pipe, Path("/dev/zero")):
        with pytest.raises(ImageError, match="not a regular file"):
            load_image(path)


def test_key_names_the_content(picture: Image.Image) -> None:
    """The key decides whether a picture is encoded again."""
    assert image_key(picture) == image_key(load_image(encoded(picture, "PNG")))
    assert image_key(picture) != image_key(picture.rotate(180))
    assert image_key(Image.new("RGB", (2, 3))) != image_key(Image.new("RGB", (3, 2)))
