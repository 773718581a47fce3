"""Objects in a real S3: stored once, read within limits, linked for a while; every refusal says what to do."""

import gzip
import re
import socket
from contextlib import closing
from urllib.parse import parse_qs, urlsplit
from urllib.request import urlopen

import pytest
from botocore.stub import Stubber

from db.errors import (
    AccessDeniedError,
    BucketMissingError,
    ClockSkewedError,
    CredentialsExpiredError,
    ObjectMissingError,
    ObjectStoreError,
    ObjectTooLargeError,
    StoreUnreachableError,
)
from db.objects import S3ObjectStore, make_client
from db.settings import EngineSettings


def settings_of(environment, **changes):
    names = {"DATABASE_URL", "CELERY_BROKER_URL", "S3_BUCKET", "AWS_ENDPOINT_URL_S3", "AWS_REGION"}
    names |= {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}
    return EngineSettings(**({name: environment[name] for name in names} | changes))


@pytest.fixture
def store_with(engine_environment):
    """A store by settings; what is given is changed."""
    made = []

    def make(**changes):
        made.append(S3ObjectStore.from_settings(settings_of(engine_environment, **changes)))
        return made[-1]

    yield make
    for store in made:
        store.client.close()


@pytest.fixture
def store(store_with):
    return store_with()


def test_what_is_put_is_read_again_and_putting_it_twice_changes_nothing(store, bucket):
    keys = {store.put("results/ab/masks.json", b"{}" * 10_000, "application/json") for _ in range(2)}
    assert keys == {"car/results/ab/masks.json"}
    assert bucket.keys() == ["car/results/ab/masks.json"]
    [key] = keys
    assert store.get(key) == b"{}" * 10_000
    kept = bucket.client.head_object(Bucket=bucket.name, Key=key)
    assert kept["ContentType"] == "application/json"
    assert "immutable" in kept["CacheControl"]
    assert store.head(bucket.name, key).size == 20_000


def test_an_object_of_no_bytes_is_an_object(store):
    assert store.get(store.put("empty", b"", "text/plain")) == b""


def refusals(store, bucket, key="car/some"):
    """Every way of using a bucket; what each refuses with."""
    ways = [
        lambda: store.check_bucket(bucket),
        lambda: store.read(bucket, key),
        lambda: store.head(bucket, key),
        lambda: store.page(bucket, ""),
        lambda: list(store.lines(bucket, key)),
    ]
    for way in ways:
        with pytest.raises(ObjectStoreError) as refused:
            way()
        yield refused.value


def test_a_wrong_secret_is_refused_in_words_that_do_not_hold_it(store_with, bucket):
    wrong = "a-secret-that-nobody-may-see-0123456789"
    for error in refusals(store_with(AWS_SECRET_ACCESS_KEY=wrong), bucket.name):
        assert type(error) is AccessDeniedError
        assert bucket.name in str(error)
        assert wrong not in repr(error) + str(error.__cause__) + repr(vars(error.__cause__))
    with pytest.raises(AccessDeniedError, match="AWS_SECRET_ACCESS_KEY does not match AWS_ACCESS_KEY_ID"):
        store_with(AWS_SECRET_ACCESS_KEY=wrong).put("x", b"x", "text/plain")


def test_an_unknown_access_key_is_said_to_be_one(store_with):
    with pytest.raises(AccessDeniedError, match="does not know AWS_ACCESS_KEY_ID"):
        store_with(AWS_ACCESS_KEY_ID="NOBODY", AWS_SECRET_ACCESS_KEY="s" * 40).ready()


def test_a_bucket_that_is_not_there_is_named_with_its_server(store_with, engine_environment):
    store = store_with(S3_BUCKET="no-such-bucket-here")
    for way in (store.ready, lambda: store.put("x", b"x", "text/plain"), lambda: store.page("no-such-bucket-here", "")):
        with pytest.raises(BucketMissingError, match=r"'no-such-bucket-here'.*AWS_ENDPOINT_URL_S3") as refused:
            way()
        assert engine_environment["AWS_ENDPOINT_URL_S3"] in str(refused.value)


def test_a_bucket_that_no_bucket_can_be_called_is_refused(store):
    with pytest.raises(BucketMissingError, match="not a valid bucket name"):
        store.check_bucket("no bucket/at all")


