"""`car label-studio status`: how far projects are, and what failed."""

import json
from typing import TYPE_CHECKING, Annotated

import typer

from cli.label_studio.options import AnyProject, print_status, service
from cli.options import DATA_DIR, AsJson, DataFolder
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
    as_json: AsJson = False,
    data_dir: DataFolder = DATA_DIR,
) -> None:
    """Projects of Label Studio: tasks, predictions, and why some have none. Exit code 1 where some of one failed."""
    from cli.errors import UsageError
    from cli.label_studio.tables import projects_table
    from cli.output.job_tables import print_table

    with service(data_dir) as opened:
        if project is not None:
            if retry:
                images, predictions, _ = opened.retry_project(project)
                print_status(f"{images:,} images and {predictions:,} predictions are tried again")
            _show_project(opened, project, tasks, limit, as_json=as_json)
            return
        if tasks is not None or retry:
            raise UsageError("--tasks and --retry need --project N")
        found = [opened.project(one["ls_project_id"], one["instance"]) for one in opened.projects(_PROJECTS_SHOWN)]
    if as_json:
        for one in found:
            echo(json.dumps(one))
    elif found:
        print_table(projects_table(found))
    else:
        print_status("no project is known yet: car label-studio connect --project N")


def _show_project(opened: "ApiClient", project: int, tasks: str | None, limit: int, *, as_json: bool) -> None:
    from cli.label_studio.tables import project_page, reasons_table, tasks_table
    from cli.output.job_tables import print_table

    state = None if tasks == "all" else tasks
    document = opened.project(project)
    if as_json:
        for one in opened.project_tasks(project, state, limit) if tasks else [document]:
            echo(json.dumps(one))
    else:
        print_table(project_page(document))
        reasons = [("image", one) for one in document["failed"]] + [("prediction", one) for one in document["unsent"]]
        if reasons:
            print_table(reasons_table(reasons))
        if tasks:
            print_table(tasks_table(opened.project_tasks(project, state, limit)))
    if document["failed"] or document["predictions"].get("failed"):
        raise typer.Exit(1)
