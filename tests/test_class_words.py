"""The convolutional tower's classes as words; a wrong one here is a dog called a cat."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from scipy.special import softmax

from dclocal_models.class_words import SHARPNESS, ClassWords, ThingWords, name_embeddings
from dclocal_models.embedded import class_names
from dclocal_train.imprint import GRID, NOTHING, imprint_tensors, join_imprints


@pytest.fixture
def words() -> ClassWords:
    torch.manual_seed(0)
    module = ClassWords(width=16, classes=10, n_embd=8)
    state = {"weight": torch.randn(10, 16), "bias": torch.randn(10), "names": torch.randn(10, 8)}
    module.load_state_dict({**state, "gain": torch.tensor([0.7, 1.3])})
    return module


def test_words_are_the_expected_names_of_each_place_and_of_the_whole(words: ClassWords) -> None:
    features = np.random.default_rng(0).random((2, 16, 3, 4), np.float32) * 3
    weight, bias, names = (tensor.numpy() for tensor in (words.weight, words.bias, words.names))
    places = torch.from_numpy(features).flatten(2).transpose(1, 2)
    found = words(places).detach().numpy()
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
    state = {key: torch.from_numpy(value) for key, value in (("weight", weight), ("bias", bias), ("names", names))}
    module.load_state_dict({**state, "gain": torch.tensor([0.5, 2.0])})
    features = numbers.random((2, 5, 6), np.float32) * 4
    probabilities = softmax(features @ weight.T + bias, axis=-1)
    whole = np.zeros((2, 1, 4))
    for picture in range(2):
        things = probabilities[picture].mean(0)[:3]
        whole[picture, 0, :3] = things**2 / (things**2).sum() * things.sum()
    expected = (0.5 * probabilities + 2 * probabilities[..., 3:] * whole) @ names
    np.testing.assert_allclose(module(torch.from_numpy(features)).detach().numpy(), expected, atol=1e-5)


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


def test_long_names_are_no_louder_than_short_ones() -> None:
    table = torch.nn.functional.normalize(torch.randn(50, 512), dim=1)
    found = name_embeddings(
        ["a", "a b c d"], lambda text: [ord(letter) % 50 for letter in text if letter != " "], table
    )
    torch.testing.assert_close(found[0], table[ord("a") % 50])
    assert 0.8 < float(found[1].norm()) < 1.2


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
