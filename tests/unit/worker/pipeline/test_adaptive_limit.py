"""The limit on claimed images follows the model's speed, and the ready queue serves interactive images first."""

from types import SimpleNamespace

from worker.pipeline.adaptive_limit import AdaptiveLimit
from worker.pipeline.ready_queue import ReadyQueue


def record(limit, images, *, waiting=0, starved=False):
    for _ in range(images):
        limit.record(1, waiting=waiting, starved=starved)
    return limit.size


def test_the_limit_doubles_for_a_model_that_had_to_wait():
    limit = AdaptiveLimit(8, 64)
    assert record(limit, 7, starved=True) == 8
    assert record(limit, 1) == 16
    assert record(limit, 16) == 16
    assert record(limit, 16 + 32 + 64, starved=True) == 64


def test_the_limit_shrinks_while_a_long_queue_waits_for_the_model():
    limit = AdaptiveLimit(8, 64)
    record(limit, 8 + 16, starved=True)
    assert limit.size == 32
    assert record(limit, 32, waiting=16) == 32
    assert record(limit, 32, waiting=17) == 24
    assert record(limit, 1000, waiting=60) == 8


def test_a_queue_that_was_short_once_keeps_the_limit():
    limit = AdaptiveLimit(8, 64)
    record(limit, 8, starved=True)
    record(limit, 15, waiting=16)
    assert record(limit, 1, waiting=8) == 16


def test_the_largest_limit_is_not_below_the_smallest():
    assert record(AdaptiveLimit(128, 64), 1000, starved=True) == 128


def fetched(name, priority):
    return SimpleNamespace(name=name, item=SimpleNamespace(priority=priority))


def test_interactive_images_leave_the_queue_before_earlier_ones():
    ready = ReadyQueue()
    for item in (fetched("a", 1), fetched("b", 1), fetched("now", 0), fetched("c", 1), fetched("too", 0)):
        ready.put(item)
    assert len(ready) == 5
    assert [item.name for item in ready.take(3, wait=True)] == ["now", "too", "a"]
    assert [item.name for item in ready.take(9, wait=False)] == ["b", "c"]
    ready.close()
    assert ready.take(1, wait=True) == []
