"""`dclocal video`: one question about a video file, or a conversation."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import click

from dclocal.commands.options import model_options, open_chosen, read_question, split_options


@click.command(
    epilog='Examples: dclocal video clip.mp4 -p "What happens?"; dclocal video film.mkv --start 1:02 --end 1:30; '
    "dclocal video talk.webm --sample scene --frames 24 --tokens-per-frame 16"
)
@click.argument("file", metavar="FILE", type=click.Path())
@click.option("-p", "--prompt", help="Ask this, print the answer and exit.")
@click.option("--frames", type=click.IntRange(1, 4096), help="How many frames to look at.  [default: the bundle's]")
@click.option("--fps", type=click.FloatRange(0, 1000, min_open=True), help="Frames a second, instead of --frames.")
@click.option("--start", metavar="TIME", help="Where to begin: 12, 1:02 or 0:01:02.5.")
@click.option("--end", metavar="TIME", help="Where to stop.")
@click.option(
    "--sample",
    type=click.Choice(["uniform", "scene"]),
    default="uniform",
    show_default=True,
    help="Frames spread evenly, or where the picture changes most.",
)
@click.option("--tokens-per-frame", type=click.IntRange(1), help="Tokens to keep of each frame.")
@click.option(
    "--pool",
    type=click.Choice(["area", "bilinear", "max"]),
    help="Fewer tokens by means of regions, interpolation, or maxima as released.  [default: the bundle's]",
)
@click.option(
    "--times/--no-times", default=None, help="Tell the model when each frame is shown.  [default: the bundle's]"
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object: answer, costs, frames.")
@model_options
def video(
    file: str,
    prompt: str | None,
    frames: int | None,
    fps: float | None,
    start: str | None,
    end: str | None,
    sample: str,
    tokens_per_frame: int | None,
    pool: str | None,
    times: bool | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Ask about a video: some of its frames are shown to the model in order.  Without -p, a conversation."""
    model, options = split_options(given)
    if frames is not None and fps is not None:
        raise click.UsageError("--frames and --fps both say how many frames: give one")
    if fps is not None and not fps < float("inf"):  # nan passes click's range
        raise click.UsageError("--fps is not a number")
    question = read_question(prompt, as_json)
    from dclocal.commands.chat import ask
    from dclocal.frames import VideoRequest, attach_video
    from dclocal.progress import for_terminal
    from dclocal.repl import Repl, note
    from dclocal.sampling import parse_time
    from dclocal.video import VideoReader

    start_s, end_s = (None if text is None else parse_time(text) for text in (start, end))
    request = VideoRequest(frames, fps, start_s, end_s, sample, tokens_per_frame, pool, times)
    with VideoReader(file) as reader, for_terminal() as progress:
        session = open_chosen(progress, **model)
        attached = attach_video(
            session, reader, request, question=question, max_tokens=options["max_tokens"], progress=progress
        )
    note(attached.summary)
    if question is None:
        Repl(session, list(attached.attachments), options, of_video=True).run()
        return
    answered = ask(session, question, list(attached.attachments), options, quiet=as_json)
    if as_json:
        result = {
            "answer": answered.answer,
            "bundle": session.bundle.manifest.name,
            "stats": dataclasses.asdict(answered.stats),
            "tokens_per_frame": attached.tokens_per_frame,
            "frames": [dataclasses.asdict(frame) for frame in attached.frames],
        }
        print(json.dumps(result))
