"""What goes wrong with a picture, a model or a worker costs the pipeline that picture and nothing else."""

import threading
import time
from datetime import timedelta
from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from sqlalchemy import text

from db.errors import StoreUnreachableError
from db.objects import ObjectStore
from db.queue import items, jobs
from db.session import transaction
from tests.support.painter import UNKNOWN_PAIR, Painter, png


def test_memory_too_small_for_a_batch_halves_it_and_goes_on(bucket, job_over, pipeline_of, counts):
    for number in range(8):
        bucket.put(f"in/{number}.png", png(number))
    job, model = job_over(), Painter(batch=8, memory=2)
    pipeline_of(model).run_until_idle()
    assert counts(job) == {"done": 8}
    assert max(model.batches) <= 2


def test_memory_too_small_for_one_picture_fails_it_with_a_reason(bucket, job_over, pipeline_of, sql):
    bucket.put("in/a.png", png(1))
    job_over()
    pipeline_of(Painter(memory=0)).run_until_idle()
    ((code, detail),) = sql("SELECT error_code, error_detail FROM item")
    assert code == "out_of_memory"
    assert "24 x 16" in detail


def test_a_picture_that_breaks_the_model_does_not_fail_its_neighbours(bucket, job_over, pipeline_of, counts, sql):
    pictures = {number: png(number) for number in range(8)}
    for number, data in pictures.items():
        bucket.put(f"in/{number}.png", data)
    evil = np.asarray(Image.open(BytesIO(pictures[5])))[0, 0, 0]
    job = job_over()
    pipeline_of(Painter(batch=8, breaks_on=[evil])).run_until_idle()
    assert counts(job) == {"done": 7, "failed": 1}
    assert sql("SELECT uri FROM item WHERE error_code = 'internal_error'") == [(f"s3://{bucket.name}/in/5.png",)]


def test_a_stopped_worker_hands_back_at_no_cost_of_an_attempt(bucket, job_over, pipeline_of, counts, sql):
    for number in range(40):
        bucket.put(f"in/{number}.png", png(number))
    job, model = job_over(), Painter(batch=2, wait=0.2)
    drained = pipeline_of(model).run_until_idle(stop=model.began.is_set)
    assert drained.released > 0
    assert drained.has_more
    assert 1 <= drained.done <= 2  # what had begun
    assert counts(job) == {"done": drained.done, "queued": 40 - drained.done}
    assert sql("SELECT DISTINCT attempt, lost_lease_count, isolated FROM item WHERE state = 'queued'") == [
        (0, 0, False)
    ]
    assert sql("SELECT count(*) FROM reservation") == [(0,)]
    pipeline_of(Painter(), "w2").run_until_idle()
    assert counts(job) == {"done": 40}
    assert sql("SELECT DISTINCT attempt FROM item") == [(1,)]


def test_a_model_that_cannot_go_on_ends_the_worker_and_everything_goes_back(bucket, job_over, pipeline_of, counts, sql):
    class Broken(Painter):
        def scheduler(self):
            flow = super().scheduler()
            flow.step = lambda: 1 / 0
            return flow

    for number in range(40):
        bucket.put(f"in/{number}.png", png(number))
    job = job_over()
    with pytest.raises(ZeroDivisionError):
        pipeline_of(Broken()).run_until_idle()
    assert counts(job) == {"queued": 40}
    assert sql("SELECT DISTINCT attempt, lost_lease_count FROM item") == [(0, 0)]
    assert sql("SELECT count(*) FROM reservation") == [(0,)]


def test_a_batch_that_outlasts_the_grace_is_handed_back_and_its_late_result_dropped(
    bucket, job_over, pipeline_of, counts, sql
):
    bucket.put("in/a.png", png(1))
    job, model = job_over(), Painter(wait=1.5)
    drained = pipeline_of(model, grace_seconds=0.2).run_until_idle(stop=model.began.is_set)
    assert (drained.released, drained.done, drained.dropped) == (1, 0, 1)
    assert counts(job) == {"queued": 1}
    assert sql("SELECT count(*) FROM result") == [(0,)]


