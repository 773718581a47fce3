"""Predictions show masks where they are, pass Label Studio's own validation, and stay within their size."""

import json
import time
from base64 import b64decode
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from car.connected_components import remove_small_components
from car.label_studio.prediction import PredictionInvalidError, build_prediction
from car.label_studio.prediction_validation import validate_prediction
from car.label_studio.project_config import build_project_config
from car.label_studio.prompts import SpatialPrompt
from car.polygons import MIN_POLYGON_IOU, iou, polygons_to_mask
from car.rle import encode_coco
from car.stored_masks import StoredMask, StoredMasks
from tests.support import sdk_brush
from tests.support.labeling import brush, control, view

TAGS = ("BrushLabels", "BitmaskLabels", "PolygonLabels", "RectangleLabels")


def found(*masks):
    height, width = masks[0][2].shape
    return StoredMasks(
        width, height, tuple(StoredMask(label, score, encode_coco(mask)) for label, score, mask in masks)
    )


def predict(config, given, params=None, **options):
    plan = build_project_config(config, params or {}, preset="demo")
    return build_prediction(config, plan, given, run_key="k", model_version="car-1", **options)


def regions(document):
    return json.loads(document.text)["result"]


def decoded(region):
    """The pixels of a region, by other programs than ours where there are any."""
    value, height, width = region["value"], region["original_height"], region["original_width"]
    if "rle" in value:
        return sdk_brush.decode_rle(value["rle"]).reshape(height, width, 4)[..., 3] == 255
    if "imageDataURL" in value:
        picture = Image.open(BytesIO(b64decode(value["imageDataURL"].removeprefix("data:image/png;base64,"))))
        assert picture.mode == "1", "a bit a pixel"
        return np.array(picture.convert("RGBA"))[..., 3] == 255
    if "points" in value:
        ring = np.array(value["points"])
    else:
        left, top, right, bottom = value["x"], value["y"], value["x"] + value["width"], value["y"] + value["height"]
        ring = np.array([[left, top], [right, top], [right, bottom], [left, bottom]])
    return polygons_to_mask([ring * (width / 100, height / 100)], height, width)


def box(height, width, top, left, bottom, right):
    mask = np.zeros((height, width), bool)
    mask[top:bottom, left:right] = True
    return mask


RING = box(60, 80, 10, 10, 50, 50) & ~box(60, 80, 20, 20, 30, 30)
TWO = box(60, 80, 0, 0, 20, 20) | box(60, 80, 30, 30, 60, 80)


@given(arrays.arrays(np.bool_, st.tuples(st.integers(1, 40), st.integers(1, 40))).filter(np.any), st.sampled_from(TAGS))
@settings(max_examples=120, deadline=None)
def test_any_mask_comes_back_from_its_regions(mask, tag):
    document = predict(view(control(tag, "cat")), found(("cat", 0.5, mask)), {"min_area": 3})
    shown = np.logical_or.reduce([decoded(one) for one in regions(document)])
    clean = remove_small_components(mask, 3)
    if tag in ("BrushLabels", "BitmaskLabels"):
        assert np.array_equal(shown, clean)
    elif tag == "PolygonLabels":
        assert iou(shown, clean) >= MIN_POLYGON_IOU
    else:
        rows, columns = np.flatnonzero(clean.any(axis=1)), np.flatnonzero(clean.any(axis=0))
        assert np.array_equal(shown, box(*mask.shape, rows[0], columns[0], rows[-1] + 1, columns[-1] + 1))


@pytest.mark.parametrize("tag", TAGS)
def test_a_region_says_what_label_studio_needs(tag):
    document = predict(view(control(tag, "cat", name="c")), found(("cat", 0.875, box(40, 60, 4, 6, 20, 30))))
    kind = tag.lower()
    (region,) = regions(document)
    assert region["value"][kind] == ["cat"]
    assert region | {"id": "", "value": ""} == {
        "id": "", "type": kind, "from_name": "c", "to_name": "image", "original_width": 60, "original_height": 40,
        "image_rotation": 0, "origin": "prediction", "score": 0.875, "value": "",
    }  # fmt: skip
    prediction = json.loads(document.text)
    assert (prediction["model_version"], prediction["score"], document.score) == ("car-1", 0.875, 0.875)


