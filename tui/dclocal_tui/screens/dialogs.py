"""What the main screen opens over itself, and what it does with the user's choice there."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from textual import work
from textual.screen import Screen

from dclocal.errors import UserError
from dclocal_tui.paths import media_of
from dclocal_tui.recorder import questions_and_answers
from dclocal_tui.reopen import from_history
from dclocal_tui.talk import Talk

if TYPE_CHECKING:
    from dclocal_tui.app import DclocalApp


class Dialogs(Screen[None]):
    """Help, log, conversations, settings, bundles; imported when they are opened, so that the start is quick."""

    app: DclocalApp
    talk: Talk

    def tell(self, text: str, severity: str = "information") -> None:
        """Tell the user something for a few seconds."""
        self.notify(text, severity=severity, markup=False, timeout=8)  # type: ignore[arg-type]

    def give_back(self, text: str) -> None:
        """Put a question back where it was typed."""
        raise NotImplementedError

    def action_help(self) -> None:
        """Show all keys."""
        from dclocal_tui.screens.help import HelpScreen

        self.app.push_screen(HelpScreen())

    def action_log(self) -> None:
        """Show the engine's log."""
        from dclocal_tui.screens.log import LogScreen

        self.app.push_screen(LogScreen(self.app.log_file))

    @work
    async def action_sessions(self) -> None:
        """Choose a conversation to take up."""
        from dclocal_tui.screens.sessions import SessionsScreen

        await asyncio.to_thread(self.app.recorder.wait)
        current = self.app.recorder.session
        chosen = await self.app.push_screen_wait(SessionsScreen(self.app.history, current, self.app.export))
        if chosen is not None:
            await self._reopen(chosen)
        elif current is not None and not self.app.has_session(current):
            await self.run_action("new")

    async def _reopen(self, session: int) -> None:
        if self.talk.dead:
            self.tell("press F5 to start the model again first", "warning")
            return
        try:
            saved = self.app.history.load(session)
        except UserError as error:
            self.tell(str(error), "error")
            return
        turns, said, shelf, unanswered = from_history(
            questions_and_answers(saved), lambda source: media_of(source, self.app.settings.frames)
        )
        await self.talk.reopen(session, turns, said, shelf)
        self.give_back(unanswered)

    @work
    async def action_settings(self) -> None:
        """Change the settings."""
        from dclocal_tui.screens.settings import SettingsScreen

        changed = await self.app.push_screen_wait(SettingsScreen(self.app.settings, self.app.save_settings))
        if changed is not None:
            self.tell("saved; another system prompt counts from the next conversation on")

    @work
    async def action_bundles(self) -> None:
        """Choose another bundle."""
        from dclocal_tui.screens.bundles import BundlesScreen

        chosen = await self.app.push_screen_wait(BundlesScreen(self.talk.status.bundle))
        if chosen is not None and self.talk.pending is None and not self.talk.dead:
            self.talk.open(chosen)
