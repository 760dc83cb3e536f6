"""The classifier of things: which places it is shown, and that it finds what can be told from features."""

from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from dclocal.name_table import NAME_TOKENS
from dclocal_models.class_words import ThingWords
from dclocal_train.config import ThingWordsConfig
from dclocal_train.thing_words import FILE, NOTHING, PLACES, Places, Shown, _chosen, fit, fit_thing_words, gather


def _shown(*covers: list[int]) -> Shown:
    """A picture of as many pixels as features, and how far each thing covers them."""
    masks = [Image.fromarray(np.array([cover], np.uint8)) for cover in covers]
    return Shown(Image.new("RGB", masks[0].size), [(f"thing {n}", mask) for n, mask in enumerate(masks)])


def test_places_that_are_covered_show_the_thing_and_bare_ones_nothing() -> None:
    whole, picture, bare = _chosen(torch.eye(6), _shown([0, 0, 0, 255, 128, 0]), (1, 6))
    assert [name for name, _ in (whole, picture, bare)] == ["thing 0", "thing 0", NOTHING]
    np.testing.assert_allclose(whole[1][0], [0, 0, 0, 0.666, 0.334, 0], atol=1e-3)
    assert len(whole[1]) == 1 + PLACES and {int(place.argmax()) for place in whole[1][1:]} <= {3, 4}
    np.testing.assert_allclose(picture[1][0], np.full(6, 1 / 6), atol=1e-6)
    assert int(bare[1][0].argmax()) in (0, 1, 2, 5)


def test_among_others_a_thing_is_not_what_the_picture_shows() -> None:
    chosen = _chosen(torch.eye(4), _shown([255, 0, 0, 0], [0, 0, 255, 0]), (1, 4))
    assert [name for name, _ in chosen] == ["thing 0", "thing 1", NOTHING]
    assert {int(place.argmax()) for place in chosen[0][1]} == {0}
    assert {int(place.argmax()) for place in chosen[1][1]} == {2}
    assert int(chosen[2][1].argmax()) in (1, 3)


def test_a_picture_that_is_covered_everywhere_shows_no_nothing() -> None:
    assert NOTHING not in dict(_chosen(torch.eye(4), _shown([255] * 4), (1, 4)))


def test_the_classifier_takes_features_as_they_are() -> None:
    """Features of very unlike scales: what normalises them in training is part of the weights."""
    torch.manual_seed(0)
    classes = torch.randint(3, (600,))
    centres = torch.tensor([[0.0, 500.0], [0.02, 500.0], [0.0, 900.0]])
    features = centres[classes] + torch.randn(600, 2) * torch.tensor([0.002, 30.0])
    config = ThingWordsConfig(rounds=1, epochs=60, batch_size=60, learning_rate=0.05, dropout=0.0)
    weight, bias = fit(Places(features.half(), classes), (torch.zeros(3, 2), torch.zeros(3)), config)
    told = (features @ weight.T + bias).argmax(1)
    assert float((told == classes).float().mean()) > 0.98


