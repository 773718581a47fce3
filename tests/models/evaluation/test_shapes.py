"""evaluation.shapes against segmenters whose quality is known beforehand."""

from dataclasses import dataclass, replace

import numpy as np
import pytest

from car import rle
from car.presets import preset
from car.segmentation import Mask, MaskSource, Segmentation, StopReason
from demo.scenes import WORDS, held_out_scenes
from evaluation.shapes import evaluate, label_map, without_recurrence


class Oracle:
    """Knows the ground truth of scenes; where a recipe allows one step only, it adds a word that is not there."""

    def __init__(self, scenes):
        self.truth = {scene.image.tobytes(): scene for scene in scenes}

    def segment(self, images, vocabulary, recipe):
        assert vocabulary.names == WORDS
        return [self._one(image, recipe) for image in images]

    def _one(self, image, recipe):
        scene = self.truth[image.tobytes()]
        masks = [_mask(word, 0.9, scene.labels == WORDS.index(word) + 1) for word in scene.words]
        if recipe.max_steps == 1:
            absent = next(word for word in WORDS if word not in scene.words)
            masks.append(_mask(absent, 1.0, np.ones(scene.labels.shape, bool)))
        return _segmentation(image.shape, masks)


def _mask(label, score, pixels):
    return Mask(label=label, score=score, area=int(pixels.sum()), bbox=(0, 0, 1, 1), rle=rle.encode_coco(pixels))


def _segmentation(shape, masks):
    return Segmentation(width=shape[1], height=shape[0], masks=tuple(masks), steps=(), stop_reason=StopReason.UNCHANGED)


@pytest.fixture(scope="module")
def scenes():
    return held_out_scenes(4, seed=1, size=(96, 96))


def test_a_segmenter_that_is_always_right_scores_one(scenes):
    result = evaluate(Oracle(scenes), scenes, preset("demo"))
    assert result.scenes == 4
    assert (result.miou, result.boundary_f, result.precision, result.recall) == (1, 1, 1, 1)
    assert {row.name for row in result.per_class} == {"background", *(word for s in scenes for word in s.words)}


def test_what_the_recurrence_gains_shows_in_the_one_step_figure(scenes):
    result = evaluate(Oracle(scenes), scenes, preset("demo"))
    assert result.miou_one_step == 0


def test_the_one_step_figure_can_be_left_out(scenes):
    result = evaluate(Oracle(scenes), scenes, preset("demo"), one_step=False)
    assert result.miou_one_step is None
    assert all(row.iou_one_step is None for row in result.per_class)


def test_progress_counts_scenes(scenes):
    seen = []
    evaluate(Oracle(scenes), scenes, preset("demo"), one_step=False, progress=seen.append)
    assert seen == [1, 2, 3, 4]


def test_the_better_score_is_painted_last():
    pixels = np.ones((2, 2), bool)
    masks = [_mask("red circle", 0.9, pixels), _mask("red square", 0.3, pixels)]
    assert (label_map(_segmentation((2, 2), masks), WORDS) == WORDS.index("red circle") + 1).all()


def test_without_recurrence_one_step_keeps_every_word():
    recipe = without_recurrence(preset("demo"))
    assert recipe.max_steps == 1
    assert recipe.theta == 0
    assert recipe.eta == preset("demo").eta


class Smudged(Oracle):
    """Masks whose borders are right with SAM alone: without regions each loses its first row."""

    def recur(self, images, vocabulary, recipe):
        assert recipe.sam
        return [_Smudged(self._one(image, recipe)) for image in images]


@dataclass(frozen=True)
class _Smudged:
    segmentation: Segmentation
    regions: tuple[int, ...] = (1,)

    def finish(self):
        if self.regions:
            return replace(
                self.segmentation, masks=tuple(replace(m, source=MaskSource.SAM) for m in self.segmentation.masks)
            )
        return replace(self.segmentation, masks=tuple(map(_without_rim, self.segmentation.masks)))


def _without_rim(mask):
    pixels = rle.decode_coco(mask.rle).astype(bool)
    inner = pixels & np.roll(pixels, 3, 0) & np.roll(pixels, -3, 0)
    return _mask(mask.label, mask.score, inner)


def test_what_sam_gains_is_measured_against_the_same_masks_without_it(scenes):
    result = evaluate(Smudged(scenes), scenes, replace(preset("demo"), sam=True))
    assert (result.miou, result.boundary_f, result.boundary_f_fine, result.sam_share) == (1, 1, 1, 1)
    assert result.without_sam.miou < 1
    assert result.without_sam.boundary_f_fine <= result.without_sam.boundary_f < 1


def test_without_sam_there_is_nothing_to_compare(scenes):
    result = evaluate(Oracle(scenes), scenes, preset("demo"))
    assert result.without_sam is None
    assert result.sam_share is None
