"""Pictures by name from folders and tar shards: if these fail, a row is trained with another picture than its own, or
a downloaded data set reads files outside its folder.  What is right is what Pillow and `tarfile` say."""

from __future__ import annotations

import io
import multiprocessing
import os
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dclocal.errors import ImageError
from dclocal.images import load_image
from dclocal_train import pictures as module
from dclocal_train import shards as shards_module
from dclocal_train.pictures import Pictures, open_pictures, plain_name
from dclocal_train.shards import ShardError

pytestmark = pytest.mark.usefixtures("own_home")


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def picture_of(number: int) -> bytes:
    """A picture like no other: its size and colour tell its number."""
    return encoded(Image.new("RGB", (3 + number, 2), (number, 255 - number, 7)))


def tar_of(path: Path, members: dict[str, bytes], **options: object) -> Path:
    with tarfile.open(path, "w", **options) as tar:  # type: ignore[call-overload]
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


LONG = "d" * 90 + "/" + "é" * 120 + ".png"
NAMES = ("a.png", "coco/train/b.jpg", "coco/ü 漢.PNG", "x.y.z.webp", LONG)


@pytest.fixture(params=["folder", "tar", "folder of tars"])
def stored(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """NAMES as picture 0, 1, …, in each kind of place."""
    contents = {name: picture_of(number) for number, name in enumerate(NAMES)}
    folder = tmp_path / "pictures"
    if request.param == "tar":
        return tar_of(tmp_path / "all.tar", contents)
    for number, (name, data) in enumerate(contents.items()):
        if request.param == "folder":
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
        else:
            folder.mkdir(exist_ok=True)
            tar_of(folder / f"{number}.tar", {f"./{name}": data, "notes.txt": b"in every shard", "0.json": b"{}"})
    return folder


def test_every_name_gives_its_own_picture(stored: Path) -> None:
    pictures = open_pictures(stored)
    for number, name in list(enumerate(NAMES)) * 2:
        assert pictures.exists(name) and pictures.exists(f"./{name}")
        assert pictures.size(name) == (3 + number, 2)
        expected = Image.open(io.BytesIO(picture_of(number)))
        np.testing.assert_array_equal(np.asarray(pictures.load(name)), np.asarray(expected))


def test_names_that_are_not_there_say_so(stored: Path) -> None:
    pictures = open_pictures(stored)
    for name in ("b.jpg", "A.png", "coco", "a.png.bak", "n" * 5000 + ".png"):
        assert not pictures.exists(name)
        for method in (pictures.load, pictures.size):
            with pytest.raises(ImageError):
                method(name)
    with pytest.raises(ImageError, match="does not exist"):
        pictures.load("none.png")


OUTSIDE = ("../secret.png", "/etc/passwd", "a/../../secret.png", "..", ".", "", "a\0.png", "\ud800.png")
WINDOWS = ("C:\\secret.png", "\\\\host\\share.png", "..\\secret.png", "a\\..\\..\\secret.png", "C:/secret.png")


@pytest.mark.parametrize("name", [*OUTSIDE, *WINDOWS])
def test_names_do_not_leave_the_folder(stored: Path, name: str) -> None:
    (stored.parent / "secret.png").write_bytes(picture_of(0))
    pictures = open_pictures(stored)
    assert not pictures.exists(name)
    for method in (pictures.load, pictures.size):
        with pytest.raises(ImageError, match="not inside|names no picture|not a file name") as caught:
            method(name)
        assert len(str(caught.value)) < 400


@pytest.mark.parametrize("name", [None, 3, ["a.png"], {"a": 1}, b"a.png"])
def test_names_that_are_no_text_are_refused(name: object) -> None:
    with pytest.raises(ImageError, match="names no picture"):
        plain_name(name)


def test_a_tilde_is_no_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`load_image` completes ~ at a path's start; a name must not stand there."""
    home, folder = tmp_path / "home", tmp_path / "pictures"
    home.mkdir()
    folder.mkdir()
    (home / "secret.png").write_bytes(picture_of(0))
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(folder)
    with pytest.raises(ImageError, match="does not exist"):
        open_pictures(Path(".")).load("~/secret.png")
    assert open_pictures(Path("~")).exists("secret.png")  # the user's own path may


def test_links_in_a_tar_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(picture_of(0))
    path = tmp_path / "all.tar"
    with tarfile.open(path, "w") as tar:
        for name, kind in (
            ("soft.png", tarfile.SYMTYPE),
            ("hard.png", tarfile.LNKTYPE),
            ("pipe.png", tarfile.FIFOTYPE),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, str(tmp_path / "secret.png")
            tar.addfile(info)
    pictures = open_pictures(path)
    assert not any(pictures.exists(name) for name in ("soft.png", "hard.png", "pipe.png"))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_sizes_are_those_of_the_loaded_picture(tmp_path: Path, kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.new("RGB", (40, 30)), kind, exif=exif)
    (tmp_path / "a").write_bytes(data)
    expected = (30, 40) if orientation >= 5 else (40, 30)
    assert load_image(data).size == expected  # what training sees
    assert open_pictures(tmp_path).size("a") == expected
    assert open_pictures(tar_of(tmp_path / "a.tar", {"a.jpg": data})).size("a.jpg") == expected


def test_sizes_need_the_header_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture cut short still has a size; what claims too many pixels or is none has not."""
    noise = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    whole = encoded(Image.fromarray(noise))
    contents = {"cut.png": whole[: len(whole) // 2], "text.png": b"no picture", "empty.png": b""}
    for name, data in contents.items():
        (tmp_path / name).write_bytes(data)
    for pictures in (open_pictures(tmp_path), open_pictures(tar_of(tmp_path / "all.tar", contents))):
        assert pictures.size("cut.png") == (400, 300)
        with pytest.raises(ImageError, match="truncated"):
            pictures.load("cut.png")
        for name in ("text.png", "empty.png"):
            with pytest.raises(ImageError):
                pictures.size(name)
            with pytest.raises(ImageError):
                pictures.load(name)
        with monkeypatch.context() as patch:
            patch.setattr(module, "MAX_PIXELS", 400 * 300 - 1)
            with pytest.raises(ImageError, match="claims 400×300 pixels"):
                pictures.size("cut.png")


def test_damaged_headers_end_in_an_image_error(tmp_path: Path) -> None:
    """Bytes turned at random in the headers of real formats: a size, or one clear line."""
    source = np.random.default_rng(0)
    exif = Image.Exif()
    exif[0x0112] = 6
    for kind in ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM"):
        whole = encoded(Image.new("RGB", (9, 5)), kind, **({"exif": exif} if kind in ("JPEG", "PNG", "TIFF") else {}))
        for _ in range(150):
            data = bytearray(whole)
            for place in source.integers(0, min(len(data), 120), 3):
                data[place] = source.integers(0, 256)
            (tmp_path / "a").write_bytes(data)
            try:
                width, height = open_pictures(tmp_path).size("a")
                assert width > 0 and height > 0
            except ImageError as error:
                assert str(tmp_path / "a") in str(error)


def test_members_over_the_bound_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = open_pictures(tar_of(tmp_path / "all.tar", {"a.png": picture_of(1)}))
    monkeypatch.setattr(module, "MAX_FILE_BYTES", 10)
    with pytest.raises(ImageError, match="use at most 10"):
        pictures.load("a.png")


def test_two_pictures_of_one_name_are_refused(tmp_path: Path) -> None:
    """Which of them a row means cannot be known; other files may stand in every shard."""
    for name in ("1.tar", "2.tar"):
        tar_of(tmp_path / name, {"LICENSE": b"free", "0/a.png": picture_of(1)})
    with pytest.raises(ShardError, match=r"0/a\.png stands twice, in .*1\.tar and .*2\.tar"):
        open_pictures(tmp_path)


def damaged(path: Path) -> dict[str, bytes]:
    whole = path.read_bytes()
    header = bytearray(whole)
    header[1024 + 150] ^= 255  # the second member's checksum
    return {
        "cut inside a member": whole[: 1024 + 600],
        "cut inside a header": whole[: 1024 + 100],
        "damaged header": bytes(header),
        "text": b"no tar file" * 100,
        "empty": b"",
    }


def test_damaged_shards_are_refused_whole(tmp_path: Path) -> None:
    """`tarfile` takes some damage for the end: the rest of the pictures would be missing without a word."""
    members = {f"{number}.png": picture_of(number) for number in range(4)}  # a block each, after its header's
    whole = tar_of(tmp_path / "whole.tar", members)
    assert open_pictures(whole).exists("3.png")
    for kind, data in damaged(whole).items():
        (tmp_path / "bad.tar").write_bytes(data)
        with pytest.raises(ShardError, match=r"bad\.tar cannot be read as a tar file"):
            open_pictures(tmp_path / "bad.tar")
            pytest.fail(kind)
    packed = tmp_path / "packed.tar"
    with tarfile.open(packed, "w:gz") as tar:
        tar.add(whole, "whole")
    with pytest.raises(ShardError, match="uncompressed"):
        open_pictures(packed)


def test_shards_are_read_through_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tar_of(tmp_path / "1.tar", {"1.png": picture_of(1)})
    open_pictures(tmp_path)
    tar_of(tmp_path / "2.tar", {"2.png": picture_of(2)})
    scanned = []
    scan = shards_module._scan
    monkeypatch.setattr(shards_module, "_scan", lambda shard: scanned.append(shard.name) or scan(shard))
    steps: list[tuple[int, int]] = []
    pictures = open_pictures(tmp_path, lambda step, done, total: steps.append((done, total)))
    assert scanned == ["2.tar"] and steps[-1] == (2, 2)
    assert pictures.size("1.png") == (4, 2) and pictures.size("2.png") == (5, 2)


def test_paths_that_hold_no_pictures_say_so(tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text("[]")
    with pytest.raises(ImageError, match="neither a folder"):
        open_pictures(tmp_path / "rows.json")
    with pytest.raises(ImageError, match="does not exist"):
        open_pictures(tmp_path / "none")


def send_widths(pictures: Pictures, numbers: list[int], answers: Any) -> None:
    answers.put((numbers, [pictures.load(NAMES[number]).width - 3 for number in numbers]))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_read_at_the_same_time(stored: Path, method: str) -> None:
    pictures = open_pictures(stored)
    pictures.load(NAMES[1])  # the parent's handle is open now
    context = multiprocessing.get_context(method)
    answers = context.Queue()
    orders = [[0, 1, 2, 3, 4] * 100, [4, 2, 0, 3, 1] * 100]
    workers = [context.Process(target=send_widths, args=(pictures, order, answers)) for order in orders]
    for worker in workers:
        worker.start()
    for _ in workers:
        wanted, got = answers.get(timeout=15)
        assert got == wanted
    for worker in workers:
        worker.join(timeout=15)


def test_more_shards_than_handles(tmp_path: Path) -> None:
    for number in range(40):
        tar_of(tmp_path / f"{number}.tar", {f"{number}.png": picture_of(number)})
    pictures = pickle.loads(pickle.dumps(open_pictures(tmp_path)))
    before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").is_dir() else 0
    assert [pictures.load(f"{number}.png").width for number in range(40)] == [3 + number for number in range(40)]
    if before:
        assert len(os.listdir("/proc/self/fd")) - before <= 32
