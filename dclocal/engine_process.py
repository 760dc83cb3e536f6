"""The engine's child as the parent sees it: started, sent requests, listened to, its prints kept, its end noticed.

No method waits for the child, but for `close`, which gives it two seconds.
"""

from __future__ import annotations

import collections
import os
import pickle
import queue
import signal
import subprocess
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from dclocal.child_python import child_command

MAX_LOG_BYTES = 1 << 20
KEPT_LINES = 60
END_S = 2.0
NO_WINDOW = getattr(subprocess, "CREATE_NO_WINDOW", 0)


class ChildProcess:
    """A running child, `module`'s `main(opener)`; `on_event` and `on_end` (exit status, last lines) are called from a
    thread.

    Its prints are kept in the file `log`, the newest of them where they are more than 1 MiB, and nowhere if that
    cannot be written.
    """

    def __init__(
        self,
        opener: str,
        log: Path,
        on_event: Callable[[Any], None],
        on_end: Callable[[int, tuple[str, ...]], None],
        module: str = "dclocal.engine_child",
    ):
        self._on_event, self._on_end = on_event, on_end
        pipe, command = subprocess.PIPE, child_command(module, opener)
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, creationflags=NO_WINDOW)
        self.pid = self._process.pid
        self._requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._log = BoundedLog(log)
        self._threads = {work.__name__: threading.Thread(target=work, daemon=True) for work in self._works}
        for thread in self._threads.values():
            thread.start()

    @property
    def _works(self) -> tuple[Callable[[], None], ...]:
        return (self._write, self._read, self._keep_prints)

    def send(self, request: object) -> None:
        """Send a request, after those before it."""
        self._requests.put(request)

    def kill(self) -> None:
        """End it at once."""
        with suppress(OSError):
            self._process.kill()

    def close(self) -> None:
        """Let it end, or end it; returns when it has."""
        self._requests.put(None)
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self.kill()
            self._process.wait()
        self._threads["_read"].join(END_S)

    def _write(self) -> None:
        stream = self._process.stdin
        assert stream is not None
        with suppress(OSError), stream:  # a dead child is noticed by who reads
            while (request := self._requests.get()) is not None:
                stream.write(pickle.dumps(request))
                stream.flush()

    def _read(self) -> None:
        stream = self._process.stdout
        assert stream is not None
        with suppress(EOFError, OSError, pickle.UnpicklingError), stream:
            while True:
                self._on_event(pickle.load(stream))
        status = self._process.wait()
        self._requests.put(None)
        self._threads["_keep_prints"].join(END_S / 4)  # a process that it started may hold the pipe open
        self._on_end(status, tuple(self._log.last))

    def _keep_prints(self) -> None:
        assert self._process.stderr is not None
        with suppress(OSError, ValueError):
            self._log.keep(self._process.stderr)


class BoundedLog:
    """A file of the newest prints, at most MAX_LOG_BYTES; `last` are the last lines."""

    def __init__(self, file: Path):
        self._file = file
        self.last: collections.deque[str] = collections.deque(maxlen=KEPT_LINES)

    def keep(self, stream: IO[bytes]) -> None:
        """Read `stream` to its end."""
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            out = self._file.open("a+b")
        except OSError:
            out = open(os.devnull, "a+b")  # noqa: SIM115
        with out:
            for line in iter(lambda: stream.readline(MAX_LOG_BYTES // 8), b""):
                self.last.append(line.decode("utf-8", "replace").rstrip())
                with suppress(OSError):  # a full disk
                    out.write(line)
                    out.flush()
                    if out.tell() > MAX_LOG_BYTES:
                        _keep_newest(out)


def _keep_newest(file: IO[bytes]) -> None:
    """Drop the older half."""
    file.seek(-MAX_LOG_BYTES // 2, os.SEEK_END)
    newest = file.read()
    file.truncate(0)
    file.write(newest)
    file.flush()


def signal_name(status: int) -> str:
    """The signal that an exit status of `subprocess` stands for, "" for none."""
    if status >= 0:
        return ""
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"signal {-status}"
