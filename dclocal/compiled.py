"""Functions of ours in C, compiled on the machine that runs them, for its processor: their sources are in `kernels/`.

A process of its own compiles them, once; they are kept where they give what they should.  Where there is no compiler,
or another system than Linux on x86-64, the libraries whose functions they replace do what they always did.
"""

from __future__ import annotations

import ctypes
import os
import zlib
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from dclocal.child_python import child_command
from dclocal.machine import cpu_flags, linux_on_x86_64
from dclocal.places import home

SOURCES = Path(__file__).with_name("kernels")
"""The folder of what is compiled: one folder for each library, and what they share."""
SWITCH = "DCLOCAL_KERNELS"
"""The environment variable that leaves others their own functions, when it is 0."""
FLAGS = ("-O3", "-march=native", "-shared", "-fPIC", "-fvisibility=hidden")
LIBRARIES = ("-ldl", "-lm")
NEEDED = {"avx2", "fma", "f16c"}
COMPILERS = ("cc", "gcc", "clang")
COMPILE_SECONDS = 120
BEGUN = "to build them was begun and did not end"


class Compiled:
    """One library of ours, made of the sources in `kernels/<name>`.

    `theirs` finds the files of the libraries whose functions it replaces; those are what it is made for.  `difference`
    says where it does otherwise than they do, or nothing.
    """

    def __init__(self, name: str, theirs: Callable[[], list[Path]], difference: Callable[[Path], str]):
        self.name, self._theirs, self._difference = name, theirs, difference  # a dataclass would cost starts 10 ms

    @cache  # noqa: B019  (there is one of each for good)
    def kept(self) -> Path | None:
        """Where it lies once it is built, for this processor, their library and source; None where it cannot be, or is
        not to be."""
        if _switched_off() or not linux_on_x86_64():
            return None
        features = sorted(cpu_flags())
        try:
            theirs = [os.stat(library) for library in self._theirs()]
            sources = [file.read_bytes() for file in self.sources("*.[ch]")]
        except OSError:
            return None
        if not theirs or NEEDED - set(features):
            return None
        made_for = (sources, FLAGS, features, [(status.st_size, status.st_mtime_ns) for status in theirs])
        return _folder() / f"{self.name}_kernels-{zlib.crc32(repr(made_for).encode()):08x}.so"

    def ready(self) -> Path | None:
        """The library, where it is built."""
        library = self.kept()
        return library if library is not None and library.is_file() else None

    @cache  # noqa: B019
    def load(self, mode: int = ctypes.DEFAULT_MODE) -> ctypes.CDLL | None:
        """It, in this process, where it is built and the system takes it."""
        library = self.ready()
        try:
            return ctypes.CDLL(str(library), mode) if library is not None else None
        except OSError:
            return None

    def untried(self) -> bool:
        """Whether to build it makes sense and was not tried."""
        library = self.kept()
        return library is not None and not library.is_file() and not _report(library).is_file()

    def build(self) -> str:
        """Compile it, compare what it does and keep it, unless it is there; why not, or nothing."""
        library = self.kept()
        if library is None or library.is_file():
            return self.why_not()
        import tempfile

        library.parent.mkdir(parents=True, exist_ok=True)
        report = _report(library)
        report.write_text(BEGUN, encoding="utf-8")
        with tempfile.TemporaryDirectory(dir=library.parent) as work:
            made = Path(work) / "made.so"
            why = compile_sources(self.sources("*.c"), made) or self._what_differs(made)
            if why:
                report.write_text(why, encoding="utf-8")
            else:
                made.replace(library)
                report.unlink(missing_ok=True)
        return why

    def _what_differs(self, made: Path) -> str:
        try:
            return self._difference(made)
        except Exception as error:  # of any kind: it is the reason, and the next library has its turn
            return f"{type(error).__name__}: {error}"

    def why_not(self) -> str:
        """Why there is none, where that is so."""
        library = self.kept()
        if library is None:
            return f"{SWITCH} is 0" if _switched_off() else "ours are for Linux on x86-64 with AVX2"
        report = _report(library)
        if report.is_file():
            return f"{report.read_text(encoding='utf-8')}; without the file {report} it would be tried again"
        return "" if library.is_file() else "they are built at the first question"

    def sources(self, pattern: str) -> list[Path]:
        """Its files in `kernels/`, and those that all share."""
        return sorted([*(SOURCES / self.name).glob(pattern), *SOURCES.glob(pattern)])


def build_aside() -> None:
    """Have all of them built by another process, unless that was tried before or there is nowhere to keep them."""
    folder = _folder()
    if not any(library.untried() for library in _all()):
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return
    if not os.access(folder, os.W_OK):
        return
    import subprocess

    null = subprocess.DEVNULL  # and a session of its own: it outlives a short question, and its Ctrl-C
    with suppress(OSError):  # of a system that has no room for another process
        subprocess.Popen(child_command(__name__), stdin=null, stdout=null, stderr=null, start_new_session=True)


def main() -> None:
    """What that process does."""
    for library in _all():
        if library.untried():  # one that ended this process once does not stand in the others' way
            library.build()


def package_files(package: str, *names: str) -> list[Path]:
    """Files of an installed package, which is not imported; none where it is not installed."""
    spec = find_spec(package)
    folders = (spec and spec.submodule_search_locations) or ()
    return [Path(folder) / name for folder in folders for name in names]


def compile_sources(sources: list[Path], to: Path) -> str:
    """Compile one library; what the compiler says where it fails."""
    import shutil
    import subprocess

    found = next(filter(None, map(shutil.which, COMPILERS)), None)
    if found is None:
        return f"there is no C compiler ({', '.join(COMPILERS)})"
    command = [found, *FLAGS, "-o", str(to), *map(str, sources), *LIBRARIES]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=COMPILE_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{found} did not end well: {error}"
    return "" if ended.returncode == 0 else f"{found} failed: {ended.stderr.strip()[:2000]}"


def _all() -> tuple[Compiled, ...]:
    from dclocal import llama_kernels, picture_kernels, vision_kernels  # which import this module

    return llama_kernels.KERNELS, vision_kernels.KERNELS, picture_kernels.KERNELS


def _switched_off() -> bool:
    return os.environ.get(SWITCH) == "0"


def _folder() -> Path:
    """Where Python keeps what it makes of the package's sources, or where that cannot be written, the user's own."""
    package, beside = SOURCES.parent, SOURCES.parent / "__pycache__"
    return beside if os.access(beside if beside.is_dir() else package, os.W_OK) else home() / "kernels"


def _report(library: Path) -> Path:
    """What is written while it is built, and stays when it cannot be."""
    return library.with_suffix(".txt")
