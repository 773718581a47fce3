"""Image addresses of Label Studio tasks, resolved to addresses that workers can fetch."""

import base64
import binascii
import hashlib
import re
from urllib.parse import unquote_to_bytes, urlsplit

from car.bulk_source import MAX_URI, check_address
from car.errors import CarError, SourceError
from car.object_store import ObjectStore
from car.printable import printable

MAX_INLINE = 32 * 2**20
"""Bytes of an image inside a task (data: URI)."""
_THROUGH_LABEL_STUDIO = ("gs://", "azure-blob://")
_WINDOWS = re.compile(r"[A-Za-z]:[\\/]|\\\\")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_DATA = re.compile(r"data:(?P<type>[^,;]*)(?P<parameters>(?:;[^,;]*)*),", re.IGNORECASE)
_TYPE = re.compile(r"image/[a-z0-9.+-]{1,60}")


class InputNotStoredError(CarError):
    """An inline image of a task was not stored; Label Studio sends the task again."""

    code = "store_unreachable"
    retryable = True


def resolve_url(raw: str, *, instance: str, objects: ObjectStore | None) -> str:
    """Return an absolute s3://, http(s)://, gs:// or azure-blob:// address. `instance` is Label Studio's address,
    possibly with a path. A data: URI is stored under its digest first, which needs `objects` and is idempotent.

    Raises:
        SourceError: the address cannot be fetched; the message says what to use instead.
        InputNotStoredError: a data: URI, and no `objects`.
        ObjectStoreError: a data: URI could not be stored.

    """
    if raw[:5].lower() == "data:":
        if objects is None:
            raise InputNotStoredError("the image inside the task cannot be stored by this request")
        return _stored(raw, objects)
    text = raw.strip()
    if text.startswith("//"):
        raise SourceError(f"{_shown(text)} has no scheme; write https:{_shown(text)}")
    if text[:5].lower() == "file:" or _WINDOWS.match(text):
        raise SourceError(
            f"{_shown(text)} is a local file, which this service cannot read; upload it to Label Studio, "
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
    """Resolve an address of Label Studio: /data/upload/1/a.jpg, /label-studio/data/upload/1/a.jpg, upload/1/a.jpg."""
    if not text:
        raise SourceError("the task has no image: the value is empty")
    bare = text.lstrip("/")
    # Exports of old versions have this form.
    path = f"/data/{bare}" if bare.startswith("upload/") else f"/{bare}"
    known = path.startswith(("/data/", "/storage-data/", "/tasks/", "/projects/"))
    if not known and not text.startswith("/"):
        raise SourceError(
            f"{_shown(text)} is not the address of an image; write https://host/a.jpg, s3://bucket/a.jpg or "
            "/data/upload/1/a.jpg"
        )
    if not instance:
        raise SourceError(f"{_shown(text)} is a file of Label Studio, whose address is unknown; set LABEL_STUDIO_URL")
    base = instance.rstrip("/")
    own = urlsplit(base).path
    if own and path.startswith(f"{own}/"):
        path = path.removeprefix(own)
    elif not known:  # another service's path on the same host
        base = base.removesuffix(own) if own else base
    return base + path


def _stored(raw: str, objects: ObjectStore) -> str:
    found = _DATA.match(raw)
    kind = found["type"].strip().lower() if found else ""
    if found is None or not _TYPE.fullmatch(kind):
        raise SourceError(f"{_shown(raw)} is not an image; write data:image/png;base64,…")
    if kind.startswith("image/svg"):
        raise SourceError("the task's image is an SVG; use PNG or JPEG")
    data = _decoded(raw[found.end() :], is_base64=found["parameters"].lower().rstrip().endswith(";base64"))
    if not data:
        raise SourceError("the data: URI of the task is empty")
    digest = hashlib.sha256(data).hexdigest()
    name = f"inputs/{digest[:2]}/{digest}"
    if not objects.has(name):  # Label Studio requests the same tasks repeatedly
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
            raise SourceError("the data: URI of the task is not valid base64; it may be truncated") from None
    if len(data) > MAX_INLINE:
        raise _too_large()
    return data


def _too_large() -> SourceError:
    return SourceError(
        f"the image inside the task is larger than {MAX_INLINE // 2**20} MiB; upload it to S3 or Label Studio"
    )


def _check_length(text: str) -> None:
    if len(text.encode(errors="replace")) > MAX_URI or "\0" in text or not text.isprintable():
        raise SourceError(f"{_shown(text)} is longer than {MAX_URI} bytes or contains invalid characters")


def _shown(text: str) -> str:
    cut = text if len(text) <= 80 else text[:77] + "…"  # noqa: PLR2004 - a line of a terminal
    return printable(cut)
