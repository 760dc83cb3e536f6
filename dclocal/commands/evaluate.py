"""`dclocal eval`: the score of bundles and checkpoints on a test."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from dclocal.chat import ChatSession
    from dclocal.eval_score import Reply, Score

Write = Callable[[Mapping[str, Any]], None]


@dataclass(frozen=True)
class Asking:
    """What is asked of every model, and what is shown."""

    task: str
    limit: int | None
    frames: int | None
    middle_frame: bool
    blind: bool
    source_dir: Path | None


@click.command(
    "eval",
    epilog="Examples: dclocal eval easy-vqa --limit 500 --json; dclocal eval my-questions/ --blind; "
    "dclocal eval easy-vqa --checkpoint runs/mine --bundle my-bundle; dclocal eval video --middle-frame; "
    "dclocal eval chat",
)
@click.argument("task")
@click.option(
    "--bundle", "bundles", metavar="BUNDLE", multiple=True, help="A bundle's name or folder.  [default: dc-tiny]"
)
@click.option(
    "--checkpoint",
    "checkpoints",
    metavar="DIR",
    multiple=True,
    type=click.Path(path_type=Path),
    help="A PyTorch checkpoint.  Several models are compared side by side.",
)
@click.option("--limit", type=click.IntRange(1), help="Ask at most this many questions.")
@click.option("--frames", type=click.IntRange(1, 4096), help="Frames of each video.  [default: the bundle's]")
@click.option("--middle-frame", is_flag=True, help="Show the middle frame of each video alone, as a picture.")
@click.option("--blind", is_flag=True, help="Show a grey picture in place of each, and of each frame.")
@click.option("--out", type=click.Path(path_type=Path), help="Write each question with its answer to this JSONL file.")
@click.option(
    "--from", "source_dir", type=click.Path(path_type=Path), help="A folder with the packages of a named test."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def evaluate(
    task: str,
    bundles: tuple[str, ...],
    checkpoints: tuple[Path, ...],
    limit: int | None,
    frames: int | None,
    middle_frame: bool,
    blind: bool,
    out: Path | None,
    source_dir: Path | None,
    as_json: bool,
) -> None:
    """Measure models on TASK: easy-vqa, chat, a test that another package brings, or the folder of your own
    (docs/evaluation.md)."""
    from dclocal.eval_tasks import CHAT

    if frames is not None and middle_frame:
        raise click.UsageError("--frames and --middle-frame both say how many frames: give one")
    names: list[str | None] = [*bundles]
    if not bundles and not checkpoints:
        names = [None]
    with _records(out) as write:
        if task != CHAT:
            asking = Asking(task, limit, frames, middle_frame, blind, source_dir)
            _evaluate_pictures(asking, names, checkpoints, write, as_json)
            return
        if checkpoints or blind or middle_frame or frames is not None:
            raise click.UsageError(
                "chat has no pictures and reads bundles alone: leave out --blind, --frames, --middle-frame and "
                "--checkpoint"
            )
        _evaluate_chat(names, limit, source_dir, write, as_json)


def _evaluate_chat(names: list[str | None], limit: int | None, source: Path | None, write: Write, json_: bool) -> None:
    from dclocal.eval_chat import base_model, read_prompts, run_chat
    from dclocal.eval_progress import for_questions
    from dclocal.progress import for_terminal
    from dclocal.store import open_bundle

    with for_terminal() as progress:
        opened = [open_bundle(name, progress) for name in names]
        base = base_model(source, progress)
    with for_questions() as progress:
        prompts = read_prompts(limit)
        scores = [score for bundle in opened for score in run_chat(bundle, base, prompts, progress, write)]
    if json_:
        found = [score.as_json() for score in scores]
        print(json.dumps(found[0] if len(found) == 1 else {"task": "chat", "models": found}, indent=2))
        return
    for score in scores:
        print(score)


def _evaluate_pictures(
    asking: Asking, names: list[str | None], checkpoints: tuple[Path, ...], write: Write, as_json: bool
) -> None:
    from dclocal.errors import UserError
    from dclocal.eval_progress import for_questions
    from dclocal.eval_score import named_apart
    from dclocal.eval_tasks import open_test
    from dclocal.eval_test import read_test
    from dclocal.eval_videos import Videos
    from dclocal.evaluate import folder_loader, run_test
    from dclocal.progress import for_terminal

    task, blind = asking.task, asking.blind
    with for_terminal() as progress:
        folder = open_test(task, asking.source_dir, progress)
    questions, load = read_test(folder, asking.limit), folder_loader(folder)
    if (asking.middle_frame or asking.frames) and not any(question.video for question in questions):
        raise UserError(f"{task} asks about no video", "leave out --frames and --middle-frame")
    videos = Videos(folder, asking.frames, asking.middle_frame)
    scores = []
    for session in _sessions(names, checkpoints):
        model = session.bundle.manifest.name

        def on_reply(reply: Reply, model: str = model) -> None:
            write({"model": model, **_record(reply)})

        with for_questions() as progress:
            score = run_test(
                task, questions, load, session, videos=videos, blind=blind, progress=progress, on_reply=on_reply
            )
        scores.append(score)
    _print_scores(task, named_apart(scores), as_json)


def _sessions(names: list[str | None], checkpoints: tuple[Path, ...]) -> Iterator[ChatSession]:
    """One model after the other, each closed before the next is opened."""
    from dclocal.llm import LLM
    from dclocal.progress import for_terminal
    from dclocal.session import open_checkpoint_session, open_session
    from dclocal.store import open_bundle

    for folder in checkpoints:
        with for_terminal() as progress:
            session = open_checkpoint_session(folder, progress=progress)
        yield session
        del session
    for name in names:
        with for_terminal() as progress:
            session = open_session(open_bundle(name, progress))
        yield session
        if isinstance(session.llm, LLM):
            session.llm.close()


def _print_scores(task: str, scores: list[Score], as_json: bool) -> None:
    from dclocal.eval_score import agreements, headline, score_json, score_tables
    from dclocal.tables import print_tables

    alike = agreements(scores)
    if as_json:
        found = [score_json(score) for score in scores]
        same = [{"models": [one, other], "equal": share} for one, other, share in alike]
        print(json.dumps({"task": task, "models": found, "agreement": same} if same else found[0], indent=2))
        return
    for score in scores:
        print(headline(score))
    print_tables(score_tables(scores))
    print(f"blind majority: the most frequent answer to each of the {scores[0].question_texts} question texts")
    for one, other, share in alike:
        print(f"{one} and {other} reply alike to {100 * share:.1f} %")
    for name, problem in scores[0].broken.items():
        print(f"not asked about {name}: {problem}")


def _record(reply: Reply) -> dict[str, Any]:
    from dclocal.eval_score import shown_json

    question = reply.question
    return {
        **shown_json(question),
        "question": question.question,
        "answers": list(question.answers),
        "match": question.match,
        "group": question.group,
        "answer": reply.answer,
        "right": reply.right,
    }


@contextmanager
def _records(out: Path | None) -> Iterator[Write]:
    """A function that writes a record as a line of `out` at once, or nothing where there is no `out`."""
    from dclocal.errors import UserError

    if out is None:
        yield lambda record: None
        return
    try:
        stream = out.open("w", encoding="utf-8")
    except OSError as error:
        raise UserError(f"{out} cannot be written ({error.strerror})", "name another file") from error

    def write(record: Mapping[str, Any]) -> None:
        stream.write(json.dumps(record) + "\n")
        stream.flush()

    with stream:
        yield write
