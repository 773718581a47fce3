"""A look at a job's source before the job is taken: what cannot work is refused while somebody listens."""

import time
from itertools import islice

from api.errors import SourceEmptyError
from car.bulk_source import BulkSource, SourceKind, manifest_line, split_s3
from car.errors import SourceError
from db.objects import ObjectStore

_PAGES = 5
"""Of a listing: a source whose first picture comes later is believed."""
_LINES = 100_000
_SECONDS = 4.0
"""The same holds for a source whose first picture is not found by then: somebody waits."""


def validate_source(objects: ObjectStore, source: BulkSource) -> None:
    """Raises: SourceError, SourceEmpty, or what `ObjectStore.check_bucket` and `head` raise."""
    if source.kind is SourceKind.URIS:
        _look_at_addresses(objects, source)
    elif source.kind is SourceKind.MANIFEST:
        _look_at_manifest(objects, source)
    else:
        _look_at_keys(objects, source)


def _look_at_keys(objects: ObjectStore, source: BulkSource) -> None:
    after, until = "", time.monotonic() + _SECONDS
    for _ in range(_PAGES):
        listed = objects.page(source.bucket, source.prefix, after=after)
        if any(source.matches([one.key for one in listed if one.size])):
            return
        if not listed:
            what = "matches" if source.kind is SourceKind.GLOB else "begins with it and ends like a picture (.jpg, …)"
            raise SourceEmptyError(f"{source} holds no picture: no key {what}; check the address")
        after = listed[-1].key
        if time.monotonic() > until:
            return


def _look_at_manifest(objects: ObjectStore, source: BulkSource) -> None:
    """Bad lines are for the listing to report, one by one; a manifest of nothing else is none."""
    first_fault = ""
    lines, until = 0, time.monotonic() + _SECONDS
    for _, line in islice(objects.lines(source.bucket, source.key), _LINES):
        lines += 1
        try:
            if manifest_line(line) is not None:
                return
        except SourceError as error:
            first_fault = first_fault or f" (line {lines}: {error})"
        if time.monotonic() > until:
            return
    if lines < _LINES:
        raise SourceEmptyError(f"the manifest {source} holds no address of a picture{first_fault}")


def _look_at_addresses(objects: ObjectStore, source: BulkSource) -> None:
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
        raise fault or SourceEmptyError("the list of addresses holds none; give s3://bucket/folder/picture.jpg")
    buckets = {split_s3(one)[0] if one.startswith("s3://") else None for one in addresses}
    bucket = buckets.pop()
    # Of several places, and of those on the web, each picture's own failure says which are missing.
    if bucket is not None and not buckets:
        objects.check_bucket(bucket)
