"""Images are read from the web whole or not at all, and each way of failing says what to do."""

import gzip
import hashlib
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor

import pytest

from car.bulk_source import displayed_address
from car.errors import SourceError
from tests.support.picture_server import ImageServer, image_bytes, redirect, trickle
from tests.support.sources import PNG, FakeStore
from worker.errors import (
    ImageCorruptError,
    ImageError,
    ImageUnsupportedError,
    SourceDeniedError,
    SourceForbiddenError,
    SourceNotFoundError,
    SourceTooLargeError,
    SourceTruncatedError,
    SourceUnreachableError,
)
from worker.images import open_image
from worker.images.fetch import ImageFetcher
from worker.settings import WorkerSettings


def test_an_image_on_the_web_comes_as_it_is_and_the_connection_is_used_again(site, fetcher):
    site.pages |= {"/a.png": PNG, "/b": redirect("/a.png")}
    assert fetcher.read(f"{site.url}/a.png") == PNG
    assert fetcher.read(f"{site.url}/b") == PNG
    with pytest.raises(SourceNotFoundError):
        fetcher.read(f"{site.url}/none.png")
    assert fetcher.read(f"{site.url}/a.png?x=1", instance="http://elsewhere", task=7) == PNG
    assert site.connections == 1
    path, headers = site.requests[0]
    assert (path, headers["host"], headers["accept-encoding"]) == ("/a.png", site.host_port, "identity")
    assert not {"authorization", "cookie", "referer"} & set(headers)


def test_a_server_that_closed_its_connection_meanwhile_is_asked_once_more(site, fetcher):
    def once(handler):
        handler.answer(200, {}, PNG)
        handler.hang_up()  # without having said so

    site.pages["/a.png"] = once
    for _ in range(3):
        assert fetcher.read(f"{site.url}/a.png") == PNG


def test_threads_share_connections_and_mix_nothing_up(site, fetcher):
    site.pages |= {f"/{n}": PNG + bytes([n]) * n for n in range(60)}
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda n: fetcher.read(f"{site.url}/{n}"), range(60)))
    assert found == [PNG + bytes([n]) * n for n in range(60)]
    assert site.connections <= 8


def test_the_frame_is_the_upright_one_of_an_image_that_exif_turns(site, fetcher):
    site.pages["/turned.jpg"] = image_bytes("JPEG", width=64, height=48, orientation=6)
    image = open_image(fetcher.read(f"{site.url}/turned.jpg"))
    assert (image.width, image.height) == (48, 64)
    assert "rotated by EXIF orientation 6" in image.notes


@pytest.mark.parametrize(
    ("head", "body"),
    [
        (b"Content-Length: %d\r\n" % len(PNG), PNG[:-7]),
        (b"Content-Length: %d\r\n" % len(PNG), b""),
        (b"Transfer-Encoding: chunked\r\n", b"%x\r\n%b\r\n" % (len(PNG), PNG)),
        (b"Transfer-Encoding: chunked\r\n", b"%x\r\n%b" % (len(PNG), PNG[:-7])),
        (b"Content-Encoding: gzip\r\nContent-Length: 50\r\n", gzip.compress(PNG)[:50]),
        (b"Content-Encoding: gzip\r\nContent-Length: 5\r\n", b"plain"),
    ],
    ids=["short", "nothing", "no-last-chunk", "half-a-chunk", "short-gzip", "no-gzip"],
)
def test_a_body_that_ends_too_soon_is_truncated_and_tried_again_later(site, fetcher, head, body):
    def cut_off(handler):
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n" + body)
        handler.wfile.flush()
        handler.hang_up()

    site.pages["/a.png"] = cut_off
    with pytest.raises(SourceTruncatedError) as error:
        fetcher.read(f"{site.url}/a.png?X-Amz-Signature=secret")
    assert error.value.retryable
    assert "secret" not in str(error.value)


def test_a_body_of_unknown_length_that_was_cut_off_is_noticed_when_it_is_decoded(site, fetcher):
    def cut_off(handler):
        handler.wfile.write(b"HTTP/1.0 200 OK\r\n\r\n" + PNG[:-30])
        handler.hang_up()

    site.pages["/a.png"] = cut_off
    with pytest.raises(ImageCorruptError):
        open_image(fetcher.read(f"{site.url}/a.png"))