def test_the_services_own_bucket_is_made_once_where_it_is_missing(store_with):
    store = store_with(S3_BUCKET="made-by-a-test")
    assert [store.ensure_bucket(), store.ensure_bucket()] == [True, False]
    store.ready()
    store.client.delete_bucket(Bucket="made-by-a-test")


def test_a_key_that_is_not_there_is_named(store, bucket):
    for way in (lambda: store.read(bucket.name, "a b/c.jpg"), lambda: store.head(bucket.name, "a b/c.jpg")):
        with pytest.raises(ObjectMissingError, match=re.escape(f"s3://{bucket.name}/a b/c.jpg does not exist")):
            way()
    assert not ObjectMissingError("").retryable


def test_a_server_that_does_not_answer_may_answer_later(store_with):
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{taken.getsockname()[1]}"
    [first, *_] = refusals(store_with(AWS_ENDPOINT_URL_S3=endpoint), "bucket")
    assert type(first) is StoreUnreachableError
    assert first.retryable
    assert str(first) == f"the S3 server {endpoint} does not answer; check AWS_ENDPOINT_URL_S3"


@pytest.mark.parametrize(
    ("code", "status", "expected", "expected_text"),
    [
        ("SlowDown", 503, StoreUnreachableError, "overloaded"),
        ("InternalError", 500, StoreUnreachableError, "InternalError"),
        ("", 502, StoreUnreachableError, "502"),
        ("ExpiredToken", 400, CredentialsExpiredError, "AWS_SESSION_TOKEN.*have expired"),
        ("RequestTimeTooSkewed", 403, ClockSkewedError, "the clock of this machine"),
        ("OperationAborted", 409, StoreUnreachableError, "OperationAborted"),
        ("RequestTimeout", 400, StoreUnreachableError, "RequestTimeout"),
        ("ServerIsBusyInItsOwnWords", 429, StoreUnreachableError, "overloaded"),
        ("403", 403, AccessDeniedError, "lack the right"),
        ("PermanentRedirect", 301, ObjectStoreError, "AWS_REGION"),
        ("InvalidRange", 416, ObjectStoreError, "InvalidRange"),
    ],
)
def test_what_other_servers_answer_is_told_apart(store, code, status, expected, expected_text):
    with Stubber(store.client) as answers:
        answers.add_client_error("get_object", service_error_code=code, http_status_code=status)
        with pytest.raises(ObjectStoreError, match=expected_text) as refused:
            store.read("bucket", "key")
    assert type(refused.value) is expected


def test_an_object_that_is_too_large_is_refused_before_it_is_fetched(store, bucket, monkeypatch):
    bucket.put("big", b"x" * 3_000_000)
    received = 0
    plain = socket.socket.recv_into

    def counting(self, *args):
        nonlocal received
        got = plain(self, *args)
        received += got
        return got

    monkeypatch.setattr(socket.socket, "recv_into", counting)
    with pytest.raises(ObjectTooLargeError, match=r"3,000,000 bytes, above the 1 MiB allowed.*CAR_MAX_BYTES"):
        store.read(bucket.name, "big", max_bytes=2**20)
    assert 0 < received < 500_000
    assert len(store.read(bucket.name, "big", max_bytes=3_000_000)) == 3_000_000


def test_a_gzip_encoded_object_is_read_unpacked_within_the_limit(store, bucket):
    plain = b"image" * 10_000
    for key, body in (("whole", gzip.compress(plain)), ("cut", gzip.compress(plain)[:-20]), ("plain", plain)):
        bucket.client.put_object(Bucket=bucket.name, Key=key, Body=body, ContentEncoding="gzip")
    assert store.read(bucket.name, "whole", max_bytes=50_000) == plain
    assert plain.startswith(store.read(bucket.name, "cut"))
    assert store.read(bucket.name, "plain") == plain
    with pytest.raises(ObjectTooLargeError, match="unpacks to more"):
        store.read(bucket.name, "whole", max_bytes=49_999)


