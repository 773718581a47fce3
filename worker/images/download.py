"""One GET over the guard: redirects, limits of bytes and time, and what went wrong in words."""

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
_REDIRECTS = {301, 302, 303, 307, 308}
_OK = 200
_KEEPALIVE_SECONDS = 30.0
_SMALL = 64 * 1024
"""The body of a redirect or an error that is read to its end, so that the connection can be used again."""
_REST_SECONDS = 10.0
"""A host that could not be connected to is not tried again for so long: others' pictures need the threads."""

Admit = Callable[[Url], Mapping[str, str]]
"""Called before each address that is asked, redirects too: the headers that go along.

Raises:
    CarError: to go no further.

"""


@dataclass(frozen=True)
class HttpResponse:
    """What the last address of a chain of redirects said."""

    url: Url
    status: int
    content_type: str
    body: bytes
    """Empty unless the status is 200."""


class HttpDownloader:
    """Safe to use from many threads; keeps connections open for the next picture."""

    def __init__(self, guard: SsrfGuard, *, max_bytes: int, seconds: float, connections: int) -> None:
        self._guard, self._max_bytes, self._seconds = guard, max_bytes, seconds
        # Its own network backend is all it connects by; it follows no redirects and knows no proxies.
        self._pool = httpcore.ConnectionPool(
            ssl_context=httpcore.default_ssl_context(),
            max_connections=connections,
            keepalive_expiry=_KEEPALIVE_SECONDS,
            network_backend=guard,
        )
        self._resting: dict[str, float] = {}
        self._lock = threading.Lock()

    def get(self, address: Url, admit: Admit) -> HttpResponse:
        """Raises: FetchError's subclasses; ImageUnsupported for an unknown Content-Encoding; what `admit` raises."""
        first = address
        with self._guard.within(self._seconds):
            for _ in range(_MAX_REDIRECTS + 1):
                answer = self._ask(address, admit(address))
                if isinstance(answer, HttpResponse):
                    return answer
                address = address.joined(answer)
        raise SourceForbiddenError(f"{first} redirects more than {_MAX_REDIRECTS} times; give the address it ends at")

    def close(self) -> None:
        self._pool.close()

    def _ask(self, address: Url, headers: Mapping[str, str]) -> HttpResponse | str:
        """The answer, or where it redirects to."""
        self._refuse_resting(address)
        sent = {"Host": address.authority, "Accept": "image/*,*/*;q=0.5", "Accept-Encoding": "identity"}
        sent |= {"User-Agent": "car-labeler", **headers}
        url = httpcore.URL(scheme=address.scheme, host=address.host, port=address.port, target=address.target)
        last: Exception | None = None
        # A connection that was kept open may be closed by the server just when it is used again.
        for _ in range(2):
            try:
                with self._pool.stream(
                    "GET", url, headers=list(sent.items()), extensions={"timeout": {"pool": self._guard.left()}}
                ) as response:
                    return self._answer(address, response)
            except (httpcore.RemoteProtocolError, httpcore.ReadError, httpcore.WriteError) as error:
                last = error
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                with self._lock:
                    self._resting[address.place] = time.monotonic() + _REST_SECONDS
                raise SourceUnreachableError(f"{address.place} cannot be connected to ({_reason(error)})") from error
            except httpcore.TimeoutException as error:
                raise self._too_slow(address) from error
            except httpcore.LocalProtocolError:  # its text holds the header, which may be a token
                raise SourceUnreachableError(
                    f"{address} cannot be asked: a header holds a line break; check LABEL_STUDIO_API_KEY"
                ) from None
        raise SourceUnreachableError(f"{address} gave no answer that can be read ({_reason(last)})") from last

    def _refuse_resting(self, address: Url) -> None:
        with self._lock:
            until = self._resting.get(address.place, 0.0)
            if until and until <= time.monotonic():
                del self._resting[address.place]
        if until > time.monotonic():
            raise SourceUnreachableError(
                f"{address.place} could not be connected to a moment ago; it is tried again later"
            )

    def _answer(self, address: Url, response: httpcore.Response) -> HttpResponse | str:
        headers = {name.lower(): value.decode("latin-1").strip() for name, value in response.headers}
        location = headers.get(b"location")
        if response.status == _OK:
            body = self._body(address, response, headers)
        else:
            body = b""
            self._drain(address, response, headers)
        if response.status in _REDIRECTS and location:
            return _text(location)
        return HttpResponse(address, response.status, headers.get(b"content-type", "").lower(), body)

    def _body(self, address: Url, response: httpcore.Response, headers: Mapping[bytes, str]) -> bytes:
        length = headers.get(b"content-length", "")
        if length.isdigit() and int(length) > self._max_bytes:
            raise self._too_large(address)
        decode = _decoder(address, headers.get(b"content-encoding", "identity").lower())
        pieces: list[bytes] = []
        room = self._max_bytes
        for piece in self._pieces(address, response, length):
            for plain in decode.plain(piece, room + 1):
                room -= len(plain)
                if room < 0:
                    raise self._too_large(address)
                pieces.append(plain)
        if not decode.ended:
            raise SourceTruncatedError(f"{address} ended before its {headers[b'content-encoding']} stream did")
        return b"".join(pieces)

    def _pieces(self, address: Url, response: httpcore.Response, length: str) -> Iterator[bytes]:
        """The bytes as they come; those that are missing at the end are noticed by the length or the last chunk."""
        count = 0
        try:
            for piece in response.iter_stream():
                count += len(piece)
                if count > self._max_bytes:
                    raise self._too_large(address)
                yield piece
        except httpcore.TimeoutException as error:
            raise self._too_slow(address) from error
        except (httpcore.NetworkError, httpcore.ProtocolError) as error:
            of = f" of {int(length):,}" if length.isdigit() else ""
            raise SourceTruncatedError(f"{address} was cut off after {count:,}{of} bytes") from error

    def _drain(self, address: Url, response: httpcore.Response, headers: Mapping[bytes, str]) -> None:
        length = headers.get(b"content-length", "")
        if length.isdigit() and int(length) <= _SMALL:
            for _ in self._pieces(address, response, length):
                pass

    def _too_large(self, address: Url) -> SourceTooLargeError:
        return SourceTooLargeError(
            f"{address} has more than the {self._max_bytes / 2**20:.4g} MiB allowed; save it smaller or raise "
            "CAR_MAX_BYTES"
        )

    def _too_slow(self, address: Url) -> SourceUnreachableError:
        return SourceUnreachableError(
            f"{address} did not answer in time or to the end; a picture has {self._seconds:g} s (CAR_FETCH_SECONDS)"
        )


