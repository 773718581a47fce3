"""`car jobs`: bulk labeling over the API, and what became of it."""

import json
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.errors import UsageError
from cli.options import (
    DATA_DIR,
    AsJson,
    DataFolder,
    Labels,
    LabelsFile,
    Preset,
    Settings,
    parse_settings,
)
from cli.service.job_request import read_manifest, vocabulary_request

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from cli.service.api_client import ApiClient
    from cli.service.api_types import Job

app = typer.Typer(help="Bulk jobs: label an S3 bucket or a folder, watch, retry.", no_args_is_help=True)

_SOURCE, _WORDS, _JOB = "Pictures (one of these)", "Words", "Job"
_INTERRUPTED = 130
_FAULTS_SHOWN = 5

Source = Annotated[
    str | None,
    typer.Option(
        help="s3://bucket/prefix/, a glob such as s3://bucket/**/*.jpg, or a manifest in S3 (.txt .lst .csv .manifest "
        ".jsonl).",
        rich_help_panel=_SOURCE,
    ),
]
Manifest = Annotated[
    str | None,
    typer.Option(
        metavar="F",
        help="One address a line: a file here of up to 10,000, or s3://bucket/list of any number.",
        rich_help_panel=_SOURCE,
    ),
]
Upload = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Send this folder's pictures to S3_BUCKET under uploads/ first; what is there already is not sent again.",
        rich_help_panel=_SOURCE,
    ),
]
VocabularyName = Annotated[
    str | None,
    typer.Option("--vocabulary", help="A stored one: id, NAME or NAME@VERSION.", rich_help_panel=_WORDS),
]
Background = Annotated[
    str | None,
    typer.Option(
        help="Words that compete and never become masks, as in `car segment`: names of lists joined by +, or your own "
        "separated by commas.",
        rich_help_panel=_WORDS,
    ),
]
Priority = Annotated[str | None, typer.Option(help="bulk, or interactive, which goes first.", rich_help_panel=_JOB)]
Name = Annotated[str | None, typer.Option(help="To know it by; also names the uploads' folder.", rich_help_panel=_JOB)]
IdempotencyKey = Annotated[
    str | None,
    typer.Option(help="Asked again with the same key, the job is made once.", rich_help_panel=_JOB),
]
Watching = Annotated[bool, typer.Option("--watch", help="Show progress until it ends.", rich_help_panel=_JOB)]
JobId = Annotated[str, typer.Argument(metavar="ID", help="As `car jobs list` shows it.")]


@app.command()
def create(
    *,
    source: Source = None,
    manifest: Manifest = None,
    upload: Upload = None,
    labels: Labels = None,
    labels_file: LabelsFile = None,
    vocabulary: VocabularyName = None,
    background: Background = None,
    preset: Preset = None,
    settings: Settings = None,
    priority: Priority = None,
    name: Name = None,
    idempotency_key: IdempotencyKey = None,
    watch: Watching = False,
    as_json: AsJson = False,
    data_dir: DataFolder = DATA_DIR,
) -> None:
    """Label pictures in bulk: they are queued, and workers do them.

    Exit code 0: the job is made, with --watch every picture is done; 1: some were not; 2: nothing was made.
    """
    if sum(one is not None for one in (source, manifest, upload)) != 1:
        raise UsageError("give one of --source s3://bucket/prefix/, --manifest FILE and --upload DIR")
    wish = vocabulary_request(labels, labels_file, vocabulary, background)
    optional = {"preset": preset, "set": parse_settings(settings) or None, "priority": priority, "name": name}
    wish |= {key: value for key, value in optional.items() if value is not None}
    with _service(data_dir) as service:
        wish["source"] = _source(source, manifest, upload, name, data_dir)
        job, replayed = service.create_job(wish, idempotency_key=idempotency_key)
        _say(f"job {job['id']} " + ("was made before with this key" if replayed else "is made"))
        if watch:
            _watch(service, job["id"], as_json=as_json)
        elif as_json:
            typer.echo(json.dumps(job))
        else:
            _say(f"see how it goes: car jobs watch {job['id']}")
            typer.echo(job["id"])


@app.command("list")
def list_(
    *,
    limit: Annotated[int, typer.Option(min=1, help="Show so many, newest first.")] = 20,
    as_json: AsJson = False,
    data_dir: DataFolder = DATA_DIR,
) -> None:
    """Jobs, newest first."""
    with _service(data_dir) as service:
        jobs = service.jobs(limit)
        if as_json:
            _lines(jobs)
            return
        from cli.output.job_tables import jobs_table, print_table

        print_table(jobs_table(jobs))


