"""Fixtures of the API: a client with a key of each scope, and results made through the worker's own doors."""

import os
import socket
import subprocess
import sys
import time
from contextlib import closing
from datetime import timedelta
from typing import NamedTuple

import httpx
import numpy as np
import pytest
from fastapi.testclient import TestClient

from api.app import create_app
from api.settings import ApiSettings
from car.presets import preset
from car.recipe import Recipe
from car.rle import bbox, encode_coco
from car.segmentation import Mask, MaskSource, Pass, QueryScore, Segmentation, Step, StopReason
from car.vocabulary import Vocabulary
from db import api_keys, vocabularies
from db.label_studio.outbox import complete_items
from db.models import JobKind, Priority, Result
from db.objects import S3ObjectStore
from db.queue import items, jobs, listings
from db.queue.items import CompletedItem
from db.queue.jobs import NewJob
from db.queue.listings import ListedObject
from db.results import store as result_store
from db.results.store import NewResult
from db.session import make_engine, transaction
from worker.images import DecodedImage
from worker.pipeline.result_objects import store_objects
from worker.pipeline.types import FetchedItem, RunSpec

LEASE = timedelta(minutes=5)
WEIGHTS = {"proposal": "aa", "classifier": "bb"}


@pytest.fixture
def api_settings(engine_environment):
    return ApiSettings(**{name: value for name, value in engine_environment.items() if name in api_names()})


def api_names():
    return {field.alias for field in ApiSettings.model_fields.values()}


@pytest.fixture
def database(database_url):
    engine = make_engine(database_url)
    yield engine
    engine.dispose()


class Keys(NamedTuple):
    read: str
    write: str
    admin: str


@pytest.fixture
def keys(database):
    with transaction(database) as session:
        return Keys(*(api_keys.create(session, scope, [scope])[1] for scope in api_keys.Scope))


@pytest.fixture
def app(api_settings):
    return create_app(api_settings)


@pytest.fixture
def anonymous(app):
    with TestClient(app) as client:
        yield client


@pytest.fixture
def client(anonymous, keys):
    """Of a key that may do everything."""
    anonymous.headers["Authorization"] = f"Bearer {keys.admin}"
    return anonymous


def bearer(key):
    return {"Authorization": f"Bearer {key}"}


class Written(NamedTuple):
    """A result as `Rows.result` made it."""

    id: object
    run_key: str
    segmentation: Segmentation
    uri: str


