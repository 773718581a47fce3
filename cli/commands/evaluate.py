"""`car evaluate`: the quality of masks on data with ground truth."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from car.options import Precision
from cli import options
from cli.errors import OutputError
from cli.model_selection import DEMO, ModelSelection, load, load_sam
from cli.output.terminal import Terminal

if TYPE_CHECKING:
    from evaluation.shapes import ShapesResult

app = typer.Typer(help="Measure the quality of masks on data with ground truth.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Keep `shapes` a sub-command while it is the only one."""


@app.command()
def shapes(
    *,
    scenes: Annotated[int, typer.Option(min=1, help="Number of held-out scenes.")] = 200,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the scenes.")] = 0,
    one_step: Annotated[
        bool, typer.Option(help="Also measure without recurrence: one step that keeps every label.")
    ] = True,
    preset: options.Preset = None,
    settings: options.Settings = None,
    models: options.Models = DEMO,
    proposal_model: options.ProposalModel = None,
    classifier_model: options.ClassifierModel = None,
    sam: options.Sam = None,
    device: options.DeviceOption = options.Device.AUTO,
    precision: options.PrecisionOption = Precision.AUTO,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="F", help="Write all figures as JSON.")] = None,
) -> None:
    """Measure mean IoU on synthetic scenes, with and without the recurrence.

    The vocabulary has the labels of all scenes; most of them are absent from each image.
    """
    choice = ModelSelection(models, proposal_model, classifier_model, sam)
    recipe = choice.recipe(preset, settings)
    pair = load(choice, recipe, device, precision)
    find_regions, digests = load_sam(choice, recipe, device)

    from cli.output.report import count_progress
    from demo.scenes import held_out_scenes
    from evaluation.shapes import evaluate
    from worker.segmenter.segmenter import Segmenter

    with count_progress("scene") as begin:
        advance = begin(scenes)
        result = evaluate(
            Segmenter(pair.proposal, pair.classifier, sam=find_regions),
            held_out_scenes(scenes, seed=seed),
            recipe,
            one_step=one_step,
            progress=lambda _: advance(),
        )
    _print(result)
    if json_file is not None:
        document = asdict(result) | {"seed": seed, "recipe": recipe.to_json(), "weights": pair.digests | digests}
        try:
            json_file.parent.mkdir(parents=True, exist_ok=True)
            json_file.write_text(json.dumps(document, indent=2) + "\n")
        except OSError as error:
            raise OutputError(f"{json_file} cannot be written: {error.strerror}") from None


def _print(result: "ShapesResult") -> None:
    from rich.table import Table

    table = Table("class", "IoU", "IoU, one step", title=f"{result.scenes} scenes", title_justify="left")
    for row in sorted(result.per_class, key=lambda row: -row.iou):
        table.add_row(row.name, f"{row.iou:.3f}", "" if row.iou_one_step is None else f"{row.iou_one_step:.3f}")
    console = Terminal(highlight=False)
    console.print(table)
    gain = ""
    if result.miou_one_step is not None:
        points = 100 * (result.miou - result.miou_one_step)
        gain = f"; one step without filtering {result.miou_one_step:.3f}, so the recurrence gains {points:.1f} points"
    console.print(f"[bold]mIoU {result.miou:.3f}[/bold] with recurrence{gain}")
    console.print(
        f"boundary IoU {result.boundary_iou:.3f}, boundary F {result.boundary_f:.3f} within two pixels, "
        f"{result.boundary_f_fine:.3f} within one; label precision {result.precision:.1%}, recall {result.recall:.1%}; "
        f"{result.mean_steps:.2f} steps per scene"
    )
    if result.without_sam is not None:
        plain = result.without_sam
        console.print(
            f"SAM refined {result.sam_share:.1%} of the masks; without it mIoU {plain.miou:.3f}, boundary IoU "
            f"{plain.boundary_iou:.3f}, boundary F {plain.boundary_f:.3f} within two pixels, "
            f"{plain.boundary_f_fine:.3f} within one"
        )
