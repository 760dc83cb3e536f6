"""Opening what a conversation needs: pictures first, so that bad input fails at once, then the two models together."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from dclocal.bundle import Bundle
from dclocal.errors import ImageError
from dclocal.images import MAX_FILE_BYTES, load_image

if TYPE_CHECKING:
    from PIL.Image import Image

    from dclocal.chat import ChatSession

STANDARD_INPUT = "-"


def load_images(sources: Sequence[str]) -> list[Image]:
    """Pictures from paths, URLs or, once, standard input ("-")."""
    if list(sources).count(STANDARD_INPUT) > 1:
        raise ImageError("- is named more than once", "standard input holds one picture")
    return [load_image(_read_standard_input() if source == STANDARD_INPUT else source) for source in sources]


def open_session(bundle: Bundle, *, system: str = "", threads: int | None = None) -> ChatSession:
    """A ready session; vision encoder and language model are loaded at the same time."""
    from dclocal.chat import ChatSession
    from dclocal.llm import LLM
    from dclocal.vision import VisionEncoder

    with ThreadPoolExecutor(1) as pool:
        vision = pool.submit(VisionEncoder, bundle, threads)
        llm = LLM(bundle.llm_path, n_ctx=bundle.manifest.n_ctx, threads=threads)
        return ChatSession(bundle, vision.result(), llm, system)


def _read_standard_input() -> bytes:
    if sys.stdin.isatty():
        raise ImageError("- reads the picture from standard input, which is a terminal", "pipe a file in: < photo.jpg")
    data = sys.stdin.buffer.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise ImageError(f"standard input has more than {MAX_FILE_BYTES:,} bytes", "give a smaller picture")
    return data
