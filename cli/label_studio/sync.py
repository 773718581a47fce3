"""`car label-studio sync` and `backfill`: all tasks of a project, also those without a webhook."""

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.label_studio.options import (
    INTERRUPTED,
    AskToken,
    LabelStudioUrl,
    Project,
    has_label_studio,
    label_studio,
    print_status,
    service,
)
from cli.options import DATA_DIR, AsJson, DataFolder
from cli.output.terminal import echo

if TYPE_CHECKING:
    from cli.label_studio.project_progress import ProjectWatch
    from cli.service import api_types
    from cli.service.api_client import ApiClient
    from worker.label_studio import LabelStudio

_SILENT = (
    "nothing has been sent for a minute: do the workers run, and have they LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY? "
    "See `car doctor`"
)


def sync(
    project: Project,
    *,
    label_studio_url: LabelStudioUrl = None,
    token: AskToken = False,
    as_json: AsJson = False,
    data_dir: DataFolder = DATA_DIR,
) -> None:
    """Read all tasks of a project and queue the new ones. Exit code 1: Label Studio could not be reached."""
    from cli.label_studio.project_progress import ProjectWatch, of_sync

    with service(data_dir) as opened:
        if label_studio_url or token or has_label_studio(data_dir):
            with label_studio(label_studio_url, ask_token=token, data_dir=data_dir) as studio:
                _note(opened, studio, project)
        opened.sync_project(project)
        ended = _follow(ProjectWatch(opened, of_sync), project, "sync")
    if as_json:
        echo(json.dumps(ended))
    if error := ended["sync"]["error"]:
        print_status(f"not all tasks were looked at: {error}")
        raise typer.Exit(1)
    waiting = ended["items"].get("queued", 0) + ended["items"].get("running", 0)
    print_status(f"{ended['tasks']:,} tasks are known, {waiting:,} of them wait for their masks")


def backfill(
    project: Project,
    *,
    use: Annotated[
        bool, typer.Option("--use", help="Let annotators see these predictions, once they are there.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say how many tasks lack a prediction, and do nothing.")
    ] = False,
    label_studio_url: LabelStudioUrl = None,
    token: AskToken = False,
    as_json: AsJson = False,
    data_dir: DataFolder = DATA_DIR,
) -> None:
    """Send a prediction for every task of a project to Label Studio, and show progress until all are sent.

    Exit code 0: every task has one; 1: some have none, with the reasons. Ctrl-C ends only the display.
    """
    from cli.label_studio.project_progress import ProjectWatch, of_backfill

    with (
        service(data_dir) as opened,
        label_studio(label_studio_url, ask_token=token, data_dir=data_dir) as studio,
    ):
        known = _note(opened, studio, project)
        version, lacking = known["model_version"], _lacking(studio, known)
        print_status(f"{lacking:,} of {studio.tasks(project, limit=1).total:,} tasks have no prediction of {version}")
        if dry_run:
            if as_json:
                echo(json.dumps({"project": project, "model_version": version, "lacking": lacking}))
            return
        opened.sync_project(project)
        ended = _follow(ProjectWatch(opened, of_backfill, hint=_SILENT), project, "backfill")
        # A worker that started meanwhile may have other weights, and so another version.
        version, lacking = ended["model_version"], _lacking(studio, ended)
        if use:
            _use(studio, ended)
    if as_json:
        echo(json.dumps({**ended, "lacking": lacking}))
    _tell_lacking(ended, lacking)


def _note(opened: "ApiClient", studio: "LabelStudio", number: int) -> "api_types.Project":
    """Store the project in the service as it is in Label Studio now."""
    from cli.label_studio.backend_reconcile import extra_params_of

    found = studio.project(number)
    document: dict[str, Any] = {
        "label_config": found.label_config,
        "title": found.title,
        "ls_project_key": found.ls_project_key,
        "instance": studio.url,
    }
    backends = studio.backends(number)
    if backends:  # Label Studio asks the first one, whose parameters /setup receives
        document["extra_params"] = extra_params_of(backends[0])
    return opened.upsert_project(number, document)


def _lacking(studio: "LabelStudio", project: "api_types.Project") -> int:
    return studio.tasks(project["ls_project_id"], limit=1, lacking=project["model_version"]).total


def _follow(following: "ProjectWatch", project: int, what: str) -> "api_types.Project":
    try:
        return following.until_end(project)
    except KeyboardInterrupt:
        print_status(
            f"\nit goes on; look again: car label-studio {what} --project {project}, or status --project {project}"
        )
        raise typer.Exit(INTERRUPTED) from None


def _use(studio: "LabelStudio", project: "api_types.Project") -> None:
    version = project["model_version"]
    if not studio.versions(project["ls_project_id"]).get(version):
        print_status(f"there is no prediction of {version} yet, so annotators see what they saw before")
        return
    studio.set_model_version(project["ls_project_id"], version)
    print_status(f"annotators now see the predictions of {version}")


def _tell_lacking(project: "api_types.Project", lacking: int) -> None:
    """Raises: typer.Exit with code 1, if a task has no prediction."""
    from cli.label_studio.tables import reasons_table
    from cli.output.job_tables import print_table

    if not lacking:
        print_status(f"every task has a prediction of {project['model_version']}")
        return
    print_status(f"{lacking:,} tasks have no prediction of {project['model_version']}")
    reasons = [("image", one) for one in project["failed"]] + [("prediction", one) for one in project["unsent"]]
    if reasons:
        print_table(reasons_table(reasons))
        print_status(f"task by task: car label-studio status --project {project['ls_project_id']} --tasks failed")
    raise typer.Exit(1)
