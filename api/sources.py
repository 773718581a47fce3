"""Checks of a job's source before the job is created, so that a wrong one is refused at once."""

import time
from itertools import islice

from api.errors import SourceEmptyError
from car.bulk_source import BulkSource, SourceKind, manifest_line, split_s3
from car.errors import SourceError
from car.manifest import ManifestReader
from car.object_store import ObjectStore, list_pages

_PAGES = 5
"""Of a listing: a source whose first image comes later is accepted."""
_LINES = 100_000
_SECONDS = 4.0
"""A source without an image by then is accepted, too: the client waits."""


def validate_source(objects: ObjectStore, source: BulkSource) -> None:
    """Raises: SourceError, SourceEmptyError, or what `ObjectStore.check_bucket` and `head` raise."""
    if source.kind is SourceKind.URIS:
        _check_addresses(objects, source)
    elif source.kind is SourceKind.MANIFEST:
        _check_manifest(objects, source)
    else:
        _check_keys(objects, source)


def _check_keys(objects: ObjectStore, source: BulkSource) -> None:
    until = time.monotonic() + _SECONDS
    for page in islice(list_pages(objects, source.bucket, source.prefix), _PAGES):
        if source.select(page.objects, objects):
            return
        if page.is_last:
            what = "matches" if source.kind is SourceKind.GLOB else "begins with it and ends like an image (.jpg, …)"
            raise SourceEmptyError(f"{source} contains no image: no key {what}; check the URL")
        if time.monotonic() > until:
            return


def _check_manifest(objects: ObjectStore, source: BulkSource) -> None:
    """Refuse a manifest without a valid line; the listing reports invalid ones one by one."""
    first_fault = ""
    reader = ManifestReader.for_key(source.key)
    lines, until = 0, time.monotonic() + _SECONDS
    for _, line in islice(objects.lines(source.bucket, source.key), _LINES):
        lines += 1
        try:
            if reader.read(line, lines) is not None:
                return
        except SourceError as error:
            first_fault = first_fault or f" (line {lines}: {error})"
        if time.monotonic() > until:
            return
    if lines < _LINES:
        raise SourceEmptyError(f"the manifest {source} contains no image URL{first_fault}")


def _check_addresses(objects: ObjectStore, source: BulkSource) -> None:
    addresses: list[str] = []
    fault: SourceError | None = None
    for line in source.uris:
        try:
            address = manifest_line(line)
        except SourceError as error:
            fault = fault or error
        else:
            addresses += [address] if address is not None else []
    if not addresses:
        raise fault or SourceEmptyError("the list of image URLs is empty; give s3://bucket/folder/image.jpg")
    buckets = {split_s3(address)[0] if address.startswith("s3://") else None for address in addresses}
    bucket = buckets.pop()
    # With several buckets, or URLs on the web, the images' own errors say which are missing.
    if bucket is not None and not buckets:
        objects.check_bucket(bucket)
