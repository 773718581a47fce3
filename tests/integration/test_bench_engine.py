"""`car bench engine`, `listing` and `latency`: they run on engines of their own and fill every figure; and the network
that makes S3 slow does what drills ask of it.
"""

import json
import socket
import socketserver
import threading
import time

import pytest
from typer.testing import CliRunner

from cli.bench.slow_network import SlowNetwork
from cli.main import app
from worker.queue import WINDOW


@pytest.fixture
def figures_of(tmp_path):
    def run(*arguments):
        file = tmp_path / "figures.json"
        done = CliRunner().invoke(app, ["bench", *arguments, "--json", str(file)])
        assert done.exit_code == 0, done.output
        return json.loads(file.read_text()), done.output

    return run


def test_the_engine_is_measured_with_s3_and_without(figures_of):
    figures, said = figures_of("engine", "--items", "50", "--batch", "8", "--quick")
    for place in ("memory", "s3"):
        assert figures[place]["new"]["items_per_second"] > 0
        assert figures[place]["known"]["items_per_second"] > 0
        assert figures[place]["new"]["cpu_ms_per_item"]["fetch"] > 0
        assert "postgres" in figures[place]["new"]["engines_cpu_ms_per_item"]
    assert figures["claim_ms_per_item"].keys() == {"1", "8", "32", "64"}
    assert figures["finish_ms_per_item"].keys() == {"8", "32"}
    assert figures["claim_and_finish_ms_per_item"] > 0
    assert figures["lookup_ms_per_item"] > 0
    assert figures["heartbeat_ms"] > 0
    assert figures["listing_rows_per_second"] > 0
    assert "no S3 at all" in said


def test_listing_rings_no_more_than_a_window_of_bells_whatever_its_size(figures_of):
    figures, _ = figures_of("listing", "--keys", "100000", "--quick")
    assert figures["items"] == 100_000
    assert figures["rings"] > WINDOW
    assert 0 < figures["most_messages_waiting"] <= WINDOW
    assert figures["redis_growth_mb"] < 10
    assert figures["lister_peak_mb"] - figures["lister_before_mb"] < 100
    assert figures["database_seconds"] > 0


def test_the_models_share_of_the_time_is_measured_behind_a_slow_network(figures_of):
    figures, _ = figures_of("latency", "--images", "4", "--latency-ms", "5")
    assert figures["done"] == 4
    assert 0 < figures["busy_share_of_all"] <= figures["busy_share"] <= 1


class _Echo(socketserver.BaseRequestHandler):
    def handle(self):
        while data := self.request.recv(1024):
            self.request.sendall(data)


@pytest.fixture
def network():
    """In front of a server that says back what it hears."""
    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Echo)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    with SlowNetwork(*server.server_address) as slow:
        yield slow
    server.shutdown()
    thread.join()
    server.server_close()


def test_bytes_come_unchanged_and_as_late_as_asked_for(network):
    network.latency = 0.1
    sent = bytes(range(256)) * 2000
    with socket.create_connection(network.address, timeout=10) as client:
        begun = time.monotonic()
        client.sendall(sent)
        heard = b""
        while len(heard) < len(sent):
            heard += client.recv(65536)
        took = time.monotonic() - begun
    assert heard == sent
    assert took >= 0.2
    assert network.connections == 1


def test_a_reset_ends_open_connections_and_lets_new_ones_in(network):
    with socket.create_connection(network.address, timeout=10) as client:
        client.sendall(b"a")
        assert client.recv(1) == b"a"
        network.reset()
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    with socket.create_connection(network.address, timeout=10) as client:
        client.sendall(b"b")
        assert client.recv(1) == b"b"


def test_a_black_hole_swallows_bytes_and_keeps_the_connection(network):
    network.blackhole = True
    with socket.create_connection(network.address, timeout=0.3) as client:
        client.sendall(b"a")
        with pytest.raises(TimeoutError):
            client.recv(1)


def test_a_server_that_is_not_there_is_a_broken_connection():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with SlowNetwork(*taken.getsockname()) as slow, socket.create_connection(slow.address, timeout=10) as client:
            try:
                said = client.recv(1)
            except ConnectionResetError:
                said = b""
    assert said == b""
