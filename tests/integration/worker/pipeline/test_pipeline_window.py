"""How much a worker has in hand: enough for its model, within its memory, and interactive pictures past all of it."""

import threading
import time

from db.models import Priority
from tests.support.painter import Painter, png
from worker.images.fetch import ImageFetcher


class FarStore:
    """Objects that take their time to be written."""

    def __init__(self, objects, seconds):
        self._objects, self._seconds = objects, seconds

    def read(self, bucket, key, *, max_bytes=None):
        return self._objects.read(bucket, key, max_bytes=max_bytes)

    def put(self, name, data, content_type):
        time.sleep(self._seconds)
        return self._objects.put(name, data, content_type)


class CountedSources(ImageFetcher):
    """How many pictures had been fetched whenever one was."""

    def __init__(self, objects):
        super().__init__(objects)
        self.read_so_far, self.most_in_hand = 0, 0
        self.done = lambda: 0
        self._lock = threading.Lock()

    def read(self, uri, *, instance=None, task=None):
        with self._lock:
            self.read_so_far += 1
            self.most_in_hand = max(self.most_in_hand, self.read_so_far - self.done())
        return super().read(uri, instance=instance, task=task)


def test_a_quick_model_has_more_in_hand_where_results_take_long_to_store(bucket, job_over, pipeline_of, objects):
    for number in range(60):
        bucket.put(f"in/{number}.png", png(number))
    job_over()
    pipeline = pipeline_of(Painter(batch=1))
    pipeline.objects = FarStore(objects, 0.1)
    assert pipeline.adaptive_limit.size == 8
    assert pipeline.run_until_idle().done == 60
    assert pipeline.adaptive_limit.size > 8


def test_a_slow_model_leaves_the_others_to_other_workers(bucket, job_over, pipeline_of):
    for number in range(12):
        bucket.put(f"in/{number}.png", png(number))
    job_over()
    pipeline = pipeline_of(Painter(batch=1, wait=0.3))
    pipeline.run_until_idle()
    assert pipeline.adaptive_limit.size == 8


def test_pictures_wait_to_be_fetched_while_those_in_hand_fill_the_memory(bucket, job_over, pipeline_of, objects):
    for number in range(24):
        bucket.put(f"in/{number}.png", png(number))
    most = {}
    for name, max_image_bytes in (("small", 1), ("large", 2**30)):
        job_over(settings={"eta": 0.5 if name == "small" else 0.4})
        model, pictures = Painter(batch=1, wait=0.02), CountedSources(objects)
        pictures.done = lambda model=model: len(model.batches)
        pipeline = pipeline_of(model, name, fetch_threads=2, max_image_bytes=max_image_bytes)
        pipeline.image_reader = pictures
        assert pipeline.run_until_idle().done == 24
        most[name] = pictures.most_in_hand
    assert most["small"] <= 2
    assert most["large"] > 2


def test_what_waits_for_memory_is_handed_back_when_the_worker_stops(bucket, job_over, pipeline_of, counts, sql):
    for number in range(12):
        bucket.put(f"in/{number}.png", png(number))
    job, model = job_over(), Painter(batch=1, wait=0.2)
    drained = pipeline_of(model, fetch_threads=2, max_image_bytes=1).run_until_idle(stop=model.began.is_set)
    assert drained.done == 1
    assert counts(job) == {"done": 1, "queued": 11}
    assert sql("SELECT DISTINCT attempt FROM item WHERE state = 'queued'") == [(0,)]


def test_an_interactive_picture_overtakes_those_in_hand(bucket, job_over, pipeline_of, sql):
    for number in range(30):
        bucket.put(f"in/{number}.png", png(number))
    bucket.put("now/a.png", png(99))
    job_over()
    model = Painter(batch=1, wait=0.2)
    pipeline = pipeline_of(model, claim_factor=20)
    working = threading.Thread(target=pipeline.run_until_idle)
    working.start()
    model.began.wait()
    job_over("now/", priority=Priority.INTERACTIVE)
    before = len(model.batches)
    working.join()
    earlier = sql("""
        SELECT count(*) FROM item, item AS now
        WHERE now.priority = 0 AND item.priority = 1 AND item.finished_at <= now.finished_at
    """)
    # One that the model had, one whose end made room for the claim, and what it computed while this one was fetched.
    assert earlier[0][0] - before < 8
