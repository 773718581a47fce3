"""Bulk sources into items: page by page, resumed where it stopped, with the memory of one page."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol

import structlog
from sqlalchemy import Engine

from car.bulk_source import BulkSource, SourceKind, manifest_line, split_s3
from car.errors import CarError, SourceError
from db.objects import Listed
from db.queue import listings
from db.queue.listings import ListedObject, Listing, RejectedLine
from db.session import transaction

LEASE = timedelta(seconds=60)
_PAGE = 1_000
_PAGES_AT_ONCE = 4
"""Pages of S3 in one transaction: a commit costs more than a page's rows."""

Page = tuple[list[ListedObject | RejectedLine], dict[str, Any]]
"""What a page holds, and the cursor after it."""


class ObjectLister(Protocol):
    """The part of db.objects.ObjectStore that listing uses: see there."""

    def page(self, bucket: str, prefix: str, *, after: str = "") -> list[Listed]: ...

    def head(self, bucket: str, key: str) -> Listed: ...

    def lines(self, bucket: str, key: str, *, after: int = 0) -> Iterator[tuple[int, str]]: ...


@dataclass
class ListingStats:
    """What one call did."""

    items: int = 0
    """New ones."""
    jobs: int = 0
    """Sources that were listed to their end, or failed."""
    has_more: bool = False
    """It ended before its work did."""


def list_sources(
    engine: Engine,
    objects: ObjectLister,
    worker: str,
    *,
    stop: Callable[[], bool] = lambda: False,
    seconds: float = float("inf"),
    found: Callable[[], object] = lambda: None,
) -> ListingStats:
    """List the sources that nobody lists, the oldest first, for about so long. `found` is called after each commit of
    new items.
    """
    done = ListingStats()
    deadline = time.monotonic() + seconds

    def ending() -> bool:
        return stop() or time.monotonic() > deadline

    while True:
        with transaction(engine) as session:
            listing = listings.claim(session, worker, LEASE)
        if listing is None:
            return done
        if not _list(engine, objects, worker, listing, done, ending, found):
            with transaction(engine) as session:
                listings.release(session, worker, listing)
            done.has_more = True
            return done
        done.jobs += 1


def _list(
    engine: Engine,
    objects: ObjectLister,
    worker: str,
    listing: Listing,
    done: ListingStats,
    ending: Callable[[], bool],
    found: Callable[[], object],
) -> bool:
    """Whether the source came to its end, be it an error."""
    at = listing.cursor or {}
    try:
        for page, cursor in pages(objects, BulkSource.from_json(listing.source), at):
            with transaction(engine) as session:
                added = listings.add(session, worker, listing, page, cursor=cursor, lease=LEASE)
            if added is None:  # cancelled, or another worker's by now
                return True
            done.items += added
            if added:
                found()
            # A page that leads no further is the last: to hand that one back would never end.
            if ending() and cursor != at:
                return False
            at = cursor
    except CarError as error:
        if error.code == "database_unreachable":
            raise
        _fail(engine, worker, listing, error.code, str(error), retryable=error.retryable)
        return True
    except Exception as error:  # noqa: BLE001 - the edge: a source that breaks this code must not be listed for ever
        structlog.get_logger().exception("listing_broke", job=str(listing.id))
        _fail(engine, worker, listing, "internal_error", f"{type(error).__name__}: {error}", retryable=True)
        return True
    with transaction(engine) as session:
        listings.finish(session, worker, listing)
    return True


def _fail(engine: Engine, worker: str, listing: Listing, code: str, detail: str, *, retryable: bool) -> None:
    with transaction(engine) as session:
        listings.fail(session, worker, listing, code=code, detail=detail, retryable=retryable)


def pages(objects: ObjectLister, source: BulkSource, cursor: dict[str, Any]) -> Iterator[Page]:
    """The source's pictures after `cursor` ({}: from the beginning)."""
    if source.kind is SourceKind.URIS:
        return _given(source, cursor)
    if source.kind is SourceKind.MANIFEST:
        return _manifest(objects, source, cursor)
    return _keys(objects, source, cursor)


def _keys(objects: ObjectLister, source: BulkSource, cursor: dict[str, Any]) -> Iterator[Page]:
    after = str(cursor.get("after", ""))
    some: list[ListedObject | RejectedLine] = []
    read = 0
    while True:
        listed = objects.page(source.bucket, source.prefix, after=after)
        candidates = [one for one in listed if one.size]  # folders that a console made are keys of no bytes
        matches = source.matches([one.key for one in candidates])
        some += [_found(source.bucket, one) for one, is_match in zip(candidates, matches, strict=True) if is_match]
        read += 1
        if listed:
            after = listed[-1].key
        if not listed or read % _PAGES_AT_ONCE == 0 or read == 1:
            yield some, {"after": after}
            some = []
        if not listed:
            return


def _manifest(objects: ObjectLister, source: BulkSource, cursor: dict[str, Any]) -> Iterator[Page]:
    etag = objects.head(source.bucket, source.key).etag
    # Offsets of a manifest that has been replaced since mean nothing; known pictures are not added twice.
    offset, number = (int(cursor["offset"]), int(cursor["line"])) if cursor.get("etag") == etag else (0, 0)
    some: list[ListedObject | RejectedLine] = []
    for end, line in objects.lines(source.bucket, source.key, after=offset):
        number += 1
        offset = end
        try:
            uri = manifest_line(line)
        except SourceError as error:
            some.append(_refused(line, f"line {number}", error))
        else:
            if uri is not None:
                some.append(ListedObject(uri))
        if len(some) >= _PAGE:
            yield some, {"etag": etag, "offset": offset, "line": number}
            some = []
    yield some, {"etag": etag, "offset": offset, "line": number}


def _given(source: BulkSource, cursor: dict[str, Any]) -> Iterator[Page]:
    for start in range(int(cursor.get("index", 0)), len(source.uris), _PAGE):
        some: list[ListedObject | RejectedLine] = []
        for number, line in enumerate(source.uris[start : start + _PAGE], start=start + 1):
            try:
                uri = manifest_line(line)
            except SourceError as error:
                some.append(_refused(line, f"address {number}", error))
            else:
                if uri is not None:
                    some.append(ListedObject(uri))
        yield some, {"index": start + _PAGE}


def _found(bucket: str, one: Listed) -> ListedObject | RejectedLine:
    uri = f"s3://{bucket}/{one.key}"
    try:
        split_s3(uri)
    except SourceError as error:
        return _refused(uri, "key", error)
    return ListedObject(uri, one.etag)


def _refused(text: str, place: str, error: SourceError) -> RejectedLine:
    """An item must have a name: the text itself, as far as it can be stored and read."""
    shown = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text.strip())
    return RejectedLine(shown or place, error.code, f"{place}: {error}")
