"""The processes of `small_requests`, which import only the standard library: `request URL BODY` and `serve`."""

import http.client
import os
import socket
import sys
import time
from collections.abc import Sequence
from urllib.parse import urlsplit

_PAUSE_SECONDS = 0.01
_EMPTY_RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


def _request(address: str, body: str) -> None:
    """Send requests until killed, and write the start and end time of each."""
    parts = urlsplit(address)
    connection = http.client.HTTPConnection(parts.netloc, timeout=60)
    while True:
        begun = time.monotonic()
        connection.request(
            "POST" if body else "GET", parts.path, body or None, {"Content-Type": "application/json"} if body else {}
        )
        response = connection.getresponse()
        response.read()
        if response.status != http.client.OK:
            sys.exit(f"{address} answered {response.status}")
        os.write(1, f"{begun} {time.monotonic()}\n".encode())
        time.sleep(_PAUSE_SECONDS)


def _serve() -> None:
    """Answer one connection with empty documents, on a port that is printed."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        os.write(1, f"{server.getsockname()[1]}\n".encode())
        connection = server.accept()[0]
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while connection.recv(65536):
            connection.sendall(_EMPTY_RESPONSE)


def _main(words: Sequence[str]) -> None:
    if words[0] == "serve":
        _serve()
    else:
        _request(*words[1:])


if __name__ == "__main__":
    _main(sys.argv[1:])
