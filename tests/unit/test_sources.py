"""Pictures are read from the web, S3 and Label Studio whole or not at all, and each way of failing says what to do."""

import gzip
import hashlib
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor

import pytest

from car.errors import SourceError
from db.errors import AccessDenied, BucketMissing, ObjectMissing, StoreUnreachable
from tests.picture_server import PictureServer, picture_bytes, redirect, trickle
from worker.errors import (
    ImageCorrupt,
    ImageError,
    ImageUnsupported,
    SourceDenied,
    SourceForbidden,
    SourceNotFound,
    SourceTooLarge,
    SourceTruncated,
    SourceUnreachable,
)
from worker.images import open_image
from worker.images.fetch import Sources, name_of
from worker.settings import WorkerSettings

PNG = picture_bytes()


class Shelf:
    """S3 as far as pictures know it: bytes or errors by address."""

    def __init__(self, **by_address):
        self.by_address, self.read_keys = by_address, []

    def read(self, bucket, key, *, max_bytes=None):
        self.read_keys.append((bucket, key))
        found = self.by_address.get(bucket, BucketMissing(f"there is no bucket {bucket!r} here"))
        if isinstance(found, Exception):
            raise found
        return found


@pytest.fixture
def sources_of():
    """Makes Sources, and closes them."""
    made = []

    def make(objects=None, **given):
        made.append(Sources(objects or Shelf(), **given))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def sources(site, sources_of):
    """May ask the site."""
    return sources_of(allowed={"CAR_ALLOWED_HOSTS": site.place}, max_bytes=100_000, seconds=5)


# The web


def test_a_picture_on_the_web_comes_as_it_is_and_the_connection_is_used_again(site, sources):
    site.pages |= {"/a.png": PNG, "/b": redirect("/a.png")}
    assert sources.read(f"{site.url}/a.png") == PNG
    assert sources.read(f"{site.url}/b") == PNG
    with pytest.raises(SourceNotFound):
        sources.read(f"{site.url}/none.png")
    assert sources.read(f"{site.url}/a.png?x=1", instance="http://elsewhere", task=7) == PNG
    assert site.connections == 1
    path, headers = site.requests[0]
    assert (path, headers["host"], headers["accept-encoding"]) == ("/a.png", site.place, "identity")
    assert not {"authorization", "cookie", "referer"} & set(headers)


def test_a_server_that_closed_its_connection_meanwhile_is_asked_once_more(site, sources):
    def once(handler):
        handler.answer(200, {}, PNG)
        handler.hang_up()  # without having said so

    site.pages["/a.png"] = once
    for _ in range(3):
        assert sources.read(f"{site.url}/a.png") == PNG


def test_threads_share_connections_and_mix_nothing_up(site, sources):
    site.pages |= {f"/{n}": PNG + bytes([n]) * n for n in range(60)}
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda n: sources.read(f"{site.url}/{n}"), range(60)))
    assert found == [PNG + bytes([n]) * n for n in range(60)]
    assert site.connections <= 8


def test_the_frame_is_the_upright_one_of_a_picture_that_exif_turns(site, sources):
    site.pages["/turned.jpg"] = picture_bytes("JPEG", width=64, height=48, orientation=6)
    picture = open_image(sources.read(f"{site.url}/turned.jpg"))
    assert (picture.width, picture.height) == (48, 64)
    assert "rotated by EXIF orientation 6" in picture.notes


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
def test_a_body_that_ends_too_soon_is_truncated_and_tried_again_later(site, sources, head, body):
    def cut_off(handler):
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n" + body)
        handler.wfile.flush()
        handler.hang_up()

    site.pages["/a.png"] = cut_off
    with pytest.raises(SourceTruncated) as error:
        sources.read(f"{site.url}/a.png?X-Amz-Signature=secret")
    assert error.value.retryable
    assert "secret" not in str(error.value)


def test_a_body_of_unknown_length_that_was_cut_off_is_noticed_when_it_is_decoded(site, sources):
    def cut_off(handler):
        handler.wfile.write(b"HTTP/1.0 200 OK\r\n\r\n" + PNG[:-30])
        handler.hang_up()

    site.pages["/a.png"] = cut_off
    with pytest.raises(ImageCorrupt):
        open_image(sources.read(f"{site.url}/a.png"))


