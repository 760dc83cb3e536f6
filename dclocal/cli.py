"""The command line: finds commands, runs one, and turns how it ended into one line and an exit status.

A command's module is imported when it is run, so that `dclocal --help` is instant.  Other packages add
commands through the entry-point group `dclocal.commands`.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from dclocal import __version__
from dclocal.errors import UserError

if TYPE_CHECKING:
    from dclocal.entry import Ahead

# name → (module:function, short help)
COMMANDS = {
    "chat": ("dclocal.commands.chat:chat", "Ask about pictures."),
    "video": ("dclocal.commands.video:video", "Ask about a video."),
    "webcam": ("dclocal.commands.webcam:webcam", "Ask about a live picture."),
    "caption": ("dclocal.commands.caption:caption", "Describe many pictures and videos."),
    "bundle": ("dclocal.commands.bundle:bundle", "List, pull, show, verify and remove bundles."),
    "eval": ("dclocal.commands.evaluate:evaluate", "Measure a bundle on a test."),
    "bench": ("dclocal.commands.bench:bench", "Time each stage on this machine."),
    "doctor": ("dclocal.commands.doctor:doctor", "Say what is installed, what is missing and how to get it."),
    "completion": ("dclocal.commands.completion:completion", "Print the completion script of a shell."),
}
ENTRY_POINTS = "dclocal.commands"
# Short helps of our own plug-in commands; another package's say where they come from.
PLUGIN_HELPS = {
    "train": "Train a model by a recipe.",
    "export": "Write a checkpoint as a quantized bundle.",
    "tui": "Chat in the terminal, full screen.",
}
# What only an extra installs: package → extra
EXTRAS = {
    "textual": "tui",
    "torch": "train",
    "transformers": "train",
    "accelerate": "train",
    "peft": "train",
    "optimum": "export",
}


class ClosedPipe(Exception):
    """Nobody reads the output any more (`| head`): click would end a bare BrokenPipeError with status 1."""


class Commands(click.Group):
    """The commands of this package and of plug-ins, imported one at a time."""

    def make_context(self, *arguments: Any, **options: Any) -> click.Context:
        try:
            return super().make_context(*arguments, **options)
        except BrokenPipeError as error:
            raise ClosedPipe from error

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except BrokenPipeError as error:
            raise ClosedPipe from error

    def list_commands(self, context: click.Context) -> list[str]:
        return [*COMMANDS, *sorted(set(_plugins()) - set(COMMANDS))]

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name in COMMANDS:
            return _load(COMMANDS[name][0])
        target = _plugins().get(name)
        return None if target is None else _load(target)

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """Names and short helps, without importing any command."""
        rows = [(name, text) for name, (_, text) in COMMANDS.items()]
        for name, target in sorted(_plugins().items()):
            if name in COMMANDS:
                continue
            rows.append((name, PLUGIN_HELPS.get(name) or f"From {target.partition('.')[0]}."))
        with formatter.section("Commands"):
            formatter.write_dl(rows)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="dclocal")
def cli() -> None:
    """Chat with pictures on your own machine.

    Example: dclocal chat photo.jpg -p "What is this?"
    """


def main(arguments: Sequence[str] | None = None, ahead: Ahead | None = None) -> None:
    """Run a command and exit: 0 success, 2 a user's mistake, 1 a fault, 130 Ctrl-C.

    `ahead` is what `entry` began to load for it.
    """
    status = run(arguments, ahead)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the work is done: Ctrl-C on the way out changes nothing
    sys.exit(status)


def run(arguments: Sequence[str] | None = None, ahead: Ahead | None = None) -> int:
    """Run a command; returns the exit status."""
    try:
        result = cli.main(args=arguments, prog_name="dclocal", standalone_mode=False, obj=ahead)
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except click.exceptions.Exit as ended:
        return ended.exit_code
    except click.ClickException as error:
        error.show(file=sys.stderr)
        return error.exit_code
    except UserError as error:
        print(f"dclocal: {' '.join(str(error).splitlines())}", file=sys.stderr)
        return 2
    except click.Abort:  # click has ended the line
        return 130
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return 130
    except (BrokenPipeError, ClosedPipe):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that the exit's flush is quiet too
        return 0
    except Exception as error:
        missing = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
        if missing in EXTRAS:
            print(f"dclocal: this needs {missing} — pip install 'dclocal[{EXTRAS[missing]}]'", file=sys.stderr)
            return 2
        if os.environ.get("DCLOCAL_DEBUG"):
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        print(f"dclocal: fault: {reason} — DCLOCAL_DEBUG=1 shows where", file=sys.stderr)
        return 1


def _plugins() -> dict[str, str]:
    """Commands that other packages bring: name → module:function."""
    from importlib.metadata import entry_points

    return {entry.name: entry.value for entry in entry_points(group=ENTRY_POINTS)}


def _load(target: str) -> click.Command:
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)
