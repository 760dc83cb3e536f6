"""Media in the engine: pictures and videos attached by what people name, known to the session as pictures by key."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from dclocal.engine_messages import Attached, BundleFacts, FrameRoom, Media
from dclocal.errors import PromptError
from dclocal.progress import Progress

if TYPE_CHECKING:
    from PIL.Image import Image

    from dclocal.chat import Attachment, ChatSession

THUMBNAIL_SIDE = 256
MAX_THUMBNAIL_BYTES = 64 << 10
LONG_S = 9999.9
"""Where a frame's time stands before it, the tokens of this time are reckoned with."""


class MediaShelf:
    """What was attached to one session: for each medium's key the pictures that it is in the conversation."""

    def __init__(self, session: ChatSession):
        self._session = session
        self._pictures: dict[str, tuple[Attachment, ...]] = {}

    def attach(self, media: Media, progress: Progress, stopped: Callable[[], bool]) -> Attached:
        """Make it known; the event belongs to request 0.  Raises ImageError, VideoError or PromptError."""
        return self._attach_picture(media) if media.video is None else self._attach_video(media, progress, stopped)

    def attachments(self, keys: Sequence[str]) -> list[Attachment]:
        """The pictures of these media, in order; raises PromptError for one that is not there."""
        for key in keys:
            if key not in self._pictures:
                raise PromptError(f"no picture {key!r:.40} is attached", "attach it again")
        return [picture for key in keys for picture in self._pictures[key]]

    def detach(self, key: str) -> None:
        """Give back what a medium takes, unless a turn or another medium shows it."""
        if any(picture.key in turn.question.images for turn in self._session.turns for picture in self._of(key)):
            return
        pictures = self._pictures.pop(key, ())
        kept = {picture for others in self._pictures.values() for picture in others}
        for picture in set(pictures) - kept:
            self._session.detach(picture)

    def _of(self, key: str) -> tuple[Attachment, ...]:
        return self._pictures.get(key, ())

    def _attach_picture(self, media: Media) -> Attached:
        from dclocal.images import load_image
        from dclocal.picture import picture_tokens

        image = load_image(media.source)
        picture = self._session.attach(image)
        self._pictures[picture.key] = (picture,)
        tokens = picture_tokens(image.size, self._session.bundle.manifest.vision)
        return Attached(0, picture.key, "image", media_name(media), tokens, image.size, thumbnail(image))

    def _attach_video(self, media: Media, progress: Progress, stopped: Callable[[], bool]) -> Attached:
        from dclocal.frames import attach_video
        from dclocal.video import VideoError, VideoReader

        if isinstance(media.source, bytes) or media.video is None:
            raise VideoError("a video's bytes cannot be read", "name a file")
        with VideoReader(media.source) as reader:
            first = reader.take()
            reader.reopen()
            attached = attach_video(self._session, reader, media.video, progress=progress, stop=stopped)
            size = (reader.info.width, reader.info.height)
        key = hashlib.sha256("\n".join(picture.key for picture in attached.attachments).encode()).hexdigest()[:32]
        self._pictures[key] = attached.attachments
        return Attached(
            0,
            key,
            "video",
            media_name(media),
            len(attached.frames) * attached.tokens_per_frame,
            size if first is None else first.image.size,
            b"" if first is None else thumbnail(first.image),
            tuple(frame.time_s for frame in attached.frames),
            attached.summary,
        )


def media_name(media: Media) -> str:
    """What people call it: its given name, else the end of its path."""
    if media.name:
        return media.name
    return "picture" if isinstance(media.source, bytes) else os.path.basename(media.source) or media.source


def thumbnail(image: Image) -> bytes:
    """A small JPEG of a picture, sides of at most 256 pixels, at most 64 KiB."""
    small = image.copy()
    small.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    for quality in (80, 50, 20):
        buffer = io.BytesIO()
        small.save(buffer, "JPEG", quality=quality)
        if buffer.tell() <= MAX_THUMBNAIL_BYTES:
            return buffer.getvalue()
    return b""


def bundle_facts(session: ChatSession) -> BundleFacts:
    """What the session's bundle is, for people; a checkpoint has neither a size nor a path."""
    manifest, bundle = session.bundle.manifest, session.bundle
    known: Any = bundle
    vision = manifest.vision
    return BundleFacts(
        name=manifest.name,
        description=manifest.description,
        path=str(getattr(known, "path", "")),
        size_bytes=int(getattr(known, "size_bytes", 0)),
        n_ctx=session.llm.n_ctx,
        tokens=vision.tokens,
        size=vision.image.size,
        backbone=vision.backbone,
        connector=vision.connector,
        vision_precision=vision.precision,
        llm_quantization=manifest.llm_quantization,
        sampling=manifest.sampling,
        video=manifest.video,
        adapters=tuple(adapter.name for adapter in manifest.adapters),
        licences=dict(manifest.licences),
        frame_room=frame_room(session),
    )


def frame_room(session: ChatSession) -> FrameRoom:
    """What the frames of a video of up to LONG_S seconds have room in."""
    from dclocal.frames import reserved_tokens, tokens_beside_frame
    from dclocal.sampling import Span
    from dclocal.video_plan import frame_choices

    manifest = session.bundle.manifest
    return FrameRoom(
        session.llm.n_ctx,
        reserved_tokens(session, None, None),
        tokens_beside_frame(session, manifest.video, Span(0.0, LONG_S, LONG_S, 1)),
        frame_choices(manifest.vision, manifest.video.pool),
    )
