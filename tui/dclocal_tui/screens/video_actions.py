"""What the main screen does about its videos: the screen of their frames, and what is chosen there."""

from __future__ import annotations

from textual import on, work

from dclocal_tui.messages import FramesWanted
from dclocal_tui.screens.dialogs import Dialogs


class VideoActions(Dialogs):
    """`/video N`, the key for the newest video, and Enter on a video's card."""

    @on(FramesWanted)
    def _frames_wanted(self, message: FramesWanted) -> None:
        self.show_video(message.number)

    def action_video(self) -> None:
        """Look at the newest video."""
        videos = [item.number for item in self.talk.shelf.items if item.media.video is not None]
        if videos:
            self.show_video(videos[-1])
        else:
            self.tell("there is no video yet — /attach PATH attaches one", "warning")

    @work
    async def show_video(self, number: int) -> None:
        """Look at a video, and give the model the frames that are chosen there."""
        from dclocal_tui.screens.video import VideoScreen

        item = self.talk.shelf.get(number)
        if item is None or item.media.video is None or isinstance(item.media.source, bytes):
            self.tell(f"[{number}] is no video", "warning")
            return
        shelf, source = self.talk.shelf, item.media.source
        screen = VideoScreen(lambda: shelf.get(number), lambda: self.talk.facts, source, self.app.preview)
        request = await self.app.push_screen_wait(screen)
        if request is not None and self.talk.shelf is shelf:
            self.talk.give_frames(number, request)
