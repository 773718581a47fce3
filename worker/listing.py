"""List bulk sources into items: page by page, resumed at a cursor, with the memory of one page."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any

import structlog
from sqlalchemy import Engine

from car.bulk_source import BulkSource, SourceKind, manifest_line, split_s3
from car.errors import CarError, SourceError
from car.manifest import ManifestReader
from car.object_store import ObjectInfo, ObjectStore, list_pages
from db.errors import DatabaseUnreachableError, ObjectStoreError, ServiceAccessError, StoreUnreachableError
from db.queue import listings
from db.queue.listings import ListedObject, Listing, RejectedLine
from db.session import transaction
from worker.errors import describe_error

LEASE = timedelta(seconds=60)
_PAGE = 1_000
_PAGES_PER_COMMIT = 4
"""S3 pages in one transaction: a commit costs more than the rows of a page."""
_HEAD_THREADS = 16
_PAUSE = timedelta(seconds=30)
"""Before a source is listed again where the service's own access fails."""

Page = tuple[list[ListedObject | RejectedLine], dict[str, Any]]
"""Rows of a page, and the cursor after it."""


@dataclass
class ListingStats:
    """What one call did."""

    items: int = 0
    """New items."""
    jobs: int = 0
    """Sources that were listed to their end, or failed."""
    has_more: bool = False
    """The call stopped before all sources were listed."""


def list_sources(
    engine: Engine,
    objects: ObjectStore,
    worker: str,
    *,
    stop: Callable[[], bool] = lambda: False,
    seconds: float = float("inf"),
    on_added: Callable[[], object] = lambda: None,
) -> ListingStats:
    """List unclaimed sources, oldest first, until there are none, `stop` or `seconds`.

    `on_added` is called after each commit that added items.
    """
    stats = ListingStats()
    deadline = time.monotonic() + seconds

    def is_ending() -> bool:
        return stop() or time.monotonic() > deadline

    while True:
        with transaction(engine) as session:
            listing = listings.claim(session, worker, LEASE)
        if listing is None:
            return stats
        if not _list(engine, objects, worker, listing, stats, is_ending, on_added):
            with transaction(engine) as session:
                listings.release(session, worker, listing)
            stats.has_more = True
            return stats
        stats.jobs += 1


def _list(
    engine: Engine,
    objects: ObjectStore,
    worker: str,
    listing: Listing,
    stats: ListingStats,
    is_ending: Callable[[], bool],
    on_added: Callable[[], object],
) -> bool:
    """List one source; return whether it is finished, with success or an error."""
    position = listing.cursor or {}
    try:
        for page, cursor in pages(objects, BulkSource.from_json(listing.source), position):
            with transaction(engine) as session:
                added = listings.add(session, worker, listing, page, cursor=cursor, lease=LEASE)
            if added is None:  # cancelled, or claimed by another worker
                return True
            stats.items += added
            if added:
                on_added()
            # A page that does not move the cursor is the last; releasing the source there would repeat for ever.
            if is_ending() and cursor != position:
                return False
            position = cursor
    except DatabaseUnreachableError:
        raise
    except ServiceAccessError as error:  # no fault of the source
        structlog.get_logger().error("listing_paused", job=str(listing.id), code=error.code, reason=str(error))
        with transaction(engine) as session:
            listings.release(session, worker, listing, wait=_PAUSE)
        return True
    except Exception as error:  # noqa: BLE001 - the edge: a source that breaks this code must not be listed for ever
        if not isinstance(error, CarError):
            structlog.get_logger().exception("listing_failed", job=str(listing.id))
        failure = describe_error(error, retry_unexpected=True)
        with transaction(engine) as session:
            listings.fail(session, worker, listing, **failure._asdict())
        return True
    with transaction(engine) as session:
        listings.finish(session, worker, listing)
    return True


def pages(objects: ObjectStore, source: BulkSource, cursor: dict[str, Any]) -> Iterator[Page]:
    """Yield the source's rows after `cursor`; {} is the beginning."""
    if source.kind is SourceKind.URIS:
        return _uri_pages(objects, source, cursor)
    if source.kind is SourceKind.MANIFEST:
        return _manifest_pages(objects, source, cursor)
    return _key_pages(objects, source, cursor)


