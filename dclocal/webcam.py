"""A camera: a thread that always holds its newest picture, connects again when it is lost, and says how it is doing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dclocal.errors import UserError
from dclocal.video import Frame
from dclocal.webcam_source import CameraError, Source, kind_of, open_source, shown_name

if TYPE_CHECKING:
    import numpy as np

FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 8.0
"""Between two attempts to connect, doubling from the first to the longest."""
BLACK_MEAN, BLACK_S = 4.0, 2.0
"""A picture darker than this on average (of 255), for so long, is called black."""
BLACK_STEP = 8


@dataclass(frozen=True)
class CameraState:
    """opening, live, black, missing, busy, lost, ended or closed; `problem` says why in one line where there is one."""

    name: str
    problem: str = ""


class Camera:
    """The newest picture of a device number, /dev/videoN, an http(s) or rtsp address, or a video file in real time.

    `on_state` may be set: it is called from the camera's thread whenever the state changes.  Frames count from 0, over
    interruptions too; their `time_s` is a file's own, else the seconds since the camera was opened.  Any thread may
    call.  Raises CameraError for an address that is none.
    """

    def __init__(self, source: str):
        self.name = shown_name(source)
        self.on_state: Callable[[CameraState], None] | None = None
        self._source = source
        self._returns = kind_of(source) != "file"
        self._state = CameraState("opening")
        self._failure: UserError | None = None
        self._newest: tuple[np.ndarray, float, int] | None = None
        self._count = 0
        self._dark_since: float | None = None
        self._started = time.monotonic()
        self._closed = threading.Event()
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="camera", daemon=True)
        self._thread.start()

    @property
    def state(self) -> CameraState:
        return self._state

    @property
    def over(self) -> bool:
        """Whether no picture will ever come again."""
        return self._state.name in ("ended", "closed")

    def newest(self, after: int = -1, timeout_s: float = 0.0) -> Frame | None:
        """The newest frame, if its number is greater than `after`; waits for one up to `timeout_s`, else None."""
        from PIL import Image

        with self._changed:
            self._changed.wait_for(lambda: self._count - 1 > after or self.over, timeout_s)
            if self._newest is None or self._newest[2] <= after:
                return None
            pixels, time_s, index = self._newest
        return Frame(Image.fromarray(pixels), time_s, index)

    def first(self, timeout_s: float = 12.0) -> Frame:
        """The newest frame once there is one.  Raises UserError as soon as opening failed, or after `timeout_s`."""
        with self._changed:
            self._changed.wait_for(lambda: self._count or self._failure or self.over, timeout_s)
        if frame := self.newest():
            return frame
        raise self._failure or CameraError("lost", f"{self.name} gives no pictures", "check that it is on")

    def close(self) -> None:
        """Let the device go and end the thread: at once, or when a stalled stream's time is up."""
        self._closed.set()
        self._thread.join()
        self._set(CameraState("closed"))

    def __enter__(self) -> Camera:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self) -> None:
        wait_s = FIRST_WAIT_S
        while not self._closed.is_set():
            before = self._count
            try:
                with closing(open_source(self._source)) as source:
                    self._follow(source)
                after = CameraState("lost", f"{self.name} stopped giving pictures")
            except UserError as error:
                self._failure = error
                after = CameraState(error.state if isinstance(error, CameraError) else "missing", str(error))
            except Exception as error:  # a thread has no one above it to tell
                self._failure = CameraError("lost", f"{self.name}: {' '.join(str(error).split())}")
                after = CameraState("lost", str(self._failure))
            if self._closed.is_set():
                return
            if not self._returns:
                self._set(CameraState("ended", after.problem if self._failure else ""))
                return
            self._set(after)
            wait_s = FIRST_WAIT_S if self._count > before else wait_s
            self._closed.wait(wait_s)
            wait_s = min(2 * wait_s, LONGEST_WAIT_S)

    def _follow(self, source: Source) -> None:
        """Hold each picture as it comes, until there are no more."""
        while not self._closed.is_set() and (read := source.read(self._closed.is_set)) is not None:
            pixels, time_s = read
            now = time.monotonic()
            self._set(self._seen(pixels, now))
            with self._changed:
                self._newest = pixels, now - self._started if time_s is None else time_s, self._count
                self._count += 1
                self._changed.notify_all()

    def _seen(self, pixels: np.ndarray, now: float) -> CameraState:
        """live, or black once it has been dark for BLACK_S."""
        if pixels[::BLACK_STEP, ::BLACK_STEP].mean() >= BLACK_MEAN:
            self._dark_since = None
            return CameraState("live")
        self._dark_since = self._dark_since or now
        if now - self._dark_since < BLACK_S:
            return self._state if self._state.name == "black" else CameraState("live")
        return CameraState("black", f"{self.name} shows black: is the lens covered?")

    def _set(self, state: CameraState) -> None:
        with self._changed:
            if state == self._state:
                return
            self._state = state
            self._changed.notify_all()
        if self.on_state:
            self.on_state(state)
