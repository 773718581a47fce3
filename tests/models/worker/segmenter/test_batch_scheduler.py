"""The batch scheduler with fake models whose recurrences are random, and the policy that it promises."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from car.recipe import Recipe
from car.vocabulary import Vocabulary
from worker.segmenter.batch_scheduler import BatchScheduler, Completed
from worker.segmenter.requests import SegmentRequest, StartedRequest, WaitingQueue, WaitingRequest

VOCABULARY, RECIPE = Vocabulary.from_words(["cat"]), Recipe()


@dataclass(frozen=True)
class Script:
    """What the fake recurrence of an image does."""

    number: int
    crops: tuple[int, ...]
    """Crops of each step."""
    size: int = 1
    encoder: str = "a"
    fails_in: str = ""
    """f, loop or g."""

    @property
    def fails(self) -> bool:
        return self.fails_in == "f" or (self.fails_in != "" and self.crops != ())

    @property
    def expected(self) -> list[float]:
        return [self.number * 1000 + step * 100 + k for step, crops in enumerate(self.crops) for k in range(crops)]


@dataclass
class FakeModel:
    """f does nothing, and g's embedding of a crop is the crop itself; each fails where a script says so."""

    scripts: dict[int, Script]
    memory: int = 10_000
    """Images that may run at a time; beyond them f, the loops and g run out of memory in turns."""
    f: list[tuple[int, int]] = field(default_factory=list)
    """Images and shape of each batch; so for g."""
    g: list[tuple[int, int]] = field(default_factory=list)
    running: set[int] = field(default_factory=set)
    begun: list[int] = field(default_factory=list)

    def kind(self, request: SegmentRequest) -> int:
        return self.scripts[request.key].size

    def begin(self, requests: list[SegmentRequest], *, batch_size: int) -> list[StartedRequest[list[float]]]:
        assert len({self.kind(request) for request in requests}) == 1
        assert len(requests) <= batch_size
        self.check_memory(len(requests), stage=0)
        if any(self.scripts[request.key].fails_in == "f" for request in requests):
            raise ZeroDivisionError("f")
        self.f.append((len(requests), batch_size))
        self.begun += [request.key for request in requests]
        return [self.start(self.scripts[request.key]) for request in requests]

    def start(self, script: Script) -> StartedRequest[list[float]]:
        return StartedRequest(self.recurrence(script), FakeEncoder(script.encoder, self))

    def recurrence(self, script: Script) -> Iterator:
        self.running.add(script.number)
        result = []
        try:
            for step, count in enumerate(script.crops):
                self.check_memory(stage=1)
                if script.fails_in == "loop":
                    raise ZeroDivisionError("loop")
                first = script.number * 1000 + step * 100
                crops = (torch.arange(first, first + count)[:, None, None, None]).repeat(1, 1, 1, 3)
                embeddings = yield crops
                result += embeddings[:, 0].tolist()
            return result
        finally:
            self.running.discard(script.number)

    def check_memory(self, starting: int = 0, *, stage: int) -> None:
        if len(self.running) + starting > self.memory and (stage == 2 or len(self.begun) % 2 == stage):
            raise MemoryError("too many images")


