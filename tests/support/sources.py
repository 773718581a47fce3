"""Pictures' sources, with an S3 of a few known answers."""

import pytest

from db.errors import BucketMissingError
from tests.support.picture_server import picture_bytes
from worker.images.fetch import ImageFetcher

PNG = picture_bytes()


class Shelf:
    """S3 as far as pictures know it: bytes or errors by address."""

    def __init__(self, **by_address):
        self.by_address, self.read_keys = by_address, []

    def read(self, bucket, key, *, max_bytes=None):
        self.read_keys.append((bucket, key))
        found = self.by_address.get(bucket, BucketMissingError(f"there is no bucket {bucket!r} here"))
        if isinstance(found, Exception):
            raise found
        return found


@pytest.fixture
def sources_of():
    """Makes Sources, and closes them."""
    made = []

    def make(objects=None, **given):
        made.append(ImageFetcher(objects or Shelf(), **given))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def sources(site, sources_of):
    """May ask the site."""
    return sources_of(allowed={"CAR_ALLOWED_HOSTS": site.place}, max_bytes=100_000, seconds=5)
