"""Recipes of the official configurations, one a data set, and of the embedded models.

Values are those that took effect in the official code (its constructor defaults where a configuration is silent). The
second pass over stuff belongs to how it evaluates some data sets: it is asked for with `stuff=context` and the like.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from car.errors import RecipeError
from car.recipe import Arithmetic, Mode, Recipe, VisualPrompt, differences

_BLUR, _GRAY, _CIRCLE = VisualPrompt.BLUR, VisualPrompt.GRAY, VisualPrompt.CIRCLE

_VIT_B16 = "openai/clip-vit-base-patch16"
_BLUR_GRAY = (_BLUR, _GRAY)
_REFER = Recipe(
    preset="refcoco", mode=Mode.REFER, classifier_model=_VIT_B16, eta=0.5, theta=0.3, lambda_=0.5, iom=0.5,
    visual_prompts=(_CIRCLE,), sam_min_pred=0.01,
)  # fmt: skip
_VOC = Recipe(preset="voc", eta=0.4, theta=0.6, lambda_=0.4, visual_prompts=(_CIRCLE, _BLUR), iom=0.6)
_CONTEXT = Recipe(
    preset="context", eta=0.6, theta=0.25, lambda_=0.4, visual_prompts=(_BLUR, _CIRCLE), iom=0.5,
    stuff_visual_prompts=_BLUR_GRAY,
)  # fmt: skip
_ADE150 = Recipe(preset="ade150", eta=0.6, theta=0.25, lambda_=0.7, visual_prompts=_BLUR_GRAY, iom=0.6)

PRESETS: dict[str, Recipe] = {
    recipe.preset: recipe
    for recipe in (
        _VOC,
        Recipe(preset="coco", eta=0.5, theta=0.3, lambda_=0.5, visual_prompts=_BLUR_GRAY, iom=0.7),
        _CONTEXT,
        replace(
            _CONTEXT, preset="context459", eta=0.4, lambda_=0.7, visual_prompts=_BLUR_GRAY, iom=0.6,
        ),
        _ADE150,
        replace(_ADE150, preset="ade847"),
        _REFER,
        replace(_REFER, preset="refcoco+", eta=0.2, theta=0.1, visual_prompts=(_CIRCLE, _BLUR)),
        replace(_REFER, preset="refcocog", eta=0.5, theta=0.1, lambda_=0.6, visual_prompts=(_CIRCLE, _BLUR)),
        replace(
            _REFER, preset="gres", classifier_model="openai/clip-vit-large-patch14", eta=0.5, theta=0.0, lambda_=0.3
        ),
        # Tuned on scenes of the shapes world; see demo/MODEL_CARD.md.
        Recipe(
            preset="demo", eta=0.15, theta=0.4, lambda_=0.2, visual_prompts=_BLUR_GRAY, bg_factor=2.0,
            none_kept=Arithmetic.PAPER, iou=0.7, sam_points_per_side=12, sam_stability=0.965, sam_box_nms=0.3,
        ),
    )
}  # fmt: skip

PAPER_VALUES: dict[str, dict[str, Any]] = {
    "context": {"theta": 0.2},
    "refcoco": {"visual_prompts": (_CIRCLE, _BLUR)},
}
"""Values of single presets for which the paper's text gives another number than its code."""


def preset(name: str) -> Recipe:
    """Return the recipe of a preset.

    Raises:
        RecipeError: the preset is unknown; the message lists the known ones.

    """
    if name not in PRESETS:
        raise RecipeError(f"unknown preset {name!r}; known presets: {', '.join(PRESETS)}")
    return PRESETS[name]


def apply_settings(recipe: Recipe, settings: Mapping[str, str]) -> Recipe:
    """Return `recipe` with `key=value` settings applied in order.

    `arithmetic=paper` (or `official`) sets every difference between the paper and its code at once.

    Raises:
        RecipeError: a key is unknown or cannot hold its value; the message lists what is allowed.

    """
    for key, value in settings.items():
        recipe = _with_arithmetic(recipe, value) if key == "arithmetic" else recipe.with_value(key, value)
    return recipe


def _with_arithmetic(recipe: Recipe, value: str) -> Recipe:
    if value not in tuple(Arithmetic):
        raise RecipeError(f"arithmetic={value!r} is not valid: use official or paper")
    official = PRESETS.get(recipe.preset, Recipe())
    values: dict[str, Any] = {"iou": 0.7, "iom": 0.7} | PAPER_VALUES.get(recipe.preset, {})
    if value == Arithmetic.OFFICIAL:
        values = {name: getattr(official, name) for name in values}
    return replace(recipe, **(values | dict.fromkeys(differences(), Arithmetic(value))))
