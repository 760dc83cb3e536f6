"""A network camera on the loopback, for tests: motion JPEG whose pictures carry their numbers."""

from __future__ import annotations

import io
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
from PIL import Image

BITS, WIDTH, HEIGHT = 10, 80, 64


def numbered(number: int) -> Image.Image:
    """A picture with ten squares, black or white, that are the bits of `number`; the rest of it is grey."""
    pixels = np.full((HEIGHT, WIDTH, 3), 60, np.uint8)
    for bit in range(BITS):
        row, column = divmod(bit, 5)
        pixels[row * 32 : row * 32 + 28, column * 16 : column * 16 + 14] = 255 * (number >> bit & 1)
    return Image.fromarray(pixels)


def number_in(image: Image.Image) -> int:
    """The number that a picture carries."""
    grey = np.asarray(image.convert("L"))
    places = [divmod(bit, 5) for bit in range(BITS)]
    return sum(int(grey[row * 32 + 14, column * 16 + 7] > 127) << bit for bit, (row, column) in enumerate(places))


class NetworkCamera:
    """Sends `fps` pictures a second to whoever connects; `sent` is the number in the last one.

    `mode` is count, freeze (the same picture again and again), black, or stall (connected, and nothing comes);
    `playlist` is sent in their place where there is one; `unplug` closes it, `plug` brings it back on the same port.
    """

    def __init__(self, fps: float = 20):
        self.fps, self.mode, self.sent, self.connections = fps, "count", 0, 0
        self.port, self.playlist = 0, ""
        self._server: ThreadingHTTPServer | None = None
        self.plug()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/stream"

    def plug(self) -> None:
        camera, running = self, threading.Event()
        running.set()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                camera.connections += 1
                self.send_response(200)
                if camera.playlist:
                    self.send_header("Content-Type", "application/vnd.apple.mpegurl")
                    self.end_headers()
                    self.wfile.write(camera.playlist.encode())
                    return
                self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=picture")
                self.end_headers()
                while running.is_set():
                    if camera.mode != "stall" and not self.send():
                        return
                    time.sleep(1 / camera.fps)

            def send(self) -> bool:
                camera.sent += camera.mode == "count"
                image = Image.new("RGB", (WIDTH, HEIGHT)) if camera.mode == "black" else numbered(camera.sent)
                data = io.BytesIO()
                image.save(data, "jpeg", quality=90)
                head = f"--picture\r\nContent-Type: image/jpeg\r\nContent-Length: {data.tell()}\r\n\r\n".encode()
                try:
                    self.wfile.write(head + data.getvalue() + b"\r\n")
                except OSError:
                    return False
                return True

            def log_message(self, format: str, *arguments: object) -> None:
                pass

        self._running = running
        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def unplug(self) -> None:
        self._running.clear()
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
        self._server = None
