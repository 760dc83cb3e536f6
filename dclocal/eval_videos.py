"""The videos of a test made ready for questions: their frames, the middle one alone, or grey ones in their place."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dclocal.frames import VideoRequest, attach_video
from dclocal.sampling import frames_at, open_span, uniform_times
from dclocal.video import Frame, VideoError, VideoReader

if TYPE_CHECKING:
    from PIL.Image import Image

    from dclocal.chat import Attachment, ChatSession, Vision

GREY = (128, 128, 128)


@dataclass(frozen=True)
class Videos:
    """The videos in a test's folder and what is shown of each: `frames` of them, or the bundle's number; with
    `middle_frame` that one alone, as a picture."""

    folder: Path
    frames: int | None = None
    middle_frame: bool = False

    def path(self, name: str) -> Path:
        return self.folder.resolve() / name


class GreyReader(VideoReader):
    """Grey frames at the times of a video's own."""

    def take(self) -> Frame | None:
        frame = super().take()
        return frame and dataclasses.replace(frame, image=grey_picture())


class OneEncoding:
    """A vision encoder for pictures that are all the same: it encodes the first."""

    def __init__(self, vision: Vision):
        self._vision = vision
        self._embeds: np.ndarray | None = None

    def encode(self, pixels: np.ndarray) -> np.ndarray:
        """float32 `[n, 3, size, size]` to float32 `[n, tokens, n_embd]`."""
        if self._embeds is None:
            self._embeds = self._vision.encode(pixels[:1])
        return np.repeat(self._embeds, len(pixels), axis=0)


def grey_picture() -> Image:
    """What is shown where nothing is to be seen."""
    from PIL import Image

    return Image.new("RGB", (336, 336), GREY)


def middle_frame(file: Path) -> Image:
    """The frame that is shown halfway.  Raises VideoError where there is none."""
    with VideoReader(file) as reader:
        for frame in frames_at(reader, uniform_times(open_span(reader), 1)):
            return frame.image
        raise VideoError(f"{reader.name}: its middle cannot be decoded", "give the whole file")


def show_video(
    session: ChatSession, file: Path, frames: int | None, *, blind: bool, question: str, max_tokens: int
) -> tuple[Attachment, ...]:
    """A video's frames as attachments, room kept for `question` and its answer; with `blind` as many grey ones.

    Raises VideoError, or PromptError where they do not fit the context.
    """
    with (GreyReader if blind else VideoReader)(file) as reader:
        request = VideoRequest(frames=frames)
        return attach_video(session, reader, request, question=question, max_tokens=max_tokens).attachments