def test_a_picture_above_the_limit_is_not_read_to_its_end(site, sources):
    sent = []

    def endless(handler):
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while sum(sent) < 50_000_000:
            handler.wfile.write(b"2710\r\n" + bytes(10_000) + b"\r\n")
            sent.append(10_000)

    site.pages |= {"/endless": endless, "/exact": bytes(100_000), "/above": bytes(100_001)}
    assert len(sources.read(f"{site.url}/exact")) == 100_000
    for path in ("/above", "/endless"):
        with pytest.raises(SourceTooLarge, match="CAR_MAX_BYTES"):
            sources.read(site.url + path)
    assert sum(sent) < 50_000_000


@pytest.mark.parametrize(("encoding", "packed"), [("gzip", gzip.compress(PNG)), ("deflate", zlib.compress(PNG))])
def test_what_comes_compressed_unasked_is_unpacked(site, sources, encoding, packed):
    site.pages["/a.png"] = (200, {"Content-Encoding": encoding}, packed)
    assert sources.read(f"{site.url}/a.png") == PNG


def test_a_small_body_that_unpacks_to_more_than_the_limit_is_refused(site, sources):
    bomb = gzip.compress(bytes(60_000_000))
    assert len(bomb) < 100_000
    site.pages["/bomb"] = (200, {"Content-Encoding": "gzip"}, bomb)
    site.pages["/zstd"] = (200, {"Content-Encoding": "zstd"}, bomb)
    with pytest.raises(SourceTooLarge):
        sources.read(f"{site.url}/bomb")
    with pytest.raises(ImageUnsupported, match="zstd"):
        sources.read(f"{site.url}/zstd")


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
def test_a_picture_has_its_time_however_its_server_spends_it(site, sources_of, slow):
    sources = sources_of(allowed={"CAR_ALLOWED_HOSTS": site.place}, seconds=0.7)
    site.pages["/slow"] = slow
    began = time.monotonic()
    with pytest.raises((SourceUnreachable, SourceForbidden)) as error:
        sources.read(f"{site.url}/slow")
    assert time.monotonic() - began < 2.5
    assert error.value.retryable is isinstance(error.value, SourceUnreachable)


def test_a_host_that_refuses_connections_does_not_hold_up_every_thread(sources_of):
    with PictureServer() as gone:
        place = gone.place
    sources = sources_of(allowed={"CAR_ALLOWED_HOSTS": place})
    with pytest.raises(SourceUnreachable, match="refused"):
        sources.read(f"http://{place}/a.png")
    with pytest.raises(SourceUnreachable, match="a moment ago"):
        sources.read(f"http://{place}/b.png")


@pytest.mark.parametrize(
    ("status", "kind", "says"),
    [
        (401, SourceDenied, "LABEL_STUDIO_URL"),
        (403, SourceDenied, "refused"),
        (404, SourceNotFound, "404"),
        (410, SourceNotFound, "410"),
        (400, SourceDenied, "400"),
        (204, SourceDenied, "204"),
        (206, SourceDenied, "206"),
        (304, SourceDenied, "304"),
        (302, SourceDenied, "302"),
        (408, SourceUnreachable, "408"),
        (429, SourceUnreachable, "429"),
        (500, SourceUnreachable, "500"),
        (503, SourceUnreachable, "503"),
    ],
)
def test_each_status_says_whether_to_wait_or_what_to_do(site, sources, status, kind, says):
    site.pages["/a.png"] = (status, {}, b"")
    with pytest.raises(kind, match=says) as error:
        sources.read(f"{site.url}/a.png?token=secret")
    assert "secret" not in str(error.value)
    assert error.value.retryable is (kind is SourceUnreachable)


def test_a_signed_link_that_has_expired_is_called_so(site, sources):
    site.pages["/a.png"] = (403, {}, b"<Error><Code>AccessDenied</Code></Error>")
    with pytest.raises(SourceDenied, match="signed link"):
        sources.read(f"{site.url}/a.png?X-Amz-Signature=secret")


def test_what_is_no_web_server_is_not_quoted(site, sources):
    def ssh(handler):
        handler.wfile.write(b"SSH-2.0-OpenSSH_9.2p1 inner-secret\r\n\r\n")
        handler.hang_up()

    site.pages["/a.png"] = ssh
    with pytest.raises(SourceUnreachable, match="does not speak HTTP") as error:
        sources.read(f"{site.url}/a.png")
    assert "inner-secret" not in str(error.value)


