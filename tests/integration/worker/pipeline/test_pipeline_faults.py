"""A failure of an image, a model or a worker costs the pipeline that image and nothing else."""

import threading
import time
from datetime import timedelta
from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from sqlalchemy import text

from db.errors import AccessDeniedError, CredentialsExpiredError, StoreUnreachableError
from db.objects import S3ObjectStore
from db.queue import items, jobs
from db.results import store as result_store
from db.session import transaction
from tests.support.painter import UNKNOWN_PAIR, Painter, png


def test_a_batch_too_large_for_the_memory_is_halved(bucket, job_over, pipeline_of, counts):
    for number in range(8):
        bucket.put(f"in/{number}.png", png(number))
    job, model = job_over(), Painter(batch=8, memory=2)
    pipeline_of(model).run_until_idle()
    assert counts(job) == {"done": 8}
    assert max(model.batches) <= 2


def test_an_image_too_large_for_the_memory_fails_with_a_reason(bucket, job_over, pipeline_of, sql):
    bucket.put("in/a.png", png(1))
    job_over()
    pipeline_of(Painter(memory=0)).run_until_idle()
    ((code, detail),) = sql("SELECT error_code, error_detail FROM item")
    assert code == "out_of_memory"
    assert "24 x 16" in detail


def test_an_image_that_breaks_the_model_does_not_fail_others(bucket, job_over, pipeline_of, counts, sql):
    images = {number: png(number) for number in range(8)}
    for number, data in images.items():
        bucket.put(f"in/{number}.png", data)
    breaking_value = np.asarray(Image.open(BytesIO(images[5])))[0, 0, 0]
    job = job_over()
    pipeline_of(Painter(batch=8, breaks_on=[breaking_value])).run_until_idle()
    assert counts(job) == {"done": 7, "failed": 1}
    assert sql("SELECT uri FROM item WHERE error_code = 'internal_error'") == [(f"s3://{bucket.name}/in/5.png",)]


def test_a_stopped_worker_releases_items_without_costing_an_attempt(bucket, job_over, pipeline_of, counts, sql):
    for number in range(40):
        bucket.put(f"in/{number}.png", png(number))
    job, model = job_over(), Painter(batch=2, wait=0.2)
    stats = pipeline_of(model).run_until_idle(stop=model.began.is_set)
    assert stats.released > 0
    assert stats.has_more
    assert 1 <= stats.done <= 2  # what the model had started
    assert counts(job) == {"done": stats.done, "queued": 40 - stats.done}
    assert sql("SELECT DISTINCT attempt, lost_lease_count, isolated FROM item WHERE state = 'queued'") == [
        (0, 0, False)
    ]
    assert sql("SELECT count(*) FROM reservation") == [(0,)]
    pipeline_of(Painter(), "w2").run_until_idle()
    assert counts(job) == {"done": 40}
    assert sql("SELECT DISTINCT attempt FROM item") == [(1,)]


def test_a_broken_model_ends_the_run_and_releases_every_item(bucket, job_over, pipeline_of, counts, sql):
    class Broken(Painter):
        def scheduler(self):
            scheduler = super().scheduler()
            scheduler.step = lambda: 1 / 0
            return scheduler

    for number in range(40):
        bucket.put(f"in/{number}.png", png(number))
    job = job_over()
    with pytest.raises(ZeroDivisionError):
        pipeline_of(Broken()).run_until_idle()
    assert counts(job) == {"queued": 40}
    assert sql("SELECT DISTINCT attempt, lost_lease_count FROM item") == [(0, 0)]
    assert sql("SELECT count(*) FROM reservation") == [(0,)]


def test_a_batch_that_outlasts_the_grace_is_released_and_its_late_result_dropped(
    bucket, job_over, pipeline_of, counts, sql
):
    bucket.put("in/a.png", png(1))
    job, model = job_over(), Painter(wait=1.5)
    stats = pipeline_of(model, grace_seconds=0.2).run_until_idle(stop=model.began.is_set)
    assert (stats.released, stats.done, stats.dropped) == (1, 0, 1)
    assert counts(job) == {"queued": 1}
    assert sql("SELECT count(*) FROM result") == [(0,)]


