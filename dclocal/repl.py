"""The conversation in a terminal: line editing, history, and commands that start with a slash."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from dclocal.errors import UserError

if TYPE_CHECKING:
    from prompt_toolkit.completion import Completer

    from dclocal.chat import Answered, Attachment, ChatSession

HELP = """\
/image PATH|URL   attach a picture to the next question
/reset            forget what was said
/save FILE        write the conversation to FILE (.json or .md)
/lora NAME=SCALE  run with exactly these adapters (several, or none); alone, list them
/stats            what the last answer cost
/help             this list
/quit             leave (so does Ctrl-D)
Alt-Enter starts a new line; Ctrl-C stops an answer."""


class Repl:
    """A loop of question and answer on one session; `attachments` go with the next question.

    Those `of_video` are its frames: /reset shows them again.
    """

    def __init__(
        self,
        session: ChatSession,
        attachments: list[Attachment],
        options: dict[str, object],
        *,
        of_video: bool = False,
    ):
        self.session, self.options = session, options
        self.waiting = list(attachments)
        self.frames = tuple(attachments) if of_video else ()
        self.last: Answered | None = None
        self.commands: dict[str, Callable[[str], None]] = {
            "/image": self.attach,
            "/reset": self.reset,
            "/save": self.save,
            "/lora": self.lora,
            "/stats": self.stats,
            "/help": lambda _: note(HELP),
        }

    def run(self) -> None:
        """Read and answer until the user leaves."""
        note(f"{self.session.bundle.manifest.name}; /help lists the commands, Ctrl-D leaves")
        if self.waiting and not self.frames:
            note(f"{len(self.waiting)} picture(s) attached")
        read = line_reader(sorted([*self.commands, "/quit"]))
        while True:
            try:
                line = read().strip()
            except EOFError:
                return
            except KeyboardInterrupt:
                note("Ctrl-D or /quit leaves")
                continue
            if line.split(maxsplit=1)[:1] == ["/quit"]:
                return
            if line:
                self.handle(line)

    def handle(self, line: str) -> None:
        """One line: a command or a question; errors are shown and the loop goes on."""
        word, *rest = line.split(maxsplit=1)
        argument = rest[0] if rest else ""
        try:
            if not line.startswith("/"):
                self.ask(line)
            elif word in self.commands:
                self.commands[word](argument)
            else:
                note(f"unknown command {word}; known: {', '.join([*self.commands, '/quit'])}")
            self.session.settle()
        except UserError as error:
            note(str(error))
        except KeyboardInterrupt:
            note("\nstopped")
        except BrokenPipeError:
            raise
        except Exception as error:  # a fault in one turn must not lose the conversation
            if os.environ.get("DCLOCAL_DEBUG"):
                raise
            note(f"fault: {' '.join(str(error).split()) or type(error).__name__} — DCLOCAL_DEBUG=1 shows where")

    def ask(self, text: str) -> None:
        from dclocal.commands.chat import ask

        said = len(self.session.messages)
        try:
            self.last = ask(self.session, text, self.waiting, self.options)
        except KeyboardInterrupt:
            print()
            note("stopped")
        finally:
            if len(self.session.messages) > said:  # the turn is remembered, and its pictures with it
                self.waiting = []

    def attach(self, argument: str) -> None:
        from dclocal.images import load_image

        if not argument:
            raise UserError("/image names no picture", "write /image PATH or /image URL")
        attachment = self.session.attach(load_image(unquote(argument)))
        self.waiting.append(attachment)
        note(f"picture {attachment.number} goes with the next question")

    def reset(self, _: str) -> None:
        self.session.reset()
        self.waiting = list(self.frames)
        then = "the video goes with the next question" if self.frames else "attach a picture with /image"
        note(f"the conversation is forgotten; {then}")

    def save(self, argument: str) -> None:
        path = Path(unquote(argument) or "conversation.md").expanduser()
        from dclocal.turns import transcript

        data = transcript(self.session)
        if path.suffix == ".json":
            text = json.dumps(data, indent=2, ensure_ascii=False) + "\n"
        else:
            text = "".join(f"**{message['role']}**: {message['text']}\n\n" for message in data["messages"])
        try:
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            raise UserError(f"{path} cannot be written ({error.strerror})", "name another file") from error
        note(f"saved {path}")

    def lora(self, argument: str) -> None:
        from dclocal.adapters import switch

        used = switch(self.session, argument.split())
        known = self.session.bundle.manifest.adapters
        if not known:
            note("this bundle has no adapters")
        for adapter in known:
            note(f"{adapter.name}={used.get(adapter.name, 0.0):g}")

    def stats(self, _: str) -> None:
        if self.last is None:
            note("nothing was asked yet")
            return
        stats = self.last.stats
        note(
            f"{stats.prompt_tokens} prompt tokens ({stats.image_tokens} of images), encode {stats.encode_ms:.0f} ms, "
            f"prefill {stats.prefill_ms:.0f} ms, first token {stats.ttft_ms:.0f} ms, "
            f"{stats.answer_tokens} tokens at {stats.decode_tps:.0f}/s"
        )


def note(text: str) -> None:
    """Anything that is not an answer."""
    print(text, file=sys.stderr)


def unquote(argument: str) -> str:
    """A pasted or dropped path: quotes and backslashes before spaces undone."""
    try:
        words = shlex.split(argument)
    except ValueError:
        return argument
    return words[0] if len(words) == 1 else argument


def line_completer(commands: list[str]) -> Completer:
    """Completes a command at a line's start, and paths after /image and /save."""
    from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
    from prompt_toolkit.document import Document

    class LineCompleter(Completer):
        def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterator[Completion]:
            word, space, argument = document.text_before_cursor.lstrip().partition(" ")
            if not space and word:
                yield from (Completion(name, -len(word)) for name in commands if name.startswith(word))
            elif word in ("/image", "/save"):
                yield from paths.get_completions(Document(argument), complete_event)

    paths = PathCompleter(expanduser=True)
    return LineCompleter()


def _plain_line() -> str:
    """A line without editing; the prompt goes to stderr, where `input` would write it to stdout."""
    print("> ", end="", file=sys.stderr, flush=True)
    return input()


def line_reader(commands: list[str]) -> Callable[[], str]:
    """A function that reads a line: prompt_toolkit where the terminal can, else plain input."""
    if os.environ.get("TERM", "dumb") in ("dumb", "unknown") or not sys.stdin.isatty():
        return _plain_line
    from prompt_toolkit import PromptSession
    from prompt_toolkit.history import FileHistory
    from prompt_toolkit.key_binding import KeyBindings
    from prompt_toolkit.output import create_output

    from dclocal.places import home

    keys = KeyBindings()

    @keys.add("escape", "enter")
    def _(event: object) -> None:
        event.current_buffer.insert_text("\n")  # type: ignore[attr-defined]

    history = home() / "history"
    try:
        history.parent.mkdir(parents=True, exist_ok=True)
        history.touch(mode=0o600)
        kept = FileHistory(str(history))
    except OSError:  # a read-only home: the session works without a history
        kept = None
    completer, output = line_completer(commands), create_output(stdout=sys.stderr)
    session: PromptSession[str] = PromptSession(
        "> ", history=kept, completer=completer, key_bindings=keys, output=output
    )
    return session.prompt
