"""`car results`: stored results."""

import hashlib
import json
import re
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from cli.commands import open_api
from cli.errors import OutputError, UsageError
from cli.options import DATA_DIR, AsJson, AsJsonLines, DataFolder, FormatOption, OutputFormat, ShowAll, output_format
from cli.output.terminal import Terminal, echo

app = typer.Typer(help="List, show and export stored results.", no_args_is_help=True)

_filter = partial(typer.Option, rich_help_panel="Filters (combined with AND)")
ResultId = Annotated[str, typer.Argument(metavar="ID", help="Result id (see `car results list`).")]


@app.command("list")
def list_(
    *,
    label: Annotated[str | None, _filter(help="Has a mask of this label.")] = None,
    min_score: Annotated[
        float | None, _filter(min=0, max=1, help="Has a mask (of --label) with at least this score.")
    ] = None,
    dropped: Annotated[str | None, _filter(help="This label was dropped.")] = None,
    dropped_at: Annotated[int | None, _filter(min=1, metavar="STEP", help="A label was dropped in this step.")] = None,
    job: Annotated[str | None, _filter(metavar="ID", help="Belongs to this job.")] = None,
    image: Annotated[str | None, _filter(metavar="FILE|SHA256", help="Result of this image, at any URI.")] = None,
    model_version: Annotated[str | None, _filter(help="Has this model version.")] = None,
    vocabulary: Annotated[str | None, _filter(help="Has this vocabulary: id, NAME or NAME@VERSION.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Maximum number of results.")] = 20,
    show_all: ShowAll = False,
    output: FormatOption = OutputFormat.TABLE,
    as_json: AsJsonLines = False,
    data_dir: DataFolder = DATA_DIR,
) -> None:
    """List results, newest first."""
    filters = {
        "label": label,
        "min_score": min_score,
        "dropped": dropped,
        "dropped_at": dropped_at,
        "job": job,
        "image": image and _sha256(image),
        "model_version": model_version,
        "vocabulary": vocabulary,
    }
    with open_api(data_dir) as service:
        from cli.output.listing import print_list
        from cli.output.result_tables import results_table

        output = output_format(output, as_json)
        rows = partial(service.results, filters)
        print_list(rows, results_table, output=output, limit=limit, show_all=show_all)


@app.command()
def show(result: ResultId, *, as_json: AsJson = False, data_dir: DataFolder = DATA_DIR) -> None:
    """Show one result: masks, model version, worker and links."""
    with open_api(data_dir) as service:
        detail = service.result(result)
    if as_json:
        echo(json.dumps(detail))
        return
    from cli.output.job_tables import print_table
    from cli.output.result_tables import links_page, masks_table, result_page

    print_table(result_page(detail))
    print_table(masks_table(detail["masks"], detail["image"]))
    print_table(links_page(detail, service.url))


@app.command()
def history(
    result: ResultId,
    *,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show all labels and numbers.")] = False,
    as_json: AsJson = False,
    data_dir: DataFolder = DATA_DIR,
) -> None:
    """Show each label's score in every step, and why labels were dropped."""
    with open_api(data_dir) as service:
        detail = service.result(result)
    if as_json:
        echo(json.dumps({"stop_reason": detail["stop_reason"], "steps": detail["steps"]}))
        return

    from cli.output.history_table import HistoryTable
    from cli.service.result_parsing import segmentation_of

    console = Terminal(highlight=False, markup=False)
    table = HistoryTable(show_all=verbose)
    console.print(table.build(detail["uri"], segmentation_of(detail), tuple(detail["notes"]), console))


@app.command()
def overlay(
    result: ResultId,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="PNG file to write.")],
    *,
    data_dir: DataFolder = DATA_DIR,
) -> None:
    """Save the image with its masks and a legend as PNG."""
    with open_api(data_dir) as service:
        png = service.overlay(result)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(png)
    except OSError as error:
        raise OutputError(f"{file} cannot be written ({error.strerror})") from None
    echo(str(file))


@app.command()
def masks(
    result: ResultId,
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Folder for one PNG per label (0 and 255) and an index.json.")
    ],
    *,
    data_dir: DataFolder = DATA_DIR,
) -> None:
    """Save the masks as PNG files."""
    with open_api(data_dir) as service:
        detail = service.result(result)
    from cli.output.result_files import mask_file_names, write_masks
    from cli.service.result_parsing import segmentation_of

    result_masks = segmentation_of(detail).masks
    head = {"image": detail["image"], "model_version": detail["model_version"]}
    try:
        write_masks(folder, result_masks, mask_file_names(mask.label for mask in result_masks), head)
    except OSError as error:
        raise OutputError(f"the masks cannot be written to {folder} ({error.strerror})") from None
    echo(f"{folder}: {len(result_masks)} masks")


def _sha256(image: str) -> str:
    """Return the sha256 of a file, or the sha256 that was given."""
    path = Path(image)
    if path.is_file():
        return hashlib.sha256(path.read_bytes()).hexdigest()
    if re.fullmatch(r"[0-9a-fA-F]{64}", image):
        return image.lower()
    raise UsageError(f"--image {image}: this is neither a file nor a sha256 (64 hexadecimal digits)")
