"""Checks of the service: settings, engines, workers and API."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from secrets import token_hex

from sqlalchemy import Engine
from sqlalchemy.orm import Session

from car.errors import CarError
from car.object_store import ObjectStore
from car.presets import preset
from cli.doctor.diagnoses import Finding, diagnosed, good, skipped
from cli.errors import ApiRefusedError
from cli.service.api_client import ApiAddress, ApiClient
from cli.service.prepare_services import check_broker
from db import model_registry
from db.errors import DatabaseError
from db.models import Worker
from db.queue import workers
from db.schema import require_current
from db.session import transaction
from db.settings import EngineSettings

_MAINTENANCE_TIMEOUT = timedelta(minutes=5)
"""The longest that CAR_MAINTENANCE_SECONDS may be."""
_PROBE = "doctor/"


def engine_settings(environment: Mapping[str, str]) -> tuple[EngineSettings | None, Finding]:
    check = "settings"
    names = {field.alias for field in EngineSettings.model_fields.values() if field.alias}
    try:
        settings = EngineSettings.from_environment(
            **{name: environment[name] for name in sorted(names & set(environment))}
        )
    except CarError as error:
        return None, diagnosed(check, "settings_invalid", str(error))
    return settings, good(check, "complete")


def database(engine: Engine) -> Finding:
    try:
        require_current(engine)
    except DatabaseError as error:
        code = "schema_outdated" if error.code == "schema_outdated" else "database_unreachable"
        return diagnosed("PostgreSQL", code, str(error))
    return good("PostgreSQL", "answers, and its tables are current")


def broker(settings: EngineSettings) -> Finding:
    try:
        check_broker(settings.celery_broker_url.get_secret_value())
    except CarError as error:
        return diagnosed("Redis", "broker_unreachable", str(error))
    return good("Redis", "answers")


def objects(store: ObjectStore) -> Finding:
    """Write an object and read it back."""
    written = f"doctor {token_hex(8)}".encode()
    try:
        key = store.put(f"{_PROBE}probe", written, "text/plain")
        read = store.get(key)
    except CarError as error:
        return diagnosed("S3", "objects_unusable", str(error))
    if read != written:
        return diagnosed("S3", "objects_unusable", f"the object read from {store.bucket} differs from the one written")
    return good("S3", f"an object was written to {store.bucket} and read back")


def processes(engine: Engine, preset_name: str) -> Iterator[Finding]:
    """Check the heartbeats of workers and scheduler, and the registered weights."""
    try:
        with transaction(engine) as session:
            yield from _workers(session)
            yield _weights(session, preset_name)
    except CarError as error:
        yield skipped("workers", str(error))


def _workers(session: Session) -> Iterator[Finding]:
    living = {
        queue: [worker for worker in workers.list_alive(session) if worker.queue == queue] for queue in ("gpu", "io")
    }
    last_maintenance = workers.last_seen(session, workers.MAINTENANCE)
    scheduled = last_maintenance is not None and datetime.now(UTC) - last_maintenance < _MAINTENANCE_TIMEOUT
    for queue, code in (("gpu", "gpu_worker_missing"), ("io", "io_worker_missing")):
        check = f"{queue} workers"
        if living[queue]:
            yield good(check, _describe(living[queue]))
        elif queue == "io" and scheduled:  # a worker of several queues registers under the first
            yield good(check, "a worker of all queues serves this one")
        else:
            yield diagnosed(check, code, "no heartbeat in the last minute")
    if scheduled:
        yield good("scheduler", "runs")
    else:
        yield diagnosed("scheduler", "scheduler_missing", f"maintenance ran {_when(last_maintenance)}")


def _weights(session: Session, preset_name: str) -> Finding:
    weights = model_registry.weights_for(session, preset(preset_name))
    if weights is None:
        return diagnosed("weights", "weights_unknown", f"no worker has registered weights for the preset {preset_name}")
    return good("weights", ", ".join(f"{role} {digest[:8]}" for role, digest in sorted(weights.items())))


def _describe(living: list[Worker]) -> str:
    versions = ", ".join(sorted({f"{worker.device}, arithmetic {worker.code_version}" for worker in living}))
    return f"{len(living)} ({versions})"


def _when(moment: datetime | None) -> str:
    return "never" if moment is None else f"last at {moment:%Y-%m-%d %H:%M:%S} UTC"


@dataclass(frozen=True)
class Credentials:
    """Basic auth that Label Studio sends to the API."""

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
    return good("API", f"{address.url} answers and accepts the key")


def backend_access(address: ApiAddress, credentials: Credentials) -> Finding:
    """Check that the ML backend accepts these credentials and rejects others."""
    import httpx

    check = "Basic auth"
    try:
        with httpx.Client(base_url=address.url.rstrip("/"), timeout=10, trust_env=False) as client:
            auth = (credentials.user, credentials.password) if credentials.user and credentials.password else None
            own, stranger = client.get("/health", auth=auth), client.get("/health", auth=("doctor", token_hex(8)))
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return skipped(check, f"{address.url}: {type(error).__name__}")
    if own.status_code == 401:  # noqa: PLR2004 - HTTP's
        return diagnosed(
            check, "basic_auth_refused", f"{address.url} answers 401 to BASIC_AUTH_USER {credentials.user or '(unset)'}"
        )
    if own.status_code != 200:  # noqa: PLR2004
        return skipped(check, f"{address.url}/health answers {own.status_code}")
    if stranger.status_code == 200:  # noqa: PLR2004
        return diagnosed(check, "backend_open", f"{address.url} accepts any credentials")
    return good(check, "required, and these credentials are accepted")
