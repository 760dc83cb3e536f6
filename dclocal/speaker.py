"""Text to tokens and tokens to text, for whatever draws the tokens."""

from __future__ import annotations

import codecs
import ctypes
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from dclocal.cells import utf8
from dclocal.errors import PromptError
from dclocal.llama_api import llama
from dclocal.llama_sampler import Sampler

if TYPE_CHECKING:
    from dclocal.bundle import Sampling
    from dclocal.cells import Cell
    from dclocal.llama_model import Model


class Speaker:
    """What says a model's answers piece by piece; a subclass draws the tokens and evaluates them.

    `last_tokens` holds the ids of the answer so far.
    """

    n_ctx: int

    def __init__(self, model: Model) -> None:
        self._vocab = model.vocab
        self.n_embd: int = llama.llama_model_n_embd(model.pointer)
        self.n_vocab: int = llama.llama_vocab_n_tokens(self._vocab)
        self.last_tokens: list[int] = []

    @property
    def cells(self) -> list[Cell]:
        """What the cache holds."""
        raise NotImplementedError

    def tokenize(self, text: str, parse_special: bool) -> list[int]:
        """Token ids of `text`, none added; special tokens are read as such only with `parse_special`.

        Raises PromptError for text that is not Unicode (bytes of another encoding on the command line).
        """
        data = utf8(text)
        room = len(data) + 8
        ids = (llama.llama_token * room)()
        count = llama.llama_tokenize(self._vocab, data, len(data), ids, room, False, parse_special)
        if count < 0:
            raise PromptError(f"a text of {len(data)} bytes gave more tokens than bytes", "shorten it")
        return list(ids[:count])

    def generate(self, sampling: Sampling, *, seed: int, max_tokens: int, stop: Sequence[str] = ()) -> Iterator[str]:
        """Text pieces of the answer, in whole characters, until its end, `max_tokens` or a full context.

        `stop` are special tokens that end it besides the model's own.  Each token that is followed by another
        one is in the cache; `last_tokens` holds the ids so far.  The generator may be closed at any time.
        """
        stop_ids = {ids[0] for ids in (self.tokenize(text, True) for text in stop) if len(ids) == 1}
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self.last_tokens = []
        sampler = Sampler(sampling, seed, self.n_vocab)
        try:
            while len(self.last_tokens) < max_tokens:
                token = self._draw(sampler)
                if token in stop_ids or llama.llama_vocab_is_eog(self._vocab, token):
                    break
                self.last_tokens.append(token)
                text = decoder.decode(self._piece(token))
                if text:
                    yield text
                if len(self.cells) + 1 >= self.n_ctx:
                    break
                if len(self.last_tokens) < max_tokens:
                    self._follow(token)
            rest = decoder.decode(b"", final=True)
            if rest:
                yield rest
        finally:
            self._end()
            sampler.close()

    def settle(self) -> None:
        """Get ready for short questions on what the cache holds, while nobody waits."""

    def _draw(self, sampler: Sampler) -> int:
        """The next token."""
        raise NotImplementedError

    def _follow(self, token: int) -> None:
        """See to it that the token that was drawn is in the cache when the next one is."""
        raise NotImplementedError

    def _end(self) -> None:
        """The answer is over."""

    def _piece(self, token: int) -> bytes:
        room = 64
        while True:
            buffer = ctypes.create_string_buffer(room)
            count = llama.llama_token_to_piece(self._vocab, token, buffer, room, 0, False)
            if count >= 0:
                return buffer.raw[:count]
            room = -count