def test_a_time_limit_ends_with_everything_finished_that_was_started(bucket, job_over, pipeline_of, counts, sql):
    for number in range(30):
        bucket.put(f"in/{number}.png", png(number))
    job, model = job_over(), Painter(batch=2, wait=0.4)
    stats = pipeline_of(model).run_until_idle(seconds=1.0)
    assert stats.has_more
    assert stats.released == 0
    done = counts(job)["done"]
    assert 2 <= done < 30
    assert done == sum(model.batches) == stats.done  # what the model started is stored
    assert counts(job) == {"done": done, "queued": 30 - done}
    assert sql("SELECT DISTINCT attempt, lost_lease_count, isolated FROM item WHERE state = 'queued'") == [
        (0, 0, False)
    ]
    assert sql("SELECT count(*) FROM reservation") == [(0,)]


def test_a_long_batch_keeps_its_lease_by_heartbeats(bucket, job_over, pipeline_of, engine, counts):
    bucket.put("in/a.png", png(1))
    job, model = job_over(), Painter(wait=2.5)
    requeued = []

    def reclaim_meanwhile():
        for _ in range(10):
            time.sleep(0.2)
            with transaction(engine) as session:
                requeued.append(items.reclaim_expired(session).requeued)

    other = threading.Thread(target=reclaim_meanwhile)
    other.start()
    stats = pipeline_of(model, lease=timedelta(seconds=1)).run_until_idle()
    other.join()
    assert sum(requeued) == 0
    assert stats.done == 1
    assert counts(job) == {"done": 1}


def test_the_result_of_an_item_that_another_worker_reclaimed_is_dropped(
    bucket, job_over, pipeline_of, engine, counts, sql
):
    bucket.put("in/a.png", png(1))
    job, model = job_over(), Painter(wait=1.0)

    def take_over():
        model.began.wait()
        with transaction(engine) as session:
            session.execute(text("UPDATE item SET lease_expires_at = now() - interval '1 second'"))
            items.reclaim_expired(session)
            items.claim(session, "thief", limit=9, lease=timedelta(seconds=30))

    other = threading.Thread(target=take_over)
    other.start()
    stats = pipeline_of(model).run_until_idle()
    other.join()
    assert (stats.done, stats.dropped) == (0, 1)
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


def test_an_isolated_item_is_computed_alone(bucket, job_over, pipeline_of, counts, engine):
    for number in range(12):
        bucket.put(f"in/{number}.png", png(number))
    job = job_over()
    with transaction(engine) as session:
        session.execute(text("UPDATE item SET isolated = true WHERE uri LIKE '%/5.png' OR uri LIKE '%/7.png'"))
    model = Painter(batch=4)
    pipeline_of(model).run_until_idle()
    assert counts(job) == {"done": 12}
    assert model.batches.count(1) >= 2


def test_a_missing_object_fails_and_an_unreachable_store_is_retried_later(
    bucket, job_over, pipeline_of, objects, sql, engine
):
    bucket.put("in/a.png", png(1))
    job_over()
    bucket.client.delete_object(Bucket=bucket.name, Key="in/a.png")
    pipeline_of(Painter()).run_until_idle()
    assert sql("SELECT state, error_code FROM item") == [("failed", "object_missing")]

    class UnreachableStore(S3ObjectStore):
        def read(self, bucket, key, *, max_bytes=None):
            raise StoreUnreachableError("the S3 server does not answer")

    with transaction(engine) as session:
        session.execute(text("UPDATE item SET state = 'queued', finished_at = NULL, available_at = now()"))
    pipeline = pipeline_of(Painter())
    pipeline.objects = UnreachableStore(objects.client, objects.bucket, objects.prefix)
    pipeline.run_until_idle()
    assert sql("SELECT state, error_code, failure_count, available_at > now() FROM item") == [
        ("queued", "store_unreachable", 1, True)
    ]


