"""A conversation: what the user wants goes to the engine and the history, what the engine says to the screen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from dclocal.engine_messages import Media, Said
from dclocal_tui.engine_side import EngineSide
from dclocal_tui.shelf import Item, Shelf
from dclocal_tui.state import Pending, Turn, remembered, turns_before

if TYPE_CHECKING:
    from dclocal.frames import VideoRequest

PASSED_SHOWN = 8
"""Pictures of a watch that stay beside the conversation once it has asked again."""


class Talk(EngineSide):
    """What the user can do with a conversation; every method returns without waiting for the model."""

    def open(self, bundle: str | None, request: int | None = None) -> None:
        """Open a bundle; the conversation, if there is one, goes on with it.

        `request` is the engine's number where it was asked to open it already.
        """
        said = self.engine.conversation
        self.ready = False
        if request is None:
            request = self.engine.open(bundle, system=self._settings().system)
        self._note(request, "loading the model")
        if said:
            self._restore(said, tuple(turn.numbers for turn in remembered(self.turns)))

    def attach(self, media: Media) -> Item:
        """Attach a picture or video; it is prepared in the background."""
        item = self.shelf.add(media)
        self._send_attach(item)
        self.view.show_media(self.shelf.items)
        return item

    def remove(self, number: int) -> bool:
        """Take a medium off that no question has shown; false where that cannot be."""
        item = self.shelf.get(number)
        if item is None or item.asked:
            return False
        self._let_go(number)
        self.view.show_media(self.shelf.items)
        self.prepare()
        return True

    def give_frames(self, number: int, request: VideoRequest) -> None:
        """Attach a video anew with other frames: in its own place, or as another one where a question showed it."""
        item = self.shelf.get(number)
        if item is None:
            return
        media = replace(item.media, video=request)
        if item.asked:
            self.attach(media)
            return
        self.shelf.change(number, media=media, attached=None, error="")
        if item.attached is not None and not self.dead and not self._shown_elsewhere(item):
            self.engine.detach(item.attached.key)
        self._send_attach(replace(item, media=media))
        self.view.show_media(self.shelf.items)

    def free(self) -> bool:
        """Whether something can be asked now; the user is told why not."""
        if self.pending is None and not self.dead:
            return True
        self.view.tell(
            "press F5 to start the model again" if self.dead else "an answer is coming: Esc stops it", "warning"
        )
        return False

    async def ask(self, text: str) -> bool:
        """Ask with the media that are not shown yet; false where it cannot be asked now."""
        return await self._begin("ask", len(self.turns), Turn(text, tuple(item.number for item in self.shelf.fresh())))

    async def ask_again(self, text: str, when: str) -> bool:
        """Ask as a watch does: the model then no longer remembers what the watch asked just before."""
        numbers = tuple(item.number for item in self.shelf.fresh())
        begun = await self._begin("ask", len(self.turns), Turn(text, numbers, when=when))
        if begun:
            passed = [number for turn in self.turns if turn.passed for number in turn.numbers if self.shelf.get(number)]
            for number in passed[:-PASSED_SHOWN]:
                self._let_go(number)
            self.view.show_media(self.shelf.items)
        return begun

    async def edit(self, text: str) -> bool:
        """Ask this in place of the last question, its media and new ones shown."""
        numbers = self.turns[-1].numbers + tuple(item.number for item in self.shelf.fresh())
        return await self._begin("edit", len(self.turns) - 1, Turn(text, numbers))

    async def retry(self) -> bool:
        """Ask the last question again, for other words."""
        if not self.turns:
            return False
        self._retries += 1
        return await self._begin("retry", len(self.turns) - 1, replace(self.turns[-1], answer="", stop_reason=""))

    async def go_on(self) -> bool:
        """Let the last answer go on."""
        if not self.turns:
            return False
        return await self._begin("continue", len(self.turns) - 1, replace(self.turns[-1], stop_reason=""))

    async def stop(self) -> bool:
        """Stop the answer under way; false where there is none."""
        if self.pending is None:
            return False
        if self.pending.request is not None:
            self.engine.cancel(self.pending.request)
        if self.pending.request is None or not self.ready or self._restoring is not None:
            await self._take_back("")  # it is not the engine's turn yet
        return True

    async def start_over(self) -> None:
        """A new conversation; the one at hand is in the history."""
        self._leave()
        self.recorder.start_over()
        self.turns = ()
        self.shelf.clear()
        self.status = replace(self.status, context_tokens=0, ttft_ms=None, tokens_per_s=None)
        if not self.dead:
            self.engine.reset(self._settings().system)
        await self.view.show_turns(0, ())
        self.view.show_media(())
        self._show_status()

    async def reopen(self, session: int, turns: Sequence[Turn], said: Sequence[Said], shelf: Shelf) -> None:
        """Take up a saved conversation, its media on `shelf`."""
        self._leave()
        self.recorder.start_over(session)
        self.turns, self.shelf = tuple(turns), shelf
        self._restore(said, tuple(turn.numbers for turn in remembered(turns)))
        await self.view.show_turns(0, self.turns)
        self.view.show_media(self.shelf.items)

    async def restart(self) -> None:
        """Start the engine anew, after a crash or where it hangs, with the conversation as it was."""
        await self._settle_dead()
        self.dead, self._steps = False, {}
        self.view.show_dead("")
        self._restoring = (self.engine.restart(), tuple(turn.numbers for turn in remembered(self.turns)))
        for item in self.shelf.fresh():
            self._send_attach(item)
        self._note(0, "starting the model again")
        self.view.show_media(self.shelf.items)

    async def _begin(self, kind: str, turn: int, shown: Turn) -> bool:
        if not self.free():
            return False
        pending = self.pending = Pending(kind, turn, self.turns)
        self.turns = (*turns_before(self.turns[:turn], shown), shown)
        for number in shown.numbers:
            self.shelf.change(number, asked=True)
        if kind != "continue":
            await self.view.show_turns(turn, (shown,))
        if self.pending is pending:  # not called off meanwhile
            self.pending = replace(pending, shown=True)
        self.view.show_media(self.shelf.items)
        self._send_if_ready()
        self._show_status()
        return True

    def _let_go(self, number: int) -> None:
        """Take an item off, and give back the engine's memory of it."""
        item = self.shelf.remove(number)
        if item and item.attached is not None and not self.dead and not self._shown_elsewhere(item):
            self.engine.detach(item.attached.key)

    def _leave(self) -> None:
        """Turn away from the conversation at hand, whatever it is doing."""
        self._restoring = None
        self.conversation += 1
        if self.pending is not None and self.pending.request is not None and not self.dead:
            self.engine.cancel(self.pending.request)
        self.pending = None

    def _restore(self, said: Sequence[Said], numbers: tuple[tuple[int, ...], ...]) -> None:
        request = self.engine.restore(said)
        self._restoring = (request, numbers)
        self._note(request, "restoring the conversation")

    def _shown_elsewhere(self, item: Item) -> bool:
        return any(
            other.attached is not None and item.attached is not None and other.attached.key == item.attached.key
            for other in self.shelf.items
        )
