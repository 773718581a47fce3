"""`car label-studio connect`: make this service a project's ML backend, and its webhook's receiver."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.label_studio.options import (
    AskToken,
    LabelStudioUrl,
    Project,
    environment,
    label_studio,
    print_status,
)
from cli.options import DATA_DIR, AsJson, DataFolder, Preset, Settings, background_of, parse_settings
from cli.output.terminal import echo

if TYPE_CHECKING:
    from car.label_studio.project_config import ProjectConfig
    from cli.label_studio.backend_reconcile import DesiredBackend, ReconcileResult
    from worker.label_studio import LabelStudio

_USUAL_PRESET = "voc"

Url = Annotated[
    str | None,
    typer.Option("--url", help="This service as Label Studio reaches it; by itself CAR_API_URL, or that of `car up`."),
]
Title = Annotated[str | None, typer.Option(help="What Label Studio calls the backend.")]
NoWebhook = Annotated[
    bool, typer.Option("--no-webhook", help="Leave webhooks alone: new tasks are then found by `sync` alone.")
]
Background = Annotated[
    str | None,
    typer.Option(
        help="Words that compete and never become masks: names of lists joined by +, or your own separated by commas."
    ),
]


def connect(
    project: Project,
    *,
    url: Url = None,
    title: Title = None,
    no_webhook: NoWebhook = False,
    preset: Preset = None,
    settings: Settings = None,
    background: Background = None,
    label_studio_url: LabelStudioUrl = None,
    token: AskToken = False,
    as_json: AsJson = False,
    data_dir: DataFolder = DATA_DIR,
) -> None:
    """Make this service the project's ML backend and give its webhook the secret. Running it again changes only what
    differs.

    Exit code 0: the project is connected; 2: it is not, and the message says why.
    """
    from cli.label_studio.backend_reconcile import connect_backend, connect_webhook, others
    from cli.label_studio.tables import labels_json

    desired = _desired_backend(project, url, title, _extra_params(preset, settings, background), data_dir)
    with label_studio(label_studio_url, ask_token=token, data_dir=data_dir) as studio:
        plan = _send_project(studio, desired, data_dir, quiet=as_json)
        backend = connect_backend(studio, desired)
        webhook = None if no_webhook else connect_webhook(studio, desired)
        before = others(studio, desired, backend)
    if as_json:
        problems = [one.to_json() for one in plan.problems]
        document = {"project": project, "url": desired.url, "labels": labels_json(plan), "problems": problems}
        outcome = {"backend": backend.to_json(), "webhook": webhook.to_json() if webhook else None}
        echo(json.dumps(document | outcome))
    _report(desired, backend, webhook)
    if before:
        names = ", ".join(repr(one.get("title") or one.get("url")) for one in before)
        print_status(
            f"note: Label Studio asks only a project's first ML backend, and {names} comes before; remove it there"
        )
    if not as_json:
        print_status(f"next, masks for the tasks that are there: car label-studio backfill --project {project}")


def _desired_backend(
    project: int, url: str | None, title: str | None, extra: dict[str, Any], data_dir: Path
) -> "DesiredBackend":
    from cli.errors import UsageError
    from cli.label_studio.backend_reconcile import DesiredBackend
    from cli.service.connection_settings import api_address

    address = (url or api_address(data_dir).url).rstrip("/")
    if not address.startswith(("http://", "https://")):
        raise UsageError(f"--url {address!r} is no address; it looks like http://192.168.1.10:9090")
    return DesiredBackend(
        project=project,
        url=address,
        title=title,
        user=environment("BASIC_AUTH_USER", data_dir) or environment("ML_SERVER_BASIC_AUTH_USER", data_dir),
        password=environment("BASIC_AUTH_PASS", data_dir) or environment("ML_SERVER_BASIC_AUTH_PASS", data_dir),
        secret=environment("CAR_WEBHOOK_SECRET", data_dir),
        extra_params=extra,
    )


def _extra_params(preset: str | None, settings: list[str] | None, background: str | None) -> dict[str, Any]:
    """Return the given parameters; all others stay as they are in Label Studio."""
    given: dict[str, Any] = {}
    if preset is not None:
        given["preset"] = preset
    if background is not None:
        given["background"] = background_of(background)
    if parsed := parse_settings(settings):
        given["set"] = parsed
    return given


def _send_project(studio: "LabelStudio", desired: "DesiredBackend", data_dir: Path, *, quiet: bool) -> "ProjectConfig":
    """Print the Label Studio, the project and what its labels become; return the project's configuration.

    Raises:
        LabelStudioError: the token is rejected or the project does not exist.
        LabelingConfigError, RecipeError, VocabularyError: the project cannot be labeled.

    """
    from car.label_studio.project_config import build_project_config
    from cli.label_studio.backend_reconcile import extra_params_of, own_backend
    from cli.label_studio.tables import labels_table

    version, user, project = studio.version(), studio.whoami(), studio.project(desired.project)
    kind = studio.tokens.kind
    print_status(f"Label Studio {version} at {studio.url}, as {user.get('email') or user.get('id')} ({kind} token)")
    found = own_backend(studio.backends(desired.project), desired)
    extra = {**(extra_params_of(found) if found else {}), **desired.extra_params}
    usual = environment("CAR_PRESET", data_dir) or _USUAL_PRESET
    plan = build_project_config(project.label_config, extra, preset=usual)
    print_status(f"project {project.number}, {project.title}")
    if not quiet:
        from cli.output.job_tables import print_table

        print_table(labels_table(plan))
    for problem in plan.problems:
        print_status(f"note: {problem.detail} ({problem.code})")
    return plan


def _report(desired: "DesiredBackend", backend: "ReconcileResult", webhook: "ReconcileResult | None") -> None:
    from cli.label_studio.backend_reconcile import ReconcileAction

    auth = f"Basic auth as {desired.user}" if desired.user else "without Basic auth"
    print_status(f"ML backend {desired.url}, {auth}: {_how(backend)}")
    if webhook is not None:
        secret = "with its secret" if desired.secret else "without a secret: CAR_WEBHOOK_SECRET is not set"
        print_status(f"webhook {desired.webhook_url}, {secret}: {_how(webhook)}")
    if all(one is None or one.how is ReconcileAction.UNCHANGED for one in (backend, webhook)):
        print_status("all was as it should be; nothing was changed")


def _how(outcome: "ReconcileResult") -> str:
    return f"{outcome.how} ({', '.join(outcome.fields)})" if outcome.fields else str(outcome.how)
