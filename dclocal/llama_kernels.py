"""llama.cpp's products with four-bit weights and its attention, by functions of ours: what they do is in `kernels/`.

They are compiled on the machine that runs them, for its processor, by a process of their own, once; they are kept where
they give what they should: `llama_kernels_check.py`.  A library that is loaded before llama.cpp's, for all to see, has
the dynamic linker take its functions where llama.cpp's have the same names.  Where there is no compiler, or another
system than Linux on x86-64, llama.cpp does what it always did.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import sys
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from dclocal.child_python import child_command
from dclocal.machine import cpu_flags, linux_on_x86_64
from dclocal.places import home

SOURCES = Path(__file__).with_name("kernels")
"""The folder of what is compiled."""
SWITCH = "DCLOCAL_KERNELS"
"""The environment variable that leaves llama.cpp its own functions, when it is 0."""
FLAGS = ("-O3", "-march=native", "-shared", "-fPIC")
LIBRARIES = ("-ldl",)
NEEDED = {"avx2", "fma", "f16c"}
COMPILERS = ("cc", "gcc", "clang")
COMPILE_SECONDS = 120
LLAMA = "llama_cpp.llama_cpp"
"""The module that loads llama.cpp's library."""
BEGUN = "to build them was begun and did not end"


def load() -> bool:
    """Have llama.cpp's library take these functions; whether it does, as it cannot where it was loaded before."""
    return _loaded() is not None


def attention_declined() -> bool:
    """Whether there was a model in this process whose attention ours is not made for, so that it is llama.cpp's own."""
    library = _loaded()
    return library is not None and bool(ctypes.c_int.in_dll(library, "attention_declined").value)


@lru_cache(1)
def _loaded() -> ctypes.CDLL | None:
    library = kept()
    if library is None or not library.is_file() or LLAMA in sys.modules:
        return None
    try:
        return ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)
    except OSError:
        return None


def build_aside() -> None:
    """Have them built by another process, unless that was tried before or there is nowhere to keep them."""
    library = kept()
    if library is None or library.is_file() or _report(library).is_file():
        return
    try:
        library.parent.mkdir(parents=True, exist_ok=True)
    except OSError:
        return
    if not os.access(library.parent, os.W_OK):
        return
    import subprocess

    null = subprocess.DEVNULL  # and a session of its own: it outlives a short question, and its Ctrl-C
    subprocess.Popen(child_command(__name__), stdin=null, stdout=null, stderr=null, start_new_session=True)


def main() -> None:
    """What that process does."""
    build()


def build() -> str:
    """Compile them, compare them with llama.cpp's own and keep them, unless they are there; why not, or nothing."""
    library = kept()
    if library is None or library.is_file():
        return why_not()
    import tempfile

    library.parent.mkdir(parents=True, exist_ok=True)
    report = _report(library)
    report.write_text(BEGUN, encoding="utf-8")
    with tempfile.TemporaryDirectory(dir=library.parent) as work:
        made = Path(work) / "made.so"
        why = _compile(made)
        if not why:
            from dclocal.llama_kernels_check import difference

            why = difference(made, *_llama_libraries())
        if why:
            report.write_text(why, encoding="utf-8")
        else:
            made.replace(library)
            report.unlink(missing_ok=True)
    return why


def whose() -> str:
    """Whose kernels llama.cpp has, in words."""
    return "ours" if load() else f"its own ({why_not() or 'it was loaded before ours'})"


def why_not() -> str:
    """Why there are none of ours, where that is so."""
    library = kept()
    if library is None:
        return f"{SWITCH} is 0" if _switched_off() else "ours are for Linux on x86-64 with AVX2"
    report = _report(library)
    if report.is_file():
        return f"{report.read_text(encoding='utf-8')}; without the file {report} it would be tried again"
    return "" if library.is_file() else "they are built at the first question"


@lru_cache(1)
def kept() -> Path | None:
    """Where they lie once they are built, for this processor, llama.cpp and source; None where they cannot be, or are
    not to be."""
    if _switched_off() or not linux_on_x86_64():
        return None
    features = sorted(cpu_flags())
    try:
        theirs = [os.stat(library) for library in _llama_libraries()]
        sources = [file.read_bytes() for file in sorted(SOURCES.glob("*.[ch]"))]
    except OSError:
        return None
    if not theirs or NEEDED - set(features):
        return None
    made_for = (sources, FLAGS, features, [(status.st_size, status.st_mtime_ns) for status in theirs])
    return _folder() / f"llama_kernels-{hashlib.sha256(repr(made_for).encode()).hexdigest()[:16]}.so"


def _switched_off() -> bool:
    return os.environ.get(SWITCH) == "0"


def _folder() -> Path:
    """Where Python keeps what it makes of the package's sources, or where that cannot be written, the user's own."""
    package, beside = SOURCES.parent, SOURCES.parent / "__pycache__"
    return beside if os.access(beside if beside.is_dir() else package, os.W_OK) else home() / "kernels"


def _report(library: Path) -> Path:
    """What is written while they are built, and stays when they cannot be."""
    return library.with_suffix(".txt")


def _llama_libraries() -> list[Path]:
    """ggml's libraries that have their functions, each after what it needs."""
    spec = find_spec("llama_cpp")
    folders = (spec and spec.submodule_search_locations) or ()
    return [Path(folder) / "lib" / name for folder in folders for name in ("libggml-base.so", "libggml-cpu.so")]


def _compile(to: Path) -> str:
    """Compile the sources; what the compiler says where it fails."""
    import shutil
    import subprocess

    found = next(filter(None, map(shutil.which, COMPILERS)), None)
    if found is None:
        return f"there is no C compiler ({', '.join(COMPILERS)})"
    command = [found, *FLAGS, "-o", str(to), *map(str, sorted(SOURCES.glob("*.c"))), *LIBRARIES]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=COMPILE_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{found} did not end well: {error}"
    return "" if ended.returncode == 0 else f"{found} failed: {ended.stderr.strip()[:2000]}"
