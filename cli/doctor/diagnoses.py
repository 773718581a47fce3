"""The diagnoses of `car doctor`: code, meaning and remedy. docs/guide/label-studio.md shows the same table."""

from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    GOOD = "good"
    NOTE = "note"
    """Worth knowing, but no fault."""
    WRONG = "wrong"
    SKIPPED = "skipped"
    """Not checked, because an earlier check failed."""


@dataclass(frozen=True)
class Diagnosis:
    means: str
    do: str
    verdict: Verdict = Verdict.WRONG


@dataclass(frozen=True)
class Finding:
    """The outcome of one check."""

    check: str
    verdict: Verdict
    detail: str
    code: str | None = None
    """The key in DIAGNOSES; None if the check passed or was skipped."""
    do: str | None = None


_SSRF = (
    "start Label Studio with ML_BLOCK_LOCAL_IP=false and SSRF_PROTECTION_ENABLED=false (both: the first is for the "
    "backend, the second for its webhook), or give this service a public address"
)
_RECONNECT = "car label-studio connect --project N"

DIAGNOSES: dict[str, Diagnosis] = {
    # The service
    "settings_invalid": Diagnosis(
        "a setting is missing or wrong", "set it; `car settings` lists all, and `car env` those of a running `car up`"
    ),
    "database_unreachable": Diagnosis(
        "PostgreSQL does not answer, or rejects the user name or password", "start it, and check DATABASE_URL"
    ),
    "schema_outdated": Diagnosis("the tables belong to another version of the code", "run `car migrate`"),
    "broker_unreachable": Diagnosis(
        "Redis does not answer, or rejects the password", "start it, and check CELERY_BROKER_URL"
    ),
    "objects_unusable": Diagnosis(
        "writing an object to the bucket and reading it back failed",
        "check S3_BUCKET, AWS_ENDPOINT_URL_S3 and the credentials",
    ),
    "gpu_worker_missing": Diagnosis(
        "no gpu worker has sent a heartbeat in the last minute",
        "run `car worker --queues gpu`, or read its log if it runs",
    ),
    "io_worker_missing": Diagnosis(
        "no io worker has sent a heartbeat in the last minute",
        "run `car worker --queues io`, or read its log if it runs",
    ),
    "scheduler_missing": Diagnosis(
        "expired leases are not reclaimed: the maintenance task has not run in the last five minutes",
        "run exactly one `car scheduler`, and an io worker",
    ),
    "weights_unknown": Diagnosis(
        "no worker has registered its weights yet, so model versions start with zeros",
        "start a gpu worker with the models in CAR_MODELS",
    ),
    "api_unreachable": Diagnosis("the API does not answer", "start it with `car up`, or check CAR_API_URL"),
    "api_key_refused": Diagnosis("the API does not know this key", "set CAR_API_KEY; `car keys create` makes one"),
    "basic_auth_refused": Diagnosis(
        "the API rejects the BASIC_AUTH_USER and BASIC_AUTH_PASS of this command",
        "set the same values for the API and for this command",
    ),
    "backend_open": Diagnosis(
        "anyone who can reach the API can send tasks: BASIC_AUTH_USER is not set",
        f"set BASIC_AUTH_USER and BASIC_AUTH_PASS for the API, then `{_RECONNECT}`",
        Verdict.NOTE,
    ),
    # Label Studio
    "label_studio_unset": Diagnosis(
        "LABEL_STUDIO_URL or LABEL_STUDIO_API_KEY is not set: nothing is written back or synced",
        "set both for the API, the workers and this command",
    ),
    "label_studio_unreachable": Diagnosis(
        "nothing answers at LABEL_STUDIO_URL", "start Label Studio, or check LABEL_STUDIO_URL"
    ),
    "not_label_studio": Diagnosis(
        "the server at LABEL_STUDIO_URL is not Label Studio",
        "check LABEL_STUDIO_URL, including its path (such as /label-studio)",
    ),
    "label_studio_old": Diagnosis(
        "this version of Label Studio is older than the tested one",
        "upgrade to Label Studio 1.23 or newer",
        Verdict.NOTE,
    ),
    "token_unknown": Diagnosis(
        "Label Studio does not know this token", "copy it again from Account & Settings, and set LABEL_STUDIO_API_KEY"
    ),
    "token_legacy_disabled": Diagnosis(
        "it is a legacy token, and the organization has disabled legacy tokens",
        "create a personal access token, or allow legacy tokens in Organization > API Tokens Settings",
    ),
    "token_expired": Diagnosis("the personal access token has expired", "create a new one in Account & Settings"),
    "token_short_lived": Diagnosis(
        "it is a short-lived access token, not a personal access token",
        "set LABEL_STUDIO_API_KEY to the token shown in Account & Settings > Personal Access Token",
    ),
    "instance_differs": Diagnosis(
        "stored projects have another Label Studio address than LABEL_STUDIO_URL",
        "set the same LABEL_STUDIO_URL for all processes; data stored under the other address is not used",
    ),
    # The project
    "project_missing": Diagnosis(
        "the project does not exist, or this user cannot see it",
        "check the project ID, and that the token's user is a member",
    ),
    "project_unknown": Diagnosis(
        "the project is not registered with this service yet",
        f"`{_RECONNECT}`, then `car label-studio sync --project N`",
    ),
    "labeling_config_invalid": Diagnosis(
        "the labeling configuration cannot be used", "fix it in Settings > Labeling Interface; see the message"
    ),
    "labels_unmapped": Diagnosis(
        "some labels or controls of the labeling configuration cannot receive masks",
        "fix them as the message says; the others work",
    ),
    "backend_missing": Diagnosis("the project has no ML backend", f"`{_RECONNECT}`"),
    "backend_elsewhere": Diagnosis(
        "none of the project's ML backends has this service's address", f"`{_RECONNECT} --url URL`"
    ),
    "backend_blocked": Diagnosis("Label Studio is not allowed to call private addresses (SSRF protection)", _SSRF),
    "backend_disconnected": Diagnosis(
        "Label Studio cannot reach the backend: no answer to /health within a second",
        "check that its address is reachable from where Label Studio runs (in a container, 127.0.0.1 is the container)",
    ),
    "backend_password": Diagnosis(
        "Label Studio sends another user name or password than BASIC_AUTH_USER and BASIC_AUTH_PASS",
        f"`{_RECONNECT}`",
    ),
    "backend_error": Diagnosis("Label Studio reached the backend, but /setup failed", "see the message"),
    "backend_not_first": Diagnosis(
        "the project has several ML backends, and Label Studio uses only the first",
        "remove the others in Settings > Model",
    ),
    "backend_passive": Diagnosis(
        "smart tools and prompts are not sent: the backend is not interactive", f"`{_RECONNECT}`", Verdict.NOTE
    ),
    "version_differs": Diagnosis(
        "Label Studio has another model version for the backend than this service",
        "run workers and API with the same code, weights and CAR_PRESET; then open Settings > Model once",
    ),
    "predictions_outdated": Diagnosis(
        "Label Studio still has predictions of earlier model versions",
        "nothing; `car label-studio backfill --project N` creates those of this version",
        Verdict.NOTE,
    ),
    "predictions_failed": Diagnosis(
        "predictions could not be written back", "see the message, then `car label-studio status --project N --retry`"
    ),
    "images_failed": Diagnosis(
        "images of some tasks failed",
        "`car label-studio status --project N` shows the reason for each task",
        Verdict.NOTE,
    ),
    "other_predictions_shown": Diagnosis(
        "annotators are shown predictions of another model version or backend",
        "select this one in Settings > Annotation > Live Predictions, or run `backfill --project N --use`",
        Verdict.NOTE,
    ),
    "webhook_missing": Diagnosis(
        "no webhook reports new tasks and annotations; only `sync` finds them", f"`{_RECONNECT}`"
    ),
    "webhook_elsewhere": Diagnosis("the webhook has another address than the backend", f"`{_RECONNECT}`"),
    "webhook_inactive": Diagnosis("the webhook is inactive, or sends no payload", f"`{_RECONNECT}`"),
    "webhook_secret": Diagnosis(
        "the webhook does not send CAR_WEBHOOK_SECRET, so its requests are rejected", f"`{_RECONNECT}`"
    ),
    "webhook_actions": Diagnosis("the webhook does not send all required actions", f"`{_RECONNECT}`"),
    "webhook_blocked": Diagnosis(
        "Label Studio is not allowed to call private addresses for webhooks (SSRF protection)", _SSRF
    ),
    # A sample image
    "tasks_missing": Diagnosis("the project has no tasks yet", "import tasks", Verdict.NOTE),
    "image_key_missing": Diagnosis(
        "a task lacks the data key that the Image tag reads", "import tasks with that key, or change the Image tag"
    ),
    "s3_unresolved": Diagnosis(
        "an s3:// image is readable neither with this service's credentials nor through Label Studio",
        "grant this service read access to the bucket, or add the bucket to the project as source storage",
    ),
    "image_refused": Diagnosis(
        "an image's address is in a private network", "add its host to CAR_ALLOWED_HOSTS if that is intended"
    ),
    "image_unreachable": Diagnosis("a task's image cannot be fetched", "see the message"),
    "image_unreadable": Diagnosis("a task's image cannot be decoded", "see the message"),
    "image_rotated": Diagnosis(
        "the image has an EXIF orientation: masks are in the rotated frame, as Label Studio shows it",
        "nothing",
        Verdict.NOTE,
    ),
}


def good(check: str, detail: str) -> Finding:
    return Finding(check, Verdict.GOOD, detail)


def skipped(check: str, why: str) -> Finding:
    return Finding(check, Verdict.SKIPPED, why)


def diagnosed(check: str, code: str, detail: str) -> Finding:
    diagnosis = DIAGNOSES[code]
    return Finding(check, diagnosis.verdict, detail, code, diagnosis.do)
