"""Questions about videos: what is shown of them must be what was wanted, and no more where less is the baseline."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from dclocal.chat import ChatSession
from dclocal.commands import evaluate as command
from dclocal.eval_score import headline, score_json
from dclocal.eval_test import EvalError, Question, read_test
from dclocal.eval_videos import Videos
from dclocal.evaluate import folder_loader, run_test
from dclocal.fake import FakeLLM, FakeVision, fake_bundle
from dclocal.progress import silent
from dclocal.prompt import Embeds
from dclocal.video import import_cv2

cv2 = import_cv2()

ROW = {"video": "a.avi", "question": "what?", "answers": ["yes"]}
SIZE = (48, 32)


def write_rows(folder: Path, *rows: object) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def write_video(file: Path, shades: Sequence[int]) -> None:
    """A frame of each shade, 8 a second, losslessly."""
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter_fourcc(*"FFV1"), 8.0, SIZE)
    for shade in shades:
        writer.write(np.full((SIZE[1], SIZE[0], 3), shade, np.uint8))
    writer.release()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two questions about one video and one about another, sixteen frames each; all frames differ."""
    folder = write_rows(tmp_path / "t", ROW, {**ROW, "question": "and?"}, {**ROW, "video": "b.avi"})
    write_video(folder / "a.avi", range(10, 170, 10))
    write_video(folder / "b.avi", range(170, 10, -10))
    return folder


class Watched(FakeLLM):
    """Keeps how many rows of each picture every prompt had."""

    def __init__(self, n_ctx: int = 600):
        super().__init__(["yes"] * 20, n_ctx)
        self.shown: list[list[int]] = []

    def prefill(self, segments: Any) -> Any:
        self.shown.append([len(one) for one in segments if isinstance(one, Embeds)])
        return super().prefill(segments)


class Seen(FakeVision):
    """Keeps the pixels of every picture, as values from 0 to 255."""

    def __init__(self) -> None:
        super().__init__()
        self.pixels: list[np.ndarray] = []

    def encode(self, pixels: np.ndarray) -> np.ndarray:
        self.pixels += [(picture * 0.5 + 0.5) * 255 for picture in pixels]
        return super().encode(pixels)

    @property
    def shades(self) -> list[int]:
        return [round(float(picture[:, 8, 8].mean())) for picture in self.pixels]


def run(folder: Path, *, n_ctx: int = 600, blind: bool = False, **shown: Any) -> tuple[Any, Seen, Watched]:
    vision, llm = Seen(), Watched(n_ctx)
    session = ChatSession(fake_bundle(folder), vision, llm)
    videos = Videos(folder, **shown)
    questions = read_test(folder)
    score = run_test("t", questions, folder_loader(folder), session, videos=videos, blind=blind, progress=silent)
    return score, vision, llm


def test_a_video_is_shown_as_the_bundles_frames(folder: Path) -> None:
    score, vision, llm = run(folder)
    assert (score.asked, score.right, score.groups["questions"].asked) == (3, 3, 3)
    assert llm.shown == [[4] * 8] * 3
    # The centres of eight parts of two seconds: frames 1, 3 … 15; encoded once for two questions.
    assert vision.shades == [*range(20, 180, 20), *range(160, 0, -20)]


def test_frames_of_the_users_choice(folder: Path) -> None:
    _, vision, llm = run(folder, frames=2)
    assert llm.shown == [[4, 4]] * 3 and vision.shades == [50, 130, 130, 50]


def test_the_middle_frame_is_one_picture(folder: Path) -> None:
    score, vision, llm = run(folder, middle_frame=True)
    assert llm.shown == [[4]] * 3 and vision.shades == [90, 90]  # frame 8 begins with the second second
    assert score_json(score)["middle_frame"] is True and "with the middle frame alone" in headline(score)


