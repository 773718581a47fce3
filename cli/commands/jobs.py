"""`car jobs`: bulk labeling over the API."""

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from car.printable import printable
from cli import options
from cli.commands import open_api
from cli.errors import UsageError
from cli.options import (
    DATA_DIR,
    AsJson,
    AsJsonLines,
    DataFolder,
    FormatOption,
    Labels,
    LabelsFile,
    OutputFormat,
    Preset,
    Settings,
    ShowAll,
)
from cli.output.terminal import echo

if TYPE_CHECKING:
    from cli.service.api_client import ApiClient
    from cli.service.api_types import Job

app = typer.Typer(help="Create, watch and manage bulk jobs.", no_args_is_help=True)

_source_option = partial(typer.Option, rich_help_panel="Images (one of these)")
_job_option = partial(typer.Option, rich_help_panel="Job")

WatchOption = Annotated[bool, _job_option("--watch", help="Show progress until the job ends.")]
JobId = Annotated[str, typer.Argument(metavar="ID", help="Job id (see `car jobs list`).")]


@app.command()
def create(
    *,
    source: Annotated[
        str | None,
        _source_option(
            help="s3://bucket/prefix/, a glob such as s3://bucket/**/*.jpg, or a manifest in S3 (.txt, .lst, .csv, "
            ".manifest, .jsonl)."
        ),
    ] = None,
    prefix: Annotated[
        str | None,
        _source_option(help="s3://bucket/prefix whose * ? [ { are plain characters; every image below it."),
    ] = None,
    manifest: Annotated[
        str | None,
        _source_option(
            metavar="F",
            help="Image URIs, one per line or in a CSV: a local file, or s3://bucket/list.",
        ),
    ] = None,
    upload: Annotated[
        Path | None,
        _source_option(
            metavar="DIR",
            help="Upload this folder's images to S3_BUCKET under uploads/ first, and label exactly these; files "
            "already there are skipped.",
        ),
    ] = None,
    labels: Labels = None,
    labels_file: LabelsFile = None,
    vocabulary: Annotated[
        str | None, options.label_option("--vocabulary", help="Stored vocabulary: id, NAME or NAME@VERSION.")
    ] = None,
    background: Annotated[
        str | None,
        options.label_option(
            help="Background words, as in `car segment`: names of lists joined by +, or your own, comma-separated."
        ),
    ] = None,
    preset: Preset = None,
    settings: Settings = None,
    priority: Annotated[str | None, _job_option(help="bulk, or interactive, which runs first.")] = None,
    name: Annotated[str | None, _job_option(help="Name of the job, and of the folder of its uploads.")] = None,
    idempotency_key: Annotated[
        str | None, _job_option(help="Repeating a request with the same key creates no second job.")
    ] = None,
    watch: WatchOption = False,
    as_json: AsJson = False,
    data_dir: DataFolder = DATA_DIR,
) -> None:
    """Create a job that labels many images.

    Exit code 0: the job was created (with --watch: every image is done); 1: some images were not labeled; 2: no job
    was created.
    """
    if sum(option is not None for option in (source, prefix, manifest, upload)) != 1:
        raise UsageError("give one of --source s3://bucket/prefix/, --prefix, --manifest FILE and --upload DIR")
    from cli.service.job_request import vocabulary_request

    request = vocabulary_request(labels, labels_file, vocabulary, background)
    optional = {"preset": preset, "set": options.parse_settings(settings) or None, "priority": priority, "name": name}
    request |= {key: value for key, value in optional.items() if value is not None}
    with open_api(data_dir) as service:
        request["source"] = {"prefix": prefix} if prefix else _source(source, manifest, upload, name, data_dir)
        job, replayed = service.create_job(request, idempotency_key=idempotency_key)
        echo(f"job {job['id']} " + ("was created before with this key" if replayed else "created"), err=True)
        for warning in job["warnings"]:
            echo(f"note: {printable(warning)}", err=True)
        if watch or as_json:
            _report(service, job["id"], None if watch else job, as_json=as_json)
        else:
            echo(f"watch it: {options.car_command()} jobs watch {job['id']}", err=True)
            echo(job["id"])


@app.command("list")
def list_(
    *,
    limit: Annotated[int, typer.Option(min=1, help="Maximum number of jobs.")] = 20,
    show_all: ShowAll = False,
    output: FormatOption = OutputFormat.TABLE,
    as_json: AsJsonLines = False,
    data_dir: DataFolder = DATA_DIR,
) -> None:
    """List jobs, newest first."""
    with open_api(data_dir) as service:
        from cli.output.job_tables import jobs_table
        from cli.output.listing import print_list

        output = options.output_format(output, as_json)
        print_list(service.jobs, jobs_table, output=output, limit=limit, show_all=show_all)


