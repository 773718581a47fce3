"""Sources in a real S3 become items: none missing, none twice, for any names, lines and interruptions."""

from urllib.parse import parse_qs, urlsplit

import pytest

from api.errors import SourceEmptyError
from api.sources import validate_source
from car.bulk_source import MAX_URI, BulkSource
from db.objects import S3ObjectStore
from db.queue import jobs, listings
from db.queue.progress import JobStatus, progress_of
from db.settings import EngineSettings
from worker import listing as lister
from worker.listing import list_sources

STRANGE = [
    "a b/c d.jpg",
    "ü/猫 🐈.jpg",
    "line\nbreak.jpg",
    "100%/50%25.jpg",
    "a+b&c=d?e#f.jpg",
    "'quoted' \"too\".jpg",
    ".dots..jpg",
    "[brackets]{braces}*.jpg",
    "e\u0301 and é.jpg",
]


@pytest.fixture
def store(bucket):
    return S3ObjectStore(bucket.client, bucket.name, "car/")


@pytest.fixture
def listed(rows, store):
    """List all waiting sources as the worker `name`."""

    def run(name="l1", **options):
        return list_sources(rows.engine, store, name, **options)

    return run


@pytest.fixture
def job_of(rows, bucket):
    def make(source):
        if isinstance(source, str):
            source = f"s3://{bucket.name}/{source}"
        return rows.job(BulkSource.parse(source).to_json())

    return make


def keys(rows, bucket, state="queued"):
    items = rows.sql("SELECT uri FROM item WHERE state = :state ORDER BY id", state=state)
    return [row.uri.removeprefix(f"s3://{bucket.name}/") for row in items]


def progress(rows, job):
    return rows.do(lambda session: progress_of(session, jobs.get(session, job)))


def again(rows, job):
    rows.do(jobs.rescan, job)


class Killed(BaseException):
    """Like kill -9: no line of the lister runs after it."""


@pytest.fixture
def small_pages(monkeypatch, bucket):
    """Pages of three keys or lines instead of a thousand."""
    monkeypatch.setattr(lister, "_PAGE", 3)
    monkeypatch.setattr(lister, "_PAGES_PER_COMMIT", 2)
    list_objects = bucket.client.list_objects_v2
    monkeypatch.setattr(bucket.client, "list_objects_v2", lambda **options: list_objects(**{"MaxKeys": 3} | options))


def test_keys_of_all_kinds_become_items_unchanged(rows, bucket, listed, job_of):
    for key in STRANGE:
        bucket.put(key, b"x")
    job = job_of("")
    assert listed().items == len(STRANGE)
    assert sorted(keys(rows, bucket)) == sorted(STRANGE)
    assert progress(rows, job).status is JobStatus.RUNNING


def test_a_prefix_takes_images_even_empty_ones_but_no_folders_and_other_files(rows, bucket, listed, job_of):
    for key in ("in/a.JPG", "in/deep/b.png", "in/notes.md", "in.jpg", "out/c.jpg"):
        bucket.put(key, b"x")
    bucket.put("in/empty.jpg", b"")
    bucket.put("in/folder/", b"")
    job_of("in/")
    listed()
    assert sorted(keys(rows, bucket)) == ["in/a.JPG", "in/deep/b.png", "in/empty.jpg"]


@pytest.mark.parametrize("prefix", ["car/", ""])
def test_the_objects_of_the_service_itself_are_left_out(rows, bucket, prefix):
    store = S3ObjectStore(bucket.client, bucket.name, prefix)
    digest = "ab" * 32
    for name in (f"results/ab/{digest}/labelmap.png", f"images/ab/{digest}.jpg"):
        store.put(name, b"x", "image/png")
    for key in ("images/mine.jpg", "results/ab/mine.jpg", "uploads/a.jpg"):
        bucket.put(key, b"x")
    source = BulkSource.parse(f"s3://{bucket.name}").excluding(store)
    assert "without this service's own objects" in str(source)
    rows.job(source.to_json())
    assert list_sources(rows.engine, store, "l").items == 3
    assert sorted(keys(rows, bucket)) == ["images/mine.jpg", "results/ab/mine.jpg", "uploads/a.jpg"]


