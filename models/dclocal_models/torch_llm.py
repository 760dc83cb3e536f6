"""A language model of transformers behind the runtime's protocol: segments in, text pieces out; owner of a KV cache.

It follows the rules of `dclocal.llm`: the cache holds one sequence of cells, and a new prompt keeps the longest
prefix that it shares with them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dclocal.bundle import PENALTY_WINDOW, Sampling
from dclocal.cells import Cell, Prefill, plan_prefill, utf8
from dclocal.prompt import Embeds, Segment
from dclocal_models.answer import tokenize_with

BATCH = 1024
"""Positions evaluated in one forward pass: bounds the memory of a long prompt."""


class TorchLLM:
    """A causal language model of transformers with one KV cache, behind `dclocal.chat.LanguageModel`."""

    can_slide = False  # its keys are kept turned to their positions

    def __init__(self, llm: Any, tokenizer: Any, n_ctx: int):
        self.n_ctx = n_ctx
        self.cells: list[Cell] = []
        self.evaluated_tokens = 0
        self.last_tokens: list[int] = []
        self._llm, self._tokenizer = llm, tokenizer
        self._tokenize = tokenize_with(tokenizer)
        self._table = llm.get_input_embeddings()
        self._logits = np.zeros(0, np.float32)
        self._new_cache()

    def tokenize(self, text: str, parse_special: bool) -> list[int]:
        """Token ids of `text`, none added; raises PromptError for text that is not Unicode."""
        utf8(text)
        return self._tokenize(text, parse_special)

    def prefill(self, segments: Sequence[Segment]) -> Prefill:
        """Make the cache hold exactly these segments; the last cell is always evaluated, for its logits.

        Raises PromptError where they do not fit the context, before anything is evaluated or forgotten.
        """
        wanted, plan = plan_prefill(self.cells, segments, self.n_ctx)
        self._forget_from(plan.reused)
        rows, start = [], 0
        for segment in segments:
            skip = max(0, plan.reused - start)
            start += len(segment)
            if start > plan.reused:
                rows.append(self._rows(segment, skip))
        self._evaluate(torch.cat(rows), wanted[plan.reused :])
        return plan

    def settle(self) -> None:
        """Questions take no less time afterwards."""

    def logits(self) -> np.ndarray:
        """A copy of the logits after the last position, float32 `[n_vocab]`."""
        return self._logits.copy()

    def generate(self, sampling: Sampling, *, seed: int, max_tokens: int, stop: Sequence[str] = ()) -> Iterator[str]:
        """Text pieces of the answer, in whole characters, until its end, `max_tokens` or a full context.

        `stop` are special tokens that end it besides the model's own.  Each token that is followed by another
        one is in the cache; `last_tokens` holds the ids so far.  The generator may be closed at any time.
        """
        ends = self._own_ends() | {ids[0] for ids in (self.tokenize(text, True) for text in stop) if len(ids) == 1}
        random = np.random.default_rng(seed & 0xFFFFFFFF)
        self.last_tokens = []
        text = _Text(self._tokenizer)
        while len(self.last_tokens) < max_tokens:
            token = choose(self._logits, sampling, self.last_tokens, random)
            if token in ends:
                break
            self.last_tokens.append(token)
            if piece := text.add(token):
                yield piece
            if len(self.cells) + 1 >= self.n_ctx:
                break
            if len(self.last_tokens) < max_tokens:
                self._evaluate(self._embedded([token]), [token])
        if rest := text.rest():
            yield rest

    def _own_ends(self) -> set[int]:
        """The tokens with which the model itself ends a text."""
        found = self._llm.generation_config.eos_token_id
        ends = found if isinstance(found, list) else [found]
        return {token for token in (*ends, self._tokenizer.eos_token_id) if token is not None}

    def _embedded(self, ids: Sequence[int]) -> Tensor:
        with torch.inference_mode():
            rows: Tensor = self._table(torch.tensor(ids, device=self._table.weight.device))
        return rows

    def _rows(self, segment: Segment, skip: int) -> Tensor:
        """The embeddings of a segment's cells from `skip` on, `[cells, n_embd]`."""
        if isinstance(segment, Embeds):
            return torch.from_numpy(segment.rows(skip)).to(self._table.weight.device, self._table.weight.dtype)
        return self._embedded(segment.ids[skip:])

    def _new_cache(self) -> None:
        from transformers import DynamicCache

        self.cells.clear()
        self._cache = DynamicCache()

    def _forget_from(self, position: int) -> None:
        """Drop the cells from `position` on, and whatever an interrupted evaluation left behind them."""
        del self.cells[position:]
        try:
            self._cache.crop(position)
        except BaseException:  # Ctrl-C between keys and values: begin with an empty cache
            self._new_cache()
            raise

    def _evaluate(self, embeds: Tensor, cells: Sequence[Cell]) -> None:
        """Evaluate `[cells, n_embd]` after what the cache holds, and record it.

        Interrupted on the way, the cache holds more than the record: the next `prefill` cuts it off.
        """
        for start in range(0, len(cells), BATCH):
            with torch.inference_mode():
                output = self._llm(
                    inputs_embeds=embeds[None, start : start + BATCH],
                    past_key_values=self._cache,
                    use_cache=True,
                    logits_to_keep=1,
                )
                self._logits = output.logits[0, -1].float().cpu().numpy()
            self.cells += cells[start : start + BATCH]
            self.evaluated_tokens += len(cells[start : start + BATCH])


class _Text:
    """Tokens to text as they come: a tokenizer's decoder looks at neighbours, so a window of them is decoded."""

    def __init__(self, tokenizer: Any):
        self._tokenizer = tokenizer
        self._window: list[int] = []
        self._said = 0  # leading tokens of the window whose text is out already

    def add(self, token: int) -> str:
        """The text that `token` completes; nothing while a character is incomplete."""
        self._window.append(token)
        new = self.rest()
        if not new or new.endswith("\N{REPLACEMENT CHARACTER}"):
            return ""
        self._window, self._said = self._window[self._said :], len(self._window) - self._said
        return new

    def rest(self) -> str:
        """What has not been said yet."""
        return self._decoded(self._window)[len(self._decoded(self._window[: self._said])) :]

    def _decoded(self, ids: list[int]) -> str:
        text: str = self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text


def choose(logits: np.ndarray, sampling: Sampling, recent: Sequence[int], random: np.random.Generator) -> int:
    """The next token from float32 `[n_vocab]` logits: llama.cpp's penalty, top-k, top-p, temperature, in its order."""
    if sampling.repeat_penalty != 1.0 and recent:
        seen = np.unique(recent[-PENALTY_WINDOW:])
        values = logits[seen]
        logits = logits.copy()
        logits[seen] = np.where(values <= 0, values * sampling.repeat_penalty, values / sampling.repeat_penalty)
    if sampling.temperature <= 0:
        return int(logits.argmax())
    tokens = np.argsort(-logits, kind="stable")[: sampling.top_k if sampling.top_k > 0 else None]
    kept = logits[tokens].astype(np.float64)
    if sampling.top_p < 1:
        kept = kept[: int(np.searchsorted(_softmax(kept).cumsum(), sampling.top_p)) + 1]
    return int(tokens[random.choice(len(kept), p=_softmax(kept / sampling.temperature))])


def _softmax(values: np.ndarray) -> np.ndarray:
    weights = np.exp(values - values.max())
    return weights / weights.sum()
