"""The picture in the system's clipboard, which a terminal's paste leaves out: a PNG file's bytes, or paths."""

from __future__ import annotations

import io
import sys
import threading
from typing import TYPE_CHECKING

from dclocal.errors import UserError
from dclocal.files import printable
from dclocal.images import MAX_PIXELS
from dclocal_tui.paths import kind_of

if TYPE_CHECKING:
    from PIL.Image import Image

LIMIT_S = 10.0
BY_FILE = "save the picture to a file, attach that"
FAST = 1  # zlib's level: the picture is decoded again at once


class ClipboardError(UserError):
    """There is no clipboard to read, or no picture in it."""


def grab(limit_s: float = LIMIT_S) -> bytes | tuple[str, ...]:
    """The clipboard's picture as a PNG file, or the paths of media files that were copied there.

    Read in a thread of its own, which is left behind when the time is up: the program that owns the clipboard may
    never answer.  Raises ClipboardError.
    """
    outcome: list[bytes | tuple[str, ...] | BaseException] = []

    def work() -> None:
        try:
            outcome.append(_grab())
        except BaseException as error:
            outcome.append(error)

    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    worker.join(limit_s)
    if not outcome:
        raise ClipboardError(f"the clipboard gave no picture within {limit_s:.0f} s", BY_FILE)
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    return outcome[0]


def _grab() -> bytes | tuple[str, ...]:
    from PIL import ImageGrab

    try:
        found = ImageGrab.grabclipboard()
        if found is None:
            raise ClipboardError("there is no picture in the clipboard", "copy one, then paste")
        return _media_files(found) if isinstance(found, list) else _png(found)
    except UserError:
        raise
    except NotImplementedError as error:
        raise ClipboardError("no program here reads the clipboard", _what_to_install()) from error
    except Exception as error:  # the tool's own failure, or a picture that Pillow cannot read
        reason = printable(" ".join(str(error).split())) or type(error).__name__
        raise ClipboardError(f"the clipboard cannot be read ({reason})", BY_FILE) from error


def _media_files(paths: list[str]) -> tuple[str, ...]:
    media = tuple(path for path in paths if kind_of(path))
    if not media:
        raise ClipboardError("the copied files are neither pictures nor videos", "copy a picture")
    return media


def _png(image: Image) -> bytes:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ClipboardError(f"the clipboard has {width:,}×{height:,} pixels", f"copy at most {MAX_PIXELS:,} in all")
    file = io.BytesIO()
    image.convert("RGBA" if image.has_transparency_data else "RGB").save(file, "PNG", compress_level=FAST)
    return file.getvalue()


def _what_to_install() -> str:
    if sys.platform in ("darwin", "win32"):
        return BY_FILE
    return "install wl-clipboard (Wayland) or xclip (X11); over SSH, attach a file"
