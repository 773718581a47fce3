"""Two services that start at once and choose the same port: each ends up on its own."""

import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

from cli.embedded import ports
from cli.service import service_process
from cli.service.service_process import car_up

_FAKE_SERVICE = """
import http.server, json, pathlib, socketserver, sys, time
port, folder, key = int(sys.argv[1]), pathlib.Path(sys.argv[2]), sys.argv[3]
(folder / "engines.json").write_text(json.dumps({"api": {"CAR_API_KEY": key}}))
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        own = self.headers["Authorization"] == f"Bearer {key}"
        self.send_response(200 if own or self.path == "/readyz" else 401)
        self.end_headers()
    def log_message(self, *_): pass
time.sleep(0.5)  # the API binds its port well after it was chosen
try:
    server = socketserver.ThreadingTCPServer(("127.0.0.1", port), Handler)
except OSError:
    time.sleep(1)  # as `car up`, which notices late that another service answers
    sys.exit("address already in use")
server.serve_forever()
"""


def test_two_that_choose_the_same_port_get_their_own(monkeypatch, tmp_path):
    chosen, started, running = ports.free_port(), Barrier(2), Barrier(2)
    choices = []

    def same_port_first(_):
        if choices.count(chosen) < 2:
            choices.append(chosen)
            started.wait(10)
            return chosen
        return ports.free_port()

    def fake(program, **_):
        port, folder = program[-3], program[-1]
        return [sys.executable, "-c", _FAKE_SERVICE, port, folder, f"key of {folder}"]

    monkeypatch.setattr(service_process, "free_port", same_port_first)
    monkeypatch.setattr(service_process, "launch_command", fake)

    def run(name):
        folder = tmp_path / name
        folder.mkdir()
        with car_up(folder, chosen) as service:
            running.wait(30)
            return service.url, service.address().key

    with ThreadPoolExecutor(2) as threads:
        (first, first_key), (second, second_key) = threads.map(run, ["a", "b"])
    assert first != second
    assert first_key != second_key
    assert f"http://127.0.0.1:{chosen}" in (first, second)