def test_a_page_that_is_no_picture_stays_an_error_of_the_picture(site, sources):
    site.pages["/a.png"] = (200, {"Content-Type": "text/html"}, b"<!doctype html><html>hello</html>")
    with pytest.raises(ImageUnsupported, match="HTML"):
        open_image(sources.read(f"{site.url}/a.png"))


def test_proxies_of_the_environment_are_not_used(site, sources, monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    site.pages["/a.png"] = PNG
    assert sources.read(f"{site.url}/a.png") == PNG


# S3, and Label Studio behind it


@pytest.fixture
def ours(label_studio, sources_of):
    """Sources that may ask the stand-in with its token; `with_token=False`: without."""

    def make(objects=None, *, token=None, **given):
        headers = (lambda: {"Authorization": f"Token {token}"}) if token else None
        return sources_of(objects, label_studio=label_studio.url, headers=headers, **given)

    return make


@pytest.fixture
def task(label_studio):
    return label_studio.add_tasks(label_studio.add_project(), ["s3://theirs/k/a b.jpg"])[0]


def test_an_object_is_read_by_our_own_key_first(ours, label_studio, task):
    sources = ours(Shelf(mine=PNG), token=label_studio.token)
    assert sources.read("s3://mine/k/a b.jpg", instance=label_studio.url, task=task) == PNG
    assert label_studio.requests == []


@pytest.mark.parametrize("kind", [AccessDenied, BucketMissing, ObjectMissing, StoreUnreachable])
def test_an_object_that_we_cannot_read_is_read_through_label_studio(ours, label_studio, task, site, kind):
    """Label Studio redirects to a link that it signed; the token does not go along."""
    site.pages["/signed"] = PNG
    label_studio.files[task, "s3://theirs/k/a b.jpg"] = f"{site.url}/signed?X-Amz-Signature=abc"
    sources = ours(Shelf(theirs=kind("no")), token=label_studio.token, allowed={"CAR_ALLOWED_HOSTS": site.place})
    assert sources.read("s3://theirs/k/a b.jpg", instance=label_studio.url, task=task) == PNG
    [asked] = label_studio.asked("GET", "/tasks")
    assert asked.headers["authorization"] == f"Token {label_studio.token}"
    [(_, headers)] = site.requests
    assert "authorization" not in headers


def test_label_studio_may_send_the_bytes_itself_also_of_clouds_that_it_alone_knows(ours, label_studio, task):
    for uri in ("s3://theirs/k/a b.jpg", "gs://bucket/a.jpg", "azure-blob://box/a.jpg"):
        label_studio.files[task, uri] = PNG
        label_studio.fail("GET", "/tasks", times=1, status=200, body=PNG, headers={"Content-Type": "image/png"})
        assert ours(token=label_studio.token).read(uri, instance=label_studio.url, task=task) == PNG


def test_a_signed_link_of_label_studio_into_a_private_network_needs_a_setting(ours, label_studio, task, site):
    label_studio.files[task, "s3://theirs/a.jpg"] = f"{site.url}/signed"
    sources = ours(token=label_studio.token)
    with pytest.raises(SourceForbidden, match=rf"CAR_ALLOWED_HOSTS={site.place}"):
        sources.read("s3://theirs/a.jpg", instance=label_studio.url, task=task)
    assert site.requests == []


@pytest.mark.parametrize(
    ("own", "kind", "retryable"),
    [(AccessDenied("no right"), SourceNotFound, False), (StoreUnreachable("no answer"), SourceUnreachable, True)],
)
def test_what_neither_key_can_read_says_both_reasons(ours, label_studio, task, own, kind, retryable):
    sources = ours(Shelf(theirs=own), token=label_studio.token)
    with pytest.raises(kind, match=rf"{own}; and through Label Studio: .*no storage") as error:
        sources.read("s3://theirs/a.jpg", instance=label_studio.url, task=task)
    assert error.value.retryable is retryable


def test_a_storage_that_label_studio_cannot_read_either_is_tried_again(ours, label_studio, task):
    label_studio.fail("GET", "/tasks", status=424)
    with pytest.raises(SourceUnreachable, match="its own storage"):
        ours(token=label_studio.token).read("gs://theirs/a.jpg", instance=label_studio.url, task=task)


def test_without_a_token_label_studio_is_not_asked_and_the_reason_says_so(ours, label_studio, task):
    sources = ours(Shelf(theirs=AccessDenied("no right")))
    with pytest.raises(AccessDenied, match=r"no right; .*LABEL_STUDIO_API_KEY is not set"):
        sources.read("s3://theirs/a.jpg", instance=label_studio.url, task=task)
    with pytest.raises(SourceForbidden, match="LABEL_STUDIO_API_KEY"):
        sources.read("gs://theirs/a.jpg", instance=label_studio.url, task=task)
    assert label_studio.requests == []


def test_jobs_of_others_do_not_borrow_the_token(ours, label_studio, task):
    label_studio.files |= {(task, "s3://theirs/a.jpg"): PNG, "/data/upload/1/a.png": PNG}
    sources = ours(Shelf(theirs=AccessDenied("no right")), token=label_studio.token)
    for instance, of in ((None, None), ("http://another.example", task)):
        with pytest.raises(AccessDenied):
            sources.read("s3://theirs/a.jpg", instance=instance, task=of)
        with pytest.raises(SourceDenied):
            sources.read(f"{label_studio.url}/data/upload/1/a.png", instance=instance, task=of)
    assert [one.headers.get("authorization") for one in label_studio.requests] == [None, None]


# Label Studio's own addresses


@pytest.mark.parametrize(
    "path",
    [
        "/data/upload/1/a b.png",
        "/data/local-files/?d=shelf/a.png",
        "/storage-data/uploaded/?filepath=upload/1/a.png",
    ],
)
@pytest.mark.parametrize("prefix", ["", "/label-studio"])
def test_label_studios_own_files_are_read_with_its_token(label_studio, ours, path, prefix):
    label_studio.prefix = prefix
    label_studio.files |= {path: PNG, path.replace(" ", "%20"): PNG}
    sources = ours(token=label_studio.token)
    assert sources.read(label_studio.url + path, instance=label_studio.url, task=1) == PNG


def test_uploads_that_label_studio_keeps_in_a_cloud_are_found_under_its_other_route(label_studio, ours):
    label_studio.files["/storage-data/uploaded/?filepath=upload/1/a+b&c.png"] = PNG
    sources = ours(token=label_studio.token)
    for status in (404, 500):
        label_studio.fail("GET", "/data/upload", times=1, status=status)
        address = f"{label_studio.url}/data/upload/1/a+b&c.png"
        assert sources.read(address, instance=label_studio.url, task=1) == PNG


@pytest.mark.parametrize(
    "path",
    [
        "/api/projects/1/export?exportType=JSON",
        "/data/upload/../../api/projects",
        "/data/upload/%2e%2e/%2e%2e/api/projects",
        "/data/upload/..%2f..%2fapi/projects",
        "/data/uploads-of-others/a.png",
        "/logout",
        "/tasks/1/resolver/",
        "/media/a.png",
    ],
)
def test_the_token_goes_to_routes_of_pictures_alone(label_studio, ours, path, site):
    sources = ours(token=label_studio.token, allowed={"CAR_ALLOWED_HOSTS": site.place})
    site.pages["/a"] = redirect(label_studio.url + path)
    for address in (label_studio.url + path, f"{site.url}/a"):
        with pytest.raises((SourceDenied, SourceNotFound), match=r"for pictures alone|has nothing|has no upload"):
            sources.read(address, instance=label_studio.url, task=1)
    assert all("authorization" not in one.headers for one in label_studio.requests)
    assert len(label_studio.requests) == 2


def test_another_port_or_scheme_of_label_studios_host_gets_no_token(label_studio, ours, site):
    site.pages["/data/upload/1/a.png"] = PNG
    sources = ours(token=label_studio.token, allowed={"CAR_ALLOWED_HOSTS": site.place})
    assert sources.read(f"{site.url}/data/upload/1/a.png", instance=label_studio.url, task=1) == PNG
    assert "authorization" not in site.requests[0][1]


def test_a_wrong_token_a_missing_one_and_a_missing_right_are_told_apart(label_studio, ours):
    address = f"{label_studio.url}/data/upload/1/a.png"
    where = {"instance": label_studio.url, "task": 1}
    with pytest.raises(SourceDenied, match="LABEL_STUDIO_API_KEY is not set"):
        ours().read(address, **where)
    with pytest.raises(SourceDenied, match="does not take LABEL_STUDIO_API_KEY"):
        ours(token="wrong").read(address, **where)  # noqa: S106
    good = ours(token=label_studio.token)
    with pytest.raises(SourceNotFound, match="removed there"):
        good.read(address, **where)
    label_studio.fail("GET", "/data", status=500, times=1)  # which is how it says that an upload is gone
    with pytest.raises(SourceNotFound, match="removed there"):
        good.read(address, **where)
    label_studio.fail("GET", "/", status=500, times=2)
    with pytest.raises(SourceUnreachable, match="500"):
        good.read(address, **where)
    label_studio.fail("GET", "/data", status=403, times=1)
    with pytest.raises(SourceDenied, match="may not see it"):
        good.read(address, **where)
    label_studio.fail("GET", "/data", status=502, times=1)
    with pytest.raises(SourceUnreachable, match="502"):
        good.read(address, **where)


@pytest.mark.parametrize("path", ["/user/login/?next=/data/upload/1/a.png", "/user/login"])
def test_its_login_page_is_no_picture_but_a_token_that_it_does_not_take(label_studio, ours, path):
    address = f"{label_studio.url}/data/upload/1/a.png"
    sources = ours(token=label_studio.token)
    label_studio.fail("GET", "/data", status=302, times=1, headers={"Location": path})
    with pytest.raises(SourceDenied, match="asks for a login"):
        sources.read(address, instance=label_studio.url, task=1)
    label_studio.fail("GET", "/data", status=200, times=1, body=b"<!doctype html><title>Sign in</title>")
    with pytest.raises(SourceDenied, match="asks for a login"):
        sources.read(address, instance=label_studio.url, task=1)


def test_without_its_setting_a_private_label_studio_is_not_asked_and_the_reason_names_it(label_studio, sources_of):
    with pytest.raises(SourceForbidden, match="LABEL_STUDIO_URL"):
        sources_of().read(f"{label_studio.url}/data/upload/1/a.png", instance=label_studio.url, task=1)
    assert label_studio.requests == []


def test_a_token_with_a_line_break_is_not_repeated_in_the_reason(label_studio, ours):
    with pytest.raises(SourceUnreachable, match="LABEL_STUDIO_API_KEY") as error:
        ours(token="secret\nmore").read(f"{label_studio.url}/data/upload/1/a", instance=label_studio.url, task=1)  # noqa: S106
    assert "secret" not in str(error.value)


# Settings and names


def test_the_hosts_of_the_settings_are_allowed_and_their_limits_hold(site):
    given = {"S3_BUCKET": "masks", "DATABASE_URL": "postgresql://x", "CELERY_BROKER_URL": "redis://x"}
    site.pages |= {"/a.png": PNG, "/large": bytes(20_000)}
    named = {"LABEL_STUDIO_URL": site.url, "AWS_ENDPOINT_URL_S3": site.url, "CAR_S3_PUBLIC_ENDPOINT": site.url}
    for name, value in (named | {"CAR_ALLOWED_HOSTS": f"nas.lan,{site.place}"}).items():
        settings = WorkerSettings.from_environment(**given, **{name: value}, CAR_MAX_BYTES="10000")
        sources = Sources.of(settings, Shelf(), None)
        assert sources.read(f"{site.url}/a.png") == PNG, name
        with pytest.raises(SourceTooLarge):
            sources.read(f"{site.url}/large")
        sources.close()


def test_an_address_that_is_none_says_what_one_looks_like(sources):
    with pytest.raises(SourceError, match="s3://bucket"):
        sources.read("s3://")


def test_messages_call_a_picture_by_its_address_without_signatures():
    assert name_of("https://h.example/a.jpg?X-Amz-Signature=secret") == "https://h.example/a.jpg"
    assert name_of("s3://bucket/why?.jpg") == "s3://bucket/why?.jpg"


def test_damaged_answers_end_in_typed_errors(site, sources):
    """Whatever bytes a server sends, and wherever it stops, a thread comes back with a picture or an error."""
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
            open_image(sources.read(f"{site.url}/a.png"))
        except (ImageError, SourceUnreachable, SourceDenied, SourceNotFound, SourceTooLarge, SourceForbidden):
            continue
