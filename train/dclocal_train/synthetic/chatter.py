"""Turns without a picture: general prompts, answered by the language model as it was before training, so that it
goes on talking as it did."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from pathlib import Path

from dclocal.progress import Progress
from dclocal_train.synthetic.rows import Sample

ANSWER_TOKENS = 96
SUBJECTS = Path(__file__).with_name("subjects.txt")
ASKING = (
    "What can you tell me about {}?",
    "Explain {} in simple words.",
    "Tell me three facts about {}.",
    "Why does {} matter?",
    "Write two sentences about {}.",
    "What should a child know about {}?",
    "Give me a tip about {}.",
    "What is a common mistake people make about {}?",
    "Write a short poem about {}.",
    "How would you describe {} to a friend?",
    "Summarize {} in one sentence.",
    "List five words related to {}.",
    "Ask me a question about {}.",
    "What is the history of {}?",
    "How does {} work?",
    "Write a headline about {}.",
    "What do people like about {}?",
    "Finish this sentence: {} is important because",
    "Tell me something surprising about {}.",
    "Where can I learn more about {}?",
)
SMALL_TALK = (
    "Hello!",
    "Hi there, how are you?",
    "Good morning!",
    "Thank you very much.",
    "What can you do?",
    "Can you help me?",
    "Tell me a joke.",
    "I am bored. What could I do?",
    "I feel tired today.",
    "What is 7 plus 5?",
    "What is the capital of Italy?",
    "How many days are in a week?",
    "Name three colors.",
    "What comes after Tuesday?",
    "Translate 'good night' into Spanish.",
    "What is the opposite of hot?",
    "Write a slogan for a bakery.",
    "Suggest a name for a kitten.",
    "Rewrite this politely: give me the book.",
    "Goodbye!",
)


def prompts(count: int, seed: int) -> list[str]:
    """`count` prompts, none twice; raises ValueError for more than there are."""
    subjects = SUBJECTS.read_text(encoding="utf-8").splitlines()
    known = [*SMALL_TALK, *(asking.format(subject) for asking in ASKING for subject in subjects)]
    if count > len(known):
        raise ValueError(f"{count} prompts were asked for, there are {len(known)}")
    return random.Random(seed).sample(known, count)


def chatter(gguf_file: Path, count: int, seed: int, progress: Progress) -> Iterator[Sample]:
    """Prompts with the language model's own likeliest answers, up to the last whole sentence.

    Answers that turn in circles are left out.  One thread: several would wait for a training run that holds the
    cores.
    """
    from dclocal.bundle import Sampling
    from dclocal.formats import FORMATS
    from dclocal.llm import LLM
    from dclocal.prompt import Message, render, to_segments

    with LLM(gguf_file, n_ctx=512, threads=1) as llm:
        for index, prompt in enumerate(prompts(count, seed)):
            pieces = render(FORMATS["chatml"], [Message("user", prompt)], answer_next=True)
            llm.prefill(to_segments(pieces, llm.tokenize, {}))
            answer = "".join(llm.generate(Sampling(), seed=0, max_tokens=ANSWER_TOKENS, stop=("<|im_end|>",)))
            progress("answering general prompts", index + 1, count)
            whole = whole_sentences(answer)
            if whole and not circles(whole):
                yield Sample(None, None, [(prompt, whole)])


def whole_sentences(text: str) -> str:
    """The text up to the end of its last sentence; all of it where none ends."""
    end = max(text.rfind(mark) for mark in ".!?")
    return text[: end + 1].strip() if end > 0 else text.strip()


def circles(text: str) -> bool:
    """Whether a sentence or a line comes twice."""
    parts = [part.strip() for part in re.split(r"[.!?\n]", text) if len(part.strip()) > 12]
    return len(set(parts)) < len(parts)
