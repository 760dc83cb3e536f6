"""A cache's state from one kind of attention to the other: the same cells, or a refusal, never others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dclocal.errors import BundleError
from dclocal.kv_state import in_layout
from dclocal.llm import LLM
from dclocal.prompt import Embeds, Tokens

LENGTH = 37


def ids(count: int, start: int = 0) -> Tokens:
    return Tokens(tuple(4 + (7 * place + start) % 200 for place in range(count)))


@pytest.fixture
def start(tiny: LLM) -> list[Tokens | Embeds]:
    rows = np.random.default_rng(0).standard_normal((20, tiny.n_embd)).astype(np.float32)
    return [ids(LENGTH - 20), Embeds("cat", rows)]


def test_both_ways_it_is_what_it_was(tiny: LLM, start: list[Tokens | Embeds]) -> None:
    tiny.prefill(start)
    state = tiny.state()
    plain = in_layout(state, False)
    assert plain != state and len(plain) == len(state)
    assert in_layout(plain, True) == state and in_layout(plain, False) is plain and in_layout(state, True) is state


@pytest.mark.parametrize("settled", [False, True])
def test_a_model_of_the_other_kind_takes_it_up(
    tiny: LLM, tiny_gguf: Path, start: list[Tokens | Embeds], settled: bool
) -> None:
    """As llama.cpp itself evaluates these cells with plain attention, to the last bit but one of float16."""
    prompt = [*start, ids(6, start=3)]
    with LLM(tiny_gguf, n_ctx=4096, threads=1, settled=settled) as expected:
        expected.prefill(prompt)
        with LLM(tiny_gguf, n_ctx=4096, threads=1, settled=not settled) as other:
            other.prefill(start)
            state, cells = other.state(), list(other.cells)
        with LLM(tiny_gguf, n_ctx=4096, threads=1, settled=settled) as taken:
            taken.restore(state, cells)
            taken.prefill(prompt)
            assert taken.evaluated_tokens == 6
            np.testing.assert_allclose(taken.logits(), expected.logits(), rtol=0, atol=5e-3)
            taken.prefill([ids(LENGTH, start=1), ids(6, start=3)])
            assert np.abs(taken.logits() - expected.logits()).max() > 0.02  # the bound above tells prompts apart


@pytest.mark.parametrize("flash", [False, True])
def test_the_first_cells_are_those_of_a_shorter_prompt(tiny: LLM, start: list[Tokens | Embeds], flash: bool) -> None:
    """What was asked about a picture is not kept with it."""
    tiny.prefill(start)
    expected = in_layout(tiny.state(), flash)
    tiny.prefill([*start, ids(9)])
    longer = tiny.state()
    assert len(longer) > len(expected)
    cut = in_layout(longer, flash, LENGTH)
    assert cut == expected
    tiny.restore(cut, tiny.cells[:LENGTH])
    tiny.prefill([*start, ids(3)])
    assert tiny.evaluated_tokens == LENGTH + 9 + 3


def test_no_cells_are_no_cells(tiny: LLM) -> None:
    empty = tiny.state()
    assert in_layout(empty, False) == empty


def test_what_is_cut_short_or_goes_on_is_refused(tiny: LLM) -> None:
    tiny.prefill([ids(5)])
    state = tiny.state()
    damaged = [state[:length] for length in range(0, len(state), 97)] + [state + b"x", b"\xff" * 64]
    for data in damaged:
        with pytest.raises(BundleError, match="could not be taken up"):
            in_layout(data, False)
