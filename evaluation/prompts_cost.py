"""What a picture's visual prompts cost before g sees them: the reference drawing beside the fast path.

Both sides make the same crops, to the bit, of the same masks; they are timed turn about in one process, and the least
of the turns counts.
"""

from dataclasses import asdict, dataclass
from typing import Any

import torch

from car.recipe import Recipe


@dataclass(frozen=True)
class PromptsCost:
    """Seconds and counts of one picture's masks, all words of one step."""

    width: int
    height: int
    words: int
    device: str
    prompts: tuple[str, ...]
    reference_s: float
    """A full-size copy a word drawn with OpenCV, shrunk with Pillow; CPU seconds of one thread."""
    ours_s: float
    """The path that the device takes; CPU seconds on a CPU, wall seconds with the device at rest elsewhere."""
    crops: int
    crop_bytes: int
    """What g is given."""
    reference_peak_bytes: int
    """The most that pictures drawn at full size hold at once."""
    ours_peak_bytes: int

    @property
    def ratio(self) -> float:
        return self.reference_s / self.ours_s

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"ratio": self.ratio}


def measure_prompts(
    width: int, height: int, words: int, device: torch.device, turns: int, *, recipe: Recipe | None = None
) -> PromptsCost:
    """Both sides on smooth random CAMs, of which some are empty or whole, as random models make them."""
    raise NotImplementedError
