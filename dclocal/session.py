"""Opening what a conversation needs: pictures first, so that bad input fails at once, then the two models together.

A bundle is run by this package; a PyTorch checkpoint by a backend that another package brings, found by name in
the entry-point group `dclocal.backends`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dclocal.background import Begun
from dclocal.bundle import Bundle
from dclocal.compiled import build_aside
from dclocal.errors import BundleError, ImageError, UserError
from dclocal.files import MAX_FILE_BYTES, read_source
from dclocal.progress import Progress, silent

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

    from dclocal.chat import ChatSession
    from dclocal.known_pictures import KnownPictures
    from dclocal.llm import LLM
    from dclocal.vision import VisionEncoder

STANDARD_INPUT = "-"
BACKENDS = "dclocal.backends"
TORCH = "torch"


@dataclass(frozen=True)
class Picture:
    """A picture to ask about, by its `image_key`; it is decoded where nothing is known of it."""

    key: str
    load: Callable[[], Image]


def open_pictures(
    sources: Sequence[str], known: KnownPictures | None = None, vision: LateVision | None = None
) -> list[Picture]:
    """Pictures from paths, URLs or, once, standard input ("-").

    A file is recognized by its bytes where `known` has met them before; others are decoded, while `vision` begins to
    load.  Raises ImageError.
    """
    if list(sources).count(STANDARD_INPUT) > 1:
        raise ImageError("- is named more than once", "standard input holds one picture")
    return [_open_picture(source, known, vision) for source in sources]


def _open_picture(source: str, known: KnownPictures | None, vision: LateVision | None) -> Picture:
    data, name = (_read_standard_input(), "the image data") if source == STANDARD_INPUT else read_source(source)
    key = known.key_of(data) if known else None
    if key is not None:
        return Picture(key, partial(_decode, data, name))
    if vision:
        vision.load()
    image = _decode(data, name)
    key = _key(image)
    if known:
        Begun(known.keep_key, data, key)
    return Picture(key, lambda: image)


def _decode(data: bytes, name: str) -> Image:
    from dclocal.images import decode  # with Pillow, which takes its time

    return decode(data, name)


def _key(image: Image) -> str:
    from dclocal.images import image_key

    return image_key(image)


def open_session(
    bundle: Bundle,
    *,
    system: str = "",
    threads: int | None = None,
    lora: Sequence[str] = (),
    known: KnownPictures | None = None,
    keys: Sequence[str] | None = None,
    llm: Begun[LLM] | None = None,
    vision: LateVision | None = None,
) -> ChatSession:
    """A ready session; vision encoder and language model are loaded at the same time.

    `lora` chooses adapters as `adapters.choose` reads them, all of the bundle's at their scales where it is empty.
    `known` are pictures of earlier runs, and keeps those of this one.  `keys` are those of the pictures
    that are asked about first, where that is certain: if all are known, or there are none, the vision encoder is only
    loaded once another picture needs it.
    `llm` is what `begin_llm` began with the same adapters and threads, and `vision` the bundle's, with these threads.
    """
    from dclocal.chat import ChatSession
    from dclocal.known_pictures import PictureMemory

    vision = vision or LateVision(bundle, threads)
    if keys is None or not all(known and known.knows(key) for key in keys):
        vision.load()
    elif known and keys:
        known.expect(keys[0])
    try:
        opened = llm.result() if llm else open_llm(bundle, _scales(bundle, lora), threads)
    finally:
        vision.wait()
    memory = PictureMemory(known, opened) if known else None
    text_llm = LateTextLLM(bundle, opened) if bundle.manifest.text_llm else None
    return ChatSession(bundle, vision, opened, system, memory, text_llm)


def begin_llm(
    bundle: Bundle,
    *,
    lora: Sequence[str] = (),
    threads: int | None = None,
    model: Begun[Any] | None = None,
    settled: bool = False,
) -> Begun[LLM]:
    """Begin to load the bundle's language model in the background; see `open_session`, and `LLM` for `settled`.

    `model` is what `llama_model.load_model` is making of its file already.
    """
    from dclocal.llama_model import load_model

    scales = _scales(bundle, lora)
    loading = model or Begun(load_model, bundle.llm_path)
    import dclocal.llm  # noqa: F401  (here, so that the thread need not wait for others' imports)

    opening = Begun(lambda: open_llm(bundle, scales, threads, loading.result(), settled))
    build_aside()  # here it takes nobody's time
    return opening


def _scales(bundle: Bundle, lora: Sequence[str]) -> Mapping[str, float]:
    from dclocal.adapters import choose, default_scales

    adapters = bundle.manifest.adapters
    return choose(adapters, lora) if lora else default_scales(adapters)


class LateVision:
    """A bundle's vision encoder, loaded in the background by `load`, or when the first picture comes."""

    def __init__(self, bundle: Bundle, threads: int | None):
        self._bundle, self._threads = bundle, threads
        self._loading: Begun[VisionEncoder] | None = None

    def load(self) -> None:
        """Begin to load it."""
        if self._loading is None:
            self._loading = Begun(_open_vision, self._bundle, self._threads)

    def wait(self) -> None:
        """Until what was begun is done; raises BundleError where it cannot be loaded."""
        if self._loading is not None:
            self._loading.result()

    @property
    def encoded_images(self) -> int:
        """How many pictures were encoded."""
        return self._loading.result().encoded_images if self._loading else 0

    def encode(self, pixels: np.ndarray) -> np.ndarray:
        """float32 `[n, 3, size, size]` to float32 `[n, tokens, n_embd]`."""
        self.load()
        assert self._loading is not None
        return self._loading.result().encode(pixels)


