"""What this machine offers: a thread too many on each core, or beyond a container's share, makes answers slower."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from dclocal import machine
from dclocal.bundle import Bundle

# group of the process → its files in /sys/fs/cgroup
QUOTAS = {
    "version 2": ("0::/", {"cpu.max": "200000 100000"}, 2),
    "version 2, none": ("0::/", {"cpu.max": "max 100000"}, 4),
    "version 2, a part": ("0::/", {"cpu.max": "150000 100000"}, 2),
    "version 2, little": ("0::/", {"cpu.max": "1000 100000"}, 1),
    "version 2, a parent's": ("0::/a/b", {"a/b/cpu.max": "max 100000", "a/cpu.max": "300000 100000"}, 3),
    "version 2, path of the host": ("0::/../host/1", {"cpu.max": "200000 100000"}, 2),
    "version 1": (
        "3:memory:/x\n4:cpuacct,cpu:/pod:1",
        {"cpu/pod:1/cpu.cfs_quota_us": "100000", "cpu/pod:1/cpu.cfs_period_us": "50000"},
        2,
    ),
    "version 1, none": ("4:cpu:/", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 4),
    "version 1, host": ("4:cpu:/docker/f", {"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "50000"}, 1),
    "another controller's": ("3:cpuset:/\n0::/", {"cpuset/cpu.max": "100000 100000"}, 4),
    "nothing to read": ("", {"cpu.max": "garbage"}, 4),
}


@pytest.fixture
def laptop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four cores of two hyperthreads each: 0 and 4, 1 and 5, and so on."""
    for cpu in range(8):
        folder = tmp_path / f"sys/devices/system/cpu/cpu{cpu}/topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(f"{cpu % 4},{cpu % 4 + 4}\n")
    monkeypatch.setattr(machine, "SYSTEM", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    return tmp_path


@pytest.mark.parametrize(("allowed", "cores"), [(range(8), 4), ((0, 4), 1), ((0, 1, 4), 2), ((2,), 1)])
def test_hyperthreads_are_no_cores(
    laptop: Path, monkeypatch: pytest.MonkeyPatch, allowed: tuple[int, ...], cores: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(allowed), raising=False)
    assert machine.usable_cores() == cores


@pytest.mark.parametrize("case", QUOTAS)
def test_a_containers_share_bounds_them(laptop: Path, case: str) -> None:
    own, files, cores = QUOTAS[case]
    for name, text in {"proc/self/cgroup": own, **{f"sys/fs/cgroup/{name}": files[name] for name in files}}.items():
        (laptop / name).parent.mkdir(parents=True, exist_ok=True)
        (laptop / name).write_text(text + "\n")
    assert machine.usable_cores() == cores


def test_without_topology_every_processor_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "SYSTEM", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 3, 5}, raising=False)
    assert machine.usable_cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert machine.usable_cores() == 1


@pytest.mark.skipif(sys.platform != "linux", reason="compares with Linux's own list")
def test_this_machine() -> None:
    """Against /proc/cpuinfo, where it names cores."""
    blocks = Path("/proc/cpuinfo").read_text().strip().split("\n\n")
    facts = [
        dict(line.replace("\t", "").split(":", 1) for line in block.splitlines() if ":" in line) for block in blocks
    ]
    cores = {(fact["physical id"], fact["core id"]) for fact in facts if "core id" in fact}
    assert 1 <= machine.usable_cores() <= (len(cores) or os.cpu_count() or 1)


@pytest.mark.bundle
def test_the_vision_session_takes_these_cores(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """Left to itself ONNX Runtime counts the machine's cores, not the container's."""
    import onnxruntime

    from dclocal import vision

    seen: list[int] = []
    real = onnxruntime.InferenceSession

    def session(path: str, options: Any, **rest: Any) -> Any:
        seen.append(options.intra_op_num_threads)
        return real(path, options, **rest)

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    monkeypatch.setattr(vision, "usable_cores", lambda: 3)
    vision.VisionEncoder(bundle)
    vision.VisionEncoder(bundle, threads=1)
    assert seen == [3, 1]
