"""A video, looked at frame by frame: which frames the model is given, and which part and how many it shall be given."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Static

from dclocal.engine_messages import BundleFacts
from dclocal.errors import UserError
from dclocal.frames import VideoRequest
from dclocal.sampling import show_time
from dclocal_tui.clean import clean
from dclocal_tui.decoder import Decoded, Decoder, Measured, Thumbnail, Undecoded, Wish
from dclocal_tui.film import Film, film_of
from dclocal_tui.plan import SAME_S, Plan, is_among
from dclocal_tui.previews import draw
from dclocal_tui.shelf import Item
from dclocal_tui.widgets.filmstrip import Filmstrip, StripFrame
from dclocal_tui.widgets.media_card import Preview
from dclocal_tui.widgets.scrubber import MovedTo, Scrubber

KEYS = "←→ PgUp PgDn move · [ ] part · - + frames · Enter gives · Esc"
MAX_THUMBNAILS = 128
INSIDE = 0.25
"""So far into a frame's time, in frames, it is looked for: times are rounded."""
LOOK_S = 0.25


class VideoScreen(ModalScreen[VideoRequest | None]):
    """Hands back what the model shall be given, None where nothing was changed.

    `item` and `facts` are asked for again and again: the engine may still be loading when the screen is opened.
    """

    BINDINGS: ClassVar = [
        ("escape,f8", "dismiss(None)"),
        ("enter", "apply"),
        ("left", "move(-1)"),
        ("right", "move(1)"),
        ("shift+left", "move(-10)"),
        ("shift+right", "move(10)"),
        ("home", "go(0)"),
        ("end", "go(1)"),
        ("pageup", "sampled(-1)"),
        ("pagedown", "sampled(1)"),
        ("left_square_bracket", "part('start')"),
        ("right_square_bracket", "part('end')"),
        ("minus", "count(-1)"),
        ("plus,equals_sign", "count(1)"),
    ]

    def __init__(
        self, item: Callable[[], Item | None], facts: Callable[[], BundleFacts | None], path: str, preview: Preview
    ):
        super().__init__()
        self._item, self._facts, self._preview = item, facts, preview
        self._decoder = Decoder(path, self.post_message)
        self._film: Film | None = None
        self._thumbnails: OrderedDict[float, Thumbnail] = OrderedDict()
        self._large: Thumbnail | None = None
        self._drawn: Plan | None = None
        self._wished: object = None
        self._trouble = ""

    def compose(self) -> ComposeResult:
        """The frame under the cursor, the line, the strip, and what is chosen."""
        item = self._item()
        with Vertical(classes="box") as box:
            box.border_title = Content(f"[{item.number}] {clean(item.name)}" if item else "Video")
            box.border_subtitle = Content(KEYS)
            with Vertical(id="large"):
                yield draw(self._preview(None), None)
            yield Static(id="here")
            yield Scrubber()
            yield Filmstrip(self._preview)
            yield Static(id="choice")
            yield Static(id="note")

    def on_mount(self) -> None:
        """Decode in a thread; see now and then what the engine has come to know."""
        self.query_one("#note", Static).update("opening the video…")
        self._decode()
        self.set_interval(LOOK_S, self._look)

    def on_unmount(self) -> None:
        """The thread ends."""
        self._decoder.close()

    @work(thread=True)
    def _decode(self) -> None:
        self._decoder.run()

    @property
    def _plan(self) -> Plan | None:
        """What is chosen; None before the video is opened, or once it was taken off."""
        item = self._item()
        return None if self._film is None or item is None else Plan(self._film, item, self._facts())

    def _frame(self, time_s: float, plan: Plan) -> StripFrame:
        thumbnail = self._thumbnails.get(time_s)
        shown_s = time_s if thumbnail is None else thumbnail.time_s
        return StripFrame(shown_s, thumbnail, is_among(shown_s, plan.given))

    # Drawing

    def on_resize(self) -> None:
        """Another size has room for other frames."""
        self.call_after_refresh(self._draw)

    def _look(self) -> None:
        if self._plan != self._drawn:
            self._draw()

    def _draw(self) -> None:
        plan = self._plan
        if plan is None or not self.is_mounted:
            return
        self._drawn, times_s = plan, plan.times_s
        frames = [self._frame(time_s, plan) for time_s in times_s]
        here = last_before(plan.film.cursor_s, frames)
        strip = self.query_one(Filmstrip)
        window = strip.window(len(frames), here)
        strip.show([frames[number] for number in window], here - window.start)
        self.query_one(Scrubber).show(plan.film, plan.given, [frame.time_s for frame in frames])
        self.query_one("#here", Static).update(Content(self._where(plan)))
        self.query_one("#choice", Static).update(Content(plan.choice))
        note = self.query_one("#note", Static)
        note.update(Content(self._trouble or plan.note(window)))
        self._wish(plan.film, tuple(times_s[number] for number in window))

    def _wish(self, film: Film, shown_s: tuple[float, ...]) -> None:
        """Have decoded what is to be seen, unless that is under way."""
        wished = (film.cursor_s, shown_s)
        if wished != self._wished:
            self._wished = wished
            missing = tuple(time_s for time_s in shown_s if time_s not in self._thumbnails)
            self._decoder.want(Wish(film.cursor_s + INSIDE / film.fps, missing))

    def _where(self, plan: Plan) -> str:
        frame, duration = self._large, show_time(plan.film.duration_s)
        if frame is None:
            return f"{show_time(plan.film.cursor_s)} of {duration}"
        has = " · the model is given this frame" if is_among(frame.time_s, plan.given) else ""
        return f"{show_time(frame.time_s)} of {duration} · frame {frame.index + 1:,}{has}"

    def _say(self, text: str) -> None:
        """Where there is trouble, it stands in place of the note."""
        self._trouble = clean(text)
        note = self.query_one("#note", Static)
        note.update(Content(self._trouble))
        note.set_class(bool(text), "trouble")

    # What the thread found

    @on(Measured)
    def _measured(self, message: Measured) -> None:
        item = self._item()
        request = item.media.video if item else None
        self._change(film_of(message.duration_s, message.fps, request or VideoRequest()))

    @on(Decoded)
    def _decoded(self, message: Decoded) -> None:
        if message.large:
            self._large = message.thumbnail
            draw(self.query_one("#large").children[0], message.thumbnail.image)
        else:
            self._thumbnails[message.wanted_s] = message.thumbnail
            if len(self._thumbnails) > MAX_THUMBNAILS:
                self._thumbnails.popitem(last=False)
        self._draw()

    @on(Undecoded)
    def _undecoded(self, message: Undecoded) -> None:
        self._say(message.reason)

    # What the user does

    def _change(self, film: Film) -> None:
        self._film = film
        self._say("")
        self._draw()

    @on(MovedTo)
    def _moved_to(self, message: MovedTo) -> None:
        if self._film is not None:
            self._change(self._film.at(message.time_s))

    def action_move(self, frames: int) -> None:
        """The cursor so many frames on."""
        if self._film is not None:
            self._change(self._film.moved(frames))

    def action_go(self, share: float) -> None:
        """The cursor at this share of the video."""
        if self._film is not None:
            self._change(self._film.at(share * self._film.duration_s))

    def action_sampled(self, step: int) -> None:
        """The cursor at the chosen frame before or after it."""
        plan = self._plan
        if plan is not None:
            times_s, cursor_s = [self._frame(time_s, plan).time_s for time_s in plan.times_s], plan.film.cursor_s
            if step < 0:
                found = [time_s for time_s in reversed(times_s) if time_s < cursor_s - SAME_S]
            else:
                found = [time_s for time_s in times_s if time_s > cursor_s + SAME_S]
            self._change(plan.film.at(found[0]) if found else plan.film)

    def action_part(self, which: str) -> None:
        """The part begins or ends at the cursor."""
        if self._film is not None:
            try:
                self._change(self._film.from_here() if which == "start" else self._film.until_here())
            except UserError as error:
                self._say(str(error))

    def action_count(self, step: int) -> None:
        """One frame more or fewer, as far as they fit."""
        plan = self._plan
        if plan is not None:
            wanted = plan.count + step
            self._change(replace(plan.film, frames=min(max(wanted, 1), plan.most)))
            if wanted > plan.most:
                self._say(f"no more than {plan.most:,} frames: the part has no more, or the context no room for them")

    def action_apply(self) -> None:
        """Hand back what is chosen."""
        self.dismiss(self._plan.request if self._plan else None)


def last_before(time_s: float, frames: Sequence[StripFrame]) -> int:
    """Which of the frames is the last that is shown at or before `time_s`; the first where none is."""
    return max(0, sum(frame.time_s <= time_s + SAME_S for frame in frames) - 1)
