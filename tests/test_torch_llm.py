"""The PyTorch language model behind the runtime's protocol: its cache, its sampling and its text are llama.cpp's."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dclocal.bundle import Sampling
from dclocal.errors import PromptError
from dclocal.prompt import Embeds, Segment, Tokens
from dclocal_models.answer import tokenize_with
from dclocal_models.checkpoint import load_checkpoint
from dclocal_models.torch_llm import TorchLLM, _Text, choose
from tests.tiny import tiny_llm
from tests.tiny_checkpoint import SPECIAL, byte_tokenizer, lively_llm, save


@pytest.fixture
def llm() -> TorchLLM:
    tokenizer = byte_tokenizer()
    torch.manual_seed(3)
    return TorchLLM(lively_llm(len(tokenizer)).eval(), tokenizer, 512)


def test_the_cache_is_cut_where_prompts_part(llm: TorchLLM) -> None:
    """Reused counts, and logits as if nothing had been reused: tokens by id, pictures by key."""
    random = np.random.default_rng(0)
    values = random.standard_normal((2, 5, 64)).astype(np.float32)
    one, other = Embeds("one", values[0]), Embeds("other", values[1])
    prompts: list[tuple[list[Segment], int]] = [
        ([Tokens((5, 6, 7)), one, Tokens((8, 9))], 0),
        ([Tokens((5, 6, 7)), one, Tokens((8, 9))], 9),  # the last is always evaluated
        ([Tokens((5, 6, 7)), one, Tokens((8, 10, 11))], 9),
        ([Tokens((5, 6, 7)), other, Tokens((8, 10, 11))], 3),
        ([Tokens((5, 6, 7)), Embeds("other", values[1][:3]), Tokens((8,))], 6),
        ([Tokens((4,)), one], 0),
        ([Tokens((4,))], 0),
    ]
    for segments, reused in prompts:
        prefill = llm.prefill(segments)
        total = sum(map(len, segments))
        assert (prefill.total, prefill.reused, prefill.evaluated) == (total, reused, total - reused)
        found = llm.logits()
        fresh = TorchLLM(llm._llm, llm._tokenizer, llm.n_ctx)
        fresh.prefill(segments)
        np.testing.assert_allclose(found, fresh.logits(), atol=1e-4)


def test_long_prompts_are_evaluated_in_batches(llm: TorchLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    prompt = [Tokens(tuple(range(3, 100)))]
    llm.prefill(prompt)
    whole = llm.logits()
    monkeypatch.setattr("dclocal_models.torch_llm.BATCH", 16)
    again = TorchLLM(llm._llm, llm._tokenizer, llm.n_ctx)
    assert again.prefill(prompt).evaluated == 97
    np.testing.assert_allclose(again.logits(), whole, atol=1e-4)
    with pytest.raises(PromptError, match="the prompt has 600 tokens, the context holds 512"):
        again.prefill([Tokens((3,) * 600)])
    assert len(again.cells) == 97  # what does not fit forgets nothing


@pytest.mark.parametrize("layer", [0, 1])
def test_ctrl_c_in_the_middle_of_a_layer(llm: TorchLLM, layer: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The layers' caches then differ in length; the next prompt must not see that."""
    llm.prefill([Tokens((5, 6, 7, 8))])

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(llm._llm.model.layers[layer].mlp, "forward", interrupted)
        with pytest.raises(KeyboardInterrupt):
            llm.prefill([Tokens((5, 6, 7, 9, 10, 11))])
    assert llm.cells == [5, 6, 7]
    assert llm.prefill([Tokens((5, 6, 7, 9, 12))]).reused == 3
    fresh = TorchLLM(llm._llm, llm._tokenizer, llm.n_ctx)
    fresh.prefill([Tokens((5, 6, 7, 9, 12))])
    np.testing.assert_allclose(llm.logits(), fresh.logits(), atol=1e-4)
    with monkeypatch.context() as patch:  # and while the cache itself is cut
        patch.setattr(llm._cache, "crop", interrupted)
        with pytest.raises(KeyboardInterrupt):
            llm.prefill([Tokens((5, 6))])
    assert llm.cells == [] and llm.prefill([Tokens((5, 6, 7, 9, 12))]).reused == 0
    np.testing.assert_allclose(llm.logits(), fresh.logits(), atol=1e-4)


def written(llm: TorchLLM, sampling: Sampling, seed: int = 0, max_tokens: int = 20, **options: Any) -> list[int]:
    llm.prefill([Tokens((5, 60, 70, 80))])
    pieces = list(llm.generate(sampling, seed=seed, max_tokens=max_tokens, **options))
    assert "".join(pieces) == llm._tokenizer.decode(llm.last_tokens, skip_special_tokens=True)
    return list(llm.last_tokens)


def test_seeds_reproduce(llm: TorchLLM) -> None:
    warm = Sampling(temperature=1.5, top_k=0, top_p=1.0)
    assert written(llm, warm, 1) == written(llm, warm, 1) != written(llm, warm, 2)
    assert written(llm, Sampling(), 1) == written(llm, Sampling(), 2)


def test_generation_ends(llm: TorchLLM) -> None:
    """At a stop text, the model's own end, the greatest length, and a full context."""
    greedy = written(llm, Sampling())
    assert len(greedy) == 20
    word = next(token for token in greedy[1:] if llm.tokenize(llm._tokenizer.decode([token]), True) == [token])
    stopped = written(llm, Sampling(), stop=["<|im_end|>", llm._tokenizer.decode([word])])
    assert stopped == greedy[: greedy.index(word)]
    llm._llm.generation_config.eos_token_id = [2, greedy[4]]
    assert written(llm, Sampling()) == greedy[: greedy.index(greedy[4])]
    llm._llm.generation_config.eos_token_id = 2
    llm.n_ctx = 12
    assert written(llm, Sampling()) == greedy[:8]


