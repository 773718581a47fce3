"""Tests reach nothing but this machine, as if it had no network.

Python's sockets connect and send to loopback and Unix addresses alone, and no host name but localhost and this
machine's own is resolved. An audit hook sees every thread of this process; libpq and child processes are not seen.
"""

import ipaddress
import os
import socket
import sys
from contextlib import contextmanager, suppress

import pytest

_refused: list[str] = []
_watched: list[list] = []


class NetworkRefusedError(PermissionError):
    """A test tried to reach another machine."""


def is_local(address) -> bool:
    """Whether a socket's address is a Unix path, a loopback address or localhost."""
    if not isinstance(address, tuple) or not isinstance(address[0], str | bytes):
        return True
    host = os.fsdecode(address[0])
    if host == "localhost":
        return True
    with suppress(ValueError):
        parsed = ipaddress.ip_address(host.partition("%")[0])
        return (getattr(parsed, "ipv4_mapped", None) or parsed).is_loopback
    return False


def _is_known(host) -> bool:
    """Whether a host is an address or a name of this machine, for which no name server is asked."""
    name = os.fsdecode(host or "")
    if name in {"", "localhost", socket.gethostname()}:
        return True
    for family in (socket.AF_INET, socket.AF_INET6):
        with suppress(OSError):
            socket.inet_pton(family, name.partition("%")[0])
            return True
    with suppress(OSError):
        socket.inet_aton(name)  # 127.1, 0x7f000001: what libc takes for an address
        return True
    return False


def _refuse(event, arguments):
    if event == "socket.connect":
        for addresses in _watched:
            addresses.append(arguments[1])
    if event in {"socket.connect", "socket.sendto", "socket.sendmsg"} and not is_local(arguments[1]):
        _refused.append(f"{event} {arguments[1]}")
        raise NetworkRefusedError(f"tests reach this machine alone, not {arguments[1]}")
    if event in {"socket.getaddrinfo", "socket.gethostbyname"} and not _is_known(arguments[0]):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")


def pytest_configure():
    if not getattr(sys, "_car_network_refused", False):  # an audit hook cannot be taken away
        sys._car_network_refused = True
        sys.addaudithook(_refuse)


@pytest.fixture(autouse=True)
def refused_connections():
    """What this test tried to reach elsewhere. The test fails if anything is left, even where the error was hidden."""
    _refused.clear()
    yield _refused
    left, _refused[:] = list(_refused), []
    assert not left, "tests reach this machine alone"


@contextmanager
def connects_watched():
    """A list that fills with every address that any thread of this process connects a socket to."""
    addresses: list = []
    _watched.append(addresses)
    try:
        yield addresses
    finally:
        _watched.remove(addresses)
