"""`car segment`: pictures and words in, masks and their history out, in one process."""

from pathlib import Path
from typing import Annotated

import typer

from car.options import CrfBackend, Precision
from car.vocabulary import Label
from cli.errors import UsageError
from cli.model_selection import DEMO, ModelSelection, demo_folder, load, load_sam
from cli.options import (
    Background,
    ByWhom,
    ClassifierModel,
    Device,
    InPrecision,
    Labels,
    LabelsFile,
    Models,
    OnDevice,
    Preset,
    ProposalModel,
    Sam,
    Settings,
    labels_of,
    recipe_of,
    vocabulary_of,
    with_sam,
)

_RESULTS, _TERMINAL = "Results", "Terminal"

Images = Annotated[list[Path], typer.Argument(metavar="IMAGE", help="Pictures, and folders of pictures.")]
Json = Annotated[
    str | None,
    typer.Option(
        "--json",
        metavar="F",
        help="Masks, scores and the whole history: one JSON document, or with several pictures JSON Lines, one "
        "document a picture; - is stdout; a folder (or F/) gets one STEM.json a picture.",
        rich_help_panel=_RESULTS,
    ),
]
Masks = Annotated[
    str | None,
    typer.Option(
        "--masks",
        metavar="DIR",
        help="One PNG a label (0 and 255) and an index.json; with several pictures in DIR/STEM/.",
        rich_help_panel=_RESULTS,
    ),
]
Overlay = Annotated[
    str | None,
    typer.Option(
        "--overlay",
        metavar="F",
        help="Picture with masks and legend (PNG); with several pictures F is a folder.",
        rich_help_panel=_RESULTS,
    ),
]
History = Annotated[
    str | None,
    typer.Option(
        "--history",
        metavar="F",
        help="Picture of the query history, step by step (PNG); with several pictures F is a folder.",
        rich_help_panel=_RESULTS,
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show failures only.", rich_help_panel=_TERMINAL)]
Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", help="Show every word and number.", rich_help_panel=_TERMINAL)
]


def segment(
    images: Images,
    *,
    labels: Labels = None,
    labels_file: LabelsFile = None,
    background: Background = "shipped",
    preset: Preset = None,
    settings: Settings = None,
    models: Models = DEMO,
    proposal_model: ProposalModel = None,
    classifier_model: ClassifierModel = None,
    sam: Sam = None,
    device: OnDevice = Device.AUTO,
    precision: InPrecision = Precision.AUTO,
    crf: ByWhom = CrfBackend.LATTICE,
    json: Json = None,
    masks: Masks = None,
    overlay: Overlay = None,
    history: History = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Find the pixels of words in pictures.

    Every word proposes a mask, a second look compares the masked picture with all words, the weak ones drop out, until
    no more do. The tables show how each word fared.

    Exit code 0: all done; 1: some files failed, each is named; 2: wrong use, nothing was done.
    """
    choice = ModelSelection(models, proposal_model, classifier_model, sam)
    recipe = with_sam(recipe_of(preset or choice.default_preset, settings), sam, settings)
    known = demo_folder() / "labels.txt" if choice.is_demo else None
    words = labels_of(labels, labels_file, default=known)
    vocabulary = vocabulary_of(words, background, recipe.mode)

    from cli.output.report import Report
    from cli.output.result_files import STDOUT, OutputPaths, ResultFiles

    report = Report(quiet, verbose, stdout_is_json=json == STDOUT)
    paths, missing = _find(images)
    if not paths:
        raise UsageError("no pictures: " + "; ".join(missing))
    outputs = ResultFiles.of(OutputPaths(json, masks, overlay, history), paths, vocabulary.names)
    for reason in missing:
        report.fail(reason)
    if known and not _all_known(words, known):
        report.note("the demo models know coloured shapes only; for real pictures: car models pull, --models openai")
    with report.waiting("opening the models"):
        pair = load(choice, recipe, device, precision)
        find_regions, digests = load_sam(choice, recipe, device)
        from cli.segment_runner import SegmentRun

    run = SegmentRun(pair, vocabulary, recipe, outputs, report, find_regions, pair.digests | digests, crf)
    run.over(paths)
    failed = missing + run.failed
    report.total(run.done, failed)
    if failed:
        raise typer.Exit(1)


def _find(images: list[Path]) -> tuple[list[Path], list[str]]:
    """Picture files, each once, and why some of the arguments name none."""
    from worker.errors import ImageError
    from worker.images import find_images

    paths: dict[Path, None] = {}
    missing = []
    for image in images:
        try:
            paths |= dict.fromkeys(find_images([image]))
        except ImageError as error:
            missing.append(str(error))
    return list(paths), missing


def _all_known(words: list[Label], known: Path) -> bool:
    names = {label.name for label in labels_of(None, known)}
    return all(word.name in names for word in words)
