"""A conversation about pictures: attachments and turns in, events out.

The one way to ask a bundle: the command line, the terminal app, evaluation and any server share it.
Segments of past turns are kept as they were evaluated, so that a follow-up question finds them in the cache
and evaluates its own tokens alone.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING

from dclocal.album import Album
from dclocal.cells import common_prefix, plan_prefill, segment_cells
from dclocal.chat_events import (
    Answered,
    AnswerOptions,
    Attachment,
    Event,
    ImageEncoded,
    LanguageModel,
    Model,
    PromptReady,
    TextPiece,
    Vision,
)
from dclocal.chat_events import Stats as Stats
from dclocal.errors import PromptError
from dclocal.prompt import Message, Segment, Tokens, labelled, part_of, render, shows_picture, to_segments
from dclocal.repetition import GuardedAnswer
from dclocal.repetition import unrepeated_length as unrepeated_length
from dclocal.turns import Turn, answer_stats, milliseconds_since

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

    from dclocal.known_pictures import PictureMemory

STEP = 256
"""Tokens that are evaluated between two looks at whether the work is called off."""
Stopped = Callable[[], bool]


class ChatSession:
    """One conversation with a bundle, or with what describes itself as one.

    `turns` is what was said so far; set to fewer of them, the conversation goes on from there.  Not safe for use from
    several threads at once.  What takes time looks now and then at `stopped`, where it is given.  `memory` is what
    earlier runs found out about pictures; `text_llm` gives the model that answers as long as none was shown.
    """

    def __init__(
        self,
        bundle: Model,
        vision: Vision,
        llm: LanguageModel,
        system: str = "",
        memory: PictureMemory | None = None,
        text_llm: Callable[[], LanguageModel] | None = None,
    ):
        self.bundle, self.vision, self.llm, self._memory = bundle, vision, llm, memory
        self._text_llm, self._answering = text_llm, llm
        self.system, self._album = system, Album(bundle, vision, memory)
        self.turns: tuple[Turn, ...] = ()

    @property
    def messages(self) -> list[Message]:
        """The system message, if there is one, and what was said."""
        said = [(turn.question, Message("assistant", turn.answer.strip())) for turn in self.turns]
        return [*([Message("system", self.system)] if self.system else []), *chain.from_iterable(said)]

    @property
    def context_tokens(self) -> int:
        """How many tokens of the context the conversation takes."""
        return sum(len(segment) for segment in self._past(self.turns))

    def reset(self) -> None:
        """Forget what was said; attached images keep their numbers and embeddings."""
        self.turns = ()

    def attach(self, image: Image, key: str = "") -> Attachment:
        """Make an image known, by its `image_key` where that was made; the same content keeps its number."""
        from dclocal.images import image_key

        return self.attach_late(lambda: image, key or image_key(image))

    def attach_late(self, load: Callable[[], Image], key: str) -> Attachment:
        """The same of an image that is loaded only where nothing is known of it."""
        return self._album.add(load, key)

    def attach_embeds(self, key: str, embeds: np.ndarray, *, label: str = "", encode_ms: float = 0.0) -> Attachment:
        """Make a picture known by its embeddings, float32 `[tokens, n_embd]`: a frame of a video, or one encoded ahead.

        `key` names this content, its pooling and its label; `label` stands as text before the picture; the next
        question that shows it counts the `encode_ms` that it took.
        """
        return self._album.add_embeds(key, embeds, label, encode_ms)

    def detach(self, attachment: Attachment) -> None:
        """Give back what a picture takes, unless the conversation shows it; its number stays taken."""
        if not any(attachment.key in turn.question.images for turn in self.turns):
            self._album.remove(attachment.key)

    def needed_tokens(self, text: str, images: Sequence[Attachment]) -> int:
        """How many tokens a question adds whose pictures are encoded, up to where its answer starts."""
        return sum(map(len, self._new_segments(Message("user", text.strip(), tuple(each.key for each in images)))))

    def ask(
        self,
        text: str,
        images: Sequence[Attachment] = (),
        *,
        max_tokens: int | None = None,
        temperature: float | None = None,
        seed: int = 0,
        stopped: Stopped | None = None,
    ) -> Iterator[Event]:
        """Ask, yielding events; closing the iterator early keeps what was answered so far.

        Called off by `stopped` in mid-answer, it keeps that too and ends as usual; before the answer's first token
        the question is taken back, and the iterator ends without `Answered`.
        Raises PromptError for an empty question, or pictures or a conversation that do not fit the context.
        """
        if not text.strip():
            raise PromptError("the question is empty", "ask something")
        started = time.perf_counter()
        keys = tuple(attachment.key for attachment in images)
        self._check_room(keys)
        encoded = []
        for key in keys:
            if stopped and stopped():
                return
            encoded.append(self._album.encode(key))
            yield encoded[-1]
        question = Message("user", text.strip(), keys)
        turn = Turn(question, tuple(self._new_segments(question)))
        options = AnswerOptions(max_tokens, temperature, seed)
        yield from self._answer(self.turns, turn, encoded, started, options, stopped)

    def continue_answer(
        self,
        *,
        max_tokens: int | None = None,
        temperature: float | None = None,
        seed: int = 0,
        stopped: Stopped | None = None,
    ) -> Iterator[Event]:
        """Let the last answer go on where it ended; otherwise as `ask`.  Raises PromptError where there is none."""
        if not self.turns:
            raise PromptError("there is no answer that could go on", "ask something")
        *earlier, turn = self.turns
        options = AnswerOptions(max_tokens, temperature, seed)
        yield from self._answer(tuple(earlier), turn, [], time.perf_counter(), options, stopped)

    def prepare(self, images: Sequence[Attachment] = (), *, stopped: Stopped | None = None) -> Iterator[Event]:
        """Encode pictures and evaluate what every next question with them shares, so that it costs its own tokens.

        A model for text alone is left as it is.  Ends without `PromptReady` where it is called off.  Raises PromptError
        where they do not fit the context.
        """
        keys = tuple(attachment.key for attachment in images)
        self._check_room(keys)
        for key in keys:
            if stopped and stopped():
                return
            if key not in self._album.embeds:
                yield self._album.encode(key)
        one, other = (self._new_segments(Message("user", text, keys)) for text in ("a", "1"))
        shared = common_prefix(list(segment_cells(one)), list(segment_cells(other)))
        segments = [*self._past(self.turns), *part_of(one, 0, shared)]
        if segments and (self._text_llm is None or shows_picture(segments)):
            yield from self._prefill(self.llm, segments, stopped)

    def settle(self) -> None:
        """Get ready for the next question, while nobody waits for anything."""
        self._answering.settle()

    def add_turn(self, text: str, images: Sequence[Attachment], answer: str) -> None:
        """Add a turn that was said elsewhere: its pictures are encoded, the next question evaluates the rest."""
        keys = tuple(attachment.key for attachment in images)
        for key in keys:
            if key not in self._album.embeds:
                self._album.encode(key)
        question = Message("user", text.strip(), keys)
        ids = self.llm.tokenize(self.bundle.manifest.prompt.answer_lead + answer, False)
        self.turns += (Turn(question, tuple(self._new_segments(question)), answer, tuple(ids)),)

    def _answer(
        self,
        earlier: tuple[Turn, ...],
        turn: Turn,
        encoded: Sequence[ImageEncoded],
        started: float,
        options: AnswerOptions,
        stopped: Stopped | None,
    ) -> Iterator[Event]:
        """Evaluate the prompt after `earlier` turns and generate, from where the turn's answer ends."""
        segments = [*self._past(earlier), *turn.segments, *([Tokens(turn.ids)] if turn.ids else [])]
        llm = self.llm if self._text_llm is None or shows_picture(segments) else self._text_llm()
        self._answering = llm
        ready = yield from self._prefill(llm, segments, stopped)
        if ready is None:
            return
        sampling = self.bundle.manifest.sampling
        if options.temperature is not None:
            sampling = dataclasses.replace(sampling, temperature=options.temperature)
        limit = min(options.max_tokens or sampling.max_tokens, llm.n_ctx - ready.prompt_tokens)
        answer, cancelled = GuardedAnswer(turn.answer, len(turn.ids)), False
        stop = (self.bundle.manifest.prompt.answer_end,)
        try:
            for piece in llm.generate(sampling, seed=options.seed, max_tokens=limit, stop=stop):
                if text := answer.add(piece, len(turn.ids) + len(llm.last_tokens)):
                    yield TextPiece(text)
                cancelled = stopped is not None and stopped()
                if answer.repeats or cancelled:
                    break
        finally:
            ids = llm.last_tokens
            kept = (*turn.ids, *ids)[: answer.tokens if answer.repeats else None]
            self.turns = (*earlier, dataclasses.replace(turn, answer=answer.text, ids=kept))
        reason = "repetition" if answer.repeats else "cancelled" if cancelled else "end"
        if reason == "end" and len(ids) >= limit:
            reason = "length"
        yield Answered(answer.text.strip(), answer_stats(started, encoded, segments, ready, answer, len(ids)), reason)

    def _prefill(
        self, llm: LanguageModel, segments: Sequence[Segment], stopped: Stopped | None
    ) -> Generator[PromptReady, None, PromptReady | None]:
        """Evaluate a prompt and say so; None where that is called off, then a part of it is in the cache."""
        started = time.perf_counter()
        _, plan = plan_prefill(llm.cells, segments, llm.n_ctx)
        start = 0
        if self._memory:
            start = self._memory.recall(segments)
            _, plan = plan_prefill(llm.cells, segments, llm.n_ctx)
        for count in range(plan.reused + STEP, plan.total, STEP) if stopped else ():
            if stopped and stopped():
                return None
            llm.prefill(part_of(segments, 0, count))
        llm.prefill(segments)
        if self._memory and start:
            self._memory.remember(start)
        if stopped and stopped():
            return None
        ready = PromptReady(plan.total, plan.reused, milliseconds_since(started))
        yield ready
        return ready

    def _check_room(self, keys: Sequence[str]) -> None:
        """Refuse pictures that fill the context by themselves, before the time to encode them is spent."""
        tokens = sum(map(self._album.tokens, keys))
        if tokens >= self.llm.n_ctx:
            which = "the picture takes" if len(keys) == 1 else f"the {len(keys)} pictures take"
            raise PromptError(
                f"{which} {tokens} tokens, the context holds {self.llm.n_ctx}", "send fewer or smaller pictures"
            )

    def _past(self, turns: Sequence[Turn]) -> list[Segment]:
        """The prompt up to the end of these turns, as it was evaluated."""
        prompt = self.bundle.manifest.prompt
        closing = self.llm.tokenize(prompt.answer_end + prompt.answer_suffix, True)
        return [segment for turn in turns for segment in (*turn.segments, Tokens((*turn.ids, *closing)))]

    def _new_segments(self, question: Message) -> list[Segment]:
        """The segments that this question adds, up to where its answer starts."""
        first = not self.turns
        opening = [message for message in self.messages if message.role == "system"] if first else []
        pieces = render(self.bundle.manifest.prompt, [*opening, question], answer_next=True, opening=first)
        return to_segments(labelled(pieces, self._album.labels), self.llm.tokenize, self._album.embeds)
