"""The saved index of a file of rows: used for the same file alone, and where it cannot be kept, nothing stops."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dclocal_train import rows, saved_index
from dclocal_train.rows import open_rows

pytestmark = pytest.mark.usefixtures("own_home")


def test_the_index_is_read_back_only_for_the_same_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([{"a": 1}, {"a": 2}]))
    assert [row["a"] for row in open_rows(path)] == [1, 2]
    (kept,) = saved_index.folder().iterdir()
    with monkeypatch.context() as patch:
        patch.setitem(rows.SCANS, ".json", lambda *_: pytest.fail("the index was built again"))
        assert [row["a"] for row in open_rows(path)] == [1, 2]
    path.write_text(json.dumps([{"a": 3}, {"a": 4}]))  # as long as before
    os.utime(path, ns=(0, 1))
    assert [row["a"] for row in open_rows(path)] == [3, 4]
    (kept_now,) = saved_index.folder().iterdir()
    assert kept_now != kept  # the old one is gone
    for damage in (kept_now.read_bytes()[:-100], b"", b"junk"):
        kept_now.write_bytes(damage)
        assert [row["a"] for row in open_rows(path)] == [3, 4]
    np.savez(kept_now, offsets=np.array([object()]), lengths=np.zeros(1), lines=np.zeros(1))
    assert [row["a"] for row in open_rows(path)] == [3, 4]


def test_a_home_that_cannot_be_written_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests may run as root, whom no permission stops: a file in the folder's place stops everybody."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DCLOCAL_HOME", str(tmp_path / "file"))
    path = tmp_path / "rows.json"
    path.write_text('[{"a": 1}]')
    assert open_rows(path)[0] == {"a": 1}


def test_an_index_cut_short_by_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(file: Any, **arrays: Any) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    path = tmp_path / "rows.json"
    path.write_text('[{"a": 1}]')
    assert open_rows(path)[0] == {"a": 1}
    assert list(saved_index.folder().iterdir()) == []
