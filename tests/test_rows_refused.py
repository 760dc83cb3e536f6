"""Files of rows that are bad: refused in one line that names the place, and never read as other rows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dclocal.errors import UserError
from dclocal_train import row_scan
from dclocal_train.rows import RowError, open_rows

pytestmark = pytest.mark.usefixtures("own_home")

BAD = {
    "empty.json": (b"", "is empty"),
    "blank.json": (b" \n\t\n", "is empty"),
    "bom.json": (b"\xef\xbb\xbf", "is empty"),
    "norows.json": (b"[ ]", "holds no rows"),
    "norows.jsonl": (b"\n\n", "holds no rows"),
    "object.json": (b'\n{"a": 1}', "not hold a list: line 2"),
    "cut.json": (b'[{"a": 1},\n{"a": 2},\n{"a": "long te', "truncated at line 3"),
    "cut_comma.json": (b'[{"a": 1},\n', "truncated at line 2"),
    "cut_list.json": (b'[{"a": 1},\n{"a": 2}\n', "truncated at line 3"),
    "broken.json": (b'[{"a": 1},\n{"a": oops},\n{"a": 3}]', "line 2 is not JSON"),
    "broken_inside.json": (b'[{"a": 1},\n{"a":\n2 "b": 3}]', "line 3 is not JSON"),
    "comma.json": (b'[{"a": 1}\n{"a": 2}]', "line 2 is not JSON: a comma"),
    "trailing.json": (b'[{"a": 1},\n]', "line 2 is not JSON"),
    "leading.json": (b'[,{"a": 1}]', "line 1 is not JSON"),
    "after.json": (b'[{"a": 1}]\n{"a": 2}', "line 2 is not JSON: something follows"),
    "latin1.json": ('[{"a": "x"},\n\n{"a": "ü"}]'.encode("latin-1"), "line 3 is not UTF-8"),
    "utf16.json": ('[{"a": "x"}]'.encode("utf-16"), "line 1 is not UTF-8"),
    "cut_character.json": ('[{"a": "x"},\n{"a": "ü'.encode()[:-1], "line 2 is not UTF-8"),
    "deep.json": (b"[" + b"[" * 100_000, "nested too deeply"),
    "broken.jsonl": (b'{"a": 1}\n\n{"a": }\n{"a": 1}', "line 3 is not JSON"),
    "cut.jsonl": (b'{"a": 1}\n{"a": "lo', "line 2: the file is truncated"),
    "two.jsonl": (b'{"a": 1} {"b": 2}\n', "line 1 is not JSON"),
    "latin1.jsonl": ('{"a": 1}\n{"a": "ü"}\n'.encode("latin-1"), "line 2 is not UTF-8"),
    "deep.jsonl": (b"[" * 100_000, "line 1 is nested too deeply"),
    "long_number.jsonl": (b"[" + b"1" * 5000 + b"]\n", "line 1 is not JSON"),
    "rows.csv": (b"a,b", "unknown format"),
    "rows.JSON": (b"[]", "unknown format"),
    "rows": (b"[]", "no ending"),
    "bad.tar": (b"x" * 2000, "cannot be read as a tar file"),
    "empty.tar": (b"", "cannot be read as a tar file"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_end_in_one_clear_line(tmp_path: Path, name: str) -> None:
    data, expected = BAD[name]
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(UserError, match=expected) as caught:
        open_rows(path)
    assert "\n" not in str(caught.value) and " — " in str(caught.value) and str(path) in str(caught.value)
    assert name.endswith(".tar") or isinstance(caught.value, RowError)


def test_missing_files_and_folders_say_so(tmp_path: Path) -> None:
    with pytest.raises(RowError, match="does not exist"):
        open_rows(tmp_path / "none.json")
    with pytest.raises(RowError, match=r"a folder without \.tar files"):
        open_rows(tmp_path)


def test_a_missing_quotation_mark_does_not_read_the_file_into_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_scan, "MAX_ROW_BYTES", 10_000)
    monkeypatch.setattr(row_scan, "CHUNK_BYTES", 1000)
    path = tmp_path / "rows.json"
    path.write_text('[{"a": 1},\n{"a": "open}' + "x " * 1_000_000)
    handle = path.open("rb")
    with pytest.raises(RowError, match="line 2 is not JSON: Unterminated string"):
        row_scan.scan_list(handle, path, 0, lambda *_: None)
    assert handle.tell() < 50_000
    lines = tmp_path / "rows.jsonl"
    lines.write_text('{"a": "' + "x" * 20_000 + '"}\n')
    with pytest.raises(RowError, match="line 1 has more than"):
        open_rows(lines)


def test_a_file_changed_under_way_is_not_read_as_other_rows(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([{"a": 1}] * 5))
    found = open_rows(path)
    path.write_text("[]")
    with pytest.raises(RowError, match="line 1 cannot be read"):
        found[4]
