"""A context that grows, and states that are taken up again: the same logits as without."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dclocal.bundle import Sampling
from dclocal.errors import BundleError
from dclocal.llama_context import FIRST_ROOM
from dclocal.llm import LLM
from dclocal.prompt import Embeds, Tokens

LIMIT = 4096
GREEDY = Sampling(temperature=0.0, repeat_penalty=1.0)


def ids(count: int, start: int = 0) -> Tokens:
    return Tokens(tuple(4 + (7 * place + start) % 200 for place in range(count)))


def room(tiny: LLM) -> int:
    return tiny._opened._room


def test_memory_is_claimed_as_it_is_needed_and_nothing_is_evaluated_twice(tiny: LLM, tiny_gguf: Path) -> None:
    tiny.prefill([ids(FIRST_ROOM - 100)])
    assert room(tiny) == FIRST_ROOM and tiny.n_ctx == LIMIT
    tiny.prefill([ids(FIRST_ROOM + 300)])
    assert room(tiny) == 2 * FIRST_ROOM and tiny.evaluated_tokens == FIRST_ROOM + 300
    grown = tiny.logits()
    tiny.forget()
    tiny.prefill([ids(FIRST_ROOM + 300)])
    np.testing.assert_allclose(grown, tiny.logits(), rtol=0, atol=2e-3)
    with LLM(tiny_gguf, n_ctx=LIMIT, threads=1) as other:
        other.prefill([ids(FIRST_ROOM + 300, start=1)])
        assert np.abs(other.logits() - grown).max() > 0.02  # the bound above tells prompts apart


def test_an_answer_goes_on_where_the_context_grows(tiny: LLM, tiny_gguf: Path) -> None:
    prompt = [ids(FIRST_ROOM - 5)]
    tiny.prefill(prompt)
    said = "".join(tiny.generate(GREEDY, seed=0, max_tokens=12))
    tokens = tiny.last_tokens
    with LLM(tiny_gguf, n_ctx=LIMIT, threads=1) as other:
        other._cache.make_room(LIMIT)
        other.prefill(prompt)
        assert "".join(other.generate(GREEDY, seed=0, max_tokens=12)) == said and other.last_tokens == tokens
    assert len(tokens) < 7 or room(tiny) > FIRST_ROOM


def test_a_context_that_slides_has_all_its_room_at_once(tiny: LLM) -> None:
    tiny.prefill([ids(40)])
    tiny.drop_cells(5, 9)
    assert room(tiny) == LIMIT and len(tiny.cells) == 36


def test_a_state_is_taken_up_by_another_model_of_the_same_file(tiny: LLM, tiny_gguf: Path) -> None:
    picture = Embeds("cat", np.random.default_rng(0).standard_normal((20, tiny.n_embd)).astype(np.float32))
    start = [ids(10), picture]
    tiny.prefill(start)
    state, cells = tiny.state(), list(tiny.cells)
    tiny.prefill([*start, ids(6)])
    expected = tiny.logits()
    with LLM(tiny_gguf, n_ctx=LIMIT, threads=1) as other:
        other.prefill([ids(300)])
        before = other.evaluated_tokens
        other.restore(state, cells)
        other.prefill([*start, ids(6)])
        assert other.evaluated_tokens == before + 6
        np.testing.assert_array_equal(other.logits(), expected)


def test_what_is_no_state_is_refused_and_leaves_an_empty_cache(tiny: LLM) -> None:
    tiny.prefill([ids(10)])
    with pytest.raises(BundleError, match="could not be taken up"):
        tiny.restore(b"no state of any model", [1, 2, 3])
    assert tiny.cells == []
    tiny.prefill([ids(12)])
    assert len(tiny.cells) == 12
