"""Each image goes through the pipeline once, on PostgreSQL and S3, with a model whose masks are known."""

import hashlib
import json
import threading
import time
from io import BytesIO

import numpy as np
from PIL import Image

from car.vocabulary import Vocabulary
from db import vocabularies
from db.label_studio.tasks import TaskSubmission
from db.models import ItemState, Priority
from db.results import store as result_store
from tests.support.label_studio_rows import ProjectRows
from tests.support.painter import Painter, png
from worker.pipeline import intake


def test_every_good_image_is_done_once_and_every_bad_one_fails_with_its_code(
    bucket, job_over, pipeline_of, counts, sql
):
    for number in range(9):
        bucket.put(f"in/{number}.png", png(number))
    bucket.put("in/text.png", b"this is text")
    bucket.put("in/cut.png", png(77)[:60])
    job = job_over()
    stats = pipeline_of(Painter()).run_until_idle()
    assert (stats.done, stats.failed, stats.dropped, stats.released) == (9, 2, 0, 0)
    assert counts(job) == {"done": 9, "failed": 2}
    codes = dict(sql("SELECT uri, error_code FROM item WHERE state = 'failed'"))
    assert codes == {
        f"s3://{bucket.name}/in/text.png": "image_unsupported",
        f"s3://{bucket.name}/in/cut.png": "image_corrupt",
    }
    assert sql("SELECT count(*) FROM result") == [(9,)]
    assert sql("SELECT count(*) FROM query_step") == [(9,)]
    assert sql("SELECT count(*) FROM reservation") == [(0,)]


def test_equal_images_are_computed_once_and_each_has_the_result(bucket, job_over, pipeline_of, counts, sql):
    for key in ("in/a.png", "in/b.png", "in/deep/c.png"):
        bucket.put(key, png(1))
    job, model = job_over(), Painter()
    stats = pipeline_of(model).run_until_idle()
    assert sum(model.batches) == 1
    assert (stats.done, stats.reused) == (3, 2)
    assert counts(job) == {"done": 3}
    assert sql("SELECT count(DISTINCT result_id), count(*) FROM item") == [(1, 3)]


def test_an_image_with_a_stored_result_does_not_reach_the_model_again(bucket, job_over, pipeline_of, counts):
    bucket.put("in/a.png", png(1))
    job_over()
    pipeline_of(Painter()).run_until_idle()
    bucket.put("again/other-name.png", png(1))
    job, model = job_over("again/"), Painter()
    assert pipeline_of(model, "w2").run_until_idle().reused == 1
    assert model.batches == []
    assert counts(job) == {"done": 1}


def test_another_vocabulary_is_another_result(bucket, job_over, pipeline_of, sql):
    bucket.put("in/a.png", png(1))
    job_over()
    job_over(labels=("dog", "cat"))
    model = Painter()
    pipeline_of(model).run_until_idle()
    assert sum(model.batches) == 2
    assert sql("SELECT count(DISTINCT run_key) FROM result") == [(2,)]


def test_stored_objects_agree_with_the_rows(bucket, job_over, pipeline_of, sql):
    data = png(3)
    bucket.put("in/a.png", data)
    job_over()
    pipeline_of(Painter()).run_until_idle()
    ((masks_key, labelmap_key, preview_key, run_key),) = sql(
        "SELECT masks_key, labelmap_key, preview_key, run_key FROM result JOIN image ON image.id = image_id"
    )
    document = json.loads(bucket.client.get_object(Bucket=bucket.name, Key=masks_key)["Body"].read())
    assert document["image"] == {"sha256": hashlib.sha256(data).hexdigest(), "width": 24, "height": 16}
    assert document["run_key"] == run_key
    assert run_key in masks_key
    (mask,) = document["masks"]
    ((label, score, area),) = sql("SELECT label, score, area FROM mask")
    assert (mask["label"], mask["score"], mask["area"]) == (label, score, area) == ("cat", 0.75, 12 * 16)
    image = Image.open(BytesIO(bucket.client.get_object(Bucket=bucket.name, Key=labelmap_key)["Body"].read()))
    assert image.mode == "P"
    assert (np.asarray(image)[:, :12] == 1).all()
    assert (np.asarray(image)[:, 12:] == 0).all()
    assert Image.open(BytesIO(bucket.client.get_object(Bucket=bucket.name, Key=preview_key)["Body"].read())).size == (
        24,
        16,
    )


