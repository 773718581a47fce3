"""Pictures go through the pipeline once each, on PostgreSQL and S3, with a model whose masks are known."""

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


def test_every_good_picture_is_done_once_and_every_bad_one_fails_with_its_code(
    bucket, job_over, pipeline_of, counts, sql
):
    for number in range(9):
        bucket.put(f"in/{number}.png", png(number))
    bucket.put("in/text.png", b"this is text")
    bucket.put("in/cut.png", png(77)[:60])
    job = job_over()
    drained = pipeline_of(Painter()).run_until_idle()
    assert (drained.done, drained.failed, drained.dropped, drained.released) == (9, 2, 0, 0)
    assert counts(job) == {"done": 9, "failed": 2}
    codes = dict(sql("SELECT uri, error_code FROM item WHERE state = 'failed'"))
    assert codes == {
        f"s3://{bucket.name}/in/text.png": "image_unsupported",
        f"s3://{bucket.name}/in/cut.png": "image_corrupt",
    }
    assert sql("SELECT count(*) FROM result") == [(9,)]
    assert sql("SELECT count(*) FROM query_step") == [(9,)]
    assert sql("SELECT count(*) FROM reservation") == [(0,)]


def test_equal_pictures_are_computed_once_and_each_has_the_result(bucket, job_over, pipeline_of, counts, sql):
    for place in ("in/a.png", "in/b.png", "in/deep/c.png"):
        bucket.put(place, png(1))
    job, model = job_over(), Painter()
    drained = pipeline_of(model).run_until_idle()
    assert sum(model.batches) == 1
    assert (drained.done, drained.reused) == (3, 2)
    assert counts(job) == {"done": 3}
    assert sql("SELECT count(DISTINCT result_id), count(*) FROM item") == [(1, 3)]


def test_a_known_picture_never_reaches_the_model_again(bucket, job_over, pipeline_of, counts):
    bucket.put("in/a.png", png(1))
    job_over()
    pipeline_of(Painter()).run_until_idle()
    bucket.put("again/other-name.png", png(1))
    job, model = job_over("again/"), Painter()
    assert pipeline_of(model, "w2").run_until_idle().reused == 1
    assert model.batches == []
    assert counts(job) == {"done": 1}


def test_other_words_are_another_result(bucket, job_over, pipeline_of, sql):
    bucket.put("in/a.png", png(1))
    job_over()
    job_over(labels=("dog", "cat"))
    model = Painter()
    pipeline_of(model).run_until_idle()
    assert sum(model.batches) == 2
    assert sql("SELECT count(DISTINCT run_key) FROM result") == [(2,)]


def test_objects_say_what_the_rows_say(bucket, job_over, pipeline_of, sql):
    data = png(3)
    bucket.put("in/a.png", data)
    job_over()
    pipeline_of(Painter()).run_until_idle()
    ((key, labelmap, shown, run_key),) = sql(
        "SELECT masks_key, labelmap_key, preview_key, run_key FROM result JOIN image ON image.id = image_id"
    )
    document = json.loads(bucket.client.get_object(Bucket=bucket.name, Key=key)["Body"].read())
    assert document["image"] == {"sha256": hashlib.sha256(data).hexdigest(), "width": 24, "height": 16}
    assert document["run_key"] == run_key
    assert run_key in key
    (mask,) = document["masks"]
    ((label, score, area),) = sql("SELECT label, score, area FROM mask")
    assert (mask["label"], mask["score"], mask["area"]) == (label, score, area) == ("cat", 0.75, 12 * 16)
    image = Image.open(BytesIO(bucket.client.get_object(Bucket=bucket.name, Key=labelmap)["Body"].read()))
    assert image.mode == "P"
    assert (np.asarray(image)[:, :12] == 1).all()
    assert (np.asarray(image)[:, 12:] == 0).all()
    assert Image.open(BytesIO(bucket.client.get_object(Bucket=bucket.name, Key=shown)["Body"].read())).size == (24, 16)


def test_interactive_pictures_go_before_a_job_of_many(bucket, job_over, pipeline_of, sql):
    for number in range(30):
        bucket.put(f"many/{number}.png", png(number))
    bucket.put("one/a.png", png(99))
    job_over("many/")
    urgent = job_over("one/", priority=Priority.INTERACTIVE)
    model = Painter(batch=2, wait=0.05)
    pipeline_of(model, claim_factor=1).run_until_idle()
    before = sql(
        "SELECT count(*) FROM item WHERE job_id <> :job AND finished_at < "
        "(SELECT finished_at FROM item WHERE job_id = :job)",
        job=urgent,
    )
    assert before[0][0] <= 8


def test_what_another_worker_stores_between_the_look_and_the_reservation_is_not_computed_again(
    bucket, job_over, pipeline_of, counts, sql, monkeypatch
):
    bucket.put("in/one.png", png(1))
    job, look, other, mine = job_over(), result_store.known, Painter(), Painter()

    def slow(session, keys):
        seen = look(session, keys)
        monkeypatch.setattr(result_store, "known", look)
        time.sleep(max(0.0, claiming - time.monotonic()))  # this worker claims nothing of the second job
        bucket.put("in/two.png", png(1))
        job_over()
        pipeline_of(other, "w2").run_until_idle()
        return seen

    monkeypatch.setattr(result_store, "known", slow)
    claiming = time.monotonic() + 3.5
    pipeline_of(mine, "w1").run_until_idle(seconds=3)
    assert counts(job) == {"done": 1}
    assert sum(other.batches) == 1
    assert mine.batches == []
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
    # A picture that the other one computes is put off for a moment.
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


def test_words_of_each_task_are_as_many_as_pictures_and_a_worker_keeps_few_of_them(
    bucket, engine, pipeline_of, monkeypatch
):
    monkeypatch.setattr(intake, "_WISHES_KEPT", 2)
    project = ProjectRows(engine)
    words = project.do(vocabularies.get_or_create_many, [Vocabulary.of([f"word {number}"]) for number in range(6)])
    asked = [
        TaskSubmission(
            ls_task_id=number, uri=f"s3://{bucket.name}/in/{number % 2}.png", vocabulary_id=words[number % 6]
        )
        for number in range(18)
    ]
    for number in range(2):
        bucket.put(f"in/{number}.png", png(number + 1))
    project.ask(*asked, weights=Painter.weights)
    drained = pipeline_of(Painter(batch=2)).run_until_idle()
    assert (drained.done, drained.failed) == (6, 0)
    project.ask(*asked, weights=Painter.weights)
    assert [row.ls_task_id for row in project.predictions()] == list(range(18))
    labels = project.sql(
        "SELECT task.ls_task_id, mask.label FROM task JOIN item ON item.id = task.item_id "
        "JOIN mask ON mask.result_id = item.result_id"
    )
    assert dict(map(tuple, labels)) == {number: f"word {number % 6}" for number in range(18)}
