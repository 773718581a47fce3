"""From what a Label Studio task says of its picture to an address that workers can fetch."""

import base64
import binascii
import hashlib
import re
from typing import Protocol
from urllib.parse import unquote_to_bytes, urlsplit

from car.bulk_source import MAX_URI, check_address
from car.errors import CarError, SourceError

MAX_INLINE = 32 * 2**20
"""Bytes of a picture that is written into the task itself."""
_THROUGH_LABEL_STUDIO = ("gs://", "azure-blob://")
_WINDOWS = re.compile(r"[A-Za-z]:[\\/]|\\\\")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_DATA = re.compile(r"data:(?P<type>[^,;]*)(?P<parameters>(?:;[^,;]*)*),", re.IGNORECASE)
_TYPE = re.compile(r"image/[a-z0-9.+-]{1,60}")


class InputNotStoredError(CarError):
    """An image written into a task that was not put into the bucket; Label Studio sends the task again."""

    code = "store_unreachable"
    retryable = True


class InputStore(Protocol):
    """The part of db.objects.ObjectStore that pictures within tasks need: see there."""

    @property
    def bucket(self) -> str: ...

    @property
    def prefix(self) -> str: ...

    def has(self, name: str) -> bool: ...

    def put(self, name: str, data: bytes, content_type: str) -> str: ...


def resolve_url(raw: str, *, instance: str, objects: InputStore | None) -> str:
    """An absolute s3://, http(s)://, gs:// or azure-blob:// address. `instance` is Label Studio's, perhaps with a path.
    A data: URI is stored under the digest of its bytes first, so that asking again changes nothing; without `objects`
    it cannot be.

    Raises:
        SourceError: nothing that can be fetched; says what to give instead.
        ObjectStoreError: a data: URI could not be stored.

    """
    if raw[:5].lower() == "data:":
        if objects is None:
            raise InputNotStoredError("the image within the task is not stored, for S3 is not asked")
        return _stored(raw, objects)
    text = raw.strip()
    if text.startswith("//"):
        raise SourceError(f"{_shown(text)} names no scheme; write https:{_shown(text)}")
    if text[:5].lower() == "file:" or _WINDOWS.match(text):
        raise SourceError(
            f"{_shown(text)} is a file of some machine, which this service cannot see; upload it to Label Studio, "
            "serve its folder as Label Studio's local storage, or put it into S3"
        )
    if text.startswith(_THROUGH_LABEL_STUDIO) and len(text.partition("://")[2]) > 0:
        _check_length(text)
        return text
    if not _SCHEME.match(text):
        text = _absolute(text, instance)
    check_address(text)
    return text


def _absolute(text: str, instance: str) -> str:
    """Label Studio's own: /data/upload/1/a.jpg, /label-studio/data/upload/1/a.jpg, upload/1/a.jpg."""
    if not text:
        raise SourceError("the task names no picture: its value is empty")
    bare = text.lstrip("/")
    # Exports of old versions name uploads so.
    path = f"/data/{bare}" if bare.startswith("upload/") else f"/{bare}"
    known = path.startswith(("/data/", "/storage-data/", "/tasks/", "/projects/"))
    if not known and not text.startswith("/"):
        raise SourceError(
            f"{_shown(text)} is no address of a picture; it looks like https://host/a.jpg, s3://bucket/a.jpg or "
            "/data/upload/1/a.jpg"
        )
    if not instance:
        raise SourceError(f"{_shown(text)} lies in Label Studio, whose address is not known; set LABEL_STUDIO_URL")
    base = instance.rstrip("/")
    own = urlsplit(base).path
    if own and path.startswith(f"{own}/"):
        path = path.removeprefix(own)
    elif not known:  # another service's path on the same host
        base = base.removesuffix(own) if own else base
    return base + path


def _stored(raw: str, objects: InputStore) -> str:
    found = _DATA.match(raw)
    kind = found["type"].strip().lower() if found else ""
    if found is None or not _TYPE.fullmatch(kind):
        raise SourceError(f"{_shown(raw)} holds no picture; it looks like data:image/png;base64,…")
    if kind.startswith("image/svg"):
        raise SourceError("the task holds an SVG, which has no pixels; give PNG or JPEG")
    data = _decoded(raw[found.end() :], is_base64=found["parameters"].lower().rstrip().endswith(";base64"))
    if not data:
        raise SourceError("the data: address of the task holds no bytes")
    digest = hashlib.sha256(data).hexdigest()
    name = f"inputs/{digest[:2]}/{digest}"
    if not objects.has(name):  # Label Studio asks for the same tasks again and again
        objects.put(name, data, kind)
    return f"s3://{objects.bucket}/{objects.prefix}{name}"


def _decoded(text: str, *, is_base64: bool) -> bytes:
    # An escape is three letters a byte, base64 four letters for three.
    if len(text) > 3 * MAX_INLINE:
        raise _too_large()
    data = unquote_to_bytes(text)
    if is_base64:
        compact = b"".join(data.split()).translate(bytes.maketrans(b"-_", b"+/"))
        try:
            data = base64.b64decode(compact + b"=" * (-len(compact) % 4), validate=True)
        except binascii.Error:
            raise SourceError("the data: address of the task is no valid base64; it may have been cut off") from None
    if len(data) > MAX_INLINE:
        raise _too_large()
    return data


def _too_large() -> SourceError:
    return SourceError(
        f"the picture within the task is larger than {MAX_INLINE // 2**20} MiB; put it into S3 or Label Studio"
    )


def _check_length(text: str) -> None:
    if len(text.encode(errors="replace")) > MAX_URI or "\0" in text or not text.isprintable():
        raise SourceError(f"{_shown(text)} is longer than {MAX_URI} bytes, or holds what no address can")


def _shown(text: str) -> str:
    cut = text if len(text) <= 80 else text[:77] + "…"  # noqa: PLR2004 - a line of a terminal
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in cut)
