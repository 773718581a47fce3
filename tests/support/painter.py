"""A fake model whose masks are known in advance, and the pipeline around it on real PostgreSQL and S3."""

import threading
import time
from concurrent.futures import Future
from io import BytesIO
from typing import ClassVar

import numpy as np
import pytest
from PIL import Image
from sqlalchemy import text

from car.bulk_source import BulkSource
from car.presets import apply_settings, preset
from car.rle import encode_coco
from car.segmentation import Mask, QueryScore, Segmentation, Step, StopReason
from car.vocabulary import Vocabulary
from db import vocabularies
from db.models import JobKind, Priority
from db.objects import S3ObjectStore
from db.queue import jobs
from db.queue.progress import progress_of
from db.session import make_engine, transaction
from worker.errors import WeightsMissingError
from worker.listing import list_sources
from worker.pipeline.pipeline import Pipeline
from worker.pipeline.types import Limits
from worker.segmenter.batch_scheduler import BatchScheduler
from worker.segmenter.requests import StartedRequest

UNKNOWN_PAIR = 0.987


def png(number, size=(24, 16)):
    """A different image for each number, as a PNG file."""
    pixels = np.random.default_rng(number).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    out = BytesIO()
    Image.fromarray(pixels).save(out, format="PNG")
    return out.getvalue()


class Painter:
    """A model that labels the left half of every image with the first label; it records the sizes of its batches."""

    weights: ClassVar = {"proposal": "f" * 64, "classifier": "9" * 64}
    device = "painter"

    def __init__(self, batch=4, memory=99, breaks_on=(), wait=0.0):
        self.batch, self.memory, self.breaks_on, self.wait = batch, memory, set(breaks_on), wait
        self.batches = []
        self.began = threading.Event()

    def weights_for(self, recipe):
        if recipe.eta == UNKNOWN_PAIR:
            raise WeightsMissingError("this pair was never pulled")
        return self.weights

    def scheduler(self):
        return BatchScheduler(self, images=self.batch, crops=1, capacity=self.batch)

    def kind(self, request):
        return request.image.shape

    def begin(self, requests, *, batch_size):
        self.began.set()
        time.sleep(self.wait)
        if len(requests) > self.memory:
            raise MemoryError(f"{len(requests)} images")
        if any(request.image[0, 0, 0] in self.breaks_on for request in requests):
            raise ZeroDivisionError("an image that breaks the model")
        self.batches.append(len(requests))
        return [
            StartedRequest(_recurrence(_left_half(request.image, request.vocabulary.names[0]))) for request in requests
        ]


def _recurrence(segmentation):
    """A recurrence that needs no crops."""
    return segmentation
    yield


def _left_half(image, label):
    mask = np.zeros(image.shape[:2], bool)
    mask[:, : image.shape[1] // 2] = True
    query = QueryScore(label, label, 0.75, kept=True, area=int(mask.sum()))
    left = Mask(label, 0.75, int(mask.sum()), (0, 0, image.shape[1] // 2, image.shape[0]), encode_coco(mask))
    return Segmentation(
        width=image.shape[1],
        height=image.shape[0],
        masks=(left,),
        steps=(Step(1, (query,)),),
        stop_reason=StopReason.ONE_LEFT,
    )


class InlinePostprocess:
    """Returns what the model computed, in the calling thread."""

    def submit(self, pending):
        done = Future()
        done.set_result(pending)
        return done


@pytest.fixture
def engine(database_url):
    engine = make_engine(database_url, pool=20)
    yield engine
    engine.dispose()


@pytest.fixture
def objects(bucket):
    return S3ObjectStore(bucket.client, bucket.name, "car/")


@pytest.fixture
def pipeline_of(engine, objects):
    def make(model, name="w1", **limits):
        return Pipeline(engine, objects, model, InlinePostprocess(), name, limits=Limits(**limits))

    return make


@pytest.fixture
def job_over(engine, objects, bucket):
    """Create a job over a prefix of the bucket, and list it."""

    def make(prefix="in/", labels=("cat", "dog"), priority=Priority.BULK, settings=None):
        with transaction(engine) as session:
            vocabulary = vocabularies.get_or_create(session, Vocabulary.from_words(labels))
            recipe = vocabularies.get_or_create_recipe(session, apply_settings(preset("demo"), settings or {}))
            source = BulkSource.parse(f"s3://{bucket.name}/{prefix}").to_json()
            job, _ = jobs.create(
                session,
                jobs.NewJob(
                    kind=JobKind.BULK, priority=priority, source=source, vocabulary_id=vocabulary, recipe_id=recipe
                ),
            )
        list_sources(engine, objects, "lister")
        return job.id

    return make


@pytest.fixture
def counts(engine):
    def count(job_id):
        with transaction(engine) as session:
            progress = progress_of(session, jobs.get(session, job_id))
        return {str(state): n for state, n in progress.counts.items() if n}

    return count


@pytest.fixture
def sql(engine):
    def execute(sql, **values):
        with transaction(engine) as session:
            return session.execute(text(sql), values).all()

    return execute
