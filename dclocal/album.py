"""A conversation's pictures: numbered, known by content, decoded and encoded only where nothing is known of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from dclocal.chat_events import Attachment, ImageEncoded, Model, Vision
from dclocal.turns import milliseconds_since

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

    from dclocal.known_pictures import PictureMemory
    from dclocal.prompt import Rows


class Album:
    """Pictures by key.  `embeds` holds those that are encoded, `labels` the text before some of them.

    `memory` is what earlier runs found out about pictures.
    """

    def __init__(self, bundle: Model, vision: Vision, memory: PictureMemory | None):
        self._spec, self._newline = bundle.manifest.vision, bundle.read_newline()
        self._vision, self._memory = vision, memory
        self._numbers: dict[str, int] = {}
        self._images: dict[str, Callable[[], Image]] = {}
        self._encode_ms: dict[str, float] = {}
        self.embeds: dict[str, Rows] = {}
        self.labels: dict[str, str] = {}

    def add(self, load: Callable[[], Image], key: str) -> Attachment:
        """A picture by its `image_key`, to be loaded where nothing is known of it."""
        self._images.setdefault(key, load)
        return self._numbered(key)

    def add_embeds(self, key: str, embeds: np.ndarray, label: str, encode_ms: float) -> Attachment:
        """A picture that is encoded; see `ChatSession.attach_embeds`."""
        if key not in self.embeds:
            self.embeds[key], self._encode_ms[key], self.labels[key] = embeds, encode_ms, label
        return self._numbered(key)

    def remove(self, key: str) -> None:
        """Give back what a picture takes; its number stays taken."""
        for known in (self._images, self.embeds, self._encode_ms, self.labels):
            known.pop(key, None)

    def tokens(self, key: str) -> int:
        """How many a picture takes."""
        if self._knows(key):
            return len(self.embeds[key])
        from dclocal.picture import picture_tokens  # with Pillow, as in `encode`

        return picture_tokens(self._images[key]().size, self._spec)

    def encode(self, key: str) -> ImageEncoded:
        """See to it that a picture's embeddings are there, and say what that took."""
        if key in self._encode_ms:
            return ImageEncoded(key, False, self._encode_ms.pop(key))
        started = time.perf_counter()
        cached = self._knows(key)
        if not cached:
            from dclocal.picture import encode_picture

            embeds = encode_picture(self._images[key](), self._spec, self._vision.encode, self._newline)
            self.embeds[key] = embeds
            if self._memory:
                self._memory.keep_embeds(key, embeds)
        return ImageEncoded(key, cached, milliseconds_since(started))

    def _knows(self, key: str) -> bool:
        """Whether a picture's embeddings are there, or were found out by an earlier run."""
        if self._memory and key not in self.embeds and (known := self._memory.embeds(key)) is not None:
            self.embeds[key] = known
        return key in self.embeds

    def _numbered(self, key: str) -> Attachment:
        return Attachment(self._numbers.setdefault(key, len(self._numbers) + 1), key)
