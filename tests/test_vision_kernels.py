"""What a user would lose: answers, where an operator of ours differed from ONNX Runtime's; time, where none was."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest

from dclocal import vision
from dclocal.bundle import Bundle
from dclocal.machine import cpu_flags
from dclocal.vision import VisionEncoder
from dclocal.vision_kernels import KERNELS
from dclocal.vision_kernels_check import ATTENTION, GELU, NEAR, PRODUCTS, cases, difference, operators, run
from dclocal_export.parity import compare_embeds
from tests.kernel_sources import (
    VARIANTS,
    assert_refused,
    change_source,
    compile_for,
    compile_variant,
    needs_compiler,
)

pytestmark = pytest.mark.skipif(KERNELS.kept() is None, reason="they are for Linux on x86-64 with AVX2")
WIDE = {"avx512_vnni", "avx512bw"} <= cpu_flags()
with_products = pytest.mark.skipif(
    "amx_int8" in cpu_flags() or (not WIDE and "avx_vnni" in cpu_flags()), reason="products are ONNX Runtime's own"
)
arranged = pytest.mark.skipif(bool({"avx512_vnni", "avx_vnni"} & cpu_flags()), reason="for processors without VNNI")
packed = pytest.mark.skipif(not WIDE or "amx_int8" in cpu_flags(), reason="for processors with VNNI of 512 bits")


@needs_compiler
def test_what_is_built_gives_what_it_should(kernel_folder: Path) -> None:
    assert KERNELS.build() == "" == KERNELS.why_not()
    library = KERNELS.ready()
    assert library is not None and list(kernel_folder.iterdir()) == [library]
    assert difference(library) == "" and {ATTENTION, GELU} <= operators(library)


def test_what_it_should_give_is_what_onnx_runtime_gives() -> None:
    """Products by ONNX Runtime have one scale for all rows, so those are no closer than eight bits make them."""
    seen = set()
    for case in cases(np.random.default_rng(0)):
        if (case.name == PRODUCTS and case.inputs["weights"].min() < -64) or case.name in seen:  # type: ignore[union-attr]
            continue
        seen.add(case.name)
        assert case.error(run(None, case)) < (0.1 if case.name == PRODUCTS else 1e-5)
    assert seen == set(NEAR)


@needs_compiler
@pytest.mark.parametrize(
    ("file", "right", "wrong", "operator"),
    [
        ("attention.c", "int i = rest; i", "int i = COLUMNS; i", ATTENTION),
        ("attention.c", "v * LANES < rest ?", "(v + 1) * LANES < rest ?", ATTENTION),
        ("attention.c", "(work->key_count + 1) / 2", "work->key_count / 2", ATTENTION),
        ("attention.c", "settings->scale ? settings->scale", "0 ? settings->scale", ATTENTION),
        ("attention.c", "power(WIDE(add_ps)(less, top))", "power(WIDE(add_ps)(WIDE(set1_ps)(0), less))", ATTENTION),
        ("attention.h", "LENGTH = 46200", "LENGTH = 92400", ATTENTION),
        ("attention.h", "VALUE = 2047", "VALUE = 4095", ATTENTION),
        ("attention_packed.c", "part / work->heads * work->key_count", "0", ATTENTION),
        ("bias_gelu.c", "0.192765127f", "0.192865127f", GELU),
        ("bias_gelu.c", "work->bias + i, rest", "work->bias, rest", GELU),
        pytest.param("products_arranged.c", "over |= held", "over |= 0 * held", PRODUCTS, marks=arranged),
        pytest.param(
            "products_arranged.c", "SUM / heaviest(", "SUM / 2 / 64 + 0 * heaviest(", PRODUCTS, marks=arranged
        ),
        pytest.param("products_arranged.c", "next == row ? 0 : next[c]", "0", PRODUCTS, marks=arranged),
        pytest.param("products_packed.c", "b * COLUMNS + some, quad", "b * COLUMNS, quad", PRODUCTS, marks=packed),
        pytest.param("products_packed.c", "count = quads", "count = quads - 1", PRODUCTS, marks=packed),
        pytest.param("products_matrix.c", "4 * quad + r < of", "4 * quad + 4 < of", PRODUCTS, marks=with_products),
        pytest.param("products.c", "matrix->shared ? 0 : first + c", "first + c", PRODUCTS, marks=with_products),
        pytest.param("products.c", "rows->zero[row + r])", "rows->zero[row])", PRODUCTS, marks=with_products),
        pytest.param("products.c", "j = i; j < length", "j = length; j < length", PRODUCTS, marks=with_products),
    ],
)
def test_what_differs_is_neither_kept_nor_tried_again(
    kernel_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    file: str,
    right: str,
    wrong: str,
    operator: str,
) -> None:
    change_source(monkeypatch, tmp_path, f"vision/{file}", right, wrong)
    assert_refused(KERNELS, kernel_folder, operator)


@needs_compiler
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_does_the_same(tmp_path: Path, variant: str) -> None:
    made = tmp_path / f"{KERNELS.name} {variant}.so"  # a library is known by its path, were it another one
    compile_variant(KERNELS, variant, made)
    assert difference(made) == "" and (PRODUCTS in operators(made)) is (variant != "VNNI of 256 bits")


@needs_compiler
@pytest.mark.skipif("avx_vnni" not in cpu_flags(), reason="the processor has no VNNI of 256 bits")
def test_vnni_of_256_bits_does_the_same(tmp_path: Path) -> None:
    """With its own instructions, as far as this processor has those of others."""
    made = tmp_path / f"{KERNELS.name} of 256 bits.so"
    compile_for(KERNELS, "alderlake", made)
    assert difference(made) == ""


@pytest.mark.bundle
@needs_compiler
def test_pictures_are_encoded_by_them_to_nearly_the_same(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    assert KERNELS.build() == ""
    taken: list[bool] = []
    register = vision.register
    monkeypatch.setattr(vision, "register", lambda options: taken.append(register(options)) or taken[-1])
    pixels = np.random.default_rng(0).normal(0, 1, (3, 3, 336, 336)).astype(np.float32)
    ours = VisionEncoder(bundle).encode(pixels)
    monkeypatch.setattr(vision, "register", lambda options: False)
    theirs = VisionEncoder(bundle).encode(pixels)
    assert taken == [True] and ours.tobytes() != theirs.tobytes()
    assert compare_embeds(ours, theirs)["cosine_min"] > 0.999


@pytest.mark.bundle
@needs_compiler
def test_shapes_that_they_are_not_made_for_are_onnx_runtimes_own(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing but a run tells."""
    assert KERNELS.build() == ""
    encoder = VisionEncoder(bundle)
    ours = encoder._session

    class Refusing:
        def run(self, *of: object) -> object:
            raise RuntimeError("attention by ours is for other shapes")

    pixels = np.random.default_rng(0).normal(0, 1, (1, 3, 336, 336)).astype(np.float32)
    expected = encoder.encode(pixels)
    encoder._session = Refusing()
    found = encoder.encode(pixels)
    assert encoder._session is not ours and compare_embeds(found, expected)["cosine_min"] > 0.999
    encoder._session = Refusing()
    with pytest.raises(RuntimeError, match="other shapes"):
        encoder.encode(pixels)


