"""Fetch image files from S3, the web, and Label Studio with its own storages."""

import re
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping
from typing import Self
from urllib.parse import quote, unquote

from car.bulk_source import displayed_address, split_s3
from car.object_store import ObjectStore
from db.errors import AccessDeniedError, BucketMissingError, ObjectMissingError, ObjectStoreError, StoreUnreachableError
from worker.errors import (
    FetchError,
    SourceDeniedError,
    SourceForbiddenError,
    SourceNotFoundError,
    SourceUnreachableError,
)
from worker.images.addresses import Url
from worker.images.download import REDIRECTS, HttpDownloader, HttpResponse
from worker.images.ssrf_guard import AllowedHosts, Resolver, SsrfGuard
from worker.settings import WorkerSettings

HeaderProvider = Callable[[], Mapping[str, str]]
"""Returns the headers that authenticate at Label Studio, refreshed if needed. Raises: CarError."""

_CLOUD_SCHEMES = ("gs", "azure-blob")
"""Storages for which only Label Studio has the keys."""
_IMAGE_ROUTES = re.compile(
    r"/(data/(upload|local-files)|storage-data/uploaded|(tasks|projects)/[0-9]+/(resolve|presign))(/|\Z)", re.ASCII
)
"""Label Studio's routes of images. No other route gets the token, because any user of it may write a task's address."""
_LOGIN = re.compile(r"/user/login/?\Z")
_UPLOAD = re.compile(r"/data/(upload/.+)", re.DOTALL)
_OK, _UNAUTHORIZED, _FORBIDDEN, _NOT_FOUND, _GONE, _SERVER_ERROR = 200, 401, 403, 404, 410, 500
_STORAGE_FAILED = 424
"""The resolve route's status for any failure of its storage."""
_TRANSIENT = {408, 425, 429}
_SIGNED = re.compile(r"[?&](X-Amz-Signature|X-Goog-Signature|Signature|sig)=", re.IGNORECASE)


