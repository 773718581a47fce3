"""The segmenter on tiny random CLIPs: properties that hold for any weights."""

from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from car.errors import VocabularyError
from car.presets import apply_settings, preset
from car.recipe import Arithmetic, Mode, Recipe, VisualPrompt
from car.rle import decode_coco
from car.segmentation import Pass, Segmentation, StopReason
from car.vocabulary import Vocabulary
from evaluation import random_models
from worker.segmenter import recurrence
from worker.segmenter.passes import build_passes
from worker.segmenter.recurrence import StepTrace
from worker.segmenter.segmenter import Batches, Segmenter

WORDS = ("cat", "dog", "red car", "bird avian", "grass", "bottle", "bicycle", "chair seat")
# Scores of random models are spread thinly: this theta drops some words in every step.
RECIPE = replace(preset("coco"), theta=0.03, max_steps=20)


def segmenter(batches: Batches | None = None) -> Segmenter:
    f = random_models.encoder(random_models.TINY_F, seed=1, scale=15, gain=4)
    g = random_models.encoder(random_models.TINY_G, seed=2, scale=20, gain=4)
    return Segmenter(f, g, batches)


@pytest.fixture(scope="module")
def car() -> Segmenter:
    return segmenter()


def make_image(seed: int, height: int = 72, width: int = 96) -> np.ndarray:
    random = np.random.default_rng(seed)
    image = np.full((height, width, 3), random.integers(0, 255, 3), np.uint8)
    for _ in range(3):
        y, x = random.integers(0, height - 16), random.integers(0, width - 16)
        image[y : y + random.integers(8, 40), x : x + random.integers(8, 40)] = random.integers(0, 255, 3)
    return np.clip(image + random.normal(0, 6, image.shape), 0, 255).astype(np.uint8)


def run(car: Segmenter, image: np.ndarray, words: Sequence[str] = WORDS, recipe: Recipe = RECIPE) -> Segmentation:
    return car.segment([image], Vocabulary.from_words(words, mode=recipe.mode), recipe)[0]


def same(a: Segmentation, b: Segmentation) -> bool:
    return replace(a, timings={}) == replace(b, timings={})


def test_the_recipe_of_these_tests_drops_queries_step_by_step(car: Segmenter) -> None:
    lengths = {len(run(car, make_image(seed)).steps) for seed in range(4)}
    assert max(lengths) >= 3


def test_the_same_image_gives_the_same_result_every_time(car: Segmenter) -> None:
    assert same(run(car, make_image(5)), run(segmenter(), make_image(5)))


IMAGES = [make_image(1), make_image(2), make_image(3, 61, 83), make_image(4), make_image(6, 61, 83)]


def test_a_batch_equals_its_singles_bit_for_bit(car: Segmenter) -> None:
    together = car.segment(IMAGES, Vocabulary.from_words(WORDS), RECIPE)
    for image, result in zip(IMAGES, together, strict=True):
        assert same(result, run(car, image))


@pytest.mark.parametrize("batches", [Batches(images=3, crops=5), Batches(images=8, crops=64)])
def test_shared_forward_passes_change_no_mask(car: Segmenter, batches: Batches) -> None:
    # Libraries promise no equal bits for another place in a batch, so scores may differ in their last digits.
    together = segmenter(batches).segment(IMAGES, Vocabulary.from_words(WORDS), RECIPE)
    for image, result in zip(IMAGES, together, strict=True):
        single = run(car, image)
        assert [mask.label for mask in result.masks] == [mask.label for mask in single.masks]
        for mask, expected in zip(result.masks, single.masks, strict=True):
            assert mask.score == pytest.approx(expected.score, abs=1e-4)
            a, b = decode_coco(mask.rle), decode_coco(expected.rle)
            assert (a & b).sum() >= 0.99 * (a | b).sum()


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(order=st.permutations(range(len(WORDS))), seed=st.integers(0, 3))
def test_permuting_the_vocabulary_permutes_the_result_and_changes_nothing_else(order: list[int], seed: int) -> None:
    car, image = segmenter(), make_image(seed)
    plain, permuted = run(car, image), run(car, image, [WORDS[i] for i in order])
    assert {mask.label: mask.rle for mask in permuted.masks} == {mask.label: mask.rle for mask in plain.masks}
    assert len(permuted.steps) == len(plain.steps)
    for step, permuted_step in zip(plain.steps, permuted.steps, strict=True):
        scores = {query.label: (query.score, query.kept) for query in step.queries}
        assert [query.label for query in permuted_step.queries] == [WORDS[i] for i in order if WORDS[i] in scores]
        assert {query.label: (query.score, query.kept) for query in permuted_step.queries} == scores


