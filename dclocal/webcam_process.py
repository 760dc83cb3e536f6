"""A camera in a process of its own, for programs that draw on the terminal and must not wait.

Native code that prints or crashes does it there; `close` lets the camera go at once, even where a stream stalls.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from dclocal.engine_process import ChildProcess, signal_name
from dclocal.webcam import CameraState
from dclocal.webcam_messages import Look, OpenCamera, Said, Take
from dclocal.webcam_source import shown_name


class FarCamera:
    """The camera `source`, as `webcam.Camera` takes it; `on_said` is called from a thread, never after `close`.

    Its process prints to the file `log`.  If it ends by itself that is told as a state "closed" with the problem.
    """

    def __init__(self, source: str, log: Path, on_said: Callable[[Said], None]):
        self.source, self.name = source, shown_name(source)
        self._on_said, self._closed, self._requests = on_said, False, 0
        self._child = ChildProcess("", log, self._heard, self._ended, module="dclocal.webcam_child")
        self._child.send(OpenCamera(source))

    @property
    def pid(self) -> int:
        """The process."""
        return self._child.pid

    def look(self, after: int, side: int) -> None:
        """Ask for the newest picture after number `after`, its sides at most `side`: Seen, once there is one."""
        self._child.send(Look(after, side))

    def take(self, shown: int | None = None, watch: int = 0) -> int:
        """Ask for a whole picture, see `Take`: Taken or NotTaken, which bear the number that is returned."""
        self._requests += 1
        self._child.send(Take(self._requests, shown, watch))
        return self._requests

    def close(self) -> None:
        """Let the camera go; does not wait."""
        self._closed = True
        self._child.kill()

    def _heard(self, said: Said) -> None:
        if not self._closed:
            self._on_said(said)

    def _ended(self, status: int, _: tuple[str, ...]) -> None:
        how = signal_name(status) or f"status {status}"
        self._heard(CameraState("closed", f"{self.name}: its process ended with {how}"))
