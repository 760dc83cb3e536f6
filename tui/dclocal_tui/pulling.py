"""A bundle that is pulled in a thread of its own, as `dclocal bundle pull` does it, and may be called off."""

from __future__ import annotations

import threading

from dclocal.bundle import Bundle
from dclocal.errors import UserError


class Stopped(Exception):
    """The user does not want it any more."""


class Pull:
    """`step` is what is being done, done and total as in `progress.Progress`, None before the first.

    Once `finished`, `bundle` is there, or `error` says why not; neither where it was called off.
    """

    def __init__(self, name: str):
        self.name = name
        self.step: tuple[str, int, int] | None = None
        self.bundle: Bundle | None = None
        self.error = ""
        self._stopped = threading.Event()
        self._finished = threading.Event()
        threading.Thread(target=self._run, name=f"pull {name}", daemon=True).start()

    @property
    def finished(self) -> bool:
        """Whether the thread has come to its end."""
        return self._finished.is_set()

    @property
    def stopping(self) -> bool:
        """Whether it was called off."""
        return self._stopped.is_set()

    def stop(self) -> None:
        """Call it off: it ends at its next step, and leaves nothing half-made."""
        self._stopped.set()

    def _run(self) -> None:
        from dclocal import store

        try:
            self.bundle = store.pull(self.name, progress=self._progress)
        except Stopped:
            pass
        except UserError as error:
            self.error = "" if self.stopping else str(error)
        except Exception as error:  # a fault of ours must not leave the screen waiting
            self.error = f"{type(error).__name__}: {error}"
        finally:
            self._finished.set()

    def _progress(self, step: str, done: int, total: int) -> None:
        if self.stopping:
            raise Stopped
        self.step = step, done, total
