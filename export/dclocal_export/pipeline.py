"""A checkpoint to a bundle: vision graph, language model, manifest, and the proof that they are the same model.

Everything is made in a folder beside the target and renamed at the end, so that an interruption leaves nothing
that loads.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from PIL.Image import Image

from dclocal.bundle import (
    LLM_FILE,
    PARITY_FILE,
    VISION_FILE,
    AdapterSpec,
    Bundle,
    FileEntry,
    Manifest,
    Sampling,
    describe_files,
    read_bundle,
    sha256_file,
    write_manifest,
)
from dclocal.errors import UserError
from dclocal.formats import FORMATS
from dclocal.images import FORMATS as PICTURE_FORMATS
from dclocal.images import load_image
from dclocal.picture import save_newline
from dclocal.progress import Progress
from dclocal_export.imatrix import write_imatrix
from dclocal_export.llm_folder import write_llm_folder
from dclocal_export.llm_gguf import FTYPES, convert_to_gguf, lora_to_gguf, quantize
from dclocal_export.mmproj import write_mmproj
from dclocal_export.options import ExportOptions, below_floors
from dclocal_export.proof import measure
from dclocal_export.quantize import CALIBRATED, PRECISIONS, write_vision
from dclocal_export.vision_onnx import trace_vision
from dclocal_models.answer import embed_pictures, newline_array, vision_spec
from dclocal_models.open import open_checkpoint
from dclocal_models.vlm import DenseConnectorModel

CARD_FILE, MMPROJ_FILE, ADAPTER_FILE = "README.md", "mmproj.gguf", "adapter.gguf"
PICTURE_ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
MIN_PICTURES = 2
MAX_CONTEXT = 4096


@dataclass(frozen=True)
class LlmFiles:
    """What was made beside the bundle's language model: the 16-bit file that it came from, adapters, notes."""

    reference: Path
    adapters: tuple[AdapterSpec, ...]
    notes: tuple[str, ...]


