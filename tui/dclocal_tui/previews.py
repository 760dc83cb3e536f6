"""The widgets that draw pictures, imported when the first is needed and told what the terminal can show."""

from __future__ import annotations

import os
import sys
import threading
from typing import TYPE_CHECKING, Any

from textual.widget import Widget

from dclocal_tui.terminal import Terminal

if TYPE_CHECKING:
    from PIL.Image import Image

WIDGETS = {"sixel": "SixelImage", "kitty": "TGPImage", "": "HalfcellImage"}


class Previews:
    """Makes a widget for a picture; `load` is the slow part of the first, and may be called in a thread.

    Where `terminal` is None, `load` asks the terminal itself, and must be called before the app runs.
    """

    def __init__(self, terminal: Terminal | None):
        self._terminal = terminal
        self._lock = threading.Lock()
        self._widget: type[Widget] | None = None

    def __call__(self, picture: Image | None) -> Widget:
        """A widget that draws the picture, `image` of which can be set."""
        return self.load()(picture)  # type: ignore[arg-type]

    def load(self) -> type[Widget]:
        """The class of the widgets."""
        with self._lock:
            if self._widget is None:
                self._widget = _widgets(self._terminal)
            return self._widget


def draw(widget: Any, picture: Image | None) -> Widget:
    """Show the picture in a widget that draws pictures, None: nothing; returns the widget.

    One without a picture is not displayed: Textual 8.2 keeps the size that it found for a widget until the widget has
    been idle, so a first picture that comes sooner would be shown in no columns at all.
    """
    if widget.image is not picture:
        widget.image = picture
    widget.display = picture is not None
    return widget


def _widgets(terminal: Terminal | None) -> type[Widget]:
    """textual_image asks the terminal while it is imported, which would take keys from the app: it sees none."""
    if terminal is None:
        import textual_image.widget

        return textual_image.widget.Image
    if terminal.cell is not None:
        os.environ["TEXTUAL_CELL_WIDTH"], os.environ["TEXTUAL_CELL_HEIGHT"] = map(str, terminal.cell)
    stdout = sys.__stdout__
    sys.__stdout__ = _Unasked(stdout)  # type: ignore[misc, assignment]
    try:
        import textual_image.widget
    finally:
        sys.__stdout__ = stdout  # type: ignore[misc]
    found: type[Widget] = getattr(textual_image.widget, WIDGETS[terminal.graphics])
    return found


class _Unasked:
    """An output that does not say that it is a terminal, and else is the one that it stands for."""

    def __init__(self, output: Any):
        self._output = output

    def isatty(self) -> bool:
        return False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._output, name)
