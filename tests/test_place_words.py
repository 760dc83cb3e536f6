"""Counts, places and texts said in visual tokens: what the connector makes of what its small networks tell."""

from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

from dclocal.assemble import NAMES, fill_graph, quantize_vision, word_embeddings
from dclocal.optimize import optimize
from dclocal_export.parts import export_graph, shipped_vision_weights
from dclocal_models.layers import features_at
from dclocal_models.place_nets import CountNet, PlaceNet, TextNet
from dclocal_models.scene_words import CountWords
from dclocal_models.text_words import CHARACTERS, OTHER, TextWords, code_of
from dclocal_train.config import PlaceNetConfig
from dclocal_train.count_words import Centre, density_of, fit_count_net, fit_count_words
from dclocal_train.place_fit import Pictures, fit, gather, spread
from dclocal_train.stages import prepare_stage
from dclocal_train.text_words import Letter, fit_text_net, fit_text_words, letters_of
from tests.test_export import run_graph
from tests.test_training import stage
from tests.tiny import WORDS, tiny_model, tiny_tokenizer

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
    words.net.alike = lambda features: alike  # type: ignore[method-assign]
    here = torch.zeros(1, rows * columns, 1)
    here[0, at] = 1.0
    names = words.together(here)[:, :, None] * torch.tensor([0.5, 0.25, 0.0])[:, None] * torch.eye(32)[31]
    said = words(names, torch.zeros(1, 96, 3), None, torch.zeros(1, rows * columns, 5)).detach()[0]
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


def random_pictures(count: int, conv_channels: int) -> torch.Tensor:
    torch.manual_seed(1)
    return torch.rand(count, conv_channels, *TOKENS_GRID) + 3


def test_a_network_of_counts_learns_from_scenes() -> None:
    """Features that show each thing's kind at its centre: counts of a kind come out right."""
    source, truths, features = random.Random(0), [], []
    for _ in range(240):
        cells = source.sample([(x, y) for x in range(4) for y in range(4)], source.randint(1, 5))
        kinds = [source.choice("ab") for _ in cells]
        truths.append([Centre(k, (x + 0.5) / 4, (y + 0.5) / 4) for k, (x, y) in zip(kinds, cells)])
        shown = torch.randn(3, *GRID) * 0.1
        for kind, (x, y) in zip(kinds, cells):
            shown["ab".index(kind), 2 * y : 2 * y + 2, 2 * x : 2 * x + 2] += 4
        features.append(shown.flatten(1).T)
    torch.manual_seed(0)
    net = CountNet(3, 2, GRID, TOKENS_GRID)
    pictures = Pictures(torch.stack(features).half(), random_pictures(240, 2).half(), truths)
    fit_count_net(net, pictures, PlaceNetConfig(pictures=240, epochs=30, learning_rate=5e-3, dropout=0.0))
    right = []
    with torch.no_grad():
        for index, centres in enumerate(truths[:40]):
            dense, conv_map = (each[index : index + 1].float() for each in (pictures.dense, random_pictures(240, 2)))
            things = net.things(net.density(dense, conv_map))
            told = net.of_a_kind(things, net.alike(features_at(dense, conv_map, GRID, TOKENS_GRID)))[0]
            for one in centres:
                place = int(one.y * 4) * 4 + int(one.x * 4)
                right.append(round(told[place].item()) == sum(other.name == one.name for other in centres))
    assert np.mean(right) > 0.9


def test_a_network_of_texts_learns_from_letters() -> None:
    source, truths, features = random.Random(0), [], []
    for _ in range(240):
        text = "".join(source.choices("abc", k=source.randint(1, 3)))
        truths.append([Letter(letter, (index * 2 + 1.5) / 8, 0.56) for index, letter in enumerate(text)])
        shown = torch.randn(4, *GRID) * 0.1
        for index, letter in enumerate(text):
            shown["abc".index(letter), 4, index * 2 + 1] += 4
        features.append(shown.flatten(1).T)
    torch.manual_seed(0)
    net = TextNet(4, OTHER + 1, GRID)
    pictures = Pictures(torch.stack(features).half(), None, truths)
    fit_text_net(net, pictures, PlaceNetConfig(pictures=240, epochs=30, learning_rate=5e-3, dropout=0.0))
    with torch.no_grad():
        density, told = net.letters(pictures.dense[:40].float())
    for index, letters in enumerate(truths[:40]):
        assert density[index].sum() == pytest.approx(len(letters), abs=0.5)
        for letter in letters:
            best = told[index, 4, int(letter.x * 16)].argmax()
            assert CHARACTERS[int(best)] == letter.character


