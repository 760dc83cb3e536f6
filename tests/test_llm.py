"""The language model's driver against llama.cpp itself, on a tiny model: batches, whole characters, and failures."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import llama_cpp.llama_cpp as llama
import numpy as np
import pytest

from dclocal.bundle import Sampling
from dclocal.errors import BundleError, PromptError
from dclocal.llama_model import load_model
from dclocal.llama_sampler import Sampler
from dclocal.llm import LLM
from dclocal.prompt import Embeds, Tokens
from tests.tiny_files import read_embeddings


def scripted(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    """The tiny model "samples" these bytes, then its end."""
    tokens = iter([*(4 + byte for byte in data), 2])
    monkeypatch.setattr(Sampler, "draw", lambda *_: next(tokens))


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
    expected = tiny.logits()
    tiny.prefill([Tokens((9,))])  # forget all
    rows = read_embeddings(tiny_gguf)
    tiny.prefill([Tokens(ids[:5]), Embeds("video", rows[list(ids[5:1290])]), Tokens(ids[1290:])])
    np.testing.assert_array_equal(tiny.logits(), expected)  # the same batches: equal to the bit


@pytest.mark.parametrize("length", range(1, 10))
def test_a_batch_is_filled_up_without_a_trace(tiny: LLM, length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What fills it up to a multiple of four stands behind the last cell, and neither counts nor stays."""
    ids = tuple(range(30, 30 + length))
    for token in ids:
        tiny.prefill([Tokens(ids[: ids.index(token) + 1])])  # one by one: never filled up
    expected, real = tiny.logits(), llama.llama_decode
    batches: list[int] = []

    def counted(context: object, batch: llama.llama_batch) -> int:
        batches.append(batch.n_tokens)
        return int(real(context, batch))

    monkeypatch.setattr(llama, "llama_decode", counted)
    tiny.forget()
    before = tiny.evaluated_tokens
    assert tiny.prefill([Tokens(ids)]).evaluated == tiny.evaluated_tokens - before == len(tiny.cells) == length
    assert batches == [{3: 4, 6: 8, 7: 8}.get(length, length)]
    np.testing.assert_allclose(tiny.logits(), expected, atol=1e-3)
    memory = llama.llama_get_memory(tiny._pointer)
    assert llama.llama_memory_seq_pos_max(memory, 0) == length - 1
    tiny.prefill([Tokens((*ids, 99))])
    followed = tiny.logits()
    tiny.forget()
    tiny.prefill([Tokens((*ids, 99))])
    np.testing.assert_allclose(followed, tiny.logits(), atol=1e-3)


def test_a_full_batch_or_context_is_not_filled_up(tiny_gguf: Path) -> None:
    """llama.cpp aborts the process where a batch is larger than it was told, and refuses cells it has no room for."""
    for room in (301, 302, 303):
        with LLM(tiny_gguf, n_ctx=room) as model:
            for length in range(model.n_ctx - 4, model.n_ctx):
                model.forget()
                assert model.prefill([Tokens((7,) * length)]).evaluated == length


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
    monkeypatch.setattr(Sampler, "draw", lambda *_: 3)
    list(tiny.generate(Sampling(), seed=0, max_tokens=2, stop=("<|halt|>",)))
    assert tiny.last_tokens == []  # a name that llama.cpp itself does not take for an end
    monkeypatch.setattr(Sampler, "draw", lambda *_: 101)
    tiny.prefill([Tokens((7,) * (tiny.n_ctx - 3))])
    assert list(tiny.generate(Sampling(), seed=0, max_tokens=99)) == ["a", "a", "a"]
    assert len(tiny.cells) < tiny.n_ctx


def test_weights_and_vocabulary_are_loaded_apart(tiny: LLM) -> None:
    """By two threads; the weights' own object knows how many tokens there are, and none of them."""
    assert tiny.model._words is not None
    own = llama.llama_model_get_vocab(tiny.model.pointer)
    assert llama.llama_vocab_n_tokens(own) == llama.llama_vocab_n_tokens(tiny.model.vocab) == tiny.n_vocab == 260
    assert llama.llama_vocab_type(own) == llama.LLAMA_VOCAB_TYPE_NONE
    assert tiny.tokenize("a", False) == [101] and tiny._piece(101) == b"a"


@pytest.mark.parametrize("said", [None, 259])
def test_a_file_that_does_not_say_how_many_tokens_there_are_is_loaded_whole(
    tiny: LLM, tmp_path: Path, said: int | None
) -> None:
    """Or says another number than there are."""
    data = tiny.path.read_bytes()
    key = b"llama.vocab_size"
    place = data.index(key)
    value = place + len(key) + 4
    assert data.count(key) == 1 and int.from_bytes(data[value : value + 4], "little") == 260
    changed = bytearray(data)
    if said is None:
        changed[place : place + len(key)] = b"llama.vocab_sizf"
    else:
        changed[value : value + 4] = said.to_bytes(4, "little")
    (tmp_path / "other.gguf").write_bytes(changed)
    tiny.prefill([Tokens((5, 6))])
    with LLM(tmp_path / "other.gguf", n_ctx=64, threads=1) as other:
        assert other.model._words is None and other.tokenize("a", False) == [101]
        other.prefill([Tokens((5, 6))])
        np.testing.assert_array_equal(other.logits(), tiny.logits())


def test_a_vocabulary_that_cannot_be_loaded_is_told_when_the_weights_are_there(tiny: LLM, tmp_path: Path) -> None:
    data, key = tiny.path.read_bytes(), b"tokenizer.ggml.tokens"
    assert data.count(key) == 1
    (tmp_path / "other.gguf").write_bytes(data.replace(key, b"tokenizer.ggml.tokenz"))
    model = load_model(tmp_path / "other.gguf")
    assert model.pointer
    with pytest.raises(BundleError, match=r"other.gguf cannot be loaded: .*(vocab|token)"):
        _ = model.vocab
    model.close()
    with pytest.raises(BundleError, match="cannot be loaded"):
        LLM(tmp_path / "other.gguf", n_ctx=64, threads=1)


def test_the_most_likely_token_is_the_one_that_llama_cpp_takes(tiny: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """With numpy and without it, after one row and after several; of two alike it is the first."""
    sampler = Sampler(Sampling(), 0, tiny.n_vocab)
    for start in range(20):
        logits = tiny.score([start + 5, start + 6])
        for index in (0, 1, -1):
            found = sampler.draw(tiny._pointer, index)
            assert found == logits[index].argmax() == llama.llama_sampler_sample(sampler.chain, tiny._pointer, index)
    row = llama.llama_get_logits_ith(tiny._pointer, -1)
    row[7] = row[9] = 1e6
    assert sampler.draw(tiny._pointer) == 7
    monkeypatch.delitem(sys.modules, "numpy")
    assert sampler.draw(tiny._pointer) == 7
    sampler.close()


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


def test_llama_cpps_own_classes_are_not_imported_and_can_be_later() -> None:
    code = (
        "import sys; from dclocal.llm import LLM; from dclocal.llama_api import build, llama\n"
        "assert not {'llama_cpp', 'llama_cpp.llama', 'jinja2'} & set(sys.modules), sorted(sys.modules)\n"
        "import llama_cpp\n"
        "assert llama_cpp.llama_decode is llama.llama_decode and llama_cpp.Llama.__module__ == 'llama_cpp.llama'\n"
        "size, time = map(int, build().split())\n"
        "assert size > 1 << 20 and time > 0\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
