"""Counts, places and texts said in visual tokens: what the connector makes of what its small networks tell."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from dclocal.assemble import NAMES, fill_graph, quantize_vision, word_embeddings
from dclocal.optimize import optimize
from dclocal_export.parts import export_graph, shipped_vision_weights
from dclocal_models.scene_words import CountWords
from dclocal_models.text_words import CHARACTERS, OTHER, TextWords, code_of
from dclocal_train.count_words import Centre, density_of
from dclocal_train.place_fit import spread
from tests.test_export import run_graph
from tests.tiny import tiny_model

GRID, TOKENS_GRID = (8, 8), (4, 4)
BLOCKS_GRID = (4, 6)
"""A grid of visual tokens for counts: blocks of two rows and three columns."""
LEXICON = ("cat", "cart", "art", "tea", "seat")


def text_words() -> TextWords:
    torch.manual_seed(0)
    words = TextWords(width=5, words=len(LEXICON), n_embd=len(LEXICON), grid=GRID, token_grid=TOKENS_GRID)
    words.codes.copy_(torch.tensor([code_of(word) for word in LEXICON]))
    words.names.copy_(torch.eye(len(LEXICON)))
    return words


def line(text: str, begin: float = 1.0, pitch: float = 2.2, sure: float = 0.9) -> tuple[torch.Tensor, torch.Tensor]:
    """One row of a picture: letters' density `[1, 1, 16]` and log-probabilities `[1, 1, 16, characters]`."""
    columns = 16
    density = torch.zeros(1, columns)
    told = torch.full((columns, OTHER + 1), (1 - sure) / OTHER)
    for index, letter in enumerate(text):
        for _, column, _ in spread(density, begin + pitch * index, 0.5):
            told[column] = (1 - sure) / OTHER
            told[column, CHARACTERS.index(letter)] = sure
    return density[None], told.log()[None, None]


@pytest.mark.parametrize("word", LEXICON)
def test_a_word_is_read_off_its_letters(word: str) -> None:
    likely = text_words().likely(*line(word))[0, 0]
    assert LEXICON[int(likely.argmax())] == word and likely.max() > 0.9


@pytest.mark.parametrize(("text", "meant"), [("czt", "cat"), ("sext", "seat"), ("cars", "cart")])
def test_a_word_is_read_with_a_letter_wrong(text: str, meant: str) -> None:
    likely = text_words().likely(*line(text))[0, 0]
    assert LEXICON[int(likely.argmax())] == meant


@pytest.mark.parametrize("text", ["", "zzz", "qqqqqq"])
def test_what_is_no_word_is_not_read(text: str) -> None:
    assert text_words().likely(*line(text, sure=0.999))[0, 0].sum() < 0.1


def test_a_missed_letter_spoils_the_count_from_one_side_only() -> None:
    """Part of a letter's density lost at the left: the count from the right is still true."""
    density, told = line("seat")
    density[..., :3] *= 0.6
    likely = text_words().likely(density, told)[0, 0]
    assert LEXICON[int(likely.argmax())] == "seat"


def test_a_word_is_said_along_its_line_and_nowhere_else() -> None:
    words = text_words()
    density, told = torch.zeros(1, 8, 16), torch.full((1, 8, 16, OTHER + 1), -5.0)
    density[:, 2], told[:, 2] = (each[0] for each in line("tea"))
    words.net.letters = lambda dense: (density, told)  # type: ignore[method-assign]
    said = words(torch.zeros(1, 64, 5)).detach()[0].unflatten(0, TOKENS_GRID)
    loudest = said[..., LEXICON.index("tea")]
    assert loudest[1, :2].min() > 0.8 and loudest[3].abs().max() < 0.1 and loudest[:, 3].abs().max() < 0.1


def test_a_code_names_what_it_cannot_spell() -> None:
    with pytest.raises(ValueError, match="more than 10 letters"):
        code_of("consequences")


