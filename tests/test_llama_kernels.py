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
from dclocal.llama_kernels_check import NAMES, difference

pytestmark = pytest.mark.skipif(llama_kernels.kept() is None, reason="they are for Linux on x86-64 with AVX2")
needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
LOGITS = """
import sys
from pathlib import Path
import numpy as np
from dclocal.llm import LLM
from dclocal.prompt import Embeds
rows = np.random.default_rng(0).normal(0, 0.1, (int(sys.argv[2]), 576)).astype(np.float32)
with LLM(Path(sys.argv[1]), n_ctx=512) as llm:
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


def _with_source(monkeypatch: pytest.MonkeyPatch, file: Path, source: str) -> None:
    file.write_text(source)
    monkeypatch.setattr(llama_kernels, "SOURCE", file)
    llama_kernels.kept.cache_clear()


def _logits(bundle: Bundle, rows: int, **environment: str) -> tuple[np.ndarray, str]:
    """The language model's last logits after `rows` embeddings, in a new process, and what that wrote to stderr."""
    command = [sys.executable, "-c", LOGITS, str(bundle.llm_path), str(rows)]
    ended = subprocess.run(command, check=True, capture_output=True, env={**os.environ, **environment})
    return np.frombuffer(ended.stdout, np.float32), ended.stderr.decode(errors="replace")


@needs_compiler
def test_what_is_built_gives_llama_cpps_own_products(empty: Path) -> None:
    assert llama_kernels.build() == "" == llama_kernels.why_not()
    library = llama_kernels.kept()
    assert library is not None and list(empty.iterdir()) == [library]
    assert difference(library, *llama_kernels._llama_libraries()) == ""


@needs_compiler
@pytest.mark.parametrize(
    ("right", "wrong", "kernel"),
    [("-127,\n", "-126,\n", NAMES[0]), ("{0}, -8}", "{0}, -7}", NAMES[1]), ("count, b == 0)", "count, 1)", NAMES[0])],
    ids=["a weight", "another's weight", "blocks further on"],
)
def test_what_differs_is_neither_kept_nor_tried_again(
    empty: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, right: str, wrong: str, kernel: str
) -> None:
    source = llama_kernels.SOURCE.read_text()
    assert right in source
    _with_source(monkeypatch, tmp_path / "wrong.c", source.replace(right, wrong))
    assert kernel in llama_kernels.build()
    assert [file.suffix for file in empty.iterdir()] == [".txt"] and kernel in llama_kernels.why_not()
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("it was tried before"))
    llama_kernels.build_aside()


@needs_compiler
def test_a_compilers_complaint_is_the_reason(empty: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _with_source(monkeypatch, tmp_path / "broken.c", "int main(")
    assert "broken.c" in llama_kernels.build() and "broken.c" in llama_kernels.why_not()


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
    _with_source(monkeypatch, tmp_path / "other.c", "")
    found.append(llama_kernels.kept())
    features = llama_kernels.cpu_flags()
    for others, libraries in (({*features, "more"}, []), (features, [tmp_path / "other.c"])):
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
        ["cc", *flags, f"-march={processor}", "-Wall", "-Wextra", "-Werror", "-o", made, str(llama_kernels.SOURCE)],
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr


@needs_compiler
@pytest.mark.parametrize("wide", [(), ("-DIMITATE_512",)], ids=["256 bits", "512 bits"])
def test_variants_for_vnni_give_the_same_products(tmp_path: Path, wide: tuple[str, ...]) -> None:
    """Their instructions imitated in C, for the processor here may have none of them."""
    made = tmp_path / "made.so"
    base = ("-O2", "-mavx2", "-mfma", "-mf16c", "-ffp-contract=off", "-shared", "-fPIC")
    imitated = ("-include", str(Path(__file__).with_name("imitated_vnni.h")))
    command = ["cc", *base, *wide, *imitated, "-o", str(made), str(llama_kernels.SOURCE), "-lm"]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert difference(made, *llama_kernels._llama_libraries()) == ""


@pytest.mark.bundle
@needs_compiler
def test_llama_cpp_takes_them_unless_told_not_to_and_answers_the_same(bundle: Bundle) -> None:
    """160 rows, as of a picture's prompt, and 23: a panel that is not full, and rows that no kernel takes."""
    assert llama_kernels.build() == ""
    bound = re.compile(rf"libggml-cpu\S* \[0\] to \S*llama_kernels-\w+\.so \[0\]: normal symbol `{NAMES[0]}'")
    for rows in (160, 23):
        ours, told = _logits(bundle, rows, LD_DEBUG="bindings")
        theirs, not_told = _logits(bundle, rows, LD_DEBUG="bindings", **{llama_kernels.SWITCH: "0"})
        assert bound.search(told) and not bound.search(not_told)
        assert ours.tobytes() == theirs.tobytes() and np.isfinite(ours).all()