@needs_compiler
@with_products
def test_constants_that_products_are_not_made_for_are_refused(kernel_folder: Path) -> None:
    """A scale of another shape or length, and a zero of its own."""
    assert KERNELS.build() == ""
    case = next(case for case in cases(np.random.default_rng(0)) if case.name == PRODUCTS)
    assert case.inputs["scales"] is not None
    for changed, refused in (
        ({"scales": case.inputs["scales"][None]}, False),
        ({"scales": case.inputs["scales"][:5]}, True),
        ({"zeros": np.ones(48, np.int8)}, True),
        ({"bias": np.ones(5, np.float32)}, True),
    ):
        changed_case = case._replace(inputs={**case.inputs, **changed})
        if refused:
            with pytest.raises(Exception, match="ours is for|other lengths"):
                run(KERNELS.ready(), changed_case)
        else:
            assert case.error(run(KERNELS.ready(), changed_case)) < NEAR[PRODUCTS]


@pytest.mark.bundle
@needs_compiler
def test_a_graph_that_they_are_not_made_for_is_onnx_runtimes_own(bundle: Bundle, tmp_path: Path) -> None:
    """Attention whose queries don't see all keys, in one of twelve nodes."""
    assert KERNELS.build() == ""
    for file in bundle.path.glob("vision*"):
        shutil.copy(file, tmp_path)
    graph = onnx.load(tmp_path / bundle.vision_path.name, load_external_data=False)
    node = next(node for node in graph.graph.node if node.op_type == ATTENTION)
    next(value for value in node.attribute if value.name == "unidirectional").i = 1
    onnx.save(graph, tmp_path / bundle.vision_path.name)
    pixels = np.zeros((1, 3, 336, 336), np.float32)
    changed = VisionEncoder(Bundle(tmp_path, bundle.manifest)).encode(pixels)
    assert np.isfinite(changed).all() and not np.allclose(changed, VisionEncoder(bundle).encode(pixels), atol=1e-2)
