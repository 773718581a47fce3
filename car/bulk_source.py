"""Sources of bulk jobs: a prefix, glob or manifest in S3, or a list of s3:// and https:// addresses."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property
from typing import Any, Self

from car.errors import SourceError
from car.key_glob import KeyGlob
from car.object_store import ObjectInfo, ObjectStore, is_service_object
from car.printable import printable

MAX_URI = 2_048
"""Bytes of an address. S3 keys have at most 1,024; the database's indexes allow little more than this."""
MAX_GIVEN = 10_000
"""Addresses in one request; a manifest can have any number."""
SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    *(".png", ".apng", ".webp", ".avif", ".tif", ".tiff", ".bmp", ".gif"),
)
_MANIFESTS = (".txt", ".lst", ".csv", ".manifest", ".jsonl")
_WEB = ("http://", "https://")
_INLINE_COPY = re.compile(r"s3://[^/]+/(.*/)?inputs/([0-9a-f]{2})/\2[0-9a-f]{62}")
"""Where car.label_studio.image_urls stores an image of a data: URI."""
_WILD = re.compile(r"[*?\[{]")
_BUCKET = re.compile(r"[a-z0-9A-Z][a-zA-Z0-9._-]{1,253}[a-zA-Z0-9]")


class SourceKind(StrEnum):
    PREFIX = "prefix"
    """Keys with this prefix and an image's extension."""
    GLOB = "glob"
    """Keys that match: * and ? within one folder, ** across folders, [abc], {a,b}."""
    MANIFEST = "manifest"
    """An object with one address per line."""
    URIS = "uris"
    """Addresses in the request."""


@dataclass(frozen=True)
class BulkSource:
    """A source that can be listed.

    `key` is the prefix, the glob's pattern or the manifest's key.
    """

    kind: SourceKind
    bucket: str = ""
    key: str = ""
    uris: tuple[str, ...] = ()
    excluded: str | None = None
    """S3_PREFIX, if the source contains this service's own objects, which a listing leaves out."""

    @classmethod
    def parse(cls, source: object) -> Self:
        """Parse the source of a request: `s3://bucket/prefix/`, `s3://bucket/**/*.jpg`, `s3://bucket/list.txt` (a
        manifest by its extension: .txt .lst .csv .manifest .jsonl), {"manifest": "s3://…"}, {"prefix": "s3://…"} with
        any characters, or a list of addresses.

        Raises:
            SourceError: the source is none of these; the message shows examples.

        """
        if isinstance(source, Mapping):
            return cls(*_parse_mapping(source))
        if isinstance(source, str):
            if source.strip()[:8].lower().startswith(_WEB):
                raise SourceError("list the addresses of images on the web one by one, in the request or in a manifest")
            bucket, key = split_s3(source.strip(), needs_key=False)
            if _WILD.search(key):
                KeyGlob.parse(key)
                return cls(SourceKind.GLOB, bucket, key)
            kind = SourceKind.MANIFEST if key.lower().endswith(_MANIFESTS) else SourceKind.PREFIX
            return cls(kind, bucket, key)
        if isinstance(source, Sequence) and source and all(isinstance(one, str) for one in source):
            if len(source) > MAX_GIVEN:
                raise SourceError(f"{len(source)} addresses are too many for one request; put them into a manifest")
            for one in source:
                _refuse_unstorable(one)
            return cls(SourceKind.URIS, uris=tuple(source))
        raise SourceError(
            "source must be s3://bucket/prefix/, a glob such as s3://bucket/**/*.jpg, a manifest or a list"
        )

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        uris = tuple(document.get("uris", ()))
        kind, bucket, key = SourceKind(document["kind"]), document.get("bucket", ""), document.get("key", "")
        return cls(kind, bucket, key, uris, document.get("excluded"))

    def to_json(self) -> dict[str, Any]:
        if self.kind is SourceKind.URIS:
            return {"kind": str(self.kind), "uris": list(self.uris)}
        document = {"kind": str(self.kind), "bucket": self.bucket, "key": self.key}
        return document if self.excluded is None else document | {"excluded": self.excluded}

    def __str__(self) -> str:
        if self.kind is SourceKind.URIS:
            return f"{len(self.uris)} addresses"
        uri = f"s3://{self.bucket}/{self.key}"
        if self.excluded is None:
            return uri
        below = f" below {self.excluded} (S3_PREFIX)" if self.excluded else ""
        return f"{uri} without this service's own objects{below}"

    def excluding(self, store: ObjectStore) -> Self:
        """Return the source, marked if the service's own objects lie within it.

        Raises:
            SourceError: it contains nothing else.

        """
        if self.kind not in (SourceKind.PREFIX, SourceKind.GLOB) or self.bucket != store.bucket:
            return self
        if store.prefix and self.prefix.startswith(store.prefix):
            raise SourceError(
                f"{self} contains this service's own objects only: S3_PREFIX is {store.prefix}; give another prefix"
            )
        return replace(self, excluded=store.prefix) if store.prefix.startswith(self.prefix) else self

    @property
    def prefix(self) -> str:
        """The prefix of every key, which the server can filter by."""
        return _WILD.split(self.key, maxsplit=1)[0] if self.kind is SourceKind.GLOB else self.key

    def select(self, listed: Sequence[ObjectInfo], store: ObjectStore) -> list[ObjectInfo]:
        """Return the listed objects that belong to the source, without folders and the objects of the service itself.

        Empty objects belong to it: they fail as images, where somebody sees them.
        """
        is_own_bucket, prefix = self.bucket == store.bucket, store.prefix
        files = [
            entry
            for entry in listed
            if not entry.is_folder and not (is_own_bucket and is_service_object(entry.key, prefix))
        ]
        matches = self.matches([entry.key for entry in files])
        return [entry for entry, is_match in zip(files, matches, strict=True) if is_match]

    def matches(self, keys: Sequence[str]) -> list[bool]:
        """Return for each listed key whether it belongs to the source. A prefix selects images only.

        Raises:
            SourceError: a stored glob exceeds today's bounds.

        """
        if self.kind is not SourceKind.GLOB:
            return [key.lower().endswith(SUFFIXES) for key in keys]
        named = self._glob.matches(keys)
        if self._names_everything:
            return [is_named and key.lower().endswith(SUFFIXES) for is_named, key in zip(named, keys, strict=True)]
        return named

    @cached_property
    def _glob(self) -> KeyGlob:
        return KeyGlob.parse(self.key)

    @cached_property
    def _names_everything(self) -> bool:
        return self.key.endswith("*")


