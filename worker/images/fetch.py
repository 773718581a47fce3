"""A picture's bytes from wherever a job or a task may name: S3, the web, and Label Studio with its own storages."""

import re
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping
from typing import Protocol, Self
from urllib.parse import quote, unquote

from car.bulk_source import split_s3
from db.errors import AccessDeniedError, BucketMissingError, ObjectMissingError, ObjectStoreError, StoreUnreachableError
from worker.errors import (
    FetchError,
    SourceDeniedError,
    SourceForbiddenError,
    SourceNotFoundError,
    SourceUnreachableError,
)
from worker.images.addresses import Url
from worker.images.download import HttpDownloader, HttpResponse
from worker.images.ssrf_guard import AllowedHosts, Resolve, SsrfGuard
from worker.settings import WorkerSettings

Headers = Callable[[], Mapping[str, str]]
"""What makes a request one of Label Studio's user, refreshed where that is needed. Raises: CarError."""

_CLOUDS = ("gs", "azure-blob")
"""Storages that Label Studio alone has the keys of."""
_PICTURES = re.compile(
    r"/(data/(upload|local-files)|storage-data/uploaded|(tasks|projects)/[0-9]+/(resolve|presign))(/|\Z)", re.ASCII
)
"""Label Studio's routes of pictures. No other one is given the token: what a task names was written by its users."""
_LOGIN = re.compile(r"/user/login/?\Z")
_UPLOAD = re.compile(r"/data/(upload/.+)", re.DOTALL)
_OK, _UNAUTHORIZED, _FORBIDDEN, _NOT_FOUND, _GONE, _SERVER_ERROR = 200, 401, 403, 404, 410, 500
_STORAGE_FAILED = 424
"""Of the resolve route, whatever the reason."""
_PASSING = {408, 425, 429}
_SIGNED = re.compile(r"[?&](X-Amz-Signature|X-Goog-Signature|Signature|sig)=", re.IGNORECASE)


class ObjectReader(Protocol):
    """The part of db.objects.ObjectStore that pictures need: see there."""

    def read(self, bucket: str, key: str, *, max_bytes: int | None = None) -> bytes: ...