def export_bundle(checkpoint: Path, out: Path, options: ExportOptions, progress: Progress) -> Bundle:
    """Write `checkpoint` as a bundle into the new folder `out`; raises UserError, and below a floor does not write."""
    require_options(options)
    require_target(out)
    pictures = read_pictures(options.images)
    model, _ = open_checkpoint(checkpoint, base=options.base, vision_tower=options.vision_tower, llm_weights=False)
    require_finite(model)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as temporary:
        work, made = Path(temporary), Path(temporary) / "bundle"
        made.mkdir()
        calibration = pictures if options.vision in CALIBRATED else ()
        graph = trace_vision(model, work / "vision-optimized.onnx", progress)
        write_vision(graph, made / VISION_FILE, options.vision, calibration=calibration, progress=progress)
        newline = newline_array(model)
        if newline is not None:
            save_newline(newline, made / str(vision_spec(model).newline))
        llm = _write_llm(checkpoint, model, pictures, work, made, options, progress)
        notes = list(llm.notes)
        if options.mmproj:
            notes += write_mmproj(model, made / MMPROJ_FILE, progress=progress).differences
        (made / CARD_FILE).write_text(options.card or _card(options, notes), encoding="utf-8")
        first = write_manifest(made, _manifest(model, made, llm, notes, options))
        parity = measure(checkpoint, model, graph, first, llm.reference, pictures, options, progress)
        problems = below_floors(parity, options.vision)
        if problems and not options.force:
            raise UserError("; ".join(problems), "take a finer quantization, or write it all the same with --force")
        (made / PARITY_FILE).write_text(json.dumps(parity, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        write_manifest(made, _with_file(first, PARITY_FILE))
        if out.exists():
            out.rmdir()
        made.replace(out)
    return read_bundle(out)


def require_options(options: ExportOptions) -> None:
    """Refuse names that nothing is called by before any work is done."""
    for what, name, known in (("vision", options.vision, PRECISIONS), ("llm", options.llm, FTYPES)):
        if name not in known:
            raise UserError(f"--{what} {name} is not known", f"use one of {', '.join(known)}")
    if options.name != Path(options.name).name or not options.name:
        raise UserError(f"the bundle cannot be named {options.name!r}", "say --name with a plain word")


def require_target(out: Path) -> None:
    """Refuse a target that is there, or cannot be made."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is not empty", "name a new folder")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out.parent):
            pass
    except OSError as error:
        raise UserError(f"{out.parent} cannot be written ({error.strerror})", "name another folder") from error


def require_finite(model: DenseConnectorModel) -> None:
    """Refuse a vision side with NaN or infinite weights (the language model's are looked at as they are written)."""
    for part, module in (("vision", model.vision), ("connector", model.connector)):
        for name, tensor in module.state_dict().items():
            if not tensor.isfinite().all():
                raise UserError(f"the checkpoint's {part} has values that are not finite in {name}", "train it again")


def read_pictures(folder: Path, least: int = MIN_PICTURES) -> list[Image]:
    """The folder's pictures in order of their names; raises UserError where there are fewer than `least`."""
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder", "name one with pictures: --images FOLDER")
    files = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in PICTURE_ENDINGS]
    if len(files) < least:
        raise UserError(
            f"{folder} holds {len(files)} pictures",
            f"name a folder with at least {least}: --images FOLDER ({', '.join(PICTURE_FORMATS)})",
        )
    return [load_image(path) for path in files]


def _write_llm(
    checkpoint: Path,
    model: DenseConnectorModel,
    pictures: Sequence[Image],
    work: Path,
    made: Path,
    options: ExportOptions,
    progress: Progress,
) -> LlmFiles:
    """The language model's files: 16-bit beside the bundle, quantized in it, the adapter where it is kept apart."""
    merge = options.lora == "merge"
    folder = write_llm_folder(checkpoint, work / "llm", base=options.base, merge_lora=merge, progress=progress)
    reference = convert_to_gguf(folder.path, work / "f16.gguf", progress=progress, sources=options.sources)
    adapters: tuple[AdapterSpec, ...] = ()
    if folder.adapter is not None:
        lora_to_gguf(folder.adapter, folder.path, made / ADAPTER_FILE, progress=progress, sources=options.sources)
        adapters = (AdapterSpec("lora", ADAPTER_FILE, 1.0),)
    if options.llm == "f16":
        (made / LLM_FILE).hardlink_to(reference)
        return LlmFiles(reference, adapters, ())
    imatrix = None
    if options.imatrix_text is not None:
        texts = [text for text in options.imatrix_text.read_text(encoding="utf-8").split("\n\n") if text.strip()]
        embeds = [tensor.numpy() for tensor in embed_pictures(model, pictures)]
        imatrix = write_imatrix(reference, texts, embeds, work / "imatrix.gguf", progress=progress)
    done = quantize(reference, made / LLM_FILE, options.llm, imatrix=imatrix, progress=progress)
    return LlmFiles(reference, adapters, (done.note,) if done.note else ())


def _manifest(
    model: DenseConnectorModel, made: Path, llm: LlmFiles, notes: Sequence[str], options: ExportOptions
) -> Manifest:
    config = model.config
    context = getattr(model.base_llm.config, "max_position_embeddings", MAX_CONTEXT)
    return Manifest(
        name=options.name,
        description=f"{config.vision.backbone}, {config.connector.kind}, {model.base_llm.config.model_type}",
        vision=replace(vision_spec(model), precision=options.vision),
        prompt=FORMATS[config.prompt],
        n_ctx=min(MAX_CONTEXT, context),
        files=describe_files(made),
        licences=dict(options.licences),
        provenance={**config.provenance, "export": {"notes": list(notes), "lora": options.lora}},
        sampling=Sampling(),
        llm_quantization=options.llm,
        adapters=llm.adapters,
    )


def _with_file(bundle: Bundle, name: str) -> Manifest:
    """The manifest with one file more; the others are not hashed again."""
    file = bundle.path / name
    entry = FileEntry(file.stat().st_size, sha256_file(file))
    return replace(bundle.manifest, files=dict(sorted({**bundle.manifest.files, name: entry}.items())))


def _card(options: ExportOptions, notes: Sequence[str]) -> str:
    lines = [f"# {options.name}", "", f"Exported by dclocal: vision {options.vision}, language model {options.llm}."]
    return "\n".join([*lines, *(f"\n{note}" for note in notes)]) + "\n"
