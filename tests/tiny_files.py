"""Tiny files of each kind, for tests that need no weights and no torch."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dclocal.images import FORMATS


def write_tiny_gguf(path: Path) -> Path:
    """A random Llama of two layers and width 32 whose tokens are bytes: token 4 + b is the byte b."""
    from gguf import GGUFWriter, TokenType

    random, width = np.random.default_rng(0), 32
    tokens = ["<unk>", "<s>", "</s>", "<|halt|>", *(f"<0x{byte:02X}>" for byte in range(256))]
    writer = GGUFWriter(path, "llama")
    sizes = {"context_length": 4096, "embedding_length": width, "block_count": 2, "feed_forward_length": 64}
    for key, value in {**sizes, "attention.head_count": 2, "vocab_size": len(tokens)}.items():
        writer.add_uint32(f"llama.{key}", value)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * len(tokens))
    writer.add_token_types([TokenType.UNKNOWN] + [TokenType.CONTROL] * 3 + [TokenType.BYTE] * 256)
    writer.add_eos_token_id(2)
    writer.add_add_space_prefix(False)
    shapes = {"token_embd": (len(tokens), width), "output": (len(tokens), width)}
    for layer in range(2):
        shapes |= {f"blk.{layer}.attn_{name}": (width, width) for name in ("q", "k", "v", "output")}
        shapes |= {f"blk.{layer}.ffn_{name}": (64, width) for name in ("gate", "up")}
        shapes[f"blk.{layer}.ffn_down"] = (width, 64)
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", random.standard_normal(shape, dtype=np.float32) * shape[1] ** -0.5)
    for name in ("output_norm", *(f"blk.{layer}.{norm}_norm" for layer in range(2) for norm in ("attn", "ffn"))):
        writer.add_tensor(f"{name}.weight", np.ones(width, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def read_embeddings(gguf_file: Path) -> np.ndarray:
    """The file's token embeddings, float32 `[tokens, width]`, read by the gguf package."""
    from gguf import GGUFReader
    from gguf.quants import dequantize

    table = next(tensor for tensor in GGUFReader(gguf_file).tensors if tensor.name == "token_embd.weight")
    return np.ascontiguousarray(dequantize(table.data, table.tensor_type), np.float32)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    """The picture as a file of that kind."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png(width: int, height: int, bits: int, colour: int, rows: bytes, transparent: bytes = b"") -> bytes:
    """A PNG by hand; `rows` as they are before compression."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    clear = chunk(b"tRNS", transparent) if transparent else b""
    return b"\x89PNG\r\n\x1a\n" + header + clear + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def picture_files(picture: Image.Image) -> dict[str, bytes]:
    """One file of each kind that is read, by a name for the kind."""
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "Maker"
    Image.init()
    kinds = [kind for kind in FORMATS if kind in Image.OPEN]
    options = {kind: {"exif": exif} if kind in ("JPEG", "PNG", "WEBP", "TIFF") else {} for kind in kinds}
    found = {kind: encoded(picture, kind, **options[kind]) for kind in kinds}
    palette, alpha = picture.quantize(8), picture.convert("RGBA")
    found |= {"PNG palette": encoded(palette, "PNG", transparency=0), "WEBP alpha": encoded(alpha, "WEBP")}
    found |= {f"TIFF {name}": encoded(picture, "TIFF", compression=name) for name in ("tiff_lzw", "jpeg", "packbits")}
    for kind in ("TIFF", "GIF", "WEBP", "PNG", "MPO"):
        found[f"{kind} frames"] = encoded(picture.copy(), kind, save_all=True, append_images=[picture.rotate(180)])
    found["PNG 16"] = encoded(Image.fromarray(np.arange(1200, dtype=np.uint16).reshape(30, 40)), "PNG")
    return found


def largest_int8(graph: Any) -> int:
    """The largest 8-bit weight of an ONNX graph's matrices, whatever its sign."""
    from onnx import TensorProto, numpy_helper

    matrices = [one for one in graph.initializer if one.data_type == TensorProto.INT8 and len(one.dims) == 2]
    return max(int(np.abs(numpy_helper.to_array(one).astype(int)).max()) for one in matrices)
