"""Sources of the kernels in which something is wrong, and the commands that compile them for other processors."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from dclocal import compiled
from dclocal.compiled import Compiled

IMITATED = ("-D_GNU_SOURCE", "-include", str(Path(__file__).with_name("imitated_vnni.h")))
VARIANTS = {"AVX2": (), "VNNI of 256 bits": IMITATED, "AVX512": (*IMITATED, "-DIMITATE_512")}
"""Instructions that the processor here may not have are imitated in C."""
PROCESSORS = ("haswell", "alderlake", "icelake-server")
"""One without VNNI, one with it of 256 bits, and one of 512."""
needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")


def change_source(monkeypatch: pytest.MonkeyPatch, folder: Path, name: str, right: str, wrong: str) -> Path:
    """Build from a copy of the sources in which one says something else; that one."""
    copy = Path(shutil.copytree(compiled.SOURCES, folder / "sources"))
    text = (copy / name).read_text()
    assert right in text
    (copy / name).write_text(text.replace(right, wrong))
    monkeypatch.setattr(compiled, "SOURCES", copy)
    Compiled.kept.cache_clear()
    return copy / name


def assert_refused(kernels: Compiled, folder: Path, reason: str) -> None:
    """Building them fails for that reason, leaves nothing but the report, and is not tried again."""
    assert reason in kernels.build() and reason in kernels.why_not()
    assert [file.suffix for file in folder.iterdir()] == [".txt"] and not kernels.untried()


def compile_variant(kernels: Compiled, variant: str, to: Path) -> None:
    base = ("-O2", "-fno-strict-aliasing", "-mavx2", "-mfma", "-mf16c", "-ffp-contract=off", "-shared", "-fPIC")
    _compile(*base, *VARIANTS[variant], "-o", str(to), *map(str, kernels.sources("*.c")), *compiled.LIBRARIES)


def compile_for(kernels: Compiled, processor: str, to: Path) -> None:
    """With every warning."""
    flags = [flag for flag in compiled.FLAGS if not flag.startswith("-march")]
    _compile(
        *flags, f"-march={processor}", "-Wall", "-Wextra", "-Werror", "-o", str(to), *map(str, kernels.sources("*.c"))
    )


def _compile(*arguments: str) -> None:
    ended = subprocess.run(["cc", *arguments], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
