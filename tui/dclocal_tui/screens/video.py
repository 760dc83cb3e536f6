"""A video, looked at frame by frame: which frames the model is given, and which part and how many it shall be given."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar

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
from dclocal_tui.decoder import Decoded, Decoder, Measured, Thumbnail, Undecoded, Wish
from dclocal_tui.film import Film, film_of, most_frames, request_for, tokens_each
from dclocal_tui.shelf import Item
from dclocal_tui.widgets.exchange import clean
from dclocal_tui.widgets.filmstrip import Filmstrip, StripFrame
from dclocal_tui.widgets.media_card import Preview
from dclocal_tui.widgets.scrubber import CHOSEN, GIVEN, MovedTo, Scrubber

KEYS = "←→ PgUp PgDn move · [ ] part · - + frames · Enter gives · Esc"
MAX_THUMBNAILS = 128
FOUND_S = 1e-3
"""Two times no further apart are the same frame's."""
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
        self._drawn: object = None
        self._wished: object = None
        self._trouble = ""

    def compose(self) -> ComposeResult:
        """The frame under the cursor, the line, the strip, and what is chosen."""
        item = self._item()
        with Vertical(classes="box") as box:
            box.border_title = Content(f"[{item.number}] {clean(item.name)}" if item else "Video")
            box.border_subtitle = Content(KEYS)
            with Vertical(id="large"):
                yield self._preview(None)
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

    # What is known and chosen

    @property
    def _request(self) -> VideoRequest:
        item = self._item()
        return (item.media.video if item else None) or VideoRequest()

    @property
    def _given(self) -> tuple[float, ...]:
        """The times of the frames that the model has."""
        item = self._item()
        return item.attached.times_s if item and item.attached else ()

    def _count(self, film: Film) -> int:
        """How many frames are chosen."""
        facts = self._facts()
        before = len(self._given) or self._request.frames or (facts.video.frames if facts else VideoRequest.frames)
        return min(film.frames or before or 1, most_frames(film, facts, self._request.tokens_per_frame))

    def _is_changed(self, film: Film) -> bool:
        before = film_of(film.duration_s, film.fps, self._request)
        another = film.frames is not None and self._count(film) != self._count(replace(film, frames=None))
        return another or (film.start_s, film.end_s) != (before.start_s, before.end_s)

    def _times(self, film: Film) -> tuple[float, ...]:
        """When the frames that are chosen are shown: as they were given, else as they will be sampled."""
        if self._given and not self._is_changed(film):
            return tuple(time_s + FOUND_S / 10 for time_s in self._given)  # they are rounded
        return tuple(film.times(self._count(film)))

    def _frame(self, time_s: float) -> StripFrame:
        thumbnail = self._thumbnails.get(time_s)
        shown_s = time_s if thumbnail is None else thumbnail.time_s
        return StripFrame(shown_s, thumbnail, is_among(shown_s, self._given))

    # Drawing

    def on_resize(self) -> None:
        """Another size has room for other frames."""
        self.call_after_refresh(self._draw)

    def _look(self) -> None:
        if self._drawn != (self._given, self._facts()):
            self._draw()

    def _draw(self) -> None:
        film = self._film
        if film is None or not self.is_mounted:
            return
        self._drawn = (self._given, self._facts())
        times_s = self._times(film)
        frames = [self._frame(time_s) for time_s in times_s]
        here = last_before(film.cursor_s, frames)
        strip = self.query_one(Filmstrip)
        window = strip.window(len(times_s), here)
        shown = [times_s[number] for number in window]
        strip.show([frames[number] for number in window], here - window.start)
        self.query_one(Scrubber).show(film, self._given, [frame.time_s for frame in frames])
        self.query_one("#here", Static).update(Content(self._where(film)))
        self.query_one("#choice", Static).update(Content(self._choice(film)))
        self.query_one("#note", Static).update(Content(self._note(film, window)))
        wished = (film.cursor_s, tuple(shown))
        if wished != self._wished:  # else it is under way
            self._wished = wished
            missing = tuple(time_s for time_s in shown if time_s not in self._thumbnails)
            self._decoder.want(Wish(film.cursor_s + 0.25 / film.fps, missing))

    def _where(self, film: Film) -> str:
        frame = self._large
        if frame is None:
            return f"{show_time(film.cursor_s)} of {show_time(film.duration_s)}"
        has = " · the model is given this frame" if is_among(frame.time_s, self._given) else ""
        return f"{show_time(frame.time_s)} of {show_time(film.duration_s)} · frame {frame.index + 1:,}{has}"

    def _choice(self, film: Film) -> str:
        count, facts = self._count(film), self._facts()
        whole = film.start_s == 0 and film.end_s == film.duration_s
        text = "the whole video" if whole else f"{show_time(film.start_s)} – {show_time(film.end_s)}"
        if facts is None:
            return f"{text} · {count:,} frames; their tokens are known once the model is loaded"
        tokens, most = (read(film, facts) for read in (self._tokens, self._most))
        return f"{text} · {count:,} frames (at most {most:,}) × {tokens} = {count * tokens:,} visual tokens"

    def _note(self, film: Film, window: range) -> str:
        """What the frames of the strip are; what went wrong goes first."""
        if self._trouble:
            return self._trouble
        item, count = self._item(), self._count(film)
        if not self._is_changed(film):
            text = f"{GIVEN} the model is given these" if self._given else f"{CHOSEN} these are being prepared"
        else:
            again = " as another video: a question shows it as it was" if item is not None and item.asked else ""
            text = f"{CHOSEN} Enter gives these{again}"
        return text + (f" · {window.start + 1}–{window.stop} of {count:,} are shown" if len(window) < count else "")

    def _tokens(self, film: Film, facts: BundleFacts) -> int:
        """Of each frame: as they were given, else as they will be."""
        item = self._item()
        if self._given and item and item.attached and not self._is_changed(film):
            return item.attached.tokens // len(self._given)
        return tokens_each(facts, self._count(film), self._request.tokens_per_frame)

    def _most(self, film: Film, facts: BundleFacts) -> int:
        return most_frames(film, facts, self._request.tokens_per_frame)

    def _say(self, text: str) -> None:
        """Where there is trouble, it stands in place of the note."""
        self._trouble = clean(text)
        note = self.query_one("#note", Static)
        note.update(Content(self._trouble))
        note.set_class(bool(text), "trouble")

    # What the thread found

    @on(Measured)
    def _measured(self, message: Measured) -> None:
        self._change(film_of(message.duration_s, message.fps, self._request))

    @on(Decoded)
    def _decoded(self, message: Decoded) -> None:
        if message.large:
            self._large = message.thumbnail
            large: Any = self.query_one("#large").children[0]
            large.image = message.thumbnail.image
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
        film = self._film
        if film is not None:
            times_s = [self._frame(time_s).time_s for time_s in self._times(film)]
            if step < 0:
                found = [time_s for time_s in reversed(times_s) if time_s < film.cursor_s - FOUND_S]
            else:
                found = [time_s for time_s in times_s if time_s > film.cursor_s + FOUND_S]
            self._change(film.at(found[0]) if found else film)

    def action_part(self, which: str) -> None:
        """The part begins or ends at the cursor."""
        if self._film is not None:
            try:
                self._change(self._film.from_here() if which == "start" else self._film.until_here())
            except UserError as error:
                self._say(str(error))

    def action_count(self, step: int) -> None:
        """One frame more or fewer, as far as they fit."""
        film = self._film
        if film is not None:
            most = most_frames(film, self._facts(), self._request.tokens_per_frame)
            wanted = self._count(film) + step
            self._change(replace(film, frames=min(max(wanted, 1), most)))
            if wanted > most:
                self._say(f"no more than {most:,} frames: the part has no more, or the context no room for them")

    def action_apply(self) -> None:
        """Hand back what is chosen."""
        film = self._film
        if film is None or not self._is_changed(film):
            self.dismiss(None)
        else:
            self.dismiss(request_for(film, self._count(film), self._request))


def last_before(time_s: float, frames: Sequence[StripFrame]) -> int:
    """Which of the frames is the last that is shown at or before `time_s`; the first where none is."""
    return max(0, sum(frame.time_s <= time_s + FOUND_S for frame in frames) - 1)


def is_among(time_s: float, times_s: Sequence[float]) -> bool:
    """Whether a frame is shown at one of these times."""
    return any(abs(time_s - other_s) < FOUND_S for other_s in times_s)
