"""Where the rows of a JSON list or of JSON lines lie in their file, found in one pass with bounded memory.

Bytes are decoded as Latin-1 for the scan, one character a byte, so that the JSON reader's positions are offsets in
the file.  JSON's own characters are ASCII, and UTF-8 never uses those bytes inside other characters.
"""

from __future__ import annotations

import codecs
import json
import re
from array import array
from pathlib import Path
from typing import BinaryIO

import numpy as np

from dclocal.errors import UserError
from dclocal.progress import Progress

CHUNK_BYTES = 1 << 22
MAX_ROW_BYTES = 64 << 20
"""A longer row is refused: most likely a quotation mark is missing, and the rest of the file would be read as text."""

SPANS = ("offsets", "lengths", "lines")
"""int64 arrays: a row's first byte, its number of bytes, and the line on which it starts (from 1)."""

_SPACE = re.compile(r"[ \t\n\r]*")
_DECODER = json.JSONDecoder()


class RowError(UserError):
    """Rows that are missing, damaged, or not in a known format."""


def scan_list(file: BinaryIO, path: Path, total: int, progress: Progress) -> dict[str, np.ndarray]:
    """SPANS of the rows of a JSON list; raises RowError naming the line."""
    text, spans, step = _SlidingText(file, path), _Spans(), f"indexing {path.name}"
    first = text.skip_space()
    if first == "":
        raise RowError(f"{path} is empty", "give a JSON list of rows")
    if first != "[":
        raise RowError(f"{path} does not hold a list: line {text.line} starts with {first!r}", "give a list of rows")
    text.move(text.position + 1)
    following = text.skip_space()
    while following != "]" or len(spans):
        spans.add(*text.skip_value())
        if len(spans) % 10_000 == 0:
            progress(step, text.offset, total)
        following = text.skip_space()
        if following == "]":
            break
        if following != ",":
            raise text.broken("a comma or the end of the list is missing", truncated=following == "")
        text.move(text.position + 1)
        following = text.skip_space()
    text.move(text.position + 1)
    if text.skip_space():
        raise text.broken("something follows the end of the list", truncated=False)
    progress(step, total, total)
    return spans.arrays()


def scan_lines(file: BinaryIO, path: Path, total: int, progress: Progress) -> dict[str, np.ndarray]:
    """SPANS of the rows of JSON lines, blank lines left out; raises RowError naming the line."""
    spans, offset, number, step = _Spans(), 0, 0, f"indexing {path.name}"
    while line := file.readline(MAX_ROW_BYTES + 1):
        number += 1
        if len(line) > MAX_ROW_BYTES:
            raise RowError(f"{path}, line {number} has more than {MAX_ROW_BYTES:,} bytes", "give one row a line")
        body = line.removeprefix(codecs.BOM_UTF8) if offset == 0 else line
        row = body.strip(b" \t\r\n")
        if row:
            parse_row(row, f"{path}, line {number}", ends_file=not line.endswith(b"\n"))
            spans.add(offset + len(line) - len(body.lstrip(b" \t\r\n")), len(row), number)
        offset += len(line)
        if number % 10_000 == 0:
            progress(step, offset, total)
    progress(step, total, total)
    return spans.arrays()


