"""One picture while the models look at it: the size it is segmented at, and where its passes came to rest."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from car.recipe import Recipe
from car.segmentation import Work
from car.vocabulary import Vocabulary
from worker.segmenter.ensembling import Regions
from worker.segmenter.finishing import Rest, Unfinished
from worker.segmenter.plans import Plan, in_order_of
from worker.segmenter.proposals import Encoded
from worker.segmenter.recurrence import Survivors
from worker.segmenter.sizes import Image


@dataclass
class Picture:
    """Over one pass or two."""

    size: tuple[int, int]
    """(height, width) of the user's picture; that of its masks."""
    image: Image
    """The picture as it is segmented: no longer than the recipe's max_side."""
    encoded: Encoded
    rests: list[Rest] = field(default_factory=list)
    regions: Regions = ()
    """SAM's automatic masks of `image`."""

    @property
    def pixel(self) -> float:
        """Pixels of the user's picture to one of `image`."""
        return math.prod(self.size) / math.prod(self.image.shape[:2])

    @property
    def anything_left(self) -> bool:
        """Whether a word survived in any pass so far."""
        return any(rest.labels for rest in self.rests)

    def rest(self, plan: Plan, survivors: Survivors, vocabulary: Vocabulary) -> None:
        """Take down where a pass over some of the vocabulary's words came to rest."""
        self.rests.append(
            Rest(
                labels=tuple(plan.vocabulary.labels[index].name for index in survivors.indices),
                scores=tuple(survivors.scores),
                cams=survivors.cams,
                bg_factor=plan.bg_factor,
                steps=tuple(in_order_of(step, vocabulary) for step in survivors.steps),
                stop_reason=survivors.stop_reason,
                work=Work(crops_encoded=survivors.crops_encoded, crops_reused=survivors.crops_reused),
            )
        )

    def unfinished(self, vocabulary: Vocabulary, recipe: Recipe, timings: Mapping[str, float]) -> Unfinished:
        alive = {label for rest in self.rests for label in rest.labels}
        return Unfinished(
            size=self.size,
            image=self.image,
            recipe=recipe,
            rests=tuple(self.rests),
            order=tuple(name for name in vocabulary.names if name in alive),
            timings=dict(timings),
            work=Work(proposal_forwards=1, vector_jacobian_products=self.encoded.products),
            regions=self.regions,
        )
