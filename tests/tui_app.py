"""The app for tests: on a scripted engine, in a home of its own, drawn the same each time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from PIL import Image
from textual.pilot import Pilot
from textual_image.widget import HalfcellImage

from dclocal.fake_engine import ScriptedEngine
from dclocal.history import History
from dclocal.settings import Settings
from dclocal_tui.app import DclocalApp
from dclocal_tui.screens.main import MainScreen
from dclocal_tui.talk import Talk
from dclocal_tui.widgets.exchange import Exchange

WAIT_S = 10.0


class Bench:
    """A running app and what tests look at."""

    def __init__(self, app: DclocalApp, pilot: Pilot[None], engine: ScriptedEngine, folder: Path):
        self.app, self.pilot, self.engine, self.folder = app, pilot, engine, folder

    @property
    def main(self) -> MainScreen:
        return next(screen for screen in self.app.screen_stack if isinstance(screen, MainScreen))

    @property
    def talk(self) -> Talk:
        return self.main.talk

    @property
    def answers(self) -> list[str]:
        """The answers as their widgets hold them."""
        return [exchange.query_one("Markdown").source for exchange in self.exchanges]  # type: ignore[attr-defined]

    @property
    def exchanges(self) -> list[Exchange]:
        return list(self.main.query(Exchange))

    @property
    def notices(self) -> list[str]:
        return [notice.message for notice in self.app._notifications]

    def text_of(self, selector: str) -> str:
        return str(self.app.screen.query_one(selector).render())

    async def until(self, done: Callable[[], Any]) -> None:
        """Let the app run until `done()`."""
        end = time.monotonic() + WAIT_S
        while not done():
            assert time.monotonic() < end, f"waited {WAIT_S} s; {self.talk.status}, {self.talk.turns}, {self.notices}"
            await asyncio.sleep(0.005)
        await self.pilot.pause()

    async def until_idle(self) -> None:
        """Until nothing is under way."""
        await self.until(lambda: self.talk.ready and self.talk.pending is None and not self.talk.status.activity)

    async def type(self, text: str) -> None:
        """Put text at the cursor, as a fast typist does."""
        self.main.prompt.insert(text)
        await self.pilot.pause()

    async def ask(self, text: str) -> None:
        """Type a question and send it."""
        await self.type(text)
        await self.pilot.press("enter")

    async def ask_and_wait(self, text: str) -> None:
        """The same, and have the answer."""
        turns = len(self.talk.turns)
        await self.ask(text)
        await self.until(lambda: len(self.talk.turns) > turns and self.talk.pending is None)
        await self.until_idle()


def picture(folder: Path, name: str = "red.png", colour: str = "red") -> Path:
    """A file of one colour, 40 by 30."""
    folder.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 30), colour).save(folder / name)
    return folder / name


@asynccontextmanager
async def running(
    folder: Path,
    answers: Sequence[str] = (),
    *,
    size: tuple[int, int] = (100, 30),
    media: Sequence[Path | str] = (),
    settings: Settings | None = None,
    history: History | None = None,
    **engine: Any,
) -> AsyncIterator[Bench]:
    """The app over `folder`, its engine answering `answers`."""
    with history or History(folder) as kept, ScriptedEngine(answers, **engine) as scripted:
        app = DclocalApp(
            scripted,
            kept,
            settings or Settings(),
            preview=HalfcellImage,
            log_file=folder / "engine.log",
            media=[str(path) for path in media],
            settings_file=folder / "settings.toml",
        )
        async with app.run_test(size=size) as pilot:
            await pilot.pause()
            yield Bench(app, pilot, scripted, folder)
        app.recorder.close()
