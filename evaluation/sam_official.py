"""segment_anything's own generator, watched from outside: seconds by stage and how many masks it works at."""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from segment_anything import SamAutomaticMaskGenerator
from segment_anything.modeling import Sam
from torch import Tensor

from car.recipe import Recipe
from worker.segmenter.sizes import Image


@dataclass
class Watch:
    """Seconds by stage, the least sums of several turns: CPU seconds of this process, or of the clock on CUDA."""

    device: torch.device
    least: dict[str, float] = field(default_factory=dict)
    spent: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    def clock(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            return time.perf_counter()
        return time.process_time()

    @contextmanager
    def over(self, stage: str) -> Iterator[None]:
        start = self.clock()
        yield
        self.spent[stage] += self.clock() - start

    def turn(self) -> None:
        for stage, seconds in self.spent.items():
            self.least[stage] = min(seconds, self.least.get(stage, seconds))
        self.spent.clear()


class OfficialMasks(SamAutomaticMaskGenerator):  # type: ignore[misc]  # the package publishes no types
    """The generator with a recipe's settings."""

    def __init__(self, network: Sam, recipe: Recipe, watch: Watch) -> None:
        super().__init__(
            network,
            points_per_side=recipe.sam_points_per_side,
            pred_iou_thresh=recipe.sam_pred_iou,
            stability_score_thresh=recipe.sam_stability,
            box_nms_thresh=recipe.sam_box_nms,
        )
        self.masks = self.good_masks = self.good_points = 0
        """Of the last picture: masks decoded, those of them that are good enough, and the points that have such."""
        self._watch, self._start = watch, 0.0
        network.image_encoder.register_forward_hook(lambda *_: self._add("encode"))
        network.mask_decoder.register_forward_pre_hook(lambda *_: self._begin())
        network.mask_decoder.register_forward_hook(lambda _module, _args, out: self._decoded(out[1]))

    def _process_crop(self, *all_of_it: Any) -> Any:  # noqa: ANN401 - the package publishes no types
        """Encoding, then batches, then duplicates are removed."""
        self.masks = self.good_masks = self.good_points = 0
        self._begin()
        start, spent = self._start, self._watch.spent
        found = super()._process_crop(*all_of_it)
        spent["nms"] += self._watch.clock() - start - sum(spent.values())
        return found

    def _process_batch(self, *all_of_it: Any) -> Any:  # noqa: ANN401
        """Decoding, and what is done with the masks."""
        spent = self._watch.spent
        start, decoded = self._watch.clock(), spent["decode"]
        found = super()._process_batch(*all_of_it)
        spent["postprocess"] += self._watch.clock() - start - (spent["decode"] - decoded)
        return found

    def _begin(self) -> None:
        self._start = self._watch.clock()

    def _add(self, stage: str) -> None:
        self._watch.spent[stage] += self._watch.clock() - self._start

    def _decoded(self, quality: Float[Tensor, "k 3"]) -> None:
        self._add("decode")
        good = quality > self.pred_iou_thresh
        self.masks += good.numel()
        self.good_masks += int(good.sum())
        self.good_points += int(good.any(1).sum())

    def counts(self, records: list[dict[str, Any]], image: Image) -> dict[str, int]:
        """Between its stages masks are run lengths; in its answer they are whole."""
        return {
            "encoder_forwards": 1,
            "prompts": self.masks // 3,
            "points_decoded": self.masks // 3,
            "masks_enlarged": self.masks,
            "regions": len(records),
            "bytes_of_regions": len(records) * image.shape[0] * image.shape[1],
        }
