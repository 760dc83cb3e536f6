"""Videos for tests: they carry the number of each frame in its pixels, as ten squares that are black or white."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

needs_ffmpeg = pytest.mark.skipif(
    not (shutil.which("ffmpeg") and shutil.which("ffprobe")), reason="ffmpeg is not installed: apt-get install ffmpeg"
)
WIDTH, HEIGHT, BITS = 64, 48, 10
KINDS = {
    "mp4": ["-c:v", "libx264", "-pix_fmt", "yuv420p", "-g", "30"],
    "mov": ["-c:v", "libx264", "-pix_fmt", "yuv420p"],
    "mkv": ["-c:v", "libx264", "-pix_fmt", "yuv420p"],
    "webm": ["-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8"],
    "avi": ["-c:v", "mjpeg"],
    "gif": [],
}
STREAMED = ["-c:v", "libx264", "-pix_fmt", "yuv420p", "-f", "matroska"]


def counted(count: int, width: int = WIDTH, height: int = HEIGHT) -> bytes:
    """Raw RGB frames that carry their numbers."""
    frames = np.zeros((count, height, width, 3), np.uint8)
    for number in range(count):
        for bit in range(BITS):
            row, column = divmod(bit, 5)
            top, left = row * height // 2, column * width // 5
            frames[number, top : top + height // 2, left : left + width // 5] = 255 * (number >> bit & 1)
    return frames.tobytes()


def number_in(image: Image.Image) -> int:
    """The number that a frame carries."""
    grey = np.asarray(image.convert("L"))
    height, width = grey.shape
    number = 0
    for bit in range(BITS):
        row, column = divmod(bit, 5)
        number |= int(grey[(2 * row + 1) * height // 4, (2 * column + 1) * width // 10] > 127) << bit
    return number


def make(file: Path, count: int, options: list[str], fps: int = 25, width: int = WIDTH, height: int = HEIGHT) -> Path:
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(fps), "-i", "-"]
    target = ["-"] if "-f" in options else [str(file)]  # a pipe cannot be gone back in: no duration is written
    command = ["ffmpeg", "-v", "error", "-y", *raw, *options, "-threads", "1", *target]
    done = subprocess.run(command, input=counted(count, width, height), capture_output=True, check=True)
    if target == ["-"]:
        file.write_bytes(done.stdout)
    return file
