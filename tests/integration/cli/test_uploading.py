"""Folders of pictures into a real S3 server."""

import pytest
from PIL import Image

from car.bulk_source import manifest_line, split_s3
from car.errors import CarError
from cli.commands.jobs import _local_manifest
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


def contents(store, manifest):
    """The bytes of a manifest's images by the paths in their keys."""
    uris = [manifest_line(line) for _, line in store.lines(*split_s3(manifest))]
    return {uri.split("/", 6)[-1]: store.read(*split_s3(uri)) for uri in uris}


def test_images_are_named_by_their_digest_and_path_and_nothing_else_is_sent(store, folder, bucket):
    count = Count()
    sent = upload(store, folder, "uploads/pics/", count.begin)
    assert (sent.sent, sent.present) == (2, 0)
    assert contents(store, sent.manifest) == {
        "a b.png": (folder / "a b.png").read_bytes(),
        "below/ü.jpg": (folder / "below" / "ü.jpg").read_bytes(),
    }
    assert len(bucket.keys()) == 3  # with the manifest
    assert (count.total, count.done) == (2, 2)


def test_what_is_there_is_not_sent_again_and_what_changed_is_sent_beside_it(store, folder):
    before = upload(store, folder, "uploads/pics/", Count().begin)
    images = contents(store, before.manifest)
    again = upload(store, folder, "uploads/pics/", Count().begin)
    assert (again.manifest, again.sent, again.present) == (before.manifest, 0, 2)
    Image.new("RGB", (8, 8), (0, 200, 0)).save(folder / "a b.png")
    after = upload(store, folder, "uploads/pics/", Count().begin)
    assert (after.sent, after.present) == (1, 1)
    assert contents(store, after.manifest)["a b.png"] == (folder / "a b.png").read_bytes()
    assert contents(store, before.manifest) == images


def test_two_folders_of_one_name_share_neither_images_nor_keys(store, tmp_path):
    uploads = []
    for customer, color in (("A", (200, 0, 0)), ("B", (0, 0, 200))):
        folder = tmp_path / customer / "images"
        folder.mkdir(parents=True)
        Image.new("RGB", (8, 8), color).save(folder / "1.png")
        Image.new("RGB", (8, 8), color).save(folder / f"only-{customer}.png")
        uploads.append((folder, upload(store, folder, "uploads/images/", Count().begin)))
    for folder, sent in uploads:
        assert contents(store, sent.manifest) == {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(("name", "says"), [("missing", "no such folder"), ("empty", "has no images")])
def test_a_folder_without_pictures_is_refused(store, tmp_path, name, says):
    (tmp_path / "empty").mkdir()
    with pytest.raises(CarError, match=says):
        upload(store, tmp_path / name, "uploads/x/", Count().begin)


def test_a_local_manifest_of_any_size_becomes_one_in_the_bucket(store, tmp_path, bucket):
    file = tmp_path / "list.csv"
    file.write_text("".join(f"s3://pics/{number}.jpg,cat\n" for number in range(10_001)))
    source = _local_manifest(file, tmp_path)
    assert source["manifest"].startswith(f"s3://{bucket.name}/uploads/manifests/")
    assert source["manifest"].endswith(".csv")
    assert store.read(*split_s3(source["manifest"])) == file.read_bytes()
    file.write_text("s3://pics/1.jpg,cat\n")
    assert _local_manifest(file, tmp_path) == ["s3://pics/1.jpg"]


def test_a_missing_bucket_is_said_in_words(store, folder, s3_client, bucket):
    s3_client.delete_bucket(Bucket=bucket.name)
    with pytest.raises(BucketMissingError, match=bucket.name):
        upload(store, folder, "uploads/pics/", Count().begin)


def test_without_any_bucket_it_says_where_one_comes_from(monkeypatch, tmp_path):
    monkeypatch.delenv("S3_BUCKET", raising=False)
    with pytest.raises(UsageError, match="S3_BUCKET"):
        object_store(tmp_path)