def test_a_result_whose_objects_are_gone_is_computed_again_by_the_next_job(bucket, job_over, pipeline_of, objects, sql):
    bucket.put("in/a.png", png(1))
    job_over()
    assert pipeline_of(Painter()).run_until_idle().done == 1
    [(result, masks_key, labelmap_key)] = sql("SELECT id, masks_key, labelmap_key FROM result")
    stored = {key: objects.get(key) for key in bucket.keys("car/")}
    for key in stored:
        bucket.client.delete_object(Bucket=bucket.name, Key=key)
    job_over()
    stats = pipeline_of(Painter()).run_until_idle()
    assert (stats.done, stats.reused) == (1, 0)
    assert {key: objects.get(key) for key in bucket.keys("car/")} == stored
    assert {masks_key, labelmap_key} < set(stored)
    assert sql("SELECT DISTINCT result_id FROM item") == [(result,)]
    job_over()
    assert pipeline_of(Painter()).run_until_idle().reused == 1


def test_a_retry_computes_results_again_whose_objects_a_read_found_gone(
    bucket, job_over, pipeline_of, objects, counts, engine, sql
):
    for number in range(2):
        bucket.put(f"in/{number}.png", png(number))
    job = job_over()
    assert pipeline_of(Painter()).run_until_idle().done == 2
    with transaction(engine) as session:
        assert jobs.retry(session, job) == 0
    [(result, masks_key)] = sql("SELECT id, masks_key FROM result ORDER BY id LIMIT 1")
    bucket.client.delete_object(Bucket=bucket.name, Key=masks_key)
    with transaction(engine) as session:
        result_store.mark_lost(session, result)
        assert jobs.retry(session, job) == 1
    assert counts(job) == {"queued": 1, "done": 1}
    assert pipeline_of(Painter()).run_until_idle().done == 1
    assert counts(job) == {"done": 2}
    assert objects.get(masks_key)
    assert sql("SELECT count(*) FROM result WHERE objects_lost_at IS NOT NULL") == [(0,)]


class FaultyStore(S3ObjectStore):
    """A store whose reads or writes raise an error."""

    on_read = on_write = None

    @classmethod
    def of(cls, objects, **errors):
        store = cls(objects.client, objects.bucket, objects.prefix)
        vars(store).update(errors)
        return store

    def read(self, bucket, key, *, max_bytes=None):
        if self.on_read:
            raise self.on_read
        return super().read(bucket, key, max_bytes=max_bytes)

    def put(self, name, data, content_type):
        if self.on_write:
            raise self.on_write
        return super().put(name, data, content_type)


@pytest.mark.parametrize(
    "errors",
    [
        {"on_read": CredentialsExpiredError("expired")},
        {"on_write": StoreUnreachableError("no answer")},
        {"on_write": AccessDeniedError("denied")},
    ],
    ids=lambda errors: f"{next(iter(errors))}-{next(iter(errors.values())).code}",
)
def test_a_fault_of_the_services_own_access_is_booked_to_no_image(bucket, job_over, pipeline_of, objects, sql, errors):
    for number in range(100):
        bucket.put(f"in/{number}.png", png(number))
    job_over()
    pipeline = pipeline_of(Painter())
    pipeline.objects = FaultyStore.of(objects, **errors)
    stats = pipeline.run_until_idle()
    assert (stats.failed, stats.has_more) == (0, False)  # the scheduler notifies later
    assert 0 < stats.released < 50  # not one attempt for each of the hundred
    assert sql("SELECT DISTINCT state, failure_count, lost_lease_count, error_code FROM item") == [
        ("queued", 0, 0, None)
    ]
    assert sql("SELECT count(*) FROM reservation") == [(0,)]
    sql("UPDATE item SET available_at = now() RETURNING 1")
    assert pipeline_of(Painter()).run_until_idle().done == 100


def test_a_recipe_without_its_models_fails_and_others_go_on(bucket, job_over, pipeline_of, counts, sql):
    bucket.put("in/a.png", png(1))
    refused = job_over(settings={"eta": str(UNKNOWN_PAIR)})
    job = job_over()
    pipeline_of(Painter()).run_until_idle()
    assert (counts(refused), counts(job)) == ({"failed": 1}, {"done": 1})
    assert sql("SELECT error_code FROM item WHERE state = 'failed'") == [("weights_missing",)]
