"""`car segment`: segment image files in this process, without the service."""

from collections import Counter
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from car.model_cards import vocabulary_warnings
from car.options import CrfBackend, Precision
from car.vocabulary import Vocabulary
from cli import options
from cli.errors import UsageError
from cli.model_selection import DEMO, ModelSelection, demo_folder, load, load_sam

_result_option = partial(typer.Option, rich_help_panel="Results")
_terminal_option = partial(typer.Option, rich_help_panel="Terminal")


def segment(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE", help="Image files, and folders of images.")],
    *,
    labels: options.Labels = None,
    labels_file: options.LabelsFile = None,
    background: options.Background = "shipped",
    preset: options.Preset = None,
    settings: options.Settings = None,
    models: options.Models = DEMO,
    proposal_model: options.ProposalModel = None,
    classifier_model: options.ClassifierModel = None,
    sam: options.Sam = None,
    device: options.DeviceOption = options.Device.AUTO,
    precision: options.PrecisionOption = Precision.AUTO,
    crf: options.CrfOption = CrfBackend.LATTICE,
    json: Annotated[
        str | None,
        _result_option(
            "--json",
            metavar="F",
            help="Masks, scores and query history as JSON, or JSON Lines for several images; - is stdout; a folder "
            "(or F/) gets one STEM.json per image.",
        ),
    ] = None,
    masks: Annotated[
        str | None,
        _result_option(
            "--masks",
            metavar="DIR",
            help="One PNG per label (0 and 255) and an index.json; with several images in DIR/STEM/.",
        ),
    ] = None,
    overlay: Annotated[
        str | None,
        _result_option(
            "--overlay", metavar="F", help="Image with masks and legend (PNG); with several images F is a folder."
        ),
    ] = None,
    history: Annotated[
        str | None,
        _result_option(
            "--history",
            metavar="F",
            help="Query history as an image, step by step (PNG); with several images F is a folder.",
        ),
    ] = None,
    quiet: Annotated[bool, _terminal_option("--quiet", "-q", help="Print failures only.")] = False,
    verbose: Annotated[bool, _terminal_option("--verbose", "-v", help="Show all labels and numbers.")] = False,
) -> None:
    """Segment images: find the pixels of each label.

    Each label proposes a mask, a classifier compares the masked image with all labels, and labels with low scores are
    dropped, until a step drops none. The tables show each label's score in every step.

    Exit code 0: all images are done; 1: some failed, each is named; 2: wrong usage, nothing was done.
    """
    choice = ModelSelection(models, proposal_model, classifier_model, sam)
    recipe = choice.recipe(preset, settings)
    demo_labels = demo_folder() / "labels.txt" if choice.is_demo else None
    requested = options.labels_of(labels, labels_file, default=demo_labels)
    vocabulary = Vocabulary.from_words(requested, background=options.background_of(background), mode=recipe.mode)

    from cli.output.report import Report
    from cli.output.result_files import STDOUT, ResultFiles

    report = Report(quiet, verbose, stdout_is_json=json == STDOUT)
    passed_over: Counter[str] = Counter()
    paths, missing = _find(images, passed_over)
    if not paths:
        raise UsageError("no images: " + "; ".join(missing))
    targets = {"--json": json, "--masks": masks, "--overlay": overlay, "--history": history}
    outputs = ResultFiles(targets, paths, vocabulary.names)
    for reason in missing:
        report.fail(reason)
    if passed_over:
        from worker.images import describe_passed_over

        report.note(describe_passed_over(passed_over))
    cards = choice.cards(recipe)
    for warning in vocabulary_warnings(cards.values(), vocabulary):
        report.note(warning)
    with report.waiting("loading the models"):
        pair = load(choice, recipe, device, precision)
        find_regions, digests = load_sam(choice, recipe, device)
        from cli.segment_runner import SegmentRun

    run = SegmentRun(pair, vocabulary, recipe, outputs, report, find_regions, pair.digests | digests, cards, crf)
    run.run(paths)
    failed = missing + run.failed
    report.total(run.done, failed)
    if failed:
        raise typer.Exit(1)


def _find(images: list[Path], passed_over: Counter[str]) -> tuple[list[Path], list[str]]:
    """Return the image files without duplicates, and an error for each argument that names none."""
    from worker.errors import ImageError
    from worker.images import find_images

    paths: dict[Path, None] = {}
    errors = []
    for image in images:
        try:
            paths |= dict.fromkeys(find_images([image], passed_over))
        except ImageError as error:
            errors.append(str(error))
    return list(paths), errors
