"""Fixtures of the real engines: PostgreSQL, Redis and S3, started when a test first asks and shared by its process.

Each test gets a database, a Redis number and a bucket of its own, so that none sees another's rows, bells or objects.
"""

import itertools
import os
from contextlib import suppress
from typing import NamedTuple
from urllib.parse import urlsplit, urlunsplit

import boto3
import psycopg
import pytest
import redis
from botocore.config import Config

from cli.embedded import start_engines
from db.schema import migrate
from db.session import make_engine

TEMPLATE = "car_template"
_numbers = itertools.count(1)


class Bucket(NamedTuple):
    """An empty bucket, and a client that may do everything in it. `put` writes an object and says its URI."""

    name: str
    client: object

    def put(self, key, body):
        self.client.put_object(Bucket=self.name, Key=key, Body=body)
        return f"s3://{self.name}/{key}"

    def keys(self, prefix=""):
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=prefix)
        return [one["Key"] for page in pages for one in page.get("Contents", ())]


@pytest.fixture(scope="session")
def engines(tmp_path_factory):
    """One set for each process of the test run, as `car up` would start them; ended with the session, or with it."""
    with start_engines(tmp_path_factory.mktemp("engines"), durable=False) as started:
        yield started


def _database(url, name):
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))


@pytest.fixture(scope="session")
def _template(engines):
    """The URL of the server's own database, once a migrated template stands beside it."""
    url = engines.environment["DATABASE_URL"]
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {TEMPLATE}")
    engine = make_engine(_database(url, TEMPLATE))
    try:
        migrate(engine)
    finally:
        engine.dispose()
    return url


@pytest.fixture
def empty_database_url(engines):
    """A database without a table."""
    yield from _cloned(engines.environment["DATABASE_URL"], "template0")


@pytest.fixture
def database_url(_template):
    """A database with this code's tables and no row."""
    yield from _cloned(_template, TEMPLATE)


def _cloned(server, template):
    name = f"test_{next(_numbers)}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY wal_log")
    yield _database(server, name)
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def broker_url(engines):
    """An empty Redis."""
    number = next(_numbers) % 63 + 1
    url = engines.environment["CELERY_BROKER_URL"].removesuffix("/0") + f"/{number}"
    with redis.Redis.from_url(url) as client:
        client.flushdb()
    return url


@pytest.fixture(scope="session")
def s3_client(engines):
    client = client_of(engines.environment)
    yield client
    client.close()


def client_of(environment):
    """A client of the S3 server that the environment names."""
    return boto3.client(
        "s3",
        endpoint_url=environment["AWS_ENDPOINT_URL_S3"],
        aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
        region_name=environment["AWS_REGION"],
        config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}, proxies={}),
    )


@pytest.fixture
def bucket(s3_client):
    """An empty bucket; it goes with its objects."""
    name = f"test-{next(_numbers)}"
    s3_client.create_bucket(Bucket=name)
    yield Bucket(name, s3_client)
    with suppress(s3_client.exceptions.NoSuchBucket):  # the test took it away
        s3_client.delete_bucket(Bucket=name)  # this server takes the objects along


@pytest.fixture
def engine_environment(engines, database_url, broker_url, bucket):
    """All that another process needs to work on this test's database, Redis and bucket."""
    mine = {"DATABASE_URL": database_url, "CELERY_BROKER_URL": broker_url, "S3_BUCKET": bucket.name}
    return {**os.environ, **engines.environment, **mine}
