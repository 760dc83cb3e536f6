"""Bytes to RGB to pixel tensor; every limit on untrusted images is here.

A picture is bounded in bytes before it is read, in pixels before it is decoded, and in format by name.
"""

from __future__ import annotations

import hashlib
import importlib
import io
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from dclocal.bundle import ImageSpec
from dclocal.errors import ImageError
from dclocal.files import MAX_FILE_BYTES, printable, read_source
from dclocal.resizing import resize_columns, resize_rows

FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "AVIF")  # JPEG opens MPO too
RARE_FORMATS = ("WebP", "Tiff", "Avif")
"""Pillow's names of readers that it imports, with thirty others, when no common one knows a picture."""
MAX_PIXELS = 128_000_000
MAX_SQUARE = 8192
"""A picture whose padded square would have longer sides than this is shrunk before it is padded."""
QUIET = logging.NullHandler()


def load_image(source: str | Path | bytes) -> Image.Image:
    """The picture as RGB, upright (EXIF), its first frame, transparency over white.

    `source` is a path, an http(s) URL or the bytes of a file.  Raises ImageError.
    """
    if isinstance(source, bytes):
        return decode(source, "the image data")
    return decode(*read_source(source))


def decode(data: bytes, name: str) -> Image.Image:
    """The picture in `data`; `name` is what errors call it.  Raises ImageError."""
    name = printable(name)
    if not data:
        raise ImageError(f"{name} is empty", "give a picture")
    if len(data) > MAX_FILE_BYTES:
        raise ImageError(f"{name} has more than {MAX_FILE_BYTES:,} bytes", "give a smaller picture")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's own, looser bound on pixels; ours follows
            image = _opened(data)
            _check_size(image, name)
            _mend_transparent_colour(image, data)
            with _quiet_libtiff() if image.format == "TIFF" else nullcontext():
                image.load()
            return _to_rgb(_upright(image))
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        raise ImageError(f"{name} is not a picture that can be read", f"known formats: {', '.join(FORMATS)}") from error
    except Image.DecompressionBombError as error:
        raise ImageError(f"{name} claims far too many pixels", f"use at most {MAX_PIXELS:,}") from error
    except Exception as error:  # Pillow's readers raise nearly anything on damaged data
        reason = "is truncated" if "truncated" in str(error).lower() else "is damaged"
        detail = printable(str(error)) or type(error).__name__
        raise ImageError(f"{name} {reason} ({detail})", "give the whole file") from error


def to_pixels(images: Sequence[Image.Image], spec: ImageSpec) -> np.ndarray:
    """Normalised pixels, float32 `[n, 3, size, size]`: fitted, resized bicubic with antialiasing, (value − mean)/std.

    Fit "pad" squares a picture with the mean colour, centred, as LLaVA does; "stretch" does not keep its shape.
    """
    mean, std = (np.asarray(each, np.float32)[:, None] for each in (spec.mean, spec.std))
    normalised = (np.arange(256, dtype=np.float32) / np.float32(255) - mean) / std  # of each channel's 256 values
    pixels = np.empty((len(images), 3, spec.size, spec.size), np.float32)
    for index, image in enumerate(images):
        if spec.fit == "pad":
            image = _pad_to_square(image, spec.mean, spec.size)
        if image.width >= image.height or image.width == spec.size:  # of others Pillow may resize columns first
            image = resize_columns(resize_rows(image, spec.size), spec.size)
        else:
            image = image.resize((spec.size, spec.size), Image.Resampling.BICUBIC)
        for channel, values in enumerate(image.split()):
            np.take(normalised[channel], np.asarray(values), out=pixels[index, channel], mode="clip")
    return pixels


def image_key(image: Image.Image) -> str:
    """A name for the content: 32 hexadecimal characters of SHA-256 over size and RGB values."""
    digest = hashlib.sha256(repr(image.size).encode())
    digest.update(image.tobytes())
    return digest.hexdigest()[:32]


