"""segment_anything's automatic mask generator, timed by stage, with counts of the masks that it decodes."""

from typing import Any

from jaxtyping import Float
from segment_anything import SamAutomaticMaskGenerator
from segment_anything.modeling import Sam
from torch import Tensor

from car.recipe import Recipe
from evaluation.stopwatch import Stopwatch
from worker.segmenter.resizing import Image


class OfficialMasks(SamAutomaticMaskGenerator):  # type: ignore[misc]  # the package publishes no types
    """The official generator with a recipe's settings, timed by stage: encode, decode, postprocess and nms."""

    def __init__(self, network: Sam, recipe: Recipe, stopwatch: Stopwatch) -> None:
        super().__init__(
            network,
            points_per_side=recipe.sam_points_per_side,
            pred_iou_thresh=recipe.sam_pred_iou,
            stability_score_thresh=recipe.sam_stability,
            box_nms_thresh=recipe.sam_box_nms,
        )
        self.masks = self.good_masks = self.good_points = 0
        """Of the last image: masks decoded, those of sufficient quality, and the points that have such a mask."""
        self._stopwatch, self._start = stopwatch, 0.0
        network.image_encoder.register_forward_hook(lambda *_: self._end("encode"))
        network.mask_decoder.register_forward_pre_hook(lambda *_: self._begin())
        network.mask_decoder.register_forward_hook(lambda _module, _args, out: self._decoded(out[1]))

    def _process_crop(self, *args: Any) -> Any:  # noqa: ANN401 - the package publishes no types
        self.masks = self.good_masks = self.good_points = 0
        self._begin()
        watch, start = self._stopwatch, self._start
        masks = super()._process_crop(*args)
        watch.add("nms", watch.clock() - start - sum(watch.spent.values()))
        return masks

    def _process_batch(self, *args: Any) -> Any:  # noqa: ANN401
        watch = self._stopwatch
        start, decoded = watch.clock(), watch.spent.get("decode", 0.0)
        masks = super()._process_batch(*args)
        watch.add("postprocess", watch.clock() - start - (watch.spent["decode"] - decoded))
        return masks

    def _begin(self) -> None:
        self._start = self._stopwatch.clock()

    def _end(self, stage: str) -> None:
        self._stopwatch.add(stage, self._stopwatch.clock() - self._start)

    def _decoded(self, quality: Float[Tensor, "k 3"]) -> None:
        self._end("decode")
        good = quality > self.pred_iou_thresh
        self.masks += good.numel()
        self.good_masks += int(good.sum())
        self.good_points += int(good.any(1).sum())

    def counts(self, records: list[dict[str, Any]], image: Image) -> dict[str, int]:
        """Return counts of the last image, whose records have uncompressed masks."""
        return {
            "encoder_forwards": 1,
            "prompts": self.masks // 3,
            "points_decoded": self.masks // 3,
            "masks_enlarged": self.masks,
            "regions": len(records),
            "bytes_of_regions": len(records) * image.shape[0] * image.shape[1],
        }
