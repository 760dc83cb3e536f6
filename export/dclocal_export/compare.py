"""Two bundles side by side: size, speed, answers."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL.Image import Image

from dclocal.bundle import read_bundle
from dclocal.chat import Answered
from dclocal.progress import Progress
from dclocal.session import open_session
from dclocal.tables import Table
from dclocal_export.proof import ANSWER_TOKENS, QUESTIONS


def compare(folders: Sequence[Path], pictures: Sequence[Image], progress: Progress) -> dict[str, Any]:
    """Sizes, medians over all questions of what an answer cost, and the answers, in the order of `folders`."""
    bundles = [read_bundle(folder) for folder in folders]
    sessions = [open_session(bundle) for bundle in bundles]
    answers: list[dict[str, Any]] = []
    stats: list[list[Any]] = [[] for _ in bundles]
    total = len(pictures) * len(QUESTIONS)
    for picture_index, picture in enumerate(pictures):
        for question in QUESTIONS:
            row: dict[str, Any] = {"picture": picture_index, "question": question, "answers": []}
            for which, session in enumerate(sessions):  # in turn, so that both meet the same machine
                session.reset()
                attached = session.attach(picture)
                *_, last = session.ask(question, [attached], max_tokens=ANSWER_TOKENS)
                assert isinstance(last, Answered)
                row["answers"].append(last.answer)
                stats[which].append(last.stats)
            answers.append(row)
            progress("asking both", len(answers), total)
    same = sum(len(set(row["answers"])) == 1 for row in answers)
    return {
        "bundles": [_facts(bundle, found) for bundle, found in zip(bundles, stats)],
        "questions": len(answers),
        "same": same,
        "answers": answers,
    }


def _facts(bundle: Any, stats: Sequence[Any]) -> dict[str, Any]:
    fresh = [found for found in stats if not found.image_cached]
    return {
        "name": bundle.manifest.name,
        "path": str(bundle.path),
        "size_bytes": bundle.size_bytes,
        "vision": bundle.manifest.vision.precision,
        "llm": bundle.manifest.llm_quantization,
        "encode_ms": round(statistics.median(found.encode_ms for found in fresh), 1),
        "prefill_ms": round(statistics.median(found.prefill_ms for found in stats), 1),
        "ttft_ms": round(statistics.median(found.ttft_ms for found in fresh), 1),
        "decode_tps": round(statistics.median(found.decode_tps for found in stats), 1),
    }


def as_tables(found: dict[str, Any]) -> list[Table]:
    """For people: facts, then the questions that were answered otherwise."""
    one, other = found["bundles"]
    facts = [(name, str(one[name]), str(other[name])) for name in one]
    facts.append(("same answers", f"{found['same']} of {found['questions']}", ""))
    unlike = [
        (str(row["picture"]), row["question"], *row["answers"])
        for row in found["answers"]
        if len(set(row["answers"])) > 1
    ]
    tables = [Table(facts, "bundles", ("", "first", "second"))]
    if unlike:
        tables.append(Table(unlike, "answered otherwise", ("picture", "question", "first", "second")))
    return tables
