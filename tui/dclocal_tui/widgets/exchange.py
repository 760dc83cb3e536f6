"""A question and its answer, which grows as it comes; nothing that was shown moves."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.content import Content
from textual.widgets import Markdown, Static
from textual.widgets.markdown import MarkdownStream

from dclocal_tui.clean import clean
from dclocal_tui.state import Turn

ENDINGS = {
    "cancelled": "stopped — Ctrl+G lets it go on",
    "length": "at the limit of tokens — Ctrl+G lets it go on",
    "repetition": "stopped: it began to repeat itself",
    "crash": "cut short: the model's process ended",
}


class Exchange(Vertical):
    """One turn; `grow` adds to its answer, `finish` ends it."""

    def __init__(self, turn: Turn):
        super().__init__()
        self.turn = turn
        self._stream: MarkdownStream | None = None
        self._streamed = clean(turn.answer)

    def compose(self) -> ComposeResult:
        """The question, the answer, and how it ended."""
        yield Static(self._question(), classes="question")
        yield Markdown(clean(self.turn.answer), classes="answer", open_links=False)
        yield Static(classes="ending")

    def on_mount(self) -> None:
        """A turn that is whole says how it ended."""
        self._show_ending()

    async def grow(self, text: str) -> None:
        """Add to the answer."""
        if self._stream is None:
            self.query_one(".ending").display = False
            self._stream = Markdown.get_stream(self.query_one(Markdown))
        text = clean(text)
        self._streamed += text
        await self._stream.write(text)

    async def finish(self, turn: Turn) -> None:
        """The answer is whole; it is written anew only where it is not what was streamed."""
        self.turn = turn
        stream, self._stream = self._stream, None
        if stream is not None:
            await stream.stop()
        answer = clean(turn.answer)
        if answer.strip() != self._streamed.strip():
            await self.query_one(Markdown).update(answer)
        self._streamed = answer
        self._show_ending()

    def _question(self) -> Content:
        numbers = "".join(f"[{number}] " for number in self.turn.numbers)
        who = f"{self.turn.when}  " if self.turn.when else "You  "
        return Content.assemble((who, "bold $primary"), (numbers, "$accent"), clean(self.turn.text))

    def _show_ending(self) -> None:
        turn, ending = self.turn, self.query_one(".ending", Static)
        text = ENDINGS.get(turn.stop_reason, "")
        if turn.stop_reason and not turn.answer:
            text = "the model gave no answer; try other words"
        ending.update(Content(text))
        ending.display = bool(text)
