"""One picture over HTTP, bounded in bytes, time and redirects."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable

from dclocal.errors import ImageError
from dclocal.files import printable

MAX_BYTES = 64 << 20
DEADLINE_S = 30.0
SILENCE_S = 10.0
MAX_REDIRECTS = 5


def fetch_url(url: str) -> bytes:
    """The body of a successful answer that is no web page; raises ImageError.

    Fetched in a thread of its own, which is left behind when the time is up: names that resolve slowly and
    headers that trickle in cannot be timed from within httpx.
    """
    outcome: list[bytes | BaseException] = []

    def work() -> None:
        try:
            outcome.append(_fetch(url, printable(url), started))
        except BaseException as error:
            outcome.append(error)

    started = time.monotonic()
    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    worker.join(DEADLINE_S)
    if not outcome:
        raise _too_slow(printable(url))
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    return outcome[0]


def _fetch(url: str, name: str, started: float) -> bytes:
    import httpx

    try:
        with (
            httpx.Client(follow_redirects=True, max_redirects=MAX_REDIRECTS, timeout=SILENCE_S) as client,
            client.stream("GET", url, headers={"Accept-Encoding": "identity"}) as response,
        ):
            if response.status_code != 200:
                reason = f"{response.status_code} {response.reason_phrase}"
                raise ImageError(f"{name} answered {reason}", "check the address")
            kind = response.headers.get("content-type", "")
            if kind.startswith("text/"):
                raise ImageError(f"{name} is a page ({kind.split(';')[0]})", "give the address of the picture itself")
            packed = response.headers.get("content-encoding", "identity")
            if packed != "identity":  # unpacked, a small answer may fill any memory
                raise ImageError(f"{name} is sent packed as {packed}", "download it first")
            return _read_bounded(response.iter_raw(), name, started)
    except httpx.TooManyRedirects as error:
        raise ImageError(f"{name} redirects more than {MAX_REDIRECTS} times", "check the address") from error
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:  # ValueError: a name that IDNA does not know
        reason = printable(str(error)) or type(error).__name__
        raise ImageError(f"{name} cannot be fetched ({reason})", "check the address and the network") from error


def _read_bounded(blocks: Iterable[bytes], name: str, started: float) -> bytes:
    data = bytearray()
    for block in blocks:
        data += block
        if len(data) > MAX_BYTES:
            raise ImageError(f"{name} sends more than {MAX_BYTES:,} bytes", "give a smaller picture")
        if time.monotonic() - started > DEADLINE_S:
            raise _too_slow(name)
    return bytes(data)


def _too_slow(name: str) -> ImageError:
    return ImageError(f"{name} took more than {DEADLINE_S:.0f} s", "download it first")