def test_masks_follow_the_vocabulary_and_describe_their_pixels(car: Segmenter) -> None:
    result = run(car, make_image(2))
    labels = [mask.label for mask in result.masks]
    assert labels == [word for word in WORDS if word in labels]
    total = np.zeros((result.height, result.width), int)
    for mask in result.masks:
        pixels = decode_coco(mask.rle)
        x, y, width, height = mask.bbox
        assert mask.area == pixels.sum() > 0
        assert pixels[y : y + height, x : x + width].sum() == mask.area
        total += pixels
    assert total.max() <= 1  # in semantic mode a pixel has one label


def test_the_survivors_are_the_queries_of_the_last_step(car: Segmenter) -> None:
    result = run(car, make_image(3))
    last = result.steps[-1]
    assert all(query.kept for query in last.queries)
    assert {mask.label: mask.score for mask in result.masks}.items() <= {q.label: q.score for q in last.queries}.items()


def test_a_dropped_query_names_its_rival(car: Segmenter) -> None:
    dropped = [query for step in run(car, make_image(1)).steps for query in step.queries if not query.kept]
    assert dropped
    for query in dropped:
        assert query.rival != query.label
        assert query.rival is None or query.rival_score > query.score


def test_the_first_step_has_no_previous_masks(car: Segmenter) -> None:
    steps = run(car, make_image(1)).steps
    assert {query.iou_previous for query in steps[0].queries} == {None}
    assert all(0 <= query.iou_previous <= 1 for query in steps[1].queries)


def test_the_official_recurrence_takes_two_steps_if_the_papers_takes_one(car: Segmenter) -> None:
    keep_all = replace(RECIPE, theta=0.0)
    assert len(run(car, make_image(1), recipe=keep_all).steps) == 2
    assert len(run(car, make_image(1), recipe=apply_settings(keep_all, {"stop": "paper"})).steps) == 1


def test_if_every_query_is_below_theta_the_best_or_none_is_kept(car: Segmenter) -> None:
    strict = replace(RECIPE, theta=1.0)
    best = run(car, make_image(1), recipe=strict)
    assert [len(step.queries) for step in best.steps] == [len(WORDS), 1, 1][: len(best.steps)]
    assert best.stop_reason is StopReason.ONE_LEFT
    nothing = run(car, make_image(1), recipe=apply_settings(strict, {"none_kept": "paper"}))
    assert (nothing.stop_reason, nothing.masks, len(nothing.steps)) == (StopReason.NONE_LEFT, (), 1)


def test_the_step_limit_is_reported_and_dropped_queries_have_no_mask(car: Segmenter) -> None:
    limited = run(car, make_image(1), recipe=replace(RECIPE, max_steps=1, theta=0.1))
    assert limited.stop_reason is StopReason.STEP_LIMIT
    kept = {query.label for query in limited.steps[0].queries if query.kept}
    assert {mask.label for mask in limited.masks} <= kept < set(WORDS)


def test_an_image_of_background_alone_has_no_masks(car: Segmenter) -> None:
    result = run(car, make_image(1), recipe=replace(RECIPE, bg_factor=0.0))
    assert result.masks == ()
    assert result.steps


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (15, 17), (16, 16), (130, 33)])
def test_masks_have_the_size_of_the_image(car: Segmenter, size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8)
    result = run(car, image)
    assert (result.height, result.width) == size
    assert all(mask.rle["size"] == list(size) for mask in result.masks)


