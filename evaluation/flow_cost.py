"""How full the models' batches are: pictures in flight that come and go, beside groups that are held to their end.

The baseline is here, so that it stays what it was: up to `Batches.images` pictures of one size begin together, what
they want to see in one round goes through the classifier, and the next group begins when the last picture rests. A
padded batch costs the same whatever is in it, so the ratio of batches is the ratio of the models' time.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from car.recipe import Recipe
from car.vocabulary import Vocabulary
from worker.segmenter.asking import Ask, Begun
from worker.segmenter.classifier import Crops
from worker.segmenter.finishing import Unfinished
from worker.segmenter.flow import Slots
from worker.segmenter.segmenter import Batches, Segmenter
from worker.segmenter.sizes import Image

SHARED = Batches(images=8, crops=64)
"""Those of a GPU."""


@dataclass(frozen=True)
class Side:
    """One way of sharing batches."""

    f_batches: int
    f_filled: float
    """Share of the slots of f's batches that held a picture."""
    g_batches: int
    g_filled: float
    cpu_s: float


@dataclass(frozen=True)
class FlowCost:
    """Both ways over the same pictures."""

    pictures: int
    sizes: int
    """Of pictures, as f sees them."""
    crops: int
    groups: Side
    flow: Side
    most: int
    """Pictures that the flow held at a time."""
    same_words: int
    """Pictures in which the same words survived: places in a batch may change the last digits of a score."""

    def to_json(self) -> dict[str, Any]:
        """All figures, ratios first."""
        return {
            "ratio_g_batches": self.groups.g_batches / self.flow.g_batches,
            "ratio_f_batches": self.groups.f_batches / self.flow.f_batches,
            "ratio_cpu_s": self.groups.cpu_s / self.flow.cpu_s,
            **asdict(self),
        }


def measure_flow(
    segmenter: Segmenter,
    images: Sequence[Image],
    vocabulary: Vocabulary,
    recipe: Recipe,
    *,
    turns: int = 1,
    batches: Batches = SHARED,
    most: int = 0,
) -> FlowCost:
    """Counts, and CPU seconds, turn about, the least of the turns. `most` 0: as many as the flow takes."""
    segmenter = replace(segmenter, batches=batches, clock=None)
    asks = [Ask(index, image, vocabulary, recipe) for index, image in enumerate(images)]
    seconds: dict[str, float] = defaultdict(lambda: float("inf"))
    ends: dict[str, dict[int, Unfinished]] = {}
    slots: dict[str, Slots] = {}
    sides: dict[str, Callable[[], tuple[dict[int, Unfinished], Slots]]] = {
        "groups": lambda: _in_groups(segmenter, asks, batches),
        "flow": lambda: _in_flow(segmenter, asks, most),
    }
    for _ in range(turns):
        for name, side in sides.items():
            start = time.process_time()
            ends[name], slots[name] = side()
            seconds[name] = min(seconds[name], time.process_time() - start)
    return FlowCost(
        pictures=len(asks),
        sizes=len({segmenter.kind(ask) for ask in asks}),
        crops=slots["flow"].g_crops,
        groups=_side(slots["groups"], batches, seconds["groups"]),
        flow=_side(slots["flow"], batches, seconds["flow"]),
        most=most or batches.images + batches.crops,
        same_words=sum(ends["groups"][ask.key].order == ends["flow"][ask.key].order for ask in asks),
    )


def _side(slots: Slots, batches: Batches, seconds: float) -> Side:
    return Side(
        f_batches=slots.f_batches,
        f_filled=slots.f_pictures / (slots.f_batches * batches.images),
        g_batches=slots.g_batches,
        g_filled=slots.g_crops / max(1, slots.g_batches * batches.crops),
        cpu_s=seconds,
    )


def _in_flow(segmenter: Segmenter, asks: Sequence[Ask], most: int) -> tuple[dict[int, Unfinished], Slots]:
    flow = segmenter.flow(most=most)
    ends = {}
    for key, found in flow.over(asks):
        if isinstance(found, Exception):
            raise found
        if found is not None:
            ends[key] = found
    return ends, flow.slots


def _in_groups(segmenter: Segmenter, asks: Sequence[Ask], batches: Batches) -> tuple[dict[int, Unfinished], Slots]:
    kinds: dict[Any, list[Ask]] = defaultdict(list)
    for ask in asks:
        kinds[segmenter.kind(ask)].append(ask)
    ends: dict[int, Unfinished] = {}
    slots = Slots()
    for some in kinds.values():
        for start in range(0, len(some), batches.images):
            group = some[start : start + batches.images]
            slots.f_batches += 1
            slots.f_pictures += len(group)
            begun = segmenter.begin(group, at_once=batches.images)
            ends |= _to_the_end({ask.key: one for ask, one in zip(group, begun, strict=True)}, batches, slots)
    return ends, slots


def _to_the_end(begun: dict[int, Begun[Unfinished]], batches: Batches, slots: Slots) -> dict[int, Unfinished]:
    """A group's recurrences in rounds: each waits for all."""
    ends: dict[int, Unfinished] = {}
    answers: dict[int, torch.Tensor | None] = dict.fromkeys(begun)
    while answers:
        wanted: dict[int, Crops] = {}
        for key, answer in answers.items():
            steps = begun[key].steps
            try:
                wanted[key] = next(steps) if answer is None else steps.send(answer)
            except StopIteration as rest:
                ends[key] = rest.value
        if not wanted:
            break
        crops, lens = torch.cat(list(wanted.values())), begun[next(iter(wanted))].lens
        if lens is None:
            raise RuntimeError("crops, and nothing to see them through")
        slots.g_batches += -(-len(crops) // batches.crops)
        slots.g_crops += len(crops)
        embeddings = lens.encode(crops, at_once=batches.crops, padded=True)
        answers = dict(zip(wanted, torch.split(embeddings, [len(some) for some in wanted.values()]), strict=True))
    return ends
