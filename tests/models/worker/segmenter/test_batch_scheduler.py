"""Continuous batching by itself: toy models whose recurrences are drawn by lot, and the policy that it promises."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from car.recipe import Recipe
from car.vocabulary import Vocabulary
from worker.segmenter.batch_scheduler import BatchScheduler, Completed
from worker.segmenter.requests import SegmentRequest, StartedRequest, WaitingQueue, WaitingRequest

WORDS, RECIPE = Vocabulary.of(["cat"]), Recipe()


@dataclass(frozen=True)
class Plot:
    """What a toy picture will do."""

    number: int
    asks: tuple[int, ...]
    """Crops of each step."""
    size: int = 1
    lens: str = "one"
    breaks: str = ""
    """Where: "f", "loop" or "g"."""


@dataclass
class Toy:
    """f sees nothing, and g's embedding of a crop is the crop itself; each complains where a picture breaks it."""

    plots: dict[int, Plot]
    memory: int = 10_000
    """Pictures that may have begun at a time; beyond them f, the loops and g run short in turns."""
    f: list[tuple[int, int]] = field(default_factory=list)
    """Pictures and shape of each batch; so for g."""
    g: list[tuple[int, int]] = field(default_factory=list)
    under_way: set[int] = field(default_factory=set)
    begun: list[int] = field(default_factory=list)
    passes: int = 0

    def kind(self, ask: SegmentRequest) -> int:
        return self.plots[ask.key].size

    def begin(self, asks: list[SegmentRequest], *, at_once: int) -> list[StartedRequest[list[float]]]:
        assert len({self.kind(ask) for ask in asks}) == 1
        assert len(asks) <= at_once
        self.short(len(asks), where=0)
        if any(self.plots[ask.key].breaks == "f" for ask in asks):
            raise ZeroDivisionError("f")
        self.f.append((len(asks), at_once))
        self.begun += [ask.key for ask in asks]
        return [self.one(self.plots[ask.key]) for ask in asks]

    def one(self, plot: Plot) -> StartedRequest[list[float]]:
        return StartedRequest(self.loop(plot), ToyLens(plot.lens, self))

    def loop(self, plot: Plot) -> Iterator:
        self.under_way.add(plot.number)
        seen = []
        try:
            for step, many in enumerate(plot.asks):
                self.short(where=1)
                if plot.breaks == "loop":
                    raise ZeroDivisionError("loop")
                first = plot.number * 1000 + step * 100
                crops = (torch.arange(first, first + many)[:, None, None, None]).repeat(1, 1, 1, 3)
                embeddings = yield crops
                seen += embeddings[:, 0].tolist()
            return seen
        finally:
            self.under_way.discard(plot.number)

    def short(self, more: int = 0, *, where: int) -> None:
        if len(self.under_way) + more > self.memory and (where == 2 or len(self.begun) % 2 == where):
            raise MemoryError("too many")

    def expected(self, plot: Plot) -> list[float]:
        return [plot.number * 1000 + step * 100 + k for step, many in enumerate(plot.asks) for k in range(many)]


