"""What the tests of the engine share: engines opened and closed, a picture to attach, the wait for the next event of a
kind."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from PIL import Image

from dclocal.engine import Engine
from dclocal.engine_messages import Died, Event, Failed, Media, Ready

Kind = TypeVar("Kind", bound=Event)
Opened = TypeVar("Opened", bound=Engine)


@contextmanager
def opening(make: Callable[..., Opened]) -> Iterator[Callable[..., Opened]]:
    """Makes engines as `make` does, open and ready; all of them are closed in the end."""
    engines: list[Opened] = []

    def start(*given: object, **options: object) -> Opened:
        engines.append(make(*given, **options))
        engines[-1].open()
        until(engines[-1], Ready)
        return engines[-1]

    yield start
    for engine in engines:
        engine.close()


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