def fake_s3(*pages):
    """Return a page of a fake S3 server that answers a listing with these pages of keys."""

    def answer(handler):
        query = parse_qs(urlsplit(handler.path).query)
        number = int(query.get("continuation-token", ["0"])[0])
        if after := query.get("start-after", [""])[0]:
            number = next(index for index, page in enumerate(pages, start=1) if after in page)
        contents = "".join(
            f"<Contents><Key>{key}</Key><ETag>&quot;e&quot;</ETag><Size>1</Size></Contents>"
            for key in (pages[number] if number < len(pages) else ())
        )
        is_truncated = number + 1 < len(pages)
        token = f"<NextContinuationToken>{number + 1}</NextContinuationToken>" if is_truncated else ""
        body = f"<ListBucketResult><IsTruncated>{str(is_truncated).lower()}</IsTruncated>{token}{contents}"
        handler.answer(200, {"Content-Type": "application/xml"}, f"{body}</ListBucketResult>".encode())

    return answer


@pytest.fixture
def fake_store(site, engine_environment):
    """A store at `site`, whose listing has pages of deleted objects only."""
    site.pages["/photos"] = fake_s3(["a.jpg"], [], [], [], [], [], ["b.jpg"], [], ["c.jpg"])
    settings = EngineSettings(**engine_environment | {"AWS_ENDPOINT_URL_S3": site.url})
    store = S3ObjectStore.from_settings(settings)
    yield store
    store.client.close()


def test_a_page_of_deleted_objects_does_not_end_a_listing(rows, fake_store):
    rows.job(BulkSource.parse("s3://photos").to_json())
    rounds = 0
    while list_sources(rows.engine, fake_store, f"l{rounds}", stop=lambda: True).has_more:  # resumed at every commit
        rounds += 1
        assert rounds < 20
    assert [row.uri[-5:] for row in rows.sql("SELECT uri FROM item ORDER BY id")] == ["a.jpg", "b.jpg", "c.jpg"]


def test_a_page_of_deleted_objects_does_not_make_a_source_empty(site, fake_store):
    site.pages["/photos"] = fake_s3([], [], ["a.jpg"])
    validate_source(fake_store, BulkSource.parse("s3://photos"))
    site.pages["/photos"] = fake_s3([], [], [])
    with pytest.raises(SourceEmptyError):
        validate_source(fake_store, BulkSource.parse("s3://photos"))


def test_refused_lines_are_listed_in_the_order_of_the_manifest(rows, bucket, listed, job_of):
    lines = ["s3://other/1.jpg", "ftp://2", "s3://other/3.jpg", "ftp://4"]
    bucket.put("list.txt", "\n".join(lines).encode())
    job = job_of("list.txt")
    listed()
    entries, _ = rows.do(jobs.items, job, state=None, cursor=None, limit=9)
    assert [entry.uri for entry in entries] == lines


def test_a_prefix_may_be_a_complete_key(rows, bucket, listed, job_of):
    for key in ("one.jpg", "one.png", "other.jpg"):
        bucket.put(key, b"x")
    job_of("one.jpg")
    listed()
    assert keys(rows, bucket) == ["one.jpg"]


@pytest.mark.parametrize(
    ("glob", "expected"),
    [
        ("**/*.jpg", ["a.jpg", "x/b.jpg", "x/y/c.jpg"]),
        ("*.{jpg,png}", ["a.jpg", "a.png"]),
        ("x/**", ["x/b.jpg", "x/y/c.jpg"]),
        ("x/[!a].jpg", ["x/b.jpg"]),
        ("?.jpg", ["a.jpg"]),
        ("x/*/*", ["x/y/c.jpg"]),
        ("x/notes.{md,txt}", ["x/notes.md"]),
    ],
)
def test_a_glob_takes_matching_keys(rows, bucket, listed, job_of, glob, expected):
    for key in ("a.jpg", "a.png", "x/b.jpg", "x/y/c.jpg", "x/notes.md"):
        bucket.put(key, b"x")
    job_of(glob)
    listed()
    assert keys(rows, bucket) == expected


@pytest.mark.parametrize("kind", ["prefix", "manifest", "given"])
@pytest.mark.parametrize("killed_at", [1, 2, 3, 4])
@pytest.mark.usefixtures("small_pages")
def test_a_listing_resumes_after_a_kill_without_gaps_or_duplicates(rows, bucket, listed, job_of, kind, killed_at):
    names = [f"in/{number:02}.jpg" for number in range(14)]
    uris = [f"s3://{bucket.name}/{name}" for name in names]
    if kind == "manifest":
        bucket.put("in/list.txt", "\n".join(uris).encode())
        job_of("in/list.txt")
    else:
        for name in names if kind == "prefix" else ():
            bucket.put(name, b"x")
        job_of("in/" if kind == "prefix" else uris)
    pages = iter(range(1, 100))

    def die():
        if next(pages) == killed_at:
            raise Killed

    with pytest.raises(Killed):
        listed("l1", on_added=die)
    before = keys(rows, bucket)
    assert before == names[: len(before)]
    assert listed("l2").jobs == 0  # the lease has not run out
    rows.sql("UPDATE job SET lease_expires_at = now() - interval '1 s'")
    done = listed("l2")
    assert (done.items, done.jobs) == (len(names) - len(before), 1)
    assert keys(rows, bucket) == names


