"""Dense CRF: CAMs to pixels, by mean-field inference of a fully connected Potts model (Krähenbühl and Koltun).

The backend is a choice that changes no recipe: pydensecrf is the reference, and our lattices give the same labels.
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
from worker.segmenter.crf.mean_field import MIN_PROBABILITY, Labels, MeanField
from worker.segmenter.crf.permutohedral import LatticeTooFineError
from worker.segmenter.resizing import Image, enlarge

_MEAN_BGR = (104.008, 116.669, 122.675)


class ReferenceMissingError(CarError):
    """pydensecrf is needed and not installed."""

    code = "crf_reference_missing"


def import_pydensecrf() -> Any:  # noqa: ANN401 - it has no types
    """Return pydensecrf's module or raise ReferenceMissingError. It is an extra because it comes as C++ source."""
    try:
        from pydensecrf import densecrf  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise ReferenceMissingError(
            "pydensecrf is not installed. CAR_CRF, --crf or CRF deviations too small for lattices select it: use the "
            "defaults, or install car-labeler[reference] (needs a C++ compiler and Python below 3.13)"
        ) from error
    return densecrf


@dataclass(frozen=True)
class LabelGroup:
    """The CAMs of one pass. They compete with each other if the recipe is semantic, else only with the background."""

    cams: Float[np.ndarray, "n rows columns"]
    """At the grid's size, 0..1."""
    bg_factor: float
    """The background's probability is (1 - max cam)^bg_factor; the probabilities need not sum to 1."""


def label(
    image: Image,
    groups: Sequence[LabelGroup],
    recipe: Recipe,
    *,
    independent: bool = False,
    backend: CrfBackend = CrfBackend.LATTICE,
    arrays: Arrays | None = None,
) -> list[Labels]:
    """Return the label of each pixel of an RGB image by group. A label may have no pixels.

    `independent`: each CAM competes with the background alone. `arrays` (default: this machine's CPU) computes the
    lattices.
    """
    dense = recipe.crf is Crf.DENSE and any(len(group.cams) for group in groups)
    if dense and backend is CrfBackend.LATTICE:
        with suppress(LatticeTooFineError):
            mean_field = MeanField.from_image(arrays or host_arrays(), appearance(image, recipe), recipe)
            return [mean_field.label(group.cams, group.bg_factor, independent=independent) for group in groups]
    reference = _PyDenseCrf(image, recipe)
    return [reference.label(group, independent=independent) for group in groups]


class _PyDenseCrf:
    """pydensecrf over one image, or no CRF if the recipe has none."""

    def __init__(self, image: Image, recipe: Recipe) -> None:
        self._image, self._recipe = image, recipe
        self._fields: dict[int, Any] = {}

    def label(self, group: LabelGroup, *, independent: bool) -> Labels:
        n = len(group.cams)
        parts = [slice(k, k + 1) for k in range(n)] if independent else [slice(n)]
        layers = [self._label(group.cams[part], group.bg_factor) for part in parts if n]
        dtype = np.min_scalar_type(1 if independent else n)
        empty: Any = np.zeros((0 if independent else 1, *self._image.shape[:2]))
        return (np.stack(layers) if layers else empty).astype(dtype)

    def _label(self, cams: Float[np.ndarray, "n rows columns"], bg_factor: float) -> Any:  # noqa: ANN401 - numpy
        height, width = self._image.shape[:2]
        probabilities = np.empty((len(cams) + 1, height, width), np.float32)
        for k, cam in enumerate(cams):
            probabilities[k + 1] = enlarge(cam, height, width)
        probabilities[0] = (1 - probabilities[1:].max(0)) ** bg_factor
        if self._recipe.crf is not Crf.DENSE:
            return probabilities.argmax(0)
        field = self._field(len(probabilities))
        unary = np.clip(probabilities, MIN_PROBABILITY, 1.0).reshape(len(probabilities), -1)
        field.setUnaryEnergy(np.negative(np.log(unary, out=unary), out=unary))
        q = np.asarray(field.inference(self._recipe.crf_iterations), np.float32)
        return q.argmax(0).reshape(height, width)

    def _field(self, k: int) -> Any:  # noqa: ANN401 - pydensecrf has no types
        """Return the cached field for k labels: its lattices depend on the image and on k alone."""
        if k not in self._fields:
            recipe, (height, width) = self._recipe, self._image.shape[:2]
            field = import_pydensecrf().DenseCRF2D(width, height, k)
            field.addPairwiseGaussian(sxy=recipe.crf_gaussian_sxy, compat=recipe.crf_gaussian_compat)
            field.addPairwiseBilateral(
                sxy=recipe.crf_bilateral_sxy,
                srgb=recipe.crf_bilateral_srgb,
                rgbim=np.require(appearance(self._image, recipe), requirements=["C", "W"]),
                compat=recipe.crf_bilateral_compat,
            )
            self._fields[k] = field
        return self._fields[k]


def extract_mask(labels: Labels, number: int, *, independent: bool) -> Bool[np.ndarray, "h w"]:
    """Return the mask of the group's label of that number, counted from 0."""
    mask: Bool[np.ndarray, "h w"] = labels[number] == 1 if independent else labels[0] == number + 1
    return mask


def appearance(image: UInt8[np.ndarray, "h w 3"], recipe: Recipe) -> UInt8[np.ndarray, "h w 3"]:
    """Return what the bilateral kernel sees of an RGB image.

    The official code subtracts a mean from BGR and casts to bytes, so negative values wrap around modulo 256.
    """
    if recipe.crf_image is Arithmetic.PAPER:
        return image
    shifted = image[..., ::-1].astype(np.float32) - np.array(_MEAN_BGR, np.float32)
    return shifted.astype(np.int32).astype(np.uint8)
