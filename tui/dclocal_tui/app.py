"""The app: what all screens share, and nothing that waits."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import ClassVar

from textual._xterm_parser import XTermParser
from textual.app import App, SystemCommand
from textual.screen import Screen

from dclocal.engine import Engine
from dclocal.errors import UserError
from dclocal.history import History
from dclocal.history_data import HistoryError
from dclocal.history_export import export
from dclocal.settings import Settings, write_settings
from dclocal_tui.keys import ACTIONS
from dclocal_tui.recorder import Recorder
from dclocal_tui.screens.main import MainScreen
from dclocal_tui.widgets.media_card import Preview

THEME = "textual-dark"
WIDGETS = (
    "prompt",
    "completions",
    "status_line",
    "exchange",
    "conversation",
    "media_card",
    "media_panel",
    "scrubber",
    "filmstrip",
    "camera_card",
    "welcome",
    "dead_banner",
    "bundle_details",
)


class DclocalApp(App[None]):
    """Runs one engine and one history, which its caller opens and closes.

    `opening` is the engine's request to open `bundle`, where it was made already; `typed` came from the terminal before
    the app was there.
    """

    TITLE = "dclocal"
    CSS_PATH: ClassVar = [
        *(f"screens/{name}.tcss" for name in ("screens", "browse", "bundles")),
        *(f"widgets/{name}.tcss" for name in WIDGETS),
    ]

    def __init__(
        self,
        engine: Engine,
        history: History,
        settings: Settings,
        *,
        preview: Preview,
        log_file: Path,
        media: Sequence[str] = (),
        bundle: str | None = None,
        opening: int | None = None,
        typed: str = "",
        settings_file: Path | None = None,
    ):
        super().__init__()
        self.engine, self.history, self.settings = engine, history, settings
        self.preview, self.log_file, self.given_media = preview, log_file, tuple(media)
        self.bundle, self.opening = bundle or settings.bundle or None, opening
        self._typed = typed
        self._settings_file = settings_file
        self.recorder = Recorder(history, self._trouble)
        self._troubles: set[str] = set()

    def on_load(self) -> None:
        """What was typed so far comes before all that is typed from now on."""
        for event in XTermParser().feed(self._typed):
            self.post_message(event)

    async def on_mount(self) -> None:
        """Dress as the settings say, then show the main screen; keys wait until it takes them."""
        self._wear(self.settings)
        self.theme_changed_signal.subscribe(self, lambda _: self._keep_theme())
        try:
            first_run = not self.history.sessions(limit=1)
        except UserError:
            first_run = False
        await self.push_screen(MainScreen(first_run))

    def on_ready(self) -> None:
        """The first frame comes before all that it does without."""
        main = self.screen_stack[1]
        assert isinstance(main, MainScreen)
        main.call_after_refresh(main.warm_up)

    def get_system_commands(self, screen: Screen) -> Iterable[SystemCommand]:
        """The palette: Textual's own, and every action of the main screen."""
        yield from super().get_system_commands(screen)
        if isinstance(screen, MainScreen):
            for action, key, text in ACTIONS:
                if action != "quit":
                    name = action.replace("_", " ").capitalize()
                    yield SystemCommand(name, f"{text} ({key})", partial(screen.run_action, action))

    def save_settings(self, settings: Settings) -> None:
        """Write the settings and go by them; raises SettingsError."""
        write_settings(settings, self._settings_file)
        self.settings = settings
        self._wear(settings)

    def export(self, session: int | None, name: str) -> list[Path]:
        """Write a conversation to a file of that name; the files written.  Raises HistoryError."""
        if session is None:
            raise HistoryError("nothing was said yet", "ask something first")
        self.recorder.wait()
        return export(self.history.load(session), Path(name).expanduser())

    def has_session(self, session: int) -> bool:
        """Whether the history still has it."""
        try:
            self.history.load(session)
        except HistoryError:
            return False
        return True

    def _wear(self, settings: Settings) -> None:
        self.theme = settings.theme if settings.theme in self.available_themes else THEME
        known = {action for action, _, _ in ACTIONS}
        self.set_keymap({action: key for action, key in settings.keys.items() if action in known})

    def _keep_theme(self) -> None:
        """A theme chosen in the palette is kept."""
        if self.theme == (self.settings.theme or THEME):
            return
        try:
            self.save_settings(replace(self.settings, theme=self.theme))
        except UserError as error:
            self.notify(str(error), severity="warning", markup=False)

    def _trouble(self, error: UserError) -> None:
        """The history failed, said once: the conversation goes on without it."""
        if str(error) not in self._troubles:
            self._troubles.add(str(error))
            text = f"{error}; what is said now is not kept"
            self.call_later(self.notify, text, severity="warning", markup=False)
