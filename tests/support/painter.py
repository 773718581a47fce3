"""A model whose masks are known beforehand, and the pipeline around it on real PostgreSQL and S3."""

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
from car.presets import preset
from car.rle import encode_coco
from car.segmentation import Mask, QueryScore, Segmentation, Step, StopReason
from car.vocabulary import Vocabulary
from db import vocabularies
from db.models import JobKind, Priority
from db.objects import ObjectStore
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
    """A picture of its own for each number."""
    pixels = np.random.default_rng(number).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    out = BytesIO()
    Image.fromarray(pixels).save(out, format="PNG")
    return out.getvalue()


class Painter:
    """A model that finds the left half of every picture to be the first label; it remembers what it was shown."""

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
        return BatchScheduler(self, images=self.batch, crops=1, most=self.batch)

    def kind(self, ask):
        return ask.image.shape

    def begin(self, asks, *, at_once):
        self.began.set()
        time.sleep(self.wait)
        if len(asks) > self.memory:
            raise MemoryError(f"{len(asks)} pictures")
        if any(ask.image[0, 0, 0] in self.breaks_on for ask in asks):
            raise ZeroDivisionError("a picture that breaks the model")
        self.batches.append(len(asks))
        return [StartedRequest(_rests(_halves(ask.image, ask.vocabulary.names[0]))) for ask in asks]


def _rests(found):
    """A recurrence that asks for no crops."""
    return found
    yield


def _halves(image, label):
    mask = np.zeros(image.shape[:2], bool)
    mask[:, : image.shape[1] // 2] = True
    query = QueryScore(label, label, 0.75, kept=True, area=int(mask.sum()))
    found = Mask(label, 0.75, int(mask.sum()), (0, 0, image.shape[1] // 2, image.shape[0]), encode_coco(mask))
    return Segmentation(
        width=image.shape[1],
        height=image.shape[0],
        masks=(found,),
        steps=(Step(1, (query,)),),
        stop_reason=StopReason.ONE_LEFT,
    )


class AtOnce:
    """Finishes in the calling thread."""

    def submit(self, unfinished):
        done = Future()
        done.set_result(unfinished)
        return done


@pytest.fixture
def engine(database_url):
    engine = make_engine(database_url, pool=20)
    yield engine
    engine.dispose()


@pytest.fixture
def objects(bucket):
    return ObjectStore(bucket.client, bucket.name, "car/")


@pytest.fixture
def pipeline_of(engine, objects):
    def make(model, name="w1", **limits):
        return Pipeline(engine, objects, model, AtOnce(), name, limits=Limits(**limits))

    return make


@pytest.fixture
def job_over(engine, objects, bucket):
    """A listed job over a prefix of the bucket."""

    def make(prefix="in/", labels=("cat", "dog"), priority=Priority.BULK, settings=None):
        with transaction(engine) as session:
            vocabulary = vocabularies.get_or_create(session, Vocabulary.of(labels))
            recipe = vocabularies.get_or_create_recipe(session, preset("demo").with_settings(settings or {}))
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
    def ask(sql, **values):
        with transaction(engine) as session:
            return session.execute(text(sql), values).all()

    return ask