def test_a_slice_of_time_ends_with_everything_that_was_begun(bucket, job_over, pipeline_of, counts, sql):
    for number in range(30):
        bucket.put(f"in/{number}.png", png(number))
    job, model = job_over(), Painter(batch=2, wait=0.4)
    drained = pipeline_of(model).run_until_idle(seconds=1.0)
    assert drained.has_more
    assert drained.released == 0
    done = counts(job)["done"]
    assert 2 <= done < 30
    assert done == sum(model.batches) == drained.done  # what the model began is stored
    assert counts(job) == {"done": done, "queued": 30 - done}
    assert sql("SELECT DISTINCT attempt, lost_lease_count, isolated FROM item WHERE state = 'queued'") == [
        (0, 0, False)
    ]
    assert sql("SELECT count(*) FROM reservation") == [(0,)]


def test_a_long_batch_keeps_its_lease_by_heartbeats(bucket, job_over, pipeline_of, engine, counts):
    bucket.put("in/a.png", png(1))
    job, model = job_over(), Painter(wait=2.5)
    looks = []

    def reap_meanwhile():
        for _ in range(10):
            time.sleep(0.2)
            with transaction(engine) as session:
                looks.append(items.reclaim_expired(session).requeued)

    other = threading.Thread(target=reap_meanwhile)
    other.start()
    drained = pipeline_of(model, lease=timedelta(seconds=1)).run_until_idle()
    other.join()
    assert sum(looks) == 0
    assert drained.done == 1
    assert counts(job) == {"done": 1}


def test_what_was_taken_over_while_it_was_computed_is_dropped(bucket, job_over, pipeline_of, engine, counts, sql):
    bucket.put("in/a.png", png(1))
    job, model = job_over(), Painter(wait=1.0)

    def take_over():
        model.began.wait()
        with transaction(engine) as session:
            session.execute(text("UPDATE item SET lease_expires_at = now() - interval '1 second'"))
            items.reclaim_expired(session)
        with transaction(engine) as session:
            items.claim(session, "thief", limit=9, lease=timedelta(seconds=30))

    other = threading.Thread(target=take_over)
    other.start()
    drained = pipeline_of(model).run_until_idle()
    other.join()
    assert (drained.done, drained.dropped) == (0, 1)
    assert counts(job) == {"running": 1}
    assert sql("SELECT worker, attempt FROM item") == [("thief", 2)]
    assert sql("SELECT count(*) FROM result") == [(0,)]


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
    pipeline_of(model, lease=timedelta(seconds=1)).run_until_idle()
    other.join()
    assert counts(job) == {"cancelled": 40}
    assert len(model.batches) <= 3


def test_a_suspect_is_computed_alone(bucket, job_over, pipeline_of, counts, engine):
    for number in range(12):
        bucket.put(f"in/{number}.png", png(number))
    job = job_over()
    with transaction(engine) as session:
        session.execute(text("UPDATE item SET isolated = true WHERE uri LIKE '%/5.png' OR uri LIKE '%/7.png'"))
    model = Painter(batch=4)
    pipeline_of(model).run_until_idle()
    assert counts(job) == {"done": 12}
    assert model.batches.count(1) >= 2


def test_a_missing_object_fails_and_a_store_that_is_away_is_tried_again_later(
    bucket, job_over, pipeline_of, objects, sql, engine
):
    bucket.put("in/a.png", png(1))
    job_over()
    bucket.client.delete_object(Bucket=bucket.name, Key="in/a.png")
    pipeline_of(Painter()).run_until_idle()
    assert sql("SELECT state, error_code FROM item") == [("failed", "object_missing")]

    class Away(ObjectStore):
        def read(self, bucket, key, *, max_bytes=None):
            raise StoreUnreachableError("the S3 server does not answer")

    with transaction(engine) as session:
        session.execute(text("UPDATE item SET state = 'queued', finished_at = NULL, available_at = now()"))
    pipeline = pipeline_of(Painter())
    pipeline.objects = Away(objects.client, objects.bucket, objects.prefix)
    pipeline.run_until_idle()
    assert sql("SELECT state, error_code, failure_count, available_at > now() FROM item") == [
        ("queued", "store_unreachable", 1, True)
    ]


def test_a_recipe_whose_models_are_not_here_fails_with_a_reason_and_others_go_on(
    bucket, job_over, pipeline_of, counts, sql
):
    bucket.put("in/a.png", png(1))
    refused = job_over(settings={"eta": str(UNKNOWN_PAIR)})
    job = job_over()
    pipeline_of(Painter()).run_until_idle()
    assert (counts(refused), counts(job)) == ({"failed": 1}, {"done": 1})
    assert sql("SELECT error_code FROM item WHERE state = 'failed'") == [("weights_missing",)]