def _parse_mapping(source: Mapping[Any, Any]) -> tuple[SourceKind, str, str]:
    """Return kind, bucket and key. Raises: SourceError."""
    match dict(source):
        case {"manifest": str() as uri, **others} if not others:
            return (SourceKind.MANIFEST, *split_s3(uri))
        case {"prefix": str() as uri, **others} if not others:
            return (SourceKind.PREFIX, *split_s3(uri, needs_key=False))
    raise SourceError(
        f'source {_shown(repr(dict(source)))} must look like {{"manifest": "s3://bucket/list.txt"}} or '
        '{"prefix": "s3://bucket/folder/"}'
    )


def split_s3(uri: str, *, needs_key: bool = True) -> tuple[str, str]:
    """Split s3://bucket/key. The key is not decoded: S3 has no folders, escapes or dots.

    Raises:
        SourceError: the scheme is another one, or the bucket or a required key is missing.

    """
    shown = _shown(uri)
    if not uri.startswith("s3://"):
        raise SourceError(f"{shown} is not the address of an object; write s3://bucket/folder/image.jpg")
    _refuse_unstorable(uri)
    if len(uri.encode()) > MAX_URI:
        raise SourceError(f"{shown} is longer than {MAX_URI} bytes")
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    if not _BUCKET.fullmatch(bucket):
        raise SourceError(f"{shown} has no bucket; write s3://bucket/folder/image.jpg")
    if needs_key and (not key or key.endswith("/")):
        raise SourceError(f"{shown} has no object key; write s3://bucket/folder/image.jpg")
    return bucket, key


def manifest_line(line: str) -> str | None:
    """Return the address in a line of a manifest: the line itself, or `uri`, `image` or `source-ref` of its JSON.
    Return None for an empty line or a comment. ManifestReader reads other forms.

    Raises:
        SourceError: the line has no address of an image.

    """
    stripped = line.strip().removeprefix("\N{BYTE ORDER MARK}").strip()
    if not stripped or stripped.startswith("#"):
        return None
    if stripped.startswith("{"):
        try:
            document = json.loads(stripped)
        except (ValueError, RecursionError) as error:  # also too long numbers and too deep nesting
            reason = getattr(error, "msg", "it cannot be read")
            raise SourceError(f"{_shown(stripped)} is not valid JSON ({reason})") from None
        keys = [key for key in ("uri", "image", "source-ref") if key in document] if isinstance(document, dict) else []
        uri = document[keys[0]] if keys else None
        if not isinstance(uri, str):
            raise SourceError(f'{_shown(stripped)} must look like {{"uri": "s3://bucket/folder/image.jpg"}}')
    else:
        uri = stripped
    check_address(uri)
    return uri


def is_bucket(name: str) -> bool:
    """Return whether a bucket can have this name."""
    return _BUCKET.fullmatch(name) is not None


def check_address(uri: str) -> None:
    """Check the form of an s3:// or http(s):// address. The worker's SSRF guard decides whether it may be fetched.

    Raises:
        SourceError: the scheme is another one, the bucket, key or host is missing, or it is too long.

    """
    if not uri[:8].lower().startswith(_WEB):
        split_s3(uri)
        return
    shown = _shown(uri)
    _refuse_unstorable(uri)
    if len(uri.encode()) > MAX_URI:
        raise SourceError(
            f"{shown} is longer than {MAX_URI} bytes; if it is a signed link, give its s3:// address instead"
        )
    host = uri.partition("://")[2]
    if not uri.isprintable() or not host or host[0] in "/?#":
        raise SourceError(f"{shown} is not the address of an image; write https://host/image.jpg")


def sent_address(uri: str) -> str:
    """Return the address that the user sent; for an image that a task of Label Studio contains, no address but words,
    for the service's own copy of it means nothing to the user.
    """
    return "the image within the task" if _INLINE_COPY.fullmatch(uri) else uri


def displayed_address(uri: str) -> str:
    """Return how an image is called in messages: `sent_address` without a query, which may hold a signature."""
    return uri.partition("?")[0] if uri.lower().startswith(_WEB) else sent_address(uri)


def truncate_bytes(text: str, most: int = MAX_URI) -> str:
    """Return the longest beginning of the text that has at most `most` bytes."""
    return text.encode(errors="replace")[:most].decode(errors="ignore")


def _refuse_unstorable(text: str) -> None:
    """Refuse characters that neither PostgreSQL nor an S3 server accepts."""
    if "\0" in text or any("\ud800" <= letter <= "\udfff" for letter in text):
        raise SourceError(f"{_shown(text)} contains a NUL or an unpaired surrogate, which an address cannot")


def _shown(text: str) -> str:
    cut = text if len(text) <= 80 else text[:77] + "…"  # noqa: PLR2004 - a line of a terminal
    return printable(cut) or "an empty text"