@dataclass(frozen=True)
class FakeEncoder:
    name: str
    model: FakeModel = field(compare=False)

    def encode(self, crops: torch.Tensor, *, batch_size: int, padded: bool) -> torch.Tensor:
        assert 0 < len(crops) <= batch_size
        self.model.check_memory(stage=2)
        numbers = crops[:, 0, 0, 0]
        scripts = [self.model.scripts[int(number) // 1000] for number in numbers]
        assert {script.encoder for script in scripts} == {self.name}
        if any(script.fails_in == "g" for script in scripts):
            raise ZeroDivisionError("g")
        self.model.g.append((len(crops), batch_size))
        return numbers[:, None].float()


def request(key: int, still_wanted=lambda: True) -> SegmentRequest:
    return SegmentRequest(key, np.zeros((1, 1, 3), np.uint8), VOCABULARY, RECIPE, still_wanted=still_wanted)


def run(
    model: FakeModel, *, images: int = 4, crops: int = 16, capacity: int = 0
) -> tuple[BatchScheduler, dict[int, list[float] | Exception]]:
    scheduler = BatchScheduler(model, images=images, crops=crops, capacity=capacity)
    completed: list[Completed] = list(scheduler.run(request(key) for key in model.scripts))
    assert len(completed) == len(dict(completed)) == len(model.scripts)  # each once
    assert len(scheduler) == 0
    return scheduler, dict(completed)


random_scripts = st.lists(
    st.builds(
        Script,
        number=st.just(0),
        crops=st.lists(st.integers(1, 9), max_size=4).map(tuple),
        size=st.integers(1, 3),
        encoder=st.sampled_from(["a", "b"]),
        fails_in=st.sampled_from(["", "", "", "", "f", "loop", "g"]),
    ),
    min_size=1,
    max_size=30,
).map(lambda scripts: {k: replace(script, number=k) for k, script in enumerate(scripts)})


@settings(max_examples=150, deadline=None)
@given(scripts=random_scripts, images=st.integers(1, 5), crops=st.integers(1, 20), capacity=st.integers(0, 12))
def test_every_image_gets_the_embeddings_of_its_own_crops_and_errors_are_isolated(scripts, images, crops, capacity):
    model = FakeModel(scripts)
    _, outcomes = run(model, images=images, crops=crops, capacity=capacity)
    for key, script in scripts.items():
        if script.fails:
            assert isinstance(outcomes[key], ZeroDivisionError)
        else:
            assert outcomes[key] == script.expected
    assert {shape for _, shape in model.f} <= {images}
    assert {shape for _, shape in model.g} <= {crops}


@settings(max_examples=150, deadline=None)
@given(scripts=random_scripts, memory=st.integers(1, 6), images=st.integers(1, 5), crops=st.integers(1, 20))
def test_when_memory_runs_out_fewer_images_run_together_and_none_is_lost(scripts, memory, images, crops):
    model = FakeModel(scripts, memory=memory)
    scheduler, outcomes = run(model, images=images, crops=crops)
    for key, script in scripts.items():
        assert isinstance(outcomes[key], ZeroDivisionError) if script.fails else outcomes[key] == script.expected
    failed = any(script.fails for script in scripts.values())
    assert len(model.begun) == len(scripts) or scheduler.shortages or failed


def test_an_image_too_large_for_memory_alone_gets_the_smallest_batches_and_then_fails() -> None:
    scripts = {k: Script(k, (3,)) for k in range(9)}

    class TightModel(FakeModel):
        def begin(self, requests, *, batch_size):
            if any(request.key == 5 for request in requests) and batch_size > 1:
                raise MemoryError("five is large")
            if any(request.key == 7 for request in requests):
                raise torch.OutOfMemoryError("seven is too large")
            return super().begin(requests, batch_size=batch_size)

    model = TightModel(scripts)
    _, outcomes = run(model)
    assert isinstance(outcomes.pop(7), MemoryError)
    assert all(outcomes[key] == scripts[key].expected for key in outcomes)
    assert [shape for _, shape in model.f].count(1) == 1
    assert model.g.count((2, 2)) == 1  # five's three crops, two at a time
    assert model.g.count((1, 2)) == 1


def test_after_a_shortage_older_images_continue_and_soon_as_many_run_as_before() -> None:
    scripts = {k: Script(k, (4, 4, 4)) for k in range(60)}

    class OneShortage(FakeModel):
        def begin(self, requests, *, batch_size):
            self.memory = 6 if self.begun == [*range(4)] else 1000
            return super().begin(requests, batch_size=batch_size)

    model = OneShortage(scripts)
    scheduler, outcomes = run(model, crops=32, capacity=12)
    assert all(outcomes[key] == scripts[key].expected for key in scripts)
    assert scheduler.shortages == 1
    assert model.begun == [*range(60)]
    assert model.f[-1] == (4, 4)


def test_batches_of_g_are_full_as_long_as_there_are_images() -> None:
    random = np.random.default_rng(1)
    scripts = {
        k: Script(k, tuple(random.integers(1, 7, random.integers(1, 5)).tolist()), int(random.integers(1, 4)))
        for k in range(200)
    }
    model = FakeModel(scripts)
    run(model, images=4, crops=16, capacity=24)
    assert all(crops == 16 for crops, _ in model.g[:-6])
    assert sum(crops for crops, _ in model.g) == sum(sum(script.crops) for script in scripts.values())
    assert sum(images for images, _ in model.f) / (4 * len(model.f)) > 0.7


def test_an_image_is_returned_in_the_step_in_which_it_ends() -> None:
    model = FakeModel({0: Script(0, (2,)), **{k: Script(k, (8, 8, 8, 8)) for k in range(1, 4)}})
    scheduler = BatchScheduler(model, images=4, crops=16)
    key, _ = next(scheduler.run(request(key) for key in model.scripts))
    assert (key, len(model.g)) == (0, 1)


def test_no_more_images_run_than_one_batch_of_g_needs() -> None:
    model = FakeModel({k: Script(k, (4,) * 5) for k in range(80)})
    scheduler = BatchScheduler(model, images=4, crops=16, capacity=40)
    running = [len(model.running) for _ in scheduler.run(request(key) for key in model.scripts)]
    assert max(running) <= 16 / 4 + 4


def test_a_rare_size_does_not_starve() -> None:
    model = FakeModel({k: Script(k, (4,), size=2 if k == 3 else 1) for k in range(100)})
    run(model, images=4, crops=16, capacity=20)
    assert model.begun.index(3) <= 8 * 4


def test_the_queue_returns_the_most_frequent_kind_and_the_first_among_equals() -> None:
    queue = WaitingQueue()
    for key, kind in enumerate("abbacbb"):
        queue.put(WaitingRequest(request(key), kind))
    batches = [queue.take(3, limit=9) for _ in range(4)]
    assert [[waiting.request.key for waiting in batch] for batch in batches] == [[1, 2, 5], [0, 3], [4], [6]]
    for key, kind in enumerate("ab"):
        queue.put(WaitingRequest(request(key), kind))
    assert [waiting.request.key for waiting in queue.take(3, limit=1)] == [0]


def test_a_request_that_is_no_longer_wanted_is_not_started() -> None:
    model = FakeModel({k: Script(k, (4,)) for k in range(6)})
    scheduler = BatchScheduler(model, images=2, crops=8)
    outcomes = dict(scheduler.run(request(key, lambda key=key: key % 2 == 0) for key in model.scripts))
    assert sorted(model.begun) == [0, 2, 4]
    assert [key for key, outcome in sorted(outcomes.items()) if outcome is None] == [1, 3, 5]


def test_with_one_image_at_a_time_no_batch_is_shared() -> None:
    model = FakeModel({k: Script(k, (5, 2)) for k in range(3)})
    run(model, images=1, crops=4)
    assert model.begun == [0, 1, 2]
    assert model.g == [(4, 4), (1, 4), (2, 4)] * 3


def test_the_time_of_a_batch_is_shared_by_crops() -> None:
    model = FakeModel({0: Script(0, (2,)), 1: Script(1, (6,))})
    started: list[StartedRequest] = []
    model.start = lambda script: started.append(FakeModel.start(model, script)) or started[-1]  # type: ignore[method-assign]
    ticks = iter(np.arange(0, 100, 0.008).tolist())
    scheduler = BatchScheduler(model, images=4, crops=16, clock=lambda: next(ticks))
    dict(scheduler.run(request(key) for key in model.scripts))
    assert [image.timings["classifier_ms"] for image in started] == pytest.approx([2, 6])
    assert [image.timings["encode_ms"] for image in started] == pytest.approx([4, 4])