def count_words(centres: list[tuple[str, float, float]]) -> dict[str, torch.Tensor]:
    """What the blocks say, `[rows, columns, words]`, by kind; the first part of a name is 0.5 at each thing, the second
    0.25."""
    torch.manual_seed(0)
    rows, columns = BLOCKS_GRID
    words = CountWords(3, 2, 32, (8, 12), BLOCKS_GRID)
    words.numbers.copy_(torch.eye(11, 32))
    words.places.copy_(torch.eye(32)[11:17].view(2, 3, 32))
    words.sides.copy_(torch.eye(32)[17:21].view(2, 2, 32))
    density = density_of([Centre(*each) for each in centres], (8, 12))[None]
    kinds = [name for name, _, _ in centres]
    at = [int(y * rows) * columns + int(x * columns) for _, x, y in centres]
    alike = torch.full((1, rows * columns, rows * columns), -20.0)
    for name, place in zip(kinds, at):
        for other, elsewhere in zip(kinds, at):
            alike[0, place, elsewhere] = 20.0 if name == other else -20.0
    words.net.density = lambda dense, conv_map: density  # type: ignore[method-assign]
    here = torch.zeros(1, rows * columns, 1)
    here[0, at] = 1.0
    names = words.together(here)[:, :, None] * torch.tensor([0.5, 0.25, 0.0])[:, None] * torch.eye(32)[31]
    said = words(names, torch.zeros(1, 96, 3), None, alike).detach()[0]
    told = said.unflatten(0, (rows // 2, columns // 3, 6))
    lanes = {"name": told[:, :, 0, 31:], "second": told[:, :, 1, 31:], "rest": told[:, :, 2]}
    lanes |= {"number": told[:, :, 3, :11], "place": told[:, :, 4, 11:17], "side": told[:, :, 5, 17:21]}
    assert sum(lane.abs().sum() for lane in lanes.values()) == pytest.approx(float(said.abs().sum())), "each in its own"
    return lanes


def test_blocks_follow_one_another_row_by_row() -> None:
    words = CountWords(3, 2, 5, (8, 12), BLOCKS_GRID)
    numbered = torch.arange(24.0).view(1, 24, 1)
    ordered = words.in_order(numbered)[0, :, 0].int().tolist()
    assert ordered[:6] == [0, 1, 2, 6, 7, 8] and ordered[6:12] == [3, 4, 5, 9, 10, 11] and ordered[12] == 12
    assert words.together(numbered)[0, 0, 0] == 0 + 1 + 2 + 6 + 7 + 8


def test_what_a_block_says_twice_is_no_longer_than_a_word() -> None:
    told = count_words([("cat", 0.1, 0.1), ("cat", 0.25, 0.2), ("cat", 0.4, 0.1)])
    assert told["name"][0, 0] == 1 and told["second"][0, 0] == 0.75


def test_each_thing_says_how_many_of_its_kind_there_are() -> None:
    told = count_words([("cat", 0.125, 0.125), ("dog", 0.875, 0.125), ("cat", 0.125, 0.875)])["number"]
    assert told[0, 0].argmax() == 2 and told[1, 0].argmax() == 2 and told[0, 1].argmax() == 1


def test_each_name_stays_in_its_block() -> None:
    told = count_words([("cat", 0.125, 0.125), ("dog", 0.875, 0.625)])["name"]
    assert told[..., 0].tolist() == [[0.5, 0], [0, 0.5]]


def test_each_thing_says_where_it_lies() -> None:
    told = count_words([("cat", 0.125, 0.625), ("dog", 0.875, 0.625)])
    left, middle, right, top, halfway, bottom = told["place"][1, 0].tolist()
    assert left > 0.3 and middle == right == top == 0
    assert bottom / (bottom + halfway) == pytest.approx(0.375, abs=0.05), "a quarter down from the middle"
    sides = told["side"]
    assert sides[1, 0, 0] > 30 * sides[1, 0, 1] and sides[1, 1, 1] > 30 * sides[1, 1, 0]
    assert sides[1, 0, 2] == pytest.approx(float(sides[1, 0, 3])), "neither is above the other"


def test_where_there_is_nothing_nothing_is_said() -> None:
    told = count_words([("cat", 0.125, 0.125)])
    assert all(told[kind][1, 1].abs().max() == 0 for kind in told)


def test_tokens_get_the_length_of_those_of_a_text() -> None:
    words = CountWords(3, 2, 5, (8, 12), BLOCKS_GRID)
    words.length.fill_(3.0)
    torch.testing.assert_close(words.at_length(torch.randn(2, 24, 5)).norm(dim=-1), torch.full((2, 24), 3.0))


def test_a_grid_of_tokens_without_blocks_is_refused() -> None:
    with pytest.raises(ValueError, match=r"blocks of 2 by 3 tokens; token_grid is \(4, 4\)"):
        CountWords(3, 2, 5, GRID, TOKENS_GRID)


@pytest.mark.parametrize("agreed", [False, True])
def test_the_graph_says_the_same_words(agreed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX against PyTorch, filled from what ships; the lexicon's embeddings come from the language model."""
    model = tiny_model("dinov2+efficientnet_lite2", counts=True, texts=3, things=4, agreed=agreed).eval()
    count, text, thing = model.connector.count_words, model.connector.text_words, model.connector.thing_words
    assert count is not None and text is not None and thing is not None
    torch.manual_seed(3)
    for buffer in (count.numbers, count.places, count.sides, text.letters):
        buffer.normal_()
    count.length.fill_(2.0)
    text.codes.copy_(torch.tensor([code_of(word) for word in ("cat", "a", "seat")]))
    table = torch.randn(9, text.names.shape[1])
    text.tokens.copy_(torch.tensor([2, 7, 5]))
    text.names.copy_(table[text.tokens])
    thing.weight.normal_()
    thing.call(torch.tensor([[2, *[-1] * 7], [3, 4, *[-1] * 6], [5, 6, 7, 8, *[-1] * 4], [-1] * 8]), table)
    for net in (count.net, text.net):
        net.leave.bias.data += 3  # so that there is something to say
    export_graph(model, tmp_path / "empty.onnx")
    shipped = shipped_vision_weights(model)
    assert not any(name.endswith(NAMES) for name in shipped)
    tower = {f"vision.{name}": tensor.numpy() for name, tensor in model.vision.state_dict().items()}
    monkeypatch.setattr("dclocal.gguf_merge.token_embeddings", lambda llm: table.numpy())
    weights = {**tower, **shipped, **word_embeddings(shipped, tmp_path)}
    fill_graph(tmp_path / "empty.onnx", weights, tmp_path / "full.onnx")
    size = model.config.vision.image_size
    pixels = torch.randn(3, 3, size, size)  # another number than the export was traced with
    with torch.no_grad():
        expected = model.encode_images(pixels)
        silent = tiny_model("dinov2+efficientnet_lite2", counts=True, texts=3, things=4).eval().encode_images(pixels)
    assert (expected - silent).abs().max() > 0.1
    np.testing.assert_allclose(run_graph(tmp_path / "full.onnx", pixels.numpy()), expected.numpy(), atol=0.05)
    optimize(tmp_path / "full.onnx", tmp_path / "fused.onnx")
    quantize_vision(tmp_path / "fused.onnx", tmp_path / "int8.onnx")
    nodes = onnx.load(tmp_path / "int8.onnx").graph.node
    assert any(node.op_type == "MatMulInteger" for node in nodes)
    assert not any(node.op_type == "MatMulInteger" and "_words" in node.name for node in nodes)
    rounded = [node.name for node in nodes if node.op_type == "MatMulInteger" and "connector" in node.name]
    assert rounded and all("projector" in name for name in rounded), "whatever the nodes are called"
