"""The slow network adds the latency and the faults that benchmarks and drills ask of it."""

import socket
import socketserver
import threading
import time

import pytest

from benchmarks.slow_network import SlowNetwork


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
                received = client.recv(1)
            except ConnectionResetError:
                received = b""
    assert received == b""
