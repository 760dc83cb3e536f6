"""Assembling the embedded bundle on the user's machine, without torch.

What ships is small (`parts`): the vision graph without its weights, and the weights that the project
trained.  The rest comes out of two packages.  The graph is filled and quantized to int8; LoRA is merged into
the language model, which is quantized anew.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dclocal.bundle import LLM_FILE, PARITY_FILE, VISION_FILE, describe_files, parse_manifest, write_manifest
from dclocal.errors import BundleError

if TYPE_CHECKING:
    import numpy as np
    from gguf import GGUFReader

PARTS_FILE, GRAPH_FILE, WEIGHTS_FILE, CARD_FILE = "parts.json", "vision_graph.onnx", "weights.safetensors", "README.md"
VIT_PREFIX, LORA_PREFIX = "vision.vit.tower.", "lora."
TOKENS, NAMES = ".tokens", ".names"
"""How the names of weights end that hold words as tokens of the language model, and their embeddings."""
WORDS, PRODUCTS = "_words/", ("/connector/MatMul", "/connector/kind/")
"""In the names of nodes of the modules that tell words, and how those are called that the connector itself makes."""
BUILDING, QUANTIZING = "building the vision graph", "quantizing the language model"
ASSEMBLY = 5
"""Raise it when the same parts are assembled into another bundle, so that those that stand are made anew."""
Progress = Callable[[str, int, int], None]


def assemble(parts: Path, sources: Mapping[str, Path], out: Path, progress: Progress) -> None:
    """Fill the empty folder `out` with a bundle; its manifest is written last.

    `sources` maps "vision" to the vision transformer's ONNX file and "llm" to the language model's GGUF.  The vision
    graph is made in a thread while the language model is quantized, which needs no Python; `progress` is told of both.
    Raises BundleError for parts that are damaged.
    """
    import shutil
    from concurrent.futures import ThreadPoolExecutor

    from dclocal.gguf_merge import open_gguf

    description = read_parts(parts)
    weights, llm = load_weights(parts / WEIGHTS_FILE), open_gguf(sources["llm"])

    def vision() -> None:
        build_vision(parts / GRAPH_FILE, vision_weights(weights, sources["vision"], llm), out / VISION_FILE, progress)

    with ThreadPoolExecutor(1) as beside:
        seeing = beside.submit(vision)
        lora, scale = lora_matrices(weights), description["lora_scale"]
        build_llm(llm, lora, scale, description["llm_quantization"], out / LLM_FILE, progress)
        seeing.result()
    if text_llm := description["manifest"].get("text_llm"):
        shutil.copyfile(sources["llm"], out / text_llm)
    for name in (PARITY_FILE, CARD_FILE):
        shutil.copyfile(parts / name, out / name)
    progress("writing the manifest", 0, 1)
    manifest = description["manifest"]
    manifest["provenance"] |= made_of(parts)
    manifest["files"] = {
        name: {"size_bytes": entry.size_bytes, "sha256": entry.sha256} for name, entry in describe_files(out).items()
    }
    write_manifest(out, parse_manifest(json.dumps(manifest), where=str(out)))
    progress("writing the manifest", 1, 1)


def made_of(parts: Path) -> dict[str, Any]:
    """What a bundle's provenance says of how it was assembled: from these parts, by this code."""
    return {"parts_sha256": hashlib.sha256((parts / PARTS_FILE).read_bytes()).hexdigest(), "assembly": ASSEMBLY}


def read_parts(parts: Path) -> dict[str, Any]:
    """The description in `parts.json`, every file that it lists hashed and compared."""
    description = json.loads((parts / PARTS_FILE).read_text(encoding="utf-8"))
    for name, sha256 in description["files"].items():
        file = parts / name
        if not file.is_file() or hashlib.sha256(file.read_bytes()).hexdigest() != sha256:
            raise BundleError(f"{file} is missing or not the file that {PARTS_FILE} lists", "install dclocal again")
    return description


