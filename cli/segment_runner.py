"""Segment files in groups: memory does not grow with their number, and a bad file never fails its neighbors."""

import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import torch
from rich.progress import Progress

from car.model_cards import ModelCard, badge
from car.model_version import model_version
from car.options import CrfBackend
from car.recipe import Recipe
from car.segmentation import Segmentation
from car.vocabulary import Vocabulary
from cli.errors import OutputError
from cli.output.report import Report
from cli.output.result_files import Result, ResultFiles
from worker.errors import ImageError
from worker.images import DecodedImage, open_image
from worker.models.weights import ClipPair
from worker.segmenter.recurrence import StepTrace
from worker.segmenter.sam.ensembling import FindRegions
from worker.segmenter.segmenter import Batches, Segmenter

_OpenedImage = tuple[Path, DecodedImage]


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
    cards: dict[str, ModelCard]
    """Role to the card of the same models."""
    crf_backend: CrfBackend = CrfBackend.LATTICE
    failed: list[str] = field(default_factory=list)
    """Paths of files without a result."""
    done: int = 0

    def __post_init__(self) -> None:
        self._batches = Batches.for_device(self.pair.proposal.device)
        self._segmenter = Segmenter(
            self.pair.proposal, self.pair.classifier, self._batches, time.perf_counter, self.sam, self.crf_backend
        )
        self._version = model_version(self.digests, self.recipe, self.vocabulary)

    def run(self, paths: list[Path]) -> None:
        """Segment the files and write their results; report and count those that fail.

        Raises:
            VocabularyError: a label has more tokens than CLIP reads.

        """
        with closing(self.outputs), self.report.progress(len(paths)) as bar:
            for group in self._open_groups(paths, bar):
                for (path, image), segmentation, traces in self._segment(group):
                    self._finish(path, image, segmentation, tuple(traces))
                    bar.advance(bar.task_ids[0])

    def _open_groups(self, paths: list[Path], bar: Progress) -> Iterator[list[_OpenedImage]]:
        """Yield the images that can be opened, in groups that share a forward pass."""
        for start in range(0, len(paths), self._batches.images):
            group = []
            for path in paths[start : start + self._batches.images]:
                bar.update(bar.task_ids[0], description=path.name)
                try:
                    group.append((path, open_image(path)))
                except ImageError as error:
                    self._fail(path, str(error))
                    bar.advance(bar.task_ids[0])
            yield group

    def _segment(self, group: list[_OpenedImage]) -> Iterator[tuple[_OpenedImage, Segmentation, list[StepTrace]]]:
        """Segment the images together, or one by one if they do not fit into memory together."""
        traces: list[list[StepTrace]] = [[] for _ in group]
        with_history = "--history" in self.outputs.targets

        def observe(index: int, trace: StepTrace) -> None:
            if with_history:
                traces[index].append(trace)

        pixels = [image.pixels for _, image in group]
        try:
            segmentations = self._segmenter.segment(pixels, self.vocabulary, self.recipe, observe=observe)
        except (MemoryError, torch.OutOfMemoryError) as error:
            reason = str(error)
        else:
            yield from zip(group, segmentations, traces, strict=True)
            return
        if len(group) > 1:
            for opened in group:
                yield from self._segment([opened])
            return
        path, image = group[0]
        self._fail(path, f"{path}: {image.width} x {image.height} pixels need more memory; scale it down ({reason})")

    def _finish(
        self, path: Path, image: DecodedImage, segmentation: Segmentation, traces: tuple[StepTrace, ...]
    ) -> None:
        document = {
            "image": {"path": str(path), "width": image.width, "height": image.height, "sha256": image.sha256}
            | {"format": image.format, "notes": list(image.notes)},
            "model_version": self._version,
            "weights": self.digests,
            "models": {role: card.name for role, card in self.cards.items()},
            "recipe": self.recipe.parameters(),
            **segmentation.to_json(),
        }
        note = badge(self.cards.values(), self.vocabulary)
        result = Result(path, image.pixels, segmentation, traces, document, note)
        try:
            self.outputs.write(result)
        except OutputError as error:
            self._fail(path, str(error))
            return
        self.done += 1
        self.report.show(result, image.notes)

    def _fail(self, path: Path, reason: str) -> None:
        self.failed.append(str(path))
        self.report.fail(reason)
