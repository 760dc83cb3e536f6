"""Talking about a live picture in a terminal: one answer, one every so often, or a conversation."""

from __future__ import annotations

import dataclasses
import json
import time
from contextlib import closing
from datetime import datetime
from typing import TYPE_CHECKING, Any

from dclocal.chat import Answered, PromptReady, TextPiece
from dclocal.errors import UserError
from dclocal.live import Asked
from dclocal.repl import line_reader, note

if TYPE_CHECKING:
    from dclocal.live import Live
    from dclocal.webcam import CameraState

POLL_S = 0.1
FILL_S = 60.0
"""A window that is not full after so long is asked about as it is."""
HELP = """\
/stats   what the last answer cost
/status  how the camera is doing
/help    this list
/quit    leave (so does Ctrl-D)
Anything else is a question on the newest frames.  Ctrl-C stops an answer."""


def note_state(state: CameraState) -> None:
    """Say on stderr how the camera is doing, where that is news."""
    if state.name not in ("opening", "closed"):
        note(f"camera: {state.problem or state.name}")


@dataclasses.dataclass(frozen=True)
class Told:
    """An answer, the frames that it is about, and the tokens that were evaluated for it."""

    asked: Asked
    ready: PromptReady
    answered: Answered

    def cost(self) -> str:
        """In words."""
        stats = self.answered.stats
        return (
            f"{stats.prompt_tokens} prompt tokens ({stats.image_tokens} of images), "
            f"{stats.prompt_tokens - self.ready.reused_tokens} evaluated for the question, "
            f"first token {stats.ttft_ms:.0f} ms, {stats.answer_tokens} tokens at {stats.decode_tps:.0f}/s"
        )

    def as_json(self, live: Live) -> str:
        """One line."""
        return json.dumps(
            {
                "time": datetime.now().astimezone().isoformat(timespec="milliseconds"),
                "answer": self.answered.answer,
                "bundle": live.window.session.bundle.manifest.name,
                "stats": dataclasses.asdict(self.answered.stats),
                "evaluated_tokens": self.ready.prompt_tokens - self.ready.reused_tokens,
                "tokens_per_frame": live.window.tokens,
                "frames": [dataclasses.asdict(frame) for frame in self.asked.frames],
            }
        )


def tell(live: Live, text: str, options: dict[str, Any], *, quiet: bool = False) -> Told:
    """Ask and, unless `quiet`, print the answer as it comes."""
    asked, ready, answered = Asked(()), PromptReady(0, 0, 0.0), None
    with closing(live.ask(text, **options)) as events:  # type: ignore[type-var]
        for event in events:
            if isinstance(event, TextPiece) and not quiet:
                print(event.text, end="", flush=True)
            elif isinstance(event, Asked):
                asked = event
            elif isinstance(event, PromptReady):
                ready = event
            elif isinstance(event, Answered):
                answered = event
    assert answered is not None  # the last event
    if not quiet:
        print()
        if not answered.answer:
            note("The model gave no answer; try other words.")
    return Told(asked, ready, answered)


def answer_once(live: Live, text: str, options: dict[str, Any], as_json: bool) -> None:
    """One answer, once the window is full."""
    live.wait(live.window.size, FILL_S)
    told = tell(live, text, options, quiet=as_json)
    if as_json:
        print(told.as_json(live))


def watch(live: Live, text: str, options: dict[str, Any], every_s: float, as_json: bool) -> None:
    """A line each `every_s`, as long as there are new pictures; says once where there are none."""
    live.wait(1, FILL_S)
    told_looks, told_changes, frozen = 0, 0, False
    due = time.monotonic()
    while True:
        while (left := due - time.monotonic()) > 0 and not live.camera.over:
            time.sleep(min(left, POLL_S))
        due = max(due + every_s, time.monotonic())
        looks, changes = live.window.looks, live.window.changes
        if changes != told_changes:
            told_changes, frozen = changes, False
            told = tell(live, text, options, quiet=True)
            line = told.as_json(live) if as_json else f"{datetime.now():%H:%M:%S} {_one_line(told.answered.answer)}"
            print(line, flush=True)
        elif looks != told_looks and not frozen:
            frozen = True
            note(f"{datetime.now():%H:%M:%S} the picture does not change: no answer until it does")
        told_looks = looks
        if live.camera.over:
            return


def _one_line(text: str) -> str:
    return " ".join(text.split())


def converse(live: Live, options: dict[str, Any]) -> None:
    """Read questions and answer each on the newest frames, until the user leaves."""
    note(f"{live.window.session.bundle.manifest.name}; /help lists the commands, Ctrl-D leaves")
    read = line_reader(["/help", "/quit", "/stats", "/status"])
    last = "nothing was asked yet"
    while True:
        try:
            line = read().strip()
        except EOFError:
            return
        except KeyboardInterrupt:
            note("Ctrl-D or /quit leaves")
            continue
        try:
            if line == "/quit":
                return
            if line.startswith("/"):
                state = live.camera.state
                status = f"{live.camera.name}: {state.problem or state.name}; {len(live.window.frames)} frames"
                known = {"/help": HELP, "/stats": last, "/status": status}
                note(known.get(line, f"unknown command {line}; known: {', '.join([*known, '/quit'])}"))
            elif line:
                last = tell(live, line, options).cost()
        except UserError as error:
            note(str(error))
        except KeyboardInterrupt:
            print()
            note("stopped")
