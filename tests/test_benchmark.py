"""The benchmark of stages and ratios: figures that the documentation quotes must be of the work that they name."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import llama_cpp.llama_cpp as llama
import numpy as np
import pytest
from click.testing import CliRunner

from dclocal import benchmark_against
from dclocal.benchmark import Opened, decode_ms, prefill_embeds, repeated, summary, timed
from dclocal.benchmark_against import Contest, measure_against, race
from dclocal.benchmark_llama import BareLlama, LlamaAside
from dclocal.benchmark_report import Report, lines
from dclocal.benchmark_sources import Field, pipelines
from dclocal.commands.bench import bench
from dclocal.errors import BundleError, UserError
from dclocal.fake import fake_bundle
from dclocal.llm import LLM
from dclocal.progress import silent


def opened_fake(folder: Path) -> Opened:
    return SimpleNamespace(bundle=fake_bundle(folder), threads=1)  # type: ignore[return-value]


def test_memory_is_shown_in_megabytes() -> None:
    shown = list(lines(Report([], 1, {"memory_with_both_models_open_bytes": 461_651_968, "threads": 2})))
    assert [line.split() for line in shown[1:]] == ["memory with both models open 462 MB".split(), ["threads", "2"]]


def test_a_time_is_by_the_clock_in_milliseconds() -> None:
    assert timed(lambda: None, iter([2.0, 2.25]).__next__) == 250
    figures = iter([100.0, 3.0, 1.0, 8.0])
    measure = summary("stage", "ms", repeated(figures.__next__, 3))
    assert (measure.median, measure.low, measure.high) == (3, 1, 8)  # not the first, which warms up


def test_either_runs_in_turn_and_the_ratio_is_of_neighbours() -> None:
    """The machine grows four times slower from run to run: only ratios of neighbours are right."""
    order: list[str] = []

    def scripted(name: str, figures: list[float]) -> Any:
        left = iter(figures)

        def figure() -> float:
            order.append(name)
            return next(left)

        return figure

    contest = Contest("them", "work", scripted("A", [900, 1, 4, 16]), scripted("B", [1, 2, 12, 64]))
    ratio = race(contest, 3, pause=lambda: None)
    assert order == ["A", "B"] * 4
    assert (ratio.median, ratio.low, ratio.high) == (3, 2, 4)
    assert (ratio.ours.median, ratio.theirs.median) == (4, 12)


def test_all_names_those_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What could be compared before one was missing is kept."""

    def half(field: Field) -> Iterator[Contest]:
        yield Contest("half", "work", lambda: 1.0, lambda: 5.0)
        raise UserError("it is not installed", "install it")

    monkeypatch.setattr(benchmark_against, "CONTESTS", {"half": half})
    monkeypatch.setattr(benchmark_against, "PAUSE_S", 0)
    ratios, missing = measure_against(opened_fake(tmp_path), ["all"], 1, silent)
    assert [ratio.median for ratio in ratios] == [5] and missing == {"half": "it is not installed — install it"}
    with pytest.raises(UserError, match="not installed"):
        measure_against(opened_fake(tmp_path), ["half"], 1, silent)
    with pytest.raises(UserError, match="known: half, all"):
        measure_against(opened_fake(tmp_path), ["tensorrt"], 1, silent)


def test_without_pytorch_or_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[Any] = []
    monkeypatch.setattr("importlib.metadata.entry_points", lambda **_: found)
    with ExitStack() as closing:
        field = Field(opened_fake(tmp_path), None, None, silent, closing, {})
        with pytest.raises(UserError, match="pip install"):
            pipelines(field)
        found.append(SimpleNamespace(load=lambda: pytest.fail("nothing is to be loaded")))
        with pytest.raises(UserError, match="--checkpoint"):
            pipelines(field)


def test_the_bare_loop_evaluates_every_token(tiny_gguf: Path) -> None:
    """Left out work would make llama.cpp look faster than it is."""
    with BareLlama(tiny_gguf, 2400, threads=1) as bare:
        for _ in range(2):
            bare.prefill(2100)
            assert llama.llama_memory_seq_pos_max(bare._memory, 0) == 2099
        bare.decode(5, 2100)
        assert llama.llama_memory_seq_pos_max(bare._memory, 0) == 2104


def test_llama_cpp_by_itself_works_in_a_process_of_its_own(tiny_gguf: Path, tmp_path: Path) -> None:
    with LlamaAside(tiny_gguf, 256, threads=1) as aside:
        assert aside.prefill(200) > 0 and aside.decode(3, 200) > 0
        with pytest.raises(RuntimeError, match="ended"):
            aside.decode(64, 203)  # more than there is room for
    with pytest.raises(BundleError, match=r"no\.gguf"):
        LlamaAside(tmp_path / "no.gguf", 256, threads=1)


def test_decoding_goes_on_where_the_model_ends_its_answer(tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dclocal.benchmark.COUNTING", "abcdefgh" * 8)
    with LLM(tiny_gguf, n_ctx=512, threads=1) as llm:
        sampled: list[int] = []
        generate = llm.generate

        def short(sampling: Any, *, seed: int, max_tokens: int) -> Iterator[str]:
            before = llm.evaluated_tokens
            yield from generate(sampling, seed=seed, max_tokens=min(max_tokens, 4))
            sampled.append(llm.evaluated_tokens - before)

        llm.generate = short  # type: ignore[method-assign, assignment]
        assert decode_ms(llm, 8) > 0
        assert sum(sampled) == 8 and len(sampled) > 2


def test_every_prefill_begins_with_an_empty_cache(tiny_gguf: Path) -> None:
    with LLM(tiny_gguf, n_ctx=512, threads=1) as llm:
        embeds = np.ones((4, 32), np.float32)
        for _ in range(2):
            before = llm.evaluated_tokens
            prefill_embeds(llm, embeds, 100)
            assert llm.evaluated_tokens - before == 100


def test_video_is_not_compared() -> None:
    done = CliRunner().invoke(bench, ["--video", "--against", "pytorch"])
    assert done.exit_code == 2 and "--video" in done.output


@pytest.mark.bundle
def test_a_run_names_its_stages_limits_and_ratios(bundle_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DCLOCAL_HOME", str(bundle_home))
    monkeypatch.setattr("dclocal.benchmark.BATCHES", (1, 2))
    monkeypatch.setattr("dclocal.benchmark.PREFILLS", (16, 144))
    monkeypatch.setattr("dclocal.benchmark_limits.PREFILLS", (16, 144))
    done = CliRunner().invoke(bench, ["--runs", "1", "--against", "llama.cpp", "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    names = [one["name"] for one in found["measures"]]
    wanted = ("cold start", "image decode", "preprocessing", "vision encode, 2", "prefill, 144", "first turn")
    for name in (*wanted, "second turn", "decode", "connector alone"):
        assert any(one.startswith(name) for one in names), name
    assert all(0 < one["low"] <= one["median"] <= one["high"] for one in found["measures"])
    held = [one["memory_bytes"] for one in found["measures"] if "memory_bytes" in one]
    assert held and min(held) > found["machine"]["peak_memory_bytes"] / 10
    assert all(0 < one["share"] < 5 for one in found["limits"]["stages"])
    assert len(found["against"]["ratios"]) == 3 and not found["against"]["missing"]
    assert found["threads"] >= 1 and "CPUExecutionProvider" in found["providers"]
