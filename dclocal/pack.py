"""One file for a bundle: `.dcb`, an uncompressed zip with the manifest first; packed, and unpacked into the store.

The same bundle gives the same bytes.  Unpacking trusts nothing: every member's size and SHA-256 are compared with
the manifest in a hidden folder, which gets the bundle's name as the last step.  Nothing in it is executed.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from dclocal.bundle import MAX_MANIFEST_BYTES, Bundle, check_required, read_bundle
from dclocal.errors import BundleError
from dclocal.manifest import MANIFEST, FileEntry, Manifest, parse_manifest
from dclocal.places import bundles_folder
from dclocal.progress import Progress, silent
from dclocal.store import EMBEDDED, PACKED, errors_as_one_line, locked
from dclocal.stored_zip import REMEDY, add_member, list_stored, read_blocks

UNPACKING = ".unpacking-"
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,99}")
HASH_DIGITS = 16


@dataclass(frozen=True)
class Packed:
    """An opened `.dcb`: its manifest as bytes and as data, and where its members lie."""

    file: Path
    stream: BinaryIO
    text: bytes
    manifest: Manifest
    members: dict[str, zipfile.ZipInfo]

    @property
    def content_hash(self) -> str:
        """SHA-256 in hex of the manifest, which holds that of every other member."""
        return hashlib.sha256(self.text).hexdigest()


def pack(bundle: Bundle, out: Path, progress: Progress = silent) -> int:
    """Write the bundle to the file `out`, whole or not at all; returns its size in bytes.

    Every member is hashed on the way.  Raises BundleError where one differs from the manifest, or `out` cannot be
    written.
    """
    if out.suffix != PACKED:
        raise BundleError(f"{out} does not end in {PACKED}", f"name the file {out.name}{PACKED}")
    temporary = out.with_name(f".{out.name}.{os.getpid()}.part")
    counted = _counter(f"packing {bundle.manifest.name}", bundle.size_bytes, progress)
    try:
        with temporary.open("xb") as stream, zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
            text = (bundle.path / MANIFEST).read_bytes()
            add_member(archive, MANIFEST, len(text), [text])
            for name, entry in sorted(bundle.manifest.files.items()):
                with (bundle.path / name).open("rb") as source:
                    blocks = iter(lambda source=source: source.read(1 << 20), b"")  # type: ignore[misc]
                    where = f"{bundle.path}: {name}"
                    add_member(archive, name, entry.size_bytes, _checked(blocks, entry, where, counted))
        size = temporary.stat().st_size
        temporary.replace(out)
    except OSError as error:
        raise BundleError(
            f"{bundle.path} cannot be packed into {out} ({error.strerror})", "name a file in a folder with room for it"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
    return size


def unpack(file: Path, name: str | None = None, progress: Progress = silent) -> Bundle:
    """Install a `.dcb` in the store under `name`, else under the manifest's own.

    The same bundle, already there, is left as it is.  Raises BundleError for a file that is not what its manifest
    says, a full disk, or a name that another bundle has.
    """
    with _opened(file) as packed:
        if name is None:
            name = packed.manifest.name
            if name in EMBEDDED and not _is_installed(packed, name):
                raise BundleError(
                    f"{file} calls itself {name}, as the embedded bundle is called",
                    f"add --name, with {name} to put it in that one's place",
                )
        if not NAME.fullmatch(name):
            raise BundleError(f"{name!r:.80} cannot be a bundle's name", "add --name with letters, digits, - and _")
        return _install(packed, name, f"unpacking {file.name}", progress)


def open_packed(file: Path, progress: Progress = silent) -> Bundle:
    """The bundle in a `.dcb`, unpacked into the store the first time, under a name that ends in its content's hash.

    Raises BundleError as `unpack` does.
    """
    with _opened(file) as packed:
        own = packed.manifest.name if NAME.fullmatch(packed.manifest.name) else "bundle"
        hashed = f"{own[:80]}-{packed.content_hash[:HASH_DIGITS]}"
        for name in (own, hashed):
            if _is_installed(packed, name):
                return read_bundle(bundles_folder() / name)
        return _install(packed, hashed, f"unpacking {file.name} into the store as {hashed}", progress)


@contextmanager
def _opened(file: Path) -> Iterator[Packed]:
    """The archive with everything checked that can be without reading its members."""
    if not file.is_file():
        raise BundleError(f"there is no file {file}", f"name a {PACKED} file")
    with file.open("rb") as stream:
        members = list_stored(stream, str(file))
        info = members.pop(MANIFEST, None)
        if info is None:
            raise BundleError(f"{file} holds no {MANIFEST}", f"name a {PACKED} file")
        if info.file_size > MAX_MANIFEST_BYTES:
            raise BundleError(f"{file}: {MANIFEST} is larger than {MAX_MANIFEST_BYTES} bytes", REMEDY)
        text = b"".join(read_blocks(stream, info, str(file)))
        manifest = parse_manifest(text.decode("utf-8", errors="replace"), str(file))
        check_required(manifest, str(file))
        for name, member in members.items():
            if name not in manifest.files:
                raise BundleError(f"{file}: {name} is not in the manifest", REMEDY)
            if member.file_size != manifest.files[name].size_bytes:
                raise BundleError(
                    f"{file}: {name} has {member.file_size} bytes, the manifest says {manifest.files[name].size_bytes}",
                    REMEDY,
                )
        if missing := sorted(set(manifest.files) - set(members)):
            raise BundleError(f"{file} lacks {', '.join(missing):.200}", REMEDY)
        yield Packed(file, stream, text, manifest, members)


def _is_installed(packed: Packed, name: str) -> bool:
    """Whether the store has this very bundle under `name`."""
    file = bundles_folder() / name / MANIFEST
    return file.is_file() and file.read_bytes() == packed.text


def _install(packed: Packed, name: str, step: str, progress: Progress) -> Bundle:
    folder, size_bytes = bundles_folder(), sum(info.file_size for info in packed.members.values())
    target = folder / name
    with errors_as_one_line(), locked(name, progress):
        if _is_installed(packed, name):
            return read_bundle(target)
        if os.path.lexists(target):
            raise BundleError(
                f"another bundle is named {name}", f"add --name with another name, or dclocal bundle remove {name}"
            )
        folder.mkdir(parents=True, exist_ok=True)
        prefix = f"{UNPACKING}{hashlib.sha256(name.encode()).hexdigest()[:HASH_DIGITS]}-"
        for leftover in folder.glob(f"{prefix}*"):  # the lock is ours, so nobody works there
            shutil.rmtree(leftover, ignore_errors=True)
        free = shutil.disk_usage(folder).free
        if free < size_bytes + MAX_MANIFEST_BYTES:
            raise BundleError(
                f"{folder} has {free >> 20} MB free, {packed.file.name} takes {-(-size_bytes >> 20)} MB",
                "free some, or set DCLOCAL_HOME to another disk",
            )
        work = Path(tempfile.mkdtemp(prefix=prefix, dir=folder))
        try:
            out = work / "bundle"
            out.mkdir()
            _extract(packed, out, _counter(step, size_bytes, progress))
            read_bundle(out)
            out.replace(target)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return read_bundle(target)


def _extract(packed: Packed, out: Path, counted: Callable[[int], None]) -> None:
    """Write every member, hashed on the way, and the manifest after all of them."""
    for name, entry in packed.manifest.files.items():
        where = f"{packed.file}: {name}"
        blocks = read_blocks(packed.stream, packed.members[name], str(packed.file))
        _write(out / name, _checked(blocks, entry, where, counted))
    _write(out / MANIFEST, iter([packed.text]))


def _write(file: Path, blocks: Iterator[bytes]) -> None:
    with file.open("xb") as stream:
        for block in blocks:
            stream.write(block)
        stream.flush()
        os.fsync(stream.fileno())


def _checked(blocks: Iterator[bytes], entry: FileEntry, where: str, counted: Callable[[int], None]) -> Iterator[bytes]:
    """The blocks as they are; raises BundleError at their end unless they are what `entry` says."""
    digest, size = hashlib.sha256(), 0
    for block in blocks:
        digest.update(block)
        size += len(block)
        if size > entry.size_bytes:
            break
        counted(len(block))
        yield block
    if size != entry.size_bytes or digest.hexdigest() != entry.sha256:
        raise BundleError(f"{where} is not what the manifest says (its SHA-256 differs)", REMEDY)


def _counter(step: str, total: int, progress: Progress) -> Callable[[int], None]:
    done = 0

    def counted(count: int) -> None:
        nonlocal done
        done += count
        progress(step, done, total)

    progress(step, 0, total)
    return counted
