"""What the terminal can show, asked once and all at once before the app starts; what is typed meanwhile is kept."""

from __future__ import annotations

import os
import re
import select
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

GRAPHICS = "\x1b_Gi=31,s=1,v=1,a=q,t=d,f=24;AAAA\x1b\\"
CELL_SIZE = "\x1b[16t"
ATTRIBUTES = "\x1b[c"
"""Every terminal answers this one, so that its answer is the last."""
WAIT_S = 0.4
"""From the questions on; what is imported meanwhile takes most of it anyway."""
REPLY = re.compile(rb"\x1b\[\?(?P<attributes>[\d;]*)c|\x1b_G(?P<graphics>[^\x1b]*)\x1b\\|\x1b\[6;(?P<cell>\d+;\d+)t")


@dataclass(frozen=True)
class Terminal:
    """`graphics` is sixel, kitty or "" (half blocks); `cell` is a character's width and height in pixels, if known.

    `typed` is what the user typed while the terminal was asked.
    """

    graphics: str = ""
    cell: tuple[int, int] | None = None
    typed: str = ""


def read_replies(data: bytes) -> tuple[Terminal, bool]:
    """What a terminal sent, replies and keys mixed; and whether its last reply is among it."""
    sixel = kitty = last = False
    cell = None
    for reply in REPLY.finditer(data):
        if (attributes := reply["attributes"]) is not None:
            last, sixel = True, b"4" in attributes.split(b";")
        elif (graphics := reply["graphics"]) is not None:
            kitty = graphics.rpartition(b";")[2] == b"OK"
        else:
            height, width = map(int, reply["cell"].split(b";"))
            cell = (width, height) if width and height else None
    typed = REPLY.sub(b"", data).decode("utf-8", "replace")
    return Terminal("sixel" if sixel else "kitty" if kitty else "", cell, typed), last


@contextmanager
def asked_terminal() -> Iterator[Callable[[], Terminal | None]]:
    """Ask the terminal now; the call waits for what is still to come, WAIT_S from now at most.

    Until the end of the block it shows nothing that is typed; then its settings are as before.  On Windows nothing is
    asked, and the call returns None.
    """
    if sys.platform == "win32":
        yield lambda: None
        return
    import termios
    import tty

    assert sys.__stdin__ is not None and sys.__stdout__ is not None
    source = sys.__stdin__.fileno()
    cell = _cell_size()
    before = termios.tcgetattr(source)
    tty.setcbreak(source, termios.TCSANOW)
    try:
        # tmux takes the first question for a title
        questions = ("" if "TMUX" in os.environ else GRAPHICS) + ("" if cell else CELL_SIZE) + ATTRIBUTES
        sys.__stdout__.write(questions)
        sys.__stdout__.flush()
        until = time.monotonic() + WAIT_S
        yield lambda: _receive(source, until, cell)
    finally:
        termios.tcsetattr(source, termios.TCSANOW, before)


def _receive(source: int, until: float, cell: tuple[int, int] | None) -> Terminal:
    data, last = b"", False
    found = Terminal()
    while not last and select.select([source], [], [], max(0.0, until - time.monotonic()))[0]:
        read = os.read(source, 4096)
        if not read:
            break
        data += read
        found, last = read_replies(data)
    return Terminal(found.graphics, cell or found.cell, found.typed)


def _cell_size() -> tuple[int, int] | None:
    """A character's width and height in pixels as the system knows them."""
    import fcntl
    import struct
    import termios

    assert sys.__stdout__ is not None
    try:
        size = fcntl.ioctl(sys.__stdout__, termios.TIOCGWINSZ, b"\0" * 8)
    except OSError:
        return None
    rows, columns, width, height = struct.unpack("HHHH", size)
    return (width // columns, height // rows) if columns and rows and width >= columns and height >= rows else None
