"""What must hold wherever the models compute: tests/gpu asks it of CUDA, the normal suite of the CPU at small size."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from car.options import Precision
from car.presets import preset
from car.recipe import Recipe
from car.segmentation import Segmentation
from car.vocabulary import Vocabulary
from demo.clip_models import WEIGHTS
from demo.scenes import WORDS, Scene
from evaluation.metrics import mask_iou
from evaluation.parity import Parity, compare
from evaluation.synthetic_images import tiled_image
from tests.support.sams import random_sam
from worker.models.weights import load_pair
from worker.segmenter.classifier import Crops
from worker.segmenter.crf import dense_crf
from worker.segmenter.crf.dense_crf import CrfBackend, LabelGroup
from worker.segmenter.crf.device_arrays import DeviceArrays
from worker.segmenter.prompts import visual_prompts
from worker.segmenter.prompts.device_prompts import DevicePrompts
from worker.segmenter.prompts.host_prompts import HostPrompts
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
SHOWN = ("circle", "contour", "blur+circle", "blur+gray", "black+rectangle")


def segmenter(device: torch.device, precision: Precision, batches: Batches | None = None) -> Segmenter:
    """The demo's models."""
    pair = load_pair(WEIGHTS / "proposal", WEIGHTS / "classifier", device=device, precision=precision)
    return Segmenter(pair.proposal, pair.classifier, batches)


def vocabulary() -> Vocabulary:
    return Vocabulary.of(WORDS)


def parity(device: torch.device, precision: Precision, scenes: Sequence[Scene]) -> Parity:
    """The demo's masks on the device beside those of the CPU in float32."""
    exact, quick = segmenter(CPU, Precision.FLOAT32), segmenter(device, precision)
    return compare(exact, quick, [scene.image for scene in scenes], vocabulary(), DEMO)


def company(device: torch.device, scenes: Sequence[Scene], batches: Batches) -> tuple[list[Segmentation], ...]:
    """The scenes together, and one by one: shared batches have one shape, whatever is in them."""
    car = segmenter(device, Precision.AUTO, batches)
    images, words = [scene.image for scene in scenes], vocabulary()
    together = car.segment(images, words, DEMO)
    alone = [car.segment([image], words, DEMO)[0] for image in images]
    return [untimed(one) for one in together], [untimed(one) for one in alone]


def untimed(one: Segmentation) -> Segmentation:
    return replace(one, timings={})


def crf_agreement(device: torch.device, height: int, width: int, words: int) -> float:
    """The share of pixels to which the lattices on the device and pydensecrf give one label."""
    image, cams = tiled_image(height, width), blobs(words, height // 16, width // 16)
    [theirs] = dense_crf.label(image, [LabelGroup(cams, 1.0)], preset("voc"), by=CrfBackend.PYDENSECRF)
    [ours] = dense_crf.label(image, [LabelGroup(cams, 1.0)], preset("voc"), arrays=DeviceArrays(device))
    return float((ours == theirs).mean())


def prompted(device: torch.device, prompts: str, height: int, width: int) -> tuple[Crops, Crops]:
    """Crops drawn on the device, and those of the host."""
    recipe = preset("voc").with_settings({"visual_prompts": prompts})
    image = tiled_image(height, width)
    behind = visual_prompts.prepare(image, recipe.visual_prompts, recipe)
    masks = [np.packbits(enlarge(cam, height, width) > recipe.eta) for cam in blobs(5, 6, 8)]
    ours = DevicePrompts(behind, 56, device).crops([None, *masks])
    return ours.cpu(), HostPrompts(behind, 56).crops([None, *masks])


def sam_matches(device: torch.device, image: np.ndarray) -> tuple[int, int]:
    """How many masks a random SAM makes on the CPU, and how many of them it makes on the device too."""
    recipe = preset("demo").with_settings(
        {"sam_points_per_side": "7", "sam_pred_iou": "0", "sam_stability": "0.2", "sam_box_nms": "1"}
    )
    theirs, ours = (_masks(where, image, recipe) for where in (CPU, device))
    return len(theirs), sum(max((mask_iou(mask, other) for other in ours), default=0.0) >= 0.98 for mask in theirs)


def _masks(device: torch.device, image: np.ndarray, recipe: Recipe) -> list[np.ndarray]:
    regions = AutomaticMasks.suited_to(random_sam(SAM).to(device))(image, recipe)
    return [region.whole(image.shape[:2]) for region in regions]


def blobs(words: int, rows: int, columns: int) -> np.ndarray:
    """CAMs (words, rows, columns) of one soft spot each."""
    rng = np.random.default_rng(words)
    y, x = np.mgrid[:rows, :columns]
    middles = rng.uniform((0, 0), (rows, columns), (words, 2))
    return np.stack([np.exp(-((y - r) ** 2 + (x - c) ** 2) / 4) for r, c in middles]).astype(np.float32)
