"""Where a bulk job's pictures are: a prefix, a glob or a manifest in S3, or addresses one by one, also the web's."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Any, Self

from car.errors import SourceError
from car.key_glob import KeyGlob

MAX_URI = 2_048
"""Bytes. An S3 key has 1,024 at most, and an index of the database not many more than these."""
MAX_GIVEN = 10_000
"""Addresses in one request; a manifest holds any number."""
SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".tif", ".tiff", ".bmp", ".gif")
_MANIFESTS = (".txt", ".lst", ".csv", ".manifest", ".jsonl")
_WEB = ("http://", "https://")
_WILD = re.compile(r"[*?\[{]")
_BUCKET = re.compile(r"[a-z0-9A-Z][a-zA-Z0-9._-]{1,253}[a-zA-Z0-9]")


class SourceKind(StrEnum):
    PREFIX = "prefix"
    """Keys that begin so and end like a picture."""
    GLOB = "glob"
    """Keys that match: * and ? within one folder, ** across folders, [abc], {a,b}."""
    MANIFEST = "manifest"
    """An object with one address a line."""
    URIS = "uris"
    """Addresses in the request itself."""


@dataclass(frozen=True)
class BulkSource:
    """A source that can be listed.

    `bucket` and `key` are of the prefix, the glob's pattern or the manifest's object.
    """

    kind: SourceKind
    bucket: str = ""
    key: str = ""
    uris: tuple[str, ...] = ()

    @classmethod
    def parse(cls, source: object) -> Self:
        """From a request: `s3://bucket/prefix/`, `s3://bucket/**/*.jpg`, `s3://bucket/list.txt` (a manifest by its
        ending: .txt .lst .csv .manifest .jsonl), {"manifest": "s3://…"}, or a list of addresses.

        Raises:
            SourceError: none of these; says what it should look like.

        """
        if isinstance(source, Mapping):
            if set(source) != {"manifest"} or not isinstance(source["manifest"], str):
                raise SourceError(f'source {dict(source)!r} must look like {{"manifest": "s3://bucket/list.txt"}}')
            return cls(SourceKind.MANIFEST, *split_s3(source["manifest"], needs_key=True))
        if isinstance(source, str):
            if source.strip()[:8].lower().startswith(_WEB):
                raise SourceError("pictures on the web are given one by one: as a list of addresses, or in a manifest")
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
        return cls(SourceKind(document["kind"]), document.get("bucket", ""), document.get("key", ""), uris)

    def to_json(self) -> dict[str, Any]:
        if self.kind is SourceKind.URIS:
            return {"kind": str(self.kind), "uris": list(self.uris)}
        return {"kind": str(self.kind), "bucket": self.bucket, "key": self.key}

    def __str__(self) -> str:
        return f"{len(self.uris)} addresses" if self.kind is SourceKind.URIS else f"s3://{self.bucket}/{self.key}"

    @property
    def prefix(self) -> str:
        """What every key begins with: all that a server can look for by itself."""
        return _WILD.split(self.key, maxsplit=1)[0] if self.kind is SourceKind.GLOB else self.key

    def matches(self, keys: Sequence[str]) -> list[bool]:
        """Whether each listed key is one of the source's. A glob names them; a prefix names images alone.

        Raises:
            SourceError: a stored glob that today's bounds refuse.

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


def split_s3(uri: str, *, needs_key: bool = True) -> tuple[str, str]:
    """Bucket and key of s3://bucket/key. The key is taken as it is: S3 knows no folders, escapes or dots.

    Raises:
        SourceError: another scheme, no bucket, or no key where one is needed.

    """
    shown = _shown(uri)
    if not uri.startswith("s3://"):
        raise SourceError(f"{shown} is no address of an object; it looks like s3://bucket/folder/picture.jpg")
    _refuse_unstorable(uri)
    if len(uri.encode()) > MAX_URI:
        raise SourceError(f"{shown} is longer than {MAX_URI} bytes")
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    if not _BUCKET.fullmatch(bucket):
        raise SourceError(f"{shown} names no bucket; it looks like s3://bucket/folder/picture.jpg")
    if needs_key and (not key or key.endswith("/")):
        raise SourceError(f"{shown} names no object; it looks like s3://bucket/folder/picture.jpg")
    return bucket, key


def manifest_line(line: str) -> str | None:
    """The address in a line of a manifest: the line itself, or the `uri` or `image` of its JSON; none
    in an empty line or a comment.

    Raises:
        SourceError: the line holds no address of a picture.

    """
    stripped = line.strip().removeprefix("\N{BYTE ORDER MARK}").strip()
    if not stripped or stripped.startswith("#"):
        return None
    if stripped.startswith("{"):
        try:
            document = json.loads(stripped)
        except (ValueError, RecursionError) as error:  # also numbers too long and nests too deep
            reason = getattr(error, "msg", "it cannot be read")
            raise SourceError(f"{_shown(stripped)} is not valid JSON ({reason})") from None
        uri = document.get("uri", document.get("image")) if isinstance(document, dict) else None
        if not isinstance(uri, str):
            raise SourceError(f'{_shown(stripped)} must look like {{"uri": "s3://bucket/folder/picture.jpg"}}')
    else:
        uri = stripped
    check_address(uri)
    return uri


def check_address(uri: str) -> None:
    """An object of S3, or a page of the web: which of those may be asked, workers decide.

    Raises:
        SourceError: another scheme, no bucket, key or host, or too long.

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
        raise SourceError(f"{shown} is no address of a picture; it looks like https://host/picture.jpg")


def truncate_bytes(text: str, most: int = MAX_URI) -> str:
    """The beginning of a text that has at most so many bytes."""
    return text.encode(errors="replace")[:most].decode(errors="ignore")


def _refuse_unstorable(text: str) -> None:
    """No database and no server takes these, wherever they come from."""
    if "\0" in text or any("\ud800" <= letter <= "\udfff" for letter in text):
        raise SourceError(f"{_shown(text)} holds a NUL or half a character, which no address can")


def _shown(text: str) -> str:
    cut = text if len(text) <= 80 else text[:77] + "…"  # noqa: PLR2004 - a line of a terminal
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in cut) or "an empty text"
