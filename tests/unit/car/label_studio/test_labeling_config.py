"""Labeling configurations: what is usable is used, and whatever is not is named with what to do about it."""

import pytest

from car.label_studio.labeling_config import Kind, LabelingConfigError
from car.label_studio.labeling_xml import parse_labeling_config
from car.label_studio.project_config import build_project_config
from tests.support.labeling import brush, codes, control, plan, prompts, view


def test_labels_come_in_the_order_of_the_configuration_once_each():
    config = parse_labeling_config(view(brush("b", "a"), control("PolygonLabels", "a", "c", name="p")))
    assert [one.value for one in config.labels] == ["b", "a", "c"]
    assert [(one.kind, one.labels) for one in config.controls] == [(Kind.BRUSH, ("b", "a")), (Kind.POLYGON, ("a", "c"))]
    assert config.problems == ()


def test_a_label_is_shown_by_the_control_that_says_most_about_pixels():
    places = plan(
        control("RectangleLabels", "a", "b", "c", name="r"), control("PolygonLabels", "a", "b", name="p"), brush("a")
    ).mapping.by_name
    assert [places[name].controls[0].kind for name in "abc"] == [Kind.BRUSH, Kind.POLYGON, Kind.RECTANGLE]


def test_output_forces_a_kind_and_says_where_it_cannot():
    planned = plan(control("PolygonLabels", "a", name="p"), brush("a", "b"), output="polygon")
    assert planned.mapping.by_name["a"].controls[0].kind is Kind.POLYGON
    assert planned.mapping.by_name["b"].controls[0].kind is Kind.BRUSH
    assert codes(planned) == ["output_unavailable"]


@pytest.mark.parametrize(
    ("label", "name", "asked"),
    [
        ('<Label value="Car" predicted_values="car, sedan,,"/>', "Car", ("car", "sedan")),
        ('<Label value="yellow square" hint="brush" alias="1_brush"/>', "1_brush", ("yellow square",)),
        ('<Label value="Hund" alias="dog"/>', "dog", ("Hund",)),
        ('<Label value="Hund" alias="dog" predicted_values="dog"/>', "dog", ("dog",)),
        ('<Label value="crack" alias="cls_07"/>', "cls_07", ("crack",)),
        ('<Label value="07" alias="rusty bolt"/>', "rusty bolt", ("rusty bolt",)),
        ('<Label value="07" alias="7" hint="rusty bolt"/>', "7", ("07",)),
        ('<Label value="猫" alias="cat"/>', "cat", ("猫",)),
        ('<Label value="C1" hint="rusty bolt"/>', "C1", ("C1",)),
        ('<Label value=" cat "/>', "cat", ("cat",)),
    ],
)
def test_predicted_values_are_asked_else_the_visible_value_and_an_alias_only_where_that_has_no_letters(
    label, name, asked
):
    assert prompts(plan(brush(label))) == {name: asked}


def test_regions_carry_the_alias_as_label_studio_stores_it():
    assert plan(brush('<Label value="Hund" alias="dog"/>')).mapping.by_name["dog"].label == "dog"


def test_spaces_at_the_ends_of_a_value_stay_in_its_regions():
    assert plan(brush('<Label value=" cat "/>')).mapping.by_name["cat"].label == " cat "


def test_a_plain_shape_is_used_together_with_a_labels_control():
    planned = plan(control("Polygon", name="p"), control("Labels", "a", name="l"))
    (shown,) = planned.mapping.by_name["a"].controls
    assert (shown.name, shown.kind, shown.labels_name) == ("p", Kind.POLYGON, "l")
    assert planned.problems == ()


