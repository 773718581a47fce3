"""How far a quicker way of computing is from the exact one: words, scores and masks of the same pictures."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8

from car import rle
from car.recipe import Recipe
from car.segmentation import Segmentation, Step
from car.vocabulary import Vocabulary
from worker.segmenter.segmenter import Segmenter


@dataclass(frozen=True)
class NearTie:
    """A word that one way keeps and the other drops."""

    image: int
    label: str
    distance: float
    """The least distance of the exact way's score from theta at the step where the ways part."""


@dataclass(frozen=True, kw_only=True)
class Parity:
    """The quicker way beside the exact one, over some pictures."""

    images: int
    same_words: int
    """Pictures on which the same words come out."""
    largest_score_difference: float
    """Of the queries of step 1, which both ways ask alike."""
    mean_iou: float
    """Of masks of words that come out both ways; 1 where there are none."""
    least_iou: float
    near_ties: tuple[NearTie, ...]


def compare(
    exact: Segmenter,
    quick: Segmenter,
    images: Sequence[UInt8[np.ndarray, "_ _ 3"]],
    vocabulary: Vocabulary,
    recipe: Recipe,
) -> Parity:
    """Both ways over all pictures, one by one."""
    same, largest, ious, ties = 0, 0.0, list[float](), list[NearTie]()
    for number, image in enumerate(images):
        (one,) = exact.segment([image], vocabulary, recipe)
        (other,) = quick.segment([image], vocabulary, recipe)
        scores = [{query.label: query.score for query in found.steps[0].queries} for found in (one, other)]
        largest = max(largest, *(abs(scores[1][label] - score) for label, score in scores[0].items()))
        ious += _ious(one, other)
        parted = _parted(number, one, other, recipe.theta)
        ties += parted
        same += not parted
    return Parity(
        images=len(images),
        same_words=same,
        largest_score_difference=largest,
        mean_iou=float(np.mean(ious)) if ious else 1.0,
        least_iou=min(ious, default=1.0),
        near_ties=tuple(ties),
    )


def _ious(first: Segmentation, other: Segmentation) -> list[float]:
    others = {mask.label: rle.decode_coco(mask.rle) for mask in other.masks}
    ious = []
    for mask in first.masks:
        if mask.label in others:
            a, b = rle.decode_coco(mask.rle), others[mask.label]
            ious.append(float((a & b).sum() / (a | b).sum()))
    return ious


def _parted(number: int, first: Segmentation, other: Segmentation, theta: float) -> list[NearTie]:
    for step, its in zip(first.steps, other.steps, strict=False):
        different = _kept(step) ^ _kept(its)
        if different:
            scores = {query.label: query.score for query in step.queries}
            return [NearTie(number, label, abs(scores[label] - theta)) for label in sorted(different)]
    return []


def _kept(step: Step) -> set[str]:
    return {query.label for query in step.queries if query.kept}
