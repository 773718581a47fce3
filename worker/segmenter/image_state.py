"""One picture while the models look at it: the size it is segmented at, and where its passes came to rest."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from car.recipe import Recipe
from car.segmentation import WorkCounters
from car.vocabulary import Vocabulary
from worker.segmenter.passes import PassSpec, reorder_step
from worker.segmenter.postprocess import PassResult, PendingSegmentation
from worker.segmenter.proposals import EncodedImage
from worker.segmenter.recurrence import RecurrenceResult
from worker.segmenter.resizing import Image
from worker.segmenter.sam.ensembling import Regions


@dataclass
class ImageState:
    """Over one pass or two."""

    size: tuple[int, int]
    """(height, width) of the user's picture; that of its masks."""
    image: Image
    """The picture as it is segmented: no longer than the recipe's max_side."""
    encoded: EncodedImage
    passes: list[PassResult] = field(default_factory=list)
    regions: Regions = ()
    """SAM's automatic masks of `image`."""

    @property
    def pixel(self) -> float:
        """Pixels of the user's picture to one of `image`."""
        return math.prod(self.size) / math.prod(self.image.shape[:2])

    @property
    def anything_left(self) -> bool:
        """Whether a word survived in any pass so far."""
        return any(rest.labels for rest in self.passes)

    def add_pass(self, plan: PassSpec, survivors: RecurrenceResult, vocabulary: Vocabulary) -> None:
        """Take down where a pass over some of the vocabulary's words came to rest."""
        self.passes.append(
            PassResult(
                labels=tuple(plan.vocabulary.labels[index].name for index in survivors.indices),
                scores=tuple(survivors.scores),
                cams=survivors.cams,
                bg_factor=plan.bg_factor,
                steps=tuple(reorder_step(step, vocabulary) for step in survivors.steps),
                stop_reason=survivors.stop_reason,
                work=WorkCounters(crops_encoded=survivors.crops_encoded, crops_reused=survivors.crops_reused),
            )
        )

    def pending(self, vocabulary: Vocabulary, recipe: Recipe, timings: Mapping[str, float]) -> PendingSegmentation:
        alive = {label for rest in self.passes for label in rest.labels}
        return PendingSegmentation(
            size=self.size,
            image=self.image,
            recipe=recipe,
            passes=tuple(self.passes),
            order=tuple(name for name in vocabulary.names if name in alive),
            timings=dict(timings),
            work=WorkCounters(proposal_forwards=1, vector_jacobian_products=self.encoded.products),
            regions=self.regions,
        )
