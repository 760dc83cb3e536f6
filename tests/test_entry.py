"""What is begun before the command line is read: the model that will be asked, or nothing."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from dclocal import entry
from dclocal.background import Begun
from dclocal.places import bundle_folder


@pytest.fixture
def loaded(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Two bundles' language models, and which of them are loaded."""
    for name in ("dc-tiny", "mine"):
        bundle_folder(name).mkdir(parents=True)
        (bundle_folder(name) / "llm.gguf").write_bytes(b"model")
    files: list[Path] = []
    monkeypatch.setattr(entry, "_load", lambda file: files.append(file) or file.parent.name)
    monkeypatch.setattr(entry, "_free", lambda model: files.remove(bundle_folder(model.result()) / "llm.gguf"))
    return files


def model(arguments: list[str]) -> Any:
    """What is loaded for these arguments, asked for as `chat` asks for it."""
    ahead = entry.begin(arguments)
    if ahead is None:
        return None
    begun = ahead.of(ahead._file)
    assert begun is not None
    return begun.result()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["chat", "cat.jpg", "-p", "What?"], "dc-tiny"),
        (["chat", "cat.jpg", "--bundle", "mine"], "mine"),
        (["chat", "--bundle=mine", "cat.jpg"], "mine"),
        (["chat", "--bundle", "mine", "--bundle", "dc-tiny"], "dc-tiny"),
        (["chat", "--bundle"], "dc-tiny"),
        (["chat", "cat.jpg", "--bundle", "nobody"], None),
        (["chat", "cat.jpg", "--bundle", "\0"], None),
        (["chat", "--help"], None),
        (["chat", "cat.jpg", "--checkpoint", "runs/mine"], None),
        (["chat", "cat.jpg", "--checkpoint=runs/mine"], None),
        (["bundle", "list"], None),
        (["--help"], None),
        ([], None),
    ],
)
def test_the_model_that_is_meant_is_loaded(loaded: list[Path], arguments: list[str], expected: str | None) -> None:
    assert model(arguments) == expected
    assert len(loaded) == (expected is not None)


def test_a_bundle_by_its_folder(loaded: list[Path]) -> None:
    folder = bundle_folder("mine")
    assert model(["chat", "cat.jpg", "--bundle", str(folder)]) == "mine" and loaded == [folder / "llm.gguf"]


def test_another_file_has_another_model(loaded: list[Path]) -> None:
    """A bundle that was built anew meanwhile is not answered by the model that lay there before."""
    file = bundle_folder("mine") / "llm.gguf"
    ahead = entry.begin(["chat", "--bundle", "mine"])
    assert ahead is not None
    new = file.with_name("new")
    new.write_bytes(b"other")
    os.replace(new, file)
    assert ahead.of(file) is None and loaded == []


def test_what_nobody_asks_is_given_back(loaded: list[Path]) -> None:
    for file in (bundle_folder("dc-tiny") / "llm.gguf", None):
        ahead = entry.begin(["chat", "--bundle", "mine"])
        assert ahead is not None and ahead.of(file) is None and loaded == []


def test_an_error_is_raised_where_the_result_is_asked_for() -> None:
    def fail() -> None:
        raise ValueError("no such thing")

    begun = Begun(fail)
    for _ in range(2):
        with pytest.raises(ValueError, match="no such thing"):
            begun.result()


def test_an_interrupted_wait_waits_to_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """What llama.cpp works on must not be freed under it."""
    ended = threading.Event()
    begun = Begun(lambda: time.sleep(0.2) or ended.set())
    real, calls = begun._done.wait, []

    def wait() -> None:
        calls.append(1)
        if len(calls) == 1:
            raise KeyboardInterrupt
        real()

    monkeypatch.setattr(begun._done, "wait", wait)
    with pytest.raises(KeyboardInterrupt):
        begun.result()
    assert ended.is_set()
