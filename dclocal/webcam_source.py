"""Where live pictures come from: a device, a stream from the network, or a video file in real time.

FFmpeg opens streams with an allowance of their own, which has no files in it, as that for files has no network.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

from dclocal.errors import UserError
from dclocal.files import printable
from dclocal.images import MAX_PIXELS
from dclocal.video import FILE_OPTIONS, OPENING, OPTIONS_VARIABLE, VideoReader, import_cv2

if TYPE_CHECKING:
    import numpy as np

TIMEOUT_MS = 5000
SCHEMES = ("http", "https", "rtsp")
STREAM_OPTIONS = (
    "protocol_whitelist;http,https,rtsp,tcp,tls|format_whitelist;mpjpeg,mjpeg,mpegts,flv,h264,hevc,rtsp"
    "|rtsp_transport;tcp|fflags;nobuffer|analyzeduration;1000000|probesize;1000000"
)


class CameraError(UserError):
    """A camera that gives no pictures; `state` is missing, busy or lost."""

    def __init__(self, state: str, problem: str, remedy: str = ""):
        super().__init__(problem, remedy)
        self.state = state


class Source(Protocol):
    """Pictures as they come, once opened; `read` waits for the next one."""

    def read(self, stop: Callable[[], bool]) -> tuple[np.ndarray, float | None] | None:
        """uint8 `[height, width, 3]` in RGB and, where the source has times of its own, its time in seconds.

        None at the end, where nothing comes for TIMEOUT_MS, or once `stop` says so.
        """

    def close(self) -> None: ...


def kind_of(source: str) -> str:
    """device (a number or /dev/…), stream (a URL) or file.  Raises CameraError for a URL that is not one of SCHEMES."""
    if re.fullmatch(r"\d{1,3}", source, re.ASCII) or source.startswith("/dev/"):
        return "device"
    if "://" not in source:
        return "file"
    try:
        parts = urlsplit(source)
        known = parts.scheme.lower() in SCHEMES and bool(parts.hostname)
    except ValueError:
        known = False
    if not known or not source.isprintable():
        raise CameraError(
            "missing", f"{shown_name(source)} is no address of a camera", f"start it with {'://, '.join(SCHEMES)}://"
        )
    return "stream"


def shown_name(source: str) -> str:
    """The source as messages name it: an address without its password."""
    if re.fullmatch(r"\d{1,3}", source, re.ASCII):
        return f"camera {source}"
    return printable(re.sub(r"(?<=://)[^/?#]*@", "", source))


def open_source(source: str) -> Source:
    """Raises CameraError, or VideoError for a file."""
    kind = kind_of(source)
    if kind == "file":
        return _File(source)
    return _Capture(_open_device(source) if kind == "device" else _open_stream(source), shown_name(source))


class _Capture:
    """OpenCV's capture of a device or a stream."""

    def __init__(self, capture: Any, name: str):
        self._capture, self._name, self._cv2 = capture, name, import_cv2()

    def read(self, stop: Callable[[], bool]) -> tuple[np.ndarray, float | None] | None:
        cv2 = self._cv2
        try:
            whole, pixels = self._capture.read()
        except cv2.error:
            return None
        if not whole or pixels is None or not pixels.size:
            return None
        if pixels.shape[0] * pixels.shape[1] > MAX_PIXELS:
            raise CameraError("lost", f"{self._name} has more than {MAX_PIXELS:,} pixels", "choose a smaller picture")
        return cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB if pixels.ndim == 2 else cv2.COLOR_BGR2RGB), None

    def close(self) -> None:
        self._capture.release()


class _File:
    """A video file, its frames when they are due; those that are overdue are passed over."""

    def __init__(self, path: str):
        self._reader = VideoReader(path)
        self._started: float | None = None

    def read(self, stop: Callable[[], bool]) -> tuple[np.ndarray, float | None] | None:
        import numpy as np

        reader = self._reader
        self._started = self._started or time.monotonic()
        frame = reader.take()
        while frame is not None and (next_s := reader.next_time_s) is not None and next_s <= self._played_s():
            if stop():
                return None
            frame = reader.take() or frame
        while frame is not None and (early := frame.time_s - self._played_s()) > 0:
            if stop():
                return None
            time.sleep(min(early, 0.1))
        return None if frame is None else (np.asarray(frame.image), frame.time_s)

    def close(self) -> None:
        self._reader.close()

    def _played_s(self) -> float:
        return time.monotonic() - (self._started or 0.0)


def _open_device(source: str) -> Any:
    cv2 = import_cv2()
    linux = sys.platform.startswith("linux")
    path = source if source.startswith("/dev/") else f"/dev/video{source}"
    if linux:
        _check_device(path, source)
    try:
        wanted: Any = path if source.startswith("/dev/") or linux else int(source)
        capture = cv2.VideoCapture(wanted, cv2.CAP_V4L2 if linux else cv2.CAP_ANY)
        opened = capture.isOpened()
    except (cv2.error, SystemError, TypeError, UnicodeError):
        opened = False
    if not opened:
        raise CameraError(
            "busy" if linux else "missing",
            f"{shown_name(source)} cannot be opened",
            "close the program that is using it, or name another camera",
        )
    capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
    return capture


def _check_device(path: str, source: str) -> None:
    """Say why a device cannot be had, as far as Linux tells before it is opened."""
    name = path if path == source else f"{shown_name(source)} ({path})"
    if not os.path.exists(path):
        known = sorted(entry for entry in os.listdir("/dev") if re.fullmatch(r"video\d+", entry))
        there = f"there are /dev/{', /dev/'.join(known)}" if known else "plug a camera in"
        raise CameraError("missing", f"{name} does not exist", there)
    if not os.access(path, os.R_OK | os.W_OK):
        raise CameraError("missing", f"{name} may not be opened", "add yourself to the group video")


def _open_stream(source: str) -> Any:
    cv2 = import_cv2()
    limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, TIMEOUT_MS, cv2.CAP_PROP_READ_TIMEOUT_MSEC, TIMEOUT_MS]
    try:
        with _streams_allowed():
            capture = cv2.VideoCapture(source, cv2.CAP_FFMPEG, limits)
            opened = capture.isOpened()
    except (cv2.error, SystemError, TypeError, UnicodeError):
        opened = False
    if not opened:
        raise CameraError("missing", f"{shown_name(source)} gives no pictures", "check the address and that it is on")
    return capture


@contextmanager
def _streams_allowed() -> Iterator[None]:
    """FFmpeg may reach the network, and no file, for what is opened here; what the user's environment says stands.

    Its options are the process's: a file that is opened elsewhere meanwhile is refused, or waits in `import_cv2`.
    """
    with OPENING:
        if os.environ.get(OPTIONS_VARIABLE) != FILE_OPTIONS:
            yield
            return
        os.environ[OPTIONS_VARIABLE] = STREAM_OPTIONS
        try:
            yield
        finally:
            os.environ[OPTIONS_VARIABLE] = FILE_OPTIONS
