"""A video file, opened: what it is, and its frames in order with their true times; every limit on untrusted videos.

OpenCV's FFmpeg decodes.  It is given files alone, of the containers below: no playlist or pattern of names that would
make it open another file, no network.  Which frames are taken is in `sampling.py`.
"""

from __future__ import annotations

import dataclasses
import os
import stat
import threading
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from dclocal.errors import UserError
from dclocal.files import printable
from dclocal.images import MAX_PIXELS

if TYPE_CHECKING:
    from PIL.Image import Image

CONTAINERS = (  # FFmpeg's names
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,gif,apng,mpegts,mpeg,flv,ogg,asf,ivf,nut,"
    "m4v,h264,hevc,mpegvideo,obu,dv,mxf,rm,swf,wtv,y4m,yuv4mpegpipe"
)
OPTIONS_VARIABLE = "OPENCV_FFMPEG_CAPTURE_OPTIONS"
FILE_OPTIONS = f"protocol_whitelist;file|format_whitelist;{CONTAINERS}"
OPENING = threading.Lock()
"""Held while FFmpeg's options, which are the process's, are not those for files."""
MAX_DECODED = 100_000
"""Frames that one reading decodes at most: 55 minutes at 30 a second."""
MAX_SECONDS = 7 * 24 * 3600.0
SECOND_MS = 1000.0


class VideoError(UserError):
    """A video that cannot be found, decoded, or is beyond the limits."""


@dataclass(frozen=True)
class VideoInfo:
    """What a file says of its video: seconds, frames a second, size in pixels once upright.

    `duration_s` and `frame_count` are None where it does not say (a recorded stream); `seekable` is false where
    they are, or once a jump failed (`probe` tries one).  The count may be an estimate: only decoding knows.
    """

    duration_s: float | None
    fps: float
    frame_count: int | None
    width: int
    height: int
    codec: str
    seekable: bool


@dataclass(frozen=True, eq=False)
class Frame:
    """A picture of a video: RGB, when it is first shown, and its number in the file from 0.

    After a jump in a file of variable frame rate the number is reckoned from the time.
    """

    image: Image
    time_s: float
    index: int


def probe(path: str | Path) -> VideoInfo:
    """What `path` holds, its first frame decoded to be sure.  Raises VideoError."""
    with VideoReader(path) as reader:
        info = reader.info
        if info.duration_s is None:
            return info
        reader.seek(info.duration_s / 2)
        return reader.info