class Rows:
    """Jobs, items and results, written as workers write them."""

    def __init__(self, database, objects):
        self.database = database
        self.objects = objects
        self._made = 0

    def job(self, labels=("cat", "dog"), *, kind=JobKind.BULK, uris=()):
        """A listed job with these items."""
        with transaction(self.database) as session:
            new = NewJob(
                kind=kind,
                priority=Priority.BULK,
                source={"kind": "prefix", "bucket": "pictures", "key": ""},
                vocabulary_id=vocabularies.get_or_create(session, Vocabulary.from_words(labels)),
                recipe_id=vocabularies.get_or_create_recipe(session, preset("voc")),
            )
            job, _ = jobs.create(session, new)
            listing = listings.claim(session, "lister", LEASE)
            assert listing.id == job.id
            listings.add(session, "lister", listing, [ListedObject(uri) for uri in uris], cursor={}, lease=LEASE)
            listings.finish(session, "lister", listing)
            return job

    def result(
        self,
        masks=(("cat", 0.9),),
        *,
        dropped=(),
        job=None,
        uris=None,
        model_version="car-1",
        size=(64, 48),
        preview=True,
        sha256=None,
    ):
        """A result of one picture with masks (label, score) and dropped words (label, step), done as items of `job`."""
        self._made += 1
        uris = [f"s3://pictures/{self._made}.png"] if uris is None else uris
        labels = [label for label, *_ in masks] + [label for label, _ in dropped]
        job = job or self.job(labels or ["cat"])
        found = segmentation(masks, dropped, size)
        picture = DecodedImage(
            np.full((size[1], size[0], 3), 200, np.uint8), *size, sha256 or f"{self._made:064x}", "PNG", ()
        )
        run_key = f"{self._made:064x}"
        wish = RunSpec(
            job.vocabulary_id, job.recipe_id, Vocabulary.from_words(labels or ["cat"]), Recipe(), WEIGHTS, model_version
        )
        fetched = FetchedItem(None, wish, picture, run_key)
        masks_key, labelmap_key, preview_key = store_objects(self.objects, fetched, found)
        with transaction(self.database) as session:
            self._add(session, job, uris)
            mine = items.claim(session, "worker", limit=100, lease=LEASE)
            assert len(mine) == len(uris)
            new = NewResult(
                run_key=run_key,
                sha256=picture.sha256,
                format="PNG",
                notes=(),
                segmentation=found,
                vocabulary_id=job.vocabulary_id,
                recipe_id=job.recipe_id,
                model_version=model_version,
                weights=WEIGHTS,
                code_version="0.1.0",
                device="cpu",
                masks_key=masks_key,
                labelmap_key=labelmap_key,
                preview_key=preview_key if preview else None,
            )
            result_id = result_store.store(session, "worker", [new])[run_key]
            complete_items(
                session, "worker", [CompletedItem(one, result_id, number > 0) for number, one in enumerate(mine)]
            )
        return Written(result_id, run_key, found, uris[0] if uris else "")

    def delete_objects(self, result_id):
        """Delete masks and label map of a result, as a lifecycle rule would."""
        with transaction(self.database) as session:
            row = session.get(Result, result_id)
            keys = (row.masks_key, row.labelmap_key)
        for key in keys:
            self.objects.client.delete_object(Bucket=self.objects.bucket, Key=key)

    def _add(self, session, job, uris):
        jobs.rescan(session, job.id)
        session.flush()
        listing = listings.claim(session, "lister", LEASE)
        listings.add(session, "lister", listing, [ListedObject(uri) for uri in uris], cursor={}, lease=LEASE)
        listings.finish(session, "lister", listing)


@pytest.fixture
def api_rows(database, api_settings):
    return Rows(database, S3ObjectStore.from_settings(api_settings))


def segmentation(masks, dropped, size):
    """Two steps: all words, then those that lived; each mask a stripe of its own."""
    width, height = size
    words = [label for label, *_ in masks] + [label for label, _ in dropped]
    last = max([2, *(step for _, step in dropped)])
    fell = dict(dropped)
    scores = dict(masks)
    steps = tuple(
        Step(
            number,
            tuple(
                QueryScore(word, f"a photo of {word}", scores.get(word, 0.1), fell.get(word) != number, 100)
                for word in words
                if fell.get(word, last) >= number
            ),
            Pass.THINGS,
        )
        for number in range(1, last + 1)
    )
    found = []
    for number, (label, score) in enumerate(masks):
        pixels = np.zeros((height, width), bool)
        pixels[:, number * width // len(masks) : (number + 1) * width // len(masks) - 1] = True
        rle = encode_coco(pixels)
        found.append(Mask(label, score, int(pixels.sum()), tuple(bbox(rle)), rle, MaskSource.CRF))
    return Segmentation(width, height, tuple(found), steps, StopReason.UNCHANGED, {"proposal_ms": 1.5})


@pytest.fixture
def served(served_process):
    """The real process: its address and what it printed."""
    return served_process


@pytest.fixture
def served_process(engine_environment):
    """See `served`, which a test may give another environment first."""
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "api", "--port", str(port)],
        env=engine_environment | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    base = f"http://127.0.0.1:{port}"
    for _ in range(300):
        try:
            httpx.get(f"{base}/healthz", trust_env=False)
            break
        except httpx.TransportError:
            assert process.poll() is None, process.stdout.read()
            time.sleep(0.1)
    yield base, process
    process.kill()
    process.wait()
    process.stdout.close()
