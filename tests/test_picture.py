"""A picture's tokens: those of AnyRes's tiles in the order in which the model was trained to read them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dclocal.bundle import NEWLINE_FILE, Bundle, ImageSpec, VisionSpec
from dclocal.chat import Answered, ChatSession, PromptReady
from dclocal.errors import BundleError, PromptError
from dclocal.fake import FakeLLM, FakeVision, fake_bundle
from dclocal.images import to_pixels
from dclocal.picture import encode_picture, load_newline, picture_tokens, save_newline
from dclocal_models.answer import embed_pictures, vision_spec
from dclocal_models.vlm import DenseConnectorModel
from tests.tiny import tiny_config, tiny_llm

N = -7  # what the newline embedding holds
HALF = (0.5, 0.5, 0.5)
WIDE = Image.effect_noise((40, 20), 90).convert("RGB")
TALL = WIDE.transpose(Image.Transpose.ROTATE_90)


def spec(*pinpoints: tuple[int, int], newline: bool = True, n_embd: int = 8) -> VisionSpec:
    """Tiles of 16 pixels that give 2×2 tokens each."""
    image = ImageSpec(16, "anyres" if pinpoints else "pad", HALF, HALF, pinpoints)
    named = NEWLINE_FILE if newline and pinpoints else None
    return VisionSpec(image, 4, (2, 2), n_embd, "fake", "fake", newline=named)


class Numbering:
    """An encoder whose embeddings say where they are from: 100·tile + token."""

    def __init__(self) -> None:
        self.calls: list[np.ndarray] = []

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        self.calls.append(pixels)
        numbers = 100 * np.arange(len(pixels))[:, None] + np.arange(4)
        return np.repeat(numbers[:, :, None], 8, axis=2).astype(np.float32)


def anyres_session(folder: Path, *answers: str, n_ctx: int = 400) -> ChatSession:
    manifest = dataclasses.replace(fake_bundle(folder).manifest, vision=spec((32, 16), (16, 32), (32, 32)))
    save_newline(np.full(8, N), folder / NEWLINE_FILE)
    return ChatSession(Bundle(folder, manifest), FakeVision(), FakeLLM(answers, n_ctx))


@pytest.mark.parametrize(
    ("image", "pinpoints", "expected"),
    [
        # the whole, then two tiles side by side, row by row
        (WIDE, [(32, 16), (16, 32)], [0, 1, 2, 3, 100, 101, 200, 201, N, 102, 103, 202, 203, N]),
        # two tiles, one above the other
        (TALL, [(32, 16), (16, 32)], [0, 1, 2, 3, 100, 101, N, 102, 103, N, 200, 201, N, 202, 203, N]),
        # 2×2 tiles: the upper and lower rows saw only the border
        (WIDE, [(32, 32)], [0, 1, 2, 3, 102, 103, 202, 203, N, 300, 301, 400, 401, N]),
        # the same upright: the columns at the left and right
        (TALL, [(32, 32)], [0, 1, 2, 3, 101, 200, N, 103, 202, N, 301, 400, N, 303, 402, N]),
    ],
)
def test_tiles_are_read_in_the_order_worked_out_by_hand(
    image: Image.Image, pinpoints: list[tuple[int, int]], expected: list[int]
) -> None:
    encoder = Numbering()
    found = encode_picture(image, spec(*pinpoints), encoder, np.full(8, N, np.float32))
    assert found.dtype == np.float32 and found.shape == (len(expected), 8)
    np.testing.assert_array_equal(found[:, 0], expected)
    assert len(encoder.calls) == 1  # all tiles in one go: a GPU is not asked tile by tile
    assert picture_tokens(image.size, spec(*pinpoints)) == len(expected)
    bare = encode_picture(image, spec(*pinpoints, newline=False), encoder, None)
    np.testing.assert_array_equal(bare[:, 0], [value for value in expected if value != N])
    assert picture_tokens(image.size, spec(*pinpoints, newline=False)) == len(bare)


def test_tiles_show_the_picture() -> None:
    """The first tile is the whole, stretched and not padded; the others are its halves."""
    encoder = Numbering()
    halves = Image.new("RGB", (40, 20), (255, 0, 0))
    halves.paste((0, 0, 255), (20, 0, 40, 20))
    encode_picture(halves, spec((32, 16)), encoder, np.zeros(8, np.float32))
    (pixels,) = encoder.calls
    assert pixels.shape == (3, 3, 16, 16)
    assert (pixels[0, 0, :, :6] > 0.9).all() and (pixels[0, 2, :, 10:] > 0.9).all()
    assert (pixels[1, 0, :, :14] > 0.9).all() and (pixels[2, 2, :, 2:] > 0.9).all()


def test_one_square_is_as_it_was() -> None:
    encoder = Numbering()
    for fit in ("pad", "stretch"):
        plain = dataclasses.replace(spec(), image=ImageSpec(16, fit, HALF, HALF))
        np.testing.assert_array_equal(encode_picture(WIDE, plain, encoder, None)[:, 0], [0, 1, 2, 3])
        np.testing.assert_array_equal(encoder.calls[-1], to_pixels([WIDE], plain.image))
        assert picture_tokens(WIDE.size, plain) == 4


def test_a_newline_that_the_spec_does_not_name_is_a_fault() -> None:
    for named, given in ((True, None), (False, np.zeros(8, np.float32))):
        with pytest.raises(ValueError, match="newline"):
            encode_picture(WIDE, spec((32, 16), newline=named), Numbering(), given)


def test_a_session_reads_all_tiles_once(tmp_path: Path) -> None:
    chat = anyres_session(tmp_path, "noise", "yes")
    attachment = chat.attach(WIDE)
    events = list(chat.ask("What?", [attachment]))
    assert isinstance(events[-1], Answered) and events[-1].stats.image_tokens == 14
    assert (chat._album.embeds[attachment.key] == N).all(axis=1).nonzero()[0].tolist() == [8, 13]
    again = list(chat.ask("Really?"))
    ready = next(event for event in again if isinstance(event, PromptReady))
    assert ready.prompt_tokens - ready.reused_tokens == len("E\nSuser\nReally?E\nSassistant\n")
    assert chat.vision.encoded_images == 3  # type: ignore[attr-defined]


def test_pictures_that_fill_the_context_are_refused_before_they_are_encoded(tmp_path: Path) -> None:
    chat = anyres_session(tmp_path, "fine", n_ctx=14)
    with pytest.raises(PromptError, match="the picture takes 14 tokens, the context holds 14"):
        list(chat.ask("What?", [chat.attach(WIDE)]))
    chat = anyres_session(tmp_path, "fine", n_ctx=20)
    with pytest.raises(PromptError, match="the 2 pictures take 30 tokens, the context holds 20"):
        list(chat.ask("What?", [chat.attach(WIDE), chat.attach(TALL)]))
    assert chat.vision.encoded_images == 0 and chat.messages == []  # type: ignore[attr-defined]


def test_a_newline_file_is_checked(tmp_path: Path) -> None:
    file = tmp_path / NEWLINE_FILE
    save_newline(np.arange(8), file)
    np.testing.assert_array_equal(load_newline(file, 8), np.arange(8, dtype=np.float32))
    with pytest.raises(BundleError, match=r"float32 \[8\], expected 9"):
        load_newline(file, 9)
    save_newline(np.full(8, np.nan), file)
    with pytest.raises(BundleError, match="finite"):
        load_newline(file, 8)
    file.write_bytes(b"garbage")
    with pytest.raises(BundleError, match="cannot be read"):
        load_newline(file, 8)


def test_a_checkpoint_arranges_its_tokens_as_in_training() -> None:
    """The runtime's way from a picture to embeddings against `DenseConnectorModel.arrange`, which training uses."""
    from dclocal.anyres import to_tiles, token_order

    pinpoints = ((112, 56), (56, 112), (112, 112))
    torch.manual_seed(0)
    model = DenseConnectorModel(dataclasses.replace(tiny_config(), fit="anyres", pinpoints=pinpoints), tiny_llm())
    found = embed_pictures(model, [WIDE, TALL, Image.new("RGB", (30, 30))])
    for image, embeds in zip((WIDE, TALL), found):
        pixels = to_pixels(to_tiles(image, pinpoints, 56), vision_spec(model).image)
        order = torch.from_numpy(token_order(image.size, pinpoints, 56, model.connector.token_grid))
        with torch.no_grad():
            expected = model.arrange(model.encode_images(torch.from_numpy(pixels)), order)
        torch.testing.assert_close(embeds, expected)
        assert len(embeds) == picture_tokens(image.size, vision_spec(model))