class _Plain:
    """No Content-Encoding."""

    ended = True

    def plain(self, piece: bytes, most: int) -> Iterator[bytes]:  # noqa: ARG002 - see _Deflated
        yield piece


class _Deflated:
    """gzip or zlib, although `identity` was asked for: some stores keep it so. `most` bytes at a time at most."""

    def __init__(self, address: Url) -> None:
        self._address = address
        self._stream = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)

    @property
    def ended(self) -> bool:
        return self._stream.eof

    def plain(self, piece: bytes, most: int) -> Iterator[bytes]:
        most = min(most, 2**20)
        try:
            while piece and not self._stream.eof:
                yield self._stream.decompress(piece, most)
                piece = self._stream.unconsumed_tail
        except zlib.error as error:
            raise SourceTruncatedError(f"{self._address} says it is compressed, and it is not or is damaged") from error


def _decoder(address: Url, encoding: str) -> _Plain | _Deflated:
    if encoding in ("", "identity"):
        return _Plain()
    if encoding in ("gzip", "x-gzip", "deflate"):
        return _Deflated(address)
    raise ImageUnsupportedError(f"{address} comes compressed ({encoding[:20]}) unasked; store it plain")


def _text(location: str) -> str:
    """A Location header's letters: servers send UTF-8 here."""
    return location.encode("latin-1").decode("utf-8", "replace")


def _reason(error: Exception | None) -> str:
    """Nothing of what the server said: it may be no web server, and its words not ours to pass on."""
    if isinstance(error, httpcore.RemoteProtocolError) and not str(error).startswith("Server disconnected"):
        return "its server does not speak HTTP"
    return str(error)[:200] or type(error).__name__
