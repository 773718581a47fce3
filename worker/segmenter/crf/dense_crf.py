"""Dense CRF: CAMs to pixels, by mean-field inference of a fully connected Potts model (Krähenbühl and Koltun).

Who computes it is a choice that changes no recipe: pydensecrf is the reference, our own lattices give the same labels.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, UInt8

from car.errors import CarError
from car.options import CrfBackend
from car.recipe import Arithmetic, Crf, Recipe
from worker.segmenter.crf.arrays import Arrays
from worker.segmenter.crf.compiled_arrays import host_arrays
from worker.segmenter.crf.mean_field import Field, Labels
from worker.segmenter.crf.permutohedral import LatticeTooFineError
from worker.segmenter.resizing import Image, enlarge

_MEAN_BGR = (104.008, 116.669, 122.675)
_LEAST = 1e-5
"""Least probability before the logarithm (pydensecrf's unary_from_softmax as the official code calls it)."""


class ReferenceMissingError(CarError):
    """pydensecrf is asked for and was not installed."""

    code = "crf_reference_missing"


def reference() -> Any:  # noqa: ANN401 - it has no types
    """Pydensecrf's module. It is an extra of its own, for it is published as C++ that not everyone can compile.

    Raises:
        ReferenceMissing: it is not there.

    """
    try:
        from pydensecrf import densecrf  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise ReferenceMissingError(
            "pydensecrf is not installed, which CAR_CRF and --crf ask for and deviations too small for lattices need: "
            "leave them as they are by default, or install car-labeler[reference] (C++ compiler, Python below 3.13)"
        ) from error
    return densecrf


@dataclass(frozen=True)
class LabelGroup:
    """The words of one pass: they compete for pixels where the recipe is semantic, else only with the background."""

    cams: Float[np.ndarray, "n rows columns"]
    """At the grid's size, 0..1."""
    bg_factor: float
    """The background's probability is (1 - max cam)^bg_factor; the probabilities are not made to sum to 1."""


def label(
    image: Image,
    competitions: Sequence[LabelGroup],
    recipe: Recipe,
    *,
    alone: bool = False,
    by: CrfBackend = CrfBackend.LATTICE,
    arrays: Arrays | None = None,
) -> list[Labels]:
    """Who has each pixel of an RGB picture, by competition. A word may have none.

    `arrays` says where; without it, here.
    """
    wanted = recipe.crf is Crf.DENSE and any(len(one.cams) for one in competitions)
    if wanted and by is CrfBackend.LATTICE:
        with suppress(LatticeTooFineError):
            field = Field.over(arrays or host_arrays(), appearance(image, recipe), recipe)
            return [field.label(one.cams, one.bg_factor, alone=alone) for one in competitions]
    reference = _Reference(image, recipe)
    return [reference.label(one, alone=alone) for one in competitions]


class _Reference:
    """pydensecrf over one picture, or no CRF at all."""

    def __init__(self, image: Image, recipe: Recipe) -> None:
        self._image, self._recipe = image, recipe
        self._fields: dict[int, Any] = {}

    def label(self, competition: LabelGroup, *, alone: bool) -> Labels:
        n = len(competition.cams)
        parts = [slice(k, k + 1) for k in range(n)] if alone else [slice(n)]
        sheets = [self._compete(competition.cams[part], competition.bg_factor) for part in parts if n]
        kind = np.min_scalar_type(1 if alone else n)
        empty: Any = np.zeros((0 if alone else 1, *self._image.shape[:2]))
        return (np.stack(sheets) if sheets else empty).astype(kind)

    def _compete(self, cams: Float[np.ndarray, "n rows columns"], bg_factor: float) -> Any:  # noqa: ANN401 - numpy
        height, width = self._image.shape[:2]
        probabilities = np.empty((len(cams) + 1, height, width), np.float32)
        for k, cam in enumerate(cams):
            probabilities[k + 1] = enlarge(cam, height, width)
        probabilities[0] = (1 - probabilities[1:].max(0)) ** bg_factor
        if self._recipe.crf is Crf.DENSE:
            probabilities = self._mean_field(probabilities)
        return probabilities.argmax(0)

    def _mean_field(self, probabilities: Float[np.ndarray, "k h w"]) -> Float[np.ndarray, "k h w"]:
        field = self._field(len(probabilities))
        unary = np.clip(probabilities, _LEAST, 1.0).reshape(len(probabilities), -1)
        np.negative(np.log(unary, out=unary), out=unary)
        field.setUnaryEnergy(unary)
        return np.asarray(field.inference(self._recipe.crf_iterations), np.float32).reshape(probabilities.shape)

    def _field(self, k: int) -> Any:  # noqa: ANN401 - pydensecrf has no types
        """Its lattices hang on the picture and on the number of labels, so the words of a picture can share them."""
        if k not in self._fields:
            recipe, (height, width) = self._recipe, self._image.shape[:2]
            field = reference().DenseCRF2D(width, height, k)
            field.addPairwiseGaussian(sxy=recipe.crf_gaussian_sxy, compat=recipe.crf_gaussian_compat)
            field.addPairwiseBilateral(
                sxy=recipe.crf_bilateral_sxy,
                srgb=recipe.crf_bilateral_srgb,
                rgbim=np.require(appearance(self._image, recipe), requirements=["C", "W"]),
                compat=recipe.crf_bilateral_compat,
            )
            self._fields[k] = field
        return self._fields[k]


def mask_of(labels: Labels, word: int, *, alone: bool) -> Bool[np.ndarray, "h w"]:
    """Of the word of that number in its competition."""
    mask: Bool[np.ndarray, "h w"] = labels[word] == 1 if alone else labels[0] == word + 1
    return mask


def appearance(image: UInt8[np.ndarray, "h w 3"], recipe: Recipe) -> UInt8[np.ndarray, "h w 3"]:
    """What the bilateral kernel sees of an RGB picture.

    The official code subtracts a mean from BGR and casts to bytes, where what is negative wraps around modulo 256.
    """
    if recipe.crf_image is Arithmetic.PAPER:
        return image
    shifted = image[..., ::-1].astype(np.float32) - np.array(_MEAN_BGR, np.float32)
    return shifted.astype(np.int32).astype(np.uint8)