class ImageFetcher:
    """Reads image files from many threads; keeps connections open until `close`."""

    def __init__(
        self,
        objects: ObjectStore,
        *,
        label_studio: str | None = None,
        headers: HeaderProvider | None = None,
        allowed: Mapping[str, str] | None = None,
        max_bytes: int = 64 * 2**20,
        seconds: float = 60.0,
        connections: int = 16,
        resolve: Resolver | None = None,
    ) -> None:
        """`allowed` maps names of settings to hosts in private networks that may be used; `label_studio` always may."""
        self._objects, self._max_bytes = objects, max_bytes
        self._base = label_studio.rstrip("/") if label_studio else None
        self._label_studio = Url.parse(self._base) if self._base else None
        self._headers = headers
        hosts = dict(allowed or {}) | ({"LABEL_STUDIO_URL": self._base} if self._base else {})
        self._downloader = HttpDownloader(
            SsrfGuard(AllowedHosts(hosts), resolve=resolve),
            max_bytes=max_bytes,
            seconds=seconds,
            connections=connections,
        )

    @classmethod
    def from_settings(cls, settings: WorkerSettings, objects: ObjectStore, headers: HeaderProvider | None) -> Self:
        """`headers` are those of the settings' Label Studio; None without a token."""
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
        """Return the bytes of an image file. Raises: FetchError, ObjectStoreError, SourceError.

        `instance` and `task` are the Label Studio and the task that name the image; None for other jobs.
        """
        scheme = uri.partition(":")[0].lower()
        if scheme == "s3":
            return self._read_object(uri, instance, task)
        if scheme in _CLOUD_SCHEMES:
            return self._read_cloud(uri, instance, task)
        return self._download(Url.parse(uri), use_token=self._is_own_instance(instance))

    def close(self) -> None:
        self._downloader.close()

    # S3 and other storages

    def _read_object(self, uri: str, instance: str | None, task: int | None) -> bytes:
        """Read an object with this service's key, or for a task of Label Studio with Label Studio's."""
        bucket, key = split_s3(uri)
        try:
            return self._objects.read(bucket, key, max_bytes=self._max_bytes)
        except (AccessDeniedError, BucketMissingError, ObjectMissingError, StoreUnreachableError) as error:
            if isinstance(error, ObjectMissingError) and (name := displayed_address(uri)) != uri:
                raise ObjectMissingError(
                    f"{name} is no longer in the service's bucket; import the task again"
                ) from error
            if task is None or not self._is_own_instance(instance):
                raise
            if self._headers is None:
                hint = "to read it through Label Studio, set LABEL_STUDIO_API_KEY"
                raise type(error)(f"{error}; {hint}") from error
            return self._read_by_label_studio(uri, task, error)

    def _read_cloud(self, uri: str, instance: str | None, task: int | None) -> bytes:
        scheme = uri.partition(":")[0]
        if task is None or not self._is_own_instance(instance) or self._headers is None:
            raise SourceForbiddenError(
                f"{scheme}:// images are read through Label Studio, for its own tasks, if LABEL_STUDIO_URL and "
                "LABEL_STUDIO_API_KEY are set; otherwise use https:// or s3:// addresses"
            )
        return self._read_by_label_studio(uri, task, None)

    def _read_by_label_studio(self, uri: str, task: int, own_error: ObjectStoreError | None) -> bytes:
        """Read through the resolve route: Label Studio redirects to a link that it signs, or sends the bytes itself."""
        query = urlsafe_b64encode(uri.encode()).decode()
        address = Url.parse(f"{self._base}/tasks/{task}/resolve/?fileuri={query}")
        try:
            return self._download(address, use_token=True)
        except FetchError as error:
            if own_error is None:
                raise
            kind = SourceUnreachableError if own_error.retryable else type(error)
            raise kind(f"{own_error}; and through Label Studio: {error}") from error

    # The web

    def _download(self, address: Url, *, use_token: bool) -> bytes:
        response = self._downloader.get(address, self._headers_for if use_token else lambda _: {})
        route = self._route(response.url) if use_token else None
        if route is None:
            _check(response)
        else:
            response = self._retry_upload(response, route)
            self._check_label_studio(response, route)
        return response.body

    def _retry_upload(self, response: HttpResponse, route: str) -> HttpResponse:
        """Try the other route of an upload that failed: Label Studio serves uploads in a cloud by that route only.

        It also tells a missing upload from a failure, where /data/upload answers 500 to both.
        """
        upload = _UPLOAD.fullmatch(route)
        if upload is None or response.status not in (_NOT_FOUND, _SERVER_ERROR):
            return response
        name = quote(unquote(upload[1]), safe="/")
        address = Url.parse(f"{self._base}/storage-data/uploaded/?filepath={name}")
        retried = self._downloader.get(address, self._headers_for)
        if retried.status in (_FORBIDDEN, _NOT_FOUND):
            raise SourceNotFoundError(
                f"Label Studio has no upload {response.url}: it was removed there, or the user of "
                "LABEL_STUDIO_API_KEY may not see it"
            )
        return retried if retried.status == _OK else response

    def _is_own_instance(self, instance: str | None) -> bool:
        """Return whether a job is of the Label Studio that the token is for; no other job may use the token."""
        return self._base is not None and instance is not None and instance.rstrip("/") == self._base

    def _route(self, address: Url) -> str | None:
        """Return the path below Label Studio's base URL; None for other servers."""
        base = self._label_studio
        if base is None or address.origin != base.origin:
            return None
        prefix = base.path.rstrip("/")
        return address.path.removeprefix(prefix) if address.path.startswith(prefix + "/") else None

    def _headers_for(self, address: Url) -> Mapping[str, str]:
        """Return Label Studio's token for its routes of images, and nothing for any other address."""
        route = self._route(address)
        if route is None:
            return {}
        if _LOGIN.match(route):
            raise self._login_required(route)
        return self._headers() if self._headers is not None and _is_image_route(route) else {}

    def _login_required(self, route: str) -> SourceDeniedError:
        requires = f"Label Studio at {self._base} requires a login"
        if self._headers is None:
            return SourceDeniedError(f"{requires}: LABEL_STUDIO_API_KEY is not set; set it to a user's token")
        if not _is_image_route(route) and not _LOGIN.match(route):
            return SourceDeniedError(
                f"{requires} at {route[:80]}, and its token is sent for images only: use an address such as "
                "/data/upload/1/image.jpg"
            )
        return SourceDeniedError(
            f"Label Studio at {self._base} rejects LABEL_STUDIO_API_KEY for this image; check the token, and that its "
            "kind is enabled there"
        )

    def _check_label_studio(self, response: HttpResponse, route: str) -> None:
        """Raises: FetchError, if Label Studio sent no image."""
        is_page = response.content_type.startswith("text/html")
        if response.status == _UNAUTHORIZED or (response.status == _OK and is_page):
            raise self._login_required(route)
        if response.status == _FORBIDDEN:
            if self._headers is None:
                raise self._login_required(route)
            raise SourceDeniedError(
                f"Label Studio refuses {response.url}: the user of LABEL_STUDIO_API_KEY may not see it; add that user "
                "to the project's organization"
            )
        if response.status in (_NOT_FOUND, _GONE):
            reason = (
                "no storage of the project has it, or the task was deleted"
                if "/resolve" in response.url.path
                else "the file or its storage was removed there"
            )
            raise SourceNotFoundError(f"Label Studio has nothing at {response.url}: {reason}")
        if response.status == _STORAGE_FAILED:
            raise SourceUnreachableError(
                f"Label Studio could not read {response.url} from its storage ({response.status}): the object was "
                "deleted, or the storage is down or rejects Label Studio's key"
            )
        _check(response)


def _is_image_route(route: str) -> bool:
    """Return whether a route is one of images, also after its dots are resolved: not /data/upload/../../api."""
    parts = re.split(r"/|\\|%2f|%5c", route.lower().replace("%2e", "."))
    return _IMAGE_ROUTES.match(route) is not None and not {".", ".."} & set(parts)


def _check(response: HttpResponse) -> None:
    """Raises: FetchError, unless the status is 200."""
    status, address = response.status, response.url
    if status == _OK:
        return
    if status in (_UNAUTHORIZED, _FORBIDDEN):
        reason = (
            "the signed link has expired; use its s3:// address or a new link"
            if _SIGNED.search(address.target)
            else "it requires a login, and tokens are sent only to Label Studio at LABEL_STUDIO_URL"
        )
        raise SourceDeniedError(f"{address} is refused ({status}): {reason}")
    if status in (_NOT_FOUND, _GONE):
        raise SourceNotFoundError(f"{address} does not exist ({status})")
    if status >= _SERVER_ERROR or status in _TRANSIENT:
        raise SourceUnreachableError(f"{address}: the server is overloaded or broken ({status})")
    if status in REDIRECTS:
        raise SourceNotFoundError(f"{address} redirects ({status}) without a Location; use the image's final address")
    raise SourceNotFoundError(f"{address} has no image: its server responds with status {status}")
