"""No test reaches another machine, and none can hide that it tried."""

import asyncio
import socket
from contextlib import closing

import httpx
import pytest

from tests.support.network import NetworkRefusedError, is_local

ELSEWHERE = "192.0.2.1"  # an address of documentation: nobody has it
NAME = "example.com"


def connect(family, host):
    with closing(socket.socket(family)) as opened:
        opened.connect((host, 80))


def connect_ex():
    with closing(socket.socket()) as opened:
        opened.connect_ex((ELSEWHERE, 80))


def send():
    with closing(socket.socket(type=socket.SOCK_DGRAM)) as opened:
        opened.sendto(b"x", (ELSEWHERE, 53))


@pytest.mark.parametrize(
    "reach",
    [
        lambda: connect(socket.AF_INET, ELSEWHERE),
        lambda: connect(socket.AF_INET, "::ffff:192.0.2.1"),
        lambda: connect(socket.AF_INET6, "2001:db8::1"),
        connect_ex,
        send,
        lambda: asyncio.run(asyncio.open_connection(ELSEWHERE, 80)),
    ],
)
def test_other_machines_are_refused(reach, refused_connections):
    with pytest.raises(NetworkRefusedError, match="this machine alone"):
        reach()
    assert len(refused_connections) == 1
    refused_connections.clear()


def test_names_of_other_machines_are_unknown():
    with pytest.raises(socket.gaierror):
        socket.create_connection((NAME, 80))
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://{NAME}/")


@pytest.mark.parametrize(
    "address",
    [("127.0.0.1", 1), ("127.9.9.9", 1), ("::1", 1, 0, 0), ("::ffff:127.0.0.1", 1), ("localhost", 1), "/run/socket"],
)
def test_this_machine_is_not_another(address):
    assert is_local(address)


def test_this_machine_can_be_reached(site):
    site.pages["/"] = b"here"
    for host in ("127.0.0.1", "localhost"):
        assert httpx.get(f"http://{host}:{site.port}/").content == b"here"


def test_a_test_fails_though_the_code_under_test_hid_the_error(pytester):
    pytester.makepyfile(f"""
        import socket, threading

        def reach():
            try:
                socket.create_connection(("{ELSEWHERE}", 80))
            except OSError:
                pass

        def test_here():
            reach()

        def test_in_a_thread():
            thread = threading.Thread(target=reach)
            thread.start()
            thread.join()
    """)
    result = pytester.runpytest_inprocess("-p", "tests.support.network", "-p", "no:randomly")
    result.assert_outcomes(passed=2, errors=2)
    result.stdout.fnmatch_lines(["*tests reach this machine alone*"])
