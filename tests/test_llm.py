"""The language model's driver against llama.cpp itself: a wrong position, a stale cache or a lost logit shows as
an answer that is plausible and wrong."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import llama_cpp.llama_cpp as llama
import numpy as np
import pytest
from gguf import GGUFReader

from dclocal.bundle import Sampling
from dclocal.errors import BundleError, PromptError
from dclocal.formats import FORMATS
from dclocal.gguf_merge import quantize_gguf
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


def test_quantizing_is_done_once_and_told_tensor_by_tensor(
    tiny_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """llama.cpp gives 0 where it went well; taken for a failure it would be done again."""
    calls, told = [], []
    quantize = llama.llama_model_quantize
    monkeypatch.setattr(llama, "llama_model_quantize", lambda *given: calls.append(given) or quantize(*given))
    quantize_gguf(tiny_gguf, tmp_path / "q8.gguf", "q8_0", lambda done, total: told.append((done, total)))
    tensors = len(GGUFReader(tiny_gguf).tensors)
    assert len(calls) == 1 and told == [(done, tensors) for done in range(1, tensors + 1)]


def test_a_mixture_quantizes_what_its_patterns_name_otherwise(tiny_gguf: Path, tmp_path: Path) -> None:
    quantize_gguf(tiny_gguf, tmp_path / "mix.gguf", "iq4_mix")
    kinds = {tensor.name: tensor.tensor_type.name for tensor in GGUFReader(tmp_path / "mix.gguf").tensors}
    assert kinds["blk.0.attn_k.weight"] == kinds["blk.0.attn_v.weight"] == "Q8_0"
    assert kinds["blk.0.attn_q.weight"] == kinds["blk.0.ffn_up.weight"] == "IQ4_NL"
    quantize_gguf(tiny_gguf, tmp_path / "plain.gguf", "iq4_nl")
    plain = {tensor.name: tensor.tensor_type.name for tensor in GGUFReader(tmp_path / "plain.gguf").tensors}
    changed = {name.split(".", 2)[2] for name in kinds if kinds[name] != plain[name]}
    assert changed <= {"attn_k.weight", "attn_v.weight", "ffn_down.weight"} and "attn_k.weight" in changed
    with pytest.raises(BundleError, match="iq4_mix"):
        quantize_gguf(tiny_gguf, tmp_path / "none.gguf", "q3_7")


def scripted(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    """The tiny model "samples" these bytes, then its end."""
    tokens = iter([*(4 + byte for byte in data), 2])
    monkeypatch.setattr(llama, "llama_sampler_sample", lambda *_: next(tokens))


def test_long_prompts_go_in_batches(tiny: LLM, tiny_gguf: Path) -> None:
    """1,300 tokens are three batches; a lost or doubled one moves every later position."""
    from llama_cpp import Llama

    ids = tuple(np.random.default_rng(1).integers(4, 260, 1300).tolist())
    other = Llama(
        str(tiny_gguf), n_ctx=2048, n_batch=512, n_threads=1, n_threads_batch=1, verbose=False, flash_attn=True
    )
    other.eval(ids)
    expected = np.ctypeslib.as_array(llama.llama_get_logits_ith(other.ctx, -1), shape=(260,))
    tiny.prefill([Tokens(ids)])
    np.testing.assert_allclose(tiny.logits(), expected, atol=1e-4)
    assert tiny.evaluated_tokens == len(tiny.cells) == 1300
    start, middle, end = Tokens(ids[:5]), ids[5:1290], Tokens(ids[1290:])
    tiny.prefill([Tokens((9,))])  # forget all
    tiny.prefill([start, Tokens(middle), end])
    expected = tiny.logits()  # same runs, same kernels: equal to the bit; other lengths round otherwise
    tiny.prefill([Tokens((9,))])
    tiny.prefill([start, Embeds("video", read_embeddings(tiny_gguf)[list(middle)]), end])
    np.testing.assert_array_equal(tiny.logits(), expected)


def test_contexts_shorter_than_a_batch(tiny_gguf: Path) -> None:
    """llama.cpp rounds a context up but not its batch, and aborts the process where a batch is larger."""
    with LLM(tiny_gguf, n_ctx=300) as model:
        assert model.prefill([Tokens((7,) * (model.n_ctx - 1))]).evaluated == model.n_ctx - 1


def test_pieces_are_whole_characters(tiny: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a character on a terminal is a question mark, and the rest of it another."""
    tiny.prefill([Tokens((5, 6))])
    scripted(monkeypatch, "aé🎉".encode() + b"\xf0\x9f")
    assert list(tiny.generate(Sampling(), seed=0, max_tokens=50)) == ["a", "é", "🎉", "\ufffd"]
    assert bytes(token - 4 for token in tiny.last_tokens) == "aé🎉".encode() + b"\xf0\x9f"


