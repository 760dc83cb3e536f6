"""What goes over the pipe of a camera's process: requests to it, and what it says.  All of it is frozen data."""

from __future__ import annotations

from dataclasses import dataclass

from dclocal.webcam import CameraState


@dataclass(frozen=True)
class OpenCamera:
    """The first request: a source as `webcam.Camera` takes it."""

    source: str


@dataclass(frozen=True)
class Look:
    """Send the newest picture whose number is greater than `after`, once there is one, its sides at most `side`."""

    after: int
    side: int


@dataclass(frozen=True)
class Take:
    """Send a whole picture: the one that was sent as number `shown`, else the newest.

    One of a `watch` (its number, from 1) is sent only if it differs from the one taken last for the same watch.
    """

    request: int
    shown: int | None = None
    watch: int = 0


@dataclass(frozen=True)
class Seen:
    """A small picture, a JPEG, for a `Look`: its number from 0, and the `size` of the whole one in pixels."""

    index: int
    size: tuple[int, int]
    jpeg: bytes


@dataclass(frozen=True)
class Taken:
    """A whole picture, a JPEG, for a `Take`."""

    request: int
    index: int
    jpeg: bytes


@dataclass(frozen=True)
class NotTaken:
    """There is no picture for a `Take`: why, "" where it has not changed."""

    request: int
    why: str = ""


Request = OpenCamera | Look | Take
Said = CameraState | Seen | Taken | NotTaken
