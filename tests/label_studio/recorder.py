"""An ML backend that knows nothing and notes what Label Studio sends it."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Json = dict[str, Any]
VERSION = "recorder"


class Recorder:
    """What was sent, in order, by kind: setup, predict, or the action of a webhook."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.sent: list[tuple[str, Json, dict[str, str]]] = []

    def bodies(self, kind: str) -> list[Json]:
        return [body for name, body, _ in self.sent if name == kind]

    def headers(self, kind: str) -> list[dict[str, str]]:
        return [headers for name, _, headers in self.sent if name == kind]


@contextmanager
def recorder() -> Iterator[Recorder]:
    """It answers every task with `[]`."""
    notes = Recorder("")

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
            pass

        def do_GET(self) -> None:
            self._answer({"status": "UP", "model_class": "Recorder"})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            kind = self.path.strip("/")
            notes.sent.append((body["action"] if kind == "webhook" else kind, body, dict(self.headers)))
            if kind == "predict":
                self._answer({"results": [[] for _ in body["tasks"]]})
            else:
                self._answer({"model_version": VERSION})

        def _answer(self, document: Json) -> None:
            content = json.dumps(document).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    notes.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield notes
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
