"""What is asked of a picture, in which order: one pass over its words, or two for things and stuff."""

from dataclasses import dataclass, replace

from car.recipe import Arithmetic, Recipe, VisualPrompt
from car.segmentation import Pass, Step
from car.vocabulary import Vocabulary


@dataclass(frozen=True)
class PassSpec:
    """One pass over a picture: its words, their background, and how masks are shown and sharpened."""

    pass_kind: Pass
    vocabulary: Vocabulary
    visual_prompts: tuple[VisualPrompt, ...]
    bg_factor: float


def build_passes(vocabulary: Vocabulary, recipe: Recipe) -> list[PassSpec]:
    """One pass, or two where the recipe names stuff labels and the vocabulary has both kinds: things against the
    background words, then stuff against the things (the official mutual background).
    """
    stuff = [name for name in vocabulary.names if name in recipe.stuff]
    things = [name for name in vocabulary.names if name not in recipe.stuff]
    background = vocabulary.background
    shown_stuff = recipe.stuff_visual_prompts or recipe.visual_prompts
    if not stuff or not things:
        within = Pass.STUFF if stuff else Pass.THINGS
        shown, bg_factor = (shown_stuff, recipe.stuff_bg_factor) if stuff else (recipe.visual_prompts, recipe.bg_factor)
        return [PassSpec(within, vocabulary, shown, bg_factor)]
    behind_things = background if recipe.stuff_background is Arithmetic.OFFICIAL else tuple(stuff)
    return [
        PassSpec(Pass.THINGS, vocabulary.subset(things, behind_things), recipe.visual_prompts, recipe.bg_factor),
        PassSpec(Pass.STUFF, vocabulary.subset(stuff, tuple(things)), shown_stuff, recipe.stuff_bg_factor),
    ]


def canonical(vocabulary: Vocabulary, recipe: Recipe) -> Vocabulary:
    """The labels in alphabetical order, in which everything is computed: so the order in which a vocabulary is written
    down cannot change a single bit. The official refer filter alone depends on places.
    """
    if recipe.refer_filter is Arithmetic.OFFICIAL and not vocabulary.classifier_templates:
        return vocabulary
    return replace(vocabulary, labels=tuple(sorted(vocabulary.labels, key=lambda label: label.name)))


def reorder_step(step: Step, vocabulary: Vocabulary) -> Step:
    """The step with its queries in the order in which the user wrote them."""
    by_label = {query.label: query for query in step.queries}
    return replace(step, queries=tuple(by_label[name] for name in vocabulary.names if name in by_label))
