"""Processes of this interpreter, with the packages that it has: nothing that lies in the current folder is imported."""

from __future__ import annotations

import json
import sys

BOOT = (
    "import sys, json; sys.path[:] = json.loads(sys.argv[1]); "
    "from importlib import import_module; import_module(sys.argv[2]).main(*sys.argv[3:])"
)

RUN = (
    "import sys, runpy; sys.path[:] = filter(None, sys.path); module = sys.argv.pop(1); "
    "runpy.run_module(module, run_name='__main__', alter_sys=True)"
)


def child_command(module: str, *arguments: str) -> list[str]:
    """The command that runs `main(*arguments)` of `module`."""
    return [sys.executable, "-I", "-X", "utf8", "-c", BOOT, json.dumps(sys.path), module, *arguments]


def module_command(module: str, *arguments: str) -> list[str]:
    """The command `python -m module`, with all that the user's environment says to Python."""
    return [sys.executable, "-c", RUN, module, *arguments]