def parse_row(data: bytes, where: str, ends_file: bool = False) -> object:
    """The JSON value in `data`; raises RowError that starts with `where`."""
    try:
        return json.loads(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise RowError(f"{where} is not UTF-8 ({error.reason})", "save the file as UTF-8") from error
    except RecursionError as error:
        raise RowError(f"{where} is nested too deeply", "give LLaVA rows") from error
    except ValueError as error:  # broken JSON, or a number with thousands of digits
        if ends_file and isinstance(error, json.JSONDecodeError) and _at_end(error):
            raise RowError(
                f"{where}: the file is truncated in this row ({error.msg})", "give the whole file"
            ) from error
        raise RowError(f"{where} is not JSON ({error})", "mend this row") from error


def _at_end(error: json.JSONDecodeError) -> bool:
    """Whether more text could have mended it."""
    return error.msg.startswith("Unterminated string") or error.pos >= len(error.doc.rstrip())


class _Spans:
    """Grows the three arrays without a Python object a row."""

    def __init__(self) -> None:
        self._values = array("q")

    def add(self, offset: int, length: int, line: int) -> None:
        self._values.extend((offset, length, line))

    def __len__(self) -> int:
        return len(self._values) // len(SPANS)

    def arrays(self) -> dict[str, np.ndarray]:
        table = np.frombuffer(self._values, np.int64).reshape(-1, len(SPANS)) if len(self) else np.empty((0, 3), int)
        return {name: np.ascontiguousarray(table[:, column]) for column, name in enumerate(SPANS)}


class _SlidingText:
    """A file as Latin-1 text that slides along: what lies before `position` is forgotten as more is read."""

    def __init__(self, file: BinaryIO, path: Path):
        self.file, self.path = file, path
        self.text, self.position = "", 0
        self.start = 0  # the offset in the file of text[0]
        self.line = 1  # the line of `position`
        self._utf8 = codecs.getincrementaldecoder("utf-8")()
        while len(self.text) < len(codecs.BOM_UTF8) and self._more():
            pass
        if self.text.startswith(codecs.BOM_UTF8.decode("latin-1")):
            self.position = len(codecs.BOM_UTF8)

    @property
    def offset(self) -> int:
        """`position` as an offset in the file."""
        return self.start + self.position

    def move(self, position: int) -> None:
        self.line += self.text.count("\n", self.position, position)
        self.position = position

    def skip_space(self) -> str:
        """Move to the next character that is no space, and tell it; "" at the end of the file."""
        while True:
            self.move(_SPACE.match(self.text, self.position).end())  # type: ignore[union-attr]
            if self.position < len(self.text):
                return self.text[self.position]
            if not self._more():
                return ""

    def skip_value(self) -> tuple[int, int, int]:
        """Move behind the JSON value that starts here; its offset, its number of bytes and its line."""
        while True:
            problem: Exception | None = None
            try:
                _, end = _DECODER.raw_decode(self.text, self.position)
            except (ValueError, RecursionError) as error:
                problem, end = error, len(self.text)
            if end < len(self.text):  # at the very end, a number could go on
                break
            if len(self.text) - self.position > MAX_ROW_BYTES or not self._more():
                if problem is not None:
                    raise self._broken_by(problem) from problem
                break
        span = (self.offset, end - self.position, self.line)
        self.move(end)
        return span

    def broken(self, problem: str, truncated: bool) -> RowError:
        """What to raise for a problem at `position`."""
        if truncated:
            return RowError(f"{self.path} is truncated at line {self.line}: {problem}", "give the whole file")
        return RowError(f"{self.path}, line {self.line} is not JSON: {problem}", "mend this line")

    def _broken_by(self, problem: Exception) -> RowError:
        if isinstance(problem, RecursionError):
            return RowError(f"{self.path}, line {self.line} is nested too deeply", "give LLaVA rows")
        if not isinstance(problem, json.JSONDecodeError):
            return self.broken(str(problem), truncated=False)
        ended = len(self.text) - self.position <= MAX_ROW_BYTES
        truncated = ended and _at_end(problem)
        if not truncated:
            self.move(problem.pos)
        return self.broken(problem.msg, truncated)

    def _more(self) -> bool:
        """Read on, at least as much again as is held, so that a long row is not scanned often; False at the end."""
        rest = self.text[self.position :]
        chunk = self.file.read(max(CHUNK_BYTES, len(rest)))
        try:
            self._utf8.decode(chunk, final=not chunk)
        except UnicodeDecodeError as error:
            line = self.line + rest.count("\n") + error.object[: error.start].count(b"\n")
            raise RowError(f"{self.path}, line {line} is not UTF-8 ({error.reason})", "save it as UTF-8") from error
        if not chunk:
            return False
        self.start, self.position = self.offset, 0
        self.text = rest + chunk.decode("latin-1")
        return True
