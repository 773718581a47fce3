"""The passes over an image: one over all labels, or one over things and one over stuff.

No torch, because postprocessing uses it.
"""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from car.recipe import Arithmetic, Recipe, VisualPrompt
from car.segmentation import Pass, Step, StopReason, WorkCounters
from car.vocabulary import Vocabulary
from worker.segmenter.crf.mean_field import Labels


@dataclass(frozen=True)
class PassSpec:
    """One pass: its labels and their background words, visual prompts and the CRF's background exponent."""

    pass_kind: Pass
    vocabulary: Vocabulary
    visual_prompts: tuple[VisualPrompt, ...]
    bg_factor: float


@dataclass(frozen=True)
class PassResult:
    """The labels that survived a pass, and the pass's steps."""

    labels: tuple[str, ...]
    scores: tuple[float, ...]
    cams: Float[np.ndarray, "n rows columns"]
    """Proposals of the last step at the grid's size, 0..1."""
    bg_factor: float
    steps: tuple[Step, ...]
    stop_reason: StopReason
    work: WorkCounters
    crf_labels: Labels | None = None
    """The label of each pixel, if the CRF was run already."""


def build_passes(vocabulary: Vocabulary, recipe: Recipe) -> list[PassSpec]:
    """Return one pass, or two if the recipe names stuff labels and the vocabulary has both kinds.

    Then things compete with the background words, and stuff with the things (the official mutual background).
    """
    stuff = [name for name in vocabulary.names if name in recipe.stuff]
    things = [name for name in vocabulary.names if name not in recipe.stuff]
    stuff_prompts = recipe.stuff_visual_prompts or recipe.visual_prompts
    if not stuff:
        return [PassSpec(Pass.THINGS, vocabulary, recipe.visual_prompts, recipe.bg_factor)]
    if not things:
        return [PassSpec(Pass.STUFF, vocabulary, stuff_prompts, recipe.stuff_bg_factor)]
    official = recipe.stuff_background is Arithmetic.OFFICIAL
    background = vocabulary.background if official else _prompts(vocabulary, stuff)
    return [
        PassSpec(Pass.THINGS, vocabulary.subset(things, background), recipe.visual_prompts, recipe.bg_factor),
        PassSpec(
            Pass.STUFF, vocabulary.subset(stuff, _prompts(vocabulary, things)), stuff_prompts, recipe.stuff_bg_factor
        ),
    ]


def _prompts(vocabulary: Vocabulary, names: list[str]) -> tuple[str, ...]:
    """Return the prompts of these labels, which is what CLIP reads when they are another pass's background."""
    return tuple(prompt for label in vocabulary.labels if label.name in names for prompt in label.prompts)


def canonical_order(vocabulary: Vocabulary, recipe: Recipe) -> Vocabulary:
    """Return the vocabulary with its labels in alphabetical order, in which everything is computed.

    So the order in which a vocabulary is written cannot change a single bit. Only the official refer filter depends on
    the order and keeps it.
    """
    if recipe.refer_filter is Arithmetic.OFFICIAL and not vocabulary.classifier_templates:
        return vocabulary
    return replace(vocabulary, labels=tuple(sorted(vocabulary.labels, key=lambda label: label.name)))


def reorder_step(step: Step, vocabulary: Vocabulary) -> Step:
    """Return the step with its queries in the vocabulary's order."""
    by_label = {query.label: query for query in step.queries}
    return replace(step, queries=tuple(by_label[name] for name in vocabulary.names if name in by_label))
