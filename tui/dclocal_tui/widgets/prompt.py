"""Where questions are typed: Enter sends, Shift+Enter and Ctrl+J begin a line, Up and Down bring earlier ones."""

from __future__ import annotations

from textual import events
from textual.widgets import TextArea

from dclocal_tui.messages import FragmentChanged, PathsPasted, Submitted
from dclocal_tui.paths import fragment_at_end, pasted_paths

MAX_EARLIER = 200
NEW_LINE = ("shift+enter", "ctrl+j")


class Prompt(TextArea):
    """A text area that grows to a few lines; `candidates` are what Tab may complete the path at the cursor to."""

    def __init__(self, **options: object) -> None:
        super().__init__(placeholder="Ask something.  @path or a dropped file attaches a picture", **options)  # type: ignore[arg-type]
        self.show_line_numbers = False
        self.highlight_cursor_line = False
        self.cursor_blink = False
        self.candidates: list[str] = []
        self._earlier: list[str] = []
        self._shown: int | None = None
        self._draft = ""

    def take(self) -> str:
        """What is typed, which is then gone but among the earlier ones."""
        text = self.text.strip()
        if text and (not self._earlier or self._earlier[-1] != text):
            self._earlier = [*self._earlier[-MAX_EARLIER:], text]
        self._shown = None
        self.text = ""
        return text

    def put(self, text: str) -> None:
        """Type this in place of what stands there, the cursor at its end."""
        self.text = text
        self.move_cursor(self.document.end)
        self.focus()

    def on_text_area_changed(self) -> None:
        """Say which path is being typed."""
        line = self.document.get_line(self.cursor_location[0])[: self.cursor_location[1]]
        self.post_message(FragmentChanged(fragment_at_end(line)))

    async def _on_key(self, event: events.Key) -> None:
        row, last = self.cursor_location[0], self.document.line_count - 1
        if event.key == "enter":
            self.post_message(Submitted(self.text))
        elif event.key in NEW_LINE:
            self.insert("\n")
        elif event.key == "tab" and self.candidates:
            self._complete()
        elif event.key == "up" and row == 0 and self._earlier:
            self._show_earlier(-1)
        elif event.key == "down" and row == last and self._shown is not None:
            self._show_earlier(1)
        else:
            return  # the text area's own handler comes next
        event.stop()
        event.prevent_default()

    async def _on_paste(self, event: events.Paste) -> None:
        paths = pasted_paths(event.text)
        if paths:
            event.stop()
            event.prevent_default()
            self.post_message(PathsPasted(paths))

    def _show_earlier(self, step: int) -> None:
        if self._shown is None:
            self._draft, self._shown = self.text, len(self._earlier)
        self._shown = max(0, self._shown + step)
        if self._shown >= len(self._earlier):
            self._shown = None
            self.put(self._draft)
        else:
            self.put(self._earlier[self._shown])

    def _complete(self) -> None:
        """Type what all candidates share, or the first of them where that is nothing new."""
        row, column = self.cursor_location
        line = self.document.get_line(row)[:column]
        fragment = fragment_at_end(line)
        if fragment is None:
            return
        shared = common_start(self.candidates)
        wanted = shared if len(shared) > len(fragment) else self.candidates[0]
        start = column - len(fragment)
        if " " in wanted and line[:start].endswith("@"):
            wanted = f'"{wanted}'
        self.replace(wanted, (row, start), (row, column))


def common_start(texts: list[str]) -> str:
    """The longest text that all begin with."""
    shortest = min(texts, key=len)
    for count, character in enumerate(shortest):
        if any(text[count] != character for text in texts):
            return shortest[:count]
    return shortest