class ImageFetcher:
    """Reads pictures on many threads; keeps connections until `close`."""

    def __init__(
        self,
        objects: ObjectReader,
        *,
        label_studio: str | None = None,
        headers: Headers | None = None,
        allowed: Mapping[str, str] | None = None,
        max_bytes: int = 64 * 2**20,
        seconds: float = 60.0,
        connections: int = 16,
        resolve: Resolve | None = None,
    ) -> None:
        """`allowed`: by the name of a setting, hosts in private networks that may be asked; Label Studio is one anyway.

        Raises:
            SourceForbidden: `allowed` or `label_studio` is no list of hosts or no address.

        """
        self._objects, self._max_bytes = objects, max_bytes
        self._base = label_studio.rstrip("/") if label_studio else None
        self._label_studio = Url.parse(self._base) if self._base else None
        self._headers = headers
        named = dict(allowed or {}) | ({"LABEL_STUDIO_URL": self._base} if self._base else {})
        self._web = HttpDownloader(
            SsrfGuard(AllowedHosts(named), resolve=resolve),
            max_bytes=max_bytes,
            seconds=seconds,
            connections=connections,
        )

    @classmethod
    def of(cls, settings: WorkerSettings, objects: ObjectReader, headers: Headers | None) -> Self:
        """`headers`: of the Label Studio that the settings name; None without a token."""
        allowed = {
            "AWS_ENDPOINT_URL_S3": settings.aws_endpoint_url_s3 or "",
            "CAR_S3_PUBLIC_ENDPOINT": settings.s3_public_endpoint or "",
            "CAR_ALLOWED_HOSTS": settings.allowed_hosts,
        }
        return cls(
            objects,
            label_studio=settings.label_studio_url,
            headers=headers,
            allowed=allowed,
            max_bytes=settings.max_bytes,
            seconds=settings.fetch_seconds,
            connections=settings.fetch_threads,
        )

    def read(self, uri: str, *, instance: str | None = None, task: int | None = None) -> bytes:
        """All bytes of a picture.

        `instance` and `task` are the Label Studio and its task in whose name it is fetched; none for other jobs.

        Raises:
            FetchError, ObjectStoreError: see their subclasses; each message says what to do.
            SourceError: no address at all.

        """
        scheme = uri.partition(":")[0].lower()
        if scheme == "s3":
            return self._object(uri, instance, task)
        if scheme in _CLOUDS:
            return self._cloud(uri, instance, task)
        return self._picture(Url.parse(uri), ours=self._is_ours(instance))

    def close(self) -> None:
        self._web.close()

    # S3 and other storages

    def _object(self, uri: str, instance: str | None, task: int | None) -> bytes:
        """By our own key, else by Label Studio's, where a task of it wants the picture."""
        bucket, key = split_s3(uri)
        try:
            return self._objects.read(bucket, key, max_bytes=self._max_bytes)
        except (AccessDeniedError, BucketMissingError, ObjectMissingError, StoreUnreachableError) as error:
            if task is None or not self._is_ours(instance):
                raise
            if self._headers is None:
                hint = "Label Studio could be asked for it, but LABEL_STUDIO_API_KEY is not set"
                raise type(error)(f"{error}; {hint}") from error
            return self._resolved(uri, task, error)

    def _cloud(self, uri: str, instance: str | None, task: int | None) -> bytes:
        scheme = uri.partition(":")[0]
        if task is None or not self._is_ours(instance) or self._headers is None:
            raise SourceForbiddenError(
                f"{scheme}:// is read through Label Studio alone: for its own tasks, with LABEL_STUDIO_URL and "
                "LABEL_STUDIO_API_KEY set; else give https:// or s3:// addresses"
            )
        return self._resolved(uri, task, None)

    def _resolved(self, uri: str, task: int, own: ObjectStoreError | None) -> bytes:
        """Label Studio redirects to a link that it signed, or sends the bytes itself, for 20 s at most."""
        query = urlsafe_b64encode(uri.encode()).decode()
        address = Url.parse(f"{self._base}/tasks/{task}/resolve/?fileuri={query}")
        try:
            return self._picture(address, ours=True)
        except FetchError as theirs:
            if own is None:
                raise
            kind = SourceUnreachableError if own.retryable else type(theirs)
            raise kind(f"{own}; and through Label Studio: {theirs}") from theirs

    # The web

    def _picture(self, address: Url, *, ours: bool) -> bytes:
        answer = self._web.get(address, self._admit if ours else _alone)
        route = self._route(answer.url) if ours else None
        if route is None:
            _refuse(answer)
        else:
            answer = self._upload_elsewhere(answer, route)
            self._refuse_label_studio(answer, route)
        return answer.body

    def _upload_elsewhere(self, answer: HttpResponse, route: str) -> HttpResponse:
        """Where Label Studio itself stores uploads in a cloud, they are under its other route alone. That one also
        tells what is missing from what is broken: 500 is /data/upload's answer to both.
        """
        upload = _UPLOAD.fullmatch(route)
        if upload is None or answer.status not in (_NOT_FOUND, _SERVER_ERROR):
            return answer
        name = quote(unquote(upload[1]), safe="/")
        second = self._web.get(Url.parse(f"{self._base}/storage-data/uploaded/?filepath={name}"), self._admit)
        if second.status in (_FORBIDDEN, _NOT_FOUND):
            raise SourceNotFoundError(
                f"Label Studio has no upload {answer.url}: it was removed there, or the user of "
                "LABEL_STUDIO_API_KEY may not see it"
            )
        return second if second.status == _OK else answer

    def _is_ours(self, instance: str | None) -> bool:
        """Whether a task of the Label Studio that the token is for wants it: others' jobs do not borrow the token."""
        return self._base is not None and instance is not None and instance.rstrip("/") == self._base

    def _route(self, address: Url) -> str | None:
        """The path within Label Studio; none elsewhere."""
        base = self._label_studio
        if base is None or address.origin != base.origin:
            return None
        prefix = base.path.rstrip("/")
        return address.path.removeprefix(prefix) if address.path.startswith(prefix + "/") else None

    def _admit(self, address: Url) -> Mapping[str, str]:
        """Label Studio's token goes to its routes of pictures and nowhere else, whoever redirects there."""
        route = self._route(address)
        if route is None:
            return {}
        if _LOGIN.match(route):
            raise self._not_logged_in(route)
        return self._headers() if self._headers is not None and _of_a_picture(route) else {}

    def _not_logged_in(self, route: str) -> SourceDeniedError:
        if self._headers is None:
            return SourceDeniedError(
                f"Label Studio at {self._base} asks for a login: LABEL_STUDIO_API_KEY is not set; it is a user's token"
            )
        if not _of_a_picture(route) and not _LOGIN.match(route):
            return SourceDeniedError(
                f"Label Studio at {self._base} asks for a login at {route[:80]}, and its token is sent for pictures "
                "alone: give an address such as /data/upload/1/picture.jpg"
            )
        return SourceDeniedError(
            f"Label Studio at {self._base} asks for a login: it does not take LABEL_STUDIO_API_KEY for this address; "
            "check the token, and whether its kind is enabled there"
        )

    def _refuse_label_studio(self, answer: HttpResponse, route: str) -> None:
        """Raises: FetchError, where Label Studio gave no picture."""
        page = answer.content_type.startswith("text/html")
        if answer.status == _UNAUTHORIZED or (answer.status == _OK and page):
            raise self._not_logged_in(route)
        if answer.status == _FORBIDDEN:
            if self._headers is None:
                raise self._not_logged_in(route)
            raise SourceDeniedError(
                f"Label Studio refuses {answer.url}: the user of LABEL_STUDIO_API_KEY may not see it; add it "
                "to the project's organization"
            )
        if answer.status in (_NOT_FOUND, _GONE):
            told = (
                "no storage of the project holds it, or the task is gone"
                if "/resolve" in answer.url.path
                else "the file or its storage was removed there"
            )
            raise SourceNotFoundError(f"Label Studio has nothing at {answer.url}: {told}")
        if answer.status == _STORAGE_FAILED:
            raise SourceUnreachableError(
                f"Label Studio could not read {answer.url} from its own storage ({answer.status}): the object is "
                "gone, or the storage is away or no longer takes Label Studio's key"
            )
        _refuse(answer)