def test_an_answer_ends_where_it_must(tiny: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.prefill([Tokens((5, 6))])
    scripted(monkeypatch, b"abc")
    assert list(tiny.generate(Sampling(), seed=0, max_tokens=2)) == ["a", "b"]
    tiny.prefill([Tokens((5, 6))])
    monkeypatch.setattr(llama, "llama_sampler_sample", lambda *_: 3)
    list(tiny.generate(Sampling(), seed=0, max_tokens=2, stop=("<|halt|>",)))
    assert tiny.last_tokens == []  # a name that llama.cpp itself does not take for an end
    monkeypatch.setattr(llama, "llama_sampler_sample", lambda *_: 101)
    tiny.prefill([Tokens((7,) * (tiny.n_ctx - 3))])
    assert list(tiny.generate(Sampling(), seed=0, max_tokens=99)) == ["a", "a", "a"]
    assert len(tiny.cells) < tiny.n_ctx


def test_repetition_is_penalised_as_llama_cpps_own_driver_does(tiny: LLM, tiny_gguf: Path) -> None:
    """Greedy too: small models fall into loops, and the penalty is the way out."""
    from llama_cpp import Llama

    def answer(penalty: float) -> list[int]:
        tiny.prefill([Tokens((5, 6, 7, 8))])
        list(tiny.generate(Sampling(repeat_penalty=penalty), seed=0, max_tokens=30))
        return tiny.last_tokens

    other = Llama(str(tiny_gguf), n_ctx=2048, n_threads=1, n_threads_batch=1, verbose=False, flash_attn=True)
    theirs = other.generate([5, 6, 7, 8], temp=0.0, repeat_penalty=1.5)
    expected = [token for token, _ in zip(theirs, range(30))]
    assert answer(1.5) == expected != answer(1.0)


def test_wrong_embeddings_change_nothing(tiny: LLM) -> None:
    """float16 or integers read as float32 would be noise that the model answers from."""
    tiny.prefill([Tokens((5, 6, 7))])
    for values in (np.zeros((2, 31), np.float32), np.zeros((2, 32), np.float16), np.zeros(32, np.float32)):
        with pytest.raises(ValueError, match=r"expected float32 \[tokens, 32\]"):
            tiny.prefill([Tokens((5,)), Embeds("x", values)])
    assert tiny.cells == [5, 6, 7]


def test_text_of_another_encoding_is_the_users_mistake(tiny: LLM) -> None:
    """What Python makes of a Latin-1 byte on the command line; a fault would look like our error."""
    with pytest.raises(PromptError, match="not valid UTF-8 at character 4"):
        tiny.tokenize("caf\udce9", False)


def test_a_failure_is_told_by_its_own_reason(tmp_path: Path, tiny_gguf: Path) -> None:
    """In a process without logging, as the command line is: one line on stderr, and not an earlier file's reason."""
    damaged = {"first": b"GGUF" + b"\0" * 100, "cut": tiny_gguf.read_bytes()[:-64], "text": b"text" * 99}
    for name, data in damaged.items():
        (tmp_path / name).write_bytes(data)
    program = """if True:
        import sys
        from pathlib import Path
        from dclocal.errors import BundleError
        from dclocal.llm import LLM
        good, *broken = map(Path, sys.argv[1:])
        for path in broken:
            LLM(good, n_ctx=64).close()
            try:
                LLM(path, n_ctx=64)
            except BundleError as error:
                print(error.problem.partition("cannot be loaded: ")[2])
    """
    done = subprocess.run(
        [sys.executable, "-c", program, str(tiny_gguf), *(str(tmp_path / name) for name in damaged)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    first, cut, text = done.stdout.splitlines()
    assert "version" in first and "not within the file bounds" in cut and "magic" in text, done.stdout
    assert done.stderr == ""
    with pytest.raises(BundleError, match="there is no language model"):
        LLM(tmp_path / "none.gguf", n_ctx=64)