def test_a_rectangle_is_in_percent():
    (region,) = regions(predict(view(control("RectangleLabels", "a")), found(("a", 1.0, box(40, 60, 4, 6, 20, 30)))))
    assert region["value"] == {
        "x": 10, "y": 10, "width": 40, "height": 40, "rotation": 0, "rectanglelabels": ["a"],
    }  # fmt: skip


@pytest.mark.parametrize("tag", ["Brush", "Polygon", "Rectangle"])
def test_a_plain_shape_comes_with_its_label_under_the_same_id(tag):
    config = view(control(tag, name="s"), control("Labels", "cat", name="l"))
    shape, named = regions(predict(config, found(("cat", 0.5, box(40, 60, 4, 6, 20, 30)))))
    assert (shape["type"], shape["from_name"], named["type"], named["from_name"]) == (tag.lower(), "s", "labels", "l")
    assert shape["id"] == named["id"]
    assert named["value"] == shape["value"] | {"labels": ["cat"]}


@pytest.mark.parametrize("mask", [RING, TWO], ids=["hole", "two pieces"])
def test_a_polygon_that_needs_several_rings_is_a_brush_where_there_is_one(mask):
    poly, paint = control("PolygonLabels", "a", name="p"), brush("a")
    document = predict(view(poly, paint), found(("a", 0.5, mask)), {"output": "polygon"})
    (region,) = regions(document)
    assert region["type"] == "brushlabels"
    assert "'brush'" in document.notes[0]
    alone = predict(view(poly), found(("a", 0.5, mask)))
    assert len({one["id"] for one in regions(alone)}) == len(regions(alone)) >= 2
    assert iou(np.logical_or.reduce([decoded(one) for one in regions(alone)]), mask) >= MIN_POLYGON_IOU
    assert alone.notes == ()


def test_a_shape_of_one_ring_stays_a_polygon_beside_a_brush():
    config = view(control("PolygonLabels", "a", name="p"), brush("a"))
    (region,) = regions(predict(config, found(("a", 0.5, box(9, 9, 2, 2, 5, 5))), {"output": "polygon"}))
    assert region["type"] == "polygonlabels"


def test_each_label_has_one_region_in_the_order_of_the_masks():
    config = view(brush("a", "b"), control("PolygonLabels", "c", name="p"))
    one = box(20, 20, 0, 0, 9, 9)
    document = predict(config, found(("a", 0.9, one), ("b", 0.5, one), ("c", 0.4, one)))
    assert [(r["type"], r["from_name"]) for r in regions(document)] == [
        ("brushlabels", "brush"), ("brushlabels", "brush"), ("polygonlabels", "p"),
    ]  # fmt: skip
    assert document.score == 0.6


def test_choices_say_what_is_in_the_picture():
    many = control("Choices", "b", "a", "c", name="many", choice="multiple")
    one = control("Choices", "a", "b", name="one")
    given = found(("a", 0.4, box(9, 9, 0, 0, 5, 5)), ("b", 0.8, box(9, 9, 5, 5, 9, 9)))
    shown = {r["from_name"]: r["value"] for r in regions(predict(view(brush("a", "b"), many, one), given))}
    assert shown["many"] == {"choices": ["b", "a"]}
    assert shown["one"] == {"choices": ["b"]}
    alone = predict(view(control("Choices", "a", "b")), given)
    assert [r["value"]["choices"] for r in regions(alone)] == [["b"]]
    assert alone.score == pytest.approx(0.6)


def test_nothing_found_is_an_empty_prediction():
    document = predict(view(brush("a")), StoredMasks(4, 4, ()))
    assert json.loads(document.text) == {"model_version": "car-1", "score": 0.0, "result": []}


def test_the_same_result_gives_the_same_text():
    one, config = found(("a", 0.5, TWO)), view(control("PolygonLabels", "a"))
    assert predict(config, one).text == predict(config, one).text
    other = build_project_config(config, {}, preset="demo")
    changed = build_prediction(config, other, one, run_key="l", model_version="car-1")
    assert {r["id"] for r in regions(changed)}.isdisjoint(r["id"] for r in regions(predict(config, one)))


