"""The convolutional tower's classes as words; a wrong one here is a dog called a cat."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from scipy.special import softmax

from dclocal.name_table import NAME_PARTS, NAME_TOKENS
from dclocal_models.class_words import SHARPNESS, ClassWords, ThingWords, Words, name_tokens
from dclocal_models.embedded import class_names
from dclocal_train.imprint import GRID, NOTHING, imprint_tensors, join_imprints


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