@pytest.mark.parametrize("middle_frame", [False, True])
def test_blind_shows_grey_frames(folder: Path, middle_frame: bool) -> None:
    """As many and as large as the true ones, so that the prompt differs in nothing else."""
    score, vision, llm = run(folder, blind=True, middle_frame=middle_frame)
    assert llm.shown == ([[4]] if middle_frame else [[4] * 8]) * 3
    grey = np.concatenate([picture.ravel() for picture in vision.pixels])
    assert grey.min() == grey.max() and round(float(grey[0])) == 128
    assert vision.encoded_images == 1
    assert score.blind and "grey" in headline(score)


def test_pictures_and_videos_in_one_test(tmp_path: Path, folder: Path) -> None:
    picture = {"image": "p.png", "question": "colour?", "answers": ["yes"], "group": "pictures"}
    Image.new("RGB", SIZE, (200, 200, 200)).save(folder / "p.png")
    write_rows(folder, picture, {**ROW, "group": "videos"})
    score, _, llm = run(folder, frames=3)
    assert llm.shown == [[4], [4, 4, 4]] and {name: one.asked for name, one in score.groups.items()} == {
        "pictures": 1,
        "videos": 1,
    }


def test_a_broken_video_is_named_and_the_rest_asked(folder: Path) -> None:
    (folder / "a.avi").write_bytes(b"RIFF no video at all")
    for shown in ({}, {"middle_frame": True}):
        score, _, _ = run(folder, **shown)
        assert (score.asked, list(score.broken)) == (1, ["a.avi"])
        assert "no video track" in score.broken["a.avi"]


def test_frames_that_do_not_fit_are_told_with_the_line(folder: Path) -> None:
    with pytest.raises(EvalError, match="question on line 1 cannot be asked: 40 frames .* at most"):
        run(folder, n_ctx=90, frames=40)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({**ROW, "image": "a.png"}, "line 2 has both an image and a video"),
        ({"question": "what?", "answers": ["yes"]}, "line 2 has neither an image nor a video"),
        ({**ROW, "video": ""}, "line 2: video is ''"),
        ({**ROW, "video": None}, "line 2: video is None"),
        ({**ROW, "video": "../a.avi"}, "line 2: the video '../a.avi' leaves the folder"),
        ({**ROW, "video": "/dev/video0"}, "line 2: the video '/dev/video0' leaves the folder"),
        ({**ROW, "video": "out/a.avi"}, "line 2: the video 'out/a.avi' is a link out of the folder"),
    ],
)
def test_rows_have_a_picture_or_a_video_of_the_folder(tmp_path: Path, wrong: object, told: str) -> None:
    folder = write_rows(tmp_path / "t", ROW, wrong)
    os.symlink(tmp_path, folder / "out")
    with pytest.raises(EvalError, match=told):
        read_test(folder)
    assert read_test(folder, limit=1) == [Question("", "what?", ("yes",), line=1, video="a.avi")]


def test_the_command_about_videos(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    llm = Watched()

    def sessions(*_: object) -> Iterator[ChatSession]:
        yield ChatSession(fake_bundle(tmp_path), FakeVision(), llm)

    monkeypatch.setattr(command, "_sessions", sessions)
    out = tmp_path / "out.jsonl"

    def ask(*arguments: str) -> Any:
        return CliRunner().invoke(command.evaluate, [str(folder), "--json", "--out", str(out), *arguments])

    assert json.loads(ask("--frames", "5").stdout)["asked"] == 3 and llm.shown[-1] == [4] * 5
    assert json.loads(ask("--middle-frame").stdout)["middle_frame"] and llm.shown[-1] == [4]
    assert [json.loads(line)["video"] for line in out.read_text().splitlines()] == ["a.avi", "a.avi", "b.avi"]
    assert "give one" in ask("--middle-frame", "--frames", "2").output
    Image.new("RGB", SIZE).save(folder / "p.png")
    write_rows(folder, {"image": "p.png", "question": "what?", "answers": ["yes"]})
    assert "asks about no video" in str(ask("--middle-frame").exception)