def test_an_image_above_the_limit_is_not_read_to_its_end(site, fetcher):
    sent = []

    def endless(handler):
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while sum(sent) < 50_000_000:
            handler.wfile.write(b"2710\r\n" + bytes(10_000) + b"\r\n")
            sent.append(10_000)

    site.pages |= {"/endless": endless, "/exact": bytes(100_000), "/above": bytes(100_001)}
    assert len(fetcher.read(f"{site.url}/exact")) == 100_000
    for path in ("/above", "/endless"):
        with pytest.raises(SourceTooLargeError, match="CAR_MAX_BYTES"):
            fetcher.read(site.url + path)
    assert sum(sent) < 50_000_000


@pytest.mark.parametrize(("encoding", "packed"), [("gzip", gzip.compress(PNG)), ("deflate", zlib.compress(PNG))])
def test_what_comes_compressed_unasked_is_unpacked(site, fetcher, encoding, packed):
    site.pages["/a.png"] = (200, {"Content-Encoding": encoding}, packed)
    assert fetcher.read(f"{site.url}/a.png") == PNG


def test_a_small_body_that_unpacks_to_more_than_the_limit_is_refused(site, fetcher):
    bomb = gzip.compress(bytes(60_000_000))
    assert len(bomb) < 100_000
    site.pages["/bomb"] = (200, {"Content-Encoding": "gzip"}, bomb)
    site.pages["/zstd"] = (200, {"Content-Encoding": "zstd"}, bomb)
    with pytest.raises(SourceTooLargeError):
        fetcher.read(f"{site.url}/bomb")
    with pytest.raises(ImageUnsupportedError, match="zstd"):
        fetcher.read(f"{site.url}/zstd")


@pytest.mark.parametrize(
    "slow",
    [
        trickle(),
        trickle(b"X-A: b\r\n", head=b"HTTP/1.1 200 OK\r\n"),
        trickle(b"HTTP/1.1 103 Early Hints\r\n\r\n", head=b""),
        lambda _: time.sleep(3),
        redirect("/slow"),
    ],
    ids=["body", "headers", "hints", "silence", "redirects"],
)
def test_an_image_has_its_time_however_its_server_spends_it(site, make_fetcher, slow):
    fetcher = make_fetcher(allowed={"CAR_ALLOWED_HOSTS": site.host_port}, seconds=0.7)
    site.pages["/slow"] = slow
    began = time.monotonic()
    with pytest.raises((SourceUnreachableError, SourceForbiddenError)) as error:
        fetcher.read(f"{site.url}/slow")
    assert time.monotonic() - began < 2.5
    assert error.value.retryable is isinstance(error.value, SourceUnreachableError)


def test_a_host_that_refuses_connections_does_not_hold_up_every_thread(make_fetcher):
    with ImageServer() as gone:
        place = gone.host_port
    fetcher = make_fetcher(allowed={"CAR_ALLOWED_HOSTS": place})
    with pytest.raises(SourceUnreachableError, match="refused"):
        fetcher.read(f"http://{place}/a.png")
    with pytest.raises(SourceUnreachableError, match="a moment ago"):
        fetcher.read(f"http://{place}/b.png")


@pytest.mark.parametrize(
    ("status", "kind", "says"),
    [
        (401, SourceDeniedError, "LABEL_STUDIO_URL"),
        (403, SourceDeniedError, "refused"),
        (404, SourceNotFoundError, "404"),
        (410, SourceNotFoundError, "410"),
        (400, SourceNotFoundError, "400"),
        (204, SourceNotFoundError, "204"),
        (206, SourceNotFoundError, "206"),
        (304, SourceNotFoundError, "304"),
        (302, SourceNotFoundError, "302"),
        (408, SourceUnreachableError, "408"),
        (429, SourceUnreachableError, "429"),
        (500, SourceUnreachableError, "500"),
        (503, SourceUnreachableError, "503"),
    ],
)
def test_each_status_says_whether_to_wait_or_what_to_do(site, fetcher, status, kind, says):
    site.pages["/a.png"] = (status, {}, b"")
    with pytest.raises(kind, match=says) as error:
        fetcher.read(f"{site.url}/a.png?token=secret")
    assert "secret" not in str(error.value)
    assert error.value.retryable is (kind is SourceUnreachableError)


@pytest.mark.parametrize(
    ("headers", "says"),
    [({}, "without a Location"), ({"Location": ""}, "without a Location"), ({"Location": "http://[::1"}, "no address")],
)
def test_a_redirect_that_leads_nowhere_says_what_it_lacks(site, fetcher, headers, says):
    site.pages["/moved.png"] = (301, headers, b"")
    with pytest.raises(SourceNotFoundError, match=says) as error:
        fetcher.read(f"{site.url}/moved.png")
    assert "moved.png redirects" in str(error.value)


