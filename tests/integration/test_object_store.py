"""Reading and writing of objects, as a rule past most of boto3, against a server that checks signatures."""

import pytest

from db.errors import AccessDenied, BucketMissing, ObjectMissing, ObjectTooLarge
from db.objects import ObjectStore, make_client
from db.settings import EngineSettings
from db.shortcut import Shortcut

KEYS = [
    "plain.png",
    "with space/ä ö+&=?#%.png",
    "a/b//c.png",
    "dots/../up.png",
    "dots/./here.png",
    "~tilde-_.!*'().png",
]


@pytest.fixture
def settings(engine_environment):
    return EngineSettings.model_validate(engine_environment)


@pytest.fixture
def objects(settings):
    return ObjectStore.of(settings)


@pytest.mark.parametrize("key", KEYS[:2] + KEYS[5:])
def test_keys_of_any_letters_go_the_short_way_and_boto3_reads_what_was_written(objects, bucket, key):
    short = Shortcut(objects.client)
    assert short.put(bucket.name, key, b"\0data" * 999, {"content-type": "image/png", "cache-control": "no-store"})
    answer = bucket.client.get_object(Bucket=bucket.name, Key=key)
    assert answer["Body"].read() == b"\0data" * 999
    assert (answer["ContentType"], answer["CacheControl"]) == ("image/png", "no-store")
    assert short.get(bucket.name, key) == b"\0data" * 999


@pytest.mark.parametrize("key", KEYS[2:5])
def test_keys_that_look_like_paths_are_left_to_boto3(objects, bucket, key):
    assert not Shortcut(objects.client).put(bucket.name, key, b"x", {})


def test_a_missing_object_or_bucket_and_a_large_one_are_named(objects, bucket):
    bucket.put("large", b"x" * 1000)
    with pytest.raises(ObjectTooLarge, match="1,000 bytes"):
        objects.read(bucket.name, "large", max_bytes=999)
    assert len(objects.read(bucket.name, "large", max_bytes=1000)) == 1000
    with pytest.raises(ObjectMissing):
        objects.read(bucket.name, "nothing")
    with pytest.raises(BucketMissing):
        objects.read("no-such-bucket-here", "nothing")
    assert objects.get(objects.put("empty", b"", "text/plain")) == b""


def test_a_wrong_secret_is_named_and_the_bucket_left_to_boto3(settings, bucket):
    wrong = settings.model_copy(update={"aws_secret_access_key": type(settings.aws_secret_access_key)("wrong")})
    client = make_client(wrong)
    with pytest.raises(AccessDenied):
        ObjectStore(client, bucket.name).put("a", b"x", "text/plain")
    short = Shortcut(client)
    assert not short.put(bucket.name, "a", b"x", {})
    assert short._addresses == {bucket.name: None}
