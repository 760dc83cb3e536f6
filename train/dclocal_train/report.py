"""What a check of training data found: counts and lines per kind of problem, as JSON and as a table."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

Severity = Literal["problem", "note"]

KINDS: dict[str, tuple[Severity, str]] = {
    "not_an_object": ("problem", "row is no JSON object"),
    "no_turns": ("problem", "no conversation"),
    "starts_with_gpt": ("problem", "conversation starts with gpt"),
    "not_alternating": ("problem", "human and gpt do not alternate"),
    "odd_turns": ("problem", "last question has no answer"),
    "not_text": ("problem", "a turn's value is no text"),
    "empty_answer": ("problem", "an answer is empty"),
    "no_mark": ("problem", "image without an <image> mark"),
    "many_marks": ("problem", "more than one <image> mark"),
    "mark_misplaced": ("problem", "<image> mark outside the first question"),
    "mark_without_image": ("problem", "<image> mark in a row without image"),
    "bad_image_name": ("problem", "image is no name inside the folder"),
    "missing_image": ("problem", "image does not exist"),
    "broken_image": ("problem", "image cannot be read"),
    "too_long": ("problem", "a question and its answer are too long"),
    "maybe_too_long": ("note", "a question and its answer may be too long (estimate)"),
    "duplicate_id": ("note", "id stands in an earlier row too"),
}
"""Severity and meaning by kind.  Notes leave a report ok: LLaVA's own data repeats ids, and an estimate can err."""


@dataclass(frozen=True)
class Finding:
    """One kind of problem: how many rows have it, and the lines of the first of them."""

    kind: str
    severity: Severity
    meaning: str
    count: int
    lines: tuple[int, ...]


@dataclass(frozen=True)
class Report:
    """What a check found.  `images` says how pictures were looked at, `lengths` how turns were measured."""

    path: Path
    rows: int
    image_rows: int
    images: Literal["decoded", "headers read", "not looked at"]
    lengths: Literal["tokens", "estimated from words"]
    max_length: int
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing has to be mended."""
        return all(finding.severity != "problem" for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {"ok": self.ok, **asdict(self), "path": str(self.path), "findings": [asdict(f) for f in self.findings]}


def format_report(report: Report) -> str:
    """A table in plain text: a line per finding with its count and its first lines."""
    head = [
        f"{report.path}",
        f"{report.rows:,} rows, {report.image_rows:,} with an image; images {report.images}; "
        f"lengths: {report.lengths}, at most {report.max_length:,}",
    ]
    if not report.findings:
        return "\n".join([*head, "no problems"])
    cells = [("", "rows", "what", "lines")]
    for finding in report.findings:
        more = ", …" if finding.count > len(finding.lines) else ""
        lines = ", ".join(map(str, finding.lines)) + more
        cells.append((finding.severity, f"{finding.count:,}", finding.meaning, lines))
    first, second, third = (max(len(cell[column]) for cell in cells) for column in range(3))
    table = [f"{a:<{first}}  {b:>{second}}  {c:<{third}}  {d}".rstrip() for a, b, c, d in cells]
    verdict = "ok" if report.ok else "to be mended: every line marked problem"
    return "\n".join([*head, "", *table, "", verdict])
