"""A program in a pseudo-terminal that answers what terminals are asked, as far as it is told to."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import sys
import termios
import time
from collections.abc import Sequence
from pathlib import Path

WAIT_S = 30.0
QUESTION = re.compile(rb"\x1b\[0?c|\x1b\[16t|\x1b_G[^\x1b]*a=q[^\x1b]*\x1b\\")


class Pty:
    """`code` in Python, in a terminal of 100 by 30 whose characters have no size that the system knows.

    `replies` are those to the attributes, the size and the graphics question, b"" for none.
    """

    def __init__(self, code: str, replies: tuple[bytes, bytes, bytes], folder: Path, arguments: Sequence[str] = ()):
        self._replies = dict(zip((b"c", b"t", b"\\"), replies))
        self.output = b""
        self._answered = 0
        environment = {**os.environ, "DCLOCAL_HOME": str(folder), "PYTHONPATH": os.pathsep.join(sys.path)}
        environment |= {"TERM": "xterm-256color"}
        environment.pop("TMUX", None)
        self._pid, self._fd = pty.fork()
        if not self._pid:
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
            os.execve(sys.executable, [sys.executable, "-c", code, *arguments], environment)

    def type(self, keys: str) -> None:
        os.write(self._fd, keys.encode())

    def step(self, wait_s: float = 0.02) -> bool:
        """Read and answer for so long; false once the program has ended."""
        until = time.monotonic() + wait_s
        while (left := until - time.monotonic()) > 0:
            if select.select([self._fd], [], [], left)[0]:
                try:
                    self.output += os.read(self._fd, 65536)
                except OSError:
                    return False
                questions = QUESTION.findall(self.output)
                for question in questions[self._answered :]:
                    os.write(self._fd, self._replies[question[-1:]])
                self._answered = len(questions)
        return True

    def until(self, pattern: bytes) -> None:
        """Until this was drawn."""
        end = time.monotonic() + WAIT_S
        while not re.search(pattern, self.output):
            running = self.step()
            assert running and time.monotonic() < end, self.output[-2000:].decode(errors="replace")

    def until_end(self) -> int:
        """Until the program has ended: its exit status."""
        end = time.monotonic() + WAIT_S
        while self.step():
            assert time.monotonic() < end, self.output[-2000:].decode(errors="replace")
        return os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