def lora_matrices(weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """LoRA's matrices among the shipped weights, as `merge_lora` takes them."""
    return {name.removeprefix(LORA_PREFIX): array for name, array in weights.items() if name.startswith(LORA_PREFIX)}


def float32_graph(parts: Path, sources: Mapping[str, Path], out: Path) -> None:
    """Write the vision graph of `parts` filled, and nothing else done to it; `sources` as of `assemble`."""
    from dclocal.gguf_merge import open_gguf

    weights = vision_weights(load_weights(parts / WEIGHTS_FILE), sources["vision"], open_gguf(sources["llm"]))
    fill_graph(parts / GRAPH_FILE, weights, out)


def vision_weights(weights: Mapping[str, np.ndarray], vit: Path, llm: GGUFReader) -> dict[str, np.ndarray]:
    """All weights of the vision graph by name: the shipped ones over those in the vision transformer's ONNX file, and
    the embeddings of words that are tokens of the language model out of its GGUF."""
    from dclocal.vit_onnx import read_vit_weights

    filled = {f"{VIT_PREFIX}{name}": array for name, array in read_vit_weights(vit).items()}
    filled |= {name: array for name, array in weights.items() if not name.startswith(LORA_PREFIX)}
    return filled | word_embeddings(weights, llm)


def word_embeddings(weights: Mapping[str, np.ndarray], llm: GGUFReader) -> dict[str, np.ndarray]:
    """The embeddings of the words that `weights` hold as tokens: one each `[words]`, or names `[names, NAME_TOKENS]`.

    They are the language model's own, so they do not ship.
    """
    from dclocal.gguf_merge import token_embeddings
    from dclocal.name_table import name_table

    spoken = {name: tokens for name, tokens in weights.items() if name.endswith(TOKENS)}
    if not spoken:
        return {}
    embeddings = token_embeddings(llm)
    return {
        name.removesuffix(TOKENS) + NAMES: embeddings[tokens] if tokens.ndim == 1 else name_table(tokens, embeddings)
        for name, tokens in spoken.items()
    }


def build_vision(graph: Path, weights: Mapping[str, np.ndarray], out: Path, progress: Progress) -> None:
    """Fill the shipped graph, fuse what can be, and quantize its matrix products to int8, weights per channel."""
    from dclocal.optimize import fuse_ahead, optimize

    progress(BUILDING, 0, 3)
    full, fused, quantized = (out.with_suffix(f".{stage}.onnx") for stage in ("fp32", "fused", "int8"))
    fill_graph(graph, weights, full)
    del weights  # 350 MB, where nobody else holds them
    progress(BUILDING, 1, 3)
    optimize(full, fused)
    full.unlink()
    progress(BUILDING, 2, 3)
    quantize_vision(fused, quantized)
    fused.unlink()
    fuse_ahead(quantized, out)
    quantized.unlink()
    progress(BUILDING, 3, 3)


def fill_graph(graph: Path, weights: Mapping[str, np.ndarray], out: Path) -> None:
    """Write the graph with every empty initializer filled by name; raises BundleError for a shape that differs."""
    import onnx
    from onnx import TensorProto
    from onnx.helper import tensor_dtype_to_np_dtype

    model = onnx.load(graph, load_external_data=False)
    for tensor in model.graph.initializer:
        if tensor.data_location != TensorProto.EXTERNAL:
            continue
        array = weights.get(tensor.name)
        if array is None or list(array.shape) != list(tensor.dims):
            found = "missing" if array is None else f"of shape {list(array.shape)}"
            raise BundleError(
                f"the weight {tensor.name} is {found}, expected {list(tensor.dims)}", "install dclocal again"
            )
        tensor.ClearField("external_data")
        tensor.data_location = TensorProto.DEFAULT
        tensor.raw_data = array.astype(tensor_dtype_to_np_dtype(tensor.data_type).newbyteorder("<")).tobytes()
    onnx.save(model, out)


def tells_words(node: str) -> bool:
    """Whether this node of the graph tells what words visual tokens say: with eight bits, some would say others.

    A node's name follows the module whose `forward` is called.  The classifiers' other methods are called by the
    connector, which has no products of its own but theirs.
    """
    return WORDS in node or node.startswith(PRODUCTS)


def quantize_vision(source: Path, out: Path) -> None:
    """Dynamic int8 of the matrix products with constant weights, per channel; convolutions stay float32, and so does
    what tells words.

    Weights have seven bits: processors without VNNI add two products up in 16 bits, which eight overflow, and the
    answers are of something else (least cosine 0.994; with seven 0.999 on every processor).
    """
    import logging

    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    logging.disable(logging.WARNING)  # it asks for a preparation that the graph has had
    try:
        quantize_dynamic(
            source,
            out,
            op_types_to_quantize=["MatMul"],
            nodes_to_exclude=[node.name for node in onnx.load(source).graph.node if tells_words(node.name)],
            per_channel=True,
            reduce_range=True,
            weight_type=QuantType.QInt8,
        )
    finally:
        logging.disable(logging.NOTSET)


def build_llm(
    gguf: GGUFReader, lora: Mapping[str, np.ndarray], scale: float, quantization: str, out: Path, progress: Progress
) -> None:
    """Merge LoRA into the language model at float16, then quantize it as a whole."""
    from dclocal.gguf_merge import merge_lora, quantize_gguf

    merged = out.with_suffix(".f16.gguf")
    merge_lora(gguf, lora, scale, merged, lambda done, total: progress("merging the adapter", done, total))
    quantize_gguf(merged, out, quantization, lambda done, total: progress(QUANTIZING, done - 1, total))
    merged.unlink()
    progress(QUANTIZING, 1, 1)


def load_weights(file: Path) -> dict[str, np.ndarray]:
    """The shipped weights by name: float16, and whole numbers."""
    from safetensors.numpy import load_file

    return load_file(file)
