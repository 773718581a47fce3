"""Images of tasks are read from S3 and from Label Studio, whose token goes where it must and nowhere else."""

import pytest

from db.errors import AccessDeniedError, BucketMissingError, ObjectMissingError, StoreUnreachableError
from tests.support.picture_server import redirect
from tests.support.sources import PNG, FakeStore
from worker.errors import (
    SourceDeniedError,
    SourceForbiddenError,
    SourceNotFoundError,
    SourceUnreachableError,
)

# S3, and Label Studio behind it


@pytest.fixture
def make_own(label_studio, make_fetcher):
    """Sources that may ask the stand-in with its token; `with_token=False`: without."""

    def make(objects=None, *, token=None, **given):
        headers = (lambda: {"Authorization": f"Token {token}"}) if token else None
        return make_fetcher(objects, label_studio=label_studio.url, headers=headers, **given)

    return make


@pytest.fixture
def task(label_studio):
    return label_studio.add_tasks(label_studio.add_project(), ["s3://theirs/k/a b.jpg"])[0]


def test_an_object_is_read_by_our_own_key_first(make_own, label_studio, task):
    fetcher = make_own(FakeStore(mine=PNG), token=label_studio.token)
    assert fetcher.read("s3://mine/k/a b.jpg", instance=label_studio.url, task=task) == PNG
    assert label_studio.requests == []


@pytest.mark.parametrize("kind", [AccessDeniedError, BucketMissingError, ObjectMissingError, StoreUnreachableError])
def test_an_object_that_we_cannot_read_is_read_through_label_studio(make_own, label_studio, task, site, kind):
    """Label Studio redirects to a link that it signed; the token does not go along."""
    site.pages["/signed"] = PNG
    label_studio.files[task, "s3://theirs/k/a b.jpg"] = f"{site.url}/signed?X-Amz-Signature=abc"
    fetcher = make_own(
        FakeStore(theirs=kind("no")), token=label_studio.token, allowed={"CAR_ALLOWED_HOSTS": site.host_port}
    )
    assert fetcher.read("s3://theirs/k/a b.jpg", instance=label_studio.url, task=task) == PNG
    [request] = label_studio.asked("GET", "/tasks")
    assert request.headers["authorization"] == f"Token {label_studio.token}"
    [(_, headers)] = site.requests
    assert "authorization" not in headers


def test_label_studio_may_send_the_bytes_itself_also_of_clouds_that_it_alone_knows(make_own, label_studio, task):
    for uri in ("s3://theirs/k/a b.jpg", "gs://bucket/a.jpg", "azure-blob://box/a.jpg"):
        label_studio.files[task, uri] = PNG
        label_studio.fail("GET", "/tasks", times=1, status=200, body=PNG, headers={"Content-Type": "image/png"})
        assert make_own(token=label_studio.token).read(uri, instance=label_studio.url, task=task) == PNG


def test_a_signed_link_of_label_studio_into_a_private_network_needs_a_setting(make_own, label_studio, task, site):
    label_studio.files[task, "s3://theirs/a.jpg"] = f"{site.url}/signed"
    fetcher = make_own(token=label_studio.token)
    with pytest.raises(SourceForbiddenError, match=rf"CAR_ALLOWED_HOSTS={site.host_port}"):
        fetcher.read("s3://theirs/a.jpg", instance=label_studio.url, task=task)
    assert site.requests == []


@pytest.mark.parametrize(
    ("own", "kind", "retryable"),
    [
        (AccessDeniedError("no right"), SourceNotFoundError, False),
        (StoreUnreachableError("no answer"), SourceUnreachableError, True),
    ],
)
def test_what_neither_key_can_read_says_both_reasons(make_own, label_studio, task, own, kind, retryable):
    fetcher = make_own(FakeStore(theirs=own), token=label_studio.token)
    with pytest.raises(kind, match=rf"{own}; and through Label Studio: .*no storage") as error:
        fetcher.read("s3://theirs/a.jpg", instance=label_studio.url, task=task)
    assert error.value.retryable is retryable


def test_a_storage_that_label_studio_cannot_read_either_is_tried_again(make_own, label_studio, task):
    label_studio.fail("GET", "/tasks", status=424)
    with pytest.raises(SourceUnreachableError, match="from its storage"):
        make_own(token=label_studio.token).read("gs://theirs/a.jpg", instance=label_studio.url, task=task)


def test_without_a_token_label_studio_is_not_asked_and_the_reason_says_so(make_own, label_studio, task):
    fetcher = make_own(FakeStore(theirs=AccessDeniedError("no right")))
    with pytest.raises(AccessDeniedError, match=r"no right; .*set LABEL_STUDIO_API_KEY"):
        fetcher.read("s3://theirs/a.jpg", instance=label_studio.url, task=task)
    with pytest.raises(SourceForbiddenError, match="LABEL_STUDIO_API_KEY"):
        fetcher.read("gs://theirs/a.jpg", instance=label_studio.url, task=task)
    assert label_studio.requests == []