@pytest.mark.usefixtures("small_pages")
def test_a_stopped_lister_releases_its_source_and_the_next_resumes(rows, bucket, listed, job_of):
    names = [f"{number:02}.jpg" for number in range(14)]
    for name in names:
        bucket.put(name, b"x")
    job_of("")
    rounds = 0
    while listed(f"l{rounds}", stop=lambda: True).has_more:
        rounds += 1
        assert rounds < 20
    assert rounds > 2
    assert keys(rows, bucket) == names


@pytest.mark.usefixtures("small_pages")
def test_a_job_cancelled_midway_stops_its_lister(rows, bucket, listed, job_of):
    for number in range(14):
        bucket.put(f"{number:02}.jpg", b"x")
    job = job_of("")
    listed(on_added=lambda: rows.do(jobs.cancel, job))
    assert progress(rows, job).status is JobStatus.CANCELLED
    assert len(keys(rows, bucket, "cancelled")) == 3
    assert keys(rows, bucket) == []


def test_listing_again_adds_what_is_new_or_has_changed_and_nothing_else(rows, bucket, listed, job_of):
    for name in ("a.jpg", "b.jpg"):
        bucket.put(name, b"x")
    job = job_of("")
    assert listed().items == 2
    again(rows, job)
    assert listed().items == 0
    bucket.put("b.jpg", b"other")
    bucket.put("c.jpg", b"x")
    again(rows, job)
    assert listed().items == 2
    assert keys(rows, bucket) == ["a.jpg", "b.jpg", "b.jpg", "c.jpg"]


@pytest.mark.usefixtures("small_pages")
def test_a_csv_with_a_header_is_resumed_in_its_column(rows, bucket, listed, job_of):
    lines = ["thumbnail,uri", *(f"s3://other/t{number}.jpg,s3://other/{number}.jpg" for number in range(8))]
    bucket.put("list.csv", "\n".join(lines).encode())
    job_of("list.csv")
    rounds = 0
    while listed(f"l{rounds}", stop=lambda: True).has_more:
        rounds += 1
        assert rounds < 20
    assert rounds > 1
    uris = [row.uri for row in rows.sql("SELECT uri FROM item ORDER BY id")]
    assert uris == [f"s3://other/{number}.jpg" for number in range(8)]


@pytest.mark.parametrize("kind", ["manifest", "addresses"])
def test_a_rescan_of_addresses_adds_the_images_that_were_replaced(rows, bucket, listed, job_of, kind):
    uris = [bucket.put(f"in/{name}.jpg", b"x") for name in "abc"]
    bucket.put("list.txt", "\n".join(uris).encode())
    job = job_of("list.txt" if kind == "manifest" else uris)
    assert listed().items == 3
    again(rows, job)
    assert listed().items == 0
    bucket.put("in/b.jpg", b"other")
    again(rows, job)
    assert listed().items == 1
    assert keys(rows, bucket) == ["in/a.jpg", "in/b.jpg", "in/c.jpg", "in/b.jpg"]


def test_a_plain_prefix_may_contain_the_characters_of_a_glob(rows, bucket, listed, job_of):
    for key in ("[a]{b}*?/1.jpg", "a/2.jpg"):
        bucket.put(key, b"x")
    job_of({"prefix": f"s3://{bucket.name}/[a]{{b}}*?/"})
    listed()
    assert keys(rows, bucket) == ["[a]{b}*?/1.jpg"]


