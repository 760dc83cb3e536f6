"""llama.cpp's C functions, as `llama`, those of ggml below it, and which build of them this is.

Importing the package `llama_cpp` imports its Python classes as well, with a template engine and a cache on disk that
nothing here uses: 50 ms of every start.  So its module of C functions is loaded without it.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import sys
import typing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec, module_from_spec
from types import ModuleType
from typing import Any

from dclocal import llama_kernels

PACKAGE, FUNCTIONS = "llama_cpp", "llama_cpp.llama_cpp"
EXTENSIONS = "typing_extensions"
SPINNING, WAITING, TURNS = "GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "5000"
"""How often OpenMP's threads look for one another before they sleep, where the user does not say.

Its own is 300,000, 4 to 17 ms.  Two threads that begin on one core keep it from each other for so long at every
operation, and the system sees none that waits and could be moved to the idle core: 40 ms of every second start.
"""


def _functions() -> ModuleType:
    """The module of C functions; where the package is not imported yet, it is as new afterwards."""
    spec = find_spec(PACKAGE)
    if spec is None or PACKAGE in sys.modules:
        return importlib.import_module(FUNCTIONS)
    llama_kernels.load()
    sys.modules[PACKAGE] = module_from_spec(spec)  # its place, so that modules in it are found, and nothing run
    said = SPINNING in os.environ or WAITING in os.environ
    if not said:
        os.environ[SPINNING] = TURNS  # read once, as OpenMP's library is loaded
    try:
        with _typing_as(EXTENSIONS):
            return importlib.import_module(FUNCTIONS)
    finally:
        del sys.modules[PACKAGE]
        if not said:
            os.environ.pop(SPINNING, None)


@contextmanager
def _typing_as(name: str) -> Iterator[None]:
    """Python's own `typing` in the place of a module that has more than it, and takes 8 ms, for a name which it has."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = typing
    try:
        yield
    finally:
        sys.modules.pop(name, None)


llama: Any = _functions()


def ggml() -> ctypes.CDLL:
    """ggml's own functions: those below llama.cpp's.  Only Windows does not find them through its library."""
    if os.name != "nt":
        library: ctypes.CDLL = llama._lib
        return library
    return ctypes.CDLL(os.path.join(os.path.dirname(llama.__file__), "lib", "ggml-base.dll"))


def ggml_function(name: str, result: Any, *arguments: Any) -> Callable[..., Any]:
    """One of ggml's functions, with its types, which nobody else's use of it changes."""
    return ctypes.CFUNCTYPE(result, *arguments)((name, ggml()))


def build() -> str:
    """Names this build of llama.cpp, by the size and time of its library; another may evaluate otherwise."""
    status = os.stat(llama._lib._name)
    return f"{status.st_size} {status.st_mtime_ns}"
