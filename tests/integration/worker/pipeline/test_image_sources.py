"""Jobs whose images are on the web or in Label Studio, through the pipeline, on real PostgreSQL and S3."""

import base64

import pytest
from sqlalchemy import text

from car.bulk_source import BulkSource
from car.label_studio.image_urls import resolve_url
from car.presets import preset
from car.vocabulary import Vocabulary
from db import vocabularies
from db.models import JobKind, Priority
from db.queue import jobs
from db.session import transaction
from tests.support.painter import InlinePostprocess, Painter
from tests.support.picture_server import image_bytes, redirect
from worker.images.fetch import ImageFetcher
from worker.listing import list_sources
from worker.pipeline.pipeline import Pipeline


@pytest.fixture
def run(engine, objects):
    """Lists and drains a job over such addresses; what became of its items, by address."""

    def drained(addresses, sources):
        with transaction(engine) as session:
            vocabulary = vocabularies.get_or_create(session, Vocabulary.from_words(["cat", "dog"]))
            recipe = vocabularies.get_or_create_recipe(session, preset("demo"))
            source = BulkSource.parse(addresses).to_json()
            wish = jobs.NewJob(
                kind=JobKind.BULK, priority=Priority.BULK, source=source, vocabulary_id=vocabulary, recipe_id=recipe
            )
            jobs.create(session, wish)
        list_sources(engine, objects, "lister")
        pipeline = Pipeline(engine, objects, Painter(), InlinePostprocess(), "w1", image_reader=sources)
        pipeline.run_until_idle()
        pipeline.close()
        with transaction(engine) as session:
            found = session.execute(
                text(
                    "SELECT item.uri, item.state, item.error_code, image.width, image.height FROM item "
                    "LEFT JOIN result ON result.id = item.result_id LEFT JOIN image ON image.id = result.image_id"
                )
            )
            return {row.uri: tuple(row)[1:] for row in found}

    return drained


def test_images_on_the_web_are_labeled_and_what_may_not_be_asked_fails_with_its_reason(run, objects, site):
    site.pages |= {
        "/turned.jpg": image_bytes("JPEG", width=64, height=48, orientation=6),
        "/moved.png": redirect("/there.png"),
        "/there.png": image_bytes(width=40, height=30),
        "/page.png": b"<!doctype html><html></html>",
        "/away": redirect("http://169.254.169.254/latest/meta-data/"),
    }
    ended = run(
        [
            f"{site.url}/turned.jpg",
            f"{site.url}/moved.png",
            f"{site.url}/page.png",
            f"{site.url}/none.png",
            f"{site.url}/away",
            "http://127.0.0.1:1/a.png",
            "ftp://127.0.0.1/a.png",
        ],
        ImageFetcher(objects, allowed={"CAR_ALLOWED_HOSTS": site.host_port}),
    )
    assert ended == {
        f"{site.url}/turned.jpg": ("done", None, 48, 64),
        f"{site.url}/moved.png": ("done", None, 40, 30),
        f"{site.url}/page.png": ("failed", "image_unsupported", None, None),
        f"{site.url}/none.png": ("failed", "source_not_found", None, None),
        f"{site.url}/away": ("failed", "source_forbidden", None, None),
        "http://127.0.0.1:1/a.png": ("failed", "source_forbidden", None, None),
        "ftp://127.0.0.1/a.png": ("failed", "source_invalid", None, None),
    }


def test_a_server_in_trouble_is_asked_again_later(run, objects, site):
    site.pages["/busy.png"] = (503, {}, b"")
    ended = run([f"{site.url}/busy.png"], ImageFetcher(objects, allowed={"CAR_ALLOWED_HOSTS": site.host_port}))
    assert ended == {f"{site.url}/busy.png": ("queued", "source_unreachable", None, None)}


def test_an_image_within_a_task_is_labeled_from_our_own_bucket(run, objects, bucket):
    data = image_bytes(width=40, height=30)
    address = resolve_url(
        "data:image/png;base64," + base64.b64encode(data).decode(), instance="http://ls.example", objects=objects
    )
    assert (
        resolve_url("data:image/png;base64," + base64.b64encode(data).decode(), instance="", objects=objects) == address
    )
    assert len(bucket.keys("car/inputs/")) == 1
    assert run([address], None) == {address: ("done", None, 40, 30)}
