"""Attention that suits what is evaluated: the same answers, nothing evaluated twice, and no change where it costs more
than it brings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dclocal import llama_kernels
from dclocal.bundle import Sampling
from dclocal.errors import BundleError
from dclocal.kv_cache import WORTH_FLASH, WORTH_SETTLING
from dclocal.llama_context import TILE
from dclocal.llm import LLM
from dclocal.prompt import Tokens


@pytest.fixture(autouse=True)
def llama_cpps_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where llama.cpp has its own attention, which does not suit few entries."""
    monkeypatch.setattr(llama_kernels, "load", lambda: False)


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
    """Prompts of one template begin alike: a few cells are always kept."""
    tiny.prefill([ids(5), ids(40, start=1)])
    tiny.settle()
    tiny.prefill([ids(5), ids(WORTH_FLASH, start=2)])
    assert flash(tiny) and len(tiny.cells) == WORTH_FLASH + 5
    tiny.settle()
    tiny.prefill([ids(5), ids(WORTH_FLASH - 1, start=3)])
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


def after_a_drop(llm: LLM, start: int, end: int) -> np.ndarray:
    """The logits of three tokens after a cache that lost cells."""
    llm.prefill([ids(WORTH_SETTLING + 40)])
    llm.drop_cells(start, end)
    llm.prefill([Tokens(tuple(llm.cells)), ids(3)])  # type: ignore[arg-type]
    return llm.logits()


def test_cells_that_moved_change_no_context_before_they_are_evaluated(tiny: LLM, tiny_gguf: Path) -> None:
    """Their positions are changed with the next evaluation: a context made before that would have the old ones."""
    found = after_a_drop(tiny, 5, 25)
    assert not flash(tiny) and tiny.evaluated_tokens == WORTH_SETTLING + 43
    with LLM(tiny_gguf, n_ctx=4096, threads=1) as other:
        other._cache._can_change = False  # evaluated with flash attention throughout
        np.testing.assert_allclose(found, after_a_drop(other, 5, 25), rtol=0, atol=1e-2)
        other.forget()
        assert np.abs(found - after_a_drop(other, 15, 35)).max() > 0.03  # the bound above tells drops apart


def test_moved_cells_stay_in_their_context(tiny: LLM) -> None:
    tiny.prefill([ids(40)])
    tiny.drop_cells(5, 9)
    tiny.prefill([Tokens(tuple(tiny.cells)), ids(WORTH_FLASH, start=1)])  # type: ignore[arg-type]
    assert not flash(tiny)


def test_a_model_that_cannot_change_goes_on_as_it_is(tiny: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sliding windows and other caches: what they keep of a cell is not known here."""

    def refuse(state: bytes, flash: bool) -> bytes:
        raise BundleError("this is no language model's state", "start anew")

    tiny.prefill([ids(WORTH_SETTLING)])
    monkeypatch.setattr("dclocal.llama_context.in_layout", refuse)
    tiny.prefill([ids(WORTH_SETTLING), ids(3, start=1)])
    tiny.settle()
    assert flash(tiny) and tiny.evaluated_tokens == WORTH_SETTLING + 3
    expected = tiny.logits()
    monkeypatch.undo()
    tiny.forget()
    tiny.prefill([ids(WORTH_SETTLING), ids(3, start=1)])
    np.testing.assert_allclose(tiny.logits(), expected, rtol=0, atol=5e-3)


def test_an_interruption_leaves_what_is_held(tiny: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """A record of cells over an empty cache would be answered from without the picture."""
    tiny.prefill([ids(100)])
    tiny.prefill([ids(100), ids(5, start=1)])
    expected = tiny.logits()
    tiny.prefill([ids(100)])

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(tiny._opened, "_fill", interrupt)
        with pytest.raises(KeyboardInterrupt):
            tiny.settle()
    assert flash(tiny) and len(tiny.cells) == 100
    tiny.prefill([ids(100), ids(5, start=1)])
    np.testing.assert_allclose(tiny.logits(), expected, rtol=0, atol=1e-4)


def test_with_attention_of_ours_there_is_one_kind_for_all(tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llama_kernels, "load", lambda: True)
    monkeypatch.setattr(llama_kernels, "attention_declined", lambda: False)  # whatever other tests' models have
    with LLM(tiny_gguf, n_ctx=4096, threads=1, settled=True) as llm:
        assert flash(llm)
        llm.prefill([ids(WORTH_SETTLING)])
        llm.settle()
        list(llm.generate(GREEDY, seed=0, max_tokens=3))
        assert flash(llm)
