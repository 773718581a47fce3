"""What a task says of its picture becomes an address that workers can fetch, or a reason that says what to give."""

import base64
import hashlib
from urllib.parse import quote_from_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from car.bulk_source import MAX_URI
from car.errors import SourceError
from car.label_studio import image_urls as pictures
from car.label_studio.image_urls import MAX_INLINE, resolve_url
from db.errors import StoreUnreachableError

LS = "http://label-studio:8080"
PNG = b"\x89PNG\r\n\x1a\n+/ any bytes \xff\x00"


class Bucket:
    """The service's own bucket in memory."""

    bucket, prefix = "masks", "car/"

    def __init__(self):
        self.kept, self.puts = {}, []

    def put(self, name, data, content_type):
        self.puts.append((name, content_type))
        self.kept[self.prefix + name] = data
        return self.prefix + name

    def has(self, name):
        return self.prefix + name in self.kept


@pytest.mark.parametrize(
    ("raw", "address"),
    [
        ("s3://bucket/k/a b.jpg", "s3://bucket/k/a b.jpg"),
        (" s3://bucket/k/a%20b.jpg\n", "s3://bucket/k/a%20b.jpg"),
        ("gs://bucket/a.jpg", "gs://bucket/a.jpg"),
        ("azure-blob://box/a.jpg", "azure-blob://box/a.jpg"),
        ("https://host.example/a b.jpg?x=1#y", "https://host.example/a b.jpg?x=1#y"),
        ("http://label-studio:8080/data/upload/1/a.jpg", "http://label-studio:8080/data/upload/1/a.jpg"),
        ("https://b.s3.amazonaws.com/k?X-Amz-Signature=a%2B", "https://b.s3.amazonaws.com/k?X-Amz-Signature=a%2B"),
        ("/data/upload/1/a b.jpg", LS + "/data/upload/1/a b.jpg"),
        ("data/upload/1/a.jpg", LS + "/data/upload/1/a.jpg"),
        ("/upload/1/a.jpg", LS + "/data/upload/1/a.jpg"),
        ("upload/1/a.jpg", LS + "/data/upload/1/a.jpg"),
        ("/data/local-files/?d=shelf/a.jpg", LS + "/data/local-files/?d=shelf/a.jpg"),
        ("/storage-data/uploaded/?filepath=upload/1/a.jpg", LS + "/storage-data/uploaded/?filepath=upload/1/a.jpg"),
        ("/tasks/7/resolve/?fileuri=czM6", LS + "/tasks/7/resolve/?fileuri=czM6"),
        ("/label-studio/data/upload/1/a.jpg", LS + "/label-studio/data/upload/1/a.jpg"),
        ("/static/a.jpg", LS + "/static/a.jpg"),
    ],
)
def test_an_address_is_taken_as_it_is_and_label_studios_own_become_absolute(raw, address):
    assert resolve_url(raw, instance=LS, objects=Bucket()) == address


@pytest.mark.parametrize(
    ("raw", "address"),
    [
        ("/data/upload/1/a.jpg", "https://host.example/ls/data/upload/1/a.jpg"),
        ("/ls/data/upload/1/a.jpg", "https://host.example/ls/data/upload/1/a.jpg"),
        ("/ls/static/a.jpg", "https://host.example/ls/static/a.jpg"),
        ("/other/a.jpg", "https://host.example/other/a.jpg"),
        ("/lsx/a.jpg", "https://host.example/lsx/a.jpg"),
    ],
)
def test_a_label_studio_below_a_path_is_found_there(raw, address):
    for instance in ("https://host.example/ls", "https://host.example/ls/"):
        assert resolve_url(raw, instance=instance, objects=Bucket()) == address


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        ("", "empty"),
        ("   ", "empty"),
        ("a.jpg", "is not the address"),
        ("photos/a.jpg", "is not the address"),
        ("//host.example/a.jpg", "https://host.example/a.jpg"),
        ("file:///home/me/a.jpg", "local storage"),
        ("FILE:a.jpg", "local storage"),
        ("C:\\photos\\a.jpg", "local storage"),
        ("c:/photos/a.jpg", "local storage"),
        ("\\\\server\\share\\a.jpg", "local storage"),
        ("ftp://host.example/a.jpg", "s3://bucket"),
        ("javascript:alert(1)", "s3://bucket"),
        ("S3://bucket/a.jpg", "s3://bucket"),
        ("s3://bucket", "has no object key"),
        ("s3://bucket/", "has no object key"),
        ("s3:///a.jpg", "has no bucket"),
        ("gs://", "s3://bucket"),
        ("https://", "is not the address"),
        ("/data/upload/1/a\nb.jpg", "is not the address"),
        ("s3://bucket/\0", "NUL"),
        ("gs://bucket/\0", "invalid characters"),
        ("https://host.example/" + "x" * MAX_URI, "signed link"),
        ("/data/upload/1/" + "x" * MAX_URI, "2048 bytes"),
        ("gs://bucket/" + "x" * MAX_URI, "2048 bytes"),
        ("s3://bucket/" + "猫" * 900, "2048 bytes"),
    ],
    ids=lambda value: ascii(value)[:40],
)
def test_anything_else_is_refused_with_what_to_give_instead(raw, says):
    with pytest.raises(SourceError, match=says) as refused:
        resolve_url(raw, instance=LS, objects=Bucket())
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 300


