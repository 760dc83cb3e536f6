"""The language model's driver with the embedded bundle: a wrong position, stale cache or lost logit answers wrongly."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import llama_cpp.llama_cpp as llama
import numpy as np
import pytest

from dclocal.bundle import Sampling
from dclocal.errors import PromptError
from dclocal.formats import FORMATS
from dclocal.llm import LLM
from dclocal.prompt import Embeds, Message, Tokens, render, to_segments
from tests.tiny_files import read_embeddings

TEXT = "The capital of France is Paris, and the capital of Italy is"


@pytest.fixture(scope="module")
def llm(sources: dict[str, Path]) -> Iterator[LLM]:
    with LLM(sources["llm"], n_ctx=512) as model:
        yield model


@pytest.fixture(scope="module")
def token_embeddings(sources: dict[str, Path]) -> np.ndarray:
    return read_embeddings(sources["llm"])


@pytest.mark.bundle
def test_embeddings_of_tokens_equal_the_tokens(llm: LLM, token_embeddings: np.ndarray) -> None:
    """Images enter as embeddings: this proves that they stand where tokens would."""
    ids = llm.tokenize(TEXT, False)
    llm.prefill([Tokens(tuple(ids))])
    expected = llm.logits()
    rows = np.ascontiguousarray(token_embeddings[ids], np.float32)
    llm.prefill([Embeds("text", rows)])
    np.testing.assert_array_equal(llm.logits(), expected)
    llm.prefill([Tokens(tuple(ids[:3])), Embeds("middle", rows[3:8]), Tokens(tuple(ids[8:]))])
    np.testing.assert_allclose(llm.logits(), expected, atol=0.05)  # other batch sizes round otherwise
    assert llm.logits().argmax() == expected.argmax()


@pytest.mark.bundle
def test_a_shared_prefix_is_not_evaluated_again(llm: LLM, token_embeddings: np.ndarray) -> None:
    rows = np.ascontiguousarray(token_embeddings[100:140], np.float32)
    start, more = tuple(llm.tokenize("Look: ", False)), tuple(llm.tokenize(" What is this?", False))
    llm.prefill([Tokens(start), Embeds("a", rows)])
    before = llm.evaluated_tokens
    follow_up = llm.prefill([Tokens(start), Embeds("a", rows), Tokens(more)])
    reused = llm.logits()
    assert llm.evaluated_tokens - before == len(more) == follow_up.evaluated
    llm.prefill([Tokens((5,))])  # forget all
    llm.prefill([Tokens(start), Embeds("a", rows), Tokens(more)])
    np.testing.assert_allclose(reused, llm.logits(), atol=0.1)
    assert reused.argmax() == llm.logits().argmax()
    other = llm.prefill([Tokens(start), Embeds("b", rows), Tokens(more)])
    assert other.reused == len(start)  # another picture: nothing from it on is kept


@pytest.mark.bundle
def test_greedy_text_equals_llama_cpps_own_driver(llm: LLM, sources: dict[str, Path]) -> None:
    from llama_cpp import Llama

    ids = llm.tokenize(TEXT, False)
    other = Llama(str(sources["llm"]), n_ctx=512, n_batch=512, verbose=False, flash_attn=True)
    assert other.tokenize(TEXT.encode(), add_bos=False) == ids
    expected: list[int] = []
    for token in other.generate(ids, temp=0.0, repeat_penalty=1.0):
        if token == other.token_eos() or len(expected) == 16:
            break
        expected.append(token)
    llm.prefill([Tokens(tuple(ids))])
    text = "".join(llm.generate(Sampling(), seed=0, max_tokens=16))
    assert llm.last_tokens == expected and text == other.detokenize(expected).decode()


@pytest.mark.bundle
def test_stopping_early_leaves_a_usable_cache(llm: LLM) -> None:
    ids = tuple(llm.tokenize(TEXT, False))
    llm.prefill([Tokens(ids)])
    pieces = llm.generate(Sampling(), seed=0, max_tokens=20)
    next(pieces)
    next(pieces)
    pieces.close()  # type: ignore[attr-defined]
    kept = tuple(llm.last_tokens)
    assert len(kept) == 2
    result = llm.prefill([Tokens((*ids, *kept, 5, 6))])
    assert result.evaluated == 3  # the last token was never evaluated, and two are new


@pytest.mark.bundle
def test_an_interrupt_leaves_cells_and_cache_agreeing(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C right after an evaluation: the next question must not find what the record does not know."""
    ids = tuple(llm.tokenize(TEXT, False))
    llm.prefill([Tokens(ids)])
    expected = llm.logits()
    llm.prefill([Tokens(ids[:4])])
    real = llama.llama_decode

    def interrupted(*arguments: object) -> None:
        real(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(llama, "llama_decode", interrupted)
        with pytest.raises(KeyboardInterrupt):
            llm.prefill([Tokens((*ids[:4], 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9))])
    assert len(llm.cells) == 4
    llm.prefill([Tokens(ids)])
    np.testing.assert_allclose(llm.logits(), expected, atol=0.1)


@pytest.mark.bundle
def test_special_tokens_count_in_control_text_alone(llm: LLM) -> None:
    assert len(llm.tokenize("<|im_end|>", True)) == 1
    assert len(llm.tokenize("<|im_end|>", False)) > 1


@pytest.mark.bundle
def test_tokens_equal_transformers(llm: LLM, sources: dict[str, Path]) -> None:
    """Training and runtime cut text into the same tokens."""
    from transformers import AutoTokenizer

    from dclocal_models.answer import tokenize_with

    file = sources["llm"]
    theirs = tokenize_with(AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name))
    for text in (
        "what color is it?",
        "  two\n\nlines\t",
        "naïve 🎉 漢字 12345",
        "<|im_end|>",
        "<|im_start|>user\nhi<|im_end|>\n",
    ):
        for special in (True, False):
            assert llm.tokenize(text, special) == theirs(text, special), (text, special)


@pytest.mark.bundle
def test_a_model_answers_through_its_template(llm: LLM) -> None:
    pieces = render(FORMATS["chatml"], [Message("user", "What is the capital of France?")], answer_next=True)
    llm.prefill(to_segments(pieces, llm.tokenize, {}))
    assert "Paris" in "".join(llm.generate(Sampling(), seed=0, max_tokens=16, stop=("<|im_end|>",)))


@pytest.mark.bundle
def test_seeds_decide_what_is_drawn(llm: LLM) -> None:
    def draw(seed: int) -> str:
        llm.prefill([Tokens(tuple(llm.tokenize("Once upon a time", False)))])
        return "".join(llm.generate(Sampling(temperature=1.5, top_p=1.0), seed=seed, max_tokens=12))

    assert draw(1) == draw(1) != draw(2)


@pytest.mark.bundle
def test_what_does_not_fit_is_refused(llm: LLM) -> None:
    with pytest.raises(PromptError, match="600 tokens, the context holds 512"):
        llm.prefill([Tokens((7,) * 600)])
    with pytest.raises(ValueError, match="576"):
        llm.prefill([Embeds("x", np.zeros((4, 100), np.float32))])
    assert llm.prefill([Tokens((7, 8))]).total == 2


@pytest.mark.bundle
def test_a_quiet_terminal(sources: dict[str, Path], capfd: pytest.CaptureFixture[str]) -> None:
    """A terminal app draws on these streams."""
    LLM(sources["llm"], n_ctx=64).close()
    assert capfd.readouterr() == ("", "")
