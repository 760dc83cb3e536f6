"""The vision encoder's session: a graph that does not fit its manifest must be told, not answered from."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from dclocal.bundle import Bundle
from dclocal.errors import BundleError
from dclocal.fake import fake_bundle
from dclocal.vision import VisionEncoder

SIZE, TOKENS, WIDTH = 16, 4, 8  # those of fake_bundle


def write_graph(path: Path, *, tokens: int = TOKENS, names: tuple[str, str] = ("pixels", "embeds")) -> np.ndarray:
    """A graph that multiplies each picture by a matrix; returns that matrix, `[3·SIZE·SIZE, tokens·WIDTH]`."""
    from onnx import TensorProto, helper, numpy_helper, save

    random = np.random.default_rng(0)
    matrix = random.standard_normal((3 * SIZE * SIZE, tokens * WIDTH), dtype=np.float32) / SIZE
    constants = {
        "flat": np.array([-1, 3 * SIZE * SIZE], np.int64),
        "matrix": matrix,
        "shape": np.array([-1, tokens, WIDTH], np.int64),
    }
    nodes = [
        helper.make_node("Reshape", [names[0], "flat"], ["rows"]),
        helper.make_node("MatMul", ["rows", "matrix"], ["product"]),
        helper.make_node("Reshape", ["product", "shape"], [names[1]]),
    ]
    pixels = helper.make_tensor_value_info(names[0], TensorProto.FLOAT, ["n", 3, SIZE, SIZE])
    embeds = helper.make_tensor_value_info(names[1], TensorProto.FLOAT, ["n", tokens, WIDTH])
    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "tiny", [pixels], [embeds], initializers)
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return matrix


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return fake_bundle(tmp_path)


def test_every_picture_gets_its_own_embeddings(bundle: Bundle) -> None:
    """More pictures than one run takes, as a video has: none lost, none swapped."""
    matrix = write_graph(bundle.vision_path)
    pixels = np.random.default_rng(1).standard_normal((19, 3, SIZE, SIZE), dtype=np.float32)
    encoder = VisionEncoder(bundle)
    found = encoder.encode(pixels)
    assert found.dtype == np.float32 and encoder.encoded_images == 19
    np.testing.assert_allclose(found, (pixels.reshape(19, -1) @ matrix).reshape(19, TOKENS, WIDTH), atol=1e-4)


def test_a_run_takes_few_pictures_at_once(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long video must not need memory for all of its frames."""
    write_graph(bundle.vision_path)
    encoder, sizes = VisionEncoder(bundle), []
    run = encoder._run
    monkeypatch.setattr(encoder, "_run", lambda pixels: sizes.append(len(pixels)) or run(pixels))
    encoder.encode(np.zeros((19, 3, SIZE, SIZE), np.float32))
    assert sizes == [2] * 9 + [1]


def test_no_pictures_give_no_embeddings(bundle: Bundle) -> None:
    write_graph(bundle.vision_path)
    assert VisionEncoder(bundle).encode(np.zeros((0, 3, SIZE, SIZE), np.float32)).shape == (0, TOKENS, WIDTH)


def test_providers_and_threads(bundle: Bundle) -> None:
    """`doctor` shows the providers; a processor is always among them."""
    write_graph(bundle.vision_path)
    encoder = VisionEncoder(bundle, threads=1)
    assert encoder.providers[-1] == "CPUExecutionProvider"
    assert encoder._session.get_session_options().intra_op_num_threads == 1


def test_another_shape_than_the_manifests_is_refused(bundle: Bundle) -> None:
    """Embeddings of a wrong count or width would shift or garble everything after the picture."""
    write_graph(bundle.vision_path, tokens=5)
    with pytest.raises(BundleError, match=r"\(1, 5, 8\).*\(1, 4, 8\)"):
        VisionEncoder(bundle).encode(np.zeros((1, 3, SIZE, SIZE), np.float32))
    write_graph(bundle.vision_path)
    vision = dataclasses.replace(bundle.manifest.vision, n_embd=16)
    wider = dataclasses.replace(bundle, manifest=dataclasses.replace(bundle.manifest, vision=vision))
    with pytest.raises(BundleError, match=r"\(1, 4, 8\).*\(1, 4, 16\)"):
        VisionEncoder(wider).encode(np.zeros((1, 3, SIZE, SIZE), np.float32))


@pytest.mark.parametrize("names", [("image", "embeds"), ("pixels", "features")])
def test_another_graphs_names_are_told(bundle: Bundle, names: tuple[str, str]) -> None:
    """An ONNX file of something else in the bundle: one line, not ONNX Runtime's traceback."""
    write_graph(bundle.vision_path, names=names)
    with pytest.raises(BundleError, match="vision.onnx has"):
        VisionEncoder(bundle)


def test_broken_files_and_a_quiet_terminal(bundle: Bundle, capfd: pytest.CaptureFixture[str]) -> None:
    """Damaged downloads end with what to do; a terminal app draws on these streams."""
    with pytest.raises(BundleError, match="cannot be loaded"):
        VisionEncoder(bundle)
    write_graph(bundle.vision_path)
    whole = bundle.vision_path.read_bytes()
    for data in (b"", b"not a graph" * 20, whole[: len(whole) // 2]):
        bundle.vision_path.write_bytes(data)
        with pytest.raises(BundleError, match="cannot be loaded.*pull it again"):
            VisionEncoder(bundle)
    bundle.vision_path.write_bytes(whole)
    VisionEncoder(bundle).encode(np.zeros((1, 3, SIZE, SIZE), np.float32))
    assert capfd.readouterr() == ("", "")
