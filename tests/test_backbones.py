"""Which hidden state is which: a class token kept, or a layer off by one, is not seen in any shape."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from dclocal_models.registry import BACKBONES
from tests.tiny import tiny_config, tiny_model


@pytest.mark.parametrize(("backbone", "prefix"), [("dinov2", 1), ("clip", 1), ("siglip", 0)])
def test_hidden_states_are_the_librarys_own_patches(backbone: str, prefix: int) -> None:
    """Against transformers' own outputs; the stem by hand, and the last state by the tower's own final norm."""
    vision = tiny_model(backbone).vision
    pixels = torch.randn(2, 3, 56, 56)
    ours = vision(pixels).hidden_states
    theirs = vision.tower(pixels, output_hidden_states=True)
    assert len(ours) == vision.depth + 1 == 5 and ours[0].shape == (2, 16, 32) and vision.grid == (4, 4)
    for mine, state in zip(ours, theirs.hidden_states):
        assert torch.equal(mine, state[:, prefix:])
    inner = getattr(vision.tower, "vision_model", vision.tower)
    stem = inner.embeddings(pixels)
    if backbone == "clip":
        stem = inner.pre_layrnorm(stem)
    assert torch.equal(ours[0], stem[:, prefix:])
    layer = inner.encoder.layer[0] if backbone == "dinov2" else inner.encoder.layers[0]
    out = (
        layer(stem)
        if backbone == "dinov2"
        else layer(stem, attention_mask=None, causal_attention_mask=None)
        if backbone == "clip"
        else layer(stem, attention_mask=None)
    )
    out = out[0] if isinstance(out, tuple) else out
    assert torch.allclose(ours[1], out[:, prefix:], atol=1e-6)
    if backbone == "siglip":
        assert torch.allclose(inner.post_layernorm(theirs.hidden_states[-1]), theirs.last_hidden_state, atol=1e-6)
    if backbone == "dinov2":
        assert torch.allclose(inner.layernorm(theirs.hidden_states[-1]), theirs.last_hidden_state, atol=1e-6)
    if backbone == "clip":
        assert torch.equal(theirs.hidden_states[-1], theirs.last_hidden_state)


def test_the_patch_at_a_place_is_the_token_of_that_place() -> None:
    """Tokens run row by row: what changes in one patch changes that token's stem and no other."""
    vision = tiny_model("siglip").vision
    pixels = torch.zeros(1, 3, 56, 56)
    marked = pixels.clone()
    marked[:, :, 14:28, 28:42] = 1.0  # second row, third column
    change = (vision(marked).hidden_states[0] - vision(pixels).hidden_states[0]).abs().sum(-1)[0]
    assert change.nonzero().flatten().tolist() == [1 * 4 + 2]


def test_mini_geminis_two_towers_see_one_picture() -> None:
    """CLIP sees the picture made small; the convolutional map holds every stage at the first one's resolution."""
    vision = tiny_model("clip+convnext", fusion="mining").vision
    pixels = torch.randn(2, 3, 128, 128)
    output = vision(pixels)
    low = functional.interpolate(pixels, size=(56, 56), mode="bilinear", align_corners=False)
    alone = vision.vit.tower(low, output_hidden_states=True).hidden_states
    assert torch.equal(output.hidden_states[-1], alone[-1][:, 1:])
    assert output.conv_map.shape == (2, 8 + 8 + 16 + 16, 32, 32)
    stages = vision.conv(pixels, output_hidden_states=True).hidden_states[1:]
    assert torch.equal(output.conv_map[:, :8], stages[0])
    enlarged = functional.interpolate(stages[3], size=(32, 32), mode="bilinear", align_corners=False)
    assert torch.equal(output.conv_map[:, 32:], enlarged)


@pytest.mark.parametrize("backbone", sorted(BACKBONES))
def test_every_backbone_makes_a_whole_model(backbone: str) -> None:
    fusion = "mining" if backbone == "clip+convnext" else "concat"
    model = tiny_model(backbone, fusion=fusion)
    size = tiny_config(backbone).vision.image_size
    with torch.no_grad():
        assert model.encode_images(torch.randn(1, 3, size, size)).shape == (1, 4, 24)
