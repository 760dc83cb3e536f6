"""An examination of this machine and installation, as plain data."""

from __future__ import annotations

import platform
import shutil
import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from dclocal import __version__
from dclocal.errors import BundleError

NEEDED = (
    "onnxruntime", "llama-cpp-python", "opencv-python-headless", "numpy", "pillow", "onnx", "gguf", "safetensors",
    "sympy", "click", "rich", "prompt_toolkit", "httpx", "filelock", "platformdirs",
)  # fmt: skip
EXTRAS = {
    "train": ("torch", "transformers", "accelerate", "peft"),
    "export": ("torch", "transformers", "optimum-onnx"),
    "gpu": ("onnxruntime-gpu",),
    "dev": ("pytest", "ruff", "mypy", "import-linter", "scikit-image"),
}
CPU_FLAGS = (
    "avx2",
    "f16c",
    "fma",
    "avx512f",
    "avx512_vnni",
    "avx_vnni",
    "avx512_bf16",
    "amx_int8",
    "neon",
    "asimd",
    "i8mm",
)


def examine() -> dict[str, Any]:
    """Sections of facts, a list of `problems` each with its remedy, and whether chat can run (`can_chat`)."""
    problems: list[str] = []
    packages = _versions(NEEDED)
    missing = [name for name, found in packages.items() if found == "missing"]
    if "onnxruntime" in missing and _version("onnxruntime-gpu") != "missing":
        missing.remove("onnxruntime")
        packages["onnxruntime"] = f"{_version('onnxruntime-gpu')} (gpu)"
    elif _version("onnxruntime-gpu") != "missing":
        problems.append(
            "onnxruntime and onnxruntime-gpu are both installed and hide one another: "
            "pip uninstall onnxruntime onnxruntime-gpu, then pip install onnxruntime-gpu"
        )
    problems += [f"{name} is missing: pip install {name}" for name in missing]
    report: dict[str, Any] = {
        "dclocal": {"version": __version__, "python": sys.version.split()[0], "platform": platform.platform()},
        "machine": _machine(),
        "packages": packages,
        "extras": {extra: _extra(extra, names) for extra, names in EXTRAS.items()},
        "runtimes": _runtimes(missing, problems),
    }
    loaded = not missing and len(report["runtimes"]) == len(RUNTIMES)
    report["store"], has_bundle = _store(problems)
    report["problems"] = problems
    report["can_chat"] = loaded and has_bundle
    return report


def _machine() -> dict[str, Any]:
    from dclocal.machine import cpu_flags, cpu_model, memory_bytes, usable_cores

    flags = cpu_flags()
    return {
        "cpu": cpu_model(),
        "features": " ".join(flag for flag in CPU_FLAGS if flag in flags) or "unknown",
        "cores": usable_cores(),
        "memory_bytes": memory_bytes(),
    }


def _onnx_runtime() -> str:
    import onnxruntime

    from dclocal.vision_kernels import whose

    return f"{', '.join(onnxruntime.get_available_providers())}; operators: {whose()}"


def _llama_cpp() -> str:
    from dclocal.llama_api import llama
    from dclocal.llama_kernels import whose

    gpu = "with GPU offload" if llama.llama_supports_gpu_offload() else "no GPU offload"
    return f"{gpu}; kernels: {whose()}; {llama.llama_print_system_info().decode(errors='replace').strip(' |')}"


def _resizing() -> str:
    from dclocal.picture_kernels import whose

    return whose()


RUNTIMES: dict[str, tuple[str, Callable[[], str]]] = {
    "ONNX Runtime providers": ("onnxruntime", _onnx_runtime),
    "llama.cpp": ("llama-cpp-python", _llama_cpp),
    "resizing": ("pillow", _resizing),
}
"""What loads native code: the fact's name → its package and how the fact is found."""


def _runtimes(missing: list[str], problems: list[str]) -> dict[str, str]:
    """A fact for every runtime that loads; one that is installed and does not load is a problem."""
    facts = {}
    for name, (package, fact) in RUNTIMES.items():
        if package in missing:
            continue
        try:
            facts[name] = fact()
        except Exception as error:  # a missing system library, another processor's build: each raises its own
            reason = " ".join(str(error).split()) or type(error).__name__
            problems.append(
                f"{package} is installed and does not load ({reason}): pip install --force-reinstall {package}"
            )
    return facts


def _store(problems: list[str]) -> tuple[dict[str, Any], bool]:
    """Facts of the folder that bundles live in, and whether a bundle is there or can be built."""
    from dclocal.places import home
    from dclocal.store import BUILD_BYTES, installed, parts_folder

    folder = home()
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free, writable = shutil.disk_usage(existing).free, _is_writable(existing)
    facts: dict[str, Any] = {"folder": str(folder), "free_bytes": free, "writable": "yes" if writable else "no"}
    ready = False
    for name, found in installed():
        ready = ready or not isinstance(found, BundleError)
        facts[f"bundle {name}"] = f"damaged: {found}" if isinstance(found, BundleError) else "ready"
    buildable = writable
    if not writable:
        problems.append(f"{existing} cannot be written: set DCLOCAL_HOME to a folder of yours")
    elif not ready and free < BUILD_BYTES:
        buildable = False
        problems.append(f"{folder} has {free >> 20} MB free, building needs {BUILD_BYTES >> 20} MB: free some")
    try:
        facts["embedded parts"] = str(parts_folder("dc-tiny").relative_to(Path(__file__).parent.parent))
    except BundleError as error:
        buildable = False
        problems.append(str(error))
    return facts, ready or buildable


def _is_writable(folder: Path) -> bool:
    """Whether a file can be made there; permissions alone do not tell on read-only and virtual file systems."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _extra(extra: str, names: tuple[str, ...]) -> str:
    missing = [name for name in names if _version(name) == "missing"]
    return f"not installed ({', '.join(missing)}): pip install 'dclocal[{extra}]'" if missing else "installed"


def _versions(names: tuple[str, ...]) -> dict[str, str]:
    return {name: _version(name) for name in names}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "missing"
