"""An examination of this machine and installation, as plain data."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from dclocal import __version__
from dclocal.errors import BundleError

NEEDED = (
    "onnxruntime", "llama-cpp-python", "opencv-python-headless", "numpy", "pillow", "onnx", "gguf", "safetensors",
    "click", "rich", "prompt_toolkit", "httpx", "filelock", "platformdirs",
)  # fmt: skip
EXTRAS = {
    "train": ("torch", "transformers", "accelerate", "peft"),
    "export": ("torch", "transformers", "optimum-onnx"),
    "gpu": ("onnxruntime-gpu",),
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
        "runtimes": _runtimes(missing),
        "store": _store(problems),
    }
    report["problems"] = problems
    report["can_chat"] = not missing
    return report


def _machine() -> dict[str, Any]:
    from dclocal.machine import cpu_flags, cpu_model, memory_bytes, usable_cores

    flags = cpu_flags()
    return {
        "cpu": cpu_model(),
        "features": " ".join(flag for flag in CPU_FLAGS if flag in flags) or "unknown",
        "cores": usable_cores(),
        "memory": f"{memory_bytes() / 1e9:.1f} GB" if memory_bytes() else "unknown",
    }


def _runtimes(missing: list[str]) -> dict[str, str]:
    facts = {}
    if "onnxruntime" not in missing:
        import onnxruntime

        facts["ONNX Runtime providers"] = ", ".join(onnxruntime.get_available_providers())
    if "llama-cpp-python" not in missing:
        import llama_cpp.llama_cpp as llama

        facts["llama.cpp"] = llama.llama_print_system_info().decode(errors="replace")
        facts["llama.cpp on a GPU"] = "yes" if llama.llama_supports_gpu_offload() else "no"
    return facts


def _store(problems: list[str]) -> dict[str, str]:
    from dclocal.store import home, installed, parts_folder

    folder = home()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    facts = {
        "folder": str(folder),
        "free": f"{shutil.disk_usage(existing).free / 1e9:.1f} GB",
        "writable": "yes" if os.access(existing, os.W_OK) else "no",
    }
    if facts["writable"] == "no":
        problems.append(f"{existing} cannot be written: set DCLOCAL_HOME to a folder of yours")
    for name, found in installed():
        facts[f"bundle {name}"] = f"damaged: {found}" if isinstance(found, BundleError) else "ready"
    try:
        facts["embedded parts"] = str(parts_folder("dc-tiny").relative_to(Path(__file__).parent.parent))
    except BundleError as error:
        problems.append(str(error))
    return facts


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
