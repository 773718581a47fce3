import numpy as np
import pytest

from evaluation.metrics import ConfusionMatrix, boundary, boundary_f, boundary_iou, mask_iou


def square(x, y, side, size=40):
    mask = np.zeros((size, size), bool)
    mask[y : y + side, x : x + side] = True
    return mask


def test_a_perfect_prediction_has_miou_one():
    truth = np.array([[0, 1], [2, 2]])
    matrix = ConfusionMatrix(4).add(truth, truth)
    assert matrix.miou() == 1.0
    assert matrix.pixel_accuracy == 1.0


def test_iou_is_intersection_over_union_by_class():
    truth = np.array([[0, 0, 1, 1]])
    predicted = np.array([[0, 1, 1, 1]])
    iou = ConfusionMatrix(2).add(truth, predicted).iou()
    assert iou.tolist() == pytest.approx([1 / 2, 2 / 3])


def test_a_class_absent_from_the_ground_truth_does_not_count():
    truth = np.array([[0, 0, 0, 1]])
    predicted = np.array([[0, 0, 2, 1]])
    matrix = ConfusionMatrix(3).add(truth, predicted)
    assert np.isnan(matrix.iou()[2])
    assert matrix.miou() == pytest.approx((2 / 3 + 1) / 2)


def test_pictures_add_up_before_the_division():
    matrix = ConfusionMatrix(2)
    matrix.add(np.ones((1, 9), int), np.ones((1, 9), int))
    matrix.add(np.ones((1, 1), int), np.zeros((1, 1), int))
    assert matrix.iou()[1] == pytest.approx(0.9)


def test_pixels_without_a_true_class_are_ignored():
    matrix = ConfusionMatrix(2).add(np.array([[255, -1, 1]]), np.array([[0, 0, 1]]))
    assert matrix.counts.sum() == 1


def test_without_background_row_and_column_zero_are_dropped():
    truth, predicted = np.array([[0, 1, 1, 1]]), np.array([[1, 1, 0, 1]])
    iou = ConfusionMatrix(2).add(truth, predicted).iou(ignore_background=True)
    assert np.isnan(iou[0])
    assert iou[1] == 1.0


def test_a_set_without_known_pixels_has_no_miou():
    assert np.isnan(ConfusionMatrix(2).miou())


def test_label_maps_of_two_sizes_are_refused():
    with pytest.raises(ValueError, match="differ in size"):
        ConfusionMatrix(2).add(np.zeros((2, 2), int), np.zeros((2, 3), int))


def test_a_prediction_beyond_the_classes_is_refused():
    with pytest.raises(ValueError, match=r"0\.\.1"):
        ConfusionMatrix(2).add(np.zeros((1, 1), int), np.full((1, 1), 2))


def test_mask_iou_of_two_empty_masks_is_one():
    assert mask_iou(np.zeros((3, 3), bool), np.zeros((3, 3), bool)) == 1.0
    assert mask_iou(square(0, 0, 2), square(0, 0, 4)) == 0.25


def test_boundary_f_forgives_what_lies_within_reach_and_no_more():
    truth = square(10, 10, 15)
    assert boundary_f(truth, truth) == 1.0
    assert boundary_f(truth, square(11, 10, 15)) == 1.0
    assert boundary_f(truth, square(20, 22, 15)) < 0.3


def test_boundary_iou_counts_a_rim_that_is_a_pixel_too_wide():
    truth, empty = square(10, 10, 15), np.zeros((40, 40), bool)
    wider = square(9, 9, 17)
    assert boundary_iou(truth, truth) == 1.0
    assert boundary_f(truth, wider, share=0.02) == 1.0
    assert mask_iou(truth, wider) > 0.75
    # Rims of one pixel that do not meet; of two, 4 * 14 of them do.
    assert boundary_iou(truth, wider, share=0.02) == 0.0
    assert boundary_iou(truth, wider, share=0.035) == pytest.approx(56 / (56 + 48 + 64))
    assert boundary_iou(truth, empty) == 0.0
    assert boundary_iou(empty, empty) == 1.0
    # A picture's border is an edge of the mask.
    assert boundary_iou(np.ones((40, 40), bool), np.ones((40, 40), bool) & (np.arange(40) > 1)) < 1.0


def test_boundary_f_of_an_empty_mask_is_nought_unless_both_are():
    empty = np.zeros((40, 40), bool)
    assert boundary_f(square(3, 3, 5), empty) == 0.0
    assert boundary_f(empty, empty) == 1.0


def test_a_mask_that_fills_the_picture_has_no_boundary():
    assert not boundary(np.ones((5, 5), bool)).any()
