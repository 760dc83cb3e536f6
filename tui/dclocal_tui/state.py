"""What the screen shows of a conversation, as data, and what a conversation needs of the screen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from dclocal_tui.shelf import Item


@dataclass(frozen=True)
class Turn:
    """A question, the numbers of its media, and its answer; `stop_reason` is "" while it grows.

    A watch's question has the time `when` it was asked; it is `passed`, and no longer in the model's context, once the
    same watch asks again.
    """

    text: str
    numbers: tuple[int, ...] = ()
    answer: str = ""
    stop_reason: str = ""
    when: str = ""
    passed: bool = False


def turns_before(turns: Sequence[Turn], shown: Turn) -> tuple[Turn, ...]:
    """The turns that `shown` comes after: of a watch's, the model remembers the last alone."""
    if shown.when and turns and turns[-1].when and turns[-1].text == shown.text:
        return (*turns[:-1], replace(turns[-1], passed=True))
    return tuple(turns)


def remembered(turns: Sequence[Turn]) -> tuple[Turn, ...]:
    """The turns that are the engine's conversation too."""
    return tuple(turn for turn in turns if not turn.passed)


@dataclass(frozen=True)
class Status:
    """The status line: the bundle, what is being done, tokens in the context of how many, and what things cost."""

    bundle: str = ""
    activity: str = ""
    context_tokens: int = 0
    n_ctx: int = 0
    ttft_ms: float | None = None
    tokens_per_s: float | None = None
    memory_bytes: int = 0


@dataclass(frozen=True)
class Pending:
    """An answer on its way: `before` are the turns to go back to, `request` is None while media are still coming.

    It is `shown` once the screen has a place for the answer.
    """

    kind: str
    turn: int
    before: tuple[Turn, ...]
    request: int | None = None
    started: bool = False
    shown: bool = False


class View(Protocol):
    """The screen, as a conversation sees it."""

    async def show_turns(self, first: int, turns: Sequence[Turn]) -> None:
        """Show these in place of the turns from `first` on."""

    async def grow(self, text: str) -> None:
        """Add to the last turn's answer."""

    async def finish(self, turn: Turn) -> None:
        """The last turn is whole."""

    def show_media(self, items: Sequence[Item]) -> None:
        """Show these beside the conversation."""

    def show_status(self, status: Status) -> None:
        """Show this in the status line."""

    def tell(self, text: str, severity: str = "information") -> None:
        """Tell the user something: information, warning or error."""

    def give_back(self, text: str) -> None:
        """Put a question that came to nothing back where it was typed."""

    def show_dead(self, message: str) -> None:
        """The engine has ended: why; "" once it runs again."""
