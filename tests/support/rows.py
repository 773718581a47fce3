"""What tests of db/ begin with: a database of their own, a job with items, a result."""

import hashlib
import itertools
import threading
from datetime import timedelta

import numpy as np
import pytest
from sqlalchemy import text

from car.presets import preset
from car.rle import encode_coco
from car.segmentation import Mask, QueryScore, Segmentation, Step, StopReason
from car.vocabulary import Vocabulary
from db import vocabularies
from db.models import JobKind, Priority
from db.queue import jobs
from db.results import store as result_store
from db.session import make_engine, transaction

LEASE = timedelta(seconds=30)
_numbers = itertools.count(1)


class Rows:
    """A database, by the functions of db/: each call is a transaction."""

    def __init__(self, engine):
        self.engine = engine

    def do(self, function, *args, **kwargs):
        with transaction(self.engine) as session:
            return function(session, *args, **kwargs)

    def sql(self, statement, **values):
        """Rows of a statement, where it gives any."""
        with transaction(self.engine) as session:
            found = session.execute(text(statement), values)
            return found.all() if found.returns_rows else []

    def wish(self, labels=("cat", "dog")):
        """Ids of a vocabulary and a recipe."""
        return self.do(vocabularies.get_or_create, Vocabulary.from_words(labels)), self.do(
            vocabularies.get_or_create_recipe, preset("demo")
        )

    def job(self, source=None, priority=Priority.BULK, **more):
        vocabulary, recipe = self.wish()
        new = jobs.NewJob(
            kind=JobKind.BULK,
            priority=priority,
            source=source or {"kind": "given", "given": []},
            vocabulary_id=vocabulary,
            recipe_id=recipe,
            **more,
        )
        return self.do(jobs.create, new)[0].id

    def items(self, job, number):
        """So many queued items of a job that is listed."""
        self.sql("UPDATE job SET listed_at = now() WHERE id = :job", job=job)
        made = self.sql(
            "INSERT INTO item (job_id, priority, uri) SELECT id, CASE priority WHEN 'bulk' THEN 1 ELSE 0 END, "
            "'s3://bucket/' || nextval(pg_get_serial_sequence('item', 'id')) "
            "FROM job, generate_series(1, :number) WHERE id = :job RETURNING id",
            job=job,
            number=number,
        )
        return [row.id for row in made]

    def new_result(self, name=None, labels=("cat",)):
        """A result as a worker stores it; another one for each name."""
        vocabulary, recipe = self.wish()
        name = name or f"picture {next(_numbers)}"
        return result_store.NewResult(
            run_key=hashlib.sha256(f"run {name}".encode()).hexdigest(),
            sha256=hashlib.sha256(name.encode()).hexdigest(),
            format="PNG",
            notes=(),
            segmentation=segmentation(labels),
            vocabulary_id=vocabulary,
            recipe_id=recipe,
            model_version="v1",
            weights={"proposal": "f" * 64},
            code_version="1",
            device="cpu",
            masks_key="masks",
            labelmap_key="labelmap",
            preview_key=None,
        )

    def result(self, name=None):
        new = self.new_result(name)
        return self.do(result_store.store, "somebody", [new])[new.run_key]


def segmentation(labels):
    """One mask for each label, and a history of one step."""
    pixels = np.zeros((16, 24), bool)
    pixels[:, :12] = True
    area = int(pixels.sum())
    return Segmentation(
        width=24,
        height=16,
        masks=tuple(Mask(label, 0.75, area, (0, 0, 12, 16), encode_coco(pixels)) for label in labels),
        steps=(Step(1, tuple(QueryScore(label, label, 0.75, kept=True, area=area) for label in labels)),),
        stop_reason=StopReason.UNCHANGED,
    )


def together(*functions):
    """What each returns, all called at the same moment on threads of their own; the first error is raised."""
    barrier, answers = threading.Barrier(len(functions)), [None] * len(functions)

    def call(number, function):
        barrier.wait()
        try:
            answers[number] = function()
        except BaseException as error:  # noqa: BLE001 - carried over to the test's thread
            answers[number] = error

    threads = [threading.Thread(target=call, args=pair) for pair in enumerate(functions)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for answer in answers:
        if isinstance(answer, BaseException):
            raise answer
    return answers


@pytest.fixture
def rows(database_url):
    engine = make_engine(database_url, pool=20)
    yield Rows(engine)
    engine.dispose()
