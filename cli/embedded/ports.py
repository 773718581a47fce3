"""Free TCP ports on this machine."""

import random
import socket
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

_LISTENING = "0A"
"""A socket's state in /proc/net/tcp."""
_LOWEST, _HIGHEST = 18_000, 32_000
"""Below the ports that systems give to outgoing connections, one of which could take a port before a server has it."""


def obstacle(port: int, host: str = "127.0.0.1") -> str | None:
    """Return why no server can listen there now; None if one can."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: a port in TIME_WAIT is free
        try:
            probe.bind((host, port))
        except OSError as error:
            return error.strerror or str(error)
    return None


def port_holder(port: int) -> str | None:
    """Return the process that listens on a port, as "python3, process 123"; None if the system does not tell.

    Only Linux tells, and only root sees the processes of other users.
    """
    inodes = set()
    for table in ("tcp", "tcp6"):
        with suppress(OSError):
            rows = [line.split() for line in Path("/proc/net", table).read_text(encoding="ascii").splitlines()[1:]]
            # local address:port in hexadecimal, state, and the socket's inode
            inodes |= {row[9] for row in rows if row[3] == _LISTENING and int(row[1].rpartition(":")[2], 16) == port}
    sockets = {f"socket:[{inode}]" for inode in inodes}
    for process in Path("/proc").glob("[0-9]*") if sockets else ():
        with suppress(OSError):  # it has ended, or belongs to another user
            if any(str(descriptor.readlink()) in sockets for descriptor in (process / "fd").iterdir()):
                return f"{(process / 'comm').read_text(encoding='utf-8').strip()}, process {process.name}"
    return None


def is_free(port: int) -> bool:
    return obstacle(port) is None


def free_ports(names: Iterable[str], before: dict[str, int]) -> dict[str, int]:
    """Return a port for each name: that of `before` if it is free, otherwise a random one. All are different."""
    names = list(names)
    ports = {name: before[name] for name in names if name in before and is_free(before[name])}
    for name in names:
        while name not in ports:
            port = random.randrange(_LOWEST, _HIGHEST)
            if port not in ports.values() and is_free(port):
                ports[name] = port
    return ports


def free_port(before: int = 0) -> int:
    """Return `before` if it is free, otherwise a random port."""
    return free_ports(["port"], {"port": before} if before else {})["port"]
