"""Pictures from the web: a server that misbehaves must not hang the program or fill its memory."""

from __future__ import annotations

import contextlib
import gzip
import http.server
import io
import threading
import time
from collections.abc import Iterator

import pytest
from PIL import Image

from dclocal import fetch
from dclocal.errors import ImageError
from dclocal.images import load_image


class Handler(http.server.BaseHTTPRequestHandler):
    """One path per way to answer."""

    def do_GET(self) -> None:
        answers = {"/ok.png": self.picture, "/page": self.page, "/endless": self.endless}
        answers |= {"/slow": self.slow, "/trickle": self.trickle, "/bomb": self.bomb}
        if self.path == "/loop":
            self.send_response(302)
            self.send_header("Location", "/loop")
            self.end_headers()
        elif self.path in answers:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the client gave up, as it should
                answers[self.path]()
        else:
            self.send_error(404)

    def start(self, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.end_headers()

    def picture(self) -> None:
        buffer = io.BytesIO()
        Image.new("RGB", (5, 7), "red").save(buffer, "PNG")
        self.start("image/png")
        self.wfile.write(buffer.getvalue())

    def page(self) -> None:
        self.start("text/html; charset=utf-8")
        self.wfile.write(b"<html></html>")

    def endless(self) -> None:
        self.start("image/png")
        for _ in range(10_000):
            self.wfile.write(b"\0" * 65536)

    def slow(self) -> None:
        self.start("image/png")
        for _ in range(100):
            self.wfile.write(b"\0" * 10)
            time.sleep(0.05)

    def trickle(self) -> None:
        """A header that never ends, each byte well within any timeout for silence."""
        self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Padding: ")
        for _ in range(100):
            self.wfile.write(b"x")
            time.sleep(0.05)

    def bomb(self) -> None:
        """40 KB that unpack to 40 MB, and those to 40 GB in principle."""
        self.send_response(200)
        self.send_header("Content-Type", "image/png")
        self.send_header("Content-Encoding", "gzip")
        self.end_headers()
        self.wfile.write(gzip.compress(b"\0" * (40 << 20)))

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def test_a_picture_is_fetched(server: str) -> None:
    assert load_image(f"{server}/ok.png").size == (5, 7)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/missing", "404"),
        ("/page", "is a page"),
        ("/loop", "redirects"),
        ("/endless", "more than"),
        ("/slow", "took more"),
        ("/trickle", "took more"),
        ("/bomb", "packed as gzip"),
    ],
)
def test_bad_answers_end_in_one_clear_line(
    server: str, path: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "DEADLINE_S", 0.3)
    if path == "/endless":
        monkeypatch.setattr(fetch, "MAX_BYTES", 1 << 20)
        monkeypatch.setattr(fetch, "DEADLINE_S", 30)
    started = time.monotonic()
    with pytest.raises(ImageError, match=expected) as caught:
        load_image(server + path)
    assert "\n" not in str(caught.value)
    assert path == "/endless" or time.monotonic() - started < 2  # /slow and /trickle go on for 5 s


@pytest.mark.parametrize(
    "address", ["http://a\nb/x.png", "http://[::1/x", "http://127.0.0.1:99999/", "http://", "HTTPS://ü…\0/"]
)
def test_addresses_that_are_none_end_in_one_clear_line(address: str) -> None:
    with pytest.raises(ImageError, match="cannot be fetched") as caught:
        load_image(address)
    assert str(caught.value).isprintable()


def test_nobody_listens() -> None:
    with pytest.raises(ImageError, match="cannot be fetched"):
        load_image("http://127.0.0.1:9/picture.png")
