"""How quick the app is for who sits before it: the real app in a pseudo-terminal, timed from the outside.

`python -m dclocal_tui.benchmark` prints medians with their spread; it needs the package pyte, and Linux or macOS.
"""

from __future__ import annotations

import os
import re
import select
import statistics
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import click

from dclocal.places import home
from dclocal_tui.example import example

ROWS, COLUMNS = 40, 120
WAIT_S = 120.0
FULL_SCREEN = b"\x1b[?1049h"
"""The app takes the terminal over; before that, the terminal itself shows what is typed."""
QUESTION = re.compile(rb"\x1b\[0?c")
KEYS = "абвгдежзийклмнопрстуфхцчшщъыьэюя"
"""Characters that the app draws for no other reason."""
SETTLED_S = 2.0
"""From attaching to Enter."""


class Terminal:
    """The app in a pseudo-terminal, its history and settings in `folder`."""

    def __init__(self, folder: Path, arguments: Sequence[str]):
        import fcntl
        import pty
        import termios

        import pyte

        self._screen = pyte.Screen(COLUMNS, ROWS)
        self._stream = pyte.ByteStream(self._screen)
        self._output, self._drawn = b"", 0
        environment = {**os.environ, "DCLOCAL_HOME": str(folder), "TERM": "xterm-256color"}
        self.started = time.perf_counter()
        self._pid, self._fd = pty.fork()
        if not self._pid:
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 8 * COLUMNS, 16 * ROWS))
            code = "import sys; from dclocal.cli import main; main(['tui', *sys.argv[1:]])"
            os.execve(sys.executable, [sys.executable, "-c", code, *arguments], environment)

    def type(self, keys: str) -> float:
        """Send keys; the time before."""
        before = time.perf_counter()
        os.write(self._fd, keys.encode())
        return before

    def until_sent(self, text: str, after: bytes = b"") -> float:
        """Until the app sends this text, after this output if it is given: the time."""
        start = 0 if after else len(self._output)
        return self._until(lambda: text.encode() in self._output[start:].partition(after or b"\x1b")[2], text)

    def until_shown(self, done: Callable[[list[str]], object], what: str) -> float:
        """Until the lines of the screen are as `done` wants them: the time."""
        return self._until(lambda: done(self.lines), what)

    @property
    def lines(self) -> list[str]:
        self._stream.feed(re.sub(rb"\x1b\[[<>=][\d;]*u", b"", self._output[self._drawn :]))
        self._drawn = len(self._output)
        return list(self._screen.display)

    def close(self) -> None:
        """Quit the app; returns when it has ended."""
        self.type("\x11")
        while self._read(WAIT_S):
            pass
        os.waitpid(self._pid, 0)
        os.close(self._fd)

    def _until(self, done: Callable[[], object], what: str) -> float:
        end = time.perf_counter() + WAIT_S
        while not done():
            if time.perf_counter() > end or not self._read(end - time.perf_counter()):
                raise click.ClickException(f"{what!r} did not come:\n" + "\n".join(self.lines))
        return time.perf_counter()

    def _read(self, wait_s: float) -> bool:
        if not select.select([self._fd], [], [], max(0.0, wait_s))[0]:
            return False
        try:
            data = os.read(self._fd, 1 << 16)
        except OSError:  # it has ended
            return False
        self._output += data
        for _ in QUESTION.findall(data):
            os.write(self._fd, b"\x1b[?62;22c")
        return bool(data)


@contextmanager
def running(folder: Path, *arguments: str) -> Iterator[Terminal]:
    """The app until the end of the block."""
    terminal = Terminal(folder, arguments)
    try:
        yield terminal
    finally:
        terminal.close()


def start_s(folder: Path) -> float:
    """From the start of the process to a typed character in the prompt."""
    with running(folder) as terminal:
        terminal.type(KEYS[0])
        return terminal.until_sent(KEYS[0], after=FULL_SCREEN) - terminal.started


def key_s(folder: Path, video: Path) -> list[float]:
    """From each key pressed while a video is encoded and an answer streams, to its drawing."""
    taken = []
    with running(folder) as terminal:
        terminal.until_shown(lambda lines: is_idle(lines) and "tokens" in lines[-1], "the model")
        terminal.type(f"What happens in @{video} ?")
        terminal.until_shown(lambda lines: video.name in "".join(lines), video.name)
        terminal.type("\r")
        terminal.until_shown(lambda lines: not is_idle(lines), "work")
        number = 0
        while not is_idle(terminal.lines):
            key = KEYS[number % len(KEYS)]
            pressed = terminal.type(key)
            taken.append(terminal.until_sent(key) - pressed)
            number += 1
            time.sleep(0.02)
    return taken


def first_token_s(folder: Path, picture: Path) -> float:
    """From Enter to the first of the answer on the screen, the picture attached SETTLED_S before."""
    with running(folder, str(picture)) as terminal:
        terminal.until_shown(lambda lines: is_idle(lines) and "tokens" in "".join(lines[:-1]), "the picture")
        time.sleep(SETTLED_S)
        terminal.type("What is this?")
        terminal.until_sent("?")
        pressed = terminal.type("\r")
        return terminal.until_shown(answer_begun, "an answer") - pressed


def is_idle(lines: Sequence[str]) -> bool:
    """Whether the status line says that nothing is under way."""
    return "…" not in lines[-1] and "loading" not in lines[-1] and "preparing" not in lines[-1]


def answer_begun(lines: Sequence[str]) -> bool:
    """Whether a line below the question has a word in it."""
    asked = [number for number, line in enumerate(lines) if line.lstrip().startswith("You  ")]
    below = lines[asked[-1] + 1 : ROWS - 5] if asked else []
    return any(line[: COLUMNS // 2].strip() for line in below)


def write_video(file: Path) -> None:
    """Ten seconds of a moving square."""
    import numpy as np

    from dclocal.video import import_cv2

    cv2 = import_cv2()
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter.fourcc(*"mp4v"), 25, (320, 240))
    for number in range(250):
        frame = np.full((240, 320, 3), 40, np.uint8)
        frame[80:160, number : number + 60] = (30, 30, 220)
        writer.write(frame)
    writer.release()


def show(name: str, times: Sequence[float]) -> None:
    """One line: median, least and most, in milliseconds."""
    low, middle, high = (1000 * value for value in (min(times), statistics.median(times), max(times)))
    click.echo(f"{name:<48} {middle:7.1f} ms  ({low:.1f} to {high:.1f}, {len(times)} times)")


@click.command()
@click.option("--runs", default=10, show_default=True, type=click.IntRange(1), help="How often the app is started.")
def benchmark(runs: int) -> None:
    """Time the app's start, its keys under load, and its first token."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "bundles").symlink_to(home() / "bundles")
        picture, video = folder / "circle.png", folder / "square.mp4"
        data = example().source
        assert isinstance(data, bytes)
        picture.write_bytes(data)
        write_video(video)
        first_token_s(folder, picture)  # the bundle, and all files of Python, are read once
        show("start to a typed character in the prompt", [start_s(folder) for _ in range(runs)])
        show("a key while a video is read and answered about", [s for _ in range(runs) for s in key_s(folder, video)])
        show("Enter to the first of an answer about a picture", [first_token_s(folder, picture) for _ in range(runs)])


if __name__ == "__main__":
    benchmark()
