"""How fast masks become run lengths, beside the SDK's own code and pycocotools: `python -m evaluation.rle_speed`.

Both sides are timed turn about in one run, so that a busy machine slows both; each figure is the best of its turns.
Needs the development dependencies (label-studio-sdk, pycocotools).
"""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from label_studio_sdk.converter import brush
from numpy.typing import NDArray
from pycocotools import mask as coco

from car.rle import decode_brush, decode_coco, encode_brush, encode_coco

# Standard deviations of the blur, in pixels, that give about 11,000 and 41,000 runs at 1024 x 1024.
BLURS = {"11k runs": 23.5, "41k runs": 5.6}


@dataclass(frozen=True)
class Comparison:
    """Milliseconds of one operation, theirs and ours."""

    operation: str
    mask: str
    runs: int
    theirs_ms: float
    ours_ms: float

    @property
    def ratio(self) -> float:
        return self.theirs_ms / self.ours_ms


def blobs(side: int, blur: float, seed: int = 0) -> NDArray[np.bool_]:
    """Bool (side, side): smooth noise over its mean, like the foreground of a busy picture."""
    noise = np.random.default_rng(seed).standard_normal((side, side))
    frequency = np.fft.fftfreq(side)
    gain = np.exp(-2 * (np.pi * blur) ** 2 * (frequency[:, None] ** 2 + frequency**2))
    return np.asarray(np.fft.ifft2(np.fft.fft2(noise) * gain).real > 0)


def compare(name: str, mask: NDArray[np.bool_], turns: int) -> list[Comparison]:
    """Every operation on `mask`, `turns` times on each side."""
    grey = mask.astype(np.uint8) * 255
    stream, counts = encode_brush(mask), encode_coco(mask)
    height, width = mask.shape
    pairs: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
        "brush encode": (lambda: brush.mask2rle(grey), lambda: encode_brush(mask)),
        "brush decode": (lambda: brush.decode_rle(stream), lambda: decode_brush(stream, height, width)),
        "COCO encode": (lambda: coco.encode(np.asfortranarray(grey)), lambda: encode_coco(mask)),
        "COCO decode": (lambda: coco.decode(counts), lambda: decode_coco(counts)),
    }
    runs = 1 + int(np.count_nonzero(np.diff(mask.ravel())))
    return [
        Comparison(operation, name, runs, *_best_of(theirs, ours, turns)) for operation, (theirs, ours) in pairs.items()
    ]


def _best_of(theirs: Callable[[], object], ours: Callable[[], object], turns: int) -> tuple[float, float]:
    best = [float("inf"), float("inf")]
    for _ in range(turns):
        for side, call in enumerate((theirs, ours)):
            start = time.perf_counter()
            call()
            best[side] = min(best[side], (time.perf_counter() - start) * 1000)
    return best[0], best[1]


def main() -> None:
    lines = [f"{'1024 x 1024 mask':28}{'SDK / pycocotools':>20}{'here':>12}{'ratio':>9}"]
    for name, blur in BLURS.items():
        for row in compare(name, blobs(1024, blur), turns=7):
            label = f"{row.operation}, {row.runs:,} runs"
            lines.append(f"{label:28}{row.theirs_ms:17.2f} ms{row.ours_ms:9.2f} ms{row.ratio:8.1f}x")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
