"""Download a file by GET through the SSRF guard, with limits on redirects, bytes and time, and clear errors."""

import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import httpcore

from worker.errors import (
    ImageUnsupportedError,
    SourceForbiddenError,
    SourceTooLargeError,
    SourceTruncatedError,
    SourceUnreachableError,
)
from worker.images.addresses import Url
from worker.images.ssrf_guard import SsrfGuard

_MAX_REDIRECTS = 3
REDIRECTS = {301, 302, 303, 307, 308}
_OK = 200
_HEADERS = {"Accept": "image/*,*/*;q=0.5", "Accept-Encoding": "identity", "User-Agent": "car-labeler"}
_KEEPALIVE_SECONDS = 30.0
_MAX_DRAINED = 64 * 1024
"""Bytes of the body of a redirect or error that are read, so that the connection can be used again."""
_DECOMPRESSED_BYTES = 2**20
_HOST_RETRY_SECONDS = 10.0
"""A host that refused a connection is not tried again for this long, so that it does not occupy every thread."""

HeadersFor = Callable[[Url], Mapping[str, str]]
"""Called before each request, of redirects too: returns headers to add, or raises a CarError to stop."""


@dataclass(frozen=True)
class HttpResponse:
    """The response of the last address in a chain of redirects."""

    url: Url
    status: int
    content_type: str
    body: bytes
    """Empty unless the status is 200."""