def test_a_classifier_that_is_trained_on_starts_from_what_it_tells() -> None:
    """No steps at all give it back, whatever the features' scales."""
    features = torch.randn(50, 3) * torch.tensor([0.002, 30.0, 1.0]) + 5
    start = (torch.randn(4, 3), torch.randn(4))
    config = ThingWordsConfig(rounds=1, epochs=1, batch_size=51)
    weight, bias = fit(Places(features.half(), torch.zeros(50).long()), start, config)
    np.testing.assert_allclose(weight, start[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(bias, start[1], rtol=1e-3, atol=1e-3)


def test_pixels_are_normalised_as_the_model_takes_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import dclocal_train.thing_words as module
    from dclocal_train.synthetic.concepts import concepts_of
    from dclocal_train.synthetic.things import Thing

    picture = Image.new("RGB", (3, 3), (255, 0, 51))
    shown = Shown(picture, [("apple", Image.new("L", (3, 3), 255))])
    monkeypatch.setattr(module, "_alone", lambda *_: shown)
    Image.new("RGBA", (4, 4), "red").save(tmp_path / "apple.png")
    thing = Thing("apple", "apple", (), "google", "food", tmp_path / "apple.png", "train")
    vision = SimpleNamespace(image_mean=(0.5, 0.25, 0.0), image_std=(0.5, 0.25, 1.0), image_size=3)
    seen: list[torch.Tensor] = []

    def features(pixels: torch.Tensor) -> tuple[torch.Tensor, None]:
        seen.append(pixels)
        return pixels.flatten(2).transpose(1, 2), None

    model = SimpleNamespace(
        config=SimpleNamespace(vision=vision, fit="pad"),
        vision_features=features,
        connector=SimpleNamespace(token_grid=(3, 3), place_features=lambda dense, conv_map: dense),
    )
    gather(model, concepts_of([thing]), (), ThingWordsConfig(rounds=1, epochs=1))  # type: ignore[arg-type]
    (pixels,) = seen[0]
    assert pixels.shape == (3, 3, 3)
    np.testing.assert_allclose(pixels[:, 0, 0], [1.0, -1.0, 0.2], atol=1e-6)


def test_words_that_were_trained_before_are_taken_from_their_file(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    tokens = torch.full((3, NAME_TOKENS), -1)
    tokens[1, 0] = 6
    state = {"weight": torch.rand(3, 5), "bias": torch.rand(3), "tokens": tokens}
    save_file(state, tmp_path / FILE)
    words, embeddings = ThingWords(5, 3, 4), torch.nn.Embedding(9, 4)
    base_llm = SimpleNamespace(get_input_embeddings=lambda: embeddings)
    model = SimpleNamespace(connector=SimpleNamespace(thing_words=words), base_llm=base_llm)
    config = ThingWordsConfig(rounds=1, epochs=1, gain=(0.5, 3.0))
    fit_thing_words(model, None, config, tmp_path, None)  # type: ignore[arg-type]
    assert words.gain.tolist() == [0.5, 3.0] and torch.equal(words.weight, state["weight"])
    assert torch.equal(words.names[1, 0], embeddings.weight[6]) and not words.names[[0, 2]].any()


def test_words_that_are_trained_on_stay_as_loud_as_they_were(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    state = {"weight": torch.rand(3, 5), "bias": torch.rand(3), "tokens": torch.full((3, NAME_TOKENS), -1)}
    save_file(state, tmp_path / FILE)
    words = ThingWords(5, 3, 4)
    words.fill(torch.rand(3, 5), torch.rand(3), (0.25, 0.75))
    base_llm = SimpleNamespace(get_input_embeddings=lambda: torch.nn.Embedding(9, 4))
    model = SimpleNamespace(connector=SimpleNamespace(thing_words=words), base_llm=base_llm)
    fit_thing_words(model, None, ThingWordsConfig(rounds=1, epochs=1), tmp_path, None)  # type: ignore[arg-type]
    assert words.gain.tolist() == [0.25, 0.75] and torch.equal(words.weight, state["weight"])


def test_a_model_for_another_count_of_things_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import dclocal_train.thing_words as module

    concepts = SimpleNamespace(names=("apple", "pear"))
    monkeypatch.setattr(module, "build_materials", lambda source_folder: tmp_path)
    monkeypatch.setattr(module, "load_materials", lambda folder: SimpleNamespace(concepts=concepts, photos=()))
    model = SimpleNamespace(connector=SimpleNamespace(thing_words=ThingWords(5, 2, 4)))
    with pytest.raises(ValueError, match="2 things are drawn, and nothing; the model tells 2 classes"):
        fit_thing_words(model, None, ThingWordsConfig(1, 1), tmp_path / "run", None)  # type: ignore[arg-type]


def test_what_is_gathered_of_a_drawing_is_what_lies_where_it_was_put(tmp_path: Path) -> None:
    """Features here are the colours of places, so a red square's must be red and the bare place's must not."""
    from dclocal_train.synthetic.concepts import concepts_of
    from dclocal_train.synthetic.things import Thing

    things = []
    for name, colour in (("apple", "red"), ("leaf", "lime")):
        Image.new("RGBA", (64, 64), colour).save(tmp_path / f"{name}.png")
        things.append(Thing(name, name, (), "google", "food", tmp_path / f"{name}.png", "train"))
    places = gather(_colour_model(), concepts_of(things), (), ThingWordsConfig(rounds=6, epochs=1))  # type: ignore[arg-type]
    assert len(places.features) == len(places.classes)
    red, green, _ = places.features.float().T
    assert bool(((red - green)[places.classes == 0] > 0).float().mean() > 0.75)  # the picture's own mean may differ
    assert bool(((green - red)[places.classes == 1] > 0).float().mean() > 0.75)
    assert int((places.classes == 2).sum()) >= 6 and len(places.classes) <= 2 * 6 * (3 + PLACES)
    assert float((red - green)[places.classes == 2].abs().mean()) < 0.5


def test_what_is_gathered_of_scenes_are_their_drawings_and_what_is_bare(tmp_path: Path) -> None:
    """Features here are the colours of places: all drawings are red, the shapes among them of any colour."""
    from dclocal_train.synthetic.concepts import concepts_of
    from dclocal_train.synthetic.things import Thing
    from dclocal_train.thing_words import _among_others

    things = []
    for name in ("apple", "leaf", "ball", "car", "dog", "hat", "key", "sun"):
        Image.new("RGBA", (64, 64), "red").save(tmp_path / f"{name}.png")
        things.append(Thing(name, name, (), "google", "food", tmp_path / f"{name}.png", "train"))
    drawn = concepts_of(things)
    assert max(len(_among_others(drawn, (), random.Random(index)).things) for index in range(30)) >= 5
    config = ThingWordsConfig(rounds=0, epochs=1, scenes=40, first=7)
    places = gather(_colour_model(), drawn, (), config)  # type: ignore[arg-type]
    redness = places.features[:, 0].float() - places.features[:, 1].float()
    shows = places.classes < len(drawn.names)
    assert int(shows.sum()) > 40 * 2 * (1 + PLACES) and set(places.classes.tolist()) == set(range(9))
    assert int((~shows).sum()) <= 40  # one bare place a picture, and no shape
    assert float((redness[shows] > 0.3).float().mean()) > 0.8  # a few pictures have no colours
    assert float((redness[~shows] > 0.3).float().mean()) < 0.3


def _colour_model() -> SimpleNamespace:
    vision = SimpleNamespace(image_mean=(0.0, 0.0, 0.0), image_std=(1.0, 1.0, 1.0), image_size=96)
    pool = torch.nn.AdaptiveAvgPool2d(12)
    return SimpleNamespace(
        config=SimpleNamespace(vision=vision, fit="pad"),
        vision_features=lambda pixels: (pool(pixels.float()).flatten(2).transpose(1, 2), None),
        connector=SimpleNamespace(token_grid=(12, 12), place_features=lambda dense, conv_map: dense),
    )
