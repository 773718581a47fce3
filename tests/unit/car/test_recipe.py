"""Recipes: presets hold the official values, settings are parsed or refused by name, digests name the arithmetic."""

from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from car.errors import RecipeError
from car.presets import PRESETS, apply_settings, preset
from car.recipe import Arithmetic, Crf, Mode, Recipe, VisualPrompt, differences, key_of

OFFICIAL = {
    "voc": (0.4, 0.6, 0.4, "blur+circle", 0.6),
    "coco": (0.5, 0.3, 0.5, "blur+gray", 0.7),
    "context": (0.6, 0.25, 0.4, "blur+circle", 0.5),
    "context459": (0.4, 0.25, 0.7, "blur+gray", 0.6),
    "ade150": (0.6, 0.25, 0.7, "blur+gray", 0.6),
    "ade847": (0.6, 0.25, 0.7, "blur+gray", 0.6),
    "refcoco": (0.5, 0.3, 0.5, "circle", 0.5),
    "refcoco+": (0.2, 0.1, 0.5, "blur+circle", 0.5),
    "refcocog": (0.5, 0.1, 0.6, "blur+circle", 0.5),
    "gres": (0.5, 0.0, 0.3, "circle", 0.5),
}


@pytest.mark.parametrize("name", OFFICIAL)
def test_a_preset_holds_the_official_thresholds(name: str) -> None:
    recipe = preset(name)
    found = (recipe.eta, recipe.theta, recipe.lambda_, "+".join(recipe.visual_prompts), recipe.iom)
    assert found == OFFICIAL[name]


def test_only_referring_presets_ask_one_query_at_a_time() -> None:
    refer = {name for name, recipe in PRESETS.items() if recipe.mode is Mode.REFER}
    assert refer == {"refcoco", "refcoco+", "refcocog", "gres"}


@pytest.mark.parametrize("name", OFFICIAL)
def test_a_preset_computes_as_the_official_code_by_default(name: str) -> None:
    assert {getattr(preset(name), one) for one in differences()} == {Arithmetic.OFFICIAL}


def test_the_second_pass_over_stuff_is_asked_for_by_labels_or_by_a_data_set() -> None:
    context = preset("context")
    assert (context.stuff, context.stuff_visual_prompts) == ((), (VisualPrompt.BLUR, VisualPrompt.GRAY))
    assert [len(apply_settings(context, {"stuff": name}).stuff) for name in ("context", "context459", "ade150")] == [
        21,
        26,
        25,
    ]
    assert apply_settings(context, {"stuff": "sky+floor, flooring"}).stuff == ("sky", "floor, flooring")


def test_settings_are_parsed_by_the_type_of_their_key() -> None:
    recipe = apply_settings(
        preset("voc"),
        {"lambda": "0.55", "visual_prompts": "gray+blur", "crf": "none", "max_steps": "3", "mode": "refer"},
    )
    assert recipe.lambda_ == 0.55
    assert recipe.visual_prompts == (VisualPrompt.BLUR, VisualPrompt.GRAY)
    assert (recipe.crf, recipe.max_steps, recipe.mode) == (Crf.NONE, 3, Mode.REFER)


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("etta", "0.4", "unknown recipe key 'etta'"),
        ("preset", "coco", "unknown recipe key 'preset'"),
        ("eta", "much", "eta takes a number from 0.0 to 1.0"),
        ("eta", "1.5", "eta=1.5 is out of range"),
        ("theta", "nan", "theta=nan is out of range"),
        ("max_steps", "0", "max_steps=0 is out of range"),
        ("visual_prompts", "blur+sparkle", "some of blur+gray+black+circle+rectangle+contour"),
        ("visual_prompts", "", "visual_prompts is empty"),
        ("crf", "wet", "dense or none"),
        ("sam", "perhaps", "on or off"),
        ("stop", "now", "official or paper"),
        ("arithmetic", "mine", "official or paper"),
    ],
)
def test_a_setting_that_cannot_be_used_is_refused_by_name(key: str, value: str, says: str) -> None:
    with pytest.raises(RecipeError, match=says.replace("+", r"\+")):
        apply_settings(preset("voc"), {key: value})


def test_an_unknown_preset_is_answered_with_the_known_ones() -> None:
    with pytest.raises(RecipeError, match="known presets: voc, coco, context"):
        preset("imagenet")


def test_paper_arithmetic_sets_every_difference_and_back() -> None:
    paper = apply_settings(preset("context"), {"arithmetic": "paper"})
    assert {getattr(paper, name) for name in differences()} == {Arithmetic.PAPER}
    assert (paper.theta, paper.iou, paper.iom) == (0.2, 0.7, 0.7)
    assert apply_settings(paper, {"arithmetic": "official"}) == preset("context")


def test_the_digest_names_the_arithmetic_and_not_the_name() -> None:
    voc = preset("voc")
    assert replace(voc, preset="mine", classifier_model="elsewhere").digest == voc.digest
    assert replace(voc, visual_prompts=(VisualPrompt.CIRCLE, VisualPrompt.BLUR)).digest == voc.digest


@pytest.mark.parametrize("name", [f.name for f in fields(Recipe) if isinstance(f.default, float | bool | Arithmetic)])
def test_each_value_changes_the_digest(name: str) -> None:
    voc = preset("voc")
    value = getattr(voc, name)
    other = (
        Arithmetic.PAPER if isinstance(value, Arithmetic) else not value if isinstance(value, bool) else value / 2 + 0.1
    )
    assert replace(voc, **{name: other}).digest != voc.digest


@pytest.mark.parametrize("name", PRESETS)
def test_json_holds_the_whole_recipe(name: str) -> None:
    assert Recipe.from_json(preset(name).to_json()) == preset(name)


def test_every_field_says_what_it_means() -> None:
    assert [f.name for f in fields(Recipe) if not f.metadata.get("says")] == []


@given(st.floats(0, 1), st.floats(0, 1))
def test_settings_round_trip_through_text(eta: float, theta: float) -> None:
    recipe = apply_settings(preset("voc"), {"eta": str(eta), "theta": str(theta)})
    assert (recipe.eta, recipe.theta) == (eta, theta)


def test_keys_are_written_as_the_paper_says_them() -> None:
    assert "lambda" in {key_of(f.name) for f in fields(Recipe)}


def test_the_name_of_a_sam_is_part_of_a_recipe_that_uses_it_and_of_no_other():
    base = preset("voc")
    named = apply_settings(base, {"sam_model": "sam-vit-b"})
    assert named.digest == base.digest
    assert apply_settings(named, {"sam": "on"}).digest != apply_settings(base, {"sam": "on"}).digest


def test_recipes_without_sam_keep_the_digests_that_results_are_stored_under():
    assert preset("voc").digest[:8] == "b88d81e4"