def test_jobs_of_others_do_not_borrow_the_token(make_own, label_studio, task):
    label_studio.files |= {(task, "s3://theirs/a.jpg"): PNG, "/data/upload/1/a.png": PNG}
    fetcher = make_own(FakeStore(theirs=AccessDeniedError("no right")), token=label_studio.token)
    for instance, of in ((None, None), ("http://another.example", task)):
        with pytest.raises(AccessDeniedError):
            fetcher.read("s3://theirs/a.jpg", instance=instance, task=of)
        with pytest.raises(SourceDeniedError):
            fetcher.read(f"{label_studio.url}/data/upload/1/a.png", instance=instance, task=of)
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
def test_label_studios_own_files_are_read_with_its_token(label_studio, make_own, path, prefix):
    label_studio.prefix = prefix
    label_studio.files |= {path: PNG, path.replace(" ", "%20"): PNG}
    fetcher = make_own(token=label_studio.token)
    assert fetcher.read(label_studio.url + path, instance=label_studio.url, task=1) == PNG


def test_uploads_that_label_studio_keeps_in_a_cloud_are_found_under_its_other_route(label_studio, make_own):
    label_studio.files["/storage-data/uploaded/?filepath=upload/1/a+b&c.png"] = PNG
    fetcher = make_own(token=label_studio.token)
    for status in (404, 500):
        label_studio.fail("GET", "/data/upload", times=1, status=status)
        address = f"{label_studio.url}/data/upload/1/a+b&c.png"
        assert fetcher.read(address, instance=label_studio.url, task=1) == PNG


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
def test_the_token_goes_to_routes_of_images_alone(label_studio, make_own, path, site):
    fetcher = make_own(token=label_studio.token, allowed={"CAR_ALLOWED_HOSTS": site.host_port})
    site.pages["/a"] = redirect(label_studio.url + path)
    for address in (label_studio.url + path, f"{site.url}/a"):
        with pytest.raises(
            (SourceDeniedError, SourceNotFoundError), match=r"for images only|has nothing|has no upload"
        ):
            fetcher.read(address, instance=label_studio.url, task=1)
    assert all("authorization" not in one.headers for one in label_studio.requests)
    assert len(label_studio.requests) == 2


def test_another_port_or_scheme_of_label_studios_host_gets_no_token(label_studio, make_own, site):
    site.pages["/data/upload/1/a.png"] = PNG
    fetcher = make_own(token=label_studio.token, allowed={"CAR_ALLOWED_HOSTS": site.host_port})
    assert fetcher.read(f"{site.url}/data/upload/1/a.png", instance=label_studio.url, task=1) == PNG
    assert "authorization" not in site.requests[0][1]


def test_a_wrong_token_a_missing_one_and_a_missing_right_are_told_apart(label_studio, make_own):
    address = f"{label_studio.url}/data/upload/1/a.png"
    where = {"instance": label_studio.url, "task": 1}
    with pytest.raises(SourceDeniedError, match="LABEL_STUDIO_API_KEY is not set"):
        make_own().read(address, **where)
    with pytest.raises(SourceDeniedError, match="rejects LABEL_STUDIO_API_KEY"):
        make_own(token="wrong").read(address, **where)  # noqa: S106
    good = make_own(token=label_studio.token)
    with pytest.raises(SourceNotFoundError, match="removed there"):
        good.read(address, **where)
    label_studio.fail("GET", "/data", status=500, times=1)  # which is how it says that an upload is gone
    with pytest.raises(SourceNotFoundError, match="removed there"):
        good.read(address, **where)
    label_studio.fail("GET", "/", status=500, times=2)
    with pytest.raises(SourceUnreachableError, match="500"):
        good.read(address, **where)
    label_studio.fail("GET", "/data", status=403, times=1)
    with pytest.raises(SourceDeniedError, match="may not see it"):
        good.read(address, **where)
    label_studio.fail("GET", "/data", status=502, times=1)
    with pytest.raises(SourceUnreachableError, match="502"):
        good.read(address, **where)


@pytest.mark.parametrize("path", ["/user/login/?next=/data/upload/1/a.png", "/user/login"])
def test_its_login_page_is_no_image_but_a_token_that_it_does_not_take(label_studio, make_own, path):
    address = f"{label_studio.url}/data/upload/1/a.png"
    fetcher = make_own(token=label_studio.token)
    label_studio.fail("GET", "/data", status=302, times=1, headers={"Location": path})
    with pytest.raises(SourceDeniedError, match="rejects LABEL_STUDIO_API_KEY"):
        fetcher.read(address, instance=label_studio.url, task=1)
    label_studio.fail("GET", "/data", status=200, times=1, body=b"<!doctype html><title>Sign in</title>")
    with pytest.raises(SourceDeniedError, match="rejects LABEL_STUDIO_API_KEY"):
        fetcher.read(address, instance=label_studio.url, task=1)


def test_without_its_setting_a_private_label_studio_is_not_asked_and_the_reason_names_it(label_studio, make_fetcher):
    with pytest.raises(SourceForbiddenError, match="LABEL_STUDIO_URL"):
        make_fetcher().read(f"{label_studio.url}/data/upload/1/a.png", instance=label_studio.url, task=1)
    assert label_studio.requests == []


def test_a_token_with_a_line_break_is_not_repeated_in_the_reason(label_studio, make_own):
    with pytest.raises(SourceUnreachableError, match="LABEL_STUDIO_API_KEY") as error:
        make_own(token="secret\nmore").read(f"{label_studio.url}/data/upload/1/a", instance=label_studio.url, task=1)  # noqa: S106
    assert "secret" not in str(error.value)
