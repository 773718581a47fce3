"""SSRF guard: refuse connections to addresses that are not public.

A host is resolved once, each of its IP addresses is checked, and the connection goes to a checked IP address, so a name
that resolves differently a moment later (DNS rebinding) changes nothing. Redirects are checked like any connection.
"""

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from ipaddress import ip_address
from typing import Any

import httpcore

from db.errors import SettingsInvalidError
from worker.errors import SourceForbiddenError, SourceUnreachableError
from worker.images.addresses import Url, is_public, is_web_port, split_host_port

_CONNECT_SECONDS = 5.0
_SILENCE_SECONDS = 20.0
"""A server that sends nothing for this long is given up before the image's time limit."""
_MAX_ADDRESSES = 3
"""IP addresses of one host that are tried."""

Resolver = Callable[[str, int], list[str]]


class AllowedHosts:
    """Hosts that may be connected to although their IP addresses are private."""

    def __init__(self, settings: Mapping[str, str]) -> None:
        """`settings` maps names of settings to comma-separated URLs, `host` or `host:port`.

        Raises: SettingsInvalidError.
        """
        self._hosts: set[tuple[str, int | None]] = set()
        for setting, value in settings.items():
            try:
                self._hosts |= {_parse_entry(entry.strip()) for entry in value.split(",") if entry.strip()}
            except SourceForbiddenError as error:
                raise SettingsInvalidError(f"{setting}: {error}") from error

    def __contains__(self, host_port: tuple[str, int]) -> bool:
        return host_port in self._hosts or (host_port[0], None) in self._hosts


def _parse_entry(entry: str) -> tuple[str, int | None]:
    if "://" in entry:
        address = Url.parse(entry)
        return address.host, address.port
    return split_host_port(f"[{entry}]" if entry.count(":") > 1 and not entry.startswith("[") else entry)


class SsrfGuard(httpcore.NetworkBackend):
    """A network backend that connects to public addresses and allowed hosts only, within the thread's time limit."""

    def __init__(
        self, allowed: AllowedHosts, *, resolve: Resolver | None = None, network: httpcore.NetworkBackend | None = None
    ) -> None:
        self._allowed, self._resolve = allowed, resolve or _resolve
        self._network = network or httpcore.SyncBackend()
        self._thread_local = threading.local()

    @contextmanager
    def time_limit(self, seconds: float) -> Iterator[None]:
        """Bound all network operations of this thread inside the context; the last one ends in an httpcore timeout."""
        self._thread_local.deadline = time.monotonic() + seconds
        try:
            yield
        finally:
            del self._thread_local.deadline

    def remaining_seconds(self) -> float:
        """Return the seconds until this thread's deadline; at least 0.001, since 0 makes a socket non-blocking."""
        deadline: float = getattr(self._thread_local, "deadline", float("inf"))
        return max(deadline - time.monotonic(), 0.001)

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        """Raises: SourceForbiddenError, SourceUnreachableError; httpcore's ConnectError and ConnectTimeout."""
        failure: Exception = httpcore.ConnectError("no address")
        limit = _CONNECT_SECONDS if timeout is None else timeout
        for address in self.resolve_checked(host, port)[:_MAX_ADDRESSES]:
            try:
                stream = self._network.connect_tcp(
                    address, port, min(limit, self.remaining_seconds()), local_address, socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
            else:
                return _TimedStream(stream, self)
        raise failure

    def resolve_checked(self, host: str, port: int) -> list[str]:
        """Return the host's IP addresses. Raises: SourceForbiddenError, if one is private and the host not allowed."""
        is_allowed = (host, port) in self._allowed
        host_port = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        if not is_allowed and not is_web_port(port):
            raise SourceForbiddenError(
                f"{host_port} is not a web server's usual port; if images are there, add it to CAR_ALLOWED_HOSTS"
            )
        addresses = self._resolve_host(host, port)
        if not is_allowed and not all(is_public(ip_address(address)) for address in addresses):
            raise SourceForbiddenError(
                f"{host_port} is in a private or reserved network, which images are not fetched from; to allow it, set "
                f"CAR_ALLOWED_HOSTS={host_port}, or LABEL_STUDIO_URL if it is Label Studio"
            )
        return addresses

    def _resolve_host(self, host: str, port: int) -> list[str]:
        try:
            return [str(ip_address(host))]
        except ValueError:
            pass
        try:
            resolved = _call_with_timeout(self.remaining_seconds(), lambda: self._resolve(host, port))
            addresses = [str(ip_address(address)) for address in resolved]
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or type(error).__name__
            raise SourceUnreachableError(f"the host name {host} does not resolve ({reason}); check it") from error
        if not addresses:
            raise SourceUnreachableError(f"the host name {host} does not resolve; check it")
        return addresses


class _TimedStream(httpcore.NetworkStream):
    """A connection whose waits end at the deadline of the thread that waits."""

    def __init__(self, stream: httpcore.NetworkStream, guard: SsrfGuard) -> None:
        self._stream, self._guard = stream, guard

    def _timeout(self, timeout: float | None) -> float:
        return min(_SILENCE_SECONDS if timeout is None else timeout, self._guard.remaining_seconds())

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._timeout(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, self._timeout(timeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        stream = self._stream.start_tls(ssl_context, server_hostname, self._timeout(timeout))
        return _TimedStream(stream, self._guard)

    def get_extra_info(self, info: str) -> Any:  # noqa: ANN401 - httpcore's
        return self._stream.get_extra_info(info)


def _resolve(host: str, port: int) -> list[str]:
    infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(info[4][0]) for info in infos))


def _call_with_timeout(seconds: float, call: Callable[[], list[str]]) -> list[str]:
    """Call the resolver, which has no timeout of its own, in a thread, and abandon that thread if it takes too long."""
    resolved: Future[list[str]] = Future()

    def run() -> None:
        try:
            resolved.set_result(call())
        except Exception as error:  # noqa: BLE001 - raised again in the calling thread
            resolved.set_exception(error)

    threading.Thread(target=run, name="resolve", daemon=True).start()
    return resolved.result(min(seconds, _SILENCE_SECONDS))
