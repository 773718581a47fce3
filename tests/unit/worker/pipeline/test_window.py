"""A worker has as many pictures in hand as its model needs to be busy."""

from types import SimpleNamespace

from worker.pipeline.adaptive_limit import AdaptiveLimit
from worker.pipeline.ready_queue import ReadyQueue


def go(window, pictures, *, in_line=0, starved=False):
    for _ in range(pictures):
        window.record(1, waiting=in_line, starved=starved)
    return window.size


def test_a_model_that_waits_gets_twice_as_many_once_those_in_hand_have_gone_through():
    window = AdaptiveLimit(8, 64)
    assert go(window, 7, starved=True) == 8
    assert go(window, 1) == 16
    assert go(window, 16) == 16
    assert go(window, 16 + 32 + 64, starved=True) == 64


def test_a_model_with_a_long_line_leaves_pictures_to_others():
    window = AdaptiveLimit(8, 64)
    go(window, 8 + 16, starved=True)
    assert window.size == 32
    assert go(window, 32, in_line=16) == 32
    assert go(window, 32, in_line=17) == 24
    assert go(window, 1000, in_line=60) == 8


def test_a_line_that_was_short_for_a_moment_is_kept():
    window = AdaptiveLimit(8, 64)
    go(window, 8, starved=True)
    go(window, 15, in_line=16)
    assert go(window, 1, in_line=8) == 16


def test_most_is_never_less_than_least():
    assert go(AdaptiveLimit(128, 64), 1000, starved=True) == 128


def fetched(name, priority):
    return SimpleNamespace(name=name, item=SimpleNamespace(priority=priority))


def test_who_somebody_waits_for_goes_to_the_model_before_those_that_came_earlier():
    waiting = ReadyQueue()
    for one in (fetched("a", 1), fetched("b", 1), fetched("now", 0), fetched("c", 1), fetched("too", 0)):
        waiting.put(one)
    assert len(waiting) == 5
    assert [one.name for one in waiting.take(3, wait=True)] == ["now", "too", "a"]
    assert [one.name for one in waiting.take(9, wait=False)] == ["b", "c"]
    waiting.close()
    assert waiting.take(1, wait=True) == []
