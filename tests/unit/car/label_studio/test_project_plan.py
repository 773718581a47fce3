"""A project's plan: parameters, digests, the words of tasks, prompts and clicks."""

import json
import time

import numpy as np
import pytest

from car.errors import RecipeError, SourceError, VocabularyError
from car.label_studio.labeling_config import Kind
from car.label_studio.project_config import PromptInvalidError, build_project_config
from car.label_studio.prompts import SpatialPrompt
from car.recipe import Mode
from car.rle import encode_brush
from tests.support.labeling import IMAGE, brush, codes, control, plan, prompts, view


def text(*lines):
    return {"result": [{"type": "textarea", "from_name": "p", "value": {"text": list(lines)}}]}


def point(label=None, kind="keypointlabels", **region):
    value = {"x": 10, "y": 20} | ({kind: [label]} if label else {})
    return {"result": [{"type": kind, "value": value} | region]}


def asked(prompt):
    return {label.name: label.prompts for label in prompt.vocabulary.labels}


def test_the_image_is_found_by_key_path_or_template():
    data = {"image": " s3://b/k.jpg ", "a": {"b": ["x.png"]}, "c.d": "flat.png", "my-image": "y.png"}
    for value, found in [
        ("$image", "s3://b/k.jpg"),
        ("$a.b[0]", "x.png"),
        ("$c.d", "flat.png"),
        ("/i/$c.d", "/i/flat.png"),
        ("$my-image", "y.png"),
    ]:
        assert plan(brush("a"), image=f'<Image name="image" value="{value}"/>').image_of(data) == found


def test_a_task_without_the_picture_is_refused_with_the_keys_it_has():
    with pytest.raises(SourceError, match=r"no image under 'image'.*photo, text"):
        plan(brush("a")).image_of({"photo": "x", "text": "y"})
    with pytest.raises(SourceError, match="no single image"):
        plan(brush("a")).image_of({"image": ["x", "y"]})


def test_parameters_are_understood_also_as_json_text():
    given = {"preset": "voc", "set": {"sam": True, "visual_prompts": ["blur"]}, "min_area": 5, "output": "brush"}
    planned = build_project_config(view(brush("a")), json.dumps(given), preset="demo")
    assert (planned.recipe.preset, planned.recipe.sam, planned.params.min_area) == ("voc", True, 5)
    assert planned.params.output is Kind.BRUSH
    assert planned.problems == ()


@pytest.mark.parametrize(
    ("params", "code", "word"),
    [
        ({"colour": 1}, "parameter_unknown", "referring"),
        ({"min_area": -1}, "parameter_invalid", "min_area"),
        ({"output": "mask"}, "parameter_invalid", "bitmask"),
        ({"prompts": ["a"]}, "parameter_invalid", "prompts"),
        ({"set": 3}, "parameter_invalid", "theta"),
        ({"vocabulary": ["a", "zebra"]}, "vocabulary_unknown", "zebra"),
        ({"prompts": {"zebra": ["z"]}}, "prompts_unknown", "zebra"),
        ({"background": ["a", "street"]}, "background_is_label", "'a'"),
    ],
)
def test_a_parameter_that_is_not_understood_is_a_problem(params, code, word):
    planned = plan(brush("a"), **params)
    assert codes(planned) == [code]
    assert word in planned.problems[0].detail


def test_parameters_that_are_no_object_are_a_problem():
    assert codes(build_project_config(view(brush("a")), "[1", preset="demo")) == ["parameters_invalid"]


def test_a_recipe_or_background_list_that_does_not_exist_is_refused():
    with pytest.raises(RecipeError, match="unknown preset"):
        plan(brush("a"), preset="x")
    with pytest.raises(RecipeError, match="unknown recipe key"):
        plan(brush("a"), set={"tetha": 1})
    with pytest.raises(VocabularyError, match="unknown background list"):
        plan(brush("a"), background="terrestrial+moon")


def test_background_takes_words_and_lists_and_leaves_out_what_is_asked_for():
    assert plan(brush("a"), background="street, none, mud").base.background == ("street", "mud")
    assert "tree" not in plan(brush("Tree")).base.background
    assert "grass" in plan(brush("Tree")).base.background


def test_parameters_choose_labels_and_their_prompts_by_value_or_alias():
    label = '<Label value="Hund" alias="dog"/>'
    planned = plan(brush("a", label, "c"), vocabulary=["Hund", "c"], prompts={"hund": ["dog", "puppy"]})
    assert prompts(planned) == {"dog": ("dog", "puppy"), "c": ("c",)}
    assert planned.problems == ()