def test_a_large_image_is_segmented_smaller_and_its_masks_are_enlarged(car: Segmenter) -> None:
    image, recipe = make_image(2, 288, 384), replace(RECIPE, max_side=96)
    small = run(car, cv2.resize(image, (96, 72), interpolation=cv2.INTER_AREA), recipe=recipe)
    large = run(car, image, recipe=recipe)
    assert [mask.label for mask in large.masks] == [mask.label for mask in small.masks] != []
    total = np.zeros((288, 384), int)
    for mask, small_mask in zip(large.masks, small.masks, strict=True):
        pixels, thumbnail = decode_coco(mask.rle), decode_coco(small_mask.rle)
        total += pixels
        coarse = cv2.resize(thumbnail.astype(np.uint8), (384, 288), interpolation=cv2.INTER_NEAREST) > 0
        assert (pixels & coarse).sum() > 0.9 * (pixels | coarse).sum()
    assert total.max() == 1
    areas = [[query.area for query in result.steps[0].queries] for result in (large, small)]
    assert areas[0] == [16 * area for area in areas[1]]


def test_one_label_needs_no_classifier(car: Segmenter) -> None:
    result = run(car, make_image(1), ["cat"])
    assert [query.score for step in result.steps for query in step.queries] == [1.0, 1.0]
    assert result.work.crops_encoded == 0


def test_referring_expressions_are_proposed_independently_and_may_overlap(car: Segmenter) -> None:
    recipe = replace(RECIPE, mode=Mode.REFER, theta=0.0)
    traces: dict[int, list[StepTrace]] = {1: [], 3: []}
    results = {}
    for count, observed in traces.items():
        vocabulary = Vocabulary.from_words(WORDS[:count], mode=Mode.REFER)
        observe = lambda _, trace, observed=observed: observed.append(trace)  # noqa: E731
        [results[count]] = car.segment([make_image(2)], vocabulary, recipe, observe=observe)
    np.testing.assert_allclose(traces[3][0].cams[0], traces[1][0].cams[0], atol=1e-4)
    assert results[3].work.crf_runs == len(results[3].steps[-1].queries)


def test_the_official_refer_filter_compares_characters_from_step_two_on(car: Segmenter) -> None:
    recipe = replace(RECIPE, mode=Mode.REFER, theta=0.0)
    official = run(car, make_image(2), recipe=recipe)
    paper = run(car, make_image(2), recipe=apply_settings(recipe, {"refer_filter": "paper"}))
    first, second = (
        [[query.score for query in result.steps[number].queries] for result in (official, paper)] for number in (0, 1)
    )
    # The official filter keeps the user's order, so sums differ in their last bit, and a pixel may exceed eta.
    assert first[0] == pytest.approx(first[1], abs=2e-3)
    assert second[0] != pytest.approx(second[1], abs=1e-2)


def test_stuff_is_segmented_after_things_with_the_things_as_background(car: Segmenter) -> None:
    recipe = replace(RECIPE, stuff=("grass", "bottle"), stuff_visual_prompts=(VisualPrompt.GRAY,))
    result = run(car, make_image(2), recipe=recipe)
    labels = {kind: {q.label for s in result.steps if s.pass_kind is kind for q in s.queries} for kind in Pass}
    assert labels == {Pass.STUFF: {"grass", "bottle"}, Pass.THINGS: set(WORDS) - {"grass", "bottle"}}
    assert result.work.proposal_forwards == 1


@pytest.mark.parametrize("stuff_background", ["official", "paper"])
def test_the_other_pass_competes_by_its_prompts(stuff_background: str) -> None:
    recipe = replace(RECIPE, stuff=("grass",), stuff_background=Arithmetic(stuff_background))
    labels = [{"name": "A-17", "prompts": ["car", "automobile"]}, {"name": "grass", "prompts": ["lawn"]}]
    things, stuff = build_passes(Vocabulary.from_words(labels, background=["sky"]), recipe)
    assert things.vocabulary.background == (("sky",) if stuff_background == "official" else ("lawn",))
    assert stuff.vocabulary.background == ("car", "automobile")


