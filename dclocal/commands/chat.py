"""`dclocal chat`: one question about pictures, or a conversation."""

from __future__ import annotations

import dataclasses
import json
import sys
from contextlib import closing
from typing import TYPE_CHECKING, Any

import click

from dclocal.commands.options import model_options, open_chosen, read_question, split_options

if TYPE_CHECKING:
    from dclocal.chat import Answered, Attachment, ChatSession
    from dclocal.entry import Ahead


@click.command(
    epilog='Examples: dclocal chat photo.jpg -p "What is this?"; cat photo.jpg | dclocal chat - -p "What is this?"; '
    "dclocal chat photo.jpg --checkpoint runs/mine --load-in-4bit; dclocal chat photo.jpg --lora colours=0.5"
)
@click.argument("images", nargs=-1, metavar="IMAGE...", type=click.Path())
@click.option("-p", "--prompt", help="Ask this, print the answer and exit.")
@model_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object with the answer and what it cost.")
@click.pass_obj
def chat(ahead: Ahead | None, images: tuple[str, ...], prompt: str | None, as_json: bool, **given: Any) -> None:
    """Ask about pictures: paths, URLs, or - for standard input.  Without -p, a conversation."""
    from dclocal.progress import for_terminal
    from dclocal.session import STANDARD_INPUT, LateVision, begin_llm, open_pictures, open_session
    from dclocal.store import open_bundle, ready_bundle

    model, options = split_options(given)
    prompt = read_question(prompt, as_json, STANDARD_INPUT in images)
    shared = {"lora": model["lora"], "threads": model["threads"]}
    ready = ready_bundle(model["bundle"]) if model["checkpoint"] is None else None
    begun = ahead.of(ready.llm_path if ready else None) if ahead else None
    from dclocal.known_pictures import known_pictures  # which takes its time, beside the language model's loading

    known = known_pictures(ready) if ready else None
    vision = LateVision(ready, model["threads"]) if ready else None
    pictures = open_pictures(images, known, vision)
    keys = [picture.key for picture in pictures]
    first = keys if keys or prompt is not None else None
    llm = None
    if ready:
        settled = known is not None and bool(keys) and all(map(known.knows, keys))
        llm = begin_llm(ready, model=begun, settled=settled, **shared)
    with for_terminal() as progress:
        if model["checkpoint"] is None:
            bundle = ready or open_bundle(model["bundle"], progress)
            known = known or known_pictures(bundle)
            session = open_session(
                bundle, system=model["system"], known=known, keys=first, llm=llm, vision=vision, **shared
            )
        else:
            session = open_chosen(progress, **model)
    attachments = [session.attach_late(picture.load, picture.key) for picture in pictures]
    if prompt is None:
        from dclocal.repl import Repl

        Repl(session, attachments, options).run()
        return
    answered = ask(session, prompt, attachments, options, quiet=as_json)
    if as_json:
        stats = dataclasses.asdict(answered.stats)
        print(json.dumps({"answer": answered.answer, "bundle": session.bundle.manifest.name, "stats": stats}))


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
