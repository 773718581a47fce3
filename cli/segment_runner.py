"""Files through the segmenter, one group after the other, so that memory does not grow with their number and a bad
file never fails its neighbours.
"""

import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from car.model_version import model_version
from car.options import CrfBackend
from car.recipe import Recipe
from car.segmentation import Segmentation
from car.vocabulary import Vocabulary
from cli.errors import OutputError
from cli.memory import picture_limits
from cli.output.report import FileProgress, Report
from cli.output.result_files import Result, ResultFiles
from worker.errors import ImageError
from worker.images import DecodedImage, open_image
from worker.models.weights import ClipPair
from worker.segmenter.recurrence import StepTrace
from worker.segmenter.sam.ensembling import FindRegions
from worker.segmenter.segmenter import Batches, Segmenter


@dataclass
class SegmentRun:
    """One vocabulary and one recipe over any number of files."""

    pair: ClipPair
    vocabulary: Vocabulary
    recipe: Recipe
    outputs: ResultFiles
    report: Report
    sam: FindRegions | None
    digests: dict[str, str]
    """Role to sha256, of every model that the recipe uses."""
    crf_by: CrfBackend = CrfBackend.LATTICE
    failed: list[str] = field(default_factory=list)
    """Paths of files without a result."""
    done: int = 0

    def __post_init__(self) -> None:
        self._batches = Batches.suited_to(self.pair.proposal.device)
        self._segmenter = Segmenter(
            self.pair.proposal, self.pair.classifier, self._batches, time.perf_counter, self.sam, self.crf_by
        )
        self._version = model_version(self.digests, self.recipe, self.vocabulary)
        self._limits = picture_limits(self.pair.proposal.device, self.pair.proposal.patch, self.recipe.max_side)

    def over(self, paths: list[Path]) -> None:
        """Segment and write every file that can be; the others are named and counted.

        Raises:
            VocabularyError: a label of more tokens than CLIP reads.

        """
        with closing(self.outputs), self.report.progress(len(paths)) as advance:
            for group in self._groups(paths, advance):
                for path, picture, segmentation, looks in self._segment(group):
                    self._finish(path, picture, segmentation, looks)
                    advance.done()

    def _groups(self, paths: list[Path], advance: FileProgress) -> Iterator[list[tuple[Path, DecodedImage]]]:
        """Pictures that could be opened, as many at a time as share a forward pass."""
        for start in range(0, len(paths), self._batches.images):
            opened = []
            for path in paths[start : start + self._batches.images]:
                advance.begin(path.name)
                try:
                    opened.append((path, open_image(path, self._limits)))
                except ImageError as error:
                    self._fail(path, str(error))
                    advance.done()
            yield opened

    def _segment(
        self, group: list[tuple[Path, DecodedImage]]
    ) -> Iterator[tuple[Path, DecodedImage, Segmentation, tuple[StepTrace, ...]]]:
        looks: list[list[StepTrace]] = [[] for _ in group]
        wanted = self.outputs.paths.history is not None

        def observe(index: int, look: StepTrace) -> None:
            if wanted:
                looks[index].append(look)

        pixels = [picture.pixels for _, picture in group]
        try:
            found = self._segmenter.segment(pixels, self.vocabulary, self.recipe, observe=observe)
        except (MemoryError, torch.OutOfMemoryError) as error:
            yield from self._one_by_one(group, error)
            return
        for (path, picture), segmentation, seen in zip(group, found, looks, strict=True):
            yield path, picture, segmentation, tuple(seen)

    def _one_by_one(
        self, group: list[tuple[Path, DecodedImage]], error: BaseException
    ) -> Iterator[tuple[Path, DecodedImage, Segmentation, tuple[StepTrace, ...]]]:
        """Pictures that do not fit into memory together may fit alone."""
        if len(group) > 1:
            for one in group:
                yield from self._segment([one])
            return
        path, picture = group[0]
        size = f"{picture.width} x {picture.height}"
        self._fail(path, f"{path} needs more memory than there is for {size} pixels; scale it down ({error})")

    def _finish(
        self, path: Path, picture: DecodedImage, segmentation: Segmentation, looks: tuple[StepTrace, ...]
    ) -> None:
        result = Result(path, picture.pixels, segmentation, looks, self._document(path, picture, segmentation))
        try:
            self.outputs.write(result)
        except OutputError as error:
            self._fail(path, str(error))
            return
        self.done += 1
        self.report.show(result, picture.notes)

    def _document(self, path: Path, picture: DecodedImage, segmentation: Segmentation) -> dict[str, Any]:
        image = {"path": str(path), "width": picture.width, "height": picture.height, "sha256": picture.sha256}
        return {
            "image": image | {"format": picture.format, "notes": list(picture.notes)},
            "model_version": self._version,
            "weights": self.digests,
            "recipe": self.recipe.to_json(),
            **segmentation.to_json(),
        }

    def _fail(self, path: Path, reason: str) -> None:
        self.failed.append(str(path))
        self.report.fail(reason)