def _open_vision(bundle: Bundle, threads: int | None) -> VisionEncoder:
    from dclocal.vision import VisionEncoder  # by the thread that loads it: numpy, and ONNX Runtime after it

    return VisionEncoder(bundle, threads)


class LateTextLLM:
    """The bundle's language model for text alone, loaded when the first question without a picture comes.

    `llm` is the one for pictures.  Its adapters are nobody else's, so it answers all questions while it has any.
    """

    def __init__(self, bundle: Bundle, llm: LLM):
        self._bundle, self._llm = bundle, llm
        self._opened: LLM | None = None

    def __call__(self) -> LLM:
        if self._llm.adapters:
            return self._llm
        if self._opened is None:
            self._opened = open_text_llm(self._bundle, self._llm.threads)
        return self._opened


def open_text_llm(bundle: Bundle, threads: int | None = None) -> LLM:
    """The language model that answers where no picture was shown."""
    from dclocal.llm import LLM

    return LLM(bundle.text_llm_path, n_ctx=bundle.manifest.n_ctx, threads=threads)


def open_llm(
    bundle: Bundle,
    scales: Mapping[str, float],
    threads: int | None = None,
    model: Any = None,
    settled: bool = False,
) -> LLM:
    """The bundle's language model with adapters at `scales` by name; `adapters.default_scales` has its own.

    `model` is what `llama_model.load_model` made of its file, where that was begun before; for `settled` see `LLM`.
    """
    from dclocal.llm import LLM

    if model is None:
        build_aside()
    files = {adapter.name: bundle.path / adapter.file for adapter in bundle.manifest.adapters}
    llm = LLM(
        bundle.llm_path, n_ctx=bundle.manifest.n_ctx, threads=threads, adapters=files, model=model, settled=settled
    )
    try:
        llm.use_adapters(scales)
    except BaseException:
        llm.close()
        raise
    return llm


def open_checkpoint_session(
    folder: Path,
    *,
    load_in_4bit: bool = False,
    system: str = "",
    threads: int | None = None,
    progress: Progress = silent,
) -> ChatSession:
    """A ready session on a PyTorch checkpoint, not yet exported.

    Raises UserError where no backend for it is installed, or the folder is not a whole checkpoint.
    """
    from importlib.metadata import entry_points

    from dclocal.chat import ChatSession

    if not folder.is_dir():  # said before PyTorch is loaded, which takes seconds
        raise BundleError(f"there is no folder {folder}", "name a checkpoint's folder")
    backend = next(iter(entry_points(group=BACKENDS, name=TORCH)), None)
    if backend is None:
        raise UserError("nothing here runs PyTorch checkpoints", "pip install 'dclocal[train]'")
    open_backend = backend.load()
    model, vision, llm = open_backend(folder, load_in_4bit=load_in_4bit, threads=threads, progress=progress)
    return ChatSession(model, vision, llm, system)


def _read_standard_input() -> bytes:
    if sys.stdin.isatty():
        raise ImageError("- reads the picture from standard input, which is a terminal", "pipe a file in: < photo.jpg")
    data = sys.stdin.buffer.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise ImageError(f"standard input has more than {MAX_FILE_BYTES:,} bytes", "give a smaller picture")
    return data