def _key_pages(objects: ObjectStore, source: BulkSource, cursor: dict[str, Any]) -> Iterator[Page]:
    rows: list[ListedObject | RejectedLine] = []
    position = {"after": str(cursor.get("after", "")), "token": str(cursor.get("token", ""))}
    for page_count, page in enumerate(list_pages(objects, source.bucket, source.prefix, **position), start=1):
        rows += [_key_row(source.bucket, key) for key in source.select(page.objects, objects)]
        if page.is_last or page_count % _PAGES_PER_COMMIT == 0 or page_count == 1:
            yield rows, {"after": page.after} | ({"token": page.token} if page.token else {})
            rows = []


def _manifest_pages(objects: ObjectStore, source: BulkSource, cursor: dict[str, Any]) -> Iterator[Page]:
    etag = objects.head(source.bucket, source.key).etag
    # A replaced manifest is read from its beginning; images that are items already are not added twice.
    offset, number = (int(cursor["offset"]), int(cursor["line"])) if cursor.get("etag") == etag else (0, 0)
    rows: list[ListedObject | RejectedLine] = []
    reader = ManifestReader.for_key(source.key, cursor.get("column") if offset else None)

    def position() -> dict[str, Any]:
        column = {} if reader.column is None else {"column": reader.column}
        return {"etag": etag, "offset": offset, "line": number} | column

    for end, line in objects.lines(source.bucket, source.key, after=offset):
        number += 1
        offset = end
        rows += _line_rows(line, f"line {number}", partial(reader.read, number=number))
        if len(rows) >= _PAGE:
            yield _with_etags(objects, rows), position()
            rows = []
    yield _with_etags(objects, rows), position()


def _uri_pages(objects: ObjectStore, source: BulkSource, cursor: dict[str, Any]) -> Iterator[Page]:
    for start in range(int(cursor.get("index", 0)), len(source.uris), _PAGE):
        lines = enumerate(source.uris[start : start + _PAGE], start=start + 1)
        rows = [row for number, line in lines for row in _line_rows(line, f"address {number}")]
        yield _with_etags(objects, rows), {"index": start + _PAGE}


def _with_etags(objects: ObjectStore, rows: list[ListedObject | RejectedLine]) -> list[ListedObject | RejectedLine]:
    """Return the rows with the ETags of their objects, by which a rescan knows those that were replaced.

    An object without one, such as a missing one, keeps its row: its own fetch says what is wrong. If the server does
    not answer, the page's other objects are not asked for.
    """
    silent = threading.Event()

    def with_etag(row: ListedObject | RejectedLine) -> ListedObject | RejectedLine:
        if isinstance(row, RejectedLine) or not row.uri.startswith("s3://") or silent.is_set():
            return row
        try:
            return ListedObject(row.uri, objects.head(*split_s3(row.uri)).etag)
        except ServiceAccessError:
            raise
        except StoreUnreachableError:
            silent.set()
        except ObjectStoreError:
            pass
        return row

    with ThreadPoolExecutor(_HEAD_THREADS, thread_name_prefix="head") as threads:
        return list(threads.map(with_etag, rows))


def _line_rows(
    line: str, position: str, read: Callable[[str], str | None] = manifest_line
) -> list[ListedObject | RejectedLine]:
    """Return the row of a line, none for an empty line or a comment."""
    try:
        uri = read(line)
    except SourceError as error:
        return [_refused(line, position, error)]
    return [] if uri is None else [ListedObject(uri)]


def _key_row(bucket: str, key: ObjectInfo) -> ListedObject | RejectedLine:
    uri = f"s3://{bucket}/{key.key}"
    try:
        split_s3(uri)
    except SourceError as error:
        return _refused(uri, "key", error)
    return ListedObject(uri, key.etag)


def _refused(text: str, position: str, error: SourceError) -> RejectedLine:
    """Return a row named by its text, as far as it is printable: every item needs a name."""
    name = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text.strip())
    return RejectedLine(name or position, error.code, f"{position}: {error}")
