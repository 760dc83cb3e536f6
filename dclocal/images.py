"""Bytes to RGB to pixel tensor; every limit on untrusted images is here.

A picture is bounded in bytes before it is read, in pixels before it is decoded, and in format by name.
"""

from __future__ import annotations

import hashlib
import io
import stat
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from dclocal.bundle import ImageSpec
from dclocal.errors import ImageError

FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "AVIF", "MPO")
MAX_PIXELS = 128_000_000
MAX_FILE_BYTES = 256 << 20
MAX_SQUARE = 4096
"""A picture whose padded square would have longer sides than this is shrunk before it is padded."""


def load_image(source: str | Path | bytes) -> Image.Image:
    """The picture as RGB, upright (EXIF), its first frame, transparency over white.

    `source` is a path, an http(s) URL or the bytes of a file.  Raises ImageError.
    """
    if isinstance(source, bytes):
        return decode(source, "the image data")
    if isinstance(source, str) and source.startswith(("http://", "https://")):
        from dclocal.fetch import fetch_url

        return decode(fetch_url(source), source)
    path = Path(source).expanduser()
    return decode(_read_file(path), str(path))


def decode(data: bytes, name: str) -> Image.Image:
    """The picture in `data`; `name` is what errors call it."""
    if not data:
        raise ImageError(f"{name} is empty", "give a picture")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's own, looser bound on pixels; ours follows
            image = Image.open(io.BytesIO(data), formats=_known_formats())
            _check_size(image, name)
            image.load()
            return _to_rgb(ImageOps.exif_transpose(image))
    except (UnidentifiedImageError, Image.DecompressionBombError) as error:
        if isinstance(error, Image.DecompressionBombError):
            raise ImageError(f"{name} claims far too many pixels", f"use at most {MAX_PIXELS:,}") from error
        raise ImageError(f"{name} is not a picture that can be read", f"known formats: {', '.join(FORMATS)}") from error
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, MemoryError) as error:
        reason = "is truncated" if "truncated" in str(error).lower() else "is damaged"
        raise ImageError(f"{name} {reason} ({error})", "give the whole file") from error


def to_pixels(images: Sequence[Image.Image], spec: ImageSpec) -> np.ndarray:
    """Normalised pixels, float32 `[n, 3, size, size]`: fitted, resized bicubic with antialiasing, (value − mean)/std.

    Fit "pad" squares a picture with the mean colour, centred, as LLaVA does; "stretch" does not keep its shape.
    """
    mean, std = np.asarray(spec.mean, np.float32), np.asarray(spec.std, np.float32)
    pixels = np.empty((len(images), 3, spec.size, spec.size), np.float32)
    for index, image in enumerate(images):
        if spec.fit == "pad":
            image = _pad_to_square(image, spec.mean)
        if image.size != (spec.size, spec.size):
            image = image.resize((spec.size, spec.size), Image.Resampling.BICUBIC)
        values = np.asarray(image, np.float32) / np.float32(255)
        pixels[index] = ((values - mean) / std).transpose(2, 0, 1)
    return pixels


def image_key(image: Image.Image) -> str:
    """A name for the content: 32 hexadecimal characters of SHA-256 over size and RGB values."""
    digest = hashlib.sha256(repr(image.size).encode())
    digest.update(image.tobytes())
    return digest.hexdigest()[:32]


def _read_file(path: Path) -> bytes:
    """The bytes of a regular file of bounded size."""
    try:
        status = path.stat()
    except OSError as error:
        problem = "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be opened ({error.strerror})"
        raise ImageError(f"{path} {problem}", "check the path") from error
    if stat.S_ISDIR(status.st_mode):
        raise ImageError(f"{path} is a folder", "name a picture in it")
    if not stat.S_ISREG(status.st_mode):
        raise ImageError(f"{path} is not a regular file", "name a picture, or pipe it in as -")
    if status.st_size > MAX_FILE_BYTES:
        raise ImageError(f"{path} has {status.st_size:,} bytes", f"use at most {MAX_FILE_BYTES:,}")
    try:
        return path.read_bytes()
    except OSError as error:
        raise ImageError(f"{path} cannot be read ({error.strerror})", "check its permissions") from error


def _known_formats() -> list[str]:
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _check_size(image: Image.Image, name: str) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ImageError(f"{name} claims {width:,}×{height:,} pixels", f"use at most {MAX_PIXELS:,} in all")
    if width < 1 or height < 1:
        raise ImageError(f"{name} has no pixels", "give a picture")


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        image = _to_eight_bits(image)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        over = image.convert("RGBA")
        white = Image.new("RGBA", over.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, over).convert("RGB")
    return image.convert("RGB")


def _to_eight_bits(image: Image.Image) -> Image.Image:
    """16-bit and 32-bit grey to 8 bits by range, where Pillow's own conversion clips at 255."""
    values = np.asarray(image).astype(np.float32)
    top = 65535.0 if image.mode.startswith("I") else max(1.0, float(values.max()))
    return Image.fromarray(np.round(values * (255.0 / top)).clip(0, 255).astype(np.uint8))


def _pad_to_square(image: Image.Image, mean: Sequence[float]) -> Image.Image:
    width, height = image.size
    side = max(width, height)
    if width == height:
        return image
    if side > MAX_SQUARE:
        scale = MAX_SQUARE / side
        width, height = max(1, round(width * scale)), max(1, round(height * scale))
        image, side = image.resize((width, height), Image.Resampling.BICUBIC), MAX_SQUARE
    red, green, blue = (int(channel * 255) for channel in mean)
    square = Image.new("RGB", (side, side), (red, green, blue))
    square.paste(image, ((side - width) // 2, (side - height) // 2))
    return square
