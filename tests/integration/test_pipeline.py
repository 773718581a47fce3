"""The pipeline on real PostgreSQL and S3, with a model whose masks are known beforehand."""

import hashlib
import json
import threading
import time
from concurrent.futures import Future
from datetime import timedelta
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
from db import items, jobs, results, vocabularies
from db.errors import StoreUnreachable
from db.models import ItemState, JobKind, Lane
from db.objects import ObjectStore
from db.progress import progress_of
from db.session import make_engine, transaction
from db.tasks import Asked
from tests.label_studio_rows import ProjectRows
from worker.errors import WeightsMissing
from worker.listing import list_sources
from worker.pipeline import intake
from worker.pipeline.pipeline import Pipeline
from worker.pipeline.work import Limits
from worker.segmenter.asking import Begun
from worker.segmenter.flow import Flow

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
            raise WeightsMissing("this pair was never pulled")
        return self.weights

    def flow(self):
        return Flow(self, images=self.batch, crops=1, most=self.batch)

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
        return [Begun(_rests(_halves(ask.image, ask.vocabulary.names[0]))) for ask in asks]


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

    def make(prefix="in/", labels=("cat", "dog"), lane=Lane.BULK, settings=None):
        with transaction(engine) as session:
            vocabulary = vocabularies.keep(session, Vocabulary.of(labels))
            recipe = vocabularies.keep_recipe(session, preset("demo").with_settings(settings or {}))
            source = BulkSource.parse(f"s3://{bucket.name}/{prefix}").to_json()
            job, _ = jobs.create(
                session,
                jobs.NewJob(kind=JobKind.BULK, lane=lane, source=source, vocabulary_id=vocabulary, recipe_id=recipe),
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
def rows(engine):
    def ask(sql, **values):
        with transaction(engine) as session:
            return session.execute(text(sql), values).all()

    return ask


def test_every_good_picture_is_done_once_and_every_bad_one_fails_with_its_code(
    bucket, job_over, pipeline_of, counts, rows
):
    for number in range(9):
        bucket.put(f"in/{number}.png", png(number))
    bucket.put("in/text.png", b"this is text")
    bucket.put("in/cut.png", png(77)[:60])
    job = job_over()
    drained = pipeline_of(Painter()).drain()
    assert (drained.done, drained.failed, drained.dropped, drained.handed_back) == (9, 2, 0, 0)
    assert counts(job) == {"done": 9, "failed": 2}
    codes = dict(rows("SELECT uri, error_code FROM item WHERE state = 'failed'"))
    assert codes == {
        f"s3://{bucket.name}/in/text.png": "image_unsupported",
        f"s3://{bucket.name}/in/cut.png": "image_corrupt",
    }
    assert rows("SELECT count(*) FROM result") == [(9,)]
    assert rows("SELECT count(*) FROM query_step") == [(9,)]
    assert rows("SELECT count(*) FROM reservation") == [(0,)]


def test_equal_pictures_are_computed_once_and_each_has_the_result(bucket, job_over, pipeline_of, counts, rows):
    for place in ("in/a.png", "in/b.png", "in/deep/c.png"):
        bucket.put(place, png(1))
    job, model = job_over(), Painter()
    drained = pipeline_of(model).drain()
    assert sum(model.batches) == 1
    assert (drained.done, drained.reused) == (3, 2)
    assert counts(job) == {"done": 3}
    assert rows("SELECT count(DISTINCT result_id), count(*) FROM item") == [(1, 3)]


def test_a_known_picture_never_reaches_the_model_again(bucket, job_over, pipeline_of, counts):
    bucket.put("in/a.png", png(1))
    job_over()
    pipeline_of(Painter()).drain()
    bucket.put("again/other-name.png", png(1))
    job, model = job_over("again/"), Painter()
    assert pipeline_of(model, "w2").drain().reused == 1
    assert model.batches == []
    assert counts(job) == {"done": 1}


def test_other_words_are_another_result(bucket, job_over, pipeline_of, rows):
    bucket.put("in/a.png", png(1))
    job_over()
    job_over(labels=("dog", "cat"))
    model = Painter()
    pipeline_of(model).drain()
    assert sum(model.batches) == 2
    assert rows("SELECT count(DISTINCT run_key) FROM result") == [(2,)]


def test_objects_say_what_the_rows_say(bucket, job_over, pipeline_of, rows):
    data = png(3)
    bucket.put("in/a.png", data)
    job_over()
    pipeline_of(Painter()).drain()
    ((key, labelmap, shown, run_key),) = rows(
        "SELECT masks_key, labelmap_key, preview_key, run_key FROM result JOIN image ON image.id = image_id"
    )
    document = json.loads(bucket.client.get_object(Bucket=bucket.name, Key=key)["Body"].read())
    assert document["image"] == {"sha256": hashlib.sha256(data).hexdigest(), "width": 24, "height": 16}
    assert document["run_key"] == run_key
    assert run_key in key
    (mask,) = document["masks"]
    ((label, score, area),) = rows("SELECT label, score, area FROM mask")
    assert (mask["label"], mask["score"], mask["area"]) == (label, score, area) == ("cat", 0.75, 12 * 16)
    image = Image.open(BytesIO(bucket.client.get_object(Bucket=bucket.name, Key=labelmap)["Body"].read()))
    assert image.mode == "P"
    assert (np.asarray(image)[:, :12] == 1).all()
    assert (np.asarray(image)[:, 12:] == 0).all()
    assert Image.open(BytesIO(bucket.client.get_object(Bucket=bucket.name, Key=shown)["Body"].read())).size == (24, 16)


def test_memory_too_small_for_a_batch_halves_it_and_goes_on(bucket, job_over, pipeline_of, counts):
    for number in range(8):
        bucket.put(f"in/{number}.png", png(number))
    job, model = job_over(), Painter(batch=8, memory=2)
    pipeline_of(model).drain()
    assert counts(job) == {"done": 8}
    assert max(model.batches) <= 2


def test_memory_too_small_for_one_picture_fails_it_with_a_reason(bucket, job_over, pipeline_of, rows):
    bucket.put("in/a.png", png(1))
    job_over()
    pipeline_of(Painter(memory=0)).drain()
    ((code, detail),) = rows("SELECT error_code, error_detail FROM item")
    assert code == "out_of_memory"
    assert "24 x 16" in detail


def test_a_picture_that_breaks_the_model_does_not_fail_its_neighbours(bucket, job_over, pipeline_of, counts, rows):
    pictures = {number: png(number) for number in range(8)}
    for number, data in pictures.items():
        bucket.put(f"in/{number}.png", data)
    evil = np.asarray(Image.open(BytesIO(pictures[5])))[0, 0, 0]
    job = job_over()
    pipeline_of(Painter(batch=8, breaks_on=[evil])).drain()
    assert counts(job) == {"done": 7, "failed": 1}
    assert rows("SELECT uri FROM item WHERE error_code = 'internal_error'") == [(f"s3://{bucket.name}/in/5.png",)]


def test_a_stopped_worker_hands_back_at_no_cost_of_an_attempt(bucket, job_over, pipeline_of, counts, rows):
    for number in range(40):
        bucket.put(f"in/{number}.png", png(number))
    job, model = job_over(), Painter(batch=2, wait=0.2)
    drained = pipeline_of(model).drain(stop=model.began.is_set)
    assert drained.handed_back > 0
    assert drained.more
    assert 1 <= drained.done <= 2  # what had begun
    assert counts(job) == {"done": drained.done, "queued": 40 - drained.done}
    assert rows("SELECT DISTINCT attempt, lost, alone FROM item WHERE state = 'queued'") == [(0, 0, False)]
    assert rows("SELECT count(*) FROM reservation") == [(0,)]
    pipeline_of(Painter(), "w2").drain()
    assert counts(job) == {"done": 40}
    assert rows("SELECT DISTINCT attempt FROM item") == [(1,)]


def test_a_batch_that_outlasts_the_grace_is_handed_back_and_its_late_result_dropped(
    bucket, job_over, pipeline_of, counts, rows
):
    bucket.put("in/a.png", png(1))
    job, model = job_over(), Painter(wait=1.5)
    drained = pipeline_of(model, grace_seconds=0.2).drain(stop=model.began.is_set)
    assert (drained.handed_back, drained.done, drained.dropped) == (1, 0, 1)
    assert counts(job) == {"queued": 1}
    assert rows("SELECT count(*) FROM result") == [(0,)]


def test_a_slice_of_time_ends_with_everything_that_was_begun(bucket, job_over, pipeline_of, counts):
    for number in range(30):
        bucket.put(f"in/{number}.png", png(number))
    job, model = job_over(), Painter(batch=2, wait=0.4)
    drained = pipeline_of(model).drain(seconds=1.0)
    assert drained.more
    assert drained.handed_back == 0
    done = counts(job)["done"]
    assert 2 <= done < 30
    assert counts(job) == {"done": done, "queued": 30 - done}


def test_a_long_batch_keeps_its_lease_by_heartbeats(bucket, job_over, pipeline_of, engine, counts):
    bucket.put("in/a.png", png(1))
    job, model = job_over(), Painter(wait=2.5)
    looks = []

    def reap_meanwhile():
        for _ in range(10):
            time.sleep(0.2)
            with transaction(engine) as session:
                looks.append(items.reap(session).requeued)

    other = threading.Thread(target=reap_meanwhile)
    other.start()
    drained = pipeline_of(model, lease=timedelta(seconds=1)).drain()
    other.join()
    assert sum(looks) == 0
    assert drained.done == 1
    assert counts(job) == {"done": 1}


def test_what_was_taken_over_while_it_was_computed_is_dropped(bucket, job_over, pipeline_of, engine, counts, rows):
    bucket.put("in/a.png", png(1))
    job, model = job_over(), Painter(wait=1.0)

    def take_over():
        model.began.wait()
        with transaction(engine) as session:
            session.execute(text("UPDATE item SET leased_until = now() - interval '1 second'"))
            items.reap(session)
        with transaction(engine) as session:
            items.claim(session, "thief", limit=9, lease=timedelta(seconds=30))

    other = threading.Thread(target=take_over)
    other.start()
    drained = pipeline_of(model).drain()
    other.join()
    assert (drained.done, drained.dropped) == (0, 1)
    assert counts(job) == {"running": 1}
    assert rows("SELECT worker, attempt FROM item") == [("thief", 2)]
    assert rows("SELECT count(*) FROM result") == [(0,)]


def test_a_cancelled_job_stops_within_a_batch(bucket, job_over, pipeline_of, engine, counts):
    for number in range(40):
        bucket.put(f"in/{number}.png", png(number))
    job, model = job_over(), Painter(batch=2, wait=0.4)

    def cancel():
        model.began.wait()
        with transaction(engine) as session:
            jobs.cancel(session, job)

    other = threading.Thread(target=cancel)
    other.start()
    pipeline_of(model, lease=timedelta(seconds=1)).drain()
    other.join()
    assert counts(job) == {"cancelled": 40}
    assert len(model.batches) <= 3


def test_a_suspect_is_computed_alone(bucket, job_over, pipeline_of, counts, engine):
    for number in range(12):
        bucket.put(f"in/{number}.png", png(number))
    job = job_over()
    with transaction(engine) as session:
        session.execute(text("UPDATE item SET alone = true WHERE uri LIKE '%/5.png' OR uri LIKE '%/7.png'"))
    model = Painter(batch=4)
    pipeline_of(model).drain()
    assert counts(job) == {"done": 12}
    assert model.batches.count(1) >= 2


def test_interactive_pictures_go_before_a_job_of_many(bucket, job_over, pipeline_of, rows):
    for number in range(30):
        bucket.put(f"many/{number}.png", png(number))
    bucket.put("one/a.png", png(99))
    job_over("many/")
    urgent = job_over("one/", lane=Lane.INTERACTIVE)
    model = Painter(batch=2, wait=0.05)
    pipeline_of(model, ahead=1).drain()
    before = rows(
        "SELECT count(*) FROM item WHERE job_id <> :job AND finished_at < "
        "(SELECT finished_at FROM item WHERE job_id = :job)",
        job=urgent,
    )
    assert before[0][0] <= 8


def test_a_missing_object_fails_and_a_store_that_is_away_is_tried_again_later(
    bucket, job_over, pipeline_of, objects, rows, engine
):
    bucket.put("in/a.png", png(1))
    job_over()
    bucket.client.delete_object(Bucket=bucket.name, Key="in/a.png")
    pipeline_of(Painter()).drain()
    assert rows("SELECT state, error_code FROM item") == [("failed", "object_missing")]

    class Away(ObjectStore):
        def read(self, bucket, key, *, max_bytes=None):
            raise StoreUnreachable("the S3 server does not answer")

    with transaction(engine) as session:
        session.execute(text("UPDATE item SET state = 'queued', finished_at = NULL, failures = 0"))
    pipeline = pipeline_of(Painter())
    pipeline.objects = Away(objects.client, objects.bucket, objects.prefix)
    pipeline.drain()
    assert rows("SELECT state, error_code, failures, not_before > now() FROM item") == [
        ("queued", "store_unreachable", 1, True)
    ]


def test_a_recipe_whose_models_are_not_here_fails_with_a_reason_and_others_go_on(
    bucket, job_over, pipeline_of, counts, rows
):
    bucket.put("in/a.png", png(1))
    refused = job_over(settings={"eta": str(UNKNOWN_PAIR)})
    job = job_over()
    pipeline_of(Painter()).drain()
    assert (counts(refused), counts(job)) == ({"failed": 1}, {"done": 1})
    assert rows("SELECT error_code FROM item WHERE state = 'failed'") == [("weights_missing",)]


def test_what_another_worker_stores_between_the_look_and_the_reservation_is_not_computed_again(
    bucket, job_over, pipeline_of, counts, rows, monkeypatch
):
    bucket.put("in/one.png", png(1))
    job, look, other, mine = job_over(), results.known, Painter(), Painter()

    def slow(session, keys):
        seen = look(session, keys)
        monkeypatch.setattr(results, "known", look)
        time.sleep(max(0.0, claiming - time.monotonic()))  # this worker claims nothing of the second job
        bucket.put("in/two.png", png(1))
        job_over()
        pipeline_of(other, "w2").drain()
        return seen

    monkeypatch.setattr(results, "known", slow)
    claiming = time.monotonic() + 3.5
    pipeline_of(mine, "w1").drain(seconds=3)
    assert counts(job) == {"done": 1}
    assert sum(other.batches) == 1
    assert mine.batches == []
    assert rows("SELECT count(*) FROM reservation") == [(0,)]


def test_two_workers_share_a_job_without_computing_anything_twice(bucket, job_over, pipeline_of, counts, rows):
    for number in range(30):
        bucket.put(f"in/{number}.png", png(number % 20))
    job = job_over()
    models = [Painter(batch=2, wait=0.02), Painter(batch=2, wait=0.02)]
    workers = [threading.Thread(target=pipeline_of(model, f"w{k}").drain, kwargs={}) for k, model in enumerate(models)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    # A picture that the other one computes is put off for a moment.
    for _ in range(20):
        if counts(job) == {"done": 30}:
            break
        time.sleep(0.3)
        pipeline_of(models[0], "w3").drain()
    assert counts(job) == {"done": 30}
    assert sum(sum(model.batches) for model in models) == 20
    assert rows("SELECT count(*) FROM result") == [(20,)]


def test_states_are_the_ones_the_api_knows():
    assert {str(state) for state in ItemState} == {"queued", "running", "done", "failed", "dead", "cancelled"}


def test_words_of_each_task_are_as_many_as_pictures_and_a_worker_keeps_few_of_them(
    bucket, engine, pipeline_of, monkeypatch
):
    monkeypatch.setattr(intake, "_WISHES_KEPT", 2)
    project = ProjectRows(engine)
    words = project.do(vocabularies.keep_all, [Vocabulary.of([f"word {number}"]) for number in range(6)])
    asked = [
        Asked(task=number, uri=f"s3://{bucket.name}/in/{number % 2}.png", vocabulary_id=words[number % 6])
        for number in range(18)
    ]
    for number in range(2):
        bucket.put(f"in/{number}.png", png(number + 1))
    project.ask(*asked, weights=Painter.weights)
    drained = pipeline_of(Painter(batch=2)).drain()
    assert (drained.done, drained.failed) == (6, 0)
    project.ask(*asked, weights=Painter.weights)
    assert [row.task for row in project.predictions()] == list(range(18))
    labels = project.sql(
        "SELECT task.task, mask.label FROM task JOIN item ON item.id = task.item_id "
        "JOIN mask ON mask.result_id = item.result_id"
    )
    assert dict(map(tuple, labels)) == {number: f"word {number % 6}" for number in range(18)}