def name_of(uri: str) -> str:
    """What messages call a picture: its address without what may be a signature."""
    return uri.partition("?")[0] if uri.lower().startswith(("http://", "https://")) else uri


def _alone(address: Url) -> Mapping[str, str]:  # noqa: ARG001 - see Admit
    return {}


def _of_a_picture(route: str) -> bool:
    """Not one that only begins like it: /data/upload/../../api."""
    parts = re.split(r"/|\\|%2f|%5c", route.lower().replace("%2e", "."))
    return _PICTURES.match(route) is not None and not {".", ".."} & set(parts)


def _refuse(answer: HttpResponse) -> None:
    """Raises: FetchError, unless it is a body with status 200."""
    status, address = answer.status, answer.url
    if status == _OK:
        return
    if status in (_UNAUTHORIZED, _FORBIDDEN):
        signed = _SIGNED.search(address.target)
        raise SourceDeniedError(
            f"{address} is refused ({status}): "
            + (
                "it is a signed link, which works for a while only; give its s3:// address or a new link"
                if signed
                else "it needs a login, and only Label Studio at LABEL_STUDIO_URL is sent a token"
            )
        )
    if status in (_NOT_FOUND, _GONE):
        raise SourceNotFoundError(f"{address} does not exist ({status})")
    if status >= _SERVER_ERROR or status in _PASSING:
        raise SourceUnreachableError(f"{address}: the server is overloaded or broken ({status})")
    raise SourceDeniedError(f"{address} gives no picture: its server answers with status {status}")
