"""`dclocal tui`: the terminal app."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec

import click

from dclocal.errors import ImageError, UserError

FRAME = "╭─╮│▀●…"
"""A few of the characters that the app is drawn with."""


class TerminalUnfit(UserError):
    """There is no terminal that the app can draw on."""


class ExtraMissing(UserError):
    """What the app stands on is not installed."""


@click.command(epilog="Examples: dclocal tui; dclocal tui photo.jpg clip.mp4 --bundle dc-tiny; dclocal tui webcam:0")
@click.argument("media", nargs=-1, metavar="[MEDIA]...", type=click.Path())
@click.option(
    "--bundle", "bundle_name", metavar="BUNDLE", help="A bundle's name, folder or .dcb file.  [default: dc-tiny]"
)
def tui(media: tuple[str, ...], bundle_name: str | None) -> None:
    """Chat with pictures and videos in the terminal, full screen."""
    _check_terminal()
    for path in media:
        if not path.lower().startswith(("http://", "https://", "rtsp://", "webcam:")) and not os.path.exists(
            os.path.expanduser(path)
        ):
            raise ImageError(f"{path} does not exist", "check the path")
    for package in ("textual", "textual_image"):
        if find_spec(package) is None:
            raise ExtraMissing(f"this needs {package}", "pip install 'dclocal[tui]'")
    from dclocal_tui.run import run

    run(media, bundle_name)


def _check_terminal() -> None:
    """Refuse what cannot be drawn on, before anything is changed there."""
    if not (sys.stdin and sys.stdin.isatty() and sys.stdout and sys.stdout.isatty()):
        raise TerminalUnfit("the app needs a terminal for input and output", "use dclocal chat IMAGE -p TEXT here")
    if os.environ.get("TERM", "") in ("", "dumb") and sys.platform != "win32":
        raise TerminalUnfit("TERM=dumb cannot show the app", "use dclocal chat IMAGE, or set TERM=xterm-256color")
    drawn_on = sys.__stdout__ if sys.platform == "win32" else sys.__stderr__  # by Textual
    encoding = getattr(drawn_on, "encoding", None) or "utf-8"
    try:
        FRAME.encode(encoding)
    except UnicodeEncodeError as error:
        problem = f"the app's frames cannot be written in {encoding}"
        raise TerminalUnfit(problem, "set PYTHONIOENCODING=utf-8, or a UTF-8 locale (LC_ALL=C.UTF-8)") from error
