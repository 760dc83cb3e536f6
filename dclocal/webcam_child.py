"""A camera's process: holds the newest picture, sends small ones to look at and whole ones to ask about.

What prints in here (OpenCV, FFmpeg, libjpeg) goes to standard error, which the parent keeps.  The process ends, and
lets the camera go, when its parent does.
"""

from __future__ import annotations

import io
import os
import pickle
import queue
import signal
import threading
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from dclocal.engine_child import take_pipes
from dclocal.errors import UserError
from dclocal.webcam import Camera, CameraState
from dclocal.webcam_messages import Look, NotTaken, OpenCamera, Request, Said, Seen, Take, Taken
from dclocal.window import same_picture, thumbnail

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

    from dclocal.video import Frame

LOOK_QUALITY, TAKE_QUALITY = 80, 95
WAIT_S = 0.5
SHOWN_KEPT = 2
"""Whole pictures kept of those sent small: one on the screen, one on its way there."""


def main(_: str) -> None:
    """Work until the parent closes the pipe or dies."""
    import faulthandler

    requests, events = take_pipes()
    faulthandler.enable()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sending = threading.Lock()

    def send(said: Said) -> None:
        try:
            with sending:
                events.write(pickle.dumps(said))
                events.flush()
        except OSError:  # nobody listens any more
            os._exit(0)

    desk = CameraDesk(send)
    try:
        while True:
            desk.carry_out(pickle.load(requests))
    except (EOFError, OSError, pickle.UnpicklingError):
        os._exit(0)  # a stalled stream is not waited for


class CameraDesk:
    """Carries out requests on one camera; `send` is called from several threads."""

    def __init__(self, send: Callable[[Said], None]):
        self._send = send
        self._camera: Camera | None = None
        self._telling = threading.Lock()
        self._looks: queue.SimpleQueue[Look | None] = queue.SimpleQueue()
        self._shown: deque[Frame] = deque(maxlen=SHOWN_KEPT)
        self._watched: tuple[int, np.ndarray] | None = None  # the watch, and what it saw last

    def carry_out(self, request: Request) -> None:
        """Answer a request at once; a look when there is a picture."""
        if isinstance(request, OpenCamera):
            self._open(request.source)
        elif isinstance(request, Look):
            self._looks.put(request)
        elif isinstance(request, Take):
            self._send(self._take(request))

    def close(self) -> None:
        """Let the camera go."""
        self._looks.put(None)
        if self._camera is not None:
            self._camera.close()

    def _open(self, source: str) -> None:
        try:
            self._camera = Camera(source)
        except UserError as error:
            self._send(CameraState("missing", str(error)))
            return
        self._camera.on_state = lambda _: self._tell_state()
        self._tell_state()
        threading.Thread(target=self._show, args=(self._camera,), name="looks", daemon=True).start()

    def _tell_state(self) -> None:
        """Send the state as it is now: two threads that tell it may come in either order."""
        with self._telling:
            if self._camera is not None:
                self._send(self._camera.state)

    def _show(self, camera: Camera) -> None:
        while (look := self._looks.get()) is not None:
            frame = None
            while frame is None and not camera.over:
                frame = camera.newest(look.after, WAIT_S)
            frame = frame or camera.newest(look.after)
            if frame is not None:
                self._shown.append(frame)
                small = frame.image.copy()
                small.thumbnail((look.side, look.side))
                self._send(Seen(frame.index, frame.image.size, jpeg(small, LOOK_QUALITY)))

    def _take(self, take: Take) -> Taken | NotTaken:
        shown = [frame for frame in self._shown if frame.index == take.shown]
        frame = shown[0] if shown else self._camera and self._camera.newest()
        if not frame:
            name = self._camera.name if self._camera else "the camera"
            return NotTaken(take.request, f"{name} has given no picture yet — wait for one")
        if take.watch:
            small = thumbnail(frame.image)
            last, self._watched = self._watched, (take.watch, small)
            if last is not None and last[0] == take.watch and same_picture(small, last[1]):
                self._watched = last
                return NotTaken(take.request)
        return Taken(take.request, frame.index, jpeg(frame.image, TAKE_QUALITY))


def jpeg(image: Image, quality: int) -> bytes:
    """A picture as a file."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()
