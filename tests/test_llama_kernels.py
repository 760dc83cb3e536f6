"""What a user would lose: answers, where a kernel of ours differed from llama.cpp's own; time, where none was used."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from dclocal import llama_kernels
from dclocal.bundle import Bundle
from dclocal.child_python import child_command
from dclocal.llama_attention_check import NAME as ATTENTION
from dclocal.llama_kernels_check import NAMES, OF_ONE_ROW, difference

pytestmark = pytest.mark.skipif(llama_kernels.kept() is None, reason="they are for Linux on x86-64 with AVX2")
SOURCES = [str(file) for file in llama_kernels.SOURCES.glob("*.c")]
needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
DECLINED = """
import ctypes
import numpy as np
from dclocal import llama_api, llama_kernels
from dclocal.llama_attention_check import SHAPES, THEIRS_NEAR, computation
from dclocal.llama_context import flash_suits_few
assert llama_kernels.load() and llama_kernels.whose() == "ours"
library = ctypes.CDLL(str(llama_kernels._llama_libraries()[-1]))
for options, of_a_language_model in (dict(masked=False), False), (dict(), False), (dict(cap=2), True):
    for shape in SHAPES[:2]:
        with computation(library, np.random.default_rng(0), shape, **options) as work:
            work.by_llama_cpp()
            assert work.worst() < THEIRS_NEAR
    assert llama_kernels.attention_declined() is of_a_language_model and flash_suits_few() is not of_a_language_model
"""
needs_vnni = pytest.mark.skipif(
    not {"avx512_vnni", "avx_vnni"} & llama_kernels.cpu_flags(), reason="the processor has no VNNI"
)
IMITATED = ("-D_GNU_SOURCE", "-include", str(Path(__file__).with_name("imitated_vnni.h")))
LOGITS = """
import sys
from pathlib import Path
import numpy as np
from dclocal import llama_kernels
from dclocal.llm import LLM
from dclocal.prompt import Embeds
llama_kernels.load = lambda: False  # llama.cpp has them already; this leaves plain attention plain
rows = np.random.default_rng(0).normal(0, 0.1, (int(sys.argv[2]), 576)).astype(np.float32)
for plain in (True, False):
    with LLM(Path(sys.argv[1]), n_ctx=512, settled=plain) as llm:
        llm._cache._can_change = False
        llm.prefill([Embeds("rows", rows)])
        sys.stdout.buffer.write(llm.logits().tobytes())
"""


@pytest.fixture
def empty(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A folder for what is built, in which nothing is yet."""
    monkeypatch.setattr(llama_kernels, "_folder", lambda: tmp_path / "kernels")
    llama_kernels.kept.cache_clear()
    yield tmp_path / "kernels"
    llama_kernels.kept.cache_clear()


def _with_source(monkeypatch: pytest.MonkeyPatch, folder: Path, name: str, right: str, wrong: str) -> None:
    """Build from a copy of the sources in which one says something else."""
    sources = Path(shutil.copytree(llama_kernels.SOURCES, folder / "sources"))
    text = (sources / name).read_text()
    assert right in text
    (sources / name).write_text(text.replace(right, wrong))
    monkeypatch.setattr(llama_kernels, "SOURCES", sources)
    llama_kernels.kept.cache_clear()


def _logits(bundle: Bundle, rows: int, **environment: str) -> tuple[np.ndarray, str]:
    """The language model's last logits after `rows` embeddings, with plain attention and with flash attention, in a new
    process, and what that wrote to stderr."""
    command = [sys.executable, "-c", LOGITS, str(bundle.llm_path), str(rows)]
    ended = subprocess.run(command, check=True, capture_output=True, env={**os.environ, **environment})
    return np.frombuffer(ended.stdout, np.float32).reshape(2, -1), ended.stderr.decode(errors="replace")


@needs_compiler
def test_what_is_built_gives_llama_cpps_own_products(empty: Path) -> None:
    assert llama_kernels.build() == "" == llama_kernels.why_not()
    library = llama_kernels.kept()
    assert library is not None and list(empty.iterdir()) == [library]
    assert difference(library, *llama_kernels._llama_libraries()) == ""


@needs_compiler
@pytest.mark.parametrize(
    ("file", "right", "wrong", "kernel"),
    [
        ("products.h", "-127}", "-126}", NAMES[0]),
        ("products.h", "-8}", "-7}", NAMES[1]),
        pytest.param("products_of_one.c", "half + 16,", "half + 8,", OF_ONE_ROW[NAMES[0]], marks=needs_vnni),
        pytest.param("products_of_one.c", "first ?", "0 ?", OF_ONE_ROW[NAMES[0]], marks=needs_vnni),
        ("products.c", "count, b == 0)", "count, 1)", NAMES[0]),
        ("attention.h", "1.0f / 6,", "1.0f / 5,", ATTENTION),
        ("attention_many.c", "if (sees == SOME)", "if (0)", ATTENTION),
        ("attention_many.c", "place : places - 1", "place : 0", ATTENTION),
        ("attention_few.c", "total[p] * factor", "total[p]", ATTENTION),
        ("attention.h", "part.sequence % work->mask->ne[3]", "0", ATTENTION),
    ],
    ids=[
        "weight",
        "other weight",
        "one row",
        "one long row",
        "later blocks",
        "exponential",
        "mask",
        "last place",
        "few",
        "sequence",
    ],
)
def test_what_differs_is_neither_kept_nor_tried_again(
    empty: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, file: str, right: str, wrong: str, kernel: str
) -> None:
    _with_source(monkeypatch, tmp_path, file, right, wrong)
    assert kernel in llama_kernels.build()
    assert [file.suffix for file in empty.iterdir()] == [".txt"] and kernel in llama_kernels.why_not()
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("it was tried before"))
    llama_kernels.build_aside()


