"""The one interface to objects: S3 in the product, fakes in tests and benchmarks. `db.objects` implements it."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """An object without its bytes."""

    key: str
    etag: str
    size: int
    """Bytes."""

    @property
    def is_folder(self) -> bool:
        """Whether it only marks a folder, as consoles create them; an empty object with another name is a file."""
        return self.key.endswith("/")


@dataclass(frozen=True, slots=True)
class KeyPage:
    """One page of a listing."""

    objects: list[ObjectInfo]
    token: str = ""
    """Continues the listing after a page without objects, as delete markers cause them; "" if nothing follows."""


@dataclass(frozen=True, slots=True)
class ListedPage:
    """A page of a listing with the position after it, from which `list_pages` can continue."""

    objects: list[ObjectInfo]
    after: str
    """The last key."""
    token: str
    is_last: bool


class ObjectStore(Protocol):
    """The service's own objects under `bucket`/`prefix`, and read access to any other bucket.

    Every method raises db.errors.ObjectStoreError or a subclass, and no error of the client library.
    """

    @property
    def bucket(self) -> str: ...

    @property
    def prefix(self) -> str: ...

    def put(self, name: str, data: bytes, content_type: str) -> str:
        """Store `data` under `prefix + name` and return that key. Equal names hold equal bytes."""
        ...

    def has(self, name: str) -> bool:
        """Return whether `put` has stored `name` before."""
        ...

    def get(self, key: str) -> bytes:
        """Return the bytes of a key that `put` returned."""
        ...

    def read(self, bucket: str, key: str, *, max_bytes: int | None = None) -> bytes:
        """Return the bytes of any object. Raises: ObjectTooLargeError, before anything above `max_bytes` is fetched."""
        ...

    def presign(self, key: str, *, seconds: int = 900, download: str | None = None) -> str:
        """Return a link to a key that `put` returned. `download` is the file name that a browser saves it under."""
        ...

    def check_bucket(self, bucket: str) -> None:
        """Raise what prevents listing a bucket: BucketMissingError, AccessDeniedError or StoreUnreachableError."""
        ...

    def put_object(self, bucket: str, key: str, data: bytes, content_type: str) -> None:
        """Store a user's image under a key of any bucket, replacing what is there."""
        ...

    def head(self, bucket: str, key: str) -> ObjectInfo:
        """Return an object's ETag and size."""
        ...

    def page(self, bucket: str, prefix: str, *, after: str = "", token: str = "") -> KeyPage:
        """Return up to 1,000 objects whose keys begin with `prefix`, in the server's order: those after the key
        `after`, or those that follow a page with this `token`.
        """
        ...

    def lines(self, bucket: str, key: str, *, after: int = 0) -> Iterator[tuple[int, str]]:
        """Yield an object's lines from byte `after` on, each with the offset of the next line, in constant memory."""
        ...


def list_pages(
    objects: ObjectStore, bucket: str, prefix: str, *, after: str = "", token: str = ""
) -> Iterator[ListedPage]:
    """Yield all pages of a listing; only the last has no objects and no token.

    A page without objects does not end the listing: a server may answer so where it passed over deleted objects only.
    """
    while True:
        page = objects.page(bucket, prefix, after=after, token=token)
        after = page.objects[-1].key if page.objects else after
        # A server that repeats a token would be asked for ever.
        token = "" if page.objects or page.token == token else page.token
        is_last = not page.objects and not token
        yield ListedPage(page.objects, after, token, is_last)
        if is_last:
            return


_RESULT_NAME = re.compile(r"results/[0-9a-f]{2}/[0-9a-f]{64}/|images/[0-9a-f]{2}/[0-9a-f]{64}\.jpg")


def is_service_object(key: str, prefix: str) -> bool:
    """Return whether a key of the service's own bucket belongs to the service: all below its prefix, or without a
    prefix those with the names that it gives to masks, label maps and previews.
    """
    return key.startswith(prefix) if prefix else _RESULT_NAME.match(key) is not None
