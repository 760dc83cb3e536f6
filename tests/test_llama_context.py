"""A context that grows, and states that are taken up again: the same logits as without."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from dclocal.bundle import Sampling
from dclocal.errors import BundleError
from dclocal.llama_context import FIRST_ROOM
from dclocal.llm import LLM
from dclocal.prompt import Embeds, Tokens
from tests.tiny_files import write_tiny_gguf

LIMIT = 4096
GREEDY = Sampling(temperature=0.0, repeat_penalty=1.0)


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_gguf(tmp_path_factory.mktemp("tiny") / "tiny.gguf")


@pytest.fixture
def llm(gguf: Path) -> Iterator[LLM]:
    with LLM(gguf, n_ctx=LIMIT, threads=1) as model:
        yield model


def ids(count: int, start: int = 0) -> Tokens:
    return Tokens(tuple(4 + (7 * place + start) % 200 for place in range(count)))


def room(llm: LLM) -> int:
    return llm._opened._room


def test_memory_is_claimed_as_it_is_needed_and_nothing_is_evaluated_twice(llm: LLM, gguf: Path) -> None:
    llm.prefill([ids(FIRST_ROOM - 100)])
    assert room(llm) == FIRST_ROOM and llm.n_ctx == LIMIT
    llm.prefill([ids(FIRST_ROOM + 300)])
    assert room(llm) == 2 * FIRST_ROOM and llm.evaluated_tokens == FIRST_ROOM + 300
    grown = llm.logits()
    llm.forget()
    llm.prefill([ids(FIRST_ROOM + 300)])
    np.testing.assert_allclose(grown, llm.logits(), rtol=0, atol=2e-3)
    with LLM(gguf, n_ctx=LIMIT, threads=1) as other:
        other.prefill([ids(FIRST_ROOM + 300, start=1)])
        assert np.abs(other.logits() - grown).max() > 0.02  # the bound above tells prompts apart


def test_an_answer_goes_on_where_the_context_grows(llm: LLM, gguf: Path) -> None:
    prompt = [ids(FIRST_ROOM - 5)]
    llm.prefill(prompt)
    said = "".join(llm.generate(GREEDY, seed=0, max_tokens=12))
    tokens = llm.last_tokens
    with LLM(gguf, n_ctx=LIMIT, threads=1) as other:
        other._cache.make_room(LIMIT)
        other.prefill(prompt)
        assert "".join(other.generate(GREEDY, seed=0, max_tokens=12)) == said and other.last_tokens == tokens
    assert len(tokens) < 7 or room(llm) > FIRST_ROOM


def test_a_context_that_slides_has_all_its_room_at_once(llm: LLM) -> None:
    llm.prefill([ids(40)])
    llm.drop_cells(5, 9)
    assert room(llm) == LIMIT and len(llm.cells) == 36


def test_a_state_is_taken_up_by_another_model_of_the_same_file(llm: LLM, gguf: Path) -> None:
    picture = Embeds("cat", np.random.default_rng(0).standard_normal((20, llm.n_embd)).astype(np.float32))
    start = [ids(10), picture]
    llm.prefill(start)
    state, cells = llm.state(), list(llm.cells)
    llm.prefill([*start, ids(6)])
    expected = llm.logits()
    with LLM(gguf, n_ctx=LIMIT, threads=1) as other:
        other.prefill([ids(300)])
        before = other.evaluated_tokens
        other.restore(state, cells)
        other.prefill([*start, ids(6)])
        assert other.evaluated_tokens == before + 6
        np.testing.assert_array_equal(other.logits(), expected)


def test_what_is_no_state_is_refused_and_leaves_an_empty_cache(llm: LLM) -> None:
    llm.prefill([ids(10)])
    with pytest.raises(BundleError, match="could not be taken up"):
        llm.restore(b"no state of any model", [1, 2, 3])
    assert llm.cells == []
    llm.prefill([ids(12)])
    assert len(llm.cells) == 12