def test_digests_change_with_words_and_shapes_alone():
    base = plan(brush("a", "b"))
    painted = plan(brush('<Label value="a" background="red"/>', "b"), "<Header value='x'/>")
    assert (painted.vocabulary_digest, painted.region_digest) == (base.vocabulary_digest, base.region_digest)
    other = plan(brush("a", "c"))
    assert other.vocabulary_digest != base.vocabulary_digest
    polygon = plan(control("PolygonLabels", "a", "b"))
    assert polygon.vocabulary_digest == base.vocabulary_digest
    assert polygon.region_digest != base.region_digest
    assert plan(brush("a", "b"), min_area=0).region_digest != base.region_digest
    assert plan(brush("a", "b"), set={"theta": 0.1}).vocabulary_digest == base.vocabulary_digest


def test_a_plan_is_made_in_milliseconds_and_then_kept():
    text_of = view(brush(*(f"word {number}" for number in range(500))))
    began = time.perf_counter()
    first = build_project_config(text_of, {}, preset="demo")
    assert time.perf_counter() - began < 0.5
    assert build_project_config(text_of, {}, preset="demo") is first


def test_referring_tasks_bring_their_own_words():
    planned = plan(brush("thing"), referring="$caption")
    assert planned.vocabulary is None
    assert planned.recipe.mode is Mode.REFER
    found = planned.vocabulary_of({"caption": "the left cup\nthe red one"})
    assert [(label.name, label.prompts) for label in found.labels] == [
        ("the left cup", ("the left cup",)), ("the red one", ("the red one",)),
    ]  # fmt: skip
    assert {planned.mapping.target_of(name).label for name in found.names} == {"thing"}
    assert found.classifier_templates == ()
    assert planned.vocabulary_digest != plan(brush("thing"), referring="other").vocabulary_digest


def test_a_text_tag_may_say_that_its_words_are_referred_to():
    planned = plan(brush("thing"), '<Text name="t" value="$caption" referring="true"/>')
    assert planned.vocabulary_of({"caption": ["a cup"]}).names == ("a cup",)


@pytest.mark.parametrize(
    "given",
    [
        "cup: the left one\ncup: the right one",
        ["cup: the left one", "cup: the right one"],
        {"Cup": ["the left one", "the right one"]},
    ],
)
def test_expressions_name_their_label_where_there_are_several(given):
    planned = plan(brush("cup", "spoon"), referring="caption")
    found = planned.vocabulary_of({"caption": given})
    assert found.names == ("cup: the left one", "cup: the right one")
    assert [label.prompts for label in found.labels] == [("the left one",), ("the right one",)]
    assert {planned.mapping.target_of(name).label for name in found.names} == {"cup"}


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"caption": "the left one"}, "not a label of the project.*cup, spoon"),
        ({"caption": {"fork": "x"}}, "'fork'.*no label"),
        ({"caption": ""}, "empty"),
        ({"caption": 7}, "no words"),
        ({"captions": "x"}, "no words under 'caption'.*captions"),
    ],
)
def test_words_of_a_task_that_no_label_owns_are_refused_with_the_reason(data, says):
    with pytest.raises(VocabularyError, match=says):
        plan(brush("cup", "spoon"), referring="caption").vocabulary_of(data)


def test_a_prompt_gives_a_label_other_words():
    prompt = plan(brush("Car", "dog")).prompt_of(text("car: sedan, taxi"), {})
    assert asked(prompt) == {"Car": ("sedan", "taxi")}
    assert prompt.spatial is None


def test_a_prompt_of_labels_asks_for_these_alone():
    planned = plan(brush('<Label value="Car" predicted_values="car, auto"/>', "dog", "cat"))
    assert asked(planned.prompt_of(text("cat, CAR"), {})) == {"cat": ("cat",), "Car": ("car", "auto")}
    assert asked(planned.prompt_of(text("cat\ndog: hound"), {})) == {"cat": ("cat",), "dog": ("hound",)}


def test_free_words_are_for_the_only_label():
    planned = plan(brush("thing"))
    prompt = planned.prompt_of(text("red cup, spoon"), {})
    assert asked(prompt) == {"red cup": ("red cup",), "spoon": ("spoon",)}
    assert {planned.mapping.target_of(name).label for name in asked(prompt)} == {"thing"}


@pytest.mark.parametrize("words", ["red cup", "red: cup", "car:"])
def test_words_that_name_no_label_are_refused_where_there_are_several(words):
    with pytest.raises(PromptInvalidError, match="write `label: words`"):
        plan(brush("car", "dog")).prompt_of(text(words), {})


