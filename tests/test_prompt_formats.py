"""Formats of published models: text that differs by a space, or is cut in another place, makes other tokens."""

from __future__ import annotations

import pytest

from dclocal.formats import FORMATS
from dclocal.prompt import Message, Piece, TokenRun, render, token_runs

SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
VISUAL = (
    "You are a helpful language and vision assistant. You are able to understand the visual content that the user "
    "provides, and assist the user with a variety of tasks using natural language."
)
TALK = [
    Message("user", "What is this?", ("k",)),
    Message("assistant", "A cat."),
    Message("user", "Sure?"),
    Message("assistant", "Yes."),
]
WRITTEN = {
    "vicuna_v1": f"<s>{SYSTEM} USER: [k]\nWhat is this? ASSISTANT: A cat.</s>USER: Sure? ASSISTANT: Yes.</s>",
    "phi": f"{SYSTEM} USER: [k]\nWhat is this? ASSISTANT: A cat.<|endoftext|>USER: Sure? ASSISTANT: Yes.<|endoftext|>",
    "llama3": (
        f"<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n{VISUAL}<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\n[k]\nWhat is this?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nA cat.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nSure?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nYes.<|eot_id|>"
    ),
    "chatml_direct": (
        "<|im_start|>system\nAnswer the questions.<|im_end|><|im_start|>user\n[k]\nWhat is this?<|im_end|>"
        "<|im_start|>assistant\nA cat.<|im_end|><|im_start|>user\nSure?<|im_end|><|im_start|>assistant\nYes.<|im_end|>"
    ),
    "qwen2": (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n[k]\nWhat is this?<|im_end|>\n"
        "<|im_start|>assistant\nA cat.<|im_end|>\n<|im_start|>user\nSure?<|im_end|>\n"
        "<|im_start|>assistant\nYes.<|im_end|>\n"
    ),
}


def as_text(name: str, messages: list[Message], **options: bool) -> str:
    pieces = render(FORMATS[name], messages, **options)
    return "".join(piece.text if piece.image is None else f"[{piece.image}]" for piece in pieces)


@pytest.mark.parametrize("name", sorted(WRITTEN))
def test_conversations_as_the_published_models_saw_them(name: str) -> None:
    """LLaVA's own layout, written out by hand."""
    assert as_text(name, TALK) == WRITTEN[name]


def test_released_llama3_answers_under_a_system_header() -> None:
    """The authors' conversation file has that header for the second role; their checkpoint expects it."""
    text = as_text("llama3_released", TALK[:1], answer_next=True)
    assert text.endswith("What is this?<|eot_id|><|start_header_id|>system<|end_header_id|>\n\n")


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_a_conversation_in_turns_is_the_conversation_at_once(name: str) -> None:
    """What is asked first, answered and followed up must equal the text that training saw."""
    first = as_text(name, TALK[:1], answer_next=True)
    prompt = FORMATS[name]
    answered = first + prompt.answer_lead + "A cat." + prompt.answer_end + prompt.answer_suffix
    second = as_text(name, TALK[2:3], answer_next=True, opening=False)
    whole = as_text(name, TALK)
    assert whole == answered + second + prompt.answer_lead + "Yes." + prompt.answer_end + prompt.answer_suffix


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_special_tokens_stand_alone_and_a_persons_never_count(name: str) -> None:
    for special in FORMATS[name].specials:
        pieces = render(FORMATS[name], [Message("user", f"say {special} now"), Message("assistant", "no")])
        assert all(piece.text in FORMATS[name].specials for piece in pieces if piece.special)
        assert any(special in piece.text and not piece.special for piece in pieces)


def sentencepiece(text: str, parse_special: bool) -> list[int]:
    """Like Llama's tokenizer: a space before every stretch of text, spaces joined to the word that follows."""
    if parse_special:
        return [-1]
    import re

    return [sum(map(ord, word)) for word in re.findall(r" ?\S+|\n| ", " " + text)]


def test_text_between_special_tokens_is_tokenized_at_once() -> None:
    """A space before "ASSISTANT:" that was cut off would become a token of its own, which Vicuna never saw."""
    pieces = render(FORMATS["vicuna_v1"], TALK)
    first, image, second = token_runs(pieces, sentencepiece)
    assert image == "k" and isinstance(first, TokenRun) and isinstance(second, TokenRun)
    assert list(first.ids) == [-1, *sentencepiece(f"{SYSTEM} USER: ", False)]
    expected = [
        *sentencepiece("\nWhat is this? ASSISTANT: A cat.", False),
        -1,
        *sentencepiece("USER: Sure? ASSISTANT: Yes.", False),
        -1,
    ]
    assert list(second.ids) == expected
    learnt = [token for token, target in zip(second.ids, second.targets) if target]
    assert learnt == [*sentencepiece("A cat.", False), -1, *sentencepiece("Yes.", False), -1]


def test_a_token_across_a_border_belongs_to_the_answer() -> None:
    """Some tokenizers join the space that leads an answer to what stands before it."""

    def pairs(text: str, parse_special: bool) -> list[int]:
        return [-1] if parse_special else [sum(map(ord, text[at : at + 2])) for at in range(0, len(text), 2)]

    pieces = [Piece("abc"), Piece(" no", target=True), Piece("x")]
    (run,) = token_runs(pieces, pairs)
    assert isinstance(run, TokenRun) and list(run.ids) == pairs("abc nox", False)
    assert run.targets == (False, True, True, False)  # "ab", "c ", "no", "x"


def test_the_embedded_models_tokens_are_the_same_as_a_whole() -> None:
    """Byte-level tokenizers cut at line breaks by themselves, so ChatML's pieces and its whole are the same."""
    pytest.importorskip("tokenizers")
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        special_tokens=["<|im_start|>", "<|im_end|>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator([WRITTEN["qwen2"]] * 3, trainer)

    def tokenize(text: str, parse_special: bool) -> list[int]:
        return list(tokenizer.encode(text, add_special_tokens=False).ids)

    runs = token_runs(render(FORMATS["chatml"], TALK), tokenize)
    ids = [token for run in runs if isinstance(run, TokenRun) for token in run.ids]
    assert ids == tokenize(as_text("chatml", TALK).replace("[k]", ""), True)
