"""The frames of a video as the app decodes them: which ones, in a thread of their own, and how they are asked for."""

from __future__ import annotations

import subprocess
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dclocal.frames import VideoRequest
from dclocal.video import VideoError
from dclocal_tui.decoder import Decoded, Decoder, Undecoded, Wish, thumbnails
from dclocal_tui.film import Film, film_of, most_frames, request_for
from tests.tui_video import frame_of, needs_ffmpeg

pytestmark = needs_ffmpeg


def test_thumbnails_are_the_frames_that_the_engine_would_take(grey_clip: Path) -> None:
    times = (0.05, 0.11, 0.19, 1.55, 3.99)
    found = list(thumbnails(grey_clip, times, 32, lambda: False))
    assert [wanted for wanted, _ in found] == list(times)
    assert [frame_of(thumbnail) for _, thumbnail in found] == [0, 1, 1, 15, 39]
    assert all(max(thumbnail.image.size) == 32 for _, thumbnail in found)


def test_a_file_that_breaks_off(tmp_path: Path) -> None:
    """An AVI's index says more than the file holds."""
    whole, part = tmp_path / "whole.avi", tmp_path / "part.avi"
    source = ["-f", "lavfi", "-i", "testsrc=d=6:r=10:s=64x48", "-c:v", "mjpeg"]
    subprocess.run(["ffmpeg", "-v", "error", *source, str(whole)], check=True)
    part.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    found: list[Any] = []
    with pytest.raises(VideoError, match="the file breaks off after 0:0"):
        found.extend(thumbnails(part, (0.5, 5.5), 32, lambda: False))


def test_the_decoder_fulfils_the_newest_wish_alone(grey_clip: Path) -> None:
    told: list[Any] = []
    decoder = Decoder(grey_clip, told.append)
    decoder.want(Wish(0.5, (0.05,)))
    decoder.want(Wish(1.05, (2.05, 3.05)))
    thread = threading.Thread(target=decoder.run)
    thread.start()
    while sum(isinstance(message, Decoded) for message in told) < 3:
        assert thread.is_alive()
    decoder.close()
    thread.join(10)
    assert not thread.is_alive()
    found = [(message.large, frame_of(message.thumbnail)) for message in told if isinstance(message, Decoded)]
    assert found == [(True, 10), (False, 20), (False, 30)]


def test_the_decoder_says_what_is_wrong_and_ends(tmp_path: Path) -> None:
    told: list[Any] = []
    Decoder(tmp_path / "none.mp4", told.append).run()
    assert len(told) == 1 and isinstance(told[0], Undecoded) and "does not exist" in told[0].reason


def test_requests() -> None:
    request = VideoRequest(frames=7, fps=2.0, start_s=1.0, tokens_per_frame=4, sample="scene")
    chosen = film_of(10.0, 10.0, request)
    assert (chosen.start_s, chosen.end_s, chosen.cursor_s) == (1.0, 10.0, 1.0)
    expected = replace(request, frames=3, fps=None)
    assert request_for(chosen, 3, request) == expected
    part = chosen.at(0).from_here().at(4.0).until_here()
    assert request_for(part, 3, request) == replace(expected, start_s=None, end_s=4.1)


def test_a_long_video_has_no_more_frames_than_can_be_asked_for() -> None:
    assert most_frames(Film(36_000.0, 30.0, 0.0, 36_000.0), None, None) == 4096
