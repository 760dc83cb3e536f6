"""One picture over HTTP, bounded in bytes, time and redirects."""

from __future__ import annotations

import time
from collections.abc import Iterable

from dclocal.errors import ImageError

MAX_BYTES = 64 << 20
DEADLINE_S = 30.0
SILENCE_S = 10.0
MAX_REDIRECTS = 5


def fetch_url(url: str) -> bytes:
    """The body of a successful answer that is no web page; raises ImageError."""
    import httpx

    started = time.monotonic()
    try:
        with (
            httpx.Client(follow_redirects=True, max_redirects=MAX_REDIRECTS, timeout=SILENCE_S) as client,
            client.stream("GET", url) as response,
        ):
            if response.status_code != 200:
                raise ImageError(f"{url} answered {response.status_code} {response.reason_phrase}", "check the address")
            kind = response.headers.get("content-type", "")
            if kind.startswith("text/"):
                raise ImageError(f"{url} is a page ({kind.split(';')[0]})", "give the address of the picture itself")
            return _read_bounded(response.iter_bytes(), url, started)
    except httpx.TooManyRedirects as error:
        raise ImageError(f"{url} redirects more than {MAX_REDIRECTS} times", "check the address") from error
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        reason = str(error) or type(error).__name__
        raise ImageError(f"{url} cannot be fetched ({reason})", "check the address and the network") from error


def _read_bounded(blocks: Iterable[bytes], url: str, started: float) -> bytes:
    data = bytearray()
    for block in blocks:
        data += block
        if len(data) > MAX_BYTES:
            raise ImageError(f"{url} sends more than {MAX_BYTES:,} bytes", "give a smaller picture")
        if time.monotonic() - started > DEADLINE_S:
            raise ImageError(f"{url} took more than {DEADLINE_S:.0f} s", "download it first")
    return bytes(data)
