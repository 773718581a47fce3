"""The time of SAM's automatic masks by stage, ours and the official generator's, with the floor of their arithmetic.

Weights are random, so predicted qualities mean nothing: the thresholds are chosen from a few points, so that about a
third of the masks passes the quality and half of those the stability. Nearly all boxes cover the image, so none is
removed as a duplicate.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from segment_anything.modeling import Sam

from car.recipe import Recipe
from evaluation.metrics import mask_iou
from evaluation.reference.sam_official import OfficialMasks
from evaluation.speed.roofline import measure_flop_rate
from evaluation.speed.sam_flop import tera_flop
from evaluation.stopwatch import Stopwatch, clock_of
from evaluation.synthetic_images import tiled_image
from worker.segmenter.resizing import Image
from worker.segmenter.sam import network as sam_network
from worker.segmenter.sam.automatic_masks import AutomaticMasks
from worker.segmenter.sam.ensembling import Regions, ensemble
from worker.segmenter.sam.network import SamSizes

TINY = SamSizes(
    image_size=256, patch=16, width=64, depth=4, heads=2, global_blocks=(1, 3), window=7, prompt_width=64,
    decoder_heads=4, decoder_mlp=128, quality_hidden=64,
)  # fmt: skip

_SIZES = {"tiny": TINY, "vit_b": sam_network.VIT_B, "vit_l": sam_network.VIT_L, "vit_h": sam_network.VIT_H}
_GOOD, _STABLE = 1 / 3, 1 / 2
"""Shares of the masks that pass the quality threshold, and of those that pass the stability threshold."""
_SAMPLE_POINTS = 6
"""Side of the grid of points from which the thresholds are chosen."""
_MATCH_IOU = 0.98
_LABELS = 6
"""Masks of labels that are ensembled."""
_GAIN = {"image_encoder": 1.0, "prompt_encoder": 1.0, "mask_decoder": 1.5}
"""Multiplies the random matrices."""


@dataclass(frozen=True, kw_only=True)
class SamCost:
    """Figures of one image. Stages are encode, decode, postprocess, nms and ensemble, in seconds; see `unit`."""

    sizes: str
    width: int
    height: int
    points_per_side: int
    device: str
    """Its name."""
    precision: str
    """Of our patches; the official generator is float32."""
    turns: int
    threads: int
    unit: str
    """"CPU s" of this process on a CPU, "s" of wall time on CUDA."""
    ours_s: Mapping[str, float]
    official_s: Mapping[str, float]
    """Without "ensemble", which only ours has."""
    counts: Mapping[str, Mapping[str, int]]
    """Of `ours` and `official`: calls, masks and bytes."""
    tera_flop: Mapping[str, float]
    """Of matrices, two a multiply-add: "encode" and "decode" are ours for this image, "official_encode" and
    "official_decode" the package's.
    """
    gemm_tera_flop_per_s: float
    """Of large square matrices on this device in this precision, measured in the same run."""
    matched_share: float
    """Share of the official generator's masks that ours has too at an IoU of 0.98."""

    @property
    def floor_s(self) -> float:
        """The arithmetic at the measured rate."""
        return (self.tera_flop["encode"] + self.tera_flop["decode"]) / self.gemm_tera_flop_per_s

    def to_json(self) -> dict[str, Any]:
        """All figures, ratios first; the ratios leave out the ensembling, which only ours has."""
        ours = sum(self.ours_s.values()) - self.ours_s["ensemble"]
        ratios = {"ratio_official": sum(self.official_s.values()) / ours, "floor_s": self.floor_s}
        return ratios | {"time_by_floor": ours / self.floor_s} | asdict(self)


