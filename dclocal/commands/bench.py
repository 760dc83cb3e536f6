"""`dclocal bench`: what each stage costs on this machine."""

from __future__ import annotations

import dataclasses
import json

import click


@click.command(epilog="Example: dclocal bench --runs 9")
@click.option("--bundle", "bundle_name", metavar="BUNDLE", help="A bundle's name or folder.  [default: dc-tiny]")
@click.option("--runs", type=click.IntRange(1, 100), default=5, show_default=True, help="Runs of each stage.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def bench(bundle_name: str | None, runs: int, as_json: bool) -> None:
    """Time each stage: medians with their spread, one after the other."""
    from dclocal.benchmark import measure_all
    from dclocal.machine import cpu_model, peak_memory_bytes, usable_cores
    from dclocal.progress import for_terminal
    from dclocal.store import open_bundle

    with for_terminal() as progress:
        bundle = open_bundle(bundle_name, progress)
        measures = measure_all(bundle, runs, progress)
    machine = {"cpu": cpu_model(), "cores": usable_cores(), "peak_memory_bytes": peak_memory_bytes()}
    if as_json:
        print(json.dumps({"machine": machine, "measures": [dataclasses.asdict(one) for one in measures]}, indent=2))
        return
    print(f"{machine['cpu']}, {machine['cores']} cores, {runs} runs, peak memory {peak_memory_bytes() / 1e6:.0f} MB")
    for one in measures:
        print(f"{one.name:46} {one.median:9.1f} {one.unit:9} ({one.low:.1f} to {one.high:.1f})")
