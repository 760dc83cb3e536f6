"""The history: what was said is there after a crash, from several programs at once, and can be found and taken out."""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from PIL import Image

from dclocal import history as module
from dclocal.history import GrowingAnswer, History
from dclocal.history_data import HistoryError, MediaFile
from dclocal.history_export import export


def photo(colour: str = "red") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30), colour).save(buffer, "PNG")
    return buffer.getvalue()


def run_python(code: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def test_a_conversation_comes_back(tmp_path: Path) -> None:
    with History(tmp_path) as history:
        session = history.create("A red thing", "dc-tiny")
        history.append(session, "user", "What?", media=[MediaFile("image", "red.png", photo(), b"small")])
        history.append(session, "assistant", "a wall", stats={"ttft_ms": 12.5}, stop_reason="end")
    with History(tmp_path) as history:
        assert history.note == ""
        loaded = history.load(session)
    assert (loaded.info.title, loaded.info.bundle) == ("A red thing", "dc-tiny")
    question, answer = loaded.messages
    assert (question.role, question.text, answer.text, answer.stop_reason) == ("user", "What?", "a wall", "end")
    assert answer.stats == {"ttft_ms": 12.5} and answer.media == ()
    (media,) = question.media
    assert isinstance(media.source, Path) and media.source.read_bytes() == photo()
    assert media.source.parent == tmp_path / "media" and media.source.suffix == ".png"
    assert (media.hash, media.preview) == (hashlib.sha256(photo()).hexdigest(), b"small")


def test_the_last_used_stands_first_and_titles_change(tmp_path: Path) -> None:
    with History(tmp_path) as history:
        first, second = history.create("one"), history.create("two")
        history.append(first, "user", "again")
        history.rename(first, "uno")
        assert [(info.id, info.title) for info in history.sessions()] == [(first, "uno"), (second, "two")]
        assert history.search("one") == [] and history.search("uno")[0].session == first


def test_search_finds_titles_and_messages(tmp_path: Path) -> None:
    with History(tmp_path) as history:
        session = history.create("Holidays in Besançon")
        history.append(session, "user", "What stands on the bridge?")
        message = history.append(session, "assistant", "A heron")
        assert [(hit.position, hit.snippet) for hit in history.search("besanc")] == [(None, "Holidays in [Besançon]")]
        assert history.search("bridge stands")[0].position == 0
        assert history.search("heron")[0].snippet == "A [heron]"
        assert history.search("heron bridge") == [] and history.search(' " OR * (') == []
        history.update(message, "A stork")
        assert history.search("heron") == [] and history.search("stork")[0].position == 1
        history.cut(session, 1)
        assert history.search("stork") == []


def test_deleting_takes_the_copies_that_nobody_else_shows(tmp_path: Path) -> None:
    with History(tmp_path) as history:
        first, second = history.create("a"), history.create("b")
        red, blue = MediaFile("image", "r.png", photo()), MediaFile("image", "b.png", photo("blue"))
        history.append(first, "user", "?", media=[red, blue])
        history.append(second, "user", "?", media=[red])
        assert len(list((tmp_path / "media").iterdir())) == 2
        history.delete(first)
        (kept,) = (tmp_path / "media").iterdir()
        assert kept.read_bytes() == photo()
        with pytest.raises(HistoryError, match="no conversation"):
            history.load(first)
        with pytest.raises(HistoryError, match="no conversation"):
            history.append(first, "user", "?")
        assert history.load(second).messages[0].media[0].source == kept


def test_large_files_are_remembered_by_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dclocal.history_media.MAX_COPY_BYTES", 100)
    film = tmp_path / "film.mp4"
    film.write_bytes(bytes(101))
    with History(tmp_path / "home") as history:
        session = history.create("film")
        history.append(session, "user", "?", media=[MediaFile("video", "film.mp4", film)])
        (media,) = history.load(session).messages[0].media
        assert (media.source, media.hash) == (film, hashlib.sha256(bytes(101)).hexdigest())
    assert not (tmp_path / "home" / "media").exists()
    with History(tmp_path / "home") as history, pytest.raises(ValueError, match="preview"):
        history.append(session, "user", "?", media=[MediaFile("image", "x", None, bytes(70_000))])


def test_many_writers_at_once(tmp_path: Path) -> None:
    """Two programs and two threads in one conversation: nothing is lost, no two messages share a place."""
    code = """
import sys; from pathlib import Path; from dclocal.history import History
with History(Path(sys.argv[1])) as history:
    for number in range(40):
        history.append(int(sys.argv[2]), "user", f"{sys.argv[3]} {number}")
"""
    with History(tmp_path) as history:
        session = history.create("shared")
        programs = [run_python(code, tmp_path, session, name) for name in "ab"]
        threads = [
            threading.Thread(target=lambda: [history.append(session, "user", "t") for _ in range(40)]) for _ in "ab"
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for program in programs:
            assert program.communicate()[1] == "" and program.returncode == 0
        texts = [message.text for message in history.load(session).messages]
    assert len(texts) == 160
    assert [text for text in texts if text[0] == "a"] == [f"a {number}" for number in range(40)]


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_what_was_shown_outlives_a_killed_program(tmp_path: Path) -> None:
    """The program falls silent in mid-answer and is killed: all it showed half a second before is there."""
    code = """
import sys, time; from pathlib import Path; from dclocal.history import GrowingAnswer, History
history = History(Path(sys.argv[1])); session = history.create("cut short"); answer = GrowingAnswer(history, session)
for word in ("the ", "quick ", "fox"):
    answer.add(word); print(word, flush=True)
time.sleep(60)
"""
    program = run_python(code, tmp_path)
    assert program.stdout is not None
    assert "".join(program.stdout.readline().rstrip("\n") for _ in range(3)) == "the quick fox"
    time.sleep(module.SAVE_S + 0.5)
    program.send_signal(signal.SIGKILL)
    program.communicate()
    with History(tmp_path) as history:
        (info,) = history.sessions()
        assert [message.text for message in history.load(info.id).messages] == ["the quick fox"]
        assert history.note == ""


def test_a_growing_answer_is_not_written_for_every_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with History(tmp_path) as history:
        written: list[str] = []
        update = history.update
        monkeypatch.setattr(history, "update", lambda *a, **k: (written.append(a[1]), update(*a, **k)))
        answer = GrowingAnswer(history, history.create("x"))
        for _ in range(120):
            answer.add("a")
            time.sleep(0.01)
        answer.finish(stop_reason="cancelled")
        assert 2 <= len(written) <= 5 and written[-1] == "a" * 120
        time.sleep(module.SAVE_S + 0.2)
        assert history.load(1).messages[0].stop_reason == "cancelled"


@pytest.mark.parametrize("damage", ["header", "middle", "text"])
def test_a_damaged_database_is_moved_aside(tmp_path: Path, damage: str) -> None:
    with History(tmp_path) as history:
        session = history.create("x")
        for number in range(200):
            history.append(session, "user", f"{number} " * 50)
    file = tmp_path / "history.db"
    data = bytearray(file.read_bytes())
    if damage == "header":
        data[:16] = bytes(16)
    elif damage == "middle":
        data[len(data) // 4 : 3 * len(data) // 4] = os.urandom(len(data) // 2)
    else:
        data = bytearray(b"my shopping list\n" * 100)
    file.write_bytes(data)
    with History(tmp_path) as history:
        assert "damaged" in history.note and str(tmp_path / "history-damaged-") in history.note
        assert history.sessions() == []
        history.create("new")
    (aside,) = tmp_path.glob("history-damaged-*.db")
    assert aside.read_bytes() == data
    with History(tmp_path) as history:
        assert history.note == "" and len(history.sessions()) == 1


def test_where_nothing_can_be_written_it_lives_in_memory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with History(tmp_path / "file" / "home") as history:
        assert "in memory" in history.note and str(tmp_path / "file") in history.note
        session = history.create("x")
        history.append(session, "user", "hello", media=[MediaFile("image", "r.png", photo(), b"small")])
        assert history.search("hello") and history.load(session).messages[0].media[0].preview == b"small"


def test_a_newer_history_is_left_alone(tmp_path: Path) -> None:
    with History(tmp_path) as history:
        history.create("x")
    with sqlite3.connect(tmp_path / "history.db") as database:
        database.execute("PRAGMA user_version = 99")
    database.close()
    with History(tmp_path) as history:
        assert "version 99" in history.note and "memory" in history.note
    assert not list(tmp_path.glob("*damaged*"))


@pytest.mark.parametrize("suffix", [".md", ".json"])
def test_export_brings_the_pictures(tmp_path: Path, suffix: str) -> None:
    gone = MediaFile("image", "gone [1].png", tmp_path / "none.png", b"small")
    with History(tmp_path) as history:
        session = history.create("A red\nthing", "dc-tiny")
        history.append(session, "user", "What?", media=[MediaFile("image", "red one.png", photo()), gone])
        history.append(session, "assistant", "a wall", stop_reason="end")
        files = export(history.load(session), tmp_path / "out" / f"talk{suffix}")
    text = files[0].read_text(encoding="utf-8")
    digest = hashlib.sha256(photo()).hexdigest()
    copy = tmp_path / "out" / "talk_media" / f"red_one-{digest[:8]}.png"
    assert files[1] == copy and copy.read_bytes() == photo()
    assert files[2].read_bytes() == b"small" and files[2].name.endswith("-preview.jpg")
    if suffix == ".md":
        assert text.startswith("# A red thing\n\ndc-tiny, 20")
        assert f"![red one.png](talk_media/{copy.name})" in text and "![gone \\[1\\].png](talk_media/" in text
        assert text.index("What?") < text.index("a wall")
    else:
        data = json.loads(text)
        assert data["messages"][0]["media"][0]["file"] == f"talk_media/{copy.name}"
        assert data["messages"][1]["text"] == "a wall"
