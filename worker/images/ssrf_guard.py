"""Nobody's address makes this service knock at its own doors: every connection is checked where it is made.

A host is resolved once, each of its addresses is looked at, and the connection goes to the address that was looked at;
what the name says a moment later changes nothing. Redirects come through here like any other connection.
"""

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from ipaddress import ip_address
from typing import Any

import httpcore

from db.errors import SettingsInvalidError
from worker.errors import SourceForbiddenError, SourceUnreachableError
from worker.images.addresses import Url, is_public, place_of, port_is_usual

_CONNECT_SECONDS = 5.0
_SILENT_SECONDS = 20.0
"""A server that says nothing for so long is given up before the picture's whole time is over."""
_TRIES = 3
"""Addresses of one host that are tried."""

Resolve = Callable[[str, int], list[str]]


class AllowedHosts:
    """Hosts that may be asked although their addresses are private, each with the setting that names it."""

    def __init__(self, named: Mapping[str, str]) -> None:
        """By a setting's name its value: URLs, or `host` and `host:port` with commas between them.

        Raises:
            SettingsInvalidError: an entry that is neither.

        """
        self._places: set[tuple[str, int | None]] = set()
        for setting, value in named.items():
            try:
                self._places |= {_place(entry) for entry in value.split(",") if entry.strip()}
            except SourceForbiddenError as error:
                raise SettingsInvalidError(f"{setting}: {error}") from error

    def __contains__(self, place: tuple[str, int]) -> bool:
        host, port = place
        return (host, port) in self._places or (host, None) in self._places


def _place(entry: str) -> tuple[str, int | None]:
    entry = entry.strip()
    if "://" in entry:
        address = Url.parse(entry)
        return address.host, address.port
    return place_of(f"[{entry}]" if entry.count(":") > 1 and not entry.startswith("[") else entry)


class SsrfGuard(httpcore.NetworkBackend):
    """Opens connections to public addresses and to allowed hosts, within the time of the picture they are for."""

    def __init__(
        self, allowed: AllowedHosts, *, resolve: Resolve | None = None, network: httpcore.NetworkBackend | None = None
    ) -> None:
        self._allowed, self._resolve = allowed, resolve or _resolve
        self._network = network or httpcore.SyncBackend()
        self._this_thread = threading.local()

    @contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        """Everything that this thread does on the network inside ends in time, by an httpcore timeout."""
        self._this_thread.until = time.monotonic() + seconds
        try:
            yield
        finally:
            del self._this_thread.until

    def left(self) -> float:
        """Seconds that this thread still has; never less than a moment, for 0 means something else to sockets."""
        until: float = getattr(self._this_thread, "until", float("inf"))
        return max(until - time.monotonic(), 0.001)

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        """Raises: SourceForbidden, SourceUnreachable; httpcore's ConnectError and ConnectTimeout."""
        failed: Exception = httpcore.ConnectError("no address")
        most = _CONNECT_SECONDS if timeout is None else timeout
        for address in self.addresses_of(host, port)[:_TRIES]:
            try:
                stream = self._network.connect_tcp(address, port, min(most, self.left()), local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failed = error
            else:
                return _Timed(stream, self)
        raise failed

    def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,  # noqa: ARG002 - httpcore's
        socket_options: Iterable[Any] | None = None,  # noqa: ARG002
    ) -> httpcore.NetworkStream:
        raise SourceForbiddenError(f"{path!r} is a socket of this machine")

    def addresses_of(self, host: str, port: int) -> list[str]:
        """Where to connect, checked.

        Raises:
            SourceForbidden: one of the host's addresses is not public, and the host is not allowed.

        """
        free = (host, port) in self._allowed
        place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        if not free and not port_is_usual(port):
            raise SourceForbiddenError(
                f"{place} is no usual port of a web server; if pictures are there, name it in CAR_ALLOWED_HOSTS"
            )
        addresses = self._resolved(host, port)
        if not free and not all(is_public(ip_address(one)) for one in addresses):
            raise SourceForbiddenError(
                f"{place} is in a private or reserved network, which pictures are not fetched from; if they should be, "
                f"set CAR_ALLOWED_HOSTS={place}, or LABEL_STUDIO_URL if it is Label Studio"
            )
        return addresses

    def _resolved(self, host: str, port: int) -> list[str]:
        try:
            return [str(ip_address(host))]
        except ValueError:
            pass
        try:
            found = _in_time(self.left(), lambda: self._resolve(host, port))
            addresses = [str(ip_address(one)) for one in found]
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or type(error).__name__
            raise SourceUnreachableError(
                f"there is no address of the host {host} ({reason}); check its name"
            ) from error
        if not addresses:
            raise SourceUnreachableError(f"there is no address of the host {host}; check its name")
        return addresses


class _Timed(httpcore.NetworkStream):
    """A connection whose every wait is bounded by the time of the thread that waits."""

    def __init__(self, stream: httpcore.NetworkStream, guard: SsrfGuard) -> None:
        self._stream, self._guard = stream, guard

    def _wait(self, timeout: float | None) -> float:
        return min(_SILENT_SECONDS if timeout is None else timeout, self._guard.left())

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._wait(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, self._wait(timeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        return _Timed(self._stream.start_tls(ssl_context, server_hostname, self._wait(timeout)), self._guard)

    def get_extra_info(self, info: str) -> Any:  # noqa: ANN401 - httpcore's
        return self._stream.get_extra_info(info)


def _resolve(host: str, port: int) -> list[str]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(one[4][0]) for one in found))


def _in_time(seconds: float, call: Callable[[], list[str]]) -> list[str]:
    """A resolver knows no time limit, so it is left behind when it takes too long."""
    given: list[list[str]] = []
    raised: list[Exception] = []

    def run() -> None:
        try:
            given.append(call())
        except Exception as error:  # noqa: BLE001 - raised again where somebody waits
            raised.append(error)

    thread = threading.Thread(target=run, name="resolve", daemon=True)
    thread.start()
    thread.join(min(seconds, _SILENT_SECONDS))
    if raised:
        raise raised[0]
    if not given:
        raise TimeoutError("the name server does not answer")
    return given[0]
