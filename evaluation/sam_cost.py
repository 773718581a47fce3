"""What SAM's automatic masks cost, ours and the official generator's side by side, by stage, beside the arithmetic.

Weights are random, so the quality head's numbers mean nothing: the bounds are chosen after a look at a few points, so
that about a third of the masks is good enough and half of those is stable. Their boxes are nearly all the picture's, so
none is removed as another's duplicate. On a CPU seconds are CPU seconds of this process.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from segment_anything.modeling import Sam

from car.recipe import Recipe
from evaluation.metrics import mask_iou
from evaluation.sam_flop import tera_flop
from evaluation.sam_official import OfficialMasks, Watch
from evaluation.segmenter_speed import picture
from worker.segmenter import sam_network
from worker.segmenter.ensembling import Regions, ensemble
from worker.segmenter.sam import AutomaticMasks
from worker.segmenter.sam_network import SamSizes
from worker.segmenter.sizes import Image

TINY = SamSizes(
    image_size=256, patch=16, width=64, depth=4, heads=2, global_blocks=(1, 3), window=7, prompt_width=64,
    decoder_heads=4, decoder_mlp=128, quality_hidden=64,
)  # fmt: skip

_SIZES = {"tiny": TINY, "vit_b": sam_network.VIT_B, "vit_l": sam_network.VIT_L, "vit_h": sam_network.VIT_H}
_GOOD, _STABLE = 1 / 3, 1 / 2
"""Shares of the masks that pass the bound of quality, and of those that pass the bound of stability."""
_LOOK = 6
"""A side of the grid of points that is looked at to choose the bounds."""
_MATCHED = 0.98
_WORDS = 6
"""Masks of words that are ensembled."""
_GEMMS = 5
_GAIN = {"image_encoder": 1.0, "prompt_encoder": 1.0, "mask_decoder": 1.5}
"""Of the random matrices."""


@dataclass(frozen=True, kw_only=True)
class SamCost:
    """Of one picture. Stages are encode, decode, postprocess, nms and ensemble, in seconds; see `unit`."""

    sizes: str
    width: int
    height: int
    points_per_side: int
    device: str
    """Its name."""
    precision: str
    """In which ours computed patches; the official generator is float32."""
    turns: int
    threads: int
    unit: str
    """"CPU s" of this process on a CPU, "s" of the clock on CUDA."""
    ours_s: Mapping[str, float]
    official_s: Mapping[str, float]
    """Without "ensemble": the package knows none."""
    counts: Mapping[str, Mapping[str, int]]
    """ours, official: how often, how many, how many bytes."""
    tera_flop: Mapping[str, float]
    """Of matrices, two a multiply-add: "encode" and "decode" as ours needs them for this picture, and what the package
    computes for it ("official_encode", "official_decode").
    """
    gemm_tera_flop_per_s: float
    """What large square matrices reach on this device in this precision, measured in the same run."""
    matched_share: float
    """Of the official generator's masks, those that ours has too at an IoU of 0.98."""

    @property
    def floor_s(self) -> float:
        """No implementation of these matrices is faster at the measured rate."""
        return (self.tera_flop["encode"] + self.tera_flop["decode"]) / self.gemm_tera_flop_per_s

    def to_json(self) -> dict[str, Any]:
        """Ratios first; without the ensembling, which only ours does."""
        ours = sum(self.ours_s.values()) - self.ours_s["ensemble"]
        ratios = {"ratio_official": sum(self.official_s.values()) / ours, "floor_s": self.floor_s}
        return ratios | {"time_by_floor": ours / self.floor_s} | asdict(self)


