"""The engine's process: takes requests from a pipe and writes events to another, and ends when its parent does.

Whatever prints in here (llama.cpp, ONNX Runtime, OpenCV, pip) goes to standard error, which the parent keeps.
"""

from __future__ import annotations

import importlib
import logging
import os
import pickle
import signal
import sys
import threading
from typing import TYPE_CHECKING, BinaryIO

from dclocal.engine_messages import Event, Open
from dclocal.engine_worker import Worker
from dclocal.progress import Progress

if TYPE_CHECKING:
    from dclocal.chat import ChatSession

STDIN, STDOUT, STDERR = 0, 1, 2


def main(opener: str) -> None:
    """Work until the parent closes the pipe or dies; `opener` is "module:function", see `open_bundle_session`."""
    import faulthandler

    requests, events = take_pipes()
    faulthandler.enable()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which cancels or closes
    log = logging.StreamHandler(sys.stderr)
    logging.basicConfig(level=logging.INFO, handlers=[log])

    def send(event: Event) -> None:
        try:
            events.write(pickle.dumps(event))
            events.flush()
        except OSError:  # nobody listens any more
            os._exit(0)

    module, _, name = opener.partition(":")
    worker = Worker(getattr(importlib.import_module(module), name), send)
    threading.Thread(target=_read, args=(requests, worker), name="requests", daemon=True).start()
    worker.run()


def open_bundle_session(request: Open, progress: Progress) -> ChatSession:
    """A session on the bundle that is asked for."""
    from dclocal.known_pictures import known_pictures
    from dclocal.session import open_session
    from dclocal.store import open_bundle

    bundle = open_bundle(request.bundle, progress)
    progress(f"loading {bundle.manifest.name}", 0, 0)
    return open_session(
        bundle, system=request.system, threads=request.threads, lora=request.lora, known=known_pictures(bundle)
    )


def take_pipes() -> tuple[BinaryIO, BinaryIO]:
    """The pipes behind standard input and output, in whose places stand nothing and standard error."""
    requests, events = os.fdopen(os.dup(STDIN), "rb"), os.fdopen(os.dup(STDOUT), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, STDIN)
    os.close(nothing)
    os.dup2(STDERR, STDOUT)
    return requests, events


def _read(requests: BinaryIO, worker: Worker) -> None:
    """Hand requests on as they come; with the pipe's end the process ends at once, whatever it was doing."""
    try:
        while True:
            worker.submit(pickle.load(requests))
    except (EOFError, OSError, pickle.UnpicklingError):
        os._exit(0)