def test_a_signed_link_that_has_expired_is_called_so(site, fetcher):
    site.pages["/a.png"] = (403, {}, b"<Error><Code>AccessDenied</Code></Error>")
    with pytest.raises(SourceDeniedError, match="signed link"):
        fetcher.read(f"{site.url}/a.png?X-Amz-Signature=secret")


def test_what_is_no_web_server_is_not_quoted(site, fetcher):
    def ssh(handler):
        handler.wfile.write(b"SSH-2.0-OpenSSH_9.2p1 inner-secret\r\n\r\n")
        handler.hang_up()

    site.pages["/a.png"] = ssh
    with pytest.raises(SourceUnreachableError, match="does not speak HTTP") as error:
        fetcher.read(f"{site.url}/a.png")
    assert "inner-secret" not in str(error.value)


def test_a_page_that_is_no_image_stays_an_error_of_the_image(site, fetcher):
    site.pages["/a.png"] = (200, {"Content-Type": "text/html"}, b"<!doctype html><html>hello</html>")
    with pytest.raises(ImageUnsupportedError, match="HTML"):
        open_image(fetcher.read(f"{site.url}/a.png"))


def test_proxies_of_the_environment_are_not_used(site, fetcher, monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    site.pages["/a.png"] = PNG
    assert fetcher.read(f"{site.url}/a.png") == PNG


def test_the_hosts_of_the_settings_are_allowed_and_their_limits_hold(site):
    given = {"S3_BUCKET": "masks", "DATABASE_URL": "postgresql://x", "CELERY_BROKER_URL": "redis://x"}
    site.pages |= {"/a.png": PNG, "/large": bytes(20_000)}
    named = {"LABEL_STUDIO_URL": site.url, "AWS_ENDPOINT_URL_S3": site.url, "CAR_S3_PUBLIC_ENDPOINT": site.url}
    for name, value in (named | {"CAR_ALLOWED_HOSTS": f"nas.lan,{site.host_port}"}).items():
        settings = WorkerSettings.from_environment(**given, **{name: value}, CAR_MAX_BYTES="10000")
        fetcher = ImageFetcher.from_settings(settings, FakeStore(), None)
        assert fetcher.read(f"{site.url}/a.png") == PNG, name
        with pytest.raises(SourceTooLargeError):
            fetcher.read(f"{site.url}/large")
        fetcher.close()


def test_an_address_that_is_none_says_what_one_looks_like(fetcher):
    with pytest.raises(SourceError, match="s3://bucket"):
        fetcher.read("s3://")


def test_messages_call_an_image_by_its_address_without_signatures():
    assert displayed_address("https://h.example/a.jpg?X-Amz-Signature=secret") == "https://h.example/a.jpg"
    assert displayed_address("s3://bucket/why?.jpg") == "s3://bucket/why?.jpg"
    assert displayed_address("s3://bucket/inputs/ab/photo.jpg") == "s3://bucket/inputs/ab/photo.jpg"
    digest = hashlib.sha256(PNG).hexdigest()
    for prefix in ("", "car/"):
        assert displayed_address(f"s3://bucket/{prefix}inputs/{digest[:2]}/{digest}") == "the image within the task"


def test_damaged_answers_end_in_typed_errors(site, fetcher):
    """Whatever bytes a server sends, and wherever it stops, a thread comes back with an image or an error."""
    whole = b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nContent-Length: %d\r\n\r\n%b" % (len(PNG), PNG)
    digest = hashlib.sha256()
    lock = threading.Lock()
    count = 0

    def damaged(handler):
        nonlocal count
        with lock:
            count += 1
            digest.update(b"%d" % count)
            at, letter = int.from_bytes(digest.digest()[:4], "big"), digest.digest()[4]
        broken = bytearray(whole[: at % len(whole)] if count % 3 == 0 else whole)
        if broken:
            broken[at % min(len(broken), 120)] = letter
        handler.wfile.write(broken)
        handler.wfile.flush()
        handler.hang_up()

    site.pages["/a.png"] = damaged
    for _ in range(250):
        try:
            open_image(fetcher.read(f"{site.url}/a.png"))
        except (
            ImageError,
            SourceUnreachableError,
            SourceDeniedError,
            SourceNotFoundError,
            SourceTooLargeError,
            SourceForbiddenError,
        ):
            continue
