"""The segmenter's models under continuous batching: who comes when, and with whom, changes nothing."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.batching import measure_batching
from car.errors import VocabularyError
from car.presets import preset
from car.segmentation import Segmentation
from car.vocabulary import Vocabulary
from evaluation import random_models
from worker.segmenter.batch_scheduler import BatchScheduler
from worker.segmenter.postprocess import PendingSegmentation
from worker.segmenter.requests import SegmentRequest
from worker.segmenter.segmenter import Batches, Segmenter

WORDS = ("cat", "dog", "red car", "bird avian", "grass", "bottle")
RECIPE = replace(preset("coco"), theta=0.05, max_steps=6, crf_iterations=1)
RECIPES = [
    RECIPE,
    RECIPE.with_settings({"classifier_depth": "paper"}),
    RECIPE.with_settings({"cam": "gradcam", "position_rounding": "paper"}),
    replace(RECIPE, stuff=WORDS[3:]),
    replace(RECIPE, max_side=56),
    replace(RECIPE, max_side=32),
]
TIED = 5
"""Of the recipe in which words come to CAMs that are alike but for their last digits, which decide whose a pixel is."""
VOCABULARIES = [Vocabulary.of(WORDS), Vocabulary.of(WORDS[::-1][:4]), Vocabulary.of(["cat"])]
SIZES = [(48, 64), (64, 48), (33, 47), (48, 64)]


def segmenter(batches: Batches | None = None) -> Segmenter:
    f = random_models.encoder(random_models.TINY_F, seed=1, scale=15, gain=4)
    g = random_models.encoder(random_models.TINY_G, seed=2, scale=20, gain=4)
    return Segmenter(f, g, batches)


def picture(seed: int) -> np.ndarray:
    random, (height, width) = np.random.default_rng(seed), SIZES[seed % len(SIZES)]
    image = np.full((height, width, 3), random.integers(0, 255, 3), np.uint8)
    for _ in range(3):
        y, x = random.integers(0, height - 16), random.integers(0, width - 16)
        image[y : y + random.integers(8, 24), x : x + random.integers(8, 24)] = random.integers(0, 255, 3)
    return np.clip(image + random.normal(0, 6, image.shape), 0, 255).astype(np.uint8)


Wish = tuple[int, int, int]
"""Numbers of a picture, a vocabulary and a recipe."""


def ask(key: int, wish: Wish) -> SegmentRequest:
    return SegmentRequest(key, picture(wish[0]), VOCABULARIES[wish[1]], RECIPES[wish[2]])


def rest_of(found: object) -> Segmentation:
    assert isinstance(found, PendingSegmentation)
    return found.finish()


@pytest.fixture(scope="module")
def car() -> Segmenter:
    return segmenter()


@dataclass
class Alone:
    """What each wish comes to by itself; computed as they are met."""

    car: Segmenter = field(repr=False)
    known: dict[Wish, Segmentation] = field(default_factory=dict, repr=False)

    def __getitem__(self, wish: Wish) -> Segmentation:
        if wish not in self.known:
            one = ask(0, wish)
            [self.known[wish]] = self.car.segment([one.image], one.vocabulary, one.recipe)
        return self.known[wish]


@pytest.fixture(scope="module")
def alone(car: Segmenter) -> Alone:
    return Alone(car)


def arriving(flow: BatchScheduler, asks: list[SegmentRequest], bursts: list[int]) -> Iterator[tuple[int, object]]:
    """Pictures put in by bursts, between turns."""
    waiting, bursts = list(asks), list(bursts)
    while waiting or len(flow):
        for _ in range(min(bursts.pop() if bursts else len(waiting), len(waiting), flow.room)):
            one = waiting.pop(0)
            flow.add_request(one.key, one.image, one.vocabulary, one.recipe)
        yield from flow.step()


wishes = st.lists(
    st.tuples(st.integers(0, 5), st.integers(0, len(VOCABULARIES) - 1), st.integers(0, len(RECIPES) - 1)),
    min_size=1,
    max_size=6,
)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(wishes=wishes, bursts=st.lists(st.integers(0, 3), max_size=8))
def test_on_a_cpu_whoever_comes_when_has_the_same_result_to_the_last_bit(car, alone, wishes, bursts) -> None:
    found = dict(arriving(car.scheduler(), [ask(key, wish) for key, wish in enumerate(wishes)], bursts))
    for key, wish in enumerate(wishes):
        assert rest_of(found[key]) == alone[wish]


@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(wishes=wishes, bursts=st.lists(st.integers(0, 3), max_size=8))
def test_in_shared_batches_words_of_other_vocabularies_and_recipes_keep_their_scores(alone, wishes, bursts) -> None:
    # Libraries promise no equal bits for another place in a batch, so scores may differ in their last digits.
    flow = segmenter(Batches(images=3, crops=7)).scheduler(most=5)
    found = dict(arriving(flow, [ask(key, wish) for key, wish in enumerate(wishes)], bursts))
    for key, wish in enumerate(wishes):
        together, single = rest_of(found[key]), alone[wish]
        if wish[2] != TIED:
            assert [mask.label for mask in together.masks] == [mask.label for mask in single.masks]
            assert [m.score for m in together.masks] == pytest.approx([m.score for m in single.masks], abs=1e-4)
        assert [len(step.queries) for step in together.steps] == [len(step.queries) for step in single.steps]
        for shared, own in zip(together.steps, single.steps, strict=True):
            assert [(q.label, q.kept) for q in shared.queries] == [(q.label, q.kept) for q in own.queries]
            assert [q.score for q in shared.queries] == pytest.approx([q.score for q in own.queries], abs=1e-4)


def test_pictures_of_two_classifier_depths_share_no_batch_and_still_go_together() -> None:
    car = segmenter(Batches(images=4, crops=8))
    flow = car.scheduler()
    found = dict(flow.run([ask(key, (0, 0, key % 2)) for key in range(6)]))
    assert flow.slots.f_batches == 2
    results = [rest_of(found[key]) for key in range(6)]
    assert results[0].steps[0] != results[1].steps[0]
    for key, one in enumerate(results):
        assert [mask.label for mask in one.masks] == [mask.label for mask in results[key % 2].masks]


def test_words_that_no_model_reads_fail_their_own_picture(car) -> None:
    bad = replace(ask(1, (1, 0, 0)), vocabulary=Vocabulary.of([" ".join(["w"] * 80), "dog"]))
    found = dict(car.scheduler().run([ask(0, (0, 0, 0)), bad, ask(2, (2, 1, 0))]))
    assert isinstance(found[1], VocabularyError)
    assert isinstance(found[0], PendingSegmentation)
    assert isinstance(found[2], PendingSegmentation)


def test_memory_that_runs_out_in_a_shared_batch_changes_no_result(car, alone) -> None:
    class Short(Segmenter):
        failures = iter([False, True, False, True, True])

        def begin(self, asks, *, at_once):
            if next(self.failures, False):
                raise MemoryError("too many")
            return super().begin(asks, at_once=at_once)

    short = Short(car.proposal, car.classifier, Batches(images=2, crops=8))
    flow = short.scheduler(most=6)
    some = [(k % 6, 0, 0) for k in range(8)]
    found = dict(flow.run([ask(key, wish) for key, wish in enumerate(some)]))
    assert flow.shortages == 3
    for key, wish in enumerate(some):
        assert [m.label for m in rest_of(found[key]).masks] == [m.label for m in alone[wish].masks]


def test_work_is_counted_by_picture_whatever_was_shared(alone) -> None:
    some = [(k, 0, 0) for k in range(4)]
    found = dict(segmenter(Batches(images=3, crops=7)).scheduler().run([ask(k, wish) for k, wish in enumerate(some)]))
    for key, wish in enumerate(some):
        assert rest_of(found[key]).work == alone[wish].work


def test_pictures_that_come_and_go_need_fewer_batches_than_groups(car) -> None:
    images = [picture(4 * k) for k in range(12)]
    cost = measure_batching(car, images, VOCABULARIES[0], RECIPE, batches=Batches(images=3, crops=8))
    assert cost.same_words == cost.images == 12
    assert cost.continuous.g_batches < cost.static.g_batches
    assert cost.continuous.g_filled > 0.9
    assert cost.to_json()["ratio_g_batches"] > 1
