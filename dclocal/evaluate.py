"""Asking a model the questions of a test as a user would: through ChatSession, quantized, greedy."""

from __future__ import annotations

import json
import time
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dclocal.errors import ImageError, PromptError
from dclocal.eval_score import Reply, Score, make_score
from dclocal.eval_test import EvalError, Question, is_right
from dclocal.progress import Progress

if TYPE_CHECKING:
    from PIL.Image import Image

    from dclocal.chat import Attachment, ChatSession

MIN_ANSWER_TOKENS = 8
CONTAINING_TOKENS = 64
"""The greatest length of a reply in which an answer is looked for."""
GREY = (128, 128, 128)

OnReply = Callable[[Reply], None]


@dataclass(frozen=True)
class Item:
    """A picture and its (question, right answer) pairs, in memory."""

    image: Image
    questions: tuple[tuple[str, str], ...]


def easy_vqa_items(wheel: Path, limit: int | None) -> list[Item]:
    """easy-VQA's test split in its own order, at most `limit` questions."""
    from dclocal.images import load_image

    with zipfile.ZipFile(wheel) as archive:
        rows = json.loads(archive.read("easy_vqa/data/test/questions.json"))[:limit]
        by_image: dict[int, list[tuple[str, str]]] = defaultdict(list)
        for question, answer, image in rows:
            by_image[image].append((question, answer))
        return [
            Item(load_image(archive.read(f"easy_vqa/data/test/images/{image}.png")), tuple(questions))
            for image, questions in by_image.items()
        ]


def run_task(task: str, items: Sequence[Item], session: ChatSession, progress: Progress) -> Score:
    """The score on pictures in memory; yes/no questions are a group, and all others."""
    questions = [
        Question(str(index), text, (answer,), group=answer_kind(answer), line=index + 1)
        for index, item in enumerate(items)
        for text, answer in item.questions
    ]
    return run_test(task, questions, lambda name: items[int(name)].image, session, progress=progress)


def answer_kind(answer: str) -> str:
    """The group of a question by what is answered to it."""
    return "yes/no" if answer in ("yes", "no") else "what"


def folder_loader(folder: Path) -> Callable[[str], Image]:
    """A function from a picture's name in a test's folder to the picture; it raises ImageError."""
    from dclocal.images import load_image

    return lambda name: load_image(folder.resolve() / name)


def run_test(
    task: str,
    questions: Sequence[Question],
    load: Callable[[str], Image],
    session: ChatSession,
    *,
    blind: bool = False,
    progress: Progress,
    on_reply: OnReply = lambda reply: None,
) -> Score:
    """Ask every question in a conversation of its own; a picture's prefix stays in the KV cache.

    `load` opens a picture by its name; one that raises ImageError is in the score's `broken` and its questions are
    not asked.  `blind` shows a grey picture in place of each.  `on_reply` is called after every reply.  Raises
    EvalError for a question that does not fit the context.
    """
    started = time.perf_counter()
    model = session.bundle.manifest.name
    broken: dict[str, str] = {}
    replies: list[Reply] = []
    passed = 0
    grey = _opened(session, _grey_picture()) if blind else None
    for name, of_picture in _by_picture(questions).items():
        try:
            picture = load(name)
        except ImageError as error:
            broken[name] = error.problem
        else:
            own, attachment = grey or _opened(session, picture)
            for question in of_picture:
                answer = _ask(own, attachment, question)
                replies.append(Reply(question, answer, is_right(question, answer)))
                on_reply(replies[-1])
                progress(f"asking {model}", passed + 1, len(questions))
                passed += 1
            continue
        passed += len(of_picture)
        progress(f"asking {model}", passed, len(questions))
    seconds = time.perf_counter() - started
    return make_score(task, model, replies, blind=blind, seconds=seconds, broken=broken)


def _by_picture(questions: Sequence[Question]) -> Mapping[str, list[Question]]:
    found: dict[str, list[Question]] = defaultdict(list)
    for question in questions:
        found[question.image].append(question)
    return found


def _opened(session: ChatSession, picture: Image) -> tuple[ChatSession, Attachment]:
    """A conversation on one picture, so that its embeddings go when the next one comes."""
    from dclocal.chat import ChatSession

    own = ChatSession(session.bundle, session.vision, session.llm)
    return own, own.attach(picture)


def _grey_picture() -> Image:
    from PIL import Image

    return Image.new("RGB", (336, 336), GREY)


def _ask(session: ChatSession, attachment: Attachment, question: Question) -> str:
    """The reply, greedy: an exact one need be no longer than the longest answer has characters."""
    from dclocal.chat import Answered

    longest = max(MIN_ANSWER_TOKENS, *map(len, question.answers))
    limit = CONTAINING_TOKENS if question.match == "contains" else longest
    session.reset()
    answer = ""
    try:
        for event in _events(session, attachment, question, limit):
            if isinstance(event, Answered):
                answer = event.answer
    except PromptError as error:
        raise EvalError(
            f"the question on line {question.line} cannot be asked: {error.problem}", "shorten it"
        ) from error
    return answer


def _events(session: ChatSession, attachment: Attachment, question: Question, limit: int) -> Iterator[object]:
    return session.ask(question.question, [attachment], max_tokens=limit, temperature=0.0)