class HttpDownloader:
    """A thread-safe HTTP client that keeps connections open."""

    def __init__(self, guard: SsrfGuard, *, max_bytes: int, seconds: float, connections: int) -> None:
        self._guard, self._max_bytes, self._seconds = guard, max_bytes, seconds
        # httpcore's pool connects through the guard only; it follows no redirects and uses no proxies.
        self._pool = httpcore.ConnectionPool(
            ssl_context=httpcore.default_ssl_context(),
            max_connections=connections,
            keepalive_expiry=_KEEPALIVE_SECONDS,
            network_backend=guard,
        )
        self._retry_at: dict[str, float] = {}
        self._lock = threading.Lock()

    def get(self, address: Url, headers_for: HeadersFor) -> HttpResponse:
        """Raises: a FetchError; ImageUnsupportedError for an unknown Content-Encoding; what `headers_for` raises."""
        first = address
        with self._guard.time_limit(self._seconds):
            for _ in range(_MAX_REDIRECTS + 1):
                response = self._request(address, headers_for(address))
                if isinstance(response, HttpResponse):
                    return response
                address = address.joined(response)
        raise SourceForbiddenError(f"{first} redirects more than {_MAX_REDIRECTS} times; use its final address")

    def close(self) -> None:
        self._pool.close()

    def _request(self, address: Url, headers: Mapping[str, str]) -> HttpResponse | str:
        """Return the response, or the location of a redirect."""
        self._check_retry(address)
        headers = {"Host": address.authority, **_HEADERS, **headers}
        url = httpcore.URL(scheme=address.scheme, host=address.host, port=address.port, target=address.target)
        failure: Exception | None = None
        # A server may close an idle connection just when it is used again, so one such failure is retried.
        for _ in range(2):
            try:
                with self._pool.stream(
                    "GET",
                    url,
                    headers=list(headers.items()),
                    extensions={"timeout": {"pool": self._guard.remaining_seconds()}},
                ) as response:
                    return self._read_response(address, response)
            except (httpcore.RemoteProtocolError, httpcore.ReadError, httpcore.WriteError) as error:
                failure = error
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                with self._lock:
                    self._retry_at[address.host_port] = time.monotonic() + _HOST_RETRY_SECONDS
                raise SourceUnreachableError(f"cannot connect to {address.host_port} ({_reason(error)})") from error
            except httpcore.TimeoutException as error:
                raise self._timed_out(address) from error
            except httpcore.LocalProtocolError:  # its text contains the header, which may be a token
                raise SourceUnreachableError(
                    f"{address} cannot be requested: a header contains a line break; check LABEL_STUDIO_API_KEY"
                ) from None
        raise SourceUnreachableError(f"{address} gave no valid response ({_reason(failure)})") from failure

    def _check_retry(self, address: Url) -> None:
        with self._lock:
            retry_at = self._retry_at.get(address.host_port, 0.0)
            if retry_at and retry_at <= time.monotonic():
                del self._retry_at[address.host_port]
        if retry_at > time.monotonic():
            raise SourceUnreachableError(
                f"cannot connect to {address.host_port}: it failed a moment ago and will be retried later"
            )

    def _read_response(self, address: Url, response: httpcore.Response) -> HttpResponse | str:
        headers = {name.lower(): value.decode("latin-1").strip() for name, value in response.headers}
        location = headers.get(b"location")
        if response.status == _OK:
            body = self._read_body(address, response, headers)
        else:
            body = b""
            self._drain(address, response, headers)
        if response.status in REDIRECTS and location:
            return location.encode("latin-1").decode("utf-8", "replace")  # servers send UTF-8 here
        return HttpResponse(address, response.status, headers.get(b"content-type", "").lower(), body)

    def _read_body(self, address: Url, response: httpcore.Response, headers: Mapping[bytes, str]) -> bytes:
        length = headers.get(b"content-length", "")
        if length.isdigit() and int(length) > self._max_bytes:
            raise self._too_large(address)
        chunks = self._read_chunks(address, response, length)
        decoded: list[bytes] = []
        size = 0
        for chunk in _decode(address, headers.get(b"content-encoding", "").lower(), chunks):
            size += len(chunk)
            if size > self._max_bytes:
                raise self._too_large(address)
            decoded.append(chunk)
        return b"".join(decoded)

    def _read_chunks(self, address: Url, response: httpcore.Response, length: str) -> Iterator[bytes]:
        """Yield the bytes as they come; httpcore detects a truncated body by its length or its last chunk."""
        count = 0
        try:
            for chunk in response.iter_stream():
                count += len(chunk)
                if count > self._max_bytes:
                    raise self._too_large(address)
                yield chunk
        except httpcore.TimeoutException as error:
            raise self._timed_out(address) from error
        except (httpcore.NetworkError, httpcore.ProtocolError) as error:
            total = f" of {int(length):,}" if length.isdigit() else ""
            raise SourceTruncatedError(f"{address} was cut off after {count:,}{total} bytes") from error

    def _drain(self, address: Url, response: httpcore.Response, headers: Mapping[bytes, str]) -> None:
        length = headers.get(b"content-length", "")
        if length.isdigit() and int(length) <= _MAX_DRAINED:
            for _ in self._read_chunks(address, response, length):
                pass

    def _too_large(self, address: Url) -> SourceTooLargeError:
        return SourceTooLargeError(
            f"{address} has more than the {self._max_bytes / 2**20:.4g} MiB allowed; save it smaller or raise "
            "CAR_MAX_BYTES"
        )

    def _timed_out(self, address: Url) -> SourceUnreachableError:
        return SourceUnreachableError(f"{address} took longer than {self._seconds:g} s (CAR_FETCH_SECONDS)")


def _decode(address: Url, encoding: str, chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Decompress gzip or zlib, which some stores send although `identity` was requested, at most 1 MiB at a time."""
    if encoding in ("", "identity"):
        yield from chunks
        return
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise ImageUnsupportedError(
            f"{address} has the unsupported Content-Encoding {encoding[:20]}; serve it uncompressed"
        )
    stream = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)
    try:
        for chunk in chunks:
            remaining = chunk
            while remaining and not stream.eof:
                yield stream.decompress(remaining, _DECOMPRESSED_BYTES)
                remaining = stream.unconsumed_tail
    except zlib.error as error:
        raise SourceTruncatedError(f"the compressed body of {address} is damaged") from error
    if not stream.eof:
        raise SourceTruncatedError(f"the compressed body of {address} ended too early")


def _reason(error: Exception | None) -> str:
    """Describe an error without what the server sent: it may be a private service of another protocol."""
    if isinstance(error, httpcore.RemoteProtocolError) and not str(error).startswith("Server disconnected"):
        return "its server does not speak HTTP"
    return str(error)[:200] or type(error).__name__
