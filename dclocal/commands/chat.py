"""`dclocal chat`: one question about pictures, or a conversation."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from dclocal.chat import Answered, Attachment, ChatSession


@click.command(
    epilog='Examples: dclocal chat photo.jpg -p "What is this?"; cat photo.jpg | dclocal chat - -p "What is this?"; '
    "dclocal chat photo.jpg --checkpoint runs/mine --load-in-4bit; dclocal chat photo.jpg --lora colours=0.5"
)
@click.argument("images", nargs=-1, metavar="IMAGE...", type=click.Path())
@click.option("-p", "--prompt", help="Ask this, print the answer and exit.")
@click.option(
    "--bundle", "bundle_name", metavar="BUNDLE", help="A bundle's name, folder or .dcb file.  [default: dc-tiny]"
)
@click.option(
    "--checkpoint", metavar="DIR", type=click.Path(path_type=Path), help="Run a PyTorch checkpoint, not yet exported."
)
@click.option("--load-in-4bit", is_flag=True, help="The checkpoint's language model in 4 bits (NF4).")
@click.option(
    "--lora", metavar="NAME[=SCALE]", multiple=True, help="Run with these of the bundle's adapters; none is for none."
)
@click.option("--max-tokens", type=click.IntRange(1), help="The answer's greatest length.")
@click.option("--temperature", type=click.FloatRange(0, 5), help="0 takes the likeliest token each time.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed for a temperature above 0.")
@click.option("--system", default="", help="A system message.")
@click.option("--threads", type=click.IntRange(1), help="Threads to use.  [default: all cores]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object with the answer and what it cost.")
def chat(
    images: tuple[str, ...],
    prompt: str | None,
    bundle_name: str | None,
    checkpoint: Path | None,
    load_in_4bit: bool,
    lora: tuple[str, ...],
    max_tokens: int | None,
    temperature: float | None,
    seed: int,
    system: str,
    threads: int | None,
    as_json: bool,
) -> None:
    """Ask about pictures: paths, URLs, or - for standard input.  Without -p, a conversation."""
    from dclocal.errors import PromptError
    from dclocal.progress import for_terminal
    from dclocal.session import STANDARD_INPUT, begin_llm, load_images, open_checkpoint_session, open_session
    from dclocal.store import open_bundle, ready_bundle

    _check_model(bundle_name, checkpoint, load_in_4bit, lora)
    if sys.stdin is None and (prompt is None or STANDARD_INPUT in images):
        raise click.UsageError("standard input is closed: add < /dev/null")
    if prompt is None and STANDARD_INPUT not in images and not sys.stdin.isatty():
        prompt = sys.stdin.read()
    if prompt is None and (as_json or STANDARD_INPUT in images):
        raise click.UsageError("--json and - need a question: add -p TEXT")
    if prompt is not None and not prompt.strip():
        raise PromptError("the question is empty", "ask something")
    if temperature is not None and math.isnan(temperature):
        raise click.UsageError("--temperature nan is not a number from 0 to 5")
    ready = ready_bundle(bundle_name) if checkpoint is None else None
    llm = begin_llm(ready, lora=lora, threads=threads) if ready else None
    from dclocal.images import image_key  # which takes its time, beside the language model's loading

    pictures = load_images(images)
    keys = [image_key(picture) for picture in pictures]
    with for_terminal() as progress:
        if checkpoint is None:
            bundle = ready or open_bundle(bundle_name, progress)
            session = open_session(bundle, system=system, threads=threads, lora=lora, remember=True, keys=keys, llm=llm)
        else:
            session = open_checkpoint_session(
                checkpoint, load_in_4bit=load_in_4bit, system=system, threads=threads, progress=progress
            )
    attachments = [session.attach(picture, key) for picture, key in zip(pictures, keys)]
    options: dict[str, object] = {"max_tokens": max_tokens, "temperature": temperature, "seed": seed}
    if prompt is None:
        from dclocal.repl import Repl

        Repl(session, attachments, options).run()
        return
    answered = ask(session, prompt, attachments, options, quiet=as_json)
    if as_json:
        stats = dataclasses.asdict(answered.stats)
        print(json.dumps({"answer": answered.answer, "bundle": session.bundle.manifest.name, "stats": stats}))


def _check_model(bundle_name: str | None, checkpoint: Path | None, load_in_4bit: bool, lora: tuple[str, ...]) -> None:
    """Refuse options that belong to the other kind of model."""
    if checkpoint is not None and bundle_name is not None:
        raise click.UsageError("--bundle and --checkpoint name two models: give one")
    if checkpoint is not None and lora:
        raise click.UsageError("--lora needs a bundle: a checkpoint's adapters are a part of it")
    if load_in_4bit and checkpoint is None:
        raise click.UsageError("--load-in-4bit needs --checkpoint DIR: a bundle has its own precision")


def ask(
    session: ChatSession, text: str, attachments: list[Attachment], options: dict[str, object], *, quiet: bool = False
) -> Answered:
    """Ask and, unless `quiet`, print the answer as it comes; returns the last event."""
    from dclocal.chat import Answered, TextPiece

    answered = None
    with closing(session.ask(text, attachments, **options)) as events:  # type: ignore[arg-type, type-var]
        for event in events:
            if isinstance(event, TextPiece) and not quiet:
                print(event.text, end="", flush=True)
            elif isinstance(event, Answered):
                answered = event
    assert answered is not None  # the session's last event
    if not quiet:
        print()
        if not answered.answer:
            print("The model gave no answer; try other words.", file=sys.stderr)
    return answered