def test_normalisation_goes_into_the_network() -> None:
    """After training on normalised features, the network takes them as they are."""
    torch.manual_seed(0)
    dense, conv_map = torch.randn(40, 64, 3) * 5 + 7, torch.randn(40, 2, *TOKENS_GRID) * 3 - 2
    net = CountNet(3, 2, GRID, TOKENS_GRID)
    seen: list[tuple[torch.Tensor, ...]] = []

    def loss(features: torch.Tensor, map_: torch.Tensor | None, rows: torch.Tensor) -> torch.Tensor:
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            seen.append((rows, net.density(features, map_)))
        return net.leave.bias.sum() * 0

    config = PlaceNetConfig(pictures=40, epochs=1, batch_size=8, dropout=0.0, weight_decay=0.0)
    fit(net, Pictures(dense, conv_map, []), config, loss)
    rows, told = seen[-1]
    with torch.no_grad():
        torch.testing.assert_close(net.density(dense[rows], conv_map[rows]), told, atol=1e-4, rtol=1e-3)


def test_a_trained_network_goes_on_from_what_it_is() -> None:
    """Trained on without a step that moves it, on features of another mean and deviation, it says what it said."""
    torch.manual_seed(0)
    dense, conv_map = torch.randn(40, 64, 3) * 5 + 7, torch.randn(40, 2, *TOKENS_GRID) * 3 - 2
    net = CountNet(3, 2, GRID, TOKENS_GRID)

    def told() -> tuple[torch.Tensor, ...]:
        with torch.no_grad():
            return net.density(dense, conv_map), net.alike(features_at(dense, conv_map, GRID, TOKENS_GRID))

    before = told()
    config = PlaceNetConfig(pictures=40, epochs=1, dropout=0.0, learning_rate=1e-9, weight_decay=0.0)
    fit(net, Pictures(dense, conv_map, []), config, lambda *_: net.leave.bias.sum() * 0, goes_on=True)
    for one, other in zip(before, told()):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3)
    fit(net, Pictures(dense, conv_map, []), config, lambda *_: net.leave.bias.sum() * 0)
    assert not torch.allclose(before[0], told()[0], rtol=0.1), "a fresh one begins with features of mean 0"


def test_words_that_are_said_already_are_trained_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The networks go on, and their words stay as loud as they are."""
    import dclocal_train.count_words as counts
    import dclocal_train.text_words as texts

    with_words(monkeypatch, ("red", "blue", "circle"))
    goes_on: list[bool] = []
    monkeypatch.setattr(counts, "fit_count_net", lambda *given: goes_on.append(given[-1]))
    monkeypatch.setattr(texts, "fit_text_net", lambda *given: goes_on.append(given[-1]))
    model = tiny_model("dinov2+efficientnet_lite2", counts=True, texts=3)
    for gain in (3.0, 5.0):
        config = PlaceNetConfig(pictures=1, epochs=1, gain=gain)
        fit_count_words(model, tiny_tokenizer(), config, tmp_path / str(gain), None)
        fit_text_words(model, tiny_tokenizer(), config, tmp_path / str(gain), None)
    assert goes_on == [False, False, True, True]
    assert set(model.connector.count_words.gain.tolist() + model.connector.text_words.gain.tolist()) == {3.0}


def test_pictures_are_numbered_from_the_first_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    import dclocal_train.place_fit as module

    monkeypatch.setattr(module, "features_of", lambda _, pictures: (torch.zeros(len(pictures), 4, 2), None))
    config = PlaceNetConfig(pictures=9, epochs=1, first=30)
    drawn: list[int] = gather(tiny_model(), lambda index: (Image.new("RGB", (1, 1)), index), config, "numbers").truths
    assert drawn == list(range(30, 39))


def test_letters_lie_where_they_stand() -> None:
    density, characters = letters_of([Letter("a", 0.26, 0.5), Letter("?", 0.8, 0.5)], (8, 16))
    assert density.sum() == pytest.approx(2)
    assert characters[3, 3] == 0 and characters[4, 4] == 0 and characters[4, 12] == OTHER
    assert (characters >= 0).equal(density > 0)


def test_networks_of_places_stay_as_they_are() -> None:
    model = tiny_model("dinov2+efficientnet_lite2", counts=True, texts=4)
    prepare_stage(model, stage())
    for module in model.connector.modules():
        if isinstance(module, PlaceNet):
            assert not any(parameter.requires_grad for parameter in module.parameters())
    assert model.connector.count_words.gain.requires_grad and model.connector.text_words.gain.requires_grad


def test_the_graph_says_the_same_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX against PyTorch, filled from what ships; the lexicon's embeddings come from the language model."""
    model = tiny_model("dinov2+efficientnet_lite2", counts=True, texts=3, things=4).eval()
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


