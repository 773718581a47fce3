"""Drawings of people as masks, whatever the tool, and what they say about ours."""

from base64 import b64encode
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from car.label_studio.agreement import LabelAgreement, Outcome, compare_annotations
from car.label_studio.annotation_masks import AnnotationInvalidError, AnnotationMasks, decode_annotation
from car.polygons import iou
from car.rle import encode_brush

WIDTH, HEIGHT = 40, 20


def box(top, left, bottom, right, height=HEIGHT, width=WIDTH):
    mask = np.zeros((height, width), bool)
    mask[top:bottom, left:right] = True
    return mask


def region(kind, label="cat", **value):
    return {
        "id": "r1", "type": kind, "from_name": "t", "to_name": "image", "original_width": WIDTH,
        "original_height": HEIGHT, "value": value | {kind: [label]},
    }  # fmt: skip


def brush(mask, **more):
    return region("brushlabels", format="rle", rle=encode_brush(mask)) | more


def png(mask):
    picture = Image.fromarray(np.dstack([np.zeros((*mask.shape, 3), np.uint8), mask * np.uint8(255)]))
    out = BytesIO()
    picture.save(out, "PNG")
    return "data:image/png;base64," + b64encode(out.getvalue()).decode()


@pytest.mark.parametrize(
    "one",
    [
        brush(box(5, 10, 15, 30)),
        region("bitmasklabels", imageDataURL=png(box(5, 10, 15, 30))),
        region("polygonlabels", points=[[25, 25], [75, 25], [75, 75], [25, 75]], closed=True),
        region("rectanglelabels", x=25, y=25, width=50, height=50, rotation=0),
        region("rectanglelabels", x=75, y=25, width=25, height=100, rotation=90),
        region("labels", x=25, y=25, width=50, height=50),
    ],
)
def test_every_tool_gives_the_pixels_that_it_encloses(one):
    assert np.array_equal(decode_annotation([one], WIDTH, HEIGHT).masks["cat"], box(5, 10, 15, 30))


def test_a_rectangle_turns_about_its_corner_in_pixels():
    turned = decode_annotation(
        [region("rectanglelabels", x=50, y=0, width=25, height=50, rotation=45)], WIDTH, HEIGHT
    ).masks["cat"]
    assert turned.sum() == pytest.approx(100, abs=8)
    assert turned[:, :20].sum() == pytest.approx(turned[:, 20:].sum(), abs=8)


def test_an_ellipse_is_round():
    shape = decode_annotation([region("ellipselabels", x=50, y=50, radiusX=25, radiusY=50)], WIDTH, HEIGHT).masks["cat"]
    rows, columns = np.indices((HEIGHT, WIDTH)) + 0.5
    assert iou(shape, np.hypot(columns - 20, rows - 10) < 10) > 0.98


def test_regions_of_a_label_are_one_mask_and_choices_are_apart():
    found = decode_annotation(
        [
            brush(box(0, 0, 5, 5)),
            brush(box(10, 10, 12, 12)),
            region("rectanglelabels", "dog", x=0, y=0, width=100, height=100),
            {"type": "choices", "value": {"choices": ["sharp", "cat"]}},
            {"type": "textarea", "value": {"text": ["hello"]}},
            {"type": "relation"},
            region("keypointlabels", x=1, y=1, width=1),
            {"type": "rectangle", "value": {"x": 0, "y": 0, "width": 9, "height": 9}},
            "nonsense",
        ],
        WIDTH,
        HEIGHT,
    )
    assert {label: int(mask.sum()) for label, mask in found.masks.items()} == {"cat": 29, "dog": 800}
    assert found.choices == {"sharp", "cat"}


def test_a_drawing_of_another_size_is_brought_to_that_of_the_picture():
    large = brush(np.kron(box(5, 10, 15, 30), np.ones((2, 2), bool)), original_width=80, original_height=40)
    assert np.array_equal(decode_annotation([large], WIDTH, HEIGHT).masks["cat"], box(5, 10, 15, 30))


@pytest.mark.parametrize(
    "one",
    [
        brush(box(0, 0, 5, 5), original_width=41),
        brush(box(0, 0, 5, 5), original_width=10**9, original_height=10**9),
        region("brushlabels", rle=[1, 2, 3]),
        region("brushlabels", rle="abc"),
        region("bitmasklabels", imageDataURL="data:image/gif;base64,AA"),
        region("bitmasklabels", imageDataURL="data:image/png;base64,!"),
        region("bitmasklabels", imageDataURL="data:image/png;base64,AAAA"),
        region("polygonlabels", points="abc"),
        region("polygonlabels", points=[[1, 2, 3]]),
        region("rectanglelabels", x="left", y=0, width=1, height=1),
        region("rectanglelabels", x=float("inf"), y=0, width=1, height=1),
    ],
)
def test_what_cannot_be_read_is_refused_in_few_words(one):
    with pytest.raises(AnnotationInvalidError, match="'r1'") as caught:
        decode_annotation([one], WIDTH, HEIGHT)
    assert len(str(caught.value)) < 350


def test_an_opinion_tells_kept_changed_taken_away_and_missed_apart():
    ours = AnnotationMasks(
        {"same": box(0, 0, 10, 10), "edge": box(0, 0, 10, 10), "far": box(0, 0, 10, 10), "gone": box(0, 0, 1, 1)}
    )
    theirs = AnnotationMasks(
        {"same": box(0, 0, 10, 10), "edge": box(0, 0, 10, 11), "far": box(0, 5, 10, 15), "new": box(0, 0, 1, 1)}
    )
    scores = {"same": 0.9, "gone": 0.2}
    assert compare_annotations(ours, theirs, scores) == [
        LabelAgreement("same", Outcome.ACCEPTED, 1.0, 0.9),
        LabelAgreement("edge", Outcome.ACCEPTED, pytest.approx(10 / 11), None),
        LabelAgreement("far", Outcome.CHANGED, pytest.approx(1 / 3), None),
        LabelAgreement("gone", Outcome.REJECTED, None, 0.2),
        LabelAgreement("new", Outcome.MISSED, None, None),
    ]


def test_choices_without_masks_are_kept_taken_away_or_missed():
    said = compare_annotations(AnnotationMasks({}, {"a", "b"}), AnnotationMasks({}, {"b", "c"}), {"a": 0.5})
    assert [(one.label, one.outcome, one.score) for one in said] == [
        ("a", Outcome.REJECTED, 0.5), ("b", Outcome.ACCEPTED, None), ("c", Outcome.MISSED, None),
    ]  # fmt: skip
