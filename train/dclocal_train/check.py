"""Training data looked through before a run: rows that would stop it, or teach the wrong thing, with their lines."""

from __future__ import annotations

import hashlib
import json
import sys
from array import array
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from dclocal.errors import ImageError
from dclocal.progress import Progress, for_terminal, silent
from dclocal_train.data import IMAGE_KEY, IMAGE_MARK
from dclocal_train.pictures import Pictures, open_pictures, plain_name
from dclocal_train.report import KINDS, Finding, Report, format_report
from dclocal_train.rows import RowError, Rows, open_rows
from dclocal_train.shards import shards_at

TOKENS_PER_WORD = 1.3
DEFAULT_MAX_LENGTH = 2048
"""LLaVA-1.5's longest sequence, in tokens."""

REMEMBERED = 1 << 16
"""Pictures whose state is kept, since many rows can share one."""

STEP = 200


def check_data(
    rows: Rows,
    pictures: Pictures | None,
    *,
    count_tokens: Callable[[str], int] | None,
    max_length: int,
    max_examples: int = 10,
    decode: bool = True,
    progress: Progress = silent,
) -> Report:
    """Look at every row, and at its picture if `pictures` is given: decoded, or its header alone without `decode`.

    `max_length` bounds a question with its answer, in tokens, the image's not counted; without `count_tokens` they
    are estimated from words.  No row stops it, whatever it holds.
    """
    lines: dict[str, list[int]] = {kind: [] for kind in KINDS}
    counts = dict.fromkeys(KINDS, 0)
    ids, numbers, image_rows = array("Q"), array("q"), 0

    def found(kind: str, line: int) -> None:
        counts[kind] += 1
        if len(lines[kind]) < max_examples:
            lines[kind].append(line)

    state_of = lru_cache(REMEMBERED)(lambda name: _picture_state(pictures, name, decode))
    for index in range(len(rows)):
        row, line = _row_or_none(rows, index), rows.line(index)
        if isinstance(row, dict):
            image_rows += IMAGE_KEY in row
            kinds = {*_turn_problems(row), *_mark_problems(row), *_length_problems(row, count_tokens, max_length)}
            if IMAGE_KEY in row:
                kinds.add(_name_problem(row[IMAGE_KEY]) or state_of(row[IMAGE_KEY]))
            if "id" in row:
                ids.append(_id_hash(row["id"]))
                numbers.append(line)
        else:
            kinds = {"not_an_object"}
        for kind in kinds - {""}:
            found(kind, line)
        if index % STEP == 0:
            progress("checking rows", index, len(rows))
    progress("checking rows", len(rows), len(rows))
    for line in _repeated(ids, numbers):
        found("duplicate_id", line)
    findings = tuple(
        Finding(kind, severity, meaning, counts[kind], tuple(lines[kind]))
        for kind, (severity, meaning) in KINDS.items()
        if counts[kind]
    )
    looked = "not looked at" if pictures is None else "decoded" if decode else "headers read"
    lengths = "tokens" if count_tokens else "estimated from words"
    return Report(rows.path, len(rows), image_rows, looked, lengths, max_length, findings)  # type: ignore[arg-type]


def run_check(path: Path, pictures_path: Path | None, as_json: bool, fast: bool) -> int:
    """Check the data at `path` and print the report; 0 if nothing has to be mended, else 2.

    Shards are their own pictures unless `pictures_path` names others.  Raises UserError if a file cannot be read.
    """
    with for_terminal() as progress:
        rows = open_rows(path, progress)
        if pictures_path is None and shards_at(path.expanduser()):
            pictures_path = path
        pictures = open_pictures(pictures_path, progress) if pictures_path else None
        report = check_data(
            rows, pictures, count_tokens=None, max_length=DEFAULT_MAX_LENGTH, decode=not fast, progress=progress
        )
    text = json.dumps(report.to_dict(), indent=2) if as_json else format_report(report)
    sys.stdout.write(text + "\n")
    return 0 if report.ok else 2


def _row_or_none(rows: Rows, index: int) -> object:
    try:
        return rows.value(index)
    except RowError:  # a shard's rows are not parsed before they are read
        return None


def _turns(row: dict[str, Any]) -> list[dict[str, Any]]:
    """The row's turns, whatever is no object as an empty one; empty if there are none."""
    turns = row.get("conversations")
    return [turn if isinstance(turn, dict) else {} for turn in turns] if isinstance(turns, list) else []


def _turn_problems(row: dict[str, Any]) -> Iterator[str]:
    turns = _turns(row)
    speakers = [turn.get("from") for turn in turns]
    if not turns:
        yield "no_turns"
    elif speakers[0] == "gpt":
        yield "starts_with_gpt"
    elif any(speaker != ("human", "gpt")[number % 2] for number, speaker in enumerate(speakers)):
        yield "not_alternating"
    elif len(speakers) % 2:
        yield "odd_turns"
    for turn in turns:
        if not _is_text(turn.get("value")):
            yield "not_text"
        elif turn.get("from") == "gpt" and not turn["value"].replace(IMAGE_MARK, "").strip():
            yield "empty_answer"


def _mark_problems(row: dict[str, Any]) -> Iterator[str]:
    turns = _turns(row)
    marks = [str(turn.get("value")).count(IMAGE_MARK) for turn in turns]
    first = next((number for number, turn in enumerate(turns) if turn.get("from") == "human"), None)
    if IMAGE_KEY not in row:
        if sum(marks):
            yield "mark_without_image"
    elif turns and not sum(marks):
        yield "no_mark"
    elif sum(marks) > 1:
        yield "many_marks"
    elif sum(marks) and (first is None or not marks[first]):
        yield "mark_misplaced"


def _length_problems(row: dict[str, Any], count_tokens: Callable[[str], int] | None, max_length: int) -> Iterator[str]:
    """Questions are taken with the answers that follow them; what is no text has no length."""
    values = [turn.get("value") for turn in _turns(row)]
    lengths = [_length(str(value), count_tokens) if _is_text(value) else 0 for value in values]
    if any(sum(lengths[start : start + 2]) > max_length for start in range(0, len(lengths), 2)):
        yield "too_long" if count_tokens else "maybe_too_long"


def _length(value: str, count_tokens: Callable[[str], int] | None) -> float:
    text = value.replace(IMAGE_MARK, "").strip()
    return count_tokens(text) if count_tokens else len(text.split()) * TOKENS_PER_WORD


def _is_text(value: object) -> bool:
    """Whether a tokenizer can take it: JSON's escapes can spell halves of characters, which are no text."""
    if not isinstance(value, str):
        return False
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _name_problem(name: object) -> str:
    try:
        plain_name(name)
    except ImageError:
        return "bad_image_name"
    return ""


def _picture_state(pictures: Pictures | None, name: str, decode: bool) -> str:
    if pictures is None:
        return ""
    if not pictures.exists(name):
        return "missing_image"
    try:
        if decode:
            pictures.load(name)
        else:
            pictures.size(name)
    except ImageError:
        return "broken_image"
    return ""


def _id_hash(identifier: object) -> int:
    """64 bits for any JSON value, 1 and "1" apart."""
    return int.from_bytes(hashlib.blake2b(json.dumps(identifier).encode(), digest_size=8).digest(), "little")


def _repeated(ids: array[int], lines: array[int]) -> list[int]:
    """The lines of rows whose id an earlier row has, in order."""
    hashes = np.array(ids, np.uint64)
    order = np.argsort(hashes, kind="stable")
    again = order[1:][hashes[order][1:] == hashes[order][:-1]]
    return [lines[index] for index in np.sort(again)]
