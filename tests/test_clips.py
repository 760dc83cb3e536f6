"""The test of clips: what it calls right must be what the pixels show, found again by contours, colours and places."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from dclocal.chat import ChatSession
from dclocal.eval_test import read_test
from dclocal.eval_videos import Videos
from dclocal.evaluate import folder_loader, run_test
from dclocal.fake import FakeLLM, FakeVision, fake_bundle
from dclocal.progress import silent
from dclocal.video import import_cv2

cv2 = import_cv2()

CYCLES = 4
MARKS = {"dog": (0, 190, 190), "car": (190, 0, 190), "key": (150, 230, 0), "owl": (0, 60, 120)}
PALETTE = {
    "red": (215, 35, 40),
    "yellow": (245, 215, 45),
    "green": (45, 150, 60),
    "blue": (40, 85, 210),
    "black": (18, 18, 18),
    "white": (250, 250, 250),
}


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The test of videos with four "emoji", each an ellipse in a colour of its own; CYCLES pairs of each kind."""
    tests = pytest.importorskip("dclocal_train.synthetic.clip_tests")
    folder: Path = tmp_path_factory.mktemp("clips")
    tests.video_test(drawings(folder / "things"), folder, 2 * CYCLES * len(tests.KINDS))
    return folder


def drawings(folder: Path) -> list[Any]:
    things = pytest.importorskip("dclocal_train.synthetic.things")
    folder.mkdir()
    found = []
    for name, colour in MARKS.items():
        picture = Image.new("RGBA", (200, 130))
        ImageDraw.Draw(picture).ellipse((0, 0, 199, 129), fill=(*colour, 255))
        picture.save(folder / f"{name}.png")
        found.append(
            things.Thing(f"emoji:{name}", name, (f"one {name}",), "google", "x", folder / f"{name}.png", "train")
        )
    return found


def rows_of(folder: Path, group: str) -> list[tuple[dict[str, Any], list[np.ndarray]]]:
    lines = [json.loads(line) for line in (folder / "questions.jsonl").read_text(encoding="utf-8").splitlines()]
    return [(row, decoded(folder / row["video"])) for row in lines if row["group"] == group]


def decoded(file: Path) -> list[np.ndarray]:
    """Its frames, RGB."""
    capture, frames = cv2.VideoCapture(str(file)), []
    while True:
        read, frame = capture.read()
        if not read:
            return frames
        frames.append(frame[..., ::-1].astype(int))


def seen(frame: np.ndarray) -> list[tuple[str, str, tuple[float, float]]]:
    """The things in a frame: what each is, its colour and its centre, from the left."""
    mask = (np.abs(frame - frame[1, 1]).sum(2) > 100).astype(np.uint8)
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    found = []
    for contour in contours:
        if cv2.contourArea(contour) > 500:
            inner = cv2.erode(cv2.drawContours(np.zeros_like(mask), [contour], -1, 1, -1), np.ones((9, 9)))
            colour = np.median(frame[inner > 0], axis=0)
            moments = cv2.moments(contour)
            centre = moments["m10"] / moments["m00"], moments["m01"] / moments["m00"]
            found.append((what(contour, colour), nearest(colour, PALETTE), centre))
    return sorted(found, key=lambda one: one[2])


def nearest(colour: np.ndarray, known: dict[str, tuple[int, int, int]]) -> str:
    return min(known, key=lambda name: float(np.linalg.norm(colour - known[name])))


def what(contour: np.ndarray, colour: np.ndarray) -> str:
    """A mark by its colour, a shape by how much of its hull, its box and a circle of its girth it fills."""
    if (name := nearest(colour, MARKS | PALETTE)) in MARKS:
        return name
    area = cv2.contourArea(contour)
    solid = area / cv2.contourArea(cv2.convexHull(contour))
    boxed = area / np.prod(cv2.minAreaRect(contour)[1])
    if solid < 0.82:
        return "star" if solid < 0.6 else "cross"
    if boxed > 0.9 or boxed < 0.6:
        return "square" if boxed > 0.9 else "triangle"
    girth = cv2.arcLength(cv2.convexHull(contour), True)
    return "circle" if 4 * np.pi * area / girth**2 > 0.95 else "heart"


