"""LoRA adapters at run time: an adapter that is scaled wrongly, or whose traces stay behind, answers wrongly."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from dclocal.adapters import choose, switch
from dclocal.bundle import AdapterSpec, Bundle, describe_files, read_bundle, write_manifest
from dclocal.chat import ChatSession
from dclocal.cli import run
from dclocal.errors import BundleError, UserError
from dclocal.fake import FakeLLM, FakeVision, fake_bundle
from dclocal.llm import LLM
from dclocal.prompt import Tokens
from dclocal.session import open_llm, open_session
from tests.tiny_files import write_tiny_gguf

RANK, ALPHA, WIDTH = 4, 6.0, 32
TARGETS = ("blk.0.attn_q", "blk.1.attn_v", "blk.1.ffn_down")
IDS = Tokens(tuple(range(10, 60)))
KNOWN = (AdapterSpec("first", "first.gguf", 1.0), AdapterSpec("second", "second.gguf", 0.5))


def factors(seed: int, width: int = WIDTH) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """(A `[rank, in]`, B `[out, rank]`) by matrix."""
    random = np.random.default_rng(seed)
    found = {}
    for name in TARGETS:
        inputs = 64 if name.endswith("down") else width
        shapes = ((RANK, inputs), (width, RANK))
        found[name] = tuple(random.standard_normal(shape, dtype=np.float32) * 0.2 for shape in shapes)
    return found  # type: ignore[return-value]


def write_adapter(path: Path, lora: dict[str, tuple[np.ndarray, np.ndarray]], architecture: str = "llama") -> Path:
    from gguf import GGUFWriter

    writer = GGUFWriter(path, architecture)
    writer.add_string("general.type", "adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", ALPHA)
    for name, (a, b) in lora.items():
        writer.add_tensor(f"{name}.weight.lora_a", a)
        writer.add_tensor(f"{name}.weight.lora_b", b)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def merged(source: Path, out: Path, parts: list[tuple[int, float]]) -> Path:
    """The tiny model with W + scale · (alpha / rank) · B·A, added up by numpy and written over the weights' bytes."""
    from gguf import GGUFReader

    out.write_bytes(source.read_bytes())
    tensors = {tensor.name: tensor for tensor in GGUFReader(out, "r+").tensors}
    for seed, scale in parts:
        for name, (a, b) in factors(seed).items():
            data = tensors[f"{name}.weight"].data
            data[:] = data + scale * (ALPHA / RANK) * (b @ a)
    return out


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model and two adapters of it."""
    path = tmp_path_factory.mktemp("adapters")
    write_tiny_gguf(path / "llm.gguf")
    for seed, adapter in enumerate(KNOWN):
        write_adapter(path / adapter.file, factors(seed))
    return path


@pytest.fixture
def llm(folder: Path) -> Iterator[LLM]:
    with opened(folder / "llm.gguf", {adapter.name: folder / adapter.file for adapter in KNOWN}) as model:
        yield model


def opened(file: Path, adapters: dict[str, Path] | None = None) -> LLM:
    return LLM(file, n_ctx=256, threads=1, adapters=adapters)


def logits(llm: LLM, **scales: float) -> np.ndarray:
    llm.use_adapters(scales)
    llm.prefill([IDS])
    return llm.logits()


@pytest.mark.parametrize(
    "scales", [{"first": 1.0}, {"first": 0.3}, {"first": -1.0}, {"second": 2.0}, {"first": 0.7, "second": 0.4}]
)
def test_an_adapter_is_its_merge(llm: LLM, folder: Path, tmp_path: Path, scales: dict[str, float]) -> None:
    names = [adapter.name for adapter in KNOWN]
    parts = [(names.index(name), scale) for name, scale in scales.items()]
    with opened(merged(folder / "llm.gguf", tmp_path / "merged.gguf", parts)) as reference:
        reference.prefill([IDS])
        expected = reference.logits()
    plain = logits(llm)
    assert np.abs(expected - plain).max() > 0.1  # the adapter is not noise
    np.testing.assert_allclose(logits(llm, **scales), expected, atol=5e-4)


def test_scale_zero_is_no_adapter(llm: LLM) -> None:
    plain = logits(llm)
    np.testing.assert_allclose(logits(llm, first=0.0), plain, atol=1e-4)
    assert llm.adapters == {} and llm.evaluated_tokens == len(IDS) + 1  # nor is the cache forgotten for it


def test_switching_leaves_no_trace(llm: LLM, folder: Path) -> None:
    """Cells that another adapter evaluated would be read as this one's."""
    plain, first = logits(llm), logits(llm, first=1.0)
    again = {name: folder / f"{name}.gguf" for name in ("first", "second")}
    for scales, expected in (({}, plain), ({"first": 1.0}, first)):
        with opened(folder / "llm.gguf", again) as fresh:
            np.testing.assert_array_equal(logits(fresh, **scales), expected)
        logits(llm, second=0.5)
        np.testing.assert_array_equal(logits(llm, **scales), expected)
    before = llm.evaluated_tokens
    logits(llm, first=1.0)
    assert llm.evaluated_tokens == before + 1  # no change, and so nothing is evaluated again


