"""What a user would lose: time, where kernels were not built, or where building them failed again and again."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from dclocal import compiled, picture_kernels, vision_kernels
from dclocal.child_python import child_command
from dclocal.compiled import Compiled, build_aside
from dclocal.llama_kernels import KERNELS
from tests.kernel_sources import PROCESSORS, assert_refused, change_source, compile_for, needs_compiler

pytestmark = pytest.mark.skipif(KERNELS.kept() is None, reason="they are for Linux on x86-64 with AVX2")


@needs_compiler
def test_a_compilers_complaint_is_the_reason(
    kernel_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    change_source(monkeypatch, tmp_path, "wide.h", "#endif\n\n/* In", "/* In")
    assert_refused(KERNELS, kernel_folder, "wide.h")


def test_without_a_compiler_there_are_none(kernel_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert_refused(KERNELS, kernel_folder, "there is no C compiler")


def test_a_build_that_ended_its_process_is_not_begun_again(
    kernel_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A product that the processor cannot do would end it each time."""

    def ended(sources: list[Path], to: Path) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(compiled, "compile_sources", ended)
    with pytest.raises(KeyboardInterrupt):
        KERNELS.build()
    assert not KERNELS.untried() and KERNELS.why_not().startswith(compiled.BEGUN)
    for file in kernel_folder.glob("*.txt"):
        assert str(file) in KERNELS.why_not()  # for who wants it tried again


def test_a_process_builds_them_while_any_was_not_tried(kernel_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[list[str]] = []
    monkeypatch.setattr(subprocess, "Popen", lambda command, **_: begun.append(command))
    monkeypatch.setattr(compiled, "compile_sources", lambda sources, to: "no")
    KERNELS.build()
    build_aside()
    assert begun == [child_command("dclocal.compiled")]
    for others in (vision_kernels.KERNELS, picture_kernels.KERNELS):
        others.build()
    build_aside()
    assert len(begun) == 1


@needs_compiler
def test_a_comparison_that_fails_is_the_reason(kernel_folder: Path) -> None:
    def fails(made: Path) -> str:
        raise ValueError("no such operator")

    assert_refused(Compiled("pictures", lambda: [Path(__file__)], fails), kernel_folder, "ValueError: no such operator")


def test_one_that_was_tried_is_not_built_again_for_another(
    kernel_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after one whose comparison ended the process."""
    built: list[str] = []
    monkeypatch.setattr(compiled, "compile_sources", lambda sources, to: built.append(sources[0].parent.name) or "no")
    KERNELS.build()
    compiled.main()
    assert built == ["llama", "vision", "pictures"]


@needs_compiler
@pytest.mark.parametrize("processor", PROCESSORS)
@pytest.mark.parametrize("kernels", [KERNELS, vision_kernels.KERNELS, picture_kernels.KERNELS], ids=lambda of: of.name)
def test_they_compile_for_other_processors(tmp_path: Path, kernels: Compiled, processor: str) -> None:
    compile_for(kernels, processor, tmp_path / "made.so")


def test_what_lies_in_the_current_folder_is_not_run(tmp_path: Path) -> None:
    """A folder of anybody's may have a `dclocal` in it; and a source tree's kernels are not an installation's."""
    (tmp_path / "dclocal").mkdir()
    (tmp_path / "dclocal" / "__init__.py").write_text("open('ran', 'w').close()")
    subprocess.run(child_command("dclocal.compiled"), cwd=tmp_path, check=True)
    assert not (tmp_path / "ran").exists()


def test_another_library_processor_or_source_has_kernels_of_its_own(
    kernel_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = [KERNELS.kept()]
    changed = change_source(monkeypatch, tmp_path, "wide.h", "16", "8")
    found.append(KERNELS.kept())
    features = compiled.cpu_flags()
    for others, libraries in (({*features, "more"}, []), (features, [changed])):
        monkeypatch.setattr(compiled, "cpu_flags", lambda others=others: others)
        found.append(Compiled(KERNELS.name, lambda libraries=libraries: libraries, str).kept())
    assert found[0] != found[1] and found[2] is None and found[3] not in (None, *found[:2])


def test_one_switch_leaves_all_others_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(compiled.SWITCH, "0")
    Compiled.kept.cache_clear()
    try:
        for kernels in (KERNELS, vision_kernels.KERNELS, picture_kernels.KERNELS):
            assert kernels.ready() is None and compiled.SWITCH in kernels.why_not()
    finally:
        Compiled.kept.cache_clear()
