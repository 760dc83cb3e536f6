"""What the parent remembers of a conversation, from requests and events alone, so that a crash loses nothing shown."""

from __future__ import annotations

from dataclasses import dataclass, replace

from dclocal import engine_messages as messages
from dclocal.engine_messages import Event, Media, Request, Said


@dataclass(frozen=True)
class RecordedTurn:
    """A question, the keys of its media, and what was shown of its answer."""

    text: str
    media: tuple[str, ...]
    answer: str


class Record:
    """The turns so far, and the request that opened the bundle."""

    def __init__(self) -> None:
        self.opened: messages.Open | None = None
        self.turns: tuple[RecordedTurn, ...] = ()
        self.media: dict[str, Media] = {}
        self._pending: dict[int, Request] = {}
        self._growing: tuple[int, RecordedTurn] | None = None
        self._to_restore: tuple[Said, ...] = ()

    def sent(self, request: Request) -> None:
        """Note a request that goes out."""
        if not isinstance(request, messages.Cancel):
            self._pending[request.request] = request
        if isinstance(request, messages.Restore | messages.Open):
            self._to_restore = request.said if isinstance(request, messages.Restore) else ()

    def received(self, event: Event) -> None:
        """Note what an event says."""
        request = self._pending.get(event.request)
        if isinstance(event, messages.Evaluated) and request is not None:
            self._growing = self._start(request)
        elif isinstance(event, messages.TextPiece) and self._growing is not None:
            turn, said = self._growing
            self._growing = turn, replace(said, answer=said.answer + event.text)
        elif isinstance(event, messages.Answered):
            self.turns = (*self.turns[: event.turn], RecordedTurn(event.text, event.media, event.answer))
        elif isinstance(event, messages.Attached) and isinstance(request, messages.Attach):
            self.media[event.key] = request.media
        elif isinstance(event, messages.Ready) and isinstance(request, messages.Open):
            self.opened, self.turns, self.media = request, (), {}
        elif isinstance(event, messages.Restored) and isinstance(request, messages.Restore):
            self._restored(request, event)
        elif isinstance(event, messages.Done):
            self._done(request)
        if not isinstance(event, messages.Loading | messages.Evaluated | messages.TextPiece):  # the request's last
            self._pending.pop(event.request, None)
            self._growing = None

    def died(self) -> None:
        """Keep what was shown of an answer as the answer; what was asked for besides is void."""
        if self._growing is not None and self._growing[1].answer:
            turn, said = self._growing
            self.turns = (*self.turns[:turn], said)
        self._growing = None
        for request in self._pending.values():
            if isinstance(request, messages.Open):
                self.opened, self.turns = request, ()
        self._pending.clear()

    def conversation(self) -> tuple[Said, ...]:
        """The turns with their media, as `Restore` takes them."""
        if self._to_restore:
            return self._to_restore
        return tuple(Said(turn.text, tuple(self.media[key] for key in turn.media), turn.answer) for turn in self.turns)

    def _start(self, request: Request) -> tuple[int, RecordedTurn] | None:
        """The turn that a request answers, before its first piece."""
        last = len(self.turns) - 1
        if isinstance(request, messages.Ask):
            turn = len(self.turns) if request.turn is None else request.turn
            known = self.turns[turn].media if turn < len(self.turns) else ()
            return turn, RecordedTurn(request.text.strip(), known if request.media is None else request.media, "")
        if isinstance(request, messages.Retry):
            return last, replace(self.turns[last], answer="")
        if isinstance(request, messages.Continue):
            return last, self.turns[last]
        return None

    def _restored(self, request: messages.Restore, event: messages.Restored) -> None:
        turns = []
        for said, keys in zip(request.said, event.turns):
            self.media.update({key: media for key, media in zip(keys, said.media) if key})
            turns.append(RecordedTurn(said.text, tuple(key for key in keys if key), said.answer))
        self.turns, self._to_restore = tuple(turns), ()

    def _done(self, request: Request | None) -> None:
        if isinstance(request, messages.Reset):
            self.turns = ()
            if self.opened is not None and request.system is not None:
                self.opened = replace(self.opened, system=request.system)
        elif isinstance(request, messages.Detach) and not any(request.key in turn.media for turn in self.turns):
            self.media.pop(request.key, None)
