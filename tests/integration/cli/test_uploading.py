"""Folders of pictures into a real S3 server."""

import pytest
from PIL import Image

from car.errors import CarError
from cli.errors import UsageError
from cli.service.connection_settings import object_store
from cli.service.uploading import upload
from db.errors import BucketMissingError


@pytest.fixture
def store(engine_environment, monkeypatch, tmp_path):
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION", "S3_BUCKET"):
        monkeypatch.setenv(name, engine_environment[name])
    return object_store(tmp_path)


@pytest.fixture
def folder(tmp_path):
    """Two pictures, one of them below, and what is none."""
    (tmp_path / "pics" / "below").mkdir(parents=True)
    for number, name in enumerate(("a b.png", "below/ü.jpg")):
        Image.new("RGB", (8, 8), (90 * number, 0, 0)).save(tmp_path / "pics" / name)
    (tmp_path / "pics" / "notes.txt").write_text("no picture")
    return tmp_path / "pics"


class Count:
    """A progress that counts."""

    def __init__(self):
        self.total = self.done = 0

    def begin(self, number):
        self.total = number
        return self.step

    def step(self):
        self.done += 1


def test_pictures_lie_under_their_paths_and_nothing_else_is_sent(store, folder, bucket):
    count = Count()
    sent = upload(store, folder, "uploads/pics/", count.begin)
    assert (sent.source, sent.sent, sent.present) == (f"s3://{bucket.name}/uploads/pics/", 2, 0)
    assert bucket.keys() == ["uploads/pics/a b.png", "uploads/pics/below/ü.jpg"]
    assert store.read(bucket.name, "uploads/pics/a b.png") == (folder / "a b.png").read_bytes()
    assert (count.total, count.done) == (2, 2)


def test_what_is_there_is_not_sent_again_and_what_changed_is(store, folder, bucket):
    upload(store, folder, "uploads/pics/", Count().begin)
    Image.new("RGB", (8, 8), (0, 200, 0)).save(folder / "a b.png")
    again = upload(store, folder, "uploads/pics/", Count().begin)
    assert (again.sent, again.present) == (1, 1)
    assert store.read(bucket.name, "uploads/pics/a b.png") == (folder / "a b.png").read_bytes()


@pytest.mark.parametrize(("name", "says"), [("missing", "no such folder"), ("empty", "has no images")])
def test_a_folder_without_pictures_is_refused(store, tmp_path, name, says):
    (tmp_path / "empty").mkdir()
    with pytest.raises(CarError, match=says):
        upload(store, tmp_path / name, "uploads/x/", Count().begin)


def test_a_missing_bucket_is_said_in_words(store, folder, s3_client, bucket):
    s3_client.delete_bucket(Bucket=bucket.name)
    with pytest.raises(BucketMissingError, match=bucket.name):
        upload(store, folder, "uploads/pics/", Count().begin)


def test_without_any_bucket_it_says_where_one_comes_from(monkeypatch, tmp_path):
    monkeypatch.delenv("S3_BUCKET", raising=False)
    with pytest.raises(UsageError, match="S3_BUCKET"):
        object_store(tmp_path)
