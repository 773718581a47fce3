"""`car label-studio status`: progress and failures of projects."""

import json
from typing import TYPE_CHECKING, Annotated

import typer

from cli.label_studio.options import AnyProject, print_status, service
from cli.options import DATA_DIR, AsJsonLines, DataFolder, FormatOption, OutputFormat, output_format
from cli.output.terminal import echo

if TYPE_CHECKING:
    from cli.service.api_client import ApiClient

_PROJECTS_SHOWN = 200


def status(
    project: AnyProject = None,
    *,
    tasks: Annotated[
        str | None,
        typer.Option(metavar="STATE", help="List its tasks: queued, running, done, failed, dead, cancelled, all."),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="List so many tasks.")] = 50,
    retry: Annotated[bool, typer.Option("--retry", help="Try what failed once more, first.")] = False,
    output: FormatOption = OutputFormat.TABLE,
    as_json: AsJsonLines = False,
    data_dir: DataFolder = DATA_DIR,
) -> None:
    """Show projects of Label Studio: tasks, predictions and failures. Exit code 1: a project has failures."""
    from cli.errors import UsageError
    from cli.label_studio.tables import projects_table
    from cli.output.listing import UNLIMITED, print_list

    output = output_format(output, as_json)
    with service(data_dir) as opened:
        if project is not None:
            if retry:
                images, predictions, _ = opened.retry_project(project)
                print_status(f"{images:,} images and {predictions:,} predictions are tried again")
            _show_project(opened, project, tasks, limit, output)
            return
        if tasks is not None or retry:
            raise UsageError("--tasks and --retry need --project N")
        found = [opened.project(one["ls_project_id"], one["instance"]) for one in opened.projects(_PROJECTS_SHOWN)]
    print_list(lambda most: found[:most], projects_table, output=output, limit=UNLIMITED - 1)
    if not found:
        print_status("no project is known yet: car label-studio connect --project N")


def _show_project(opened: "ApiClient", project: int, tasks: str | None, limit: int, output: OutputFormat) -> None:
    from cli.label_studio.tables import project_page, reasons_table, tasks_table
    from cli.output.job_tables import print_table
    from cli.output.listing import print_list

    state = None if tasks == "all" else tasks
    document = opened.project(project)
    if output is not OutputFormat.TABLE and not tasks:
        echo(json.dumps(document))
    if output is OutputFormat.TABLE:
        print_table(project_page(document))
        reasons = [("image", one) for one in document["failed"]] + [("prediction", one) for one in document["unsent"]]
        if reasons:
            print_table(reasons_table(reasons))
    if tasks:
        print_list(lambda most: opened.project_tasks(project, state, most), tasks_table, output=output, limit=limit)
    if document["failed"] or document["predictions"].get("failed"):
        raise typer.Exit(1)