def measure_sam(sizes: str, width: int, height: int, points_per_side: int, device: str, turns: int) -> SamCost:
    """Measure ours and the official generator in alternation; the least of each stage counts. `sizes` is tiny, vit_b,
    vit_l or vit_h; the larger ones take minutes to hours on a CPU unless the points are few.

    Raises:
        ValueError: unknown sizes, or nothing to measure.

    """
    if sizes not in _SIZES or min(width, height, points_per_side, turns) < 1:
        raise ValueError(f"{sizes!r} is none of {', '.join(_SIZES)}, or there is nothing to measure")
    torch_device = torch.device(device)
    image, clock = tiled_image(height, width), clock_of(torch_device)
    watch, official_watch = Stopwatch(clock), Stopwatch(clock)
    # Ours may change a network's precision, so each has its own of the same weights.
    suited = AutomaticMasks.suited_to(random_network(_SIZES[sizes]).to(torch_device))
    recipe = replace(Recipe(), sam=True, sam_points_per_side=points_per_side, sam_box_nms=1.0)
    recipe = _choose_recipe(suited, image, recipe)
    ours = AutomaticMasks(suited.network, suited.points_at_once, suited.images_at_once, kept=0, over=watch.stage)
    official = OfficialMasks(random_network(_SIZES[sizes]).to(torch_device), recipe, official_watch)
    regions: Regions = ()
    records: list[dict[str, Any]] = []
    for _ in range(turns):
        regions = ours(image, recipe)
        _ensemble(regions, image, recipe, watch)
        watch.end_turn()
        records = official.generate(image)
        official_watch.end_turn()
    dtype = ours.network.image_encoder.patch_embed.proj.weight.dtype
    return SamCost(
        sizes=sizes,
        width=width,
        height=height,
        points_per_side=points_per_side,
        device=torch.cuda.get_device_name(torch_device) if torch_device.type == "cuda" else "cpu",
        precision=str(dtype).removeprefix("torch."),
        turns=turns,
        threads=torch.get_num_threads(),
        unit="s" if torch_device.type == "cuda" else "CPU s",
        ours_s=watch.least,
        official_s=official_watch.least,
        counts={"ours": _counts(official, regions), "official": official.counts(records, image)},
        tera_flop=tera_flop(_SIZES[sizes], (height, width), points_per_side**2, official.good_points),
        gemm_tera_flop_per_s=measure_flop_rate(torch_device, dtype) / 1e12,
        matched_share=_matched_share(regions, records, image),
    )


def _counts(official: OfficialMasks, regions: Regions) -> dict[str, int]:
    """Ours decodes only points that have a mask of sufficient quality, and enlarges only those masks."""
    return {
        "encoder_forwards": 1,
        "prompts": official.masks // 3,
        "points_decoded": official.good_points,
        "masks_enlarged": official.good_masks,
        "regions": len(regions),
        "bytes_of_regions": sum(len(region.bits) for region in regions),
    }


def random_network(sizes: SamSizes) -> Sam:
    """A SAM with seeded random weights, large enough that masks differ from point to point."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = sam_network.build(sizes).requires_grad_(requires_grad=False)
        for name, parameter in network.named_parameters():
            if "rel_pos" in name or name.endswith("pos_embed"):
                parameter.normal_(std=0.1)
            elif parameter.ndim > 1 and "embed" not in name:
                parameter.normal_(std=_GAIN[name.split(".")[0]] / parameter[0].numel() ** 0.5)
        # Qualities lie within 0..1 and differ between the masks of a point and between points.
        last = network.mask_decoder.iou_prediction_head.layers[-1]
        last.weight.copy_(0.014 * last.weight[:1] + 0.006 * last.weight)
        last.bias.fill_(0.5)
    return network


def _choose_recipe(ours: AutomaticMasks, image: Image, recipe: Recipe) -> Recipe:
    """The recipe with thresholds that a third of some masks pass, and half of those. Warms everything up."""
    sampled = replace(recipe, sam_points_per_side=_SAMPLE_POINTS, sam_pred_iou=0.0, sam_stability=0.0)
    qualities = sorted((region.quality for region in ours(image, sampled)), reverse=True)
    threshold = max(qualities[int(len(qualities) * _GOOD)], 1e-6)
    sampled = replace(sampled, sam_pred_iou=threshold)
    stabilities = np.arange(0.0, 1.0, 0.05)
    left = [len(ours(image, replace(sampled, sam_stability=float(s)))) for s in stabilities]
    stable = [s for s, count in zip(stabilities, left, strict=True) if count >= left[0] * _STABLE]
    return replace(recipe, sam_pred_iou=threshold, sam_stability=float(stable[-1]))


def _ensemble(regions: Regions, image: Image, recipe: Recipe, watch: Stopwatch) -> None:
    """Ensemble SAM's regions with masks of labels: vertical bars of the image stand in for the CRF's."""
    masks = np.zeros((_LABELS, *image.shape[:2]), bool)
    for k, columns in enumerate(np.array_split(np.arange(image.shape[1]), _LABELS)):
        masks[k][:, columns] = True
    with watch.stage("ensemble"):
        ensemble(masks, regions, recipe)


def _matched_share(regions: Regions, records: list[dict[str, Any]], image: Image) -> float:
    left, matched = [region.whole(image.shape[:2]) for region in regions], 0
    for record in records:
        ious = [mask_iou(mask, record["segmentation"]) for mask in left]
        if ious and max(ious) >= _MATCH_IOU:
            matched += 1
            left.pop(int(np.argmax(ious)))
    return matched / max(1, len(records))
