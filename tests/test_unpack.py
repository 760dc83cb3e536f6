"""Bundles unpacked from one file: under the right name, once, and whole or not at all."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from dclocal import pack as pack_module
from dclocal import store
from dclocal.bundle import MANIFEST, Bundle, read_bundle
from dclocal.errors import BundleError
from dclocal.pack import open_packed, pack, unpack
from tests.packed_bundle import make, members, nothing_there, packed, rewrite, small

__all__ = ["packed", "small"]


def test_there_and_back(packed: Path, small: Bundle, own_home: Path) -> None:
    steps: list[tuple[str, int, int]] = []
    installed = unpack(packed, progress=lambda *step: steps.append(step))
    assert installed.path == own_home / "bundles" / "fake" and installed.manifest == small.manifest
    assert members(packed) == {file.name: file.read_bytes() for file in installed.path.iterdir()}
    assert steps[0][1] == 0 and steps[-1] == ("unpacking fake.dcb", small.size_bytes, small.size_bytes)
    assert [path.name for path in installed.path.parent.iterdir()] == ["fake"]
    assert store.open_bundle("fake").manifest == small.manifest


def test_a_zip_by_another_tool_is_read(packed: Path, tmp_path: Path) -> None:
    """The standard library's, in another order and with dates; big members' zip64 fields, too."""
    contents = members(packed)
    assert unpack(rewrite(tmp_path / "a.dcb", list(contents.items())[::-1]), "one")
    with zipfile.ZipFile(tmp_path / "b.dcb", "w") as archive:
        for name, data in contents.items():
            with archive.open(name, "w", force_zip64=True) as stream:
                stream.write(data)
    assert unpack(tmp_path / "b.dcb", "two")


def test_names(packed: Path, small: Bundle, tmp_path: Path) -> None:
    first = unpack(packed)
    (first.path / "README.md").touch()
    assert unpack(packed).path == first.path  # the same content: nothing is done
    other = make(tmp_path / "other", description="another")
    pack(other, tmp_path / "other.dcb")
    with pytest.raises(BundleError, match="another bundle is named fake — add --name"):
        unpack(tmp_path / "other.dcb")
    assert read_bundle(first.path).manifest == small.manifest
    assert unpack(tmp_path / "other.dcb", "other").manifest.description == "another"
    for name in ("", ".", "..", "a/b", "../x", ".hidden", "a\0b", "a\nb", "x" * 200):
        with pytest.raises(BundleError, match="cannot be a bundle's name"):
            unpack(packed, name)


def test_a_manifest_names_no_path_and_not_the_default(tmp_path: Path, own_home: Path) -> None:
    """A stranger's file must not become what `dclocal chat` runs by default."""
    for index, (name, expected) in enumerate((("../../x", "cannot be a bundle's name"), ("dc-tiny", "add --name"))):
        pack(make(tmp_path / f"named{index}", name=name), tmp_path / f"{index}.dcb")
        with pytest.raises(BundleError, match=expected):
            unpack(tmp_path / f"{index}.dcb")
        assert nothing_there()
    assert unpack(tmp_path / "1.dcb", "dc-tiny").path.name == "dc-tiny"
    assert open_packed(tmp_path / "0.dcb").path.name.startswith("bundle-")


def test_chat_unpacks_once(packed: Path, small: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    digest = hashlib.sha256((small.path / MANIFEST).read_bytes()).hexdigest()
    first = store.open_bundle(str(packed), lambda step, *_: steps.append(step))
    assert first.path.name == f"fake-{digest[:16]}"
    assert set(steps) == {f"unpacking fake.dcb into the store as {first.path.name}"}
    steps.clear()
    monkeypatch.setattr(pack_module, "_extract", None)
    assert store.open_bundle(str(packed), lambda step, *_: steps.append(step)) == first and steps == []


def test_chat_takes_what_is_installed(packed: Path) -> None:
    assert unpack(packed).path == store.open_bundle(str(packed)).path


def test_a_full_disk_is_said_before(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=5 << 20 >> 3))
    with pytest.raises(BundleError, match=r"has 0 MB free, fake.dcb takes 1 MB — free some"):
        unpack(packed)
    assert nothing_there()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device"), MemoryError()])
def test_a_stop_at_any_point_leaves_nothing(
    packed: Path, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = ["write", "read_bundle", "progress", "replace"]
    for point in points:

        def fail(*_: object, **__: object) -> None:
            raise error

        with monkeypatch.context() as patch:
            if point == "write":
                patch.setattr(os, "fsync", fail)
            elif point == "read_bundle":
                patch.setattr(pack_module, "read_bundle", fail)
            elif point == "replace":
                patch.setattr(Path, "replace", fail)
            with pytest.raises((BundleError, type(error))):
                unpack(packed, None, fail if point == "progress" else lambda *_: None)
        assert nothing_there(), point
    assert unpack(packed)


CHILD = """
import os, sys, time
from dclocal import pack
from pathlib import Path
def slow(descriptor):
    print("writing", flush=True)
    time.sleep(60)
os.fsync = slow
pack.unpack(Path(sys.argv[1]))
"""


def test_a_killed_unpack_is_swept(packed: Path, own_home: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(packed)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None and child.stdout.readline() == "writing\n"
    child.send_signal(signal.SIGKILL)
    child.communicate()
    assert store.installed() == [] and not nothing_there()
    assert unpack(packed)
    assert [path.name for path in (own_home / "bundles").iterdir()] == ["fake"]


def test_two_at_once_install_one(packed: Path, own_home: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from dclocal.pack import unpack; print(unpack(Path(sys.argv[1])).path)"
    )
    children = [
        subprocess.Popen([sys.executable, "-c", code, str(packed)], stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]
    answers = {child.communicate(timeout=60)[0].strip() for child in children}
    assert answers == {str(own_home / "bundles" / "fake")}