def test_lines_of_a_manifest_that_name_no_image_fail_alone(rows, bucket, listed, job_of):
    good = ["s3://other/a.jpg", "s3://other/b c.jpg", "s3://other/ü.jpg", "s3://other/json.jpg"]
    deep = '{"uri": ' + "[" * 20_000
    lines = [
        "\ufeff" + good[0] + "\r",
        "# a comment",
        "",
        "  " + good[1] + "  ",
        "ftp://elsewhere/a.jpg",
        "s3://",
        "s3://other/",
        "s3://other/" + "x" * 70 * 1024,
        "s3://other/" + "猫" * 2_000,  # fits by characters and not by bytes
        "s3://other/nul\0.jpg",
        '{"uri": "s3://other/nul\\u0000.jpg"}',
        '{"uri": "s3://other/half\\ud800.jpg"}',
        '{"uri": ' + "1" * 5_000 + "}",
        deep,
        '{"picture": "s3://other/a.jpg"}',
        '{"image": "' + good[3] + '"}',
        good[2],
    ]
    body = "\n".join(lines).encode() + b"\ns3://other/\xff\xfe.jpg\n\xff\xfe"
    bucket.put("list.txt", body)
    job = job_of("list.txt")
    assert listed().jobs == 1
    found = [row.uri for row in rows.sql("SELECT uri FROM item WHERE state = 'queued' ORDER BY id")]
    assert found == [good[0], good[1], good[3], good[2], "s3://other/\ufffd\ufffd.jpg"]
    failed = rows.sql("SELECT uri, error_code, error_detail FROM item WHERE state = 'failed' ORDER BY id")
    assert {row.error_code for row in failed} == {"source_invalid"}
    numbers = [int(row.error_detail.removeprefix("line ").split(":")[0]) for row in failed]
    assert numbers == [5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 19]
    assert all(len(row.uri.encode()) <= MAX_URI and row.uri.isprintable() for row in failed)
    assert progress(rows, job).job.error_code is None


def test_a_line_longer_than_all_memory_for_lines_hides_no_other(rows, bucket, listed, job_of):
    long = b"s3://other/" + b"x" * 700_000
    bucket.put("list.txt", b"\n".join([b"s3://other/a.jpg", long, b"s3://other/b.jpg", long]))
    job_of("list.txt")
    listed()
    assert [row.uri for row in rows.sql("SELECT uri FROM item WHERE state = 'queued' ORDER BY id")] == [
        "s3://other/a.jpg",
        "s3://other/b.jpg",
    ]
    assert len(keys(rows, bucket, "failed")) == 1  # the same text twice


def test_addresses_of_a_request_that_name_no_image_fail_alone(rows, listed, job_of):
    job_of(["s3://other/a.jpg", "ftp://x", "", "s3://other/b.jpg"])
    assert listed().items == 2
    [row] = rows.sql("SELECT uri, error_detail FROM item WHERE state = 'failed'")
    assert row.uri == "ftp://x"
    assert row.error_detail.startswith("address 2: ")


@pytest.mark.usefixtures("small_pages")
def test_a_manifest_that_was_replaced_between_two_runs_is_read_from_its_beginning(rows, bucket, listed, job_of):
    def write(*names):
        bucket.put("list.txt", "".join(f"s3://other/{name}.jpg\n" for name in names).encode())

    write(*range(1, 8))
    job_of("list.txt")
    listed(stop=lambda: True)  # one page of three
    write(*range(20, 24), 1, 2)
    while listed().has_more:
        pass
    found = [row.uri for row in rows.sql("SELECT uri FROM item ORDER BY id")]
    assert found == [f"s3://other/{name}.jpg" for name in (1, 2, 3, 20, 21, 22, 23)]


@pytest.mark.parametrize(
    ("source", "code"),
    [("s3://no-such-bucket-here/**/*.jpg", "bucket_missing"), ({"manifest": "gone.txt"}, "object_missing")],
)
def test_a_source_that_cannot_be_listed_fails_its_job_in_words(rows, bucket, listed, source, code):
    if isinstance(source, dict):
        source = {"manifest": f"s3://{bucket.name}/gone.txt"}
    job = rows.job(BulkSource.parse(source).to_json())
    assert listed().jobs == 1
    found = progress(rows, job).job
    assert found.error_code == code
    assert found.finished_at is not None
    assert "gone.txt" in found.error_detail or "no-such-bucket-here" in found.error_detail


def test_a_source_that_breaks_the_lister_is_tried_a_few_times_and_given_up(rows, listed, job_of):
    job = rows.job({"kind": "of the future"})
    good = job_of(["s3://other/a.jpg"])
    for _ in range(listings.MAX_LISTING_FAILURES):
        listed()
        rows.sql("UPDATE job SET available_at = now()")
    assert progress(rows, job).job.error_code == "internal_error"
    assert progress(rows, good).status is JobStatus.RUNNING


def test_an_empty_source_is_a_job_with_nothing_to_do(rows, listed, job_of):
    job = job_of("nothing/here/")
    listed()
    rows.do(jobs.close)
    assert (progress(rows, job).status, progress(rows, job).progress) == (JobStatus.DONE, 1)