def measure_sam(sizes: str, width: int, height: int, points_per_side: int, device: str, turns: int) -> SamCost:
    """Ours and the official generator turn about; the least of each stage counts. `sizes`: tiny, vit_b, vit_l or vit_h;
    the larger ones take minutes to hours on a CPU: ask few points of them. `device`: cpu or cuda.

    Raises:
        ValueError: other sizes, or nothing to measure.

    """
    if sizes not in _SIZES or min(width, height, points_per_side, turns) < 1:
        raise ValueError(f"{sizes!r} is none of {', '.join(_SIZES)}, or there is nothing to measure")
    where = torch.device(device)
    image = picture(height, width)
    watch, theirs = Watch(where), Watch(where)
    # Ours may change a network's precision, so each has its own of the same weights.
    suited = AutomaticMasks.suited_to(random_network(_SIZES[sizes]).to(where))
    recipe = _chosen(suited, image, replace(Recipe(), sam=True, sam_points_per_side=points_per_side, sam_box_nms=1.0))
    ours = AutomaticMasks(suited.network, suited.points_at_once, suited.images_at_once, kept=0, over=watch.over)
    official = OfficialMasks(random_network(_SIZES[sizes]).to(where), recipe, theirs)
    found: Regions = ()
    records: list[dict[str, Any]] = []
    for _ in range(turns):
        found = ours(image, recipe)
        _ensemble(found, image, recipe, watch)
        watch.turn()
        records = official.generate(image)
        theirs.turn()
    dtype = ours.network.image_encoder.patch_embed.proj.weight.dtype
    return SamCost(
        sizes=sizes,
        width=width,
        height=height,
        points_per_side=points_per_side,
        device=torch.cuda.get_device_name(where) if where.type == "cuda" else "cpu",
        precision=str(dtype).removeprefix("torch."),
        turns=turns,
        threads=torch.get_num_threads(),
        unit="s" if where.type == "cuda" else "CPU s",
        ours_s=watch.least,
        official_s=theirs.least,
        counts={"ours": _counts(official, found), "official": official.counts(records, image)},
        tera_flop=tera_flop(_SIZES[sizes], (height, width), points_per_side**2, official.good_points),
        gemm_tera_flop_per_s=_rate(dtype, where),
        matched_share=_matched(found, records, image),
    )


def _counts(official: OfficialMasks, found: Regions) -> dict[str, int]:
    """Ours decodes the masks of points of which one is good enough, and enlarges those alone."""
    return {
        "encoder_forwards": 1,
        "prompts": official.masks // 3,
        "points_decoded": official.good_points,
        "masks_enlarged": official.good_masks,
        "regions": len(found),
        "bytes_of_regions": sum(len(region.bits) for region in found),
    }


def random_network(sizes: SamSizes) -> Sam:
    """Random weights, always the same, strong enough that masks differ from point to point."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = sam_network.build(sizes).requires_grad_(requires_grad=False)
        for name, parameter in network.named_parameters():
            if "rel_pos" in name or name.endswith("pos_embed"):
                parameter.normal_(std=0.1)
            elif parameter.ndim > 1 and "embed" not in name:
                parameter.normal_(std=_GAIN[name.split(".")[0]] / parameter[0].numel() ** 0.5)
        # A quality lies within 0..1, and the masks of a point are not each as good as any other point's.
        last = network.mask_decoder.iou_prediction_head.layers[-1]
        last.weight.copy_(0.014 * last.weight[:1] + 0.006 * last.weight)
        last.bias.fill_(0.5)
    return network


def _chosen(ours: AutomaticMasks, image: Image, recipe: Recipe) -> Recipe:
    """The recipe whose bounds a third of some masks pass, and half of those. Warms everything up on the way."""
    few = replace(recipe, sam_points_per_side=_LOOK, sam_pred_iou=0.0, sam_stability=0.0)
    qualities = sorted((region.quality for region in ours(image, few)), reverse=True)
    bound = max(qualities[int(len(qualities) * _GOOD)], 1e-6)
    few = replace(few, sam_pred_iou=bound)
    stabilities = np.arange(0.0, 1.0, 0.05)
    left = [len(ours(image, replace(few, sam_stability=float(s)))) for s in stabilities]
    stable = [s for s, count in zip(stabilities, left, strict=True) if count >= left[0] * _STABLE]
    return replace(recipe, sam_pred_iou=bound, sam_stability=float(stable[-1]))


def _ensemble(found: Regions, image: Image, recipe: Recipe, watch: Watch) -> None:
    """Masks of words, as CRFs leave them: here upright bars of the picture."""
    masks = np.zeros((_WORDS, *image.shape[:2]), bool)
    for k, columns in enumerate(np.array_split(np.arange(image.shape[1]), _WORDS)):
        masks[k][:, columns] = True
    with watch.over("ensemble"):
        ensemble(masks, found, recipe)


def _rate(dtype: torch.dtype, device: torch.device) -> float:
    """TFLOP a second of large square matrices, the best of several."""
    side, watch = (8192, Watch(device)) if device.type == "cuda" else (1024, Watch(device))
    one = torch.randn(side, side, device=device).to(dtype)
    for _ in range(_GEMMS):
        with watch.over("gemm"):
            one @ one
        watch.turn()
    return 2 * side**3 / watch.least["gemm"] / 1e12


def _matched(found: Regions, records: list[dict[str, Any]], image: Image) -> float:
    left, matched = [region.whole(image.shape[:2]) for region in found], 0
    for record in records:
        ious = [mask_iou(mask, record["segmentation"]) for mask in left]
        if ious and max(ious) >= _MATCHED:
            matched += 1
            left.pop(int(np.argmax(ious)))
    return matched / max(1, len(records))