@pytest.mark.parametrize("context", [{}, {"result": None}, {"result": [3, {}]}, text(), text("  ")])
def test_an_empty_context_is_refused(context):
    with pytest.raises(PromptInvalidError, match="the prompt is empty"):
        plan(brush("a")).prompt_of(context, {})


def test_a_click_asks_for_its_label_at_that_place():
    planned = plan(brush("cat", "dog"))
    prompt = planned.prompt_of(point("cat"), {})
    assert (prompt.vocabulary, prompt.labels, prompt.spatial) == (None, ("cat",), SpatialPrompt(points=((10, 20),)))
    assert planned.prompt_of(point("cat", is_positive=False), {}).spatial == SpatialPrompt(negative_points=((10, 20),))
    assert planned.prompt_of(point(), {}).labels is None


def test_a_box_asks_within_it():
    value = {"x": 1, "y": 2, "width": 3, "height": 4, "rectanglelabels": ["cat"]}
    prompt = plan(brush("cat", "dog")).prompt_of({"result": [{"type": "rectanglelabels", "value": value}]}, {})
    assert (prompt.labels, prompt.spatial) == (("cat",), SpatialPrompt(boxes=((1, 2, 3, 4),)))


def test_a_shape_that_comes_twice_under_one_id_is_located_once_and_named_by_its_labels():
    value = {"x": 1, "y": 2, "width": 3, "height": 4, "rotation": 0}
    shape = {"id": "b", "type": "rectangle", "value": value}
    prompt = plan(brush("cat", "dog")).prompt_of(
        {"result": [shape, {"id": "b", "type": "labels", "value": value | {"labels": ["cat"]}}]}, {}
    )
    assert (prompt.labels, prompt.spatial) == (("cat",), SpatialPrompt(boxes=((1, 2, 3, 4),)))


def test_a_rotated_rectangle_asks_within_the_box_around_it():
    value = {"x": 50, "y": 20, "width": 10, "height": 20, "rotation": 90}
    region = {"type": "rectangle", "original_width": 200, "original_height": 100, "value": value}
    prompt = plan(brush("cat")).prompt_of({"result": [region]}, {})
    # 20 x 20 pixels about the corner at (100, 20): it turns to the left of it.
    assert prompt.spatial.boxes == (pytest.approx((40, 20, 10, 20)),)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), "x", None])
def test_a_place_that_is_no_number_is_refused(number):
    for value in ({"x": number, "y": 1}, {"x": 1, "y": 2, "width": number, "height": 3}, {"points": [[1, number]]}):
        with pytest.raises(PromptInvalidError, match="has no place"):
            plan(brush("cat")).prompt_of({"result": [{"type": "rectangle", "value": value}]}, {})


def test_a_stroke_asks_where_it_was_painted_and_a_polygon_within_it():
    stroke = np.zeros((10, 20), bool)
    stroke[3, 4:9] = True
    value = {"rle": encode_brush(stroke), "format": "rle", "brushlabels": ["cat"]}
    brushed = {"type": "brushlabels", "original_width": 20, "original_height": 10, "value": value}
    planned = plan(brush("cat", "dog"))
    prompt = planned.prompt_of({"result": [brushed]}, {})
    assert prompt.spatial.points == tuple(((x + 0.5) * 5, 35) for x in range(4, 9))
    outline = {"type": "polygonlabels", "value": {"points": [[1, 2], [5, 3], [4, 9]], "polygonlabels": ["cat"]}}
    assert planned.prompt_of({"result": [outline]}, {}).spatial == SpatialPrompt(boxes=((1, 2, 4, 7),))
    for broken in ({"original_width": 21}, {"original_width": 10**9}, {"value": {"rle": "x", "brushlabels": ["cat"]}}):
        with pytest.raises(PromptInvalidError, match="has no place"):
            planned.prompt_of({"result": [brushed | broken]}, {})


def test_a_click_with_a_label_that_no_mask_can_carry_is_refused():
    with pytest.raises(PromptInvalidError, match=r"'nose'.*cat, dog"):
        plan(brush("cat", "dog")).prompt_of(point("nose"), {})


def test_a_click_in_a_referring_project_asks_for_its_label_or_the_tasks_words():
    planned = plan(brush("cup", "spoon"), referring="caption")
    assert asked(planned.prompt_of(point("cup"), {"caption": "cup: x"})) == {"cup": ("cup",)}
    assert asked(planned.prompt_of(point(), {"caption": "cup: x"})) == {"cup: x": ("x",)}


def test_the_image_tag_of_the_labels_is_the_one_that_is_labeled():
    two = IMAGE + '<Image name="second" value="$b"/>'
    assert plan(brush("a", of="second"), image=two).config.image.name == "second"
