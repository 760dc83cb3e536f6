"""What a user would lose: answers, where a kernel of ours differed from llama.cpp's own; time, where none was used."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dclocal.bundle import Bundle
from dclocal.compiled import SWITCH
from dclocal.llama_attention_check import NAME as ATTENTION
from dclocal.llama_kernels import KERNELS, ggml_libraries
from dclocal.llama_kernels_check import NAMES, OF_BYTES, OF_ONE_ROW, difference
from dclocal.llama_norms_check import NAME as NORM
from dclocal.machine import cpu_flags
from tests.kernel_sources import (
    VARIANTS,
    assert_refused,
    change_source,
    compile_for,
    compile_variant,
    needs_compiler,
)

pytestmark = pytest.mark.skipif(KERNELS.kept() is None, reason="they are for Linux on x86-64 with AVX2")
DECLINED = """
import ctypes
import numpy as np
from dclocal import llama_api, llama_kernels
from dclocal.llama_attention_check import SHAPES, THEIRS_NEAR, computation
from dclocal.llama_context import flash_suits_few
assert llama_kernels.load() and llama_kernels.whose() == "ours"
library = ctypes.CDLL(str(llama_kernels.ggml_libraries()[-1]))
for options, of_a_language_model in (dict(masked=False), False), (dict(), False), (dict(cap=2), True):
    for shape in SHAPES[:2]:
        with computation(library, np.random.default_rng(0), shape, **options) as work:
            work.by_llama_cpp()
            assert work.worst() < THEIRS_NEAR
    assert llama_kernels.attention_declined() is of_a_language_model and flash_suits_few() is not of_a_language_model
"""
VNNI = {"avx512_vnni", "avx_vnni"}
needs_vnni = pytest.mark.skipif(not VNNI & cpu_flags(), reason="the processor has no VNNI")
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


def _logits(bundle: Bundle, rows: int, **environment: str) -> tuple[np.ndarray, str]:
    """The language model's last logits after `rows` embeddings, with plain attention and with flash attention, in a new
    process, and what that wrote to stderr."""
    command = [sys.executable, "-c", LOGITS, str(bundle.llm_path), str(rows)]
    ended = subprocess.run(command, check=True, capture_output=True, env={**os.environ, **environment})
    return np.frombuffer(ended.stdout, np.float32).reshape(2, -1), ended.stderr.decode(errors="replace")


@needs_compiler
def test_what_is_built_gives_llama_cpps_own_products(kernel_folder: Path) -> None:
    assert KERNELS.build() == "" == KERNELS.why_not()
    library = KERNELS.ready()
    assert library is not None and list(kernel_folder.iterdir()) == [library]
    assert difference(library, *ggml_libraries()) == ""


@needs_compiler
@pytest.mark.parametrize(
    ("file", "right", "wrong", "kernel"),
    [
        ("products.h", "-127}", "-126}", NAMES[0]),
        ("products.h", "-8}", "-7}", NAMES[1]),
        pytest.param("products_of_one.c", "half + 16,", "half + 8,", OF_ONE_ROW[NAMES[0]], marks=needs_vnni),
        pytest.param("products_of_one.c", "first ?", "0 ?", OF_ONE_ROW[NAMES[0]], marks=needs_vnni),
        pytest.param("products_of_bytes.c", "-128 * (four", "-127 * (four", OF_BYTES, marks=needs_vnni),
        pytest.param("products_of_bytes.c", "? SHARED - 1 : 0;", "? 0 : 0;", OF_BYTES, marks=needs_vnni),
        pytest.param("products_of_bytes.c", "(first + r) * stride", "r * stride", OF_BYTES, marks=needs_vnni),
        ("products.c", "count, b == 0)", "count, 1)", NAMES[0]),
        ("norms.c", "each[2] + each[3]", "each[2]", NORM),
        ("norms.c", "result->src[0] == norm", "0", NORM),
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
        "bytes",
        "half of the columns",
        "rows behind eight",
        "later blocks",
        "norm",
        "weights of a norm",
        "exponential",
        "mask",
        "last place",
        "few",
        "sequence",
    ],
)
def test_what_differs_is_neither_kept_nor_tried_again(
    kernel_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, file: str, right: str, wrong: str, kernel: str
) -> None:
    change_source(monkeypatch, tmp_path, f"llama/{file}", right, wrong)
    assert_refused(KERNELS, kernel_folder, kernel)


@needs_compiler
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_does_the_same(tmp_path: Path, variant: str) -> None:
    made = tmp_path / f"{KERNELS.name} {variant}.so"  # a library is known by its path, were it another one
    compile_variant(KERNELS, variant, made)
    assert difference(made, *ggml_libraries()) == ""


@needs_compiler
def test_attention_that_ours_is_not_made_for_is_llama_cpps_own() -> None:
    """One without a mask, as encoders have it; and one whose scores have a cap, of a model that then changes between
    llama.cpp's two kinds."""
    assert KERNELS.build() == ""
    subprocess.run([sys.executable, "-c", DECLINED], check=True)


@needs_compiler
@pytest.mark.skipif("avx_vnni" not in cpu_flags(), reason="the processor has no VNNI of 256 bits")
def test_vnni_of_256_bits_does_the_same(tmp_path: Path) -> None:
    """With its own instructions, as far as this processor has those of others."""
    made = tmp_path / f"{KERNELS.name} of 256 bits.so"
    compile_for(KERNELS, "alderlake", made)
    assert difference(made, *ggml_libraries()) == ""


@pytest.mark.bundle
@needs_compiler
def test_llama_cpp_takes_them_unless_told_not_to_and_answers_the_same(bundle: Bundle) -> None:
    """160 rows, as of a picture's prompt, and 23: a panel that is not full, and a row that is left alone.  With
    plain attention, which is llama.cpp's, logits are the same to the bit.  With ours what is left between them is what
    activations in eight bits make of its rounding; as much is between llama.cpp's two kinds (0.998)."""
    assert KERNELS.build() == ""
    taken = {NAMES[0], ATTENTION, NORM} | ({OF_BYTES} if VNNI & cpu_flags() else set())
    bound = r"libggml-cpu\S* \[0\] to \S*llama_kernels-\w+\.so \[0\]: normal symbol `(\w+)'"
    for rows in (160, 23):
        ours, told = _logits(bundle, rows, LD_DEBUG="bindings")
        theirs, not_told = _logits(bundle, rows, LD_DEBUG="bindings", **{SWITCH: "0"})
        assert taken <= set(re.findall(bound, told)) and not re.search(bound, not_told)
        assert ours[0].tobytes() == theirs[0].tobytes() and np.isfinite(ours).all()
        assert np.corrcoef(ours[1], theirs[1])[0, 1] > 0.995