def test_pieces_are_whole_characters() -> None:
    """Three bytes of a character, a token each: nothing, nothing, the character."""
    tokenizer = byte_tokenizer()
    text = "a é 漢字 🙂🏽 ﬁn"
    ids = tokenizer.encode(text, add_special_tokens=False)
    stream = _Text(tokenizer)
    pieces = [stream.add(token) for token in ids]
    assert "".join(pieces) == text and stream.rest() == ""
    assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces) and "漢" in pieces
    half = _Text(tokenizer)
    assert [half.add(token) for token in tokenizer.encode("漢")[:2]] == ["", ""]
    assert half.rest() == "\N{REPLACEMENT CHARACTER}"  # an answer that ends there says so, as llama.cpp's does


def test_words_keep_their_spaces() -> None:
    """A tokenizer whose words carry no spaces, and a sentencepiece one that drops the first."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    plain = Tokenizer(models.WordLevel({"[U]": 0, "a": 1, "red": 2, "circle": 3, "<|im_end|>": 4}, unk_token="[U]"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    piece = Tokenizer(models.WordLevel({"[U]": 0, "▁a": 1, "▁red": 2, "▁circle": 3, "<|im_end|>": 4}, unk_token="[U]"))
    piece.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    for one in (plain, piece):
        stream = _Text(PreTrainedTokenizerFast(tokenizer_object=one, eos_token="<|im_end|>", unk_token="[U]"))
        assert [stream.add(token) for token in (1, 2, 4, 3)] == ["a", " red", "", " circle"]


def llama_cpp_choices(logits: np.ndarray, sampling: Sampling, recent: list[int]) -> dict[int, float]:
    """The tokens that llama.cpp's own chain leaves, with their probabilities."""
    import llama_cpp.llama_cpp as llama

    from dclocal.llama_sampler import Sampler

    sampler = Sampler(sampling, 0, len(logits))
    chain = sampler.chain
    for token in recent:
        llama.llama_sampler_accept(chain, token)
    data = (llama.llama_token_data * len(logits))()
    for token, logit in enumerate(logits):
        data[token].id, data[token].logit, data[token].p = token, float(logit), 0.0
    array = llama.llama_token_data_array(data=data, size=len(logits), selected=-1, sorted=False)
    llama.llama_sampler_apply(chain, ctypes.byref(array))
    sampler.close()
    if sampling.temperature <= 0:
        return {array.data[array.selected].id: 1.0}
    return {array.data[index].id: array.data[index].p for index in range(array.size)}


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(),
        Sampling(repeat_penalty=1.8),
        Sampling(temperature=0.7),
        Sampling(temperature=1.3, top_k=5, top_p=1.0),
        Sampling(temperature=1.0, top_k=0, top_p=0.6),
        Sampling(temperature=0.9, top_k=12, top_p=0.8, repeat_penalty=1.4),
    ],
)
def test_sampling_means_what_it_means_in_a_bundle(sampling: Sampling) -> None:
    """The same tokens with the same probabilities as llama.cpp."""
    draw = np.random.default_rng(5)
    for _ in range(5):
        logits = (draw.standard_normal(50) * 2).astype(np.float32)
        recent = [int(token) for token in draw.integers(0, 50, 80)] + [int(logits.argmax())]
        expected = llama_cpp_choices(logits, sampling, recent)
        found: dict[int, float] = {}

        class Odds:
            def choice(self, count: int, p: np.ndarray) -> int:
                found.update(enumerate(p))  # noqa: B023
                return 0

        token = choose(logits, sampling, recent, Odds())  # type: ignore[arg-type]
        assert token == max(expected, key=expected.__getitem__)
        if sampling.temperature > 0:
            np.testing.assert_allclose(sorted(found.values()), sorted(expected.values()), atol=1e-5)


def test_special_tokens_in_a_question_are_text(llm: TorchLLM) -> None:
    assert llm.tokenize("<|im_end|>", True) == [2] and 2 not in llm.tokenize("<|im_end|>", False)
    with pytest.raises(PromptError, match="not valid UTF-8 at character 2"):
        llm.tokenize("a\udcff", False)


def test_tokenizers_agree_with_the_prompt(tmp_path: Path) -> None:
    """The saved tokenizer, read back, still knows the template's special tokens as one each."""
    tokenizer = load_checkpoint(save(tmp_path / "model"))[1]
    tokenize = tokenize_with(tokenizer)
    assert [tokenize(mark, True) for mark in SPECIAL] == [[0], [1], [2]]


def test_models_with_a_sliding_window() -> None:
    """Mistral looks back only so far; a cache that was cut and refilled must give what a fresh run gives."""
    torch.manual_seed(0)
    model = tiny_llm("mistral", hidden_size=32, sliding_window=6, initializer_range=0.3).eval()
    llm = TorchLLM(model, byte_tokenizer(), 512)
    ids = [int(value) for value in torch.randint(3, 64, (40,))]
    llm.prefill([Tokens(tuple(ids[:30]))])
    assert llm.prefill([Tokens((*ids[:20], *ids[30:]))]).reused == 20
    with torch.no_grad():
        expected = model(torch.tensor([[*ids[:20], *ids[30:]]]), use_cache=False).logits[0, -1]
    np.testing.assert_allclose(llm.logits(), expected.numpy(), atol=1e-4)
