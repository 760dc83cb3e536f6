"""Facts of this machine: processor, cores that may be used, memory."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path


def usable_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_model() -> str:
    """The processor's name."""
    return _cpuinfo().get("model name") or _sysctl("machdep.cpu.brand_string") or platform.processor() or "unknown"


def cpu_flags() -> set[str]:
    """The instruction sets that the processor reports, in lower case; empty where the system does not say."""
    facts = _cpuinfo()
    listed = facts.get("flags") or facts.get("Features") or _sysctl("machdep.cpu.features machdep.cpu.leaf7_features")
    return set(listed.lower().split())


def memory_bytes() -> int:
    """Physical memory, 0 where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 0


def peak_memory_bytes() -> int:
    """The most memory that this process held so far, 0 where the system does not say."""
    return _peak_bytes("RUSAGE_SELF")


def peak_memory_of_children_bytes() -> int:
    """The most memory that any ended child process held, 0 where the system does not say."""
    return _peak_bytes("RUSAGE_CHILDREN")


def _peak_bytes(whose: str) -> int:
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(getattr(resource, whose)).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _cpuinfo() -> dict[str, str]:
    """The first processor's lines in Linux's /proc/cpuinfo."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    pairs = (line.partition(":") for line in text.split("\n\n", 1)[0].splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def _sysctl(names: str) -> str:
    """macOS's answer, or nothing."""
    if sys.platform != "darwin":
        return ""
    done = subprocess.run(["sysctl", "-n", *names.split()], capture_output=True, text=True, check=False)
    return " ".join(done.stdout.split())
