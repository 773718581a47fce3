"""`car evaluate`: how good the masks are where the truth is known."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from car.options import Precision
from car.recipe import Recipe
from cli.errors import OutputError
from cli.model_selection import DEMO, ModelSelection, load, load_sam
from cli.options import (
    ClassifierModel,
    Device,
    InPrecision,
    Models,
    OnDevice,
    Preset,
    ProposalModel,
    Sam,
    Settings,
    recipe_of,
    with_sam,
)

if TYPE_CHECKING:
    from evaluation.shapes import ShapesResult
    from worker.models.weights import ClipPair
    from worker.segmenter.sam.ensembling import FindRegions

app = typer.Typer(help="Measure the masks where the truth is known.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Keeps `shapes` a command of its own while it is the only one."""


@app.command()
def shapes(
    *,
    scenes: Annotated[int, typer.Option(min=1, help="Held-out scenes, never met in training.")] = 200,
    seed: Annotated[int, typer.Option(min=0, help="Which scenes.")] = 0,
    one_step: Annotated[
        bool, typer.Option(help="Also measure the pipeline stopped after one step with every word kept.")
    ] = True,
    preset: Preset = None,
    settings: Settings = None,
    models: Models = DEMO,
    proposal_model: ProposalModel = None,
    classifier_model: ClassifierModel = None,
    sam: Sam = None,
    device: OnDevice = Device.AUTO,
    precision: InPrecision = Precision.AUTO,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="F", help="Every figure as JSON.")] = None,
) -> None:
    """Mean IoU on synthetic scenes with the vocabulary of all their words, most of them absent from each picture.

    With the recurrence, and without it: what the recurrence is worth.
    """
    choice = ModelSelection(models, proposal_model, classifier_model, sam)
    recipe = with_sam(recipe_of(preset or choice.default_preset, settings), sam, settings)
    pair = load(choice, recipe, device, precision)
    find_regions, digests = load_sam(choice, recipe, device)
    result = _measure(pair, recipe, scenes, seed, one_step=one_step, find_regions=find_regions)
    _print(result)
    if json_file is not None:
        document = asdict(result) | {"seed": seed, "recipe": recipe.to_json(), "weights": pair.digests | digests}
        try:
            json_file.parent.mkdir(parents=True, exist_ok=True)
            json_file.write_text(json.dumps(document, indent=2) + "\n")
        except OSError as error:
            raise OutputError(f"{json_file} cannot be written: {error.strerror}") from None


def _measure(
    pair: "ClipPair", recipe: Recipe, scenes: int, seed: int, *, one_step: bool, find_regions: "FindRegions | None"
) -> "ShapesResult":
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from demo.scenes import held_out_scenes
    from evaluation.shapes import evaluate
    from worker.segmenter.segmenter import Segmenter

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("scenes"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=scenes)
        return evaluate(
            Segmenter(pair.proposal, pair.classifier, sam=find_regions),
            held_out_scenes(scenes, seed=seed),
            recipe,
            one_step=one_step,
            progress=lambda done: bar.update(task, completed=done),
        )


def _print(result: "ShapesResult") -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("class", "IoU", "IoU, one step", title=f"{result.scenes} scenes", title_justify="left")
    for one in sorted(result.per_class, key=lambda one: -one.iou):
        table.add_row(one.name, f"{one.iou:.3f}", "" if one.iou_one_step is None else f"{one.iou_one_step:.3f}")
    console = Console(highlight=False)
    console.print(table)
    gain = ""
    if result.miou_one_step is not None:
        points = 100 * (result.miou - result.miou_one_step)
        gain = f"; one step without filtering {result.miou_one_step:.3f}, so the recurrence gains {points:.1f} points"
    console.print(f"[bold]mIoU {result.miou:.3f}[/bold] with recurrence{gain}")
    console.print(
        f"boundary IoU {result.boundary_iou:.3f}, boundary F {result.boundary_f:.3f} within two pixels, "
        f"{result.boundary_f_fine:.3f} within one; of the words "
        f"that came out {result.precision:.1%} are there, of those there {result.recall:.1%} came out; "
        f"{result.mean_steps:.2f} steps a scene"
    )
    if result.without_sam is not None:
        plain = result.without_sam
        console.print(
            f"SAM made {result.sam_share:.1%} of the masks; without it mIoU {plain.miou:.3f}, boundary IoU "
            f"{plain.boundary_iou:.3f}, boundary F "
            f"{plain.boundary_f:.3f} within two pixels, {plain.boundary_f_fine:.3f} within one"
        )
