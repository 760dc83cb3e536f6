"""A benchmark's figures as JSON data or as lines of text."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dclocal.benchmark import Measure, Stage
from dclocal.benchmark_against import Ratio
from dclocal.benchmark_limits import Limits
from dclocal.machine import cpu_model, peak_memory_bytes, usable_cores


@dataclass(frozen=True)
class Against:
    """The ratios to others, and why each of those who are missing is."""

    ratios: Sequence[Ratio]
    missing: Mapping[str, str]


@dataclass(frozen=True)
class Report:
    """Medians of `runs` runs, and `facts` about what was measured; limits and ratios where they were asked for."""

    measures: Sequence[Measure]
    runs: int
    facts: Mapping[str, Any]
    limits: Limits | None = None
    against: Against | None = None


def to_json(report: Report) -> dict[str, Any]:
    """Everything, under plain names; the facts stand beside the measures."""
    data = {"machine": _machine(), **report.facts, "measures": [dataclasses.asdict(one) for one in report.measures]}
    for name, part in (("limits", report.limits), ("against", report.against)):
        if part is not None:
            data[name] = dataclasses.asdict(part)
    return data


def lines(report: Report) -> Iterator[str]:
    """The machine, the facts, then a line for each measure, limit and ratio."""
    machine = _machine()
    memory = f"peak memory {machine['peak_memory_bytes'] / 1e6:.0f} MB"
    yield f"{machine['cpu']}, {machine['cores']} cores, {report.runs} runs, {memory}"
    for name, fact in report.facts.items():
        yield _fact_line(name, fact)
    for one in report.measures:
        held = f"  {one.memory_bytes / 1e6:.0f} MB held" if isinstance(one, Stage) else ""
        yield f"{one.name:46} {one.median:9.1f} {one.unit:9} ({one.low:.1f} to {one.high:.1f}){held}"
    if report.limits is not None:
        yield from _limit_lines(report.limits)
    if report.against is not None:
        yield from _ratio_lines(report.against)


def _fact_line(name: str, fact: Any) -> str:
    if name.endswith("_bytes"):
        name, fact = name.removesuffix("_bytes"), f"{fact / 1e6:.0f} MB"
    return f"{name.replace('_', ' '):46} {', '.join(fact) if isinstance(fact, list) else fact}"


def _limit_lines(limits: Limits) -> Iterator[str]:
    peaks = limits.peaks
    yield ""
    yield (
        f"Of what this machine does at best: {peaks.int8_per_s / 1e9:.0f} billion int8 and "
        f"{peaks.float32_per_s / 1e9:.0f} billion float32 multiply-adds a second, {peaks.bytes_per_s / 1e9:.1f} GB/s"
    )
    for one in limits.stages:
        yield f"{one.stage:46} {one.share:9.0%} of {one.of} ({one.limit_ms:.2f} of {one.measured_ms:.2f} ms)"


def _ratio_lines(against: Against) -> Iterator[str]:
    yield ""
    yield "Time of others over ours, above 1 where ours is less; run in turn"
    for one in against.ratios:
        times = f"{one.theirs.median:.1f} ms, ours {one.ours.median:.1f} ms"
        yield f"{f'{one.work}: {one.against}':70} {one.median:6.2f} ({one.low:.2f} to {one.high:.2f}), {times}"
    for name, reason in against.missing.items():
        yield f"{name} did not take part: {reason}"


def _machine() -> dict[str, Any]:
    return {"cpu": cpu_model(), "cores": usable_cores(), "peak_memory_bytes": peak_memory_bytes()}
