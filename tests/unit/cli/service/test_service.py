"""How the command line meets an API that refuses, is away, is another server, or breaks off."""

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
from typer.testing import CliRunner

from cli.errors import ApiBusyError, ApiRefusedError, ApiUnreachableError
from cli.main import app
from cli.service.api_client import ApiAddress, ApiClient


@contextmanager
def server(status: int, body: bytes, kind: str, asked: list[str] | None = None) -> Iterator[str]:
    """A server that gives one answer to everything and notes what was asked; its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            if asked is not None:
                asked.append(self.path)
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET  # noqa: N815 - the names are of http.server

        def log_message(self, *_):
            pass

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=listening.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.server_port}"
    finally:
        listening.shutdown()
        thread.join()
        listening.server_close()


def problem(**more):
    return json.dumps(
        {"title": "x", "status": 422, "detail": "there is no bucket 'pics'", "code": "bucket_missing"} | more
    )


def test_a_refusal_keeps_the_servers_words_and_code():
    with server(422, problem().encode(), "application/problem+json") as url, ApiClient(ApiAddress(url)) as service:
        with pytest.raises(ApiRefusedError) as refused:
            service.job("1")
        assert str(refused.value) == "there is no bucket 'pics' (bucket_missing)"
        assert (refused.value.status, refused.value.retryable) == (422, False)


def test_a_busy_api_may_be_asked_again():
    body = problem(status=503).encode()
    with server(503, body, "application/problem+json") as url, ApiClient(ApiAddress(url)) as service:
        with pytest.raises(ApiBusyError) as busy:
            service.job("1")
        assert busy.value.retryable


@pytest.mark.parametrize(("status", "kind"), [(200, "text/html"), (404, "text/html"), (500, "application/json")])
def test_another_server_is_told_from_the_api(status, kind):
    refused = pytest.raises((ApiUnreachableError, ApiRefusedError), match="CAR_API_URL")
    with server(status, b"<html>hello</html>", kind) as url, ApiClient(ApiAddress(url)) as service, refused:
        service.job("1")


def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_an_api_that_is_away_is_said_in_words_with_exit_code_2(monkeypatch):
    url = f"http://127.0.0.1:{unused_port()}"
    monkeypatch.setenv("CAR_API_URL", url)
    result = CliRunner().invoke(app, ["jobs", "list"])
    assert result.exit_code == 2
    assert result.stdout == ""
    assert f"the API at {url} does not answer; start it with `car up`" in result.stderr
    assert "--data-dir" in result.stderr


@pytest.mark.parametrize("url", ["127.0.0.1:9090", "ftp://127.0.0.1", "http://[", "nonsense"])
def test_an_address_that_is_none_is_said_so(monkeypatch, url):
    monkeypatch.setenv("CAR_API_URL", url)
    result = CliRunner().invoke(app, ["jobs", "list"])
    assert result.exit_code == 2
    assert "is no address" in result.stderr


def test_a_proxy_of_the_environment_is_not_asked_for_this_machine(monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{unused_port()}")
    with server(200, b'{"items": [], "next": null}', "application/json") as url, ApiClient(ApiAddress(url)) as service:
        assert list(service.jobs(5)) == []


def test_an_id_of_slashes_and_dots_stays_one_part_of_the_path():
    asked: list[str] = []
    body, refused = problem(status=404).encode(), pytest.raises(ApiRefusedError, match="no bucket")
    with server(404, body, "application/problem+json", asked) as url, ApiClient(ApiAddress(url)) as service, refused:
        service.job("../keys?a=b")
    assert asked == ["/api/v1/jobs/..%2Fkeys%3Fa%3Db"]
