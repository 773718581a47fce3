"""The segmenter's models under the batch scheduler: order and company of the requests change nothing."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.batching import measure_batching
from car.errors import VocabularyError
from car.presets import apply_settings, preset
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
    apply_settings(RECIPE, {"classifier_depth": "paper"}),
    apply_settings(RECIPE, {"cam": "gradcam", "position_rounding": "paper"}),
    replace(RECIPE, stuff=WORDS[3:]),
    replace(RECIPE, max_side=56),
    replace(RECIPE, max_side=32),
]
TIED = 5
"""The recipe with CAMs that differ in their last digits only, which decide whose a pixel is."""
VOCABULARIES = [Vocabulary.from_words(WORDS), Vocabulary.from_words(WORDS[::-1][:4]), Vocabulary.from_words(["cat"])]
SIZES = [(48, 64), (64, 48), (33, 47), (48, 64)]


def segmenter(batches: Batches | None = None) -> Segmenter:
    f = random_models.encoder(random_models.TINY_F, seed=1, scale=15, gain=4)
    g = random_models.encoder(random_models.TINY_G, seed=2, scale=20, gain=4)
    return Segmenter(f, g, batches)


def make_image(seed: int) -> np.ndarray:
    random, (height, width) = np.random.default_rng(seed), SIZES[seed % len(SIZES)]
    image = np.full((height, width, 3), random.integers(0, 255, 3), np.uint8)
    for _ in range(3):
        y, x = random.integers(0, height - 16), random.integers(0, width - 16)
        image[y : y + random.integers(8, 24), x : x + random.integers(8, 24)] = random.integers(0, 255, 3)
    return np.clip(image + random.normal(0, 6, image.shape), 0, 255).astype(np.uint8)


Case = tuple[int, int, int]
"""Numbers of an image, a vocabulary and a recipe."""


def request(key: int, case: Case) -> SegmentRequest:
    return SegmentRequest(key, make_image(case[0]), VOCABULARIES[case[1]], RECIPES[case[2]])


def requests(cases: list[Case]) -> list[SegmentRequest]:
    return [request(key, case) for key, case in enumerate(cases)]


def finish(outcome: object) -> Segmentation:
    assert isinstance(outcome, PendingSegmentation)
    return outcome.finish()


@pytest.fixture(scope="module")
def car() -> Segmenter:
    return segmenter()


@dataclass
class Singles:
    """The result of each case by itself, computed at its first use."""

    car: Segmenter = field(repr=False)
    results: dict[Case, Segmentation] = field(default_factory=dict, repr=False)

    def __getitem__(self, case: Case) -> Segmentation:
        if case not in self.results:
            single = request(0, case)
            [self.results[case]] = self.car.segment([single.image], single.vocabulary, single.recipe)
        return self.results[case]


@pytest.fixture(scope="module")
def singles(car: Segmenter) -> Singles:
    return Singles(car)


def run_in_bursts(
    scheduler: BatchScheduler, cases: list[Case], bursts: list[int]
) -> Iterator[tuple[int, PendingSegmentation | Exception | None]]:
    """Add requests in bursts between steps."""
    waiting, bursts = requests(cases), list(bursts)
    while waiting or len(scheduler):
        for _ in range(min(bursts.pop() if bursts else len(waiting), len(waiting), scheduler.room)):
            added = waiting.pop(0)
            scheduler.add_request(added.key, added.image, added.vocabulary, added.recipe)
        yield from scheduler.step()


random_cases = st.lists(
    st.tuples(st.integers(0, 5), st.integers(0, len(VOCABULARIES) - 1), st.integers(0, len(RECIPES) - 1)),
    min_size=1,
    max_size=6,
)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(cases=random_cases, bursts=st.lists(st.integers(0, 3), max_size=8))
def test_on_a_cpu_results_do_not_depend_on_the_order_to_the_last_bit(car, singles, cases, bursts) -> None:
    outcomes = dict(run_in_bursts(car.scheduler(), cases, bursts))
    for key, case in enumerate(cases):
        assert finish(outcomes[key]) == singles[case]


@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(cases=random_cases, bursts=st.lists(st.integers(0, 3), max_size=8))
def test_in_shared_batches_other_vocabularies_and_recipes_change_no_score(singles, cases, bursts) -> None:
    # Libraries promise no equal bits for another place in a batch, so scores may differ in their last digits.
    scheduler = segmenter(Batches(images=3, crops=7)).scheduler(capacity=5)
    outcomes = dict(run_in_bursts(scheduler, cases, bursts))
    for key, case in enumerate(cases):
        shared, single = finish(outcomes[key]), singles[case]
        if case[2] != TIED:
            assert [mask.label for mask in shared.masks] == [mask.label for mask in single.masks]
            assert [m.score for m in shared.masks] == pytest.approx([m.score for m in single.masks], abs=1e-4)
        assert [len(step.queries) for step in shared.steps] == [len(step.queries) for step in single.steps]
        for step, expected in zip(shared.steps, single.steps, strict=True):
            assert [(q.label, q.kept) for q in step.queries] == [(q.label, q.kept) for q in expected.queries]
            assert [q.score for q in step.queries] == pytest.approx([q.score for q in expected.queries], abs=1e-4)


def test_images_of_two_classifier_depths_share_f_but_no_batch_of_g() -> None:
    scheduler = segmenter(Batches(images=4, crops=8)).scheduler()
    outcomes = dict(scheduler.run(requests([(0, 0, key % 2) for key in range(6)])))
    assert scheduler.stats.f_batches == 2
    results = [finish(outcomes[key]) for key in range(6)]
    assert results[0].steps[0] != results[1].steps[0]
    for key, result in enumerate(results):
        assert [mask.label for mask in result.masks] == [mask.label for mask in results[key % 2].masks]


def test_texts_too_long_for_clip_fail_their_own_image(car) -> None:
    too_long = replace(request(1, (1, 0, 0)), vocabulary=Vocabulary.from_words([" ".join(["w"] * 80), "dog"]))
    outcomes = dict(car.scheduler().run([request(0, (0, 0, 0)), too_long, request(2, (2, 1, 0))]))
    assert isinstance(outcomes[1], VocabularyError)
    assert isinstance(outcomes[0], PendingSegmentation)
    assert isinstance(outcomes[2], PendingSegmentation)


def test_out_of_memory_in_a_shared_batch_changes_no_result(car, singles) -> None:
    class FailingSegmenter(Segmenter):
        failures = iter([False, True, False, True, True])

        def begin(self, requests, *, batch_size):
            if next(self.failures, False):
                raise MemoryError("too many images")
            return super().begin(requests, batch_size=batch_size)

    failing = FailingSegmenter(car.proposal, car.classifier, Batches(images=2, crops=8))
    scheduler = failing.scheduler(capacity=6)
    cases = [(k % 6, 0, 0) for k in range(8)]
    outcomes = dict(scheduler.run(requests(cases)))
    assert scheduler.shortages == 3
    for key, case in enumerate(cases):
        assert [m.label for m in finish(outcomes[key]).masks] == [m.label for m in singles[case].masks]


def test_work_is_counted_by_image_whatever_was_shared(singles) -> None:
    cases = [(k, 0, 0) for k in range(4)]
    outcomes = dict(segmenter(Batches(images=3, crops=7)).scheduler().run(requests(cases)))
    for key, case in enumerate(cases):
        assert finish(outcomes[key]).work == singles[case].work


def test_continuous_batching_needs_fewer_batches_than_fixed_groups(car) -> None:
    images = [make_image(4 * k) for k in range(12)]
    cost = measure_batching(car, images, VOCABULARIES[0], RECIPE, batches=Batches(images=3, crops=8))
    assert cost.same_words == cost.images == 12
    assert cost.continuous.g_batches < cost.static.g_batches
    assert cost.continuous.g_filled > 0.9
    assert cost.to_json()["ratio_g_batches"] > 1
