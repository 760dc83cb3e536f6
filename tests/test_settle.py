"""Attention that suits what is evaluated: the same answers, nothing evaluated twice, and no change where it costs more
than it brings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dclocal.bundle import Sampling
from dclocal.kv_cache import WORTH_SETTLING
from dclocal.llama_context import TILE
from dclocal.llm import LLM
from dclocal.prompt import Tokens

GREEDY = Sampling(temperature=0.0, repeat_penalty=1.0)


def ids(count: int, start: int = 0) -> Tokens:
    return Tokens(tuple(4 + (7 * place + start) % 200 for place in range(count)))


def flash(llm: LLM) -> bool:
    return llm._opened.flash


def test_a_short_prompt_changes_nothing_by_itself(tiny: LLM) -> None:
    tiny.prefill([ids(WORTH_SETTLING - 20)])
    tiny.prefill([ids(WORTH_SETTLING - 10)])
    assert flash(tiny)


def test_settled_it_goes_on_with_what_it_holds(tiny: LLM, tiny_gguf: Path) -> None:
    tiny.prefill([ids(100)])
    tiny.settle()
    assert not flash(tiny)
    tiny.prefill([ids(107)])
    assert tiny.evaluated_tokens == 107
    with LLM(tiny_gguf, n_ctx=4096, threads=1, settled=True) as other:
        assert not flash(other)
        other.prefill([ids(107)])
        np.testing.assert_allclose(tiny.logits(), other.logits(), rtol=0, atol=5e-3)


def test_there_is_nothing_to_settle_on_in_an_empty_cache(tiny: LLM) -> None:
    tiny.settle()
    assert flash(tiny)


def test_a_question_on_much_settles_by_itself(tiny: LLM) -> None:
    tiny.prefill([ids(WORTH_SETTLING)])
    assert flash(tiny)
    tiny.prefill([ids(WORTH_SETTLING), ids(TILE - 1, start=1)])
    assert not flash(tiny) and tiny.evaluated_tokens == WORTH_SETTLING + TILE - 1


def test_a_long_rest_is_no_question(tiny: LLM) -> None:
    tiny.prefill([ids(WORTH_SETTLING)])
    tiny.prefill([ids(WORTH_SETTLING), ids(TILE, start=1)])
    assert flash(tiny)


def test_another_prompt_is_no_question_on_this_one(tiny: LLM) -> None:
    tiny.prefill([ids(WORTH_SETTLING)])
    tiny.prefill([ids(9, start=1)])
    assert flash(tiny)


def test_a_long_new_prompt_has_flash_again(tiny: LLM) -> None:
    tiny.prefill([ids(40)])
    tiny.settle()
    tiny.prefill([ids(WORTH_SETTLING, start=1)])
    assert flash(tiny) and len(tiny.cells) == WORTH_SETTLING
    tiny.settle()
    tiny.prefill([ids(9, start=2)])
    assert not flash(tiny), "a short one is not worth a new context"


def test_an_answer_on_much_is_the_same_whatever_evaluates_it(tiny: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    prompt = [ids(WORTH_SETTLING + 10)]
    tiny.prefill(prompt)
    said = list(tiny.generate(GREEDY, seed=0, max_tokens=12))
    assert not flash(tiny)
    tiny.forget()
    monkeypatch.setattr("dclocal.kv_cache.WORTH_SETTLING", 1 << 20)
    tiny._cache._use_flash(True)
    tiny.prefill(prompt)
    assert flash(tiny) and list(tiny.generate(GREEDY, seed=0, max_tokens=12)) == said


def test_cells_that_moved_stay_where_they_are(tiny: LLM) -> None:
    """Their positions are changed with the next evaluation: a context made before that would have the old ones."""
    tiny.prefill([ids(WORTH_SETTLING + 40)])
    tiny.drop_cells(5, 25)
    assert not flash(tiny)
    held = len(tiny.cells)
    tiny.prefill([Tokens(tuple(tiny.cells)), ids(3)])  # type: ignore[arg-type]
    assert tiny.evaluated_tokens == WORTH_SETTLING + 43 and len(tiny.cells) == held + 3