def test_an_address_in_label_studio_needs_label_studios():
    with pytest.raises(SourceError, match="LABEL_STUDIO_URL"):
        resolve_url("/data/upload/1/a.jpg", instance="", objects=Bucket())
    assert resolve_url("https://host.example/a.jpg", instance="", objects=Bucket()) == "https://host.example/a.jpg"


@pytest.mark.parametrize(
    "raw",
    [
        "data:image/png;base64," + base64.b64encode(PNG).decode(),
        "DATA:Image/PNG;name=a.png;BASE64," + base64.b64encode(PNG).decode(),
        "data:image/png;base64," + base64.b64encode(PNG).decode().rstrip("="),
        "data:image/png;base64," + base64.urlsafe_b64encode(PNG).decode(),
        "data:image/png;base64," + quote_from_bytes(base64.b64encode(PNG)),
        "data:image/png;base64," + base64.encodebytes(PNG).decode(),
        "data:image/png," + quote_from_bytes(PNG),
    ],
)
def test_a_picture_within_the_task_is_stored_once_under_the_digest_of_its_bytes(raw):
    bucket = Bucket()
    digest = hashlib.sha256(PNG).hexdigest()
    for _ in range(2):
        address = resolve_url(raw, instance=LS, objects=bucket)
        assert address == f"s3://masks/car/inputs/{digest[:2]}/{digest}"
    assert bucket.kept == {f"car/inputs/{digest[:2]}/{digest}": PNG}
    assert bucket.puts == [(f"inputs/{digest[:2]}/{digest}", "image/png")]


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        ("data:", "is not an image"),
        ("data:,x", "is not an image"),
        ("data:image/png;base64", "is not an image"),
        ("data:text/html;base64,PGh0bWw+", "is not an image"),
        ("data:image/;base64,AAAA", "is not an image"),
        ("data:image/png\r\nX-A: b;base64,AAAA", "is not an image"),
        ("data:image/svg+xml;base64,PHN2Zy8+", "SVG"),
        ("data:image/png;base64,", "is empty"),
        ("data:image/png;base64,A", "truncated"),
        ("data:image/png;base64,AA!A", "truncated"),
        ("data:image/png;base64,AAAA====AAAA", "truncated"),
    ],
)
def test_a_data_address_that_holds_no_picture_is_refused_and_nothing_is_stored(raw, says):
    bucket = Bucket()
    with pytest.raises(SourceError, match=says) as refused:
        resolve_url(raw, instance=LS, objects=bucket)
    assert bucket.puts == []
    assert len(str(refused.value)) < 300


def test_a_picture_within_the_task_has_a_limit(monkeypatch):
    monkeypatch.setattr(pictures, "MAX_INLINE", 12)
    fits = "data:image/png;base64," + base64.b64encode(b"x" * 12).decode()
    assert resolve_url(fits, instance=LS, objects=Bucket()).startswith("s3://")
    for many in (13, 1000):
        with pytest.raises(SourceError, match="larger than"):
            resolve_url(
                "data:image/png;base64," + base64.b64encode(b"x" * many).decode(), instance=LS, objects=Bucket()
            )
    assert MAX_INLINE == 32 * 2**20


def test_a_bucket_that_is_away_is_told_as_what_it_is():
    class Away(Bucket):
        def has(self, name):
            raise StoreUnreachableError("no answer")

    with pytest.raises(StoreUnreachableError):
        resolve_url("data:image/png;base64,AAAA", instance=LS, objects=Away())


@given(st.one_of(st.text(max_size=60), st.text(max_size=40).map("data:image/png;base64,".__add__)))
def test_whatever_a_task_says_is_an_address_or_a_printable_reason(raw):
    try:
        address = resolve_url(raw, instance=LS, objects=Bucket())
    except SourceError as error:
        assert str(error).isprintable()  # noqa: PT017 - either is right
    else:
        assert len(address.encode()) <= MAX_URI
        assert address.startswith(("s3://", "http", "HTTP", "gs://", "azure-blob://"))
