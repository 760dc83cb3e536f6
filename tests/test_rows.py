"""Rows read from the disk one at a time: if these fail, a row is silently another than the file holds, or a data set
of a usual size does not fit in memory.  What is right is what `json` and `tarfile` say of the whole file."""

from __future__ import annotations

import io
import json
import multiprocessing
import pickle
import random
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dclocal_train import row_scan, rows
from dclocal_train.rows import RowError, open_rows

pytestmark = pytest.mark.usefixtures("own_home")

TEXTS = (
    "plain",
    "zwölf Bücher — 漢字 🧱🧱",
    'quote " and backslash \\ and both \\"',
    'braces {[ ]} }{ , ] "]',
    "line\nbreak\ttab",
    "\u2028\u0085\u00a0",
    "ends with a backslash \\",
    "",
)


def sample_rows(count: int, seed: int = 0) -> list[dict[str, Any]]:
    source = random.Random(seed)
    made = []
    for index in range(count):
        turns = [
            {"from": speaker, "value": "".join(source.choice(TEXTS) for _ in range(source.randrange(4)))}
            for speaker in ("human", "gpt")
        ]
        row = {"id": index, "score": source.choice([1.5e-7, -3, None, True]), "conversations": turns}
        made.append(row if source.random() < 0.7 else {**row, "image": f"bilder/ü{index}.jpg", "nested": {"a": [{}]}})
    return made


STYLES: dict[str, dict[str, Any]] = {
    "one line": {"ensure_ascii": False, "separators": (",", ":")},
    "indented": {"ensure_ascii": False, "indent": 2},
    "escaped": {"ensure_ascii": True},
}


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 64, 1 << 22])
@pytest.mark.parametrize("style", STYLES)
def test_a_list_gives_the_rows_that_json_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, style: str, chunk: int
) -> None:
    """Whatever the chunks cut through: characters, escapes, numbers, braces in text."""
    monkeypatch.setattr(row_scan, "CHUNK_BYTES", chunk)
    path = tmp_path / "rows.json"
    text = json.dumps(sample_rows(30), **STYLES[style])
    for data in (text.encode(), b"\xef\xbb\xbf \n" + text.replace("\n", "\r\n").encode() + b"\n\n"):
        path.write_bytes(data)
        found = open_rows(path)
        assert list(found) == json.loads(data.decode("utf-8-sig"))
        pieces = data.split(b'"id"')
        lines = [b'"id"'.join(pieces[: index + 1]).count(b"\n") + 1 for index in range(len(found))]
        above = 1 if style == "indented" else 0  # the brace stands on the line above the id
        assert [found.line(index) + above for index in range(len(found))] == lines


def test_json_lines_give_their_rows(tmp_path: Path) -> None:
    made = sample_rows(50)
    lines = [json.dumps(row, ensure_ascii=False) for row in made]
    path = tmp_path / "rows.jsonl"
    path.write_bytes("\ufeff".encode() + ("\n" + "\n \r\n".join(f"  {line} " for line in lines)).encode())
    found = open_rows(path)
    assert list(found) == made
    assert [found.line(index) for index in range(50)] == list(range(2, 102, 2))


def test_rows_are_a_sequence(tmp_path: Path) -> None:
    made = sample_rows(9)
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(made))
    found = open_rows(path)
    assert len(found) == 9 and found[-1] == made[-1] and found[2:5] == made[2:5] and found[::-3] == made[::-3]
    assert found[np.int64(4)] == made[4]  # type: ignore[call-overload]
    assert random.Random(1).sample(found, 3) == random.Random(1).sample(made, 3)
    for index in (9, -10):
        with pytest.raises(IndexError):
            found[index]


