"""The format of a test: a folder with pictures, videos and `questions.jsonl`; and when a reply to a question is right.

Nothing in the file is trusted: every row is typed and bounded, and no picture or video lies outside the folder.
`docs/evaluation.md` tells users the same.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

from dclocal.errors import UserError

QUESTIONS_FILE = "questions.jsonl"
MATCHES = ("exact", "contains")
DEFAULT_GROUP = "questions"
MAX_LINE_BYTES = 1 << 16
MAX_ROWS = 1_000_000
MAX_ANSWERS = 1000
MAX_GROUP = 80
REMEDY = "see docs/evaluation.md for the format"
ARTICLES = ("a", "an", "the")
MIN_PLURAL = 3  # letters of a word that a plural "s" may follow: "no" is not "nos"


class EvalError(UserError):
    """A test that does not exist, cannot be built, or is not as the format says."""


@dataclass(frozen=True)
class Question:
    """One row of a test: the path of its picture or its video within the folder (the other is ""), the question, and
    the answers that are right.

    `match` is "exact" or "contains" (see `is_right`); `group` is what scores are told apart by; `line` is where it
    stands in the file, from 1.
    """

    image: str
    question: str
    answers: tuple[str, ...]
    match: str = "exact"
    group: str = DEFAULT_GROUP
    line: int = 0
    video: str = ""

    @property
    def shown(self) -> str:
        """The path of what the question is about, picture or video."""
        return self.video or self.image


def read_test(folder: Path, limit: int | None = None) -> list[Question]:
    """The questions of the test in `folder`, the first `limit` of them; all that are read are checked.

    Raises EvalError, which names the line, for a row that the format does not allow or a path that leaves the
    folder.  Whether a picture or video can be read shows when it is asked about.
    """
    file = folder / QUESTIONS_FILE
    if not folder.is_dir():
        raise EvalError(f"{folder} is not a folder", "name a folder with pictures or videos and questions.jsonl")
    if not file.is_file():
        raise EvalError(f"{folder} has no {QUESTIONS_FILE}", REMEDY)
    root = folder.resolve()
    questions: list[Question] = []
    for number, line in _lines(file):
        if len(questions) == MAX_ROWS:
            raise EvalError(f"{file} has more than {MAX_ROWS:,} questions", "split it, or give --limit")
        where = f"{file}, line {number}"
        question = _parsed(line, where, number)
        _check_path(root, "video" if question.video else "image", question.shown, where)
        questions.append(question)
        if len(questions) == limit:
            break
    if not questions:
        raise EvalError(f"{file} has no questions", REMEDY)
    return questions


def write_test(folder: Path, rows: list[dict[str, Any]]) -> None:
    """Write `questions.jsonl` whole or not at all; each row has image or video, question, answers, match and group."""
    part = folder / f"{QUESTIONS_FILE}.part"
    part.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    part.replace(folder / QUESTIONS_FILE)


def is_right(question: Question, reply: str) -> bool:
    """Whether a reply answers a question: "exact" where it is one of the answers, "contains" where one occurs in it.

    Both are compared as `normalised`; within a longer reply an answer counts as whole words, each of them also
    with or without a plural "s".
    """
    said = normalised(reply)
    if question.match == "exact":
        return any(said == normalised(answer) for answer in question.answers)
    return any(_occurs(normalised(answer).split(), said.split()) for answer in question.answers)


@lru_cache(maxsize=1 << 16)
def normalised(text: str) -> str:
    """The words of a text in lower case, without punctuation and a leading article.

    A number keeps its sign and decimal point and loses its thousands separators.
    """
    plain = unicodedata.normalize("NFKC", text).lower()
    plain = re.sub(r"['’]|(?<=\d),(?=\d{3})", "", plain)
    plain = re.sub(r"(?<!\d)\.|\.(?!\d)|(?<![\s(])-|-(?!\d)|[^\w\s.\-]|_", " ", " " + plain)
    words = plain.split()
    return " ".join(words[1:] if len(words) > 1 and words[0] in ARTICLES else words)


def _occurs(answer: list[str], reply: list[str]) -> bool:
    """Whether the words of the answer stand in the reply, in a row."""
    starts = range(len(reply) - len(answer) + 1)
    return any(all(_same_word(one, reply[start + at]) for at, one in enumerate(answer)) for start in starts)


def _same_word(one: str, other: str) -> bool:
    shorter, longer = sorted((one, other), key=len)
    return one == other or (len(shorter) >= MIN_PLURAL and shorter.isalpha() and longer == shorter + "s")


def _lines(file: Path) -> Iterator[tuple[int, bytes]]:
    """Lines that are not blank with their numbers, each bounded before it is read whole."""
    try:
        with file.open("rb") as stream:
            number = 0
            while line := stream.readline(MAX_LINE_BYTES + 1):
                number += 1
                if len(line) > MAX_LINE_BYTES:
                    raise EvalError(f"{file}, line {number} has more than {MAX_LINE_BYTES:,} bytes", REMEDY)
                if line.strip():
                    yield number, line
    except OSError as error:
        raise EvalError(f"{file} cannot be read ({error.strerror})", "check its permissions") from error


def _parsed(line: bytes, where: str, number: int) -> Question:
    try:
        row = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
    except (ValueError, RecursionError) as error:
        raise EvalError(f"{where} is not JSON in UTF-8 ({error})", "write one JSON object a line") from error
    if not isinstance(row, dict):
        raise EvalError(f"{where} is not an object", REMEDY)
    shown, question = (_text(row, key, where) for key in (_shown_key(row, where), "question"))
    match, group = row.get("match", MATCHES[0]), row.get("group", DEFAULT_GROUP)
    if match not in MATCHES:
        raise EvalError(f"{where}: match is {match!r:.60}", f"known: {', '.join(MATCHES)}")
    if not isinstance(group, str) or not group.isprintable() or not 0 < len(group) <= MAX_GROUP:
        raise EvalError(f"{where}: group is {group!r:.60}", f"give a text of at most {MAX_GROUP} characters")
    answers = _answers(row.get("answers"), where)
    image, video = ("", shown) if "video" in row else (shown, "")
    return Question(image, question, answers, match, group, number, video)


def _shown_key(row: dict[str, Any], where: str) -> str:
    """ "image" or "video", whichever the row has; exactly one."""
    if "image" in row and "video" in row:
        raise EvalError(f"{where} has both an image and a video", "give one of them")
    if "image" not in row and "video" not in row:
        raise EvalError(f"{where} has neither an image nor a video", "give one of them")
    return "video" if "video" in row else "image"


def _text(row: dict[str, Any], key: str, where: str) -> str:
    value = row.get(key)
    if not isinstance(value, str) or not value.strip():
        raise EvalError(f"{where}: {key} is {value!r:.60}", "give a text that is not empty")
    return value


def _answers(value: Any, where: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not 0 < len(value) <= MAX_ANSWERS:
        raise EvalError(f"{where}: answers is {value!r:.60}", f"give a list of 1 to {MAX_ANSWERS} texts")
    for answer in value:
        if not isinstance(answer, str) or not normalised(answer):
            raise EvalError(f"{where}: the answer {answer!r:.60} has no words", "give a text with a letter or digit")
    return tuple(value)


def _check_path(root: Path, kind: str, name: str, where: str) -> None:
    """Refuse a path that leaves the folder, by its letters or through a link."""
    path = PurePosixPath(name)
    if not name.isprintable() or "\\" in name or path.is_absolute() or ".." in path.parts:
        raise EvalError(f"{where}: the {kind} {name!r:.80} leaves the folder", "give a path within it, with /")
    if not _resolved(root / name).is_relative_to(root):
        raise EvalError(f"{where}: the {kind} {name!r:.80} is a link out of the folder", "put the file there")


@lru_cache(maxsize=1 << 12)
def _resolved(path: Path) -> Path:
    try:
        return path.resolve()
    except (OSError, RuntimeError):  # a loop of links, or a name that is too long: no picture, told when it is asked
        return path
