"""Dense CRF: CAMs to pixels, by mean-field inference of a fully connected Potts model (Krähenbühl and Koltun)."""

import numpy as np
from jaxtyping import Bool, Float, UInt8
from pydensecrf import densecrf

from car.recipe import Arithmetic, Crf, Recipe

_MEAN_BGR = (104.008, 116.669, 122.675)
_LEAST = 1e-5
"""Least probability before the logarithm (pydensecrf's unary_from_softmax as the official code calls it)."""


def sharpen(
    image: UInt8[np.ndarray, "h w 3"], cams: Float[np.ndarray, "n h w"], recipe: Recipe, *, bg_factor: float
) -> Bool[np.ndarray, "n h w"]:
    """One mask a CAM, disjoint; an RGB picture and CAMs in 0..1. A mask may come out empty, and all of them may.

    The background's probability is (1 - max cam)^bg_factor; the probabilities are not made to sum to 1.
    """
    background = (1 - cams.max(0, keepdims=True)) ** bg_factor
    probabilities = np.concatenate([background, cams]).astype(np.float32)
    if recipe.crf is Crf.DENSE:
        probabilities = _mean_field(image, probabilities, recipe)
    labels = np.arange(1, len(cams) + 1)[:, None, None]
    masks: Bool[np.ndarray, "n h w"] = labels == probabilities.argmax(0)
    return masks


def _mean_field(
    image: UInt8[np.ndarray, "h w 3"], probabilities: Float[np.ndarray, "k h w"], recipe: Recipe
) -> Float[np.ndarray, "k h w"]:
    k, height, width = probabilities.shape
    field = densecrf.DenseCRF2D(width, height, k)
    unary = -np.log(np.clip(probabilities, _LEAST, 1.0)).reshape(k, -1)
    field.setUnaryEnergy(np.ascontiguousarray(unary, np.float32))
    field.addPairwiseGaussian(sxy=recipe.crf_gaussian_sxy, compat=recipe.crf_gaussian_compat)
    field.addPairwiseBilateral(
        sxy=recipe.crf_bilateral_sxy,
        srgb=recipe.crf_bilateral_srgb,
        rgbim=np.ascontiguousarray(appearance(image, recipe)),
        compat=recipe.crf_bilateral_compat,
    )
    return np.asarray(field.inference(recipe.crf_iterations), np.float32).reshape(k, height, width)


def appearance(image: UInt8[np.ndarray, "h w 3"], recipe: Recipe) -> UInt8[np.ndarray, "h w 3"]:
    """What the bilateral kernel sees of an RGB picture.

    The official code subtracts a mean from BGR and casts to bytes, where what is negative wraps around modulo 256.
    """
    if recipe.crf_image is Arithmetic.PAPER:
        return image
    shifted = image[..., ::-1].astype(np.float32) - np.array(_MEAN_BGR, np.float32)
    return shifted.astype(np.int32).astype(np.uint8)