@contextmanager
def _quiet_libtiff() -> Iterator[None]:
    """libtiff prints each fault that it meets on file descriptor 2, where one line of ours should stand."""
    try:
        kept = os.dup(2)
    except OSError:  # there is no standard error
        yield
        return
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _opened(data: bytes) -> Image.Image:
    """The picture, not decoded yet; readers of rare formats are imported where the others do not know it."""
    logging.getLogger("PIL").addHandler(QUIET)  # added once; without any, Python prints its errors on stderr
    Image.preinit()
    try:
        return Image.open(io.BytesIO(data), formats=_readable())
    except UnidentifiedImageError:
        for name in RARE_FORMATS:
            importlib.import_module(f"PIL.{name}ImagePlugin")
        return Image.open(io.BytesIO(data), formats=_readable())


def _readable() -> list[str]:
    """The formats whose readers are imported."""
    return [name for name in FORMATS if name in Image.OPEN]


def _check_size(image: Image.Image, name: str) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ImageError(f"{name} claims {width:,}×{height:,} pixels", f"use at most {MAX_PIXELS:,} in all")
    if width < 1 or height < 1:
        raise ImageError(f"{name} has no pixels", "give a picture")


def _mend_transparent_colour(image: Image.Image, data: bytes) -> None:
    """Bring a PNG's transparent colour to the 8 bits that Pillow gives 2-, 4- and 3×16-bit pixels, but not it."""
    colour = image.info.get("transparency")
    if image.format != "PNG":
        return
    bits = data[24]
    if image.mode == "L" and isinstance(colour, int):
        image.info["transparency"] = colour * (255 // (2**bits - 1))
    elif image.mode == "RGB" and isinstance(colour, tuple) and bits == 16:
        image.info["transparency"] = tuple(value >> 8 for value in colour)


def _upright(image: Image.Image) -> Image.Image:
    """Turned as EXIF says, where EXIF can be read."""
    try:
        ImageOps.exif_transpose(image, in_place=True)
    except Exception:  # damaged EXIF; the picture itself is whole
        return image
    return image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        return _to_eight_bits(image)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        over = image if image.mode == "RGBA" else image.convert("RGBA")
        white = Image.new("RGB", over.size, (255, 255, 255))
        white.paste(over, mask=over)
        return white
    return image.convert("RGB")


def _to_eight_bits(image: Image.Image) -> Image.Image:
    """Grey of 16 bits, 32 bits or floats as RGB by range, where Pillow's own conversion clips at 255.

    16 bits reach to 65535 (a PGM's, too, which come in mode "I"), the others to the greatest value in the picture,
    floats at least to 1; what is negative or no number is black, a PNG's transparent grey white.
    """
    raw = np.asarray(image)
    values = raw.astype(np.float32)
    values[~np.isfinite(values)] = 0
    sixteen = image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM")
    top = 65535.0 if sixteen else max(1.0, float(values.max()))
    values *= 255.0 / top
    grey = values.round(out=values).clip(0, 255, out=values).astype(np.uint8)
    grey[raw == image.info.get("transparency")] = 255
    return Image.fromarray(grey).convert("RGB")


def _pad_to_square(image: Image.Image, mean: Sequence[float], size: int) -> Image.Image:
    """The picture in the middle of a square, which is to be resized to `size`.  A wide one has that width already, so
    that the rows above and below need not take part; the result is the same."""
    width, height = image.size
    side = max(width, height)
    if width == height:
        return image
    if side > MAX_SQUARE:
        scale = MAX_SQUARE / side
        width, height = max(1, round(width * scale)), max(1, round(height * scale))
        image, side = image.resize((width, height), Image.Resampling.BICUBIC), MAX_SQUARE
    across = side
    if width == side:
        image = resize_rows(image, size)
        across = width = size
    red, green, blue = (int(channel * 255) for channel in mean)
    square = Image.new("RGB", (across, side), (red, green, blue))
    square.paste(image, ((across - width) // 2, (side - height) // 2))
    return square