@dataclass(frozen=True)
class ToyLens:
    name: str
    toy: Toy = field(compare=False)

    def encode(self, crops: torch.Tensor, *, at_once: int, padded: bool) -> torch.Tensor:
        assert 0 < len(crops) <= at_once
        self.toy.short(where=2)
        numbers = crops[:, 0, 0, 0]
        plots = [self.toy.plots[int(number) // 1000] for number in numbers]
        assert {plot.lens for plot in plots} == {self.name}
        if any(plot.breaks == "g" for plot in plots):
            raise ZeroDivisionError("g")
        self.toy.g.append((len(crops), at_once))
        return numbers[:, None].float()


def ask(key: int, wanted=lambda: True) -> SegmentRequest:
    return SegmentRequest(key, np.zeros((1, 1, 3), np.uint8), WORDS, RECIPE, still_wanted=wanted)


def run(
    toy: Toy, *, images: int = 4, crops: int = 16, most: int = 0
) -> tuple[BatchScheduler, dict[int, list[float] | Exception]]:
    flow = BatchScheduler(toy, images=images, crops=crops, most=most)
    found: list[Completed] = list(flow.run(ask(key) for key in toy.plots))
    assert len(found) == len(dict(found)) == len(toy.plots)  # each once
    assert len(flow) == 0
    return flow, dict(found)


plots = st.builds(
    Plot,
    number=st.just(0),
    asks=st.lists(st.integers(1, 9), max_size=4).map(tuple),
    size=st.integers(1, 3),
    lens=st.sampled_from(["one", "other"]),
    breaks=st.sampled_from(["", "", "", "", "f", "loop", "g"]),
)
many_plots = st.lists(plots, min_size=1, max_size=30).map(
    lambda some: {k: Plot(k, one.asks, one.size, one.lens, one.breaks) for k, one in enumerate(some)}
)


def broken(plot: Plot) -> bool:
    return plot.breaks == "f" or (plot.breaks != "" and plot.asks != ())


@settings(max_examples=150, deadline=None)
@given(plots=many_plots, images=st.integers(1, 5), crops=st.integers(1, 20), most=st.integers(0, 12))
def test_every_picture_gets_the_embeddings_of_its_own_crops_and_what_breaks_fails_alone(plots, images, crops, most):
    toy = Toy(plots)
    _, found = run(toy, images=images, crops=crops, most=most)
    for key, plot in plots.items():
        if broken(plot):
            assert isinstance(found[key], ZeroDivisionError)
        else:
            assert found[key] == toy.expected(plot)
    assert {shape for _, shape in toy.f} <= {images}
    assert {shape for _, shape in toy.g} <= {crops}


@settings(max_examples=150, deadline=None)
@given(plots=many_plots, memory=st.integers(1, 6), images=st.integers(1, 5), crops=st.integers(1, 20))
def test_where_memory_runs_out_fewer_go_on_together_and_none_is_lost(plots, memory, images, crops):
    toy = Toy(plots, memory=memory)
    flow, found = run(toy, images=images, crops=crops)
    for key, plot in plots.items():
        assert isinstance(found[key], ZeroDivisionError) if broken(plot) else found[key] == toy.expected(plot)
    assert (len(toy.begun) == len(plots)) or flow.shortages or any(map(broken, plots.values()))


def test_a_picture_alone_that_memory_cannot_hold_gets_the_smallest_batches_and_then_fails() -> None:
    plots = {k: Plot(k, (3,)) for k in range(9)}

    class Tight(Toy):
        def begin(self, asks, *, at_once):
            if any(one.key == 5 for one in asks) and at_once > 1:
                raise MemoryError("five is large")
            if any(one.key == 7 for one in asks):
                raise torch.OutOfMemoryError("seven is too large")
            return super().begin(asks, at_once=at_once)

    toy = Tight(plots)
    _, found = run(toy)
    assert isinstance(found.pop(7), MemoryError)
    assert all(found[key] == toy.expected(plots[key]) for key in found)
    assert [shape for _, shape in toy.f].count(1) == 1
    assert toy.g.count((2, 2)) == 1  # five's three crops, two at a time
    assert toy.g.count((1, 2)) == 1


def test_after_a_shortage_the_older_pictures_lose_nothing_and_soon_as_many_go_on_as_before() -> None:
    plots = {k: Plot(k, (4, 4, 4)) for k in range(60)}

    class Once(Toy):
        def begin(self, asks, *, at_once):
            self.memory = 6 if self.begun == [*range(4)] else 1000
            return super().begin(asks, at_once=at_once)

    toy = Once(plots)
    flow, found = run(toy, crops=32, most=12)
    assert all(found[key] == toy.expected(plots[key]) for key in plots)
    assert flow.shortages == 1
    assert toy.begun == [*range(60)]
    assert toy.f[-1] == (4, 4)


def test_batches_of_g_are_full_as_long_as_there_are_pictures() -> None:
    random = np.random.default_rng(1)
    plots = {
        k: Plot(k, tuple(random.integers(1, 7, random.integers(1, 5)).tolist()), int(random.integers(1, 4)))
        for k in range(200)
    }
    toy = Toy(plots)
    run(toy, images=4, crops=16, most=24)
    assert all(many == 16 for many, _ in toy.g[:-6])
    assert sum(many for many, _ in toy.g) == sum(sum(plot.asks) for plot in plots.values())
    assert sum(many for many, _ in toy.f) / (4 * len(toy.f)) > 0.7


def test_a_picture_is_handed_on_in_the_turn_in_which_it_rests() -> None:
    toy = Toy({0: Plot(0, (2,)), **{k: Plot(k, (8, 8, 8, 8)) for k in range(1, 4)}})
    flow, place = BatchScheduler(toy, images=4, crops=16), []
    for number, (key, _) in enumerate(flow.run(ask(key) for key in toy.plots)):
        place.append((key, len(toy.g), number))
    assert place[0] == (0, 1, 0)


def test_no_more_pictures_begin_than_one_batch_of_g_asks_for() -> None:
    toy = Toy({k: Plot(k, (4,) * 5) for k in range(80)})
    flow = BatchScheduler(toy, images=4, crops=16, most=40)
    most = 0
    for _ in flow.run(ask(key) for key in toy.plots):
        most = max(most, len(toy.under_way))
    assert most <= 16 / 4 + 4


def test_a_rare_size_is_not_passed_over_for_ever() -> None:
    toy = Toy({k: Plot(k, (4,), size=2 if k == 3 else 1) for k in range(100)})
    run(toy, images=4, crops=16, most=20)
    assert toy.begun.index(3) <= 8 * 4


def test_a_line_gives_the_kind_of_which_most_are_here_and_among_equals_the_first() -> None:
    line = WaitingQueue()
    for key, kind in enumerate("abbacbb"):
        line.put(WaitingRequest(ask(key), kind))
    assert [[one.request.key for one in line.take(3, most=9)] for _ in range(4)] == [[1, 2, 5], [0, 3], [4], [6]]
    for key, kind in enumerate("ab"):
        line.put(WaitingRequest(ask(key), kind))
    assert [one.request.key for one in line.take(3, most=1)] == [0]


def test_what_nobody_wants_any_more_does_not_begin() -> None:
    toy = Toy({k: Plot(k, (4,)) for k in range(6)})
    flow = BatchScheduler(toy, images=2, crops=8)
    found = dict(flow.run(ask(key, wanted=lambda key=key: key % 2 == 0) for key in toy.plots))
    assert sorted(toy.begun) == [0, 2, 4]
    assert [key for key, one in sorted(found.items()) if one is None] == [1, 3, 5]


def test_where_pictures_go_one_by_one_no_batch_is_shared() -> None:
    toy = Toy({k: Plot(k, (5, 2)) for k in range(3)})
    run(toy, images=1, crops=4)
    assert toy.begun == [0, 1, 2]
    assert toy.g == [(4, 4), (1, 4), (2, 4)] * 3


def test_times_of_a_batch_are_shared_by_crops() -> None:
    toy = Toy({0: Plot(0, (2,)), 1: Plot(1, (6,))})
    begun: list[StartedRequest] = []
    toy.one = lambda plot: begun.append(Toy.one(toy, plot)) or begun[-1]  # type: ignore[method-assign]
    ticks = iter(np.arange(0, 100, 0.008).tolist())
    flow = BatchScheduler(toy, images=4, crops=16, clock=lambda: next(ticks))
    dict(flow.run(ask(key) for key in toy.plots))
    assert [one.times["classifier_ms"] for one in begun] == pytest.approx([2, 6])
    assert [one.times["encode_ms"] for one in begun] == pytest.approx([4, 4])
