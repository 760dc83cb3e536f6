"""What the tests of the engine share: a picture to attach, and the wait for the next event of a kind."""

from __future__ import annotations

import io
from typing import TypeVar

from PIL import Image

from dclocal.engine import Engine
from dclocal.engine_messages import Died, Event, Failed, Media

Kind = TypeVar("Kind", bound=Event)


def picture(colour: str = "red") -> Media:
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30), colour).save(buffer, "PNG")
    return Media(buffer.getvalue(), name=f"{colour}.png")


def until(engine: Engine, kind: type[Kind], seen: list[Event] | None = None) -> Kind:
    """The next event of that kind; those before it go to `seen`."""
    while not isinstance(event := engine.next_event(30), kind):
        assert event is not None
        assert not isinstance(event, Failed | Died), event
        if seen is not None:
            seen.append(event)
    return event