def test_a_mask_of_a_label_that_the_configuration_lost_is_named_and_left_out():
    one = box(9, 9, 0, 0, 5, 5)
    document = predict(view(brush("a", "b")), found(("gone", 0.9, one), ("a", 0.5, one)))
    assert [r["value"]["brushlabels"] for r in regions(document)] == [["a"]]
    assert "'gone'" in document.notes[0]


def test_expressions_are_regions_of_their_label():
    one, other = box(9, 9, 0, 0, 5, 5), box(9, 9, 5, 5, 9, 9)
    document = predict(
        view(brush("cup", "pan")), found(("cup: the left one", 0.9, one), ("cup: the red one", 0.5, other))
    )
    assert [r["value"]["brushlabels"] for r in regions(document)] == [["cup"], ["cup"]]
    assert len({r["id"] for r in regions(document)}) == 2


def test_a_click_is_answered_with_its_label_and_piece_alone():
    config = view(brush("a", "b"), control("Choices", "a"))
    given = found(("a", 0.9, TWO), ("b", 0.5, TWO))
    (region,) = regions(predict(config, given, only=("b",), within=SpatialPrompt(points=((80, 80),))))
    assert region["value"]["brushlabels"] == ["b"]
    assert np.array_equal(decoded(region), box(60, 80, 30, 30, 60, 80))


def test_a_prediction_that_is_too_large_loses_noise_then_brushes_then_weak_masks():
    noisy = np.random.default_rng(0).random((200, 200)) < 0.4
    given = found(("a", 0.9, noisy), ("b", 0.5, ~noisy))
    config = view(brush("a", "b"), control("BitmaskLabels", "a", "b", name="bm"))
    params = {"min_area": 0}
    full = predict(config, given, params)
    assert full.notes == ()
    small = predict(config, given, params, max_bytes=len(full.text) // 2)
    assert {r["type"] for r in regions(small)} == {"bitmasklabels"}
    assert len(small.text) <= len(full.text) // 2 + 100
    least = predict(config, given, params, max_bytes=len(small.text) * 2 // 3)
    assert [r["value"]["bitmasklabels"] for r in regions(least)] == [["a"]]
    assert "'b' is omitted" in least.notes[-1]
    none = predict(config, given, params, max_bytes=100)
    assert regions(none) == []
    assert len(none.notes) >= 3


def test_label_studios_validation_has_the_last_word_in_few_characters():
    config = view(control("RectangleLabels", "a"))
    plan = build_project_config(config, {}, preset="demo")
    other = view(control("RectangleLabels", "b"))
    with pytest.raises(PredictionInvalidError, match="would refuse") as caught:
        build_prediction(other, plan, found(("a", 0.5, TWO)), run_key="k", model_version="v")
    assert len(str(caught.value)) < 400
    assert caught.value.code == "prediction_invalid"


def test_an_unknown_label_of_a_bitmask_is_refused_too():
    value = {"imageDataURL": "data:image/png;base64,", "bitmasklabels": ["dog"]}
    region = {"id": "x", "from_name": "c", "to_name": "image", "type": "bitmasklabels", "value": value}
    with pytest.raises(PredictionInvalidError):
        validate_prediction(view(control("BitmaskLabels", "cat")), {"result": [region], "score": 0.5})
    with pytest.raises(PredictionInvalidError, match="cannot be read"):
        validate_prediction("<View", {"result": []})


def test_the_document_reads_what_the_workers_store():
    rle = encode_coco(box(4, 6, 1, 2, 3, 5))
    stored = {
        "image": {"sha256": "", "width": 6, "height": 4},
        "masks": [{"label": "a", "score": 0.5, "rle": rle, "area": 6}],
    }
    assert StoredMasks.from_document(stored) == StoredMasks(6, 4, (StoredMask("a", 0.5, rle),))


def test_a_large_picture_takes_a_moment():
    y, x = np.indices((1024, 1024))
    masks = [("a", 0.9, np.hypot(x - 300, y - 300) < 200), ("b", 0.8, np.hypot(x - 700, y - 600) < 250)]
    config = view(brush("a", "b"))
    predict(config, found(*masks))
    began = time.perf_counter()
    predict(config, found(*masks))
    assert time.perf_counter() - began < 1.0
