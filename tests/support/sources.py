"""Image fetchers over a fake S3 store."""

import pytest

from db.errors import BucketMissingError
from tests.support.picture_server import image_bytes
from worker.images.fetch import ImageFetcher

PNG = image_bytes()


class FakeStore:
    """An object store with bytes or an error per bucket."""

    def __init__(self, **by_bucket):
        self.by_bucket, self.read_keys = by_bucket, []

    def read(self, bucket, key, *, max_bytes=None):
        self.read_keys.append((bucket, key))
        content = self.by_bucket.get(bucket, BucketMissingError(f"there is no bucket {bucket!r} here"))
        if isinstance(content, Exception):
            raise content
        return content


@pytest.fixture
def make_fetcher():
    """Make image fetchers, and close them."""
    fetchers = []

    def make(objects=None, **options):
        fetchers.append(ImageFetcher(objects or FakeStore(), **options))
        return fetchers[-1]

    yield make
    for fetcher in fetchers:
        fetcher.close()


@pytest.fixture
def fetcher(site, make_fetcher):
    """A fetcher that may connect to the site."""
    return make_fetcher(allowed={"CAR_ALLOWED_HOSTS": site.host_port}, max_bytes=100_000, seconds=5)