class VideoReader:
    """The frames of a video from first to last, with jumps: `next_time_s` and `next_index` tell of the frame that
    `take` gives next, None at the end; `broken_off_s` is for whoever finds that frames are missing at the end: when the
    last one is shown.  Not safe for use from several threads at once.

    Raises VideoError where the file is no video that can be decoded, or is beyond the limits.
    """

    def __init__(self, path: str | Path):
        self.name = printable(str(path))
        self._path = os.path.abspath(os.path.expanduser(path))
        _check_file(self._path, self.name)
        self._cv2 = import_cv2()
        self.decoded = 0
        self.next_time_s: float | None = None
        self.next_index = 0
        self.broken_off_s: float | None = None
        self._capture: Any = None
        self.reopen()
        self.info = self._read_info()

    def reopen(self) -> None:
        """Go back to the first frame, in the one way that every container allows."""
        self.close()
        cv2 = self._cv2
        try:
            with OPENING:  # not while a stream is opened, for which FFmpeg may use the network
                self._capture = cv2.VideoCapture(self._path, cv2.CAP_FFMPEG)
            opened = self._capture.isOpened()
        except (UnicodeError, SystemError, TypeError, cv2.error) as error:
            raise VideoError(f"{self.name} has a name that OpenCV cannot open", "rename it") from error
        if not opened:
            raise _unreadable(self._path, self.name)
        self._check_size(self._get(cv2.CAP_PROP_FRAME_WIDTH), self._get(cv2.CAP_PROP_FRAME_HEIGHT))
        if not self._grab():
            raise VideoError(f"{self.name}: no frame can be decoded", "the file is damaged or cut short")
        self.next_index = 0

    def seek(self, time_s: float) -> bool:
        """Jump so that the next frame is at or before `time_s`; false where that fails, then all starts anew."""
        cv2, fps = self._cv2, self.info.fps
        for earlier in (1 / fps, 2.0, 20.0):
            wanted = max(0.0, time_s - earlier)
            try:
                landed = self._capture.set(cv2.CAP_PROP_POS_MSEC, SECOND_MS * wanted) and self._grab()
            except cv2.error:
                landed = False
            if landed and self.next_time_s is not None and self.next_time_s <= time_s:
                self.next_index = round(self.next_time_s * fps)
                return True
        self.info = dataclasses.replace(self.info, seekable=False)
        self.reopen()
        return False

    def take(self) -> Frame | None:
        """The next frame, upright; None where it cannot be decoded, which ends the video.

        Raises VideoError beyond MAX_DECODED frames.
        """
        from PIL import Image

        if self.next_time_s is None:
            return None
        cv2 = self._cv2
        try:
            whole, pixels = self._capture.retrieve()
        except cv2.error:
            whole, pixels = False, None
        if not whole or pixels is None:
            self.next_time_s = None
            return None
        self._check_size(pixels.shape[1], pixels.shape[0])
        rgb = cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB if pixels.ndim == 2 else cv2.COLOR_BGR2RGB)
        frame = Frame(Image.fromarray(rgb), self.next_time_s, self.next_index)
        self.skip()
        return frame

    def skip(self) -> None:
        """Pass the next frame over."""
        before = self.next_time_s
        if self._grab() and before is not None and self.next_time_s is not None and self.next_time_s < before:
            self.next_time_s = before  # a damaged time stamp must not send us back
        self.next_index += 1

    def close(self) -> None:
        """Let the file go."""
        if self._capture is not None:
            self._capture.release()
        self._capture, self.next_time_s = None, None

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _grab(self) -> bool:
        """Decode the frame after the one at hand, and note when it is shown."""
        self.next_time_s = None
        if self.decoded >= MAX_DECODED:
            raise VideoError(
                f"{self.name}: {MAX_DECODED:,} frames were decoded and the end is not reached",
                "choose a part with --start and --end, or convert it to a file that can be searched (mp4)",
            )
        try:
            grabbed = bool(self._capture.grab())
        except self._cv2.error:
            grabbed = False
        self.decoded += grabbed
        if grabbed:
            self.next_time_s = max(0.0, self._get(self._cv2.CAP_PROP_POS_MSEC) / SECOND_MS)
        return grabbed

    def _get(self, key: int) -> float:
        """A property, 0 where it is no number."""
        value = float(self._capture.get(key))
        return value if abs(value) < float("inf") else 0.0

    def _read_info(self) -> VideoInfo:
        cv2 = self._cv2
        fps, count = self._get(cv2.CAP_PROP_FPS), self._get(cv2.CAP_PROP_FRAME_COUNT)
        known = fps > 0 and 0 < count / fps <= MAX_SECONDS
        fps = fps if 0 < fps <= 100_000 else 25.0
        fourcc = int(self._get(cv2.CAP_PROP_FOURCC))
        codec = fourcc.to_bytes(4, "little").decode("ascii", "replace") if 0 <= fourcc < 1 << 32 else ""
        return VideoInfo(
            duration_s=count / fps if known else None,
            fps=fps,
            frame_count=int(count) if known else None,
            width=int(self._get(cv2.CAP_PROP_FRAME_WIDTH)),
            height=int(self._get(cv2.CAP_PROP_FRAME_HEIGHT)),
            codec=printable(codec.strip(" \0")),
            seekable=known,
        )

    def _check_size(self, width: float, height: float) -> None:
        if width * height > MAX_PIXELS:
            raise VideoError(
                f"{self.name} has frames of {width:,.0f}×{height:,.0f} pixels", f"use at most {MAX_PIXELS:,} in all"
            )
        if width < 1 or height < 1:
            raise VideoError(f"{self.name} has frames without pixels", "give a video")


def import_cv2() -> ModuleType:
    """OpenCV, told to keep its remarks and FFmpeg's off stderr, and FFmpeg to files.

    What the user's environment says of these goes first.
    """
    told = "OPENCV_LOG_LEVEL" in os.environ
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    os.environ.setdefault("OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT", "5")  # seconds
    with OPENING:
        os.environ.setdefault(OPTIONS_VARIABLE, FILE_OPTIONS)  # read at each opening
    import cv2

    if not told:  # said anew, as something else may have imported it before
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    return cv2


def _check_file(path: str, name: str) -> None:
    try:
        status = os.stat(path)
    except FileNotFoundError as error:
        raise VideoError(f"{name} does not exist", "check the path") from error
    except OSError as error:
        raise VideoError(f"{name} cannot be read ({error.strerror})", "check the path and its permissions") from error
    except ValueError as error:
        raise VideoError(f"{name} cannot be a file's name ({printable(str(error))})", "check the path") from error
    if stat.S_ISDIR(status.st_mode):
        raise VideoError(f"{name} is a folder", "name a video in it")
    if not stat.S_ISREG(status.st_mode):
        raise VideoError(f"{name} is not a regular file", "name a video")
    if not status.st_size:
        raise VideoError(f"{name} is empty", "give a video")
    if not os.access(path, os.R_OK):
        raise VideoError(f"{name} cannot be read (Permission denied)", "check the path and its permissions")


def _unreadable(path: str, name: str) -> VideoError:
    """Why FFmpeg may not have opened it: nothing there any more, a container without pictures, or something else."""
    try:
        with open(path, "rb") as stream:
            head = stream.read(12)
    except OSError as error:
        return VideoError(f"{name} is gone or cannot be read any more ({error.strerror})", "check the path")
    known = head[4:8] in (b"ftyp", b"moov", b"mdat") or head[:4] in (b"\x1aE\xdf\xa3", b"RIFF", b"OggS")
    if known:
        return VideoError(
            f"{name} has no video track that can be read", "it holds sound alone, or was cut short: give the whole file"
        )
    return VideoError(f"{name} is not a video that can be read", "give an mp4, mov, mkv, webm, avi or gif file")
