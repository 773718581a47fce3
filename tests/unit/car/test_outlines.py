"""Outlines are exact, simplified rings stay close to their masks, and noise goes without taking everything."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image, ImageDraw
from shapely import Polygon, contains_xy, get_coordinates, union_all

from car.connected_components import remove_small_components
from car.label_studio.prompts import SpatialPrompt
from car.label_studio.regions import select_by_prompt
from car.polygons import MIN_POLYGON_IOU, iou, is_simple_polygon, mask_to_polygons, outline, polygons_to_mask
from evaluation.synthetic_images import blobs

SMALL = arrays.arrays(np.bool_, st.tuples(st.integers(1, 14), st.integers(1, 14)))


def in_pixels(rings, mask):
    height, width = mask.shape
    return [ring * (width / 100, height / 100) for ring in rings]


def ellipse(side, hole=0.0):
    y, x = np.indices((side, side)) / side - 0.5
    away = np.hypot(x * 1.2, y * 1.7)
    return (away < 0.45) & (away >= hole)


@given(SMALL)
@settings(max_examples=150, deadline=None)
def test_an_outline_encloses_just_the_pixels_of_its_mask(mask):
    pieces = outline(mask)
    assert sum(piece.area for piece in pieces) == mask.sum()
    assert all(piece.is_valid for piece in pieces)
    rows, columns = np.indices(mask.shape)
    inside = contains_xy(union_all(pieces), columns + 0.5, rows + 0.5) if len(pieces) else np.zeros_like(mask)
    assert np.array_equal(inside, mask)


@given(SMALL)
@settings(max_examples=150, deadline=None)
def test_rings_hold_the_guard_for_any_mask(mask):
    rings = mask_to_polygons(mask)
    assert all(len(ring) >= 3 and ring.min() >= 0 and ring.max() <= 100 for ring in rings)
    assert iou(polygons_to_mask(in_pixels(rings, mask), *mask.shape), mask) >= MIN_POLYGON_IOU


@pytest.mark.parametrize("mask", [ellipse(300), ellipse(301, 0.2), blobs(256, 9.0), np.tri(200, dtype=bool)])
def test_rings_are_simple_and_other_programs_fill_them_alike(mask):
    mask = remove_small_components(mask, 20)
    rings = in_pixels(mask_to_polygons(mask), mask)
    assert sum(map(len, rings)) < 0.2 * len(get_coordinates(outline(mask)))
    rows, columns = np.indices(mask.shape)
    together = union_all([Polygon(ring) for ring in rings])
    assert iou(contains_xy(together, columns + 0.5, rows + 0.5), mask) >= MIN_POLYGON_IOU - 0.001


def test_a_ring_is_filled_about_as_pillow_fills_it():
    ring = np.array([[10.3, 5.2], [80.7, 20.1], [60.5, 90.9], [5.1, 60.4]])
    picture = Image.new("1", (100, 100))
    ImageDraw.Draw(picture).polygon([tuple(point - 0.5) for point in ring], fill=1)
    assert iou(polygons_to_mask([ring], 100, 100), np.array(picture)) > 0.95


def test_rings_that_leave_the_picture_are_cut_at_its_sides():
    assert (
        polygons_to_mask([np.array([[-5, -5], [5, -5], [5, 5], [-5, 5]])], 4, 8).tolist()
        == [[True] * 5 + [False] * 3] * 4
    )
    assert not polygons_to_mask([np.array([[-5, -5], [-1, -5], [-1, 9], [-5, 9]])], 4, 8).any()
    assert not polygons_to_mask([], 2, 2).any()


def test_one_ring_is_one_piece_without_holes():
    assert is_simple_polygon(ellipse(50))
    assert not is_simple_polygon(ellipse(50, 0.1))
    assert not is_simple_polygon(np.eye(2, dtype=bool))


def test_a_single_pixel_is_a_ring_of_four():
    mask = np.zeros((3, 4), bool)
    mask[2, 3] = True
    (ring,) = mask_to_polygons(mask)
    assert sorted(ring.tolist()) == [[75, 66.6667], [75, 100], [100, 66.6667], [100, 100]]


@pytest.mark.parametrize("share", [0.001, 0.01])
def test_specks_and_pinholes_go_and_the_shape_stays(share):
    clean = ellipse(400, 0.15)
    noisy = clean ^ (np.random.default_rng(1).random(clean.shape) < share)
    found = remove_small_components(noisy, 16)
    assert iou(found, clean) > 0.995
    assert is_simple_polygon(found) == is_simple_polygon(clean)


@given(SMALL, st.sampled_from([0, 1, 3, 1000]))
@settings(max_examples=150, deadline=None)
def test_a_mask_never_loses_everything(mask, least):
    found = remove_small_components(mask, least)
    assert found.any() == mask.any()
    if least <= 1:
        assert np.array_equal(found, mask)


def test_of_specks_alone_the_largest_stays():
    mask = np.zeros((20, 20), bool)
    mask[0, 0] = mask[5, 5:8] = mask[10, 10:12] = True
    assert np.argwhere(remove_small_components(mask, 50)).tolist() == [[5, 5], [5, 6], [5, 7]]


def test_a_bay_at_the_side_of_the_picture_is_no_pinhole():
    mask = np.ones((9, 9), bool)
    mask[0, 4] = False
    assert np.array_equal(remove_small_components(mask, 30), mask)


def test_a_click_keeps_the_piece_under_it_and_another_takes_one_away():
    mask = np.zeros((10, 20), bool)
    mask[2:5, 2:5] = mask[2:5, 12:15] = mask[8, 8] = True
    kept = select_by_prompt(mask, SpatialPrompt(points=((15, 30),)))
    assert kept[:, :10].sum() == 9
    assert kept.sum() == 9
    assert select_by_prompt(mask, SpatialPrompt(negative_points=((15, 30),))).sum() == 10
    assert not select_by_prompt(mask, SpatialPrompt(points=((50, 5),))).any()
    assert select_by_prompt(mask, SpatialPrompt(points=((100, 100),))).sum() == 0


def test_a_box_cuts_the_mask_whichever_way_it_was_drawn():
    mask = np.ones((10, 20), bool)
    assert select_by_prompt(mask, SpatialPrompt(boxes=((10, 20, 30, 40),))).sum() == 6 * 4
    assert select_by_prompt(mask, SpatialPrompt(boxes=((40, 60, -30, -40),))).sum() == 6 * 4
    assert select_by_prompt(mask, SpatialPrompt(boxes=((90, 90, 50, 50),))).sum() == 2
