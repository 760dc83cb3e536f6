"""What a user on a processor with AMX would lose: an answer.  llama.cpp's products there end the process."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dclocal import llama_amx

linux = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64", reason="AMX is asked for on x86-64 Linux alone"
)


def _ask_for_amx() -> int:
    """0, or why the system refuses this thread the feature that AMX's tiles are, 18 in its list."""
    libc = ctypes.CDLL(None, use_errno=True)
    status = libc.syscall(llama_amx.ARCH_PRCTL, llama_amx.ASK_FOR_FEATURE, 18)
    return ctypes.get_errno() if status else 0


def _filters() -> list[str]:
    """What Linux says of the filters of this thread's system calls; containers have some of their own."""
    return [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("Seccomp")]


@linux
def test_a_thread_that_is_refused_amx_has_the_other_features_and_others_are_not_refused() -> None:
    before, told = (_ask_for_amx(), _filters()), []

    def inside() -> None:
        llama_amx._refuse_amx()
        told.append(_ask_for_amx())
        try:
            os.write(2, b"not to be seen\n")
        except PermissionError:
            told.append("no line on stderr")
        read, write = os.pipe()
        told.append(os.write(write, b"seen"))
        os.close(read)
        os.close(write)

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert told == [errno.EPERM, "no line on stderr", 4]
    assert (_ask_for_amx(), _filters()) == before


@linux
def test_no_weights_go_into_amx_layout_here() -> None:
    assert not llama_amx.takes_amx()
    assert llama_amx.AMX not in llama_amx._layouts()


@pytest.fixture
def not_asked_yet() -> Iterator[None]:
    """What was found out in this process is forgotten, before and after."""
    llama_amx.takes_amx.cache_clear()
    yield
    llama_amx.takes_amx.cache_clear()


class _Library:
    """Of ggml's functions the one that says whether AMX was compiled in."""

    def __init__(self, has_amx: int):
        self.ggml_cpu_has_amx_int8 = lambda: has_amx


@pytest.mark.parametrize(("compiled", "layouts", "taken"), [(0, [], False), (1, [b"AMX"], True), (1, [b"X"], False)])
def test_layouts_decide_where_amx_was_compiled_in(
    monkeypatch: pytest.MonkeyPatch, not_asked_yet: None, compiled: int, layouts: list[bytes], taken: bool
) -> None:
    """Where the system cannot be had to refuse it, weights are loaded in the file's own layout."""
    from dclocal.llama_model import model_params

    monkeypatch.setattr(llama_amx, "ggml", lambda: _Library(compiled))
    monkeypatch.setattr(llama_amx, "_layouts", lambda: layouts)
    monkeypatch.setattr(llama_amx, "_refuse_amx", lambda: None)
    assert llama_amx.takes_amx() is taken
    params: Any = model_params()
    assert params.use_extra_bufts is not taken


@linux
def test_what_cannot_be_asked_counts_as_amx(monkeypatch: pytest.MonkeyPatch, not_asked_yet: None) -> None:
    """Another llama.cpp may call its functions otherwise: slow answers then, and no end of the process."""

    def gone() -> list[bytes]:
        raise AttributeError("no such function")

    monkeypatch.setattr(llama_amx, "ggml", lambda: _Library(1))
    monkeypatch.setattr(llama_amx, "_layouts", gone)
    monkeypatch.setattr(threading, "excepthook", lambda fault: None)
    assert llama_amx.takes_amx()
