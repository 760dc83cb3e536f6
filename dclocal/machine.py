"""Facts of this machine: processor, cores that may be used, memory."""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path

SYSTEM = Path("/")
"""Where the kernel's files are; tests put another machine's there."""

FIRST_PROCESSOR = 8192
"""Characters that tell all there is of one."""


def usable_cores() -> int:
    """Physical cores that this process may run on, no more than its control group's share of processor time.

    Two threads on one core's hyperthreads only wait for each other in matrix products.
    """
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    allowed = os.sched_getaffinity(0)
    cpus = SYSTEM / "sys/devices/system/cpu"
    cores = {_text(cpus / f"cpu{number}/topology/thread_siblings_list") or str(number) for number in allowed}
    return max(1, math.ceil(min(len(cores), _processor_quota())))


def cpu_model() -> str:
    """The processor's name."""
    import platform

    return _cpuinfo().get("model name") or _sysctl("machdep.cpu.brand_string") or platform.processor() or "unknown"


def cpu_flags() -> set[str]:
    """The instruction sets that the processor reports, in lower case; empty where the system does not say."""
    facts = _cpuinfo()
    listed = facts.get("flags") or facts.get("Features") or _sysctl("machdep.cpu.features machdep.cpu.leaf7_features")
    return set(listed.lower().split())


def linux_on_x86_64() -> bool:
    """Whether this is Linux on a processor of that kind."""
    return sys.platform == "linux" and os.uname().machine == "x86_64"


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


def _processor_quota() -> float:
    """How many processors' time the control groups grant, infinite where they set no bound.

    Bounds hold for all groups below, so each folder up to the mount is read; within a container the mount
    itself is the container's group.
    """
    quota = math.inf
    for line in _text(SYSTEM / "proc/self/cgroup").splitlines():
        _, controllers, group = line.split(":", 2)
        mount = SYSTEM / "sys/fs/cgroup"
        if controllers:
            if "cpu" not in controllers.split(","):
                continue
            mount = mount / "cpu"
        folder = mount / group.lstrip("/")
        for place in (folder, *folder.parents):
            quota = min(quota, _quota_of(place))
            if place == mount:
                break
    return quota


def _quota_of(group: Path) -> float:
    """The bound that one control group sets: version 2's cpu.max, or version 1's pair of files."""
    values = _text(group / "cpu.max").split() or [
        _text(group / "cpu.cfs_quota_us"),
        _text(group / "cpu.cfs_period_us"),
    ]
    try:
        microseconds, period = map(int, values)
    except ValueError:  # "max", or no such file
        return math.inf
    return microseconds / period if microseconds > 0 and period > 0 else math.inf


def _text(file: Path) -> str:
    """What the file holds, without the space around it; nothing where it cannot be read."""
    try:
        return file.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _cpuinfo() -> dict[str, str]:
    """The first processor's lines in Linux's /proc/cpuinfo, which is long where there are many."""
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8", errors="replace") as file:
            text = file.read(FIRST_PROCESSOR)
    except OSError:
        return {}
    pairs = (line.partition(":") for line in text.split("\n\n", 1)[0].splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def _sysctl(names: str) -> str:
    """macOS's answer, or nothing."""
    if sys.platform != "darwin":
        return ""
    import subprocess

    done = subprocess.run(["sysctl", "-n", *names.split()], capture_output=True, text=True, check=False)
    return " ".join(done.stdout.split())
