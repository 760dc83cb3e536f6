"""The convolutional tower's classes as words; a wrong one here is a dog called a cat."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from scipy.special import softmax

from dclocal.name_table import NAME_PARTS, NAME_TOKENS
from dclocal_models.class_words import OWN, SHARPNESS, ClassWords, ThingWords, Words, name_tokens
from dclocal_models.embedded import class_names
from dclocal_train.imprint import GRID, NOTHING, imprint_tensors, join_imprints
from tests.tiny import tiny_model


def with_state(module: Words, **state: torch.Tensor) -> None:
    module.load_state_dict({**module.state_dict(), **state})


def said(words: Words, features: torch.Tensor) -> np.ndarray:
    """The words of every place, their parts added up."""
    return words.say(words.heard(features)).sum(2).detach().numpy()


@pytest.fixture
def words() -> ClassWords:
    torch.manual_seed(0)
    module = ClassWords(width=16, classes=10, n_embd=8)
    state = {"weight": torch.randn(10, 16), "bias": torch.randn(10), "names": torch.randn(10, NAME_PARTS, 8)}
    with_state(module, **state, gain=torch.tensor([0.7, 1.3]))
    return module


def test_words_are_the_expected_names_of_each_place_and_of_the_whole(words: ClassWords) -> None:
    features = np.random.default_rng(0).random((2, 16, 3, 4), np.float32) * 3
    weight, bias, names = (tensor.numpy() for tensor in (words.weight, words.bias, words.names.sum(1)))
    places = torch.from_numpy(features).flatten(2).transpose(1, 2)
    found = said(words, places)
    assert found.shape == (2, 12, 8)
    for image in range(2):
        whole = softmax(SHARPNESS * (weight @ features[image].mean((1, 2)) + bias)) @ names
        for place in range(12):
            here = softmax(weight @ features[image, :, place // 4, place % 4] + bias) @ names
            np.testing.assert_allclose(found[image, place], 0.7 * here + 1.3 * whole, atol=1e-4)


def test_words_of_things_say_the_likeliest_of_all_places_where_nothing_is() -> None:
    numbers = np.random.default_rng(0)
    module = ThingWords(width=6, classes=4, n_embd=3)
    weight, bias, names = (
        numbers.random((4, 6), np.float32),
        numbers.random(4, np.float32),
        np.eye(4, 3, dtype=np.float32),
    )
    with_state(module, weight=torch.from_numpy(weight), bias=torch.from_numpy(bias), gain=torch.tensor([0.5, 2.0]))
    module.names[:, 0] = torch.from_numpy(names)
    features = numbers.random((2, 5, 6), np.float32) * 4
    probabilities = softmax(features @ weight.T + bias, axis=-1)
    whole = np.zeros((2, 1, 4))
    for picture in range(2):
        things = probabilities[picture].mean(0)[:3]
        whole[picture, 0, :3] = things**2 / (things**2).sum() * things.sum()
    heard = 0.5 * probabilities + 2 * probabilities[..., 3:] * whole
    squared = heard[..., :3] ** 2
    expected = squared / squared.sum(-1, keepdims=True) * heard[..., :3].sum(-1, keepdims=True) @ names[:3]
    np.testing.assert_allclose(said(module, torch.from_numpy(features)), expected, atol=1e-5)


def test_places_that_show_the_same_agree_on_its_name() -> None:
    """A place says what it shows, and those like it in the mean, less where they show nothing; how much stays."""
    module = ThingWords(width=3, classes=3, n_embd=3)
    with_state(module, weight=torch.eye(3), bias=torch.zeros(3), gain=torch.tensor([1.0, 0.0]))
    features = torch.tensor([[[3.0, 2.0, -9.0], [1.0, 8.0, -9.0], [4.0, 0.0, -9.0], [5.0, 1.0, 3.0]]])
    alike = torch.full((1, 4, 4), -30.0)
    for place, elsewhere in ((0, 0), (1, 1), (2, 2), (3, 3), (0, 1), (1, 0), (0, 3), (3, 0)):
        alike[0, place, elsewhere] = 30.0
    alike[0, 2, 0] = alike[0, 0, 2] = 0.0  # as likely as not
    with torch.no_grad():
        alone, agreed = module.heard(features)[0], module.heard(features, alike)[0]
    np.testing.assert_allclose(agreed[:, 2], alone[:, 2], atol=1e-6)
    np.testing.assert_allclose(agreed.sum(-1), np.ones(4), atol=1e-6)
    logits, things = features[0].numpy(), 1 - alone[:, 2].numpy()
    for place, weights in enumerate(([1, 1, 0.25, 1], [1, 1, 0, 0], [0.25, 0, 1, 0], [1, 0, 0, 1])):
        shares = np.array(weights) * things
        mean = OWN * logits[place, :2] + (1 - OWN) * shares @ logits[:, :2] / shares.sum()
        np.testing.assert_allclose(agreed[place, :2], things[place] * softmax(mean), atol=1e-5)
    assert alone[0].argmax() == 0 and agreed[0].argmax() == 1, "the surest place does not name all of them"


def test_agreement_needs_what_tells_things_and_their_likeness() -> None:
    with pytest.raises(ValueError, match="places agree on the names of things where there are things and counts"):
        tiny_model("dinov2+efficientnet_lite2", things=4, agreed=True)


def test_only_the_gain_is_trained(words: ClassWords) -> None:
    assert [name for name, _ in words.named_parameters()] == ["gain"]


def test_an_imprinted_class_becomes_the_likeliest_where_it_is_imprinted_and_nothing_else_changes(
    words: ClassWords,
) -> None:
    torch.manual_seed(1)
    features = torch.rand(3, 16, 12, 12) * 0.1
    strength = torch.zeros(3, 12, 12)
    strength[:, :6] = 20.0
    printed = words.imprint(features, torch.tensor([4, NOTHING, 7]), strength)
    assert torch.equal(printed[1], features[1])
    assert torch.equal(printed[:, :, 7:], features[:, :, 7:])
    assert printed.min() >= 0 and printed.max() <= 6
    for image, wanted in ((0, 4), (2, 7)):
        logits = torch.einsum("kc,c->k", words.weight, printed[image, :, 2, 2]) + words.bias
        assert int(logits.argmax()) == wanted


def test_names_are_said_token_by_token_and_the_rest_no_louder_than_one(words: ClassWords) -> None:
    table = torch.nn.functional.normalize(torch.randn(50, 8), dim=1)
    said = ["b", "a b", "a b c d", "", *"efghij"]
    tokens = name_tokens(said, lambda text: [ord(letter) % 50 for letter in text.strip() if letter != " "])
    assert tokens.shape == (10, NAME_TOKENS) and tokens[1, :3].tolist() == [ord("a") % 50, ord("b") % 50, -1]
    words.call(tokens, table)
    one, two, three, four = (table[ord(letter) % 50] for letter in "abcd")
    torch.testing.assert_close(words.names[0], torch.stack([two, torch.zeros(8), torch.zeros(8)]))
    torch.testing.assert_close(words.names[1], torch.stack([one, two, torch.zeros(8)]))
    torch.testing.assert_close(words.names[2], torch.stack([one, two, (three + four) / 2**0.5]))
    assert not words.names[3].any(), "an empty name says nothing"


def test_names_beyond_what_is_kept_are_cut() -> None:
    (row,) = name_tokens(["a b c d e f g h i j"], lambda text: range(len(text.split())))
    assert row.tolist() == list(range(NAME_TOKENS))


def test_every_class_has_an_everyday_name() -> None:
    names = class_names()
    assert len(names) == 1000
    assert (names[281], names[954], names[409]) == ("tabby cat", "banana", "clock")
    assert all(name == name.strip() and name for name in names)


def test_a_batch_tells_which_pictures_are_imprinted() -> None:
    printed = imprint_tensors(17, random.Random(3))
    joined = join_imprints([{}, printed])
    assert joined["imprint_class"].tolist() == [NOTHING, 17]
    assert joined["imprint_strength"].shape == (2, GRID, GRID)
    assert float(joined["imprint_strength"][0].max()) == 0 and float(joined["imprint_strength"][1].max()) > 8
    assert join_imprints([{}, {}]) == {}