def test_top_level_values_at_the_very_end_of_a_chunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A number cut in two is one number; a row that is no object is refused by name when it is asked for."""
    monkeypatch.setattr(row_scan, "CHUNK_BYTES", 4)
    path = tmp_path / "rows.json"
    path.write_text('[12345678, {"a": 1},\n "x", null]')
    found = open_rows(path)
    assert [found.value(index) for index in range(4)] == [12345678, {"a": 1}, "x", None]
    assert found[1] == {"a": 1}
    with pytest.raises(RowError, match="line 2 holds str"):
        found[2]


def send_ids(found: rows.Rows, indexes: list[int], answers: Any) -> None:
    answers.put((indexes, [found[index]["id"] for index in indexes]))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_read_at_the_same_time(tmp_path: Path, method: str) -> None:
    """Forked workers share their parent's position in a file unless each opens its own."""
    made = sample_rows(400)
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(made))
    found = open_rows(path)
    assert found[7] == made[7]  # the parent's handle is open now
    context = multiprocessing.get_context(method)
    answers = context.Queue()
    workers = []
    for seed in range(2):
        order = random.Random(seed).sample(range(400), 400) * 10
        workers.append(context.Process(target=send_ids, args=(found, order, answers)))
        workers[-1].start()
    for _ in workers:
        wanted, got = answers.get(timeout=15)
        assert got == wanted
    for worker in workers:
        worker.join(timeout=15)


def test_pickled_rows_are_the_same(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in sample_rows(5)))
    found = open_rows(path)
    found[0]
    again = pickle.loads(pickle.dumps(found))
    assert list(again) == list(found) and again.line(4) == 5


MEMORY = """
import resource, sys
from pathlib import Path
from dclocal_train.rows import open_rows
open_rows(Path(sys.argv[1]))[0]
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
rows = open_rows(Path(sys.argv[2]))
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(len(rows), rows[123456]["id"], grown)
"""


@pytest.mark.parametrize("ending", ["json", "jsonl"])
def test_a_long_file_does_not_enter_memory(tmp_path: Path, ending: str) -> None:
    """200,000 rows, over 100 MB: opening them takes no more than their index (5 MB, twice) and some chunks."""
    small, large = tmp_path / f"small.{ending}", tmp_path / f"large.{ending}"
    small.write_text('[{"id": 1}]' if ending == "json" else '{"id": 1}')
    value = json.dumps("é{[\\" * 60, ensure_ascii=False) + ', "more": "' + "x" * 120 + '"'
    with large.open("w", encoding="utf-8") as file:
        opening, between, closing = ("[", ",\n", "]") if ending == "json" else ("", "\n", "")
        file.write(opening)
        file.writelines(f'{between if index else ""}{{"id": {index}, "text": {value}}}' for index in range(200_000))
        file.write(closing)
    assert large.stat().st_size > 100e6
    result = subprocess.run(
        [sys.executable, "-c", MEMORY, small, large], capture_output=True, text=True, check=True, timeout=60
    )
    count, identifier, grown_kib = map(int, result.stdout.split())
    assert (count, identifier) == (200_000, 123_456)
    assert grown_kib < 48 << 10


def tar_of(path: Path, members: list[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def test_shards_carry_rows_with_their_picture(tmp_path: Path) -> None:
    """A key's picture is sought in its own shard, before the row or after it; a row's own "image" stays."""

    def row(name: str, **more: str) -> bytes:
        return json.dumps({"id": name, **more}).encode()

    tar_of(tmp_path / "b.tar", [("1.json", row("b1")), ("1.PNG", b"?"), ("2.jpg", b"?"), ("odd.json", b"[]")])
    tar_of(
        tmp_path / "a.tar",
        [
            ("./d.x/1.input.jpg", b"?"),
            ("./d.x/1.txt", b"?"),
            ("./d.x/1.json", row("a1")),
            ("2.json", row("a2")),
            ("3.json", row("a3", image="other.jpg")),
            ("3.jpg", b"?"),
        ],
    )
    found = open_rows(tmp_path)
    assert [found.value(index) for index in range(len(found))] == [
        {"id": "a1", "image": "d.x/1.input.jpg"},
        {"id": "a2"},
        {"id": "a3", "image": "other.jpg"},
        {"id": "b1", "image": "1.PNG"},
        [],
    ]
    assert [found.line(index) for index in range(5)] == [1, 2, 3, 4, 5]
    assert found.where(3) == f"{tmp_path / 'b.tar'}, 1.json"
    assert list(pickle.loads(pickle.dumps(open_rows(tmp_path / "b.tar")))[:1]) == [{"id": "b1", "image": "1.PNG"}]
    with pytest.raises(RowError, match=r"b\.tar, odd\.json holds list"):
        found[4]
    with pytest.raises(RowError, match="carries no rows"):
        open_rows(tar_of(tmp_path / "c.tar", [("1.jpg", b"?")]))
