"""The start: what the terminal is asked, what of its replies is taken, what is not imported before the first paint."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from dclocal_tui.terminal import Terminal, read_replies
from tests.tui_pty import Pty

KITTY_OK = b"\x1b_Gi=31;OK\x1b\\"
# terminal → its replies to the three questions, what it can show
REPLIES = {
    "xterm": (b"\x1b[6;17;8t\x1b[?64;1;2;6;9;15;18;21;22c", Terminal("", (8, 17))),
    "xterm -ti vt340": (b"\x1b[6;17;8t\x1b[?63;1;2;4;6;9;15;22c", Terminal("sixel", (8, 17))),
    "kitty": (KITTY_OK + b"\x1b[6;20;9t\x1b[?62;52;c", Terminal("kitty", (9, 20))),
    "foot": (b"\x1b[6;18;9t\x1b[?62;4;22;28;52c", Terminal("sixel", (9, 18))),
    "wezterm": (KITTY_OK + b"\x1b[6;21;10t\x1b[?65;4;6;18;22;52c", Terminal("sixel", (10, 21))),
    "konsole": (KITTY_OK + b"\x1b[6;19;9t\x1b[?62;1;4c", Terminal("sixel", (9, 19))),
    "ghostty": (KITTY_OK + b"\x1b[6;34;17t\x1b[?62;22;52c", Terminal("kitty", (17, 34))),
    "tmux": (b"\x1b[?1;2c", Terminal()),
    "tmux with sixel": (b"\x1b[?1;2;4c", Terminal("sixel")),
    "refuses": (b"\x1b_Gi=31;ENOTSUPPORTED:no graphics\x1b\\\x1b[?6c", Terminal()),
    "no size": (b"\x1b[6;0;0t\x1b[?64;14c", Terminal()),
}


@pytest.mark.parametrize("name", REPLIES)
def test_replies_of_terminals(name: str) -> None:
    replies, expected = REPLIES[name]
    assert read_replies(replies) == (expected, True)


def test_a_silent_terminal_or_a_late_one_is_not_done() -> None:
    assert read_replies(b"") == (Terminal(), False)
    assert read_replies(KITTY_OK) == (Terminal("kitty"), False)
    assert read_replies(b"hi \x1b[A") == (Terminal(typed="hi \x1b[A"), False)


@pytest.mark.parametrize("name", REPLIES)
def test_keys_among_the_replies_are_kept_in_order(name: str) -> None:
    replies, expected = REPLIES[name]
    pieces = replies.replace(b"\x1b[6;", b"|\x1b[6;").replace(b"\x1b[?", b"|\x1b[?").split(b"|")
    keys = ["4c;", "é\x1b[A", "\x1b[200~t;c\x1b[201~"]
    mixed = b"".join(keys[number % 3].encode() + piece for number, piece in enumerate(pieces)) + b"\r"
    typed = "".join(keys[number % 3] for number in range(len(pieces))) + "\r"
    assert read_replies(mixed) == (Terminal(expected.graphics, expected.cell, typed), True)


def shown_by(code: str, name: str, folder: Path) -> list[object]:
    """What `code` writes into its first argument, in a terminal that answers as that one does."""
    replies = REPLIES.get(name, (b"", Terminal()))[0]
    found = [re.search(pattern, replies) for pattern in (rb"\x1b\[\?.*c", rb"\x1b\[6;.*?t", rb"\x1b_G.*?\x1b\\")]
    terminal = Pty(code, tuple(match[0] if match else b"" for match in found), folder, [str(folder / "shown")])
    assert terminal.until_end() == 0, terminal.output.decode()
    return json.loads((folder / "shown").read_text())


SHOW = """
import json, sys
from textual_image._terminal import get_cell_size
shown = [found.__module__, getattr(found, "_Renderable", found).__module__, *get_cell_size()]
open(sys.argv[1], "w").write(json.dumps(shown))
"""
THEIRS = "from textual_image.widget import Image as found" + SHOW
OURS = (
    """
import sys
from dclocal_tui.terminal import asked_terminal
with asked_terminal() as answers:
    terminal = answers()
from dclocal_tui.previews import Previews
asked = sys.__stdout__
found = Previews(terminal).load()
assert sys.__stdout__ is asked
"""
    + SHOW
)


@pytest.mark.parametrize("name", ["xterm", "xterm -ti vt340", "kitty", "foot", "wezterm", "tmux", "refuses", "silent"])
def test_the_widget_is_the_one_that_textual_image_would_choose(name: str, tmp_path: Path) -> None:
    ours, theirs = shown_by(OURS, name, tmp_path), shown_by(THEIRS, name, tmp_path)
    assert ours[1:] == theirs[1:] and (ours[0] == theirs[0] or "sixel" not in f"{ours[0]}{theirs[0]}")


def test_the_terminal_is_asked_once_and_left_as_it_was(tmp_path: Path) -> None:
    code = "import sys, termios; before = termios.tcgetattr(0)" + OURS + "assert termios.tcgetattr(0) == before\n"
    terminal = Pty(code, (b"\x1b[?62c", b"", b""), tmp_path, [str(tmp_path / "shown")])
    assert terminal.until_end() == 0, terminal.output.decode()
    assert terminal.output.count(b"\x1b[c") == terminal.output.count(b"a=q") == terminal.output.count(b"\x1b[16t") == 1


HEAVY = (
    "numpy",
    "PIL",
    "cv2",
    "textual_image",
    "onnxruntime",
    "llama_cpp.llama_cpp",
    "markdown_it",
    "textual.widgets._markdown",
)


def test_the_first_paint_imports_nothing_heavy(tmp_path: Path) -> None:
    code = """
import json, sys
from dclocal_tui.screens.main import MainScreen
def painted(self):
    open(sys.argv[1], "w").write(json.dumps(sorted(sys.modules)))
    self.app.exit()
MainScreen.warm_up = painted
from dclocal import cli
cli.main(["tui", "examples/circle.png", "--bundle", "no-such-bundle"])
"""
    terminal = Pty(code, (b"\x1b[?62c", b"", b""), tmp_path, [str(tmp_path / "modules")])
    assert terminal.until_end() == 0, terminal.output.decode()
    assert b"sk something" in terminal.output
    modules = json.loads((tmp_path / "modules").read_text())
    assert "dclocal_tui.screens.main" in modules
    assert not [module for module in modules if module in HEAVY]


@pytest.mark.parametrize("attributes", [b"\x1b[?62;22c", b""])
def test_what_is_typed_while_it_starts_is_in_the_prompt(attributes: bytes, tmp_path: Path) -> None:
    code = """
import sys
from dclocal_tui.app import DclocalApp
async def action_quit(self):
    open(sys.argv[1], "w").write(self.screen.prompt.text)
    self.exit()
DclocalApp.action_quit = action_quit
from dclocal import cli
cli.main(["tui", "--bundle", "no-such-bundle"])
"""
    terminal = Pty(code, (attributes, b"", b""), tmp_path, [str(tmp_path / "typed")])
    typed = "".join(chr(ord("a") + number % 26) for number in range(80))
    for key in typed:
        terminal.type(key)
        terminal.step(0.02)
    terminal.until(b"sk something|Enter sends")
    terminal.step(0.5)
    terminal.type("\x11")  # which goes before keys that wait
    assert terminal.until_end() == 0, terminal.output.decode()
    assert (tmp_path / "typed").read_text() == typed
