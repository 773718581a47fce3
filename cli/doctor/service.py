"""The service itself: its settings, its engines, its workers, its API."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from secrets import token_hex

from sqlalchemy import Engine
from sqlalchemy.orm import Session

from car.errors import CarError
from car.presets import preset
from cli.doctor.diagnoses import Finding, diagnosed, good, skipped
from cli.errors import ApiRefusedError
from cli.service.api_client import ApiAddress, ApiClient
from cli.service.prepare_services import check_broker
from db.errors import DatabaseError
from db.models import Worker
from db.objects import ObjectStore
from db.queue import model_registry, workers
from db.schema import require_current
from db.session import transaction
from db.settings import EngineSettings

_REAPED_LATELY = timedelta(minutes=5)
"""The longest that CAR_REAP_SECONDS may be."""
_PROBE = "doctor/"


def engine_settings(known: Mapping[str, str]) -> tuple[EngineSettings | None, Finding]:
    check = "settings"
    names = {field.alias for field in EngineSettings.model_fields.values() if field.alias}
    try:
        settings = EngineSettings.from_environment(**{name: known[name] for name in sorted(names & set(known))})
    except CarError as error:
        return None, diagnosed(check, "settings_invalid", str(error))
    return settings, good(check, "complete")


def database(engine: Engine) -> Finding:
    try:
        require_current(engine)
    except DatabaseError as error:
        code = "schema_outdated" if error.code == "schema_outdated" else "database_unreachable"
        return diagnosed("PostgreSQL", code, str(error))
    return good("PostgreSQL", "answers, and its tables are this version's")


def broker(settings: EngineSettings) -> Finding:
    try:
        check_broker(settings.celery_broker_url.get_secret_value())
    except CarError as error:
        return diagnosed("Redis", "broker_unreachable", str(error))
    return good("Redis", "answers")


def objects(store: ObjectStore) -> Finding:
    """Writes an object and reads it back."""
    said = f"doctor {token_hex(8)}".encode()
    try:
        key = store.put(f"{_PROBE}probe", said, "text/plain")
        read = store.get(key)
    except CarError as error:
        return diagnosed("S3", "objects_unusable", str(error))
    if read != said:
        return diagnosed("S3", "objects_unusable", f"what was written to {store.bucket} is not what is read back")
    return good("S3", f"an object was written to {store.bucket} and read back")


def processes(engine: Engine, preset_name: str) -> Iterator[Finding]:
    """Workers and beat, by the rows that they keep fresh; and what they offer."""
    try:
        with transaction(engine) as session:
            yield from _workers(session)
            yield _weights(session, preset_name)
    except CarError as error:
        yield skipped("workers", str(error))


def _workers(session: Session) -> Iterator[Finding]:
    living = {queue: [one for one in workers.list_alive(session) if one.queue == queue] for queue in ("gpu", "io")}
    reaped = workers.last_seen(session, workers.REAPER)
    rung = reaped is not None and datetime.now(UTC) - reaped < _REAPED_LATELY
    for queue, code in (("gpu", "gpu_worker_missing"), ("io", "io_worker_missing")):
        check = f"{queue} workers"
        if living[queue]:
            yield good(check, _told(living[queue]))
        elif queue == "io" and rung:  # a worker of all queues calls itself by the first of them
            yield good(check, "a worker of all queues does their work")
        else:
            yield diagnosed(check, code, "none was heard of in the last minute")
    if rung:
        yield good("beat", "rings")
    else:
        yield diagnosed("beat", "beat_missing", f"`reap` ran {_when(reaped)}")


def _weights(session: Session, preset_name: str) -> Finding:
    weights = model_registry.weights_for(session, preset(preset_name))
    if weights is None:
        return diagnosed("weights", "weights_unknown", f"no worker offers weights for the preset {preset_name}")
    return good("weights", ", ".join(f"{role} {digest[:8]}" for role, digest in sorted(weights.items())))


def _told(living: list[Worker]) -> str:
    versions = ", ".join(sorted({f"{one.device}, code {one.code_version}" for one in living}))
    return f"{len(living)} ({versions})"


def _when(moment: datetime | None) -> str:
    return "never" if moment is None else f"last at {moment:%Y-%m-%d %H:%M:%S} UTC"


@dataclass(frozen=True)
class Credentials:
    """What Label Studio says to the API."""

    user: str | None
    password: str | None


def api(address: ApiAddress) -> Finding:
    with ApiClient(address) as service:
        try:
            list(service.projects(1))
        except ApiRefusedError as error:
            code = "api_key_refused" if error.status in (401, 403) else "api_unreachable"
            return diagnosed("API", code, str(error))
        except CarError as error:
            return diagnosed("API", "api_unreachable", str(error))
    return good("API", f"{address.url} answers, and knows the key")


def face(address: ApiAddress, given: Credentials) -> Finding:
    """Whether the ML backend lets in whoever Label Studio would be, and nobody else."""
    import httpx

    check = "Basic auth"
    try:
        with httpx.Client(base_url=address.url.rstrip("/"), timeout=10, trust_env=False) as client:
            auth = (given.user, given.password) if given.user and given.password else None
            mine, stranger = client.get("/health", auth=auth), client.get("/health", auth=("doctor", token_hex(8)))
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return skipped(check, f"{address.url}: {type(error).__name__}")
    if mine.status_code == 401:  # noqa: PLR2004 - HTTP's
        return diagnosed(
            check, "basic_auth_refused", f"{address.url} answers 401 to BASIC_AUTH_USER {given.user or '(unset)'}"
        )
    if mine.status_code != 200:  # noqa: PLR2004
        return skipped(check, f"{address.url}/health answers {mine.status_code}")
    if stranger.status_code == 200:  # noqa: PLR2004
        return diagnosed(check, "face_open", f"{address.url} answers whoever asks")
    return good(check, "asked for, and this one is right")
