"""A web server of images for tests, which can also send invalid responses."""

import socket
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO

import pytest
from PIL import Image

from tests.support.images import paint

ORIENTATION = 0x0112


def image_bytes(kind="PNG", *, width=64, height=48, orientation=None):
    """An image file, with an EXIF `orientation` if given."""
    image = Image.fromarray(paint(width, height))
    exif = Image.Exif()
    if orientation:
        exif[ORIENTATION] = orientation
    out = BytesIO()
    image.save(out, format=kind, exif=exif)
    return out.getvalue()


class ImageServer:
    """`pages` maps paths to bytes, (status, headers, bytes), or a function that is called with the handler."""

    def __init__(self, pages=None):
        self.pages = dict(pages or {})
        self.requests, self.connections = [], 0
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"site": self}))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    @property
    def port(self):
        return self._server.server_port

    @property
    def host_port(self):
        return f"127.0.0.1:{self.port}"

    @property
    def url(self):
        return f"http://{self.host_port}"

    @property
    def paths(self):
        return [path for path, _ in self.requests]

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # otherwise headers wait for the body, and each response takes 40 ms
    site: ImageServer

    def setup(self):
        super().setup()
        self.site.connections += 1

    def do_GET(self):
        self.site.requests.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
        page = self.site.pages.get(self.path, self.site.pages.get(self.path.partition("?")[0], (404, {}, b"no")))
        with suppress(OSError):  # the client has closed the connection
            if callable(page):
                page(self)
                return
            status, headers, body = page if isinstance(page, tuple) else (200, {}, page)
            self.answer(status, headers, body)

    def answer(self, status, headers, body):
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def hang_up(self):
        self.close_connection = True
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, *_):
        pass


def redirect(to, status=302):
    return status, {"Location": to}, b""


def trickle(piece=b"x", pause=0.1, head=b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n"):
    """A slow response of which no single read takes long."""

    def page(handler):
        handler.wfile.write(head)
        while True:
            handler.wfile.write(piece)
            handler.wfile.flush()
            time.sleep(pause)

    return page


@pytest.fixture
def site():
    """A server at 127.0.0.1 without pages."""
    with ImageServer() as server:
        yield server
