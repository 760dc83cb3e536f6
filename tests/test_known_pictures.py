"""What is known of pictures from earlier runs: used where it is whole and fits, never where it does not."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dclocal.bundle import MANIFEST
from dclocal.chat import Answered, ChatSession, PromptReady
from dclocal.errors import UserError
from dclocal.fake import FakeVision, fake_bundle
from dclocal.known_pictures import LIMIT, NEWEST, KnownPictures, PictureMemory, known_pictures, start_of
from dclocal.llm import LLM
from dclocal.prompt import Embeds, Tokens

CELLS = [1, 2, ("cat", 0), ("cat", 1)]


@pytest.fixture
def known(tmp_path: Path) -> KnownPictures:
    return opened(tmp_path)


def opened(folder: Path, limit: int = 1 << 20, manifest: str = "{}") -> KnownPictures:
    bundle = fake_bundle(folder)
    (folder / MANIFEST).write_text(manifest)
    return KnownPictures(folder / "pictures", bundle, limit)


def files(folder: Path) -> list[Path]:
    return sorted((folder / "pictures").iterdir())


def some(rows: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, 8)).astype(np.float32)


def test_what_is_kept_is_found_again_by_its_content(known: KnownPictures, tmp_path: Path) -> None:
    width = known._vision.n_embd
    embeds = np.random.default_rng(0).standard_normal((5, width)).astype(np.float32)
    known.keep_embeds("cat", embeds)
    known.keep_state(CELLS, {}, b"state")
    again = opened(tmp_path)
    found = again.embeds("cat")
    assert found is not None
    np.testing.assert_array_equal(found, embeds)
    assert again.embeds("dog") is None
    assert again.state(CELLS, {}) == b"state"
    assert again.state(CELLS[:-1], {}) is None and again.state(CELLS, {"style": 0.5}) is None


def test_the_newest_state_that_began_with_a_picture_is_read_before_its_tokens_are_known(
    known: KnownPictures, tmp_path: Path
) -> None:
    picture = next(cell[0] for cell in CELLS if isinstance(cell, tuple))
    known.keep_state(CELLS[1:], {}, b"older")
    known.keep_state(CELLS, {}, b"newest")
    again = opened(tmp_path)
    again.expect(picture)
    for file in tmp_path.rglob("*.state"):
        file.unlink()
    assert again.state(CELLS, {}) == b"newest"
    assert again.state(CELLS, {}) is None, "it is given once: what llama.cpp refuses is not asked for again"
    known.keep_state(CELLS, {}, b"newest")
    again.expect(picture)
    assert again.state(CELLS[1:], {}) is None and again._expected is None, "what was expected in vain is not held"
    again.expect("another")


def test_what_is_no_state_is_not_read_ahead(known: KnownPictures, tmp_path: Path) -> None:
    for name in (b"../known.state", b"", b"picture.embeds", b"/etc/passwd", b"\xff.state", b"\0.state"):
        known._write(known._named(NEWEST, "cat"), name)
        known.expect("cat")
        assert known._expected is None


def test_another_bundle_knows_nothing_of_it(known: KnownPictures, tmp_path: Path) -> None:
    known.keep_state(CELLS, {}, b"state")
    assert opened(tmp_path, manifest='{"other": 1}').state(CELLS, {}) is None


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: data[:-1] + b"x", lambda data: b""])
def test_what_is_damaged_is_not_known_and_goes(known: KnownPictures, tmp_path: Path, damage: object) -> None:
    known.keep_state(CELLS, {}, b"some state")
    (file,) = tmp_path.rglob("*.state")
    file.write_bytes(damage(file.read_bytes()))  # type: ignore[operator]
    known.expect("cat")
    assert known.state(CELLS, {}) is None and not file.exists()


def test_what_was_used_longest_ago_goes_first(tmp_path: Path) -> None:
    known = opened(tmp_path, limit=3000)
    for number in range(2):
        known.keep_state([number], {}, bytes(1000))
    for age, number in ((50, 0), (90, 1)):
        os.utime(known._named(".state", repr(([number], []))), (age, age))
    assert known.state([1], {}) is not None  # and is used now
    known.keep_state([2], {}, bytes(1000))
    assert [known.state([number], {}) is not None for number in range(3)] == [False, True, True]


def test_a_disk_that_cannot_be_written_is_no_trouble(tmp_path: Path) -> None:
    bundle = fake_bundle(tmp_path)
    (tmp_path / MANIFEST).write_text("{}")
    known = KnownPictures(Path("/proc/none/pictures"), bundle, 1000)
    known.keep_state(CELLS, {}, b"state")
    assert known.state(CELLS, {}) is None


def test_the_bound_is_read_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = fake_bundle(tmp_path)
    (tmp_path / MANIFEST).write_text("{}")
    monkeypatch.setenv(LIMIT, "0")
    assert known_pictures(bundle) is None
    monkeypatch.setenv(LIMIT, "-3")
    with pytest.raises(UserError, match=LIMIT):
        known_pictures(bundle)


def test_a_start_ends_with_the_first_picture() -> None:
    cat, dog = Embeds("cat", some(3)), Embeds("dog", some(2))
    assert start_of([Tokens((1, 2)), cat, Tokens((3,)), dog]) == [1, 2, ("cat", 0), ("cat", 1), ("cat", 2)]
    assert start_of([Tokens((1, 2))]) == [] and start_of([Embeds("film", some(2000))]) == []


@pytest.fixture
def llm(tiny_gguf: Path) -> Iterator[LLM]:
    with LLM(tiny_gguf, n_ctx=512, threads=1) as model:
        yield model


def session(folder: Path, llm: LLM, known: KnownPictures) -> tuple[ChatSession, FakeVision, PictureMemory]:
    bundle, vision, memory = fake_bundle(folder), FakeVision(), PictureMemory(known, llm)
    spec = replace(bundle.manifest.vision, n_embd=llm.n_embd)
    bundle = replace(bundle, manifest=replace(bundle.manifest, vision=spec))
    wide = vision.encode
    vision.encode = lambda pixels: np.tile(wide(pixels), (1, 1, llm.n_embd))[..., : llm.n_embd]  # type: ignore[method-assign]
    return ChatSession(bundle, vision, llm, memory=memory), vision, memory


def asked(chat: ChatSession, picture: Image.Image) -> tuple[PromptReady, Answered]:
    events = list(chat.ask("What", [chat.attach(picture)], max_tokens=5, temperature=0.0))
    ready = next(event for event in events if isinstance(event, PromptReady))
    answered = events[-1]
    assert isinstance(answered, Answered)
    return ready, answered


def test_another_process_neither_encodes_nor_evaluates_a_known_picture(tmp_path: Path, tiny_gguf: Path) -> None:
    picture = Image.new("RGB", (40, 30), "teal")
    answers = []
    for turn in range(2):
        known = opened(tmp_path)
        with LLM(tiny_gguf, n_ctx=512, threads=1) as llm:
            known._vision = replace(known._vision, n_embd=llm.n_embd)
            chat, vision, memory = session(tmp_path, llm, known)
            ready, answered = asked(chat, picture)
            memory.wait()
            answers.append(answered.answer)
            pictures = answered.stats.image_tokens
            assert vision.encoded_images == (1 if turn == 0 else 0)
            assert (ready.reused_tokens >= pictures) == (turn == 1)
            assert answered.stats.image_cached == (turn == 1)
            if turn == 1:
                assert llm.evaluated_tokens <= ready.prompt_tokens - pictures + 5
    assert answers[0] == answers[1]


def test_a_state_that_llama_cpp_does_not_take_is_evaluated_anew(tmp_path: Path, llm: LLM) -> None:
    known = opened(tmp_path)
    known._vision = replace(known._vision, n_embd=llm.n_embd)
    chat, _, memory = session(tmp_path, llm, known)
    picture = Image.new("RGB", (40, 30), "teal")
    _, first = asked(chat, picture)
    memory.wait()
    cells = start_of(chat._past(chat.turns))
    known.keep_state(cells, {}, b"no state of llama.cpp")
    llm.forget()
    again, _, memory = session(tmp_path, llm, known)
    ready, second = asked(again, picture)
    memory.wait()
    assert ready.reused_tokens == 0 and second.answer == first.answer
    assert known.state(cells, {}) != b"no state of llama.cpp"  # which is kept in its place


def test_the_vision_encoder_is_loaded_when_a_picture_needs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import dclocal.vision
    from dclocal.session import LateVision

    loaded = []

    class Encoder(FakeVision):
        def __init__(self, bundle: object, threads: int | None):
            super().__init__()
            loaded.append(threads)

    monkeypatch.setattr(dclocal.vision, "VisionEncoder", Encoder)
    vision = LateVision(fake_bundle(tmp_path), 3)
    vision.wait()
    assert loaded == [] and vision.encoded_images == 0
    vision.encode(np.zeros((2, 3, 4, 4), np.float32))
    vision.encode(np.zeros((1, 3, 4, 4), np.float32))
    vision.load()
    assert loaded == [3] and vision.encoded_images == 3


def test_the_encoder_begins_to_load_with_the_first_picture_that_is_not_known(
    known: KnownPictures, tmp_path: Path
) -> None:
    """While it is decoded; a known one is not even decoded."""
    from dclocal.session import open_pictures

    class Late:
        loads = 0

        def load(self) -> None:
            self.loads += 1

    late, file = Late(), tmp_path / "picture.png"
    Image.new("RGB", (8, 8), "red").save(file)
    (picture,) = open_pictures([str(file)], known, late)  # type: ignore[arg-type]
    assert late.loads == 1
    known.keep_key(file.read_bytes(), picture.key)
    known.keep_embeds(picture.key, np.zeros((1, 8), np.float32))
    (again,) = open_pictures([str(file)], known, late)  # type: ignore[arg-type]
    assert late.loads == 1 and again.key == picture.key
