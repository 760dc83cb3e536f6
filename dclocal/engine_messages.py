"""What goes over the engine's pipe: requests to the child, events from it.  All of it is frozen data that pickles.

Every request has a number, from 1; every event names the request that it belongs to.  `docs/engine.md` says which
events each request brings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dclocal.chat_events import AnswerOptions, Stats

if TYPE_CHECKING:
    from dclocal.frames import VideoRequest
    from dclocal.manifest import Sampling, VideoDefaults


DEFAULTS = AnswerOptions()


@dataclass(frozen=True)
class Media:
    """A picture (path, URL or the bytes of a file), or with `video` a video file; `name` is what people call it."""

    source: str | bytes
    video: VideoRequest | None = None
    name: str = ""


@dataclass(frozen=True)
class Said:
    """A turn of a conversation that is restored: the question, its media, and the answer."""

    text: str
    media: tuple[Media, ...]
    answer: str


@dataclass(frozen=True)
class Request:
    """What the child is asked for."""

    request: int


@dataclass(frozen=True)
class Open(Request):
    """Open a bundle by name, folder or .dcb file (None: the embedded one)."""

    bundle: str | None = None
    system: str = ""
    threads: int | None = None
    lora: tuple[str, ...] = ()


@dataclass(frozen=True)
class Attach(Request):
    """Make media known."""

    media: Media = Media("")


@dataclass(frozen=True)
class Detach(Request):
    """Forget media that no turn shows."""

    key: str = ""


@dataclass(frozen=True)
class Prepare(Request):
    """Encode and evaluate what every question with these media shares; any newer request ends it."""

    media: tuple[str, ...] = ()


@dataclass(frozen=True)
class Ask(Request):
    """Ask.  With `turn` the conversation is first cut to so many turns; an edited question keeps its media by None."""

    text: str = ""
    media: tuple[str, ...] | None = ()
    turn: int | None = None
    options: AnswerOptions = DEFAULTS


@dataclass(frozen=True)
class Retry(Request):
    """Ask the last question again."""

    options: AnswerOptions = DEFAULTS


@dataclass(frozen=True)
class Continue(Request):
    """Let the last answer go on."""

    options: AnswerOptions = DEFAULTS


@dataclass(frozen=True)
class Reset(Request):
    """Forget what was said; with `system` other than None, under another system message."""

    system: str | None = None


@dataclass(frozen=True)
class Restore(Request):
    """Take up a conversation in place of the one at hand."""

    said: tuple[Said, ...] = ()


@dataclass(frozen=True)
class Cancel(Request):
    """Call off the requests from number `since` up to this one's."""

    since: int = 0


@dataclass(frozen=True)
class Event:
    """What the child says; `request` is the number of the request, 0 for none."""

    request: int


@dataclass(frozen=True)
class FrameRoom:
    """What a video's frames have room in, as `video_plan.plan_video` takes it, before anything is said.

    `context` tokens, of which `reserved` are for text; a frame keeps one of `choices` and has `beside` tokens of text.
    """

    context: int
    reserved: int
    beside: int
    choices: tuple[int, ...]


@dataclass(frozen=True)
class BundleFacts:
    """What a bundle is, for people: `tokens` and `size` (pixels) are of one picture, `frame_room` is of a video."""

    name: str
    description: str
    path: str
    size_bytes: int
    n_ctx: int
    tokens: int
    size: int
    backbone: str
    connector: str
    vision_precision: str
    llm_quantization: str
    sampling: Sampling
    video: VideoDefaults
    adapters: tuple[str, ...]
    licences: Mapping[str, str]
    frame_room: FrameRoom | None = None


@dataclass(frozen=True)
class Ready(Event):
    """The bundle is open; the child is process `pid` and holds `memory_bytes`."""

    bundle: BundleFacts
    load_ms: float
    pid: int
    memory_bytes: int


@dataclass(frozen=True)
class Loading(Event):
    """A long step of opening, attaching, preparing or restoring: `total` 0 means that it is not known."""

    step: str
    done: int
    total: int


@dataclass(frozen=True)
class Attached(Event):
    """Media are known by `key`, the content's: a picture's `size` in pixels and the `tokens` that it takes.

    `thumbnail` is a JPEG of at most 64 KiB.  A video's `times_s` are those of its frames; `summary` says so in words.
    """

    key: str
    kind: str
    name: str
    tokens: int
    size: tuple[int, int]
    thumbnail: bytes
    times_s: tuple[float, ...] = ()
    summary: str = ""


@dataclass(frozen=True)
class Prepared(Event):
    """The next question costs its own tokens: `tokens` are ready, of which `reused` were before."""

    tokens: int
    reused: int


@dataclass(frozen=True)
class Evaluated(Event):
    """A question is read, its answer follows: tokens in the prompt, those found in the cache, and the time it took."""

    prompt_tokens: int
    reused_tokens: int
    prefill_ms: float


@dataclass(frozen=True)
class TextPiece(Event):
    """The next piece of the answer."""

    text: str


@dataclass(frozen=True)
class Answered(Event):
    """Turn `turn`, from 0, is answered; `stop_reason` is end, length, repetition or cancelled.

    `context_tokens` of the context's are taken now; the child holds `memory_bytes`.
    """

    turn: int
    text: str
    media: tuple[str, ...]
    answer: str
    stats: Stats
    stop_reason: str
    context_tokens: int
    memory_bytes: int


@dataclass(frozen=True)
class Restored(Event):
    """A conversation is taken up: `turns` has the keys of each turn's media, `attached` what they are.

    `missing` says which media could not be read: their keys are empty, and their turns stand without them.
    """

    turns: tuple[tuple[str, ...], ...]
    attached: tuple[Attached, ...]
    missing: tuple[str, ...]


@dataclass(frozen=True)
class Done(Event):
    """A request without a result of its own is carried out."""


@dataclass(frozen=True)
class Cancelled(Event):
    """A request was called off and changed nothing."""


@dataclass(frozen=True)
class Failed(Event):
    """A request failed and changed nothing: what was wrong, what to do; `fault` where the user is not to blame."""

    what: str
    remedy: str
    fault: bool = False


@dataclass(frozen=True)
class Died(Event):
    """The child ended by itself: its exit status, or the signal's name, and the last lines that it printed."""

    exit_code: int | None
    signal: str
    lines: tuple[str, ...]

    @property
    def message(self) -> str:
        """One line for people."""
        how = f"was ended by {self.signal}" if self.signal else f"ended with status {self.exit_code}"
        return f"the model's process {how}; start it again to go on"
