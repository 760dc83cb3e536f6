"""The conversation in a terminal: line editing, history, and commands that start with a slash."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from dclocal.errors import UserError

if TYPE_CHECKING:
    from dclocal.chat import Answered, Attachment, ChatSession

HELP = """\
/image PATH|URL   attach a picture to the next question
/reset            forget what was said
/save FILE        write the conversation to FILE (.json or .md)
/stats            what the last answer cost
/help             this list
/quit             leave (so does Ctrl-D)
Alt-Enter starts a new line; Ctrl-C stops an answer."""


class Repl:
    """A loop of question and answer on one session; `attachments` go with the next question."""

    def __init__(self, session: ChatSession, attachments: list[Attachment], options: dict[str, object]):
        self.session, self.options = session, options
        self.waiting = list(attachments)
        self.last: Answered | None = None
        self.commands: dict[str, Callable[[str], None]] = {
            "/image": self.attach,
            "/reset": self.reset,
            "/save": self.save,
            "/stats": self.stats,
            "/help": lambda _: note(HELP),
        }

    def run(self) -> None:
        """Read and answer until the user leaves."""
        note(f"{self.session.bundle.manifest.name}; /help lists the commands, Ctrl-D leaves")
        if self.waiting:
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
            if line == "/quit":
                return
            if line:
                self.handle(line)

    def handle(self, line: str) -> None:
        """One line: a command or a question; errors are shown and the loop goes on."""
        word, _, argument = line.partition(" ")
        try:
            if not line.startswith("/"):
                self.ask(line)
            elif word in self.commands:
                self.commands[word](argument.strip())
            else:
                note(f"unknown command {word}; known: {', '.join([*self.commands, '/quit'])}")
        except UserError as error:
            note(str(error))

    def ask(self, text: str) -> None:
        from dclocal.commands.chat import ask

        try:
            self.last = ask(self.session, text, self.waiting, self.options)
            self.waiting = []
        except KeyboardInterrupt:
            self.waiting = []
            print()
            note("stopped")

    def attach(self, argument: str) -> None:
        from dclocal.images import load_image

        attachment = self.session.attach(load_image(unquote(argument)))
        self.waiting.append(attachment)
        note(f"picture {attachment.number} goes with the next question")

    def reset(self, _: str) -> None:
        self.session.reset()
        note("the conversation is forgotten; attach a picture with /image")

    def save(self, argument: str) -> None:
        path = Path(unquote(argument) or "conversation.md").expanduser()
        from dclocal.chat import transcript

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


def line_reader(commands: list[str]) -> Callable[[], str]:
    """A function that reads a line: prompt_toolkit where the terminal can, else plain input."""
    if os.environ.get("TERM", "dumb") in ("dumb", "unknown") or not sys.stdin.isatty():
        return lambda: input("> ")
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import NestedCompleter, PathCompleter
    from prompt_toolkit.history import FileHistory
    from prompt_toolkit.key_binding import KeyBindings
    from prompt_toolkit.output import create_output

    from dclocal.store import home

    keys = KeyBindings()

    @keys.add("escape", "enter")
    def _(event: object) -> None:
        event.current_buffer.insert_text("\n")  # type: ignore[attr-defined]

    paths = PathCompleter(expanduser=True)
    completer = NestedCompleter({name: paths if name in ("/image", "/save") else None for name in commands})
    history = home() / "history"
    try:
        history.parent.mkdir(parents=True, exist_ok=True)
        history.touch(mode=0o600)
        kept = FileHistory(str(history))
    except OSError:  # a read-only home: the session works without a history
        kept = None
    session: PromptSession[str] = PromptSession(
        "> ", history=kept, completer=completer, key_bindings=keys, output=create_output(stdout=sys.stderr)
    )
    return session.prompt