@pytest.mark.parametrize(
    ("parts", "code", "word"),
    [
        ([control("Brush", name="x"), brush("a")], "control_without_labels", "BrushLabels"),
        ([control("KeyPointLabels", "nose", name="k"), brush("a")], "control_unsupported", "nose"),
        ([control("Bitmask", name="x"), control("Labels", "b", name="l"), brush("a")], "control_unsupported", "b"),
        (['<Text name="t" value="$t"/>', control("Labels", "P", of="t"), brush("a")], "control_elsewhere", "P"),
        (['<Video name="v" value="$v"/>', brush("x", name="vb", of="v"), brush("a")], "control_elsewhere", "x"),
        ([brush("a", "<Label/>")], "label_empty", "value"),
        ([brush("a", "A")], "label_indistinct", "same text"),
        ([brush("a", "x" * 201)], "label_unusable", "201 characters"),
        ([brush("a", '<Label value="b" predicted_values="a"/>')], "label_unusable", "'a'"),
        ([brush("a", '<Label value="b" predicted_values="bee,a"/>')], "prompt_repeated", "'a'"),
        ([brush("a"), control("Choices", "sharp", "a")], "choice_not_asked", "sharp"),
        ([control("Choices", "cat", "Yes")], "choice_no_word", "Yes"),
        ([control("Choices", '<Label value="cat"><Choice value="kitten"/></Label>').replace("</Label>", "</Choice>")],
         "choice_nested", "kitten"),
        ([brush("a"), control("Choices", "x", perRegion="true")], "choices_per_region", "not predicted"),
        ([brush("a", value="$labels")], "labels_of_task", "tasks"),
        ([brush("a", model_score_threshold="high")], "threshold_invalid", "high"),
        ([brush("a"), '<Image name="second" value="$b"/>'], "image_not_labeled", "second"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_a_problem_that_names_it_beside_what_can(parts, code, word):
    planned = plan(*parts)
    assert codes(planned) == [code]
    assert word in planned.problems[0].detail
    assert planned.base.labels


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "not valid XML"),
        ("<View>", "not valid XML"),
        ("<View/>", "no image"),
        (view(), "no control"),
        (view(brush("a"), image='<Image name="image" valueList="$images"/>'), "valueList"),
        (view(brush()), "no control"),
        (view(control("EllipseLabels", "a")), "no control"),
        (view(control("Choices", "yes", "no")), "names no visible thing"),
        ('<!DOCTYPE x [<!ENTITY a "b">]>' + view(brush("a")), "DTD"),
        ("<View>" + " " * 1_000_001 + "</View>", "shorten"),
    ],
)
def test_a_configuration_without_anything_usable_is_refused_with_the_reason(text, says):
    with pytest.raises(LabelingConfigError, match=says):
        build_project_config(text, {}, preset="demo")


def test_an_xml_declaration_is_no_obstacle():
    assert parse_labeling_config(f'<?xml version="1.0" encoding="UTF-16"?>\n{view(brush("ä"))}').labels[0].value == "ä"


def test_choices_of_a_project_without_masks_are_asked_for():
    planned = plan(control("Choices", "cat", "dog", choice="multiple"))
    assert prompts(planned) == {"cat": ("cat",), "dog": ("dog",)}
    assert planned.mapping.by_name["cat"].controls == ()


def test_a_choice_beside_masks_is_asked_for_where_it_has_words():
    planned = plan(brush("a"), control("Choices", '<Label value="n" predicted_values="night, darkness"/>'))
    assert prompts(planned) == {"a": ("a",), "n": ("night", "darkness")}


def test_the_lowest_threshold_of_the_controls_is_theta_unless_it_is_set():
    controls = [brush("a", model_score_threshold="0.5"), control("PolygonLabels", "b", model_score_threshold="0.25")]
    planned = plan(*controls)
    assert planned.recipe.theta == 0.25
    assert codes(planned) == ["thresholds_differ"]
    assert plan(*controls, set={"theta": 0.7}).recipe.theta == 0.7


def test_two_thousand_and_one_labels_lose_the_last_one_with_a_word():
    planned = plan(brush(*(f"label {number}" for number in range(2001))))
    assert len(planned.base.labels) == 2000
    assert codes(planned) == ["labels_too_many"]