def with_words(monkeypatch: pytest.MonkeyPatch, lexicon: tuple[str, ...]) -> SimpleNamespace:
    """What the trainings draw with, replaced: pictures cost nothing and the networks stay as they are."""
    import dclocal_train.count_words as counts
    import dclocal_train.text_words as texts

    calls = SimpleNamespace(counts=0, texts=0)
    materials = SimpleNamespace(vocabulary=SimpleNamespace(lexicon=lexicon))
    for module in (counts, texts):
        monkeypatch.setattr(module, "build_materials", lambda folder: folder)
        monkeypatch.setattr(module, "load_materials", lambda folder: materials)
        monkeypatch.setattr(module, "gather", lambda *_: None)
    monkeypatch.setattr(counts, "fit_count_net", lambda *_: setattr(calls, "counts", calls.counts + 1))
    monkeypatch.setattr(texts, "fit_text_net", lambda *_: setattr(calls, "texts", calls.texts + 1))
    return calls


def test_networks_are_trained_once_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, config = with_words(monkeypatch, ("red", "blue", "circle")), PlaceNetConfig(pictures=1, epochs=1, gain=3.0)
    models = [tiny_model("dinov2+efficientnet_lite2", counts=True, texts=3) for _ in range(2)]
    with torch.no_grad():
        models[1].connector.count_words.net.leave.bias.add_(1)
        models[1].connector.text_words.net.leave.bias.add_(1)
    for model in models:
        fit_count_words(model, tiny_tokenizer(), config, tmp_path / "run", None)
        fit_text_words(model, tiny_tokenizer(), config, tmp_path / "run", None)
    assert (calls.counts, calls.texts) == (1, 1)
    for kind in ("count_words", "text_words"):
        first, second = (getattr(model.connector, kind).net.state_dict() for model in models)
        assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_lexicon_is_of_single_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_words(monkeypatch, ("red", "blue", "circle"))
    model, config = tiny_model(texts=3), PlaceNetConfig(pictures=1, epochs=1, gain=3.0)
    fit_text_words(model, tiny_tokenizer(), config, tmp_path, None)
    words, table = model.connector.text_words, model.base_llm.get_input_embeddings().weight
    assert words is not None
    assert words.tokens.tolist() == [WORDS.index(word) for word in ("red", "blue", "circle")]
    assert torch.equal(words.names, table[words.tokens].half()) and words.codes[0].tolist() == code_of("red")
    assert words.gain.tolist() == [3.0, 3.0]
    with pytest.raises(ValueError, match="3 words are one token each; the model knows 2"):
        fit_text_words(tiny_model(texts=2), tiny_tokenizer(), config, tmp_path, None)


def test_places_are_said_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import dclocal_train.count_words as module

    with_words(monkeypatch, ())
    monkeypatch.setattr(module, "SIDES", (("red", "blue"), ("circle", "red")))
    model = tiny_model("dinov2+efficientnet_lite2", counts=True)
    fit_count_words(model, tiny_tokenizer(), PlaceNetConfig(pictures=1, epochs=1, gain=4.0), tmp_path, None)
    table, words = model.base_llm.get_input_embeddings().weight, model.connector.count_words
    assert words is not None
    torch.testing.assert_close(words.sides[1, 0], table[WORDS.index("circle")])
    torch.testing.assert_close(words.length[0], table.norm(dim=1).median())
    assert words.gain.tolist() == [4.0] * 4 and not words.length.requires_grad
