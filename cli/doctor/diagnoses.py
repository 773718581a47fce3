"""Every diagnosis that `car doctor` can give: its code, what it means and what to do. docs/guide/label-studio.md shows
this table, and tests/integration/test_doctor.py injects the fault of each.
"""

from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    GOOD = "good"
    NOTE = "note"
    """Worth knowing; nothing is wrong."""
    WRONG = "wrong"
    SKIPPED = "skipped"
    """Could not be looked at, for something before it is wrong."""


@dataclass(frozen=True)
class Diagnosis:
    """A fault with a name."""

    means: str
    do: str
    verdict: Verdict = Verdict.WRONG


@dataclass(frozen=True)
class Finding:
    """What one check found."""

    check: str
    verdict: Verdict
    detail: str
    code: str | None = None
    """Of the diagnosis; none where all is well, or nothing could be looked at."""
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
        "PostgreSQL does not answer, or refuses the name or password", "start it, and check DATABASE_URL"
    ),
    "schema_outdated": Diagnosis("the tables are of another version than this code", "run `car migrate`"),
    "broker_unreachable": Diagnosis(
        "Redis does not answer, or refuses the password", "start it, and check CELERY_BROKER_URL"
    ),
    "objects_unusable": Diagnosis(
        "an object cannot be written to the bucket and read back", "check S3_BUCKET, AWS_ENDPOINT_URL_S3 and the key"
    ),
    "gpu_worker_missing": Diagnosis(
        "no worker that segments was heard of in the last minute", "run `car worker --queues gpu`, and read its log"
    ),
    "io_worker_missing": Diagnosis(
        "no worker that lists, syncs and writes back was heard of in the last minute",
        "run `car worker --queues io`, and read its log",
    ),
    "beat_missing": Diagnosis(
        "nothing rings for what was lost: `reap` has not run lately",
        "run `car scheduler`, exactly once, and an io worker",
    ),
    "weights_unknown": Diagnosis(
        "no worker has ever told which weights it has, so model versions begin with zeros",
        "start a gpu worker with the models that CAR_MODELS names",
    ),
    "api_unreachable": Diagnosis("the API does not answer", "start it with `car up`, or check CAR_API_URL"),
    "api_key_refused": Diagnosis("the API does not know this key", "set CAR_API_KEY; `car keys create` makes one"),
    "basic_auth_refused": Diagnosis(
        "the API refuses BASIC_AUTH_USER and BASIC_AUTH_PASS as they are here",
        "give the API and this command the same two",
    ),
    "face_open": Diagnosis(
        "whoever reaches the API may send tasks: no BASIC_AUTH_USER is set",
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
    "label_studio_other": Diagnosis(
        "what answers at LABEL_STUDIO_URL is no Label Studio",
        "check LABEL_STUDIO_URL, also its path (/label-studio where it is served below one)",
    ),
    "label_studio_old": Diagnosis(
        "this version of Label Studio is older than the one that was tested",
        "use Label Studio 1.23, which the tests run with, or newer",
        Verdict.NOTE,
    ),
    "token_unknown": Diagnosis(
        "Label Studio does not know this token", "copy it again from Account & Settings, and set LABEL_STUDIO_API_KEY"
    ),
    "token_legacy_disabled": Diagnosis(
        "it is a legacy token, and legacy tokens are switched off in this organization",
        "make a personal access token, or allow legacy tokens in Organization > API Tokens Settings",
    ),
    "token_expired": Diagnosis("the personal access token has expired", "make a new one in Account & Settings"),
    "token_short_lived": Diagnosis(
        "it is an access token, which lives for minutes, and not the personal access token it was made of",
        "set LABEL_STUDIO_API_KEY to the token that Account & Settings > Personal Access Token shows",
    ),
    "instance_differs": Diagnosis(
        "projects are known here under another address of Label Studio than LABEL_STUDIO_URL",
        "set LABEL_STUDIO_URL to one address for all processes; what was stored under the other stays unused",
    ),
    # The project
    "project_missing": Diagnosis(
        "this user sees no project of that number", "check the number, and that the token's user is a member"
    ),
    "project_unknown": Diagnosis(
        "this service has not heard of the project yet", f"`{_RECONNECT}`, then `car label-studio sync --project N`"
    ),
    "labeling_config_invalid": Diagnosis(
        "the labeling configuration cannot be used", "change it in Settings > Labeling Interface as the message says"
    ),
    "labels_unmapped": Diagnosis(
        "labels, or controls, of the labeling configuration that no mask can be given to",
        "change them as the message says; the others work",
    ),
    "backend_missing": Diagnosis("the project has no ML backend", f"`{_RECONNECT}`"),
    "backend_elsewhere": Diagnosis(
        "none of the project's ML backends has this service's address", f"`{_RECONNECT} --url URL`"
    ),
    "backend_blocked": Diagnosis("Label Studio may not call private addresses (SSRF protection)", _SSRF),
    "backend_disconnected": Diagnosis(
        "Label Studio cannot reach the backend: no answer to /health within a second",
        "check that its address is right from where Label Studio runs (in a container, 127.0.0.1 is the container)",
    ),
    "backend_password": Diagnosis(
        "Label Studio sends the backend another name or password than BASIC_AUTH_USER and BASIC_AUTH_PASS",
        f"`{_RECONNECT}`",
    ),
    "backend_error": Diagnosis("Label Studio reached the backend, whose /setup failed", "see the message"),
    "backend_not_first": Diagnosis(
        "the project has several ML backends, and Label Studio asks only the first for predictions",
        "remove the others in Settings > Model",
    ),
    "backend_passive": Diagnosis(
        "smart tools and prompts are not sent: the backend is not interactive", f"`{_RECONNECT}`", Verdict.NOTE
    ),
    "version_differs": Diagnosis(
        "Label Studio holds another model version for the backend than this service makes",
        "workers and API must have the same code, weights and CAR_PRESET; then open Settings > Model once",
    ),
    "predictions_outdated": Diagnosis(
        "predictions of earlier model versions are still there",
        "none is needed; `car label-studio backfill --project N` makes those of this version",
        Verdict.NOTE,
    ),
    "predictions_failed": Diagnosis(
        "predictions could not be written back", "see the message, then `car label-studio status --project N --retry`"
    ),
    "pictures_failed": Diagnosis(
        "pictures of tasks failed", "`car label-studio status --project N` says why, task by task", Verdict.NOTE
    ),
    "other_predictions_shown": Diagnosis(
        "annotators are shown predictions of another model version or backend",
        "choose this one in Settings > Annotation > Live Predictions, or `car label-studio backfill --project N --use`",
        Verdict.NOTE,
    ),
    "webhook_missing": Diagnosis(
        "no webhook tells of new tasks and annotations; `sync` alone finds them", f"`{_RECONNECT}`"
    ),
    "webhook_elsewhere": Diagnosis("the webhook has another address than the backend", f"`{_RECONNECT}`"),
    "webhook_inactive": Diagnosis("the webhook is switched off, or sends no payload", f"`{_RECONNECT}`"),
    "webhook_secret": Diagnosis(
        "the webhook does not send the secret that CAR_WEBHOOK_SECRET names: it is refused", f"`{_RECONNECT}`"
    ),
    "webhook_actions": Diagnosis("the webhook does not send all that is needed", f"`{_RECONNECT}`"),
    "webhook_blocked": Diagnosis("Label Studio may not call private addresses for webhooks (SSRF protection)", _SSRF),
    # A picture
    "tasks_missing": Diagnosis("the project has no tasks yet", "import some", Verdict.NOTE),
    "picture_key_missing": Diagnosis(
        "a task has no picture under the name that the Image tag reads", "import tasks with that key, or change the tag"
    ),
    "s3_unresolved": Diagnosis(
        "an s3:// picture can be read neither with this service's keys nor through Label Studio",
        "give this service's key read access to the bucket, or add the bucket as a source storage to the project",
    ),
    "picture_refused": Diagnosis(
        "a picture's address leads into a private network", "name its host in CAR_ALLOWED_HOSTS if that is right"
    ),
    "picture_unreachable": Diagnosis("a task's picture cannot be fetched", "see the message"),
    "picture_unreadable": Diagnosis("a task's picture was fetched and cannot be decoded", "see the message"),
    "picture_rotated": Diagnosis(
        "the picture has an EXIF orientation: masks are made in the frame that Label Studio shows, after it",
        "none is needed",
        Verdict.NOTE,
    ),
}


def good(check: str, detail: str) -> Finding:
    return Finding(check, Verdict.GOOD, detail)


def skipped(check: str, why: str) -> Finding:
    return Finding(check, Verdict.SKIPPED, why)


def diagnosed(check: str, code: str, detail: str) -> Finding:
    """`detail` is of this case; the table says what the code means and what to do."""
    known = DIAGNOSES[code]
    return Finding(check, known.verdict, detail, code, known.do)
