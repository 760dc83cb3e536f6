"""A night of captions: nothing lost when it stops, nothing done twice, nothing stopped by one bad file."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from dclocal import cli
from dclocal.caption import find_media, read_done
from dclocal.chat import ChatSession
from dclocal.errors import UserError
from dclocal.fake import FakeLLM, FakeVision, fake_bundle


@pytest.fixture
def album(tmp_path: Path) -> Path:
    """Three pictures, one of them damaged, a note, a hidden file, and a folder with one more."""
    folder = tmp_path / "album"
    (folder / "more").mkdir(parents=True)
    for name, colour in (("b.png", "red"), ("a.jpg", "blue"), ("more/d.PNG", "green")):
        Image.new("RGB", (20, 10), colour).save(folder / name)
    (folder / "c.png").write_bytes((folder / "b.png").read_bytes()[:40])
    (folder / "notes.txt").write_text("not a picture")
    (folder / ".hidden.png").write_bytes((folder / "b.png").read_bytes())
    return folder


@pytest.fixture
def caption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Runs the command line on a scripted model that numbers its answers; returns the exit status."""
    answers = [f"answer {number}" for number in range(1, 20)]

    def run(*arguments: object) -> int:
        chat = ChatSession(fake_bundle(tmp_path), FakeVision(), FakeLLM(answers, 400))
        chat.llm.answers = answers  # type: ignore[attr-defined]
        monkeypatch.setitem(cli.COMMANDS, "caption", ("dclocal.commands.caption:caption", "Describe many files."))
        monkeypatch.setattr("dclocal.commands.caption.open_chosen", lambda *_, **__: chat)
        monkeypatch.setattr("dclocal.workers.MOST", 1)  # so that answers are given in the files' order
        return cli.run(["caption", *map(str, arguments)])

    return run


def lines(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]


def test_a_line_each_in_order(caption: Callable[..., int], album: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert caption(album, album / "b.png", "--recursive") == 0
    captured = capsys.readouterr()
    found = lines(captured.out)
    assert [line["path"] for line in found] == [str(album / name) for name in ("a.jpg", "b.png", "c.png", "more/d.PNG")]
    assert [line.get("answer") for line in found] == ["answer 1", "answer 2", None, "answer 3"]
    assert "c.png" in str(found[2]["error"]) and found[2]["kind"] == "image"
    assert all(isinstance(line["ms"], float) for line in found if "answer" in line)
    assert "4 files in" in captured.err and "1 failed" in captured.err


def test_it_goes_on_where_it_stopped(
    caption: Callable[..., int], album: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The power went while a line was written."""
    out = tmp_path / "captions.jsonl"
    assert caption(album, "--out", out) == 0
    whole = lines(out.read_text())
    rows = out.read_bytes().splitlines(keepends=True)
    out.write_bytes(rows[0] + rows[1][:-10])
    assert caption(album, "--out", out) == 0
    again = lines(out.read_text())
    assert [line["path"] for line in again] == [line["path"] for line in whole]
    assert again[0] == whole[0] and again[1]["answer"] == "answer 3"
    before = out.read_bytes()
    assert caption(album, "--out", out) == 0
    assert out.read_bytes() == before
    captured = capsys.readouterr()
    assert "nothing to do: 3 found, 3 done already" in captured.err and captured.out == ""


def test_other_files_are_not_touched(tmp_path: Path) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("dear diary\nfine weather\n")
    with pytest.raises(UserError, match="line 1 of .* is not a line of ours"):
        read_done(notes)
    assert notes.read_text() == "dear diary\nfine weather\n"


def test_what_is_found(album: Path) -> None:
    assert find_media([str(album)], recursive=False) == [str(album / name) for name in ("a.jpg", "b.png", "c.png")]
    named = [str(album / "notes.txt"), str(album), str(album / "a.jpg")]
    assert find_media(named, recursive=False)[0] == str(album / "notes.txt") and len(find_media(named, False)) == 4
    with pytest.raises(UserError, match="nowhere does not exist"):
        find_media([str(album / "nowhere")], recursive=True)


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed: apt-get install ffmpeg")
def test_videos_too(caption: Callable[..., int], album: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = ["-f", "lavfi", "-i", "testsrc2=s=64x48:r=25:d=1"]
    subprocess.run(["ffmpeg", "-v", "error", *source, "-pix_fmt", "yuv420p", album / "clip.mp4"], check=True)
    (album / "empty.mkv").touch()
    assert caption(album / "clip.mp4", album / "empty.mkv", "--frames", 3) == 0
    clip, empty = lines(capsys.readouterr().out)
    assert (clip["kind"], clip["frames"], clip["image_tokens"]) == ("video", 3, 12)
    assert empty["kind"] == "video" and "is empty" in str(empty["error"])