def test_interactive_images_overtake_a_large_job(bucket, job_over, pipeline_of, sql):
    for number in range(30):
        bucket.put(f"large/{number}.png", png(number))
    bucket.put("urgent/a.png", png(99))
    job_over("large/")
    urgent = job_over("urgent/", priority=Priority.INTERACTIVE)
    model = Painter(batch=2, wait=0.05)
    pipeline_of(model, claim_factor=1).run_until_idle()
    before = sql(
        "SELECT count(*) FROM item WHERE job_id <> :job AND finished_at < "
        "(SELECT finished_at FROM item WHERE job_id = :job)",
        job=urgent,
    )
    assert before[0][0] <= 8


def test_a_result_stored_between_lookup_and_reservation_is_not_computed_again(
    bucket, job_over, pipeline_of, counts, sql, monkeypatch
):
    bucket.put("in/one.png", png(1))
    job, look_up, other, own = job_over(), result_store.existing, Painter(), Painter()

    def slow(session, keys):
        stored = look_up(session, keys)
        monkeypatch.setattr(result_store, "existing", look_up)
        time.sleep(max(0.0, claiming - time.monotonic()))  # this worker claims nothing of the second job
        bucket.put("in/two.png", png(1))
        job_over()
        pipeline_of(other, "w2").run_until_idle()
        return stored

    monkeypatch.setattr(result_store, "existing", slow)
    claiming = time.monotonic() + 3.5
    pipeline_of(own, "w1").run_until_idle(seconds=3)
    assert counts(job) == {"done": 1}
    assert sum(other.batches) == 1
    assert own.batches == []
    assert sql("SELECT count(*) FROM reservation") == [(0,)]


def test_two_workers_share_a_job_without_computing_anything_twice(bucket, job_over, pipeline_of, counts, sql):
    for number in range(30):
        bucket.put(f"in/{number}.png", png(number % 20))
    job = job_over()
    models = [Painter(batch=2, wait=0.02), Painter(batch=2, wait=0.02)]
    workers = [threading.Thread(target=pipeline_of(model, f"w{k}").run_until_idle) for k, model in enumerate(models)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    # Items whose run the other worker computes are released for a moment.
    for _ in range(20):
        if counts(job) == {"done": 30}:
            break
        time.sleep(0.3)
        pipeline_of(models[0], "w3").run_until_idle()
    assert counts(job) == {"done": 30}
    assert sum(sum(model.batches) for model in models) == 20
    assert sql("SELECT count(*) FROM result") == [(20,)]


def test_states_are_the_ones_the_api_knows():
    assert {str(state) for state in ItemState} == {"queued", "running", "done", "failed", "dead", "cancelled"}


def test_a_worker_caches_few_run_specs_even_if_each_task_has_its_own_vocabulary(
    bucket, engine, pipeline_of, monkeypatch
):
    monkeypatch.setattr(intake, "_RUN_SPECS", 2)
    project = ProjectRows(engine)
    words = project.do(
        vocabularies.get_or_create_many, [Vocabulary.from_words([f"word {number}"]) for number in range(6)]
    )
    requests = [
        TaskSubmission(
            ls_task_id=number, uri=f"s3://{bucket.name}/in/{number % 2}.png", vocabulary_id=words[number % 6]
        )
        for number in range(18)
    ]
    for number in range(2):
        bucket.put(f"in/{number}.png", png(number + 1))
    project.ask(*requests, weights=Painter.weights)
    stats = pipeline_of(Painter(batch=2)).run_until_idle()
    assert (stats.done, stats.failed) == (6, 0)
    project.ask(*requests, weights=Painter.weights)
    assert [row.ls_task_id for row in project.predictions()] == list(range(18))
    labels = project.sql(
        "SELECT task.ls_task_id, mask.label FROM task JOIN item ON item.id = task.item_id "
        "JOIN mask ON mask.result_id = item.result_id"
    )
    assert dict(map(tuple, labels)) == {number: f"word {number % 6}" for number in range(18)}