def test_clips_are_two_seconds_long(clips: Path) -> None:
    capture = cv2.VideoCapture(str(clips / "00000.avi"))
    assert (capture.get(cv2.CAP_PROP_FPS), capture.get(cv2.CAP_PROP_FRAME_COUNT)) == (8, 16)
    assert decoded(clips / "00000.avi")[15].shape == (336, 336, 3)


@pytest.mark.parametrize("group", ["moved left or right", "moved up or down"])
def test_which_way_it_moved(clips: Path, group: str) -> None:
    for row, frames in rows_of(clips, group):
        ways = [seen(frame) for frame in frames]
        assert all(len(one) == 1 and one[0][0] in row["question"] for one in ways), row
        places = np.array([one[0][2] for one in ways])
        x, y = places[-1] - places[0]
        way = ("right" if x > 0 else "left") if abs(x) > abs(y) else ("down" if y > 0 else "up")
        assert way == row["answers"][0] and max(abs(x), abs(y)) > 150 and min(abs(x), abs(y)) < 2, row
        assert np.abs(np.diff(places, axis=0)).max() < 20  # no jump
        assert abs(places[8][int(way in ("up", "down"))] - 168) < 20  # halfway it is in the middle


def test_what_appeared(clips: Path) -> None:
    for row, frames in rows_of(clips, "what appeared"):
        before, after = seen(frames[7]), seen(frames[8])
        assert len(seen(frames[0])) == len(before) == 1 and len(after) == len(seen(frames[15])) == 2, row
        (new,) = {one[0] for one in after} - {before[0][0]}
        assert new == row["answers"][0] and before[0][0] in row["question"], row


def test_how_many_at_the_end(clips: Path) -> None:
    for row, frames in rows_of(clips, "how many at the end"):
        assert str(len(seen(frames[15]))) == row["answers"][0] != str(len(seen(frames[0]))), row


def test_how_many_shapes_were_shown(clips: Path) -> None:
    for row, frames in rows_of(clips, "how many shapes"):
        each = [seen(frame) for frame in frames]
        assert all(len(one) == 1 for one in each)
        assert str(len({one[0][0] for one in each})) == row["answers"][0], row
        assert len({one[0][1] for one in each}) == 1


def test_what_came_first(clips: Path) -> None:
    for row, frames in rows_of(clips, "what came first"):
        first, last = seen(frames[0]), seen(frames[15])
        assert len(first) == len(last) == 1 and first[0][0] == row["answers"][0], row
        assert last[0][0] in row["question"] and last[0][0] != first[0][0], row


def test_what_colour_at_the_end(clips: Path) -> None:
    for row, frames in rows_of(clips, "color at the end"):
        first, last = seen(frames[0])[0], seen(frames[15])[0]
        assert last[1] == row["answers"][0] and first[1] in row["question"] and first[1] != last[1], row
        assert first[0] == last[0] and first[0] in row["question"], row


def test_nothing_is_to_be_had_without_the_frames(clips: Path) -> None:
    """The majority answer to a question text is right in half of the cases, or in a third; and the middle frame is
    already the last picture of as many clips as it is still the first of."""
    session = ChatSession(fake_bundle(clips), FakeVision(), FakeLLM(["?"] * 200, 600))
    questions = read_test(clips)
    score = run_test("t", questions, folder_loader(clips), session, videos=Videos(clips, frames=1), progress=silent)
    for name, tally in score.groups.items():
        assert tally.asked == 2 * CYCLES
        if name.startswith("how many"):
            assert tally.majority <= (2 * CYCLES + 2) // 3 / (2 * CYCLES), name
        else:
            assert tally.majority == 0.5, name
    for group in ("what came first", "color at the end", "how many at the end"):
        early = [seen(frames[8]) == seen(frames[15]) for _, frames in rows_of(clips, group)]
        assert sum(early) == CYCLES, group


def test_the_same_seed_draws_the_same_clips(tmp_path: Path) -> None:
    tests = pytest.importorskip("dclocal_train.synthetic.clip_tests")
    made = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        (tmp_path / name).mkdir()
        tests.video_test(drawings(tmp_path / name / "things"), tmp_path / name, 4, seed)
        made.append(b"".join((tmp_path / name / f"{index:05d}.avi").read_bytes() for index in range(4)))
    assert made[0] == made[1] != made[2]
