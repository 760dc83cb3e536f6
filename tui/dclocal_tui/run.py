"""The app from start to end: settings, history, engine and screen, each closed whatever happens."""

from __future__ import annotations

from collections.abc import Sequence

from dclocal.engine import Engine
from dclocal.history import History
from dclocal.settings import read_settings
from dclocal.store import home


def run(media: Sequence[str], bundle: str | None) -> None:
    """Run the app until the user quits; raises UserError where the settings cannot be read."""
    settings = read_settings()
    import textual_image.widget  # before the app starts: it asks the terminal what pictures it can show

    from dclocal_tui.app import DclocalApp

    with History() as history, Engine(home() / "logs" / "tui-engine.log") as engine:
        app = DclocalApp(
            engine,
            history,
            settings,
            media=media,
            bundle=bundle,
            log_file=home() / "logs" / "tui-engine.log",
            preview=textual_image.widget.Image,
        )
        app.run()
        app.recorder.close()
        if app.return_code:
            raise SystemExit(app.return_code)