@app.command()
def show(
    job: JobId,
    *,
    items: Annotated[
        str | None,
        typer.Option(
            metavar="STATE",
            help="List the images in this state: queued, running, done, failed, dead (their worker was lost three "
            "times), cancelled or all.",
        ),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Maximum number of images.")] = 50,
    show_all: ShowAll = False,
    output: FormatOption = OutputFormat.TABLE,
    as_json: AsJsonLines = False,
    data_dir: DataFolder = DATA_DIR,
) -> None:
    """Show one job: its request, its progress and, with --items, its images."""
    from cli.output.job_tables import items_table, job_page, print_table
    from cli.output.listing import print_list

    output = options.output_format(output, as_json)
    state = None if items == "all" else items
    with open_api(data_dir) as service:
        if output is OutputFormat.TABLE or not items:
            document = service.job(job)
            if output is OutputFormat.TABLE:
                print_table(job_page(document))
            else:
                echo(json.dumps(document))
        if items:
            print_list(partial(service.items, job, state), items_table, output=output, limit=limit, show_all=show_all)


@app.command()
def watch(job: JobId, *, as_json: AsJson = False, data_dir: DataFolder = DATA_DIR) -> None:
    """Show progress until the job ends; exit code 1 if an image is not done."""
    with open_api(data_dir) as service:
        _report(service, job, None, as_json=as_json)


@app.command()
def cancel(job: JobId, *, as_json: AsJson = False, data_dir: DataFolder = DATA_DIR) -> None:
    """Cancel a job; finished images keep their results."""
    with open_api(data_dir) as service:
        _report(service, job, service.cancel(job), as_json=as_json)


@app.command()
def retry(job: JobId, *, watch: WatchOption = False, as_json: AsJson = False, data_dir: DataFolder = DATA_DIR) -> None:
    """Queue the failed and dead images again."""
    with open_api(data_dir) as service:
        retried, document = service.retry(job)
        echo(f"{retried:,} images queued again", err=True)
        _report(service, job, None if watch else document, as_json=as_json)


@app.command()
def rescan(job: JobId, *, watch: WatchOption = False, as_json: AsJson = False, data_dir: DataFolder = DATA_DIR) -> None:
    """Rescan the source for new or changed images."""
    with open_api(data_dir) as service:
        document = service.rescan(job)
        _report(service, job, None if watch else document, as_json=as_json)


def _source(
    source: str | None, manifest: str | None, upload: Path | None, name: str | None, data_dir: Path
) -> str | dict[str, str] | list[str] | None:
    """Return the source of the request, after uploading the images of --upload."""
    if manifest is not None:
        return {"manifest": manifest} if manifest.startswith("s3://") else _local_manifest(Path(manifest), data_dir)
    if upload is None:
        return source
    from cli.output.report import count_progress
    from cli.output.result_files import safe_name
    from cli.service.connection_settings import object_store
    from cli.service.uploading import PREFIX
    from cli.service.uploading import upload as send

    prefix = f"{PREFIX}{safe_name(name or upload.resolve().name)}/"
    with count_progress("image") as begin:
        uploaded = send(object_store(data_dir), upload, prefix, begin)
    if uploaded.passed_over:
        echo(uploaded.passed_over, err=True)
    echo(f"{uploaded.sent} images uploaded, {uploaded.present} already there: {uploaded.manifest}", err=True)
    return {"manifest": uploaded.manifest}


def _local_manifest(file: Path, data_dir: Path) -> dict[str, str] | list[str]:
    """Return the addresses in a file, or if they are too many for a request, the manifest that it was uploaded as."""
    from car.bulk_source import MAX_GIVEN
    from cli.service.job_request import read_manifest

    addresses = read_manifest(file)
    if len(addresses) <= MAX_GIVEN:
        return addresses
    from cli.service.connection_settings import object_store
    from cli.service.uploading import upload_manifest

    uri = upload_manifest(object_store(data_dir), file, file.read_bytes())
    echo(f"{len(addresses):,} addresses uploaded as {uri}", err=True)
    return {"manifest": uri}


def _report(service: "ApiClient", job_id: str, job: "Job | None", *, as_json: bool) -> None:
    """Print a job; without one, watch it until it ends, and exit with 1 unless every image is done."""
    from cli.output.job_progress import JobWatch, all_done
    from cli.output.job_tables import job_page, print_table, report_failures

    failed = False
    if job is None:
        try:
            job = JobWatch(service).until_end(job_id)
        except KeyboardInterrupt:
            message = (
                f"\nthe job continues; watch it: {options.car_command()} jobs watch {job_id}; "
                f"stop it: {options.car_command()} jobs cancel {job_id}"
            )
            echo(message, err=True)
            raise typer.Exit(options.INTERRUPTED) from None
        failed = not all_done(job)
    if as_json:
        echo(json.dumps(job))
    else:
        print_table(job_page(job))
        if failed:
            report_failures(service, job)
    if failed:
        raise typer.Exit(1)