def test_a_link_works_without_credentials_for_a_quarter_of_an_hour_at_most(store):
    key = store.put("a b/ü.png", b"picture", "image/png")
    link = store.presign(key, seconds=10**6, download='ü "x"\r\ny.png')
    assert int(parse_qs(urlsplit(link).query)["X-Amz-Expires"][0]) == 900
    with urlopen(link) as answer:  # noqa: S310 - our own server
        assert answer.read() == b"picture"
        assert answer.headers["Content-Disposition"] == 'attachment; filename="___x___y.png"'
    assert int(parse_qs(urlsplit(store.presign(key, seconds=60)).query)["X-Amz-Expires"][0]) == 60


def test_a_link_leads_to_where_browsers_reach_the_server(store_with):
    link = store_with(CAR_S3_PUBLIC_ENDPOINT="https://pictures.example.org").presign("car/x")
    assert link.startswith("https://pictures.example.org/test-")


@pytest.mark.parametrize(
    ("addressing", "endpoint", "expected"),
    [
        ("auto", "http://s3.local:8333", "http://s3.local:8333/labels/car/x"),
        ("path", "http://s3.local:8333", "http://s3.local:8333/labels/car/x"),
        ("virtual", "http://s3.local:8333", "http://labels.s3.local:8333/car/x"),
        ("virtual", None, "https://labels.s3.amazonaws.com/car/x"),
        ("path", None, "https://s3.amazonaws.com/labels/car/x"),
        ("auto", None, "https://labels.s3.amazonaws.com/car/x"),
    ],
)
def test_a_bucket_is_addressed_by_path_or_by_host(addressing, endpoint, expected):
    settings = EngineSettings(
        DATABASE_URL="postgresql://h/d",
        CELERY_BROKER_URL="redis://h",
        S3_BUCKET="labels",
        AWS_ENDPOINT_URL_S3=endpoint,
        AWS_ACCESS_KEY_ID="k",
        AWS_SECRET_ACCESS_KEY="s",  # noqa: S106
        CAR_S3_ADDRESSING=addressing,
        AWS_REGION="us-east-1",
    )
    client = make_client(settings)
    link = S3ObjectStore(client, "labels").presign("car/x")
    client.close()
    assert link.partition("?")[0] == expected


def test_lines_are_read_on_from_where_the_last_one_ended(store, bucket):
    text = [f"line {number} {'ü' * (number % 50)}" for number in range(3_000)]
    text[1_500] = "long" * 100_000
    bucket.put("list.txt", "\r\n".join(text).encode())
    whole = list(store.lines(bucket.name, "list.txt"))
    assert [line.rstrip("\r")[:1_000] for _, line in whole] == [line[:1_000] for line in text]
    assert max(len(line) for _, line in whole) == 64 * 1024
    size = store.head(bucket.name, "list.txt").size
    assert whole[-1][0] == size
    for stop in (1, 999, 1_500, 1_501, 2_998):
        assert list(store.lines(bucket.name, "list.txt", after=whole[stop - 1][0])) == whole[stop:]
    assert list(store.lines(bucket.name, "list.txt", after=size)) == []
    assert list(store.lines(bucket.name, "list.txt", after=size + 7)) == []


def test_a_line_has_the_same_beginning_wherever_pieces_of_the_object_end(store, bucket):
    for before in (0, 200_000, 262_100):
        line = "x" * 150_000
        bucket.put("list.txt", f"{'y' * before}\n{line}\nend".encode())
        assert [len(actual) for _, actual in store.lines(bucket.name, "list.txt")] == [min(before, 65_536), 65_536, 3]


def test_a_reader_that_stops_early_gives_its_connection_back(store, bucket):
    bucket.put("list.txt", b"line\n" * 500_000)
    for _ in range(3):
        lines = store.lines(bucket.name, "list.txt")
        assert next(lines) == (5, "line")
        lines.close()
    assert store.head(bucket.name, "list.txt").size == 2_500_000


def test_pages_go_through_all_keys_without_a_gap_or_a_double(store, bucket):
    names = ["Z", "a", "a/b", "a b", "ü", "é", "猫"]
    for name in names:
        bucket.put(name, b"x")
    seen = []
    while page := store.page(bucket.name, "", after=seen[-1] if seen else "").objects:
        seen += [entry.key for entry in page]
    assert sorted(seen) == sorted(names)
    assert sorted(entry.key for entry in store.page(bucket.name, "a").objects) == ["a", "a b", "a/b"]
