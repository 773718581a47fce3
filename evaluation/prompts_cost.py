"""What a picture's visual prompts cost before g sees them: the reference drawing beside the fast path.

Both sides make the same crops, to the bit, of the same CAMs; they are timed turn about in one process, and the least of
the turns counts. As a command: `python -m evaluation.prompts_cost [device]`.
"""

import sys
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float

from car.presets import preset
from car.recipe import Recipe
from worker.segmenter import classifier, visual_prompts
from worker.segmenter.classifier import Crops
from worker.segmenter.encoder import Encoder
from worker.segmenter.prompting import prompter
from worker.segmenter.proposals import MULTIPLE
from worker.segmenter.sizes import Image, enlarge

Cams = list[Float[np.ndarray, "rows columns"]]

_SIZE = 224
"""Side of a crop where no g is given: that of CLIP ViT-L/14."""
_AT_ONCE = 4


@dataclass(frozen=True)
class PromptsCost:
    """Seconds and counts of one picture's masks, all words of one step."""

    width: int
    height: int
    words: int
    device: str
    prompts: tuple[str, ...]
    box_share: float
    """Of the picture, what the masks' bounding boxes hold on average."""
    reference_s: float
    """A full-size copy a word drawn with OpenCV, shrunk with Pillow, and taken to the device."""
    ours_s: float
    """The path that this device takes. Both sides: CPU seconds of this process on a CPU; elsewhere seconds on the wall,
    until the device rests."""
    masks_s: float
    """Of both sides: CAMs enlarged and compared with eta, always on the host."""
    forward_crop_s: float | None
    """g's forward pass of one crop, among four, where g was given."""
    crops: int
    crop_bytes: int
    """What g is given."""
    reference_peak_bytes: int
    """The most that numpy's arrays held on the host, crops included."""
    ours_peak_bytes: int

    @property
    def ratio(self) -> float:
        return self.reference_s / self.ours_s

    def to_json(self) -> dict[str, Any]:
        """All figures, with the ratio of the two sides."""
        return asdict(self) | {"ratio": self.ratio}


def measure_prompts(
    width: int,
    height: int,
    words: int,
    device: torch.device,
    turns: int,
    *,
    recipe: Recipe | None = None,
    g: Encoder | None = None,
) -> PromptsCost:
    """Both sides on a picture of noise and CAMs of one soft spot each; one in ten fills it.

    Raises:
        RuntimeError: the two sides made different crops.

    """
    recipe, size = recipe or preset("voc"), g.image_size if g else _SIZE
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
    grid = (-(-height // MULTIPLE), -(-width // MULTIPLE))
    cams = [_spot(random, grid, wide=k % 10 == 0) for k in range(words)]
    sides: tuple[Callable[[], Crops], ...] = (
        lambda: _reference(image, cams, recipe, size).to(device),
        lambda: _ours(image, cams, recipe, size, device),
    )
    first, second = (_held(side) for side in sides)
    if not first[0].equal(second[0]):
        raise RuntimeError("the fast path drew other pixels than the reference")
    calls = (*sides, lambda: [enlarge(cam, height, width) > recipe.eta for cam in cams])
    least = [
        min(times) for times in zip(*([_seconds(call, device) for call in calls] for _ in range(turns)), strict=True)
    ]
    return PromptsCost(
        width=width,
        height=height,
        words=words,
        device=_name(device),
        prompts=tuple(recipe.visual_prompts),
        box_share=float(np.mean([_box_share(enlarge(cam, height, width) > recipe.eta) for cam in cams])),
        reference_s=least[0],
        ours_s=least[1],
        masks_s=least[2],
        forward_crop_s=None if g is None else _forward(g, first[0], recipe, device),
        crops=words,
        crop_bytes=first[0].numel(),
        reference_peak_bytes=first[1],
        ours_peak_bytes=second[1],
    )


def _reference(image: Image, cams: Cams, recipe: Recipe, size: int) -> Crops:
    behind = visual_prompts.backdrop(image, recipe.visual_prompts, recipe)
    masks = (enlarge(cam, *image.shape[:2]) > recipe.eta for cam in cams)
    return torch.from_numpy(np.stack([classifier.crop(visual_prompts.show(behind, mask), size) for mask in masks]))


def _ours(image: Image, cams: Cams, recipe: Recipe, size: int, device: torch.device) -> Crops:
    behind = visual_prompts.backdrop(image, recipe.visual_prompts, recipe)
    masks = [np.packbits(enlarge(cam, *image.shape[:2]) > recipe.eta) for cam in cams]
    return prompter(behind, size, device).crops(masks)


def _forward(g: Encoder, crops: Crops, recipe: Recipe, device: torch.device) -> float:
    some = crops[:_AT_ONCE]
    call = lambda: classifier.encode(g, some, recipe, at_once=_AT_ONCE, padded=False)  # noqa: E731
    return min(_seconds(call, device) for _ in range(2)) / len(some)


def _spot(random: np.random.Generator, grid: tuple[int, int], *, wide: bool) -> Float[np.ndarray, "rows columns"]:
    """A CAM of a soft spot of a tenth to a quarter of the picture's width, or one as wide as the picture."""
    rows, columns = np.mgrid[: grid[0], : grid[1]]
    y, x = random.uniform(0, grid[0]), random.uniform(0, grid[1])
    deviation = grid[1] * (2.0 if wide else random.uniform(0.1, 0.25))
    spot: Float[np.ndarray, "rows columns"] = np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / (2 * deviation**2))
    return spot.astype(np.float32)


def _box_share(mask: Bool[np.ndarray, "h w"]) -> float:
    return float(mask.any(0).sum() * mask.any(1).sum()) / mask.size


def _held(side: Callable[[], Crops]) -> tuple[Crops, int]:
    """What a side makes and the most that numpy held meanwhile."""
    tracemalloc.start()
    try:
        return side(), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def _seconds(call: Callable[[], object], device: torch.device) -> float:
    if device.type == "cpu":
        start = time.process_time()
        call()
        return time.process_time() - start
    torch.cuda.synchronize(device)
    start = time.perf_counter()
    call()
    torch.cuda.synchronize(device)
    return time.perf_counter() - start


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def main() -> None:
    device = torch.device(sys.argv[1] if len(sys.argv) > 1 else "cpu")
    lines = [f"{'milliseconds a picture':34}{'reference':>10}{'ours':>8}{'ratio':>7}{'masks':>8}{'boxes':>7}"]
    for width, height in ((512, 384), (500, 375)):
        for words in (10, 20):
            for prompts in ("blur+circle", "blur+gray", "contour"):
                recipe = preset("voc").with_settings({"visual_prompts": prompts})
                cost = measure_prompts(width, height, words, device, turns=5, recipe=recipe)
                label = f"{width} x {height}, {words} words, {prompts}"
                lines.append(
                    f"{label:34}{cost.reference_s * 1e3:10.1f}{cost.ours_s * 1e3:8.1f}{cost.ratio:6.1f}x"
                    f"{cost.masks_s * 1e3:8.1f}{cost.box_share:7.0%}"
                )
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
