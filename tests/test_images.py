"""Pictures as users have them: if these fail, answers are about something else than what they see, or a bad
file takes the program down."""

from __future__ import annotations

import logging
import os
import random
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dclocal import files, images
from dclocal.bundle import ImageSpec
from dclocal.errors import ImageError
from dclocal.images import image_key, load_image, to_pixels
from tests.tiny_files import encoded, picture_files, png

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.mark.parametrize("size", [(1, 1), (3, 500), (641, 480), (1000, 333), (336, 336), (2101, 1203), (903, 1203)])
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


def test_large_photographs_are_padded_at_full_size(
    photographs: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    """24 megapixels as LLaVA pads them; beyond MAX_SQUARE a picture is shrunk first, which must hardly show."""
    photo = photographs[0].crop((0, 100, 512, 441)).resize((6000, 4000), Image.Resampling.LANCZOS)
    noise = np.random.default_rng(0).integers(-20, 21, (4000, 6000, 1), dtype=np.int16)  # a sensor's, at full size
    photo = Image.fromarray((np.asarray(photo) + noise).clip(0, 255).astype(np.uint8))
    square = Image.new("RGB", (6000, 6000), tuple(int(channel * 255) for channel in MEAN))
    square.paste(photo, (0, 1000))
    spec = ImageSpec(336, "pad", MEAN, STD)
    expected = to_pixels([square], spec)
    np.testing.assert_array_equal(to_pixels([photo], spec), expected)
    monkeypatch.setattr(images, "MAX_SQUARE", 4096)
    levels = np.abs(to_pixels([photo], spec) - expected)[0] * np.reshape(STD, (3, 1, 1)) * 255
    assert 0 < levels.mean() < 0.5 and levels.max() < 12  # of 255; the most is where the picture meets its border


MEASURED = """if True:
    import sys
    from pathlib import Path
    from dclocal.bundle import ImageSpec
    from dclocal.images import image_key, load_image, to_pixels
    image = load_image(sys.argv[1])
    image_key(image)
    assert to_pixels([image], ImageSpec(336, "pad", (0.5,) * 3, (0.5,) * 3)).shape == (1, 3, 336, 336)
    [peak] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    print(int(peak.split()[1]) >> 10)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
@pytest.mark.parametrize(
    ("size", "kind", "megabytes"),
    [((12_500, 8_000), "jpg", 1200), ((1, 60_000), "png", 400), ((60_000, 1), "png", 400)],
)
def test_memory_is_bounded_for_giant_pictures(tmp_path: Path, size: tuple[int, int], kind: str, megabytes: int) -> None:
    """100 megapixels are 400 MB decoded; a square around 1 × 60,000 would be 14 GB."""
    file = tmp_path / f"giant.{kind}"
    Image.new("RGB", size, "teal").save(file)
    done = subprocess.run([sys.executable, "-c", MEASURED, str(file)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < megabytes


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_exif_rotation_is_applied(picture: Image.Image, kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: the top is on the right
    turned = load_image(encoded(picture, kind, exif=exif, lossless=True))
    np.testing.assert_array_equal(np.asarray(turned), np.rot90(np.asarray(picture), -1))


def test_damaged_exif_does_not_cost_the_picture(picture: Image.Image) -> None:
    for exif in (b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0garbage", b"Exif\0\0"):
        assert load_image(encoded(picture, "JPEG", exif=exif)).size == picture.size


def test_sixteen_bit_grey_is_scaled_not_clipped() -> None:
    ramp = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    grey = np.asarray(load_image(encoded(Image.fromarray(ramp), "PNG")))[..., 0].ravel()
    np.testing.assert_allclose(grey, np.arange(256), atol=1)


def grey(image: Image.Image, kind: str) -> list[int]:
    return np.asarray(load_image(encoded(image, kind)))[..., 0].ravel().tolist()


def test_thirty_two_bit_grey_is_scaled_by_what_the_picture_holds() -> None:
    """Depth maps and microscopes: of their own range, not of 16 bits; clipped they are white or black."""
    for top in (7, 200_000, 2**31 - 1):
        values = np.array([[-5, 0, top // 2, top]], np.int32)
        np.testing.assert_allclose(grey(Image.fromarray(values), "TIFF"), [0, 0, 255 * (top // 2) / top, 255], atol=1)
    assert grey(Image.fromarray(np.full((1, 2), -9, np.int32)), "TIFF") == [0, 0]
    odd = np.array([[np.nan, np.inf, 0.0, 0.5, 1.0]], np.float32)
    assert grey(Image.fromarray(odd), "TIFF") == [0, 0, 0, 128, 255]
    dark = b"P5 3 1 65535\n" + struct.pack(">3H", 0, 256, 6553)  # 16 bits, in the mode of 32
    assert np.asarray(load_image(dark))[0, :, 0].tolist() == [0, 1, 25]


def test_transparency_lies_over_white() -> None:
    clear = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    assert np.asarray(load_image(encoded(clear, "PNG"))).min() == 255
    value, alpha = np.mgrid[:256, :256].astype(np.uint8)
    every = encoded(Image.fromarray(np.stack([value, value, value, alpha], -1)), "PNG")
    exact = 255 + (value - 255.0) * alpha / 255
    np.testing.assert_array_equal(np.asarray(load_image(every))[..., 0], np.round(exact))
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


def test_cameras_double_pictures_give_the_first() -> None:
    pair = [Image.new("RGB", (32, 32), colour) for colour in ("red", "blue")]
    assert load_image(encoded(pair[0], "MPO", save_all=True, append_images=pair[1:])).getpixel((3, 3)) == (254, 0, 0)


def test_rare_formats_are_imported_when_one_comes(tmp_path: Path) -> None:
    for kind in ("PNG", "WEBP", "TIFF"):
        (tmp_path / kind).write_bytes(encoded(Image.new("RGB", (8, 8), "red"), kind))
    code = (
        "import sys; from PIL import Image; from dclocal.images import FORMATS, load_image; load_image('PNG')\n"
        "assert not {'PIL.TiffImagePlugin', 'PIL.WebPImagePlugin', 'PIL.DdsImagePlugin'} & set(sys.modules)\n"
        "assert [load_image(kind).size for kind in ('WEBP', 'TIFF')] == [(8, 8)] * 2\n"
        "assert 'PIL.DdsImagePlugin' not in sys.modules\n"
        "assert all(kind in Image.OPEN for kind in FORMATS if kind != 'AVIF')\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)


@pytest.mark.parametrize(
    ("bits", "colour", "row", "clear", "expected"),
    [
        (1, 0, b"\x40", (0,), [255, 255, 255, 255]),
        (2, 0, b"\x1b", (1,), [0, 255, 170, 255]),
        (4, 0, b"\x05\xaf", (5,), [0, 255, 170, 255]),
        (8, 0, b"\x00\x05\x63\xff", (5,), [0, 255, 99, 255]),
        (16, 0, struct.pack(">4H", 0, 500, 25700, 65535), (500,), [0, 255, 100, 255]),
        (
            16,
            2,
            struct.pack(">12H", 0, 0, 0, *(500,) * 3, *(25700,) * 3, *(65535,) * 3),
            (500,) * 3,
            [0, 255, 100, 255],
        ),
    ],
)
def test_a_transparent_colour_lies_over_white(
    bits: int, colour: int, row: bytes, clear: tuple[int, ...], expected: list[int]
) -> None:
    """PNG names one colour that stands for nothing, in the file's own depth."""
    data = png(4, 1, bits, colour, b"\0" + row, struct.pack(f">{len(clear)}H", *clear))
    assert np.asarray(load_image(data))[0, :, 0].tolist() == expected


def test_bad_files_end_in_one_clear_line(tmp_path: Path, picture: Image.Image) -> None:
    """Each says what is wrong with the file; none decodes what it should not."""
    whole = encoded(picture.resize((400, 300)), "JPEG")
    cases = {
        "text.jpg": (b"not a picture at all", "not a picture"),
        "empty.jpg": (b"", "is empty"),
        "cut.jpg": (whole[: len(whole) // 2], "truncated"),
        "cut.png": (encoded(picture, "PNG")[:-40], "truncated"),
        "huge.png": (png(60000, 60000, 8, 2, b"\0" * 10), "claims"),
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


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("a\0b.png", r"a\x00b.png cannot be a file's name"),
        ("~nosuchuser/x.png", "~nosuchuser/x.png does not exist"),
        ("two\nlines.png", r"two\nlines.png does not exist"),
        ("red\x1b[31m.png", r"red\x1b[31m.png does not exist"),
        ("caf\udce9.png", r"caf\udce9.png does not exist"),
        ("é" * 300, "cannot be read (File name too long)"),
        ("HTTP://127.0.0.1:9/x.png", "cannot be fetched"),
    ],
)
def test_odd_names_end_in_one_clear_line(path: str, expected: str) -> None:
    """A name may hold anything: no traceback, no second line, no colours on the terminal."""
    with pytest.raises(ImageError) as caught:
        load_image(path)
    assert expected in str(caught.value) and str(caught.value).isprintable()


def test_bytes_are_bounded_as_files_are(tmp_path: Path, picture: Image.Image, monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(picture, "BMP")
    (tmp_path / "big.bmp").write_bytes(data)
    for module in (files, images):
        monkeypatch.setattr(module, "MAX_FILE_BYTES", len(data) - 1)
    for source, found in ((data, "more than"), (tmp_path / "big.bmp", f"{len(data):,}")):
        with pytest.raises(ImageError, match=rf"has {found}.* bytes"):
            load_image(source)


def test_a_file_that_changes_meanwhile_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Swapped for a pipe or grown between the look and the opening: it would wait, or fill the memory."""
    path, real = tmp_path / "x.png", os.stat
    monkeypatch.setattr(files, "MAX_FILE_BYTES", 1000)

    def then(change: Callable[[], object]) -> Callable[..., os.stat_result]:
        def stat(file: object, **options: bool) -> os.stat_result:
            status = real(file, **options)  # type: ignore[call-overload]
            if str(file) == str(path):
                monkeypatch.setattr(os, "stat", real)
                path.unlink()
                change()
            return status

        return stat

    changes = {"not a regular file": lambda: os.mkfifo(path), "has": lambda: path.write_bytes(b"x" * 2000)}
    for expected, change in changes.items():
        path.unlink(missing_ok=True)
        path.write_bytes(b"x")
        monkeypatch.setattr(os, "stat", then(change))
        with pytest.raises(ImageError, match=expected):
            load_image(path)


def test_damaged_files_never_end_in_anything_else(
    picture: Image.Image, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Cut, flipped and overwritten: each gives a picture or an ImageError of one line, and nothing else is printed."""
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # as on the command line
    for name, whole in picture_files(picture).items():
        load_image(whole)
        chance = random.Random(name)
        for case in range(200):
            data = bytearray(whole)
            for _ in range(chance.choice((1, 1, 3, 20))):
                place = chance.randrange(min(len(data), chance.choice((40, 200, len(data)))))
                data[place] = chance.choice((0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)))
            if case % 4 == 0:
                del data[chance.randrange(1, len(data)) :]
            try:
                assert load_image(bytes(data)).mode == "RGB"
            except ImageError as error:
                assert str(error).isprintable(), (name, case)
    assert capfd.readouterr() == ("", "")


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
