"""Replies to a score: how many are right, how sure that is, and what could be had without looking."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

from dclocal.eval_test import Question, is_right, normalised
from dclocal.tables import Table

MAX_MISTAKES = 20
Z_95 = 1.959964  # the normal distribution's quantile for a two-sided interval of 95 %
ALL = "all"


@dataclass(frozen=True)
class Reply:
    """A question, what the model said, and whether that is right."""

    question: Question
    answer: str
    right: bool


@dataclass(frozen=True)
class Tally:
    """Questions asked, answered rightly, and answered rightly by the majority answer to the same question text."""

    asked: int = 0
    right: int = 0
    majority_right: int = 0

    def plus(self, right: bool, majority_right: bool) -> Tally:
        return Tally(self.asked + 1, self.right + right, self.majority_right + majority_right)

    @property
    def accuracy(self) -> float:
        return self.right / self.asked if self.asked else 0.0

    @property
    def majority(self) -> float:
        """The accuracy of the best answer that does not look at what is shown."""
        return self.majority_right / self.asked if self.asked else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        return wilson_interval(self.right, self.asked)

    def as_json(self) -> dict[str, Any]:
        return {
            "asked": self.asked,
            "right": self.right,
            "accuracy": self.accuracy,
            "interval": list(self.interval),
            "blind_majority": self.majority,
        }


@dataclass(frozen=True)
class Score:
    """A model on a test: `total` and `groups`, in the order of the test; `broken` maps files to what is wrong.

    `blind` and `middle_frame` say what stood for each picture or video: see `evaluate.run_test`.
    """

    task: str
    model: str
    blind: bool
    total: Tally
    groups: Mapping[str, Tally]
    question_texts: int
    seconds: float
    broken: Mapping[str, str]
    replies: Sequence[Reply]
    middle_frame: bool = False

    @property
    def asked(self) -> int:
        return self.total.asked

    @property
    def right(self) -> int:
        return self.total.right

    @property
    def accuracy(self) -> float:
        return self.total.accuracy

    @property
    def mistakes(self) -> list[Reply]:
        """The first of the replies that are not right."""
        return [reply for reply in self.replies if not reply.right][:MAX_MISTAKES]

    @property
    def rate(self) -> float:
        """Questions a second."""
        return self.asked / self.seconds if self.seconds else 0.0


def make_score(
    task: str,
    model: str,
    replies: Sequence[Reply],
    *,
    blind: bool,
    seconds: float,
    broken: Mapping[str, str],
    middle_frame: bool = False,
) -> Score:
    """Count replies, in all and by group."""
    majority = majority_answers(reply.question for reply in replies)
    total, groups = Tally(), defaultdict[str, Tally](Tally)
    for reply in replies:
        blindly = is_right(reply.question, majority[question_text(reply.question)])
        total = total.plus(reply.right, blindly)
        groups[reply.question.group] = groups[reply.question.group].plus(reply.right, blindly)
    texts, asked = len(majority), list(replies)
    return Score(task, model, blind, total, dict(groups), texts, seconds, dict(broken), asked, middle_frame)


def question_text(question: Question) -> str:
    """The words that make two questions the same one."""
    return " ".join(question.question.lower().split())


def majority_answers(questions: Iterable[Question]) -> dict[str, str]:
    """The most frequent right answer to each question text; of several, the one that comes first."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for question in questions:
        counts[question_text(question)].update(dict.fromkeys(map(normalised, question.answers)).keys())
    return {text: counter.most_common(1)[0][0] for text, counter in counts.items()}


def wilson_interval(right: int, asked: int) -> tuple[float, float]:
    """Wilson's score interval of a share, 95 %: (low, high)."""
    if not asked:
        return 0.0, 1.0
    share, square = right / asked, Z_95**2
    centre = share + square / (2 * asked)
    half = Z_95 * math.sqrt(share * (1 - share) / asked + square / (4 * asked**2))
    scale = 1 + square / asked
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


def agreements(scores: Sequence[Score]) -> list[tuple[str, str, float]]:
    """For each two models, the share of questions to which they reply with the same text."""
    found = []
    for one, other in combinations(scores, 2):
        same = sum(first.answer == second.answer for first, second in zip(one.replies, other.replies))
        found.append((one.model, other.model, same / len(one.replies) if one.replies else 0.0))
    return found


def unique_names(names: Sequence[str]) -> list[str]:
    """Names by which models can be told apart: a number follows the second of two that are the same."""
    seen: Counter[str] = Counter()
    unique = []
    for name in names:
        seen[name] += 1
        unique.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return unique


def named_apart(scores: Sequence[Score]) -> list[Score]:
    """The same scores under `unique_names`."""
    return [replace(score, model=name) for score, name in zip(scores, unique_names([s.model for s in scores]))]


def score_json(score: Score) -> dict[str, Any]:
    """The score as JSON data."""
    return {
        "task": score.task,
        "model": score.model,
        "blind": score.blind,
        "middle_frame": score.middle_frame,
        **score.total.as_json(),
        "question_texts": score.question_texts,
        "groups": {name: tally.as_json() for name, tally in score.groups.items()},
        "seconds": round(score.seconds, 1),
        "questions_per_second": round(score.rate, 2),
        "broken": dict(score.broken),
        "mistakes": [
            {
                **shown_json(reply.question),
                "question": reply.question.question,
                "expected": list(reply.question.answers),
                "answer": reply.answer,
            }
            for reply in score.mistakes
        ],
    }


def shown_json(question: Question) -> dict[str, str]:
    """The picture or the video of a question as a row of a test has it."""
    return {"video": question.video} if question.video else {"image": question.image}


def headline(score: Score) -> str:
    """One line: the score, its interval and the time it took."""
    seen = _seen(score)
    return (
        f"{score.task}, {score.model}{seen}: {score.right} of {score.asked} right, {_percent(score.accuracy)} "
        f"({_range(score.total)}), in {score.seconds:.0f} s, {score.rate:.1f} questions/s"
    )


def score_tables(scores: Sequence[Score]) -> list[Table]:
    """Accuracy by group, a column a model, beside what the majority answer to each question text scores."""
    first = scores[0]
    names = [*first.groups, ALL] if len(first.groups) > 1 else [ALL]
    header = ["group", "asked"]
    for score in scores:
        header += [score.model, "95 % interval"]
    rows = []
    for name in names:
        tallies = [score.total if name == ALL else score.groups[name] for score in scores]
        row = [name, str(tallies[0].asked)]
        for tally in tallies:
            row += [_percent(tally.accuracy), _range(tally)]
        rows.append([*row, _percent(tallies[0].majority)])
    return [Table(rows, header=[*header, "blind majority"])]


def _seen(score: Score) -> str:
    """What the model was shown, where that is not what the test has."""
    if score.blind:
        return " with grey pictures"
    return " with the middle frame alone" if score.middle_frame else ""


def _range(tally: Tally) -> str:
    low, high = tally.interval
    return f"{100 * low:.1f} to {100 * high:.1f}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
