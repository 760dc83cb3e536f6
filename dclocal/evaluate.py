"""Asking a model the questions of a test as a user would: through ChatSession, quantized, greedy."""

from __future__ import annotations

import json
import time
import zipfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dclocal.errors import ImageError, PromptError
from dclocal.eval_score import Reply, Score, make_score
from dclocal.eval_test import REMEDY, EvalError, Question, is_right
from dclocal.eval_videos import OneEncoding, Videos, grey_picture, middle_frame, show_video
from dclocal.progress import Progress
from dclocal.video import VideoError

if TYPE_CHECKING:
    from PIL.Image import Image

    from dclocal.chat import Attachment, ChatSession

MIN_ANSWER_TOKENS = 8
CONTAINING_TOKENS = 64
"""The greatest length of a reply in which an answer is looked for."""

OnReply = Callable[[Reply], None]
Show = Callable[[Sequence[Question]], "tuple[ChatSession, Sequence[Attachment]]"]


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
    videos: Videos | None = None,
    blind: bool = False,
    progress: Progress,
    on_reply: OnReply = lambda reply: None,
) -> Score:
    """Ask every question in a conversation of its own; the prefix of a picture or video stays in the KV cache.

    `load` opens a picture by its name, `videos` says where videos are and what is shown of them.  What raises
    ImageError or VideoError is in the score's `broken` and its questions are not asked.  `blind` shows a grey picture
    in place of each, and of each frame.  `on_reply` is called after every reply.  Raises EvalError for a question that
    does not fit the context.
    """
    started = time.perf_counter()
    model = session.bundle.manifest.name
    broken: dict[str, str] = {}
    replies: list[Reply] = []
    passed = 0
    show = _shower(session, load, videos, blind)
    for about_one in _by_shown(questions):
        try:
            own, attachments = show(about_one)
        except (ImageError, VideoError) as error:
            broken[about_one[0].shown] = error.problem
        else:
            for question in about_one:
                answer = _ask(own, attachments, question)
                replies.append(Reply(question, answer, is_right(question, answer)))
                on_reply(replies[-1])
                progress(f"asking {model}", passed + 1, len(questions))
                passed += 1
            continue
        passed += len(about_one)
        progress(f"asking {model}", passed, len(questions))
    seconds, middle = time.perf_counter() - started, videos is not None and videos.middle_frame
    return make_score(task, model, replies, blind=blind, seconds=seconds, broken=broken, middle_frame=middle)


def _by_shown(questions: Sequence[Question]) -> list[list[Question]]:
    """The questions about one picture or video together, in the order of the first of each."""
    found: dict[tuple[str, str], list[Question]] = defaultdict(list)
    for question in questions:
        found[question.image, question.video].append(question)
    return list(found.values())


def _shower(session: ChatSession, load: Callable[[str], Image], videos: Videos | None, blind: bool) -> Show:
    """A function that opens a conversation on what some questions are about, so that its embeddings go with it."""
    from dclocal.chat import ChatSession

    vision = OneEncoding(session.vision) if blind else session.vision
    grey = grey_picture() if blind else None

    def show(about_one: Sequence[Question]) -> tuple[ChatSession, Sequence[Attachment]]:
        own = ChatSession(session.bundle, vision, session.llm)
        first = about_one[0]
        if not first.video:
            picture = load(first.image)
            return own, [own.attach(grey or picture)]
        if videos is None:
            raise EvalError(f"line {first.line} asks about a video, this test has pictures", REMEDY)
        file = videos.path(first.video)
        if videos.middle_frame:
            picture = middle_frame(file)
            return own, [own.attach(grey or picture)]
        longest = max(about_one, key=lambda question: len(session.llm.tokenize(question.question, False)))
        most = max(map(_answer_tokens, about_one))
        try:
            shown = show_video(own, file, videos.frames, blind=blind, question=longest.question, max_tokens=most)
        except PromptError as error:
            raise _unaskable(longest, error) from error
        return own, shown

    return show


def _ask(session: ChatSession, attachments: Sequence[Attachment], question: Question) -> str:
    """The reply, greedy."""
    from dclocal.chat import Answered

    session.reset()
    answer = ""
    limit = _answer_tokens(question)
    try:
        for event in session.ask(question.question, attachments, max_tokens=limit, temperature=0.0):
            if isinstance(event, Answered):
                answer = event.answer
    except PromptError as error:
        raise _unaskable(question, error) from error
    return answer


def _answer_tokens(question: Question) -> int:
    """An exact reply need be no longer than the longest answer has characters."""
    longest = max(MIN_ANSWER_TOKENS, *map(len, question.answers))
    return CONTAINING_TOKENS if question.match == "contains" else longest


def _unaskable(question: Question, error: PromptError) -> EvalError:
    remedy = error.remedy if question.video else "shorten it"
    return EvalError(f"the question on line {question.line} cannot be asked: {error.problem}", remedy)
