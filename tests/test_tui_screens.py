"""How the app looks: a picture of each state at two sizes; run with --snapshot-update to take new ones."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw
from pytest_textual_snapshot import SVGImageExtension
from syrupy.location import PyTestLocation
from textual.pilot import Pilot
from textual_image.widget import HalfcellImage

from dclocal import history as history_module
from dclocal.fake_engine import ScriptedEngine
from dclocal.history import History
from dclocal.settings import Settings
from dclocal_tui.app import DclocalApp
from dclocal_tui.screens.main import MainScreen
from tests.tui_app import WAIT_S, Bench

SIZES = [pytest.param(size, id="x".join(map(str, size))) for size in ((80, 24), (200, 60))]
ANSWER = """\
A **red circle** on white.

1. It is round
2. It is `#dc1e1e`

```python
draw.ellipse(box, fill="red")
```"""
SHOWN = 60
State = Callable[[Bench], Awaitable[None]]
"""Leads the app to the state."""


class Pictures(SVGImageExtension):
    """Kept in tests/snapshots."""

    @classmethod
    def dirname(cls, *, test_location: PyTestLocation) -> str:
        return str(Path(test_location.filepath).with_name("snapshots"))


@pytest.fixture
def looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Any:
    """Compares a state of the app at a size with its picture."""
    monkeypatch.setattr("pytest_textual_snapshot.SVGImageExtension", Pictures)
    snap_compare = request.getfixturevalue("snap_compare")
    monkeypatch.setattr(history_module.time, "time", lambda: 1_750_000_000.0)
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("textual_image._terminal.get_cell_size._result", cell_size(), raising=False)
    drawing = Image.new("RGB", (96, 64), "white")
    ImageDraw.Draw(drawing).ellipse((28, 12, 68, 52), fill=(220, 30, 30))
    drawing.save(tmp_path / "circle.png")

    def compare(lead: State, size: tuple[int, int], answers: tuple[str, ...] = (ANSWER,), **options: Any) -> bool:
        with ExitStack() as stack:
            history = stack.enter_context(History(tmp_path / "home"))
            engine = stack.enter_context(ScriptedEngine(answers, **options.pop("engine", {})))
            settings = options.pop("settings", Settings())
            app = DclocalApp(
                engine, history, settings, preview=HalfcellImage, log_file=Path("engine.log"),
                settings_file=tmp_path / "settings.toml", **options,
            )  # fmt: skip

            async def before(pilot: Pilot[None]) -> None:
                bench = Bench(app, pilot, engine, tmp_path)
                await asyncio.wait_for(lead(bench), WAIT_S)
                steady(bench)
                await pilot.pause()

            same = snap_compare(app, terminal_size=size, run_before=before)
            app.recorder.close()
            return bool(same)

    return compare


def cell_size() -> Any:
    from textual_image._terminal import CellSize

    return CellSize(10, 20)


def steady(bench: Bench) -> None:
    """What differs from run to run, at fixed values."""
    from dataclasses import replace

    status = bench.talk.status
    known = status.ttft_ms is not None
    bench.main.show_status(
        replace(
            status,
            ttft_ms=120.0 if known else None,
            tokens_per_s=98.0 if known else None,
            memory_bytes=400 << 20,
        )
    )


class Held(str):
    """An answer of which no more than SHOWN characters come."""

    engine: ScriptedEngine

    def __new__(cls, text: str, engine: ScriptedEngine) -> Held:
        held = super().__new__(cls, text)
        held.engine = engine
        return held

    def __getitem__(self, part: Any) -> Any:
        return self

    def __iter__(self) -> Any:
        for count, character in enumerate(str(self)):
            if count == SHOWN:
                self.engine.held.set()
            yield character


async def idle(bench: Bench) -> None:
    await bench.until_idle()


async def answered(bench: Bench) -> None:
    await bench.until_idle()
    await bench.ask_and_wait("What is this?")


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("theme", ["textual-dark", "textual-light"])
def test_answered_with_a_picture(looks: Any, size: tuple[int, int], theme: str) -> None:
    assert looks(answered, size, media=["circle.png"], settings=Settings(theme=theme))


@pytest.mark.parametrize("size", SIZES)
def test_empty(looks: Any, size: tuple[int, int]) -> None:
    assert looks(idle, size)


@pytest.mark.parametrize("size", SIZES)
def test_streaming(looks: Any, size: tuple[int, int]) -> None:
    async def lead(bench: Bench) -> None:
        await bench.until_idle()
        bench.engine.answers[:] = [Held(ANSWER, bench.engine)]
        await bench.ask("What is this?")
        await bench.until(lambda: bench.answers == [ANSWER[:SHOWN]])

    assert looks(lead, size, media=["circle.png"])


@pytest.mark.parametrize("size", SIZES)
def test_several_media(looks: Any, size: tuple[int, int]) -> None:
    async def lead(bench: Bench) -> None:
        Path("bad.png").write_text("no picture")
        await bench.ask("/attach bad.png")
        await bench.until_idle()

    assert looks(lead, size, media=["circle.png", "circle.png"])


@pytest.mark.parametrize("size", SIZES)
def test_sessions(looks: Any, size: tuple[int, int]) -> None:
    async def lead(bench: Bench) -> None:
        await answered(bench)
        await bench.pilot.press("ctrl+n")
        await bench.ask_and_wait("And now?")
        await bench.pilot.press("f2")
        await bench.until(lambda: not isinstance(bench.app.screen, MainScreen))

    assert looks(lead, size, (ANSWER, "nothing"))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("key", ["f1", "f3"])
def test_help_and_settings(looks: Any, size: tuple[int, int], key: str) -> None:
    async def lead(bench: Bench) -> None:
        await bench.until_idle()
        await bench.pilot.press(key)
        await bench.until(lambda: not isinstance(bench.app.screen, MainScreen))

    assert looks(lead, size)


@pytest.mark.parametrize("size", SIZES)
def test_dead_engine(looks: Any, size: tuple[int, int]) -> None:
    async def lead(bench: Bench) -> None:
        await answered(bench)
        bench.engine.die()
        await bench.until(lambda: bench.talk.dead)

    assert looks(lead, size, media=["circle.png"])
