"""Checks that hold on every device: tests/gpu runs them on CUDA, the normal suite on the CPU at small size."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from car.options import Precision
from car.presets import apply_settings, preset
from car.recipe import Recipe
from car.segmentation import Segmentation
from car.vocabulary import Vocabulary
from demo.clip_models import WEIGHTS
from demo.scenes import WORDS, Scene
from evaluation.metrics import mask_iou
from evaluation.synthetic_images import tiled_image
from tests.support.parity import Parity, compare
from tests.support.sams import random_sam
from worker.models.weights import load_pair
from worker.segmenter.classifier import Crops
from worker.segmenter.crf import dense_crf
from worker.segmenter.crf.dense_crf import CrfBackend, LabelGroup
from worker.segmenter.crf.device_arrays import DeviceArrays
from worker.segmenter.prompts import visual_prompts
from worker.segmenter.prompts.prompted_crops import DevicePrompts, host_crops
from worker.segmenter.resizing import enlarge
from worker.segmenter.sam.automatic_masks import AutomaticMasks
from worker.segmenter.sam.network import SamSizes
from worker.segmenter.segmenter import Batches, Segmenter

CPU = torch.device("cpu")
DEMO = preset("demo")
SAM = SamSizes(
    image_size=96, patch=8, width=24, depth=2, heads=2, global_blocks=(1,), window=5, prompt_width=32,
    decoder_heads=4, decoder_mlp=64, quality_hidden=32, mask_prompt_width=4,
)  # fmt: skip
PROMPTS = ("circle", "contour", "blur+circle", "blur+gray", "black+rectangle")


def make_segmenter(device: torch.device, precision: Precision, batches: Batches | None = None) -> Segmenter:
    """Load the demo's models."""
    pair = load_pair(WEIGHTS / "proposal", WEIGHTS / "classifier", device=device, precision=precision)
    return Segmenter(pair.proposal, pair.classifier, batches)


def vocabulary() -> Vocabulary:
    return Vocabulary.from_words(WORDS)


def parity(device: torch.device, precision: Precision, scenes: Sequence[Scene]) -> Parity:
    """Compare the demo's masks on the device with those of the CPU in float32."""
    reference, other = make_segmenter(CPU, Precision.FLOAT32), make_segmenter(device, precision)
    return compare(reference, other, [scene.image for scene in scenes], vocabulary(), DEMO)


def segment_together_and_singly(
    device: torch.device, scenes: Sequence[Scene], batches: Batches
) -> tuple[list[Segmentation], ...]:
    """Segment the scenes together and one by one: shared batches have one shape, whatever is in them."""
    car = make_segmenter(device, Precision.AUTO, batches)
    images, words = [scene.image for scene in scenes], vocabulary()
    together = car.segment(images, words, DEMO)
    singles = [car.segment([image], words, DEMO)[0] for image in images]
    return tuple([replace(result, timings={}) for result in results] for results in (together, singles))


def crf_agreement(device: torch.device, height: int, width: int, count: int) -> float:
    """Return the share of pixels to which the lattices on the device and pydensecrf give the same label."""
    image, cams = tiled_image(height, width), blobs(count, height // 16, width // 16)
    [reference] = dense_crf.label(image, [LabelGroup(cams, 1.0)], preset("voc"), backend=CrfBackend.PYDENSECRF)
    [labels] = dense_crf.label(image, [LabelGroup(cams, 1.0)], preset("voc"), arrays=DeviceArrays(device))
    return float((labels == reference).mean())


def prompted(device: torch.device, prompts: str, height: int, width: int) -> tuple[Crops, Crops]:
    """Return crops drawn on the device, and those of the host."""
    recipe = apply_settings(preset("voc"), {"visual_prompts": prompts})
    image = tiled_image(height, width)
    source = visual_prompts.prepare(image, recipe.visual_prompts, recipe)
    masks = [np.packbits(enlarge(cam, height, width) > recipe.eta) for cam in blobs(5, 6, 8)]
    crops = DevicePrompts(source, 56, device).crops([None, *masks])
    return crops.cpu(), host_crops(source, 56, [None, *masks])


def sam_matches(device: torch.device, image: np.ndarray) -> tuple[int, int]:
    """Return the number of masks of a random SAM on the CPU, and how many of them it also finds on the device."""
    recipe = apply_settings(
        preset("demo"), {"sam_points_per_side": "7", "sam_pred_iou": "0", "sam_stability": "0.2", "sam_box_nms": "1"}
    )
    expected, masks = (_masks(on, image, recipe) for on in (CPU, device))
    same = (max((mask_iou(mask, other) for other in masks), default=0.0) >= 0.98 for mask in expected)
    return len(expected), sum(same)


def _masks(device: torch.device, image: np.ndarray, recipe: Recipe) -> list[np.ndarray]:
    regions = AutomaticMasks.for_network(random_sam(SAM).to(device))(image, recipe)
    return [region.to_mask(image.shape[:2]) for region in regions]


def blobs(count: int, rows: int, columns: int) -> np.ndarray:
    """Make CAMs (count, rows, columns) of one soft spot each."""
    rng = np.random.default_rng(count)
    y, x = np.mgrid[:rows, :columns]
    centres = rng.uniform((0, 0), (rows, columns), (count, 2))
    return np.stack([np.exp(-((y - r) ** 2 + (x - c) ** 2) / 4) for r, c in centres]).astype(np.float32)
