"""The app from start to end: settings, history, engine, terminal and screen, each closed whatever happens."""

from __future__ import annotations

from collections.abc import Sequence

from dclocal.engine import Engine
from dclocal.history import History
from dclocal.places import home
from dclocal.settings import read_settings
from dclocal_tui.terminal import asked_terminal


def run(media: Sequence[str], bundle: str | None) -> None:
    """Run the app until the user quits; raises UserError where the settings cannot be read."""
    settings = read_settings()
    log_file = home() / "logs" / "tui-engine.log"
    with History() as history, Engine(log_file) as engine:
        with asked_terminal() as answers:
            bundle = bundle or settings.bundle or None
            opening = engine.open(bundle, system=settings.system)  # the model loads while the app does
            from dclocal_tui.app import DclocalApp
            from dclocal_tui.previews import Previews

            terminal = answers()
        preview = Previews(terminal)
        if terminal is None:
            preview.load()
        app = DclocalApp(
            engine,
            history,
            settings,
            media=media,
            bundle=bundle,
            opening=opening,
            typed=terminal.typed if terminal else "",
            log_file=log_file,
            preview=preview,
        )
        app.run()
        app.recorder.close()
        if app.return_code:
            raise SystemExit(app.return_code)
