"""A stand-in for Label Studio 1.23.2: an HTTP server on a thread that answers as the real one was measured to answer.

It knows projects, tasks, predictions, ML backends, webhooks, both kinds of token and the resolve route. `faults` makes
any route refuse, dawdle, or take a request in and hang up.
"""

import base64
import json
import re
import socket
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, urlsplit

import pytest

from tests.support.fake_label_studio_routes import ROUTES, RefusedError, now

CONFIG = (
    '<View><Image name="image" value="$image"/><BrushLabels name="brush" toName="image">'
    '<Label value="cat"/><Label value="dog"/></BrushLabels></View>'
)


@dataclass
class Fault:
    """What happens to the next `times` requests of a route instead of, or besides, being served."""

    method: str
    path: str
    """A regular expression that the path's beginning matches, without the server's own prefix."""
    status: int | None = None
    """Answered without anything being done."""
    body: object = None
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0
    """Seconds before it is served: whoever hangs up before them is served all the same."""
    drop: str | None = None
    """before: hang up without serving; after: serve, then hang up without a word."""
    first: Callable[[], object] = lambda: None
    then: Callable[[], object] = lambda: None
    """Called before it is served, and between that and the answer."""
    times: int = 10**9


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: object


class FakeLabelStudio:
    """`with FakeLabelStudio() as studio:`; `studio.url` and `studio.token` are what a client needs."""

    def __init__(self, prefix="", port=0):
        self.prefix = prefix
        self.projects, self.tasks, self.stored, self.backends, self.hooks = {}, {}, {}, {}, {}
        self.storages, self.files = [], {}
        """S3 storages that a project lists; bytes, or an address to redirect to, by task or path."""
        self.faults, self.requests = [], []
        self.token = uuid.uuid4().hex + "01234567"
        self.legacy_tokens, self.access_seconds = True, 300.0
        """Whether the organization allows legacy tokens; how long an access token lasts."""
        self.validates, self.ssrf = False, None
        """Whether POST of a prediction is validated (a flag); what SSRF protection stops: backend or webhook."""
        self._refresh, self._access = {}, {}
        self._ids, self._lock = {}, threading.RLock()
        self._server = ThreadingHTTPServer(("127.0.0.1", port), type("Handler", (_Handler,), {"studio": self}))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    @property
    def url(self):
        return f"http://127.0.0.1:{self._server.server_port}{self.prefix}"

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self):
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    # What a test puts in and looks at

    def add_project(self, label_config=CONFIG, title="Shelves", **more):
        """Its id."""
        made = {"title": title, "label_config": label_config, "created_at": now(), "model_version": "", **more}
        return self.add(self.projects, "project", made)["id"]

    def add_tasks(self, project, data):
        """Ids of tasks with such data; a text is the picture's address."""
        known = [{"image": one} if isinstance(one, str) else one for one in data]
        return [self.add(self.tasks, "task", {"project": project, "data": one})["id"] for one in known]

    def delete_task(self, task):
        with self._lock:
            del self.tasks[task]
            self.stored = {number: one for number, one in self.stored.items() if one["task"] != task}

    def predictions(self, task=None, model_version=None):
        with self._lock:
            return [
                one
                for one in self.stored.values()
                if task in (None, one["task"]) and model_version in (None, one["model_version"])
            ]

    def personal_token(self, *, seconds=10**8):
        """A JWT refresh token, as the page of personal access tokens gives it."""
        token = jwt("refresh", seconds)
        self._refresh[token] = time.time() + seconds
        return token

    def revoke(self):
        """All access tokens at once, as if they had run out."""
        self._access.clear()

    def fail(self, method, path, **how):
        fault = Fault(method, path, **how)
        self.faults.append(fault)
        return fault

    def asked(self, method, path=""):
        """Requests of a route so far."""
        return [one for one in self.requests if one.method == method and re.match(path, one.path)]

    # Serving

    def serve(self, request):
        """(status, headers, body as JSON or bytes)."""
        for method, pattern, function, open_to_all in ROUTES:
            found = re.fullmatch(pattern, request.path)
            if found and method == request.method:
                try:
                    if not open_to_all:
                        self._authorize(request)
                    with self._lock:
                        return function(self, request, *map(int, found.groups()))
                except RefusedError as refused:
                    return refused.status, {}, refused.body
        return 404, {}, b"<!doctype html><title>404 | Label Studio</title>"

    def fault(self, request):
        """The first fault that this request meets."""
        with self._lock:
            for one in self.faults:
                if one.times > 0 and one.method == request.method and re.match(one.path, request.path):
                    one.times -= 1
                    return one
        return None

    def _authorize(self, request):
        kind, _, token = request.headers.get("authorization", "").partition(" ")
        if not token:
            raise RefusedError(401, "Authentication credentials were not provided.")
        if kind == "Token":
            if token != self.token:
                raise RefusedError(401, "Invalid token.")
            if not self.legacy_tokens:
                raise RefusedError(
                    401,
                    "Authentication token no longer valid: legacy token authentication has been disabled for this "
                    "organization",
                )
        elif self._access.get(token, 0) < time.time():
            raise RefusedError(401, "Given token not valid for any token type")

    def refreshed(self, request):
        if self._refresh.get(request.body.get("refresh"), 0) < time.time():
            raise RefusedError(401, "Token is invalid")
        token = jwt("access", self.access_seconds)
        self._access[token] = time.time() + self.access_seconds
        return 200, {}, {"access": token}

    def add(self, rows, kind, row):
        with self._lock:
            number = self._ids[kind] = self._ids.get(kind, 0) + 1
            rows[number] = {"id": number} | row
            return rows[number]

    def one(self, rows, number, name):
        if number not in rows:
            raise RefusedError(404, f"No {name} matches the given query.")
        return rows[number]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # or headers wait for the body, and each answer takes 40 ms
    studio: FakeLabelStudio

    def do_GET(self):
        length = int(self.headers.get("Content-Length") or 0)
        raw = self.rfile.read(length)
        at = urlsplit(self.path)
        path = at.path.removeprefix(self.studio.prefix)
        if self.studio.prefix and path == at.path:
            return self._answer(404, {}, b"not here")
        headers = {name.lower(): value for name, value in self.headers.items()}
        kind = headers.get("content-type", "")
        body = json.loads(raw) if raw and kind.startswith("application/json") else raw or {}
        request = Request(self.command, path, dict(parse_qsl(at.query)), headers, body)
        self.studio.requests.append(request)
        fault = self.studio.fault(request)
        if fault is None:
            return self._answer(*self.studio.serve(request))
        fault.first()
        time.sleep(fault.delay)
        if fault.drop == "before":
            return self._hang_up()
        if fault.status is not None:
            return self._answer(
                fault.status, fault.headers, {"detail": "a fault"} if fault.body is None else fault.body
            )
        answer = self.studio.serve(request)
        fault.then()
        return self._hang_up() if fault.drop == "after" else self._answer(*answer)

    do_POST = do_PATCH = do_DELETE = do_GET  # noqa: N815 - the names are of http.server

    def _hang_up(self):
        self.close_connection = True
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def _answer(self, status, headers, body):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"Content-Type": "text/html" if isinstance(body, bytes) else "application/json"} | headers
        with suppress(OSError):  # whoever asked has hung up
            self.send_response(status)
            for name, value in (headers | {"Content-Length": str(len(data))}).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

    def log_message(self, *_):
        pass


def jwt(kind, seconds):
    """A JSON web token that nobody signed."""
    claims = {"token_type": kind, "exp": int(time.time() + seconds), "jti": uuid.uuid4().hex, "user_id": "1"}
    parts = ({"alg": "HS256", "typ": "JWT"}, claims, "signature")
    return ".".join(base64.urlsafe_b64encode(json.dumps(one).encode()).decode().rstrip("=") for one in parts)


@pytest.fixture
def label_studio():
    """A running stand-in without a project."""
    with FakeLabelStudio() as studio:
        yield studio
