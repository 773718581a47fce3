"""The one interface to objects: S3 in the product, fakes in tests and benchmarks. `db.objects` implements it."""

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

    def page(self, bucket: str, prefix: str, *, after: str = "") -> list[ObjectInfo]:
        """Return up to 1,000 objects whose keys begin with `prefix`, after the key `after`, in the server's order."""
        ...

    def lines(self, bucket: str, key: str, *, after: int = 0) -> Iterator[tuple[int, str]]:
        """Yield an object's lines from byte `after` on, each with the offset of the next line, in constant memory."""
        ...
