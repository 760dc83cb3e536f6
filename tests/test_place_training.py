"""Networks of counts and texts trained: they learn from scenes and letters, are kept, and go on from what they are."""

from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from dclocal_models.layers import features_at
from dclocal_models.place_nets import CountNet, PlaceNet, TextNet
from dclocal_models.text_words import CHARACTERS, OTHER, code_of
from dclocal_train.config import PlaceNetConfig
from dclocal_train.count_words import Centre, fit_count_net, fit_count_words
from dclocal_train.place_fit import Pictures, fit, gather
from dclocal_train.stages import prepare_stage
from dclocal_train.text_words import Letter, fit_text_net, fit_text_words, letters_of
from tests.test_place_words import GRID, TOKENS_GRID
from tests.test_training import stage
from tests.tiny import WORDS, tiny_model, tiny_tokenizer


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


def test_likeness_is_the_mean_of_what_each_opinion_says() -> None:
    torch.manual_seed(0)
    net, features = CountNet(3, 2, GRID, TOKENS_GRID), torch.randn(2, 16, 5)
    opinions = net.kind(features).detach().split(CountNet.KIND_WIDTH, dim=2)
    assert len(opinions) == CountNet.OPINIONS
    cosines = [functional.cosine_similarity(one[:, :, None], one[:, None], dim=3) for one in opinions]
    assert not torch.allclose(*cosines, atol=0.1), "each has vectors of its own"
    expected = net.likeness[0] * torch.stack(cosines).mean(0) + net.likeness[1]
    torch.testing.assert_close(net.alike(features), expected, atol=1e-5, rtol=1e-5)


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
