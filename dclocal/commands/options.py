"""What the commands that ask a model have in common: the options that choose it, and opening it."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dclocal.progress import Progress

if TYPE_CHECKING:
    from dclocal.chat import ChatSession

MODEL_OPTIONS = [
    click.option("--bundle", metavar="BUNDLE", help="A bundle's name, folder or .dcb file.  [default: dc-tiny]"),
    click.option(
        "--checkpoint",
        metavar="DIR",
        type=click.Path(path_type=Path),
        help="Run a PyTorch checkpoint, not yet exported.",
    ),
    click.option("--load-in-4bit", is_flag=True, help="The checkpoint's language model in 4 bits (NF4)."),
    click.option(
        "--lora",
        metavar="NAME[=SCALE]",
        multiple=True,
        help="Run with these of the bundle's adapters; none is for none.",
    ),
    click.option("--system", default="", help="A system message."),
    click.option("--threads", type=click.IntRange(1), help="Threads to use.  [default: all cores]"),
]
ANSWER_OPTIONS = [
    click.option("--max-tokens", type=click.IntRange(1), help="The answer's greatest length."),
    click.option("--temperature", type=click.FloatRange(0, 5), help="0 takes the likeliest token each time."),
    click.option("--seed", type=int, default=0, show_default=True, help="Seed for a temperature above 0."),
]
Command = Callable[..., None]


def model_options(command: Command) -> Command:
    """Adds the options of `open_chosen`, and those of an answer."""
    for option in reversed([*MODEL_OPTIONS, *ANSWER_OPTIONS]):
        command = option(command)
    return command


def split_options(given: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The arguments of `open_chosen`, and those of `ChatSession.ask`; raises UsageError for some that do not fit."""
    answer = {key: given.pop(key) for key in ("max_tokens", "temperature", "seed")}
    if answer["temperature"] is not None and math.isnan(answer["temperature"]):
        raise click.UsageError("--temperature nan is not a number from 0 to 5")
    if given["checkpoint"] is not None and given["bundle"] is not None:
        raise click.UsageError("--bundle and --checkpoint name two models: give one")
    if given["checkpoint"] is not None and given["lora"]:
        raise click.UsageError("--lora needs a bundle: a checkpoint's adapters are a part of it")
    if given["load_in_4bit"] and given["checkpoint"] is None:
        raise click.UsageError("--load-in-4bit needs --checkpoint DIR: a bundle has its own precision")
    return given, answer


def open_chosen(
    progress: Progress,
    *,
    bundle: str | None,
    checkpoint: Path | None,
    load_in_4bit: bool,
    lora: tuple[str, ...],
    system: str,
    threads: int | None,
) -> ChatSession:
    """A ready session on the model that the options name."""
    from dclocal.session import open_checkpoint_session, open_session
    from dclocal.store import open_bundle

    if checkpoint is None:
        return open_session(open_bundle(bundle, progress), system=system, threads=threads, lora=lora)
    return open_checkpoint_session(
        checkpoint, load_in_4bit=load_in_4bit, system=system, threads=threads, progress=progress
    )


def read_question(prompt: str | None, as_json: bool, piped_picture: bool = False) -> str | None:
    """The question of -p or of a pipe, unless that brings a picture; None for a conversation.

    Raises PromptError for an empty question, UsageError where there has to be one.
    """
    from dclocal.errors import PromptError

    if sys.stdin is None and (prompt is None or piped_picture):
        raise click.UsageError("standard input is closed: add < /dev/null")
    if prompt is None and not piped_picture and not sys.stdin.isatty():
        prompt = sys.stdin.read()
    if prompt is None and (as_json or piped_picture):
        raise click.UsageError(f"{'--json' if as_json else '-'} needs a question: add -p TEXT")
    if prompt is not None and not prompt.strip():
        raise PromptError("the question is empty", "ask something")
    return prompt
