"""`dclocal webcam`: questions on a live picture: one, one every so often, or a conversation."""

from __future__ import annotations

import re
import sys
from typing import Any

import click

from dclocal.commands.options import model_options, open_chosen, read_question, split_options

WINDOW, RATE = 8, 1.0
UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}


class Interval(click.ParamType):
    """Seconds from "5", "2.5s", "10m" or "1h"."""

    name = "interval"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        found = re.fullmatch(r"(\d{1,6}(?:\.\d{1,6})?)([smh]?)", value, re.ASCII)
        if not found or not float(found[1]):
            self.fail(f"{value!r} is no interval: write 5s, 2.5, 10m or 1h", param, ctx)
        return float(found[1]) * UNITS[found[2]]


@click.command(
    epilog='Examples: dclocal webcam -p "What is this?"; dclocal webcam rtsp://camera.local/stream; '
    'dclocal webcam 1 --every 5s -p "What changed?" --json >> seen.jsonl'
)
@click.argument("source", default="0", metavar="[SOURCE]")
@click.option("-p", "--prompt", help="Ask this, print the answer and exit.")
@click.option("--every", type=Interval(), metavar="TIME", help="Ask -p again and again: 5s, 2.5, 10m.")
@click.option("--window", type=click.IntRange(1, 256), help=f"Frames to look at.  [default: {WINDOW}, 1 for one -p]")
@click.option(
    "--rate", type=click.FloatRange(0.01, 60), default=RATE, show_default=True, help="Frames a second at most."
)
@click.option("--tokens-per-frame", type=click.IntRange(1), help="Tokens to keep of each frame.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object a line: time, answer, costs, frames.")
@model_options
def webcam(
    source: str,
    prompt: str | None,
    every: float | None,
    window: int | None,
    rate: float,
    tokens_per_frame: int | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Ask about a live picture: a camera's number, /dev/videoN, an http or rtsp address, or a video file.

    Without -p, a conversation: each question is about the newest frames, and about nothing that was said before.
    """
    model, options = split_options(given)
    if not rate < float("inf"):  # nan passes click's range
        raise click.UsageError("--rate is not a number")
    if every is not None and prompt is None:
        raise click.UsageError("--every needs a question: add -p TEXT")
    question = read_question(prompt, as_json)
    from dclocal.live import Live
    from dclocal.progress import for_terminal
    from dclocal.webcam import Camera
    from dclocal.webcam_talk import answer_once, converse, note_state, watch
    from dclocal.window import Window

    single = question is not None and every is None
    size = window or (1 if single else WINDOW)
    with Camera(source) as camera:
        camera.first()
        camera.on_state = note_state
        with for_terminal() as progress:
            session = open_chosen(progress, **model)
        frames = Window(session, size, tokens_per_frame, max_tokens=options["max_tokens"])
        with Live(camera, frames, rate) as live:
            if question is None:
                print(f"{camera.name}: {frames.size} frames of {frames.tokens} tokens, {rate:g}/s", file=sys.stderr)
                converse(live, options)
            elif every is None:
                answer_once(live, question, options, as_json)
            else:
                watch(live, question, options, every, as_json)
