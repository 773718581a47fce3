import pickle

import numpy as np
import pytest

from car.recipe import Mode, Recipe
from car.segmentation import MaskSource
from tests.support.regions import region_from_mask
from worker.segmenter.sam.ensembling import ensemble, intersection_over_minimum

SHAPE = (20, 30)


def box(top, left, height, width):
    mask = np.zeros(SHAPE, bool)
    mask[top : top + height, left : left + width] = True
    return mask


def regions(*masks):
    return tuple(region_from_mask(mask, 0.9) for mask in masks)


def recipe(**values):
    return Recipe(**{"sam": True, "iom": 0.7, "iou": 0.7, "sam_min_pred": 0.05} | values)


def iom(mask, region, **values):
    return float(intersection_over_minimum(mask, (region,), [region.pixels], recipe(**values))[0])


def test_a_region_restores_its_mask_and_can_be_pickled():
    mask = np.random.default_rng(0).random(SHAPE) > 0.7
    region = pickle.loads(pickle.dumps(region_from_mask(mask, 0.5)))  # noqa: S301 - our own
    assert np.array_equal(region.to_mask(SHAPE), mask)
    assert region.area == mask.sum()


def test_iom_is_the_intersection_over_the_smaller_area():
    mask = box(0, 0, 10, 10)
    assert iom(mask, region_from_mask(box(0, 0, 20, 10), 1.0)) == 1  # the mask is inside
    assert iom(mask, region_from_mask(box(0, 5, 5, 10), 1.0)) == pytest.approx(25 / 50)
    assert iom(mask, region_from_mask(box(0, 20, 5, 5), 1.0)) == 0


def test_a_speck_does_not_match_by_its_own_area():
    mask = box(0, 0, 10, 10)
    speck = region_from_mask(box(1, 1, 2, 2), 1.0)
    assert iom(mask, speck, sam_min_pred=0.04) == 1
    assert iom(mask, speck) == pytest.approx(0.04)


def test_a_nearly_right_mask_becomes_the_region():
    refined, sources = ensemble(box(1, 1, 9, 10)[None], regions(box(0, 0, 10, 11), box(12, 12, 5, 5)), recipe())
    assert sources == (MaskSource.SAM,)
    assert np.array_equal(refined[0], box(0, 0, 10, 11))


def test_matching_parts_are_joined():
    mask, left, right = box(2, 2, 10, 20), box(2, 2, 10, 10), box(2, 12, 10, 10)
    refined, sources = ensemble(mask[None], regions(left, right), recipe())
    assert sources == (MaskSource.SAM,)
    assert np.array_equal(refined[0], mask)


def test_where_nothing_matches_the_nearest_region_is_tried():
    mask, close = box(0, 0, 10, 10), box(0, 4, 10, 10)
    best, sources = ensemble(mask[None], regions(close), recipe(iom=0.7, iou=0.4))
    assert sources == (MaskSource.SAM,)
    assert np.array_equal(best[0], close)


def test_a_union_that_differs_too_much_is_not_used():
    mask = box(0, 0, 5, 5)
    refined, sources = ensemble(mask[None], regions(box(0, 0, 20, 30)), recipe())
    assert sources == (MaskSource.CRF,)
    assert np.array_equal(refined[0], mask)


def test_an_iou_at_the_threshold_is_not_above_it():
    mask, region = box(0, 0, 7, 10), box(0, 0, 10, 10)
    assert ensemble(mask[None], regions(region), recipe(iou=0.7))[1] == (MaskSource.CRF,)
    assert ensemble(mask[None], regions(region), recipe(iou=0.69))[1] == (MaskSource.SAM,)


def test_an_empty_mask_stays_empty():
    refined, sources = ensemble(np.zeros((1, *SHAPE), bool), regions(box(0, 0, 20, 30)), recipe(iou=0))
    assert not refined.any()
    assert sources == (MaskSource.CRF,)


def test_without_regions_nothing_changes():
    masks = box(1, 1, 3, 3)[None]
    refined, sources = ensemble(masks, (), recipe())
    assert refined is masks
    assert sources == (MaskSource.CRF,)


def test_labels_of_one_crf_stay_disjoint_and_the_later_one_gets_shared_pixels():
    first, second = box(0, 0, 10, 10), box(0, 10, 10, 10)
    wider = box(0, 0, 10, 12), box(0, 9, 10, 11)
    refined, sources = ensemble(np.stack([first, second]), regions(*wider), recipe())
    assert sources == (MaskSource.SAM, MaskSource.SAM)
    assert not (refined[0] & refined[1]).any()
    assert np.array_equal(refined[1], wider[1])
    assert np.array_equal(refined[0], wider[0] & ~wider[1])


def test_referring_expressions_may_overlap():
    masks = np.stack([box(0, 0, 10, 10), box(0, 5, 10, 10)])
    refined, _ = ensemble(masks, regions(*masks), recipe(mode=Mode.REFER))
    assert np.array_equal(refined, masks)


def test_the_given_masks_are_not_modified():
    masks = np.stack([box(0, 0, 10, 10), box(0, 10, 10, 10)])
    before = masks.copy()
    ensemble(masks, regions(box(0, 0, 10, 12), box(0, 9, 10, 11)), recipe())
    assert np.array_equal(masks, before)
