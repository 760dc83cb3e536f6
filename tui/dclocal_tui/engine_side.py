"""What the engine says, taken into a conversation: to the screen, to the history, and on to the next request."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from dclocal import engine_messages as messages
from dclocal.chat_events import AnswerOptions
from dclocal.engine import Engine
from dclocal.engine_messages import Event
from dclocal.settings import Settings
from dclocal_tui.recorder import Recorder
from dclocal_tui.shelf import Item, Shelf
from dclocal_tui.state import Pending, Status, Turn, View, remembered

RETRY_TEMPERATURE = 0.7
"""A retry at temperature 0 would bring the same words again."""


class EngineSide:
    """The turns, the media and what is under way, as the engine's events change them; `talk.Talk` adds the user."""

    def __init__(self, engine: Engine, recorder: Recorder, view: View, settings: Callable[[], Settings]):
        self.engine, self.recorder, self.view, self._settings = engine, recorder, view, settings
        self.shelf = Shelf()
        self.turns: tuple[Turn, ...] = ()
        self.status = Status()
        self.facts: messages.BundleFacts | None = None
        self.pending: Pending | None = None
        self.dead = False
        self.ready = False
        self._steps: dict[int, str] = {}  # requests under way → what the status line calls them
        self._restoring: tuple[int, tuple[tuple[int, ...], ...]] | None = None
        self._retries = 0
        self.conversation = 0
        """Counts the conversations that were begun or taken up."""

    def prepare(self) -> None:
        """Have the engine do ahead what the next question will need."""
        fresh = self.shelf.fresh()
        if self.pending is None and self.ready and not self.dead and not any(item.preparing for item in fresh):
            keys = self.shelf.keys(tuple(item.number for item in fresh))
            self._note(self.engine.prepare(keys), "preparing…")

    async def handle(self, event: Event) -> None:
        """Take an event of the engine."""
        if isinstance(event, messages.Died):
            return await self._died(event)
        if isinstance(event, messages.Loading):
            return self._loading(event)
        mine = self.pending is not None and event.request == self.pending.request
        if isinstance(event, messages.TextPiece | messages.Evaluated):
            if mine:
                await self._grow(event)
            return None
        self._steps.pop(event.request, None)
        self._steps.pop(0, None)
        if isinstance(event, messages.Ready):
            self._opened(event)
        elif isinstance(event, messages.Attached):
            await self._attached(event)
        elif isinstance(event, messages.Restored):
            self._restored(event)
        elif isinstance(event, messages.Answered) and mine:
            await self._answered(event)
        elif isinstance(event, messages.Failed | messages.Cancelled):
            await self._came_to_nothing(event, mine)
        self._show_status()
        return None

    def _send_if_ready(self) -> None:
        """Ask the engine, once all media of the question are there."""
        pending = self.pending
        if pending is None or not pending.shown or pending.request is not None:
            return
        turn = self.turns[pending.turn]
        items = [item for number in turn.numbers if (item := self.shelf.get(number))]
        if any(item.preparing for item in items) and pending.kind in ("ask", "edit"):
            return
        if pending.kind == "retry":
            request = self.engine.retry(self._options(self._retries))
        elif pending.kind == "continue":
            request = self.engine.continue_answer(self._options(0))
        else:
            place = len(remembered(self.turns[: pending.turn]))
            request = self.engine.edit(place, turn.text, self.shelf.keys(turn.numbers), self._options(0))
        if pending.kind == "ask":
            self.recorder.question(pending.turn, turn.text, items, self.status.bundle, turn.when)
        self.pending = replace(pending, request=request)
        self._note(request, "reading…")

    async def _grow(self, event: messages.TextPiece | messages.Evaluated) -> None:
        assert self.pending is not None
        if isinstance(event, messages.Evaluated):
            self._note(event.request, "answering…  Esc stops")
            return
        if not self.pending.started:
            self._start_answer(self.pending)
        self.recorder.piece(event.text)
        turn = self.turns[-1]
        self.turns = (*self.turns[:-1], replace(turn, answer=turn.answer + event.text))
        await self.view.grow(event.text)

    def _start_answer(self, pending: Pending) -> None:
        """The history takes the answer from here on; an edited question replaces the old one only now."""
        turn = self.turns[pending.turn]
        if pending.kind == "edit":
            items = [item for number in turn.numbers if (item := self.shelf.get(number))]
            self.recorder.question(pending.turn, turn.text, items, self.status.bundle)
        self.recorder.answer(pending.turn, turn.answer)
        self.pending = replace(pending, started=True)

    async def _answered(self, event: messages.Answered) -> None:
        assert self.pending is not None
        if not self.pending.started:
            self._start_answer(self.pending)
        self.recorder.finish(event.answer, event.stats, event.stop_reason)
        self.pending = None
        self.turns = (*self.turns[:-1], replace(self.turns[-1], answer=event.answer, stop_reason=event.stop_reason))
        self.status = replace(
            self.status,
            context_tokens=event.context_tokens,
            ttft_ms=event.stats.ttft_ms,
            tokens_per_s=event.stats.decode_tps,
            memory_bytes=event.memory_bytes,
        )
        await self.view.finish(self.turns[-1])
        self.prepare()

    def _opened(self, event: messages.Ready) -> None:
        self.ready = True
        facts = self.facts = event.bundle
        self.status = replace(self.status, bundle=facts.name, n_ctx=facts.n_ctx, memory_bytes=event.memory_bytes)
        self.prepare()

    async def _attached(self, event: messages.Attached) -> None:
        item = self.shelf.by_request(event.request)
        if item is None:  # removed meanwhile
            if event.key not in self.shelf.keys(tuple(item.number for item in self.shelf.items)):
                self.engine.detach(event.key)
            return
        self.shelf.change(item.number, attached=event, step="")
        self.view.show_media(self.shelf.items)
        self._send_if_ready()
        self.prepare()

    def _restored(self, event: messages.Restored) -> None:
        if self._restoring is None or event.request != self._restoring[0]:
            return  # a conversation that was left meanwhile
        attached = {found.key: found for found in event.attached}
        for numbers, keys in zip(self._restoring[1], event.turns):
            for number, key in zip(numbers, keys):
                found = attached.get(key)
                self.shelf.change(number, attached=found, error="" if found else "it cannot be read any more")
        self._restoring = None
        for missing in event.missing:
            self.view.tell(missing, "warning")
        self.view.show_media(self.shelf.items)
        self.prepare()

    async def _came_to_nothing(self, event: messages.Failed | messages.Cancelled, mine: bool) -> None:
        failed = isinstance(event, messages.Failed)
        reason = f"{event.what} — {event.remedy}" if isinstance(event, messages.Failed) else ""
        item = self.shelf.by_request(event.request)
        if mine:
            await self._take_back(reason)
        elif item is not None and failed:
            self.shelf.change(item.number, error=reason.replace(str(item.media.source), item.name))
            self.view.show_media(self.shelf.items)
            if self.pending is not None and item.number in self.turns[-1].numbers:
                await self._take_back(f"{item.name} cannot be shown")
        elif item is not None:  # called off with an answer: it is still wanted
            self._send_attach(item)
        elif failed:
            self.view.tell(reason, "error")

    async def _take_back(self, reason: str) -> None:
        """The question under way came to nothing: the turns are those before."""
        assert self.pending is not None
        pending, self.pending = self.pending, None
        asked, self.turns = self.turns[-1], pending.before
        if pending.kind == "ask" and pending.request is not None:
            self.recorder.take_back(pending.turn)
        known = {number for turn in self.turns for number in turn.numbers}
        for number in asked.numbers:
            self.shelf.change(number, asked=number in known)
        await self.view.show_turns(pending.turn, self.turns[pending.turn :])
        self.view.show_media(self.shelf.items)
        if pending.kind in ("ask", "edit"):
            self.view.give_back("" if asked.when else asked.text)
        if reason:
            self.view.tell(reason, "error")

    async def _died(self, event: messages.Died) -> None:
        await self._settle_dead()
        self.dead, self.ready, self._steps = True, False, {}
        self.view.show_dead(event.message)
        self._show_status()

    async def _settle_dead(self) -> None:
        """What was shown of an answer stays as the answer, as the engine keeps it."""
        if self.pending is None:
            return
        if not self.pending.started:
            return await self._take_back("")
        self.pending = None
        self.turns = (*self.turns[:-1], replace(self.turns[-1], stop_reason="crash"))
        self.recorder.finish(self.turns[-1].answer, None, "crash")
        await self.view.finish(self.turns[-1])
        return None

    def _send_attach(self, item: Item) -> None:
        if not self.dead:
            request = self.engine.attach(item.media)
            self.shelf.change(item.number, request=request, attached=None, step="")
            self._note(request, f"preparing {item.name}")

    def _loading(self, event: messages.Loading) -> None:
        step = f"{event.step} {100 * event.done // event.total} %" if event.total else event.step
        item = self.shelf.by_request(event.request)
        if item is not None:
            self.shelf.change(item.number, step=step)
            self.view.show_media(self.shelf.items)
        self._note(event.request, step)

    def _note(self, request: int, step: str) -> None:
        self._steps[request] = step
        self._show_status()

    def _show_status(self) -> None:
        answering = self._steps.get(self.pending.request or 0, "") if self.pending is not None else ""
        activity = answering or next(iter(self._steps.values()), "")
        self.status = replace(self.status, activity="the model has ended" if self.dead else activity)
        self.view.show_status(self.status)

    def _options(self, retries: int) -> AnswerOptions:
        settings = self._settings()
        temperature = settings.temperature
        if retries:
            temperature = temperature or RETRY_TEMPERATURE
        return AnswerOptions(settings.max_tokens, temperature, seed=retries)