def test_in_a_step_without_any_cam_the_classifier_sees_the_unprompted_image(
    car: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps, real = [], recurrence._gradcams

    def no_cams_in_step_2(m, logits, background, *, independent):
        steps.append(len(m))
        cams = real(m, logits, background, independent=independent)
        return cams if len(steps) != 2 else torch.zeros_like(cams)

    monkeypatch.setattr(recurrence, "_gradcams", no_cams_in_step_2)
    traces: list[StepTrace] = []
    recipe = replace(RECIPE, theta=0.0)
    car.segment([make_image(2)], Vocabulary.from_words(WORDS), recipe, observe=lambda _, trace: traces.append(trace))
    first, second = traces[:2]
    assert [query.area for query in second.step.queries] == [0] * len(second.step.queries)
    np.testing.assert_array_equal(second.cams, first.cams)
    # All rows are the similarity of one and the same crop.
    np.testing.assert_allclose(second.similarity, np.broadcast_to(second.similarity[:1], second.similarity.shape))


@pytest.mark.parametrize(
    "setting",
    ["theta_bound", "cam_text", "classifier_depth", "classifier_softmax", "gray_weights", "crf_image", "box_ends",
     "position_rounding"],
)  # fmt: skip
def test_each_difference_between_paper_and_code_can_be_chosen(car: Segmenter, setting: str) -> None:
    traces: dict[str, list[StepTrace]] = {"official": [], "paper": []}
    results = {}
    for side, observed in traces.items():
        recipe = apply_settings(RECIPE, {setting: side, "theta": "0.0"})
        observe = lambda _, trace, observed=observed: observed.append(trace)  # noqa: E731
        [results[side]] = car.segment([make_image(2)], Vocabulary.from_words(WORDS), recipe, observe=observe)
    assert all(result.masks for result in results.values())
    first = [side[0] for side in traces.values()]
    differs = not (
        np.array_equal(first[0].cams, first[1].cams) and np.array_equal(first[0].similarity, first[1].similarity)
    )
    # The bound of theta and the CRF's image act only after the scores.
    assert differs == (setting not in {"theta_bound", "crf_image"})


def test_plain_gradcam_can_be_chosen(car: Segmenter) -> None:
    result = run(car, make_image(2), recipe=apply_settings(RECIPE, {"cam": "gradcam"}))
    assert result.steps != run(car, make_image(2)).steps


def test_synonyms_are_one_query(car: Segmenter) -> None:
    vocabulary = Vocabulary.from_words([{"name": "car", "prompts": ["red car", "bicycle"]}, "cat"])
    [result] = car.segment([make_image(1)], vocabulary, RECIPE)
    assert [query.label for query in result.steps[0].queries] == ["car", "cat"]
    assert result.steps[0].queries[0].text == "red car | bicycle"


def test_a_text_too_long_for_clip_is_named_in_the_error(car: Segmenter) -> None:
    long = " ".join(["w"] * 80)
    with pytest.raises(VocabularyError, match=r"'w w .*CLIP reads 77"):
        run(car, make_image(1), ["cat", long])


def test_an_empty_image_is_rejected(car: Segmenter) -> None:
    with pytest.raises(ValueError, match=r"must be uint8 \(h, w, 3\), got uint8 \(0, 8, 3\)"):
        car.segment([np.zeros((0, 8, 3), np.uint8)], Vocabulary.from_words(["cat"]), RECIPE)


def test_a_clock_gives_timings_and_no_clock_gives_none() -> None:
    timed = Segmenter(segmenter().proposal, segmenter().classifier, clock=iter(range(10_000)).__next__)
    timings = run(timed, make_image(1)).timings
    assert set(timings) == {"encode_ms", "text_ms", "proposal_ms", "classifier_ms", "crf_ms"}
    assert min(timings.values()) > 0
    assert run(segmenter(), make_image(1)).timings == {}