def test_an_interrupted_switch_is_done_again(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    import llama_cpp.llama_cpp as llama

    plain, real = logits(llm), llama.llama_set_adapters_lora

    def interrupted(*arguments: object) -> None:
        real(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(llama, "llama_set_adapters_lora", interrupted)
        with pytest.raises(KeyboardInterrupt):
            llm.use_adapters({"first": 1.0})
    np.testing.assert_array_equal(logits(llm), plain)


def other_files(folder: Path) -> dict[str, Path]:
    wide = factors(0, width=48)
    (folder / "text.gguf").write_bytes(b"text" * 99)
    return {
        "wide": write_adapter(folder / "wide.gguf", wide),
        "gpt2": write_adapter(folder / "gpt2.gguf", factors(0), "gpt2"),
        "deep": write_adapter(folder / "deep.gguf", {"blk.9.attn_q": factors(0)["blk.0.attn_q"]}),
        "model": write_tiny_gguf(folder / "model.gguf"),
        "text": folder / "text.gguf",
        "gone": folder / "gone.gguf",
    }


def test_an_adapter_of_another_model_is_one_line(folder: Path, tmp_path: Path) -> None:
    files = other_files(tmp_path)
    with opened(folder / "llm.gguf", {**files, "first": folder / "first.gguf"}) as model:
        expected = logits(model, first=1.0)
        for name in files:
            with pytest.raises(BundleError) as caught:
                model.use_adapters({"first": 0.5, name: 1.0})
            assert f"the adapter {name}" in str(caught.value) and str(caught.value).isprintable()
            assert "no reason" not in str(caught.value)
            np.testing.assert_allclose(logits(model, first=1.0), expected, atol=1e-4)  # nothing has changed
        with pytest.raises(BundleError, match="known: wide, gpt2"):
            model.use_adapters({"nonesuch": 1.0})


def test_what_a_user_may_ask_for() -> None:
    assert choose(KNOWN, ["second"]) == {"second": 0.5}
    assert choose([AdapterSpec("off", "off.gguf", 0.0)], ["off"]) == {"off": 1.0}
    assert choose(KNOWN, ["second=2", "first=-0.5"]) == {"second": 2.0, "first": -0.5}
    assert choose(KNOWN, ["none"]) == choose((), ["none"]) == {}
    for wanted, expected in (
        (["third"], "known: first, second"),
        (["first", "first=2"], "given twice"),
        (["none", "first"], "none alone"),
        (["first=nan"], "is not a number"),
        (["first=1e9"], "is not a number"),
        (["first="], "is not a number"),
    ):
        with pytest.raises(UserError, match=expected):
            choose(KNOWN, wanted)
    with pytest.raises(UserError, match="known: this model has none"):
        choose((), ["first"])


@pytest.fixture
def adapted(bundle: Bundle, tmp_path: Path) -> Path:
    """The embedded bundle with an adapter beside it, in a folder of its own."""
    folder = tmp_path / "adapted"
    folder.mkdir()
    for name in bundle.manifest.files:
        (folder / name).symlink_to(bundle.path / name)
    random, width = np.random.default_rng(0), bundle.manifest.vision.n_embd
    write_adapter(
        folder / "loud.gguf",
        {
            f"blk.{layer}.attn_q": tuple(
                random.standard_normal(shape, dtype=np.float32) for shape in ((RANK, width), (width, RANK))
            )
            for layer in range(30)
        },  # type: ignore[arg-type]
    )
    adapters = (AdapterSpec("loud", "loud.gguf", 1.0),)
    write_manifest(folder, dataclasses.replace(bundle.manifest, adapters=adapters, files=describe_files(folder)))
    return folder


@pytest.mark.bundle
def test_chat_runs_with_the_bundles_adapters(adapted: Path, bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    """All of them unless the user says which; without them the model for text alone answers."""

    def ask(*options: str, folder: Path = adapted) -> str:
        question = ["-p", "What is the capital of France?", "--max-tokens", "8", "--threads", "1"]
        assert run(["chat", "--bundle", str(folder), *question, *options]) == 0
        return capsys.readouterr().out

    plain = ask(folder=bundle.path)
    assert ask("--lora", "none") == plain
    assert ask() == ask("--lora", "loud=1") != plain
    for option, expected in (("quiet", "known: loud"), ("loud=x", "is not a number")):
        assert run(["chat", "--bundle", str(adapted), "-p", "hm?", "--lora", option]) == 2
        captured = capsys.readouterr()
        assert captured.out == "" and expected in captured.err and captured.err.count("\n") == 1
    assert run(["bundle", "show", str(adapted)]) == 0
    assert "loud         1  loud.gguf" in capsys.readouterr().out


@pytest.mark.bundle
def test_a_conversation_switches(adapted: Path) -> None:
    with_default = open_session(read_bundle(adapted), threads=1)
    assert switch(with_default, []) == {"loud": 1.0}
    list(with_default.ask("Hello", max_tokens=2))
    assert switch(with_default, ["none"]) == {}
    assert with_default.llm.cells == []  # type: ignore[attr-defined]
    list(with_default.ask("Hello", max_tokens=2))
    assert with_default.llm.cells == []  # type: ignore[attr-defined]
    assert switch(with_default, ["loud=0.5"]) == {"loud": 0.5}
    list(with_default.ask("Hello", max_tokens=2))
    assert with_default.llm.cells  # type: ignore[attr-defined]
    llm = open_llm(read_bundle(adapted), {}, threads=1)
    assert llm.adapters == {}
    llm.close()


def test_a_model_without_adapters_says_so(tmp_path: Path) -> None:
    session = ChatSession(fake_bundle(tmp_path), FakeVision(), FakeLLM([]))
    with pytest.raises(UserError, match="takes no adapters"):
        switch(session, ["first"])