@app.command()
def show(
    job: JobId,
    *,
    items: Annotated[
        str | None,
        typer.Option(metavar="STATE", help="List its pictures: queued, running, done, failed, dead, cancelled, all."),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="List so many pictures.")] = 50,
    as_json: AsJson = False,
    data_dir: DataFolder = DATA_DIR,
) -> None:
    """One job: what was asked, how far it is, and its pictures where asked for."""
    state = None if items == "all" else items
    with _service(data_dir) as service:
        if as_json:
            _lines(service.items(job, state, limit) if items else [service.job(job)])
            return
        from cli.output.job_tables import items_table, job_page, print_table

        print_table(job_page(service.job(job)))
        if items:
            print_table(items_table(service.items(job, state, limit)))


@app.command()
def watch(job: JobId, *, as_json: AsJson = False, data_dir: DataFolder = DATA_DIR) -> None:
    """Show progress until the job ends. Exit code 1 if not every picture is done."""
    with _service(data_dir) as service:
        _watch(service, job, as_json=as_json)


@app.command()
def cancel(job: JobId, *, as_json: AsJson = False, data_dir: DataFolder = DATA_DIR) -> None:
    """Stop a job; what is done stays."""
    with _service(data_dir) as service:
        _tell(service.cancel(job), as_json=as_json)


@app.command()
def retry(job: JobId, *, watch: Watching = False, as_json: AsJson = False, data_dir: DataFolder = DATA_DIR) -> None:
    """Try its failed and dead pictures again."""
    with _service(data_dir) as service:
        retried, document = service.retry(job)
        _say(f"{retried:,} pictures are tried again")
        _watch(service, job, as_json=as_json) if watch else _tell(document, as_json=as_json)


@app.command()
def rescan(job: JobId, *, watch: Watching = False, as_json: AsJson = False, data_dir: DataFolder = DATA_DIR) -> None:
    """Look at its source again, and do what has come since."""
    with _service(data_dir) as service:
        document = service.rescan(job)
        _watch(service, job, as_json=as_json) if watch else _tell(document, as_json=as_json)


def _source(
    source: str | None, manifest: str | None, upload: Path | None, name: str | None, data_dir: Path
) -> str | dict[str, str] | list[str]:
    if manifest is not None:
        return {"manifest": manifest} if manifest.startswith("s3://") else read_manifest(Path(manifest))
    return source if upload is None else _uploaded(upload, name, data_dir)  # type: ignore[return-value] # one is given


def _uploaded(folder: Path, name: str | None, data_dir: Path) -> str:
    from cli.output.file_names import safe_name
    from cli.output.report import counting
    from cli.service.connection_settings import object_store
    from cli.service.uploading import upload

    prefix = f"uploads/{safe_name(name or folder.resolve().name)}/"
    with counting("picture") as begin:
        uploaded = upload(object_store(data_dir), folder, prefix, begin)
    _say(f"{uploaded.source}: {uploaded.sent} pictures sent, {uploaded.present} were there")
    return uploaded.source


@contextmanager
def _service(data_dir: Path) -> "Iterator[ApiClient]":
    from cli.service.api_client import ApiClient
    from cli.service.connection_settings import api_address

    with ApiClient(api_address(data_dir)) as service:
        yield service


def _watch(service: "ApiClient", job_id: str, *, as_json: bool) -> None:
    from cli.output.job_progress import JobWatch, all_done

    try:
        job = JobWatch(service).until_end(job_id)
    except KeyboardInterrupt:
        _say(f"\nthe job goes on; look again: car jobs watch {job_id}; stop it: car jobs cancel {job_id}")
        raise typer.Exit(_INTERRUPTED) from None
    _tell(job, as_json=as_json)
    if not all_done(job):
        if not as_json:
            tell_faults(service, job)
        raise typer.Exit(1)


def tell_faults(service: "ApiClient", job: "Job") -> None:
    """On stderr: the first pictures that failed, with their reasons."""
    faults = 0
    for state in ("failed", "dead"):
        if not job["counts"].get(state):
            continue
        for item in service.items(job["id"], state, _FAULTS_SHOWN):
            faults += 1
            fault = item["error"]
            _say(f"{state}: {item['uri']}: {fault['detail'] + ' (' + fault['code'] + ')' if fault else 'no reason'}")
    if sum(job["counts"].get(state, 0) for state in ("failed", "dead")) > faults:
        _say(f"and more: car jobs show {job['id']} --items failed")


def _tell(job: "Job", *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(job))
        return
    from cli.output.job_tables import job_page, print_table

    print_table(job_page(job))


def _lines(documents: "Iterable[Mapping[str, object]]") -> None:
    """JSON Lines: one document a line, as they come."""
    for document in documents:
        typer.echo(json.dumps(document))


def _say(text: str) -> None:
    """To the person, not to the script that reads stdout."""
    typer.echo(text, err=True)
