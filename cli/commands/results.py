"""`car results`: what was found, where, and how each word lived or fell."""

import hashlib
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.errors import OutputError, UsageError
from cli.options import DATA_DIR, AsJson, DataFolder

if TYPE_CHECKING:
    from cli.service.api_types import ResultDetail

app = typer.Typer(help="Stored results: filter, look at, take out.", no_args_is_help=True)

_FILTERS = "Filters"
ResultId = Annotated[str, typer.Argument(metavar="ID", help="As `car results list` shows it.")]


@app.command("list")
def list_(
    *,
    label: Annotated[str | None, typer.Option(help="A mask of this word.", rich_help_panel=_FILTERS)] = None,
    min_score: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="A mask of at least this score (of --label).", rich_help_panel=_FILTERS),
    ] = None,
    dropped: Annotated[str | None, typer.Option(help="This word was dropped.", rich_help_panel=_FILTERS)] = None,
    dropped_at: Annotated[
        int | None,
        typer.Option(min=1, metavar="STEP", help="A word was dropped then.", rich_help_panel=_FILTERS),
    ] = None,
    job: Annotated[str | None, typer.Option(metavar="ID", help="Of this job.", rich_help_panel=_FILTERS)] = None,
    image: Annotated[
        str | None,
        typer.Option(metavar="FILE|SHA256", help="This picture, wherever it lay.", rich_help_panel=_FILTERS),
    ] = None,
    model_version: Annotated[str | None, typer.Option(help="By these models.", rich_help_panel=_FILTERS)] = None,
    vocabulary: Annotated[
        str | None, typer.Option(help="Of this vocabulary: id, NAME or NAME@VERSION.", rich_help_panel=_FILTERS)
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Show so many, newest first.")] = 20,
    as_json: AsJson = False,
    data_dir: DataFolder = DATA_DIR,
) -> None:
    """Results, newest first; with several filters those that pass them all."""
    from cli.service.api_client import ApiClient
    from cli.service.connection_settings import api_address

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
    with ApiClient(api_address(data_dir)) as service:
        results = service.results(filters, limit)
        if as_json:
            for result in results:
                typer.echo(json.dumps(result))
            return
        from cli.output.job_tables import print_table
        from cli.output.result_tables import results_table

        print_table(results_table(results))


@app.command()
def show(result: ResultId, *, as_json: AsJson = False, data_dir: DataFolder = DATA_DIR) -> None:
    """One result: its masks, what made it, and where things are."""
    from cli.service.api_client import ApiClient
    from cli.service.connection_settings import api_address

    with ApiClient(api_address(data_dir)) as service:
        detail = service.result(result)
    if as_json:
        typer.echo(json.dumps(detail))
        return
    from cli.output.job_tables import print_table
    from cli.output.result_tables import format_sources, masks_table, result_page

    print_table(result_page(detail))
    print_table(masks_table(detail["masks"], detail["image"]))
    print_table(format_sources(detail, service.url))


@app.command()
def history(
    result: ResultId,
    *,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show every word and number.")] = False,
    as_json: AsJson = False,
    data_dir: DataFolder = DATA_DIR,
) -> None:
    """How each word fared, step by step."""
    detail = _detail(result, data_dir)
    if as_json:
        typer.echo(json.dumps({"stop_reason": detail["stop_reason"], "steps": detail["steps"]}))
        return
    from rich.console import Console

    from cli.output.history_table import HistoryTable
    from cli.service.result_parsing import segmentation_of

    console = Console(highlight=False, markup=False)
    table = HistoryTable(every=verbose)
    console.print(table.build(detail["uri"], segmentation_of(detail), tuple(detail["notes"]), console))


@app.command()
def overlay(
    result: ResultId,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The PNG to write.")],
    *,
    data_dir: DataFolder = DATA_DIR,
) -> None:
    """Save the picture with its masks and their legend."""
    from cli.service.api_client import ApiClient
    from cli.service.connection_settings import api_address

    with ApiClient(api_address(data_dir)) as service:
        png = service.overlay(result)
    _write(file, png)
    typer.echo(str(file))


@app.command()
def masks(
    result: ResultId,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="One PNG a word (0 and 255) and an index.json.")],
    *,
    data_dir: DataFolder = DATA_DIR,
) -> None:
    """Save the masks."""
    detail = _detail(result, data_dir)
    from cli.output.result_files import mask_files, write_masks
    from cli.service.result_parsing import segmentation_of

    found = segmentation_of(detail).masks
    head = {"image": detail["image"], "model_version": detail["model_version"]}
    try:
        write_masks(folder, found, mask_files(mask.label for mask in found), head)
    except OSError as error:
        raise OutputError(f"{folder}: the masks could not be written ({error.strerror})") from None
    typer.echo(f"{folder}: {len(found)} masks")


def _detail(result_id: str, data_dir: Path) -> "ResultDetail":
    from cli.service.api_client import ApiClient
    from cli.service.connection_settings import api_address

    with ApiClient(api_address(data_dir)) as service:
        return service.result(result_id)


def _write(file: Path, data: bytes) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    except OSError as error:
        raise OutputError(f"{file} could not be written ({error.strerror})") from None


def _sha256(image: str) -> str:
    """Of a file's bytes, or as it was given."""
    path = Path(image)
    if path.is_file():
        return hashlib.sha256(path.read_bytes()).hexdigest()
    if re.fullmatch(r"[0-9a-fA-F]{64}", image):
        return image.lower()
    raise UsageError(f"--image {image}: there is no such file, and it is no sha256 (64 hexadecimal digits)")
