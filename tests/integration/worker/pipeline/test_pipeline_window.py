"""A worker claims enough for its model, within its memory, and interactive images overtake the others."""

import threading
import time

from db.models import Priority
from tests.support.painter import Painter, png
from worker.images.fetch import ImageFetcher


class SlowStore:
    """An object store that is slow to write."""

    def __init__(self, objects, seconds):
        self._objects, self._seconds = objects, seconds

    def read(self, bucket, key, *, max_bytes=None):
        return self._objects.read(bucket, key, max_bytes=max_bytes)

    def put(self, name, data, content_type):
        time.sleep(self._seconds)
        return self._objects.put(name, data, content_type)


class CountingFetcher(ImageFetcher):
    """Counts the images that were fetched and not yet computed."""

    def __init__(self, objects):
        super().__init__(objects)
        self.fetched, self.most_waiting = 0, 0
        self.done = lambda: 0
        self._lock = threading.Lock()

    def read(self, uri, *, instance=None, task=None):
        with self._lock:
            self.fetched += 1
            self.most_waiting = max(self.most_waiting, self.fetched - self.done())
        return super().read(uri, instance=instance, task=task)


def test_the_limit_grows_for_a_fast_model_with_slow_storage(bucket, job_over, pipeline_of, objects):
    for number in range(60):
        bucket.put(f"in/{number}.png", png(number))
    job_over()
    pipeline = pipeline_of(Painter(batch=1))
    pipeline.objects = SlowStore(objects, 0.1)
    assert pipeline.adaptive_limit.size == 8
    assert pipeline.run_until_idle().done == 60
    assert pipeline.adaptive_limit.size > 8


def test_a_slow_model_leaves_images_to_other_workers(bucket, job_over, pipeline_of):
    for number in range(12):
        bucket.put(f"in/{number}.png", png(number))
    job_over()
    pipeline = pipeline_of(Painter(batch=1, wait=0.3))
    pipeline.run_until_idle()
    assert pipeline.adaptive_limit.size == 8


def test_fetching_pauses_while_decoded_images_fill_the_memory(bucket, job_over, pipeline_of, objects):
    for number in range(24):
        bucket.put(f"in/{number}.png", png(number))
    most = {}
    for name, max_image_bytes in (("small", 1), ("large", 2**30)):
        job_over(settings={"eta": 0.5 if name == "small" else 0.4})
        model, fetcher = Painter(batch=1, wait=0.02), CountingFetcher(objects)
        fetcher.done = lambda model=model: len(model.batches)
        pipeline = pipeline_of(model, name, fetch_threads=2, max_image_bytes=max_image_bytes)
        pipeline.image_reader = fetcher
        assert pipeline.run_until_idle().done == 24
        most[name] = fetcher.most_waiting
    assert most["small"] <= 2
    assert most["large"] > 2


def test_what_waits_for_memory_is_released_when_the_worker_stops(bucket, job_over, pipeline_of, counts, sql):
    for number in range(12):
        bucket.put(f"in/{number}.png", png(number))
    job, model = job_over(), Painter(batch=1, wait=0.2)
    stats = pipeline_of(model, fetch_threads=2, max_image_bytes=1).run_until_idle(stop=model.began.is_set)
    assert stats.done == 1
    assert counts(job) == {"done": 1, "queued": 11}
    assert sql("SELECT DISTINCT attempt FROM item WHERE state = 'queued'") == [(0,)]


def test_an_interactive_image_overtakes_claimed_ones(bucket, job_over, pipeline_of, sql):
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
    # The image in the model, one that made room for the claim, and those computed while this one was fetched.
    assert earlier[0][0] - before < 8
