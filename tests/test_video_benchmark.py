"""The benchmark of videos: what it counts must be the work that was done, in every run and from the beginning."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from dclocal.chat import ChatSession
from dclocal.commands.bench import bench
from dclocal.errors import PromptError
from dclocal.fake import FakeLLM, FakeVision, fake_bundle
from dclocal.progress import silent
from dclocal.video import VideoError, VideoReader, import_cv2
from dclocal.video_benchmark import QUESTIONS, CountedVision, measure_video, write_test_card

RUNS = 3


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds, 60 frames, none like another."""
    file = tmp_path_factory.mktemp("clip") / "clip.mp4"
    write_test_card(file, 64, 48, seconds=2)
    return file


def scripted(folder: Path, n_ctx: int = 1000) -> ChatSession:
    return ChatSession(fake_bundle(folder), FakeVision(), FakeLLM(["yes"] * 40, n_ctx))


def test_the_counts_are_of_one_run(tmp_path: Path, clip: Path) -> None:
    session = scripted(tmp_path)
    found = measure_video(session, clip, RUNS, silent, frames=6)
    counts = found.counts
    assert (counts.frames_shown, counts.frames_encoded, counts.encoder_calls) == (6, 6, 2)  # four at a time
    # Centres of six parts of 60 frames are 5, 15 … 55; frame 56 is looked at to know that 55 is still shown.
    assert counts.frames_decoded == 57
    assert counts.tokens_per_frame == 4
    frames = "####\n" * 6
    assert counts.tokens_prefilled == len(f"Suser\n{frames}{QUESTIONS[0]}E\nSassistant\n")
    # The second question finds the frames in the cache, and the one character that was answered.
    assert counts.tokens_prefilled_second == len(f"E\nSuser\n{QUESTIONS[1]}E\nSassistant\n")


def test_each_run_begins_anew(tmp_path: Path, clip: Path) -> None:
    """Else the second run's frames would be in the cache, and the medians too good to be true."""
    session = scripted(tmp_path)
    counts = measure_video(session, clip, RUNS, silent, frames=6).counts
    each = counts.tokens_prefilled + counts.tokens_prefilled_second
    emptied = 1  # a token of something else
    assert session.llm.evaluated_tokens == (RUNS + 1) * (each + emptied)  # type: ignore[attr-defined]
    assert session.vision.encoded_images == (RUNS + 1) * 2 * 6  # type: ignore[attr-defined]


def test_every_stage_has_its_spread(tmp_path: Path, clip: Path) -> None:
    found = measure_video(scripted(tmp_path), clip, RUNS, silent, frames=6)
    assert [one.name for one in found.measures] == [
        "decode 57 frames, keep 6",
        "fit 6 frames to the encoder",
        "encode 6 frames",
        "these three, decoding beside encoding",
        f"prefill {found.counts.tokens_prefilled} tokens",
        "first question, first token",
        "second question, first token",
    ]
    assert all(one.unit == "ms" and 0 < one.low <= one.median <= one.high for one in found.measures)
    prefill, first = found.measures[4:6]
    assert prefill.low <= first.high
    assert found.video.startswith("64×48, ") and found.video.endswith("30 frames/s, 2.0 s")


def test_what_does_not_fit_is_refused(tmp_path: Path, clip: Path) -> None:
    with pytest.raises(PromptError, match="50 frames of 1 tokens"):
        measure_video(scripted(tmp_path, n_ctx=100), clip, 1, silent, frames=50)
    with pytest.raises(VideoError, match="does not exist"):
        measure_video(scripted(tmp_path), tmp_path / "none.mp4", 1, silent)


def test_calls_and_pictures_are_counted() -> None:
    vision = CountedVision(FakeVision())
    for count in (3, 1):
        assert vision.encode(np.zeros((count, 3, 16, 16), np.float32)).shape == (count, 4, 8)
    assert (vision.calls, vision.pictures) == (2, 4)


def test_a_video_without_ffmpeg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    file = tmp_path / "bar.mp4"
    write_test_card(file, 64, 48, seconds=2)
    with VideoReader(file) as reader:
        assert (reader.info.width, reader.info.height, reader.info.frame_count, reader.info.fps) == (64, 48, 60, 30)
    cv2 = import_cv2()
    capture, before = cv2.VideoCapture(str(file)), None
    for _ in range(60):
        read, frame = capture.read()
        assert read and (before is None or np.abs(frame.astype(int) - before).mean() > 1)
        before = frame.astype(int)


def test_the_command_prints_counts_and_times(tmp_path: Path, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[int] = []

    def opened(bundle: object, *, threads: int, seen: list[int] = threads) -> ChatSession:
        seen.append(threads)
        return scripted(tmp_path)

    monkeypatch.setattr("dclocal.store.open_bundle", lambda name, progress: None)
    monkeypatch.setattr("dclocal.session.open_session", opened)
    arguments = ["--video", str(clip), "--frames", "6", "--runs", "1"]
    found = json.loads(CliRunner().invoke(bench, [*arguments, "--json"], catch_exceptions=False).stdout)
    assert (found["frames_decoded"], found["encoder_calls"], found["tokens_per_frame"]) == (57, 2, 4)
    assert len(found["measures"]) == 7 and found["threads"] == threads[0] > 0 and found["machine"]["cores"] > 0
    text = CliRunner().invoke(bench, arguments, catch_exceptions=False).stdout
    assert "encoder calls" in text and "second question, first token" in text and "threads" in text


def test_without_a_file_a_minute_is_made(tmp_path: Path, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--video` may stand alone before another option."""
    made: list[Path] = []

    def write(file: Path) -> None:
        made.append(file)
        file.write_bytes(clip.read_bytes())

    monkeypatch.setattr("dclocal.store.open_bundle", lambda name, progress: None)
    monkeypatch.setattr("dclocal.session.open_session", lambda bundle, threads: scripted(tmp_path))
    monkeypatch.setattr("dclocal.video_benchmark.write_test_card", write)
    ran = CliRunner().invoke(bench, ["--video", "--runs", "1", "--json"], catch_exceptions=False)
    assert json.loads(ran.stdout)["frames_shown"] == 16 and len(made) == 1 and not made[0].exists()