@needs_compiler
def test_a_compilers_complaint_is_the_reason(empty: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _with_source(monkeypatch, tmp_path, "wide.h", "#endif\n\n#endif", "#endif")
    assert "wide.h" in llama_kernels.build() and "wide.h" in llama_kernels.why_not()


def test_without_a_compiler_llama_cpp_has_its_own(empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert "there is no C compiler" in llama_kernels.build() and "there is no C compiler" in llama_kernels.why_not()


def test_a_build_that_ended_its_process_is_not_begun_again(empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A product that the processor cannot do would end it each time."""

    def ended(to: Path) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(llama_kernels, "_compile", ended)
    with pytest.raises(KeyboardInterrupt):
        llama_kernels.build()
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("it was tried before"))
    llama_kernels.build_aside()
    assert llama_kernels.why_not().startswith(llama_kernels.BEGUN)
    for file in empty.glob("*.txt"):
        assert str(file) in llama_kernels.why_not()  # for who wants it tried again


def test_what_lies_in_the_current_folder_is_not_run(tmp_path: Path) -> None:
    """A folder of anybody's may have a `dclocal` in it; and a source tree's kernels are not an installation's."""
    (tmp_path / "dclocal").mkdir()
    (tmp_path / "dclocal" / "__init__.py").write_text("open('ran', 'w').close()")
    subprocess.run(child_command("dclocal.llama_kernels"), cwd=tmp_path, check=True)
    assert not (tmp_path / "ran").exists()


def test_another_llama_cpp_processor_or_source_has_kernels_of_its_own(
    empty: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = [llama_kernels.kept()]
    _with_source(monkeypatch, tmp_path, "wide.h", "16", "8")
    found.append(llama_kernels.kept())
    features = llama_kernels.cpu_flags()
    for others, libraries in (({*features, "more"}, []), (features, [tmp_path / "sources" / "wide.h"])):
        monkeypatch.setattr(llama_kernels, "cpu_flags", lambda others=others: others)
        monkeypatch.setattr(llama_kernels, "_llama_libraries", lambda libraries=libraries: libraries)
        llama_kernels.kept.cache_clear()
        found.append(llama_kernels.kept())
    assert found[0] != found[1] and found[2] is None and found[3] not in (None, *found[:2])


@needs_compiler
@pytest.mark.parametrize("processor", ["haswell", "alderlake", "icelake-server"])
def test_it_compiles_for_other_processors(tmp_path: Path, processor: str) -> None:
    """Those with VNNI, of 256 and of 512 bits, and those with neither."""
    flags = [flag for flag in llama_kernels.FLAGS if not flag.startswith("-march")]
    made = str(tmp_path / "made.so")
    ended = subprocess.run(
        ["cc", *flags, f"-march={processor}", "-Wall", "-Wextra", "-Werror", "-o", made, *SOURCES],
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr


@needs_compiler
@pytest.mark.parametrize(
    "wide", [(), (*IMITATED,), (*IMITATED, "-DIMITATE_512")], ids=["AVX2", "VNNI of 256 bits", "AVX512"]
)
def test_every_variant_does_the_same(tmp_path: Path, wide: tuple[str, ...]) -> None:
    """Instructions that the processor here may not have are imitated in C."""
    made = tmp_path / "made.so"
    base = ("-O2", "-mavx2", "-mfma", "-mf16c", "-ffp-contract=off", "-shared", "-fPIC")
    command = ["cc", *base, *wide, "-o", str(made), *SOURCES, "-lm", *llama_kernels.LIBRARIES]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert difference(made, *llama_kernels._llama_libraries()) == ""


@needs_compiler
def test_attention_that_ours_is_not_made_for_is_llama_cpps_own() -> None:
    """One without a mask, as encoders have it; and one whose scores have a cap, of a model that then changes between
    llama.cpp's two kinds."""
    assert llama_kernels.build() == ""
    subprocess.run([sys.executable, "-c", DECLINED], check=True)


@pytest.mark.bundle
@needs_compiler
def test_llama_cpp_takes_them_unless_told_not_to_and_answers_the_same(bundle: Bundle) -> None:
    """160 rows, as of a picture's prompt, and 23: a panel that is not full, and a row that is left alone.  With
    plain attention, which is llama.cpp's, logits are the same to the bit.  With ours what is left between them is what
    activations in eight bits make of its rounding; as much is between llama.cpp's two kinds (0.998)."""
    assert llama_kernels.build() == ""
    bound = r"libggml-cpu\S* \[0\] to \S*llama_kernels-\w+\.so \[0\]: normal symbol `(\w+)'"
    for rows in (160, 23):
        ours, told = _logits(bundle, rows, LD_DEBUG="bindings")
        theirs, not_told = _logits(bundle, rows, LD_DEBUG="bindings", **{llama_kernels.SWITCH: "0"})
        assert {NAMES[0], ATTENTION} <= set(re.findall(bound, told)) and not re.search(bound, not_told)
        assert ours[0].tobytes() == theirs[0].tobytes() and np.isfinite(ours).all()
        assert np.corrcoef(ours[1], theirs[1])[0, 1] > 0.995
